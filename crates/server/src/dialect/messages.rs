//! Anthropic's messages: `POST /v1/messages`, and what they are in tokens: `POST /v1/messages/count_tokens`.
//!
//! ```text
//! message_start, then for each block of the answer: content_block_start, content_block_delta.., content_block_stop;
//! message_delta with the reason of the end and the tokens, message_stop
//! ```
//!
//! A call is told when it is complete: programs run what they see of a call, whatever the message ended with.

use std::sync::Arc;

use models::{Calls, Effort, End, Role, Tool, ToolCall};
use serde_json::{Map, Value, json};

use super::{
    Request,
    budget::{BUDGETS, n_reasoning_max},
    content::{Conversation, EFFORTS, ToolChoice, Turns, add_paragraph, check_names, chosen, effort_of, name, shown},
    form::{FORMS, flat, form, one},
    new_id,
    sampling::{SAMPLING, n_max, sampling, stop},
    tell_detail,
};
use crate::{
    app::Model,
    ask::{Ask, Form},
    error::{Dialect, Refusal},
    fields::{Field, Fields, Kind, acts, nothing, only},
    reply::{Choice, Frames, Writer},
    said::{Call, Finish, Heard, Said, Usage},
    seal::Sealer,
};

/// What a request may say.
pub(crate) const FIELDS: &[&[Field]] = &[&SAMPLING, &FORMS, &BUDGETS, &OWN];

const OWN: [Field; 22] = [
    acts("model", Kind::Str, "Must be the model that is served, or one of its other names."),
    acts("system", Kind::Any, "Instructions: a text, or blocks of type text, which become paragraphs."),
    acts("messages", Kind::Array, "The conversation. If an assistant's text comes last, the answer continues it."),
    acts(
        "max_tokens",
        Kind::Int(0, i64::MAX),
        "Longest answer in tokens, reasoning included; what there is room for if absent.",
    ),
    acts("stop_sequences", Kind::Array, "Up to 64 texts that end the answer and are not part of it."),
    acts("stream", Kind::Bool, "Send the answer as it comes, as server-sent events."),
    acts("tools", Kind::Array, "Functions that the model may call, each with an input_schema."),
    acts(
        "tool_choice",
        Kind::Object,
        "type: auto, any, none, or tool with its name; disable_parallel_tool_use: one call at most is made.",
    ),
    acts(
        "thinking",
        Kind::Object,
        "type: enabled, adaptive or disabled; budget_tokens: the same as thinking_budget, at least 0, and under 4096 a wish for low \
         effort, too, unless an effort is given; display: omitted seals the reasoning in its signature.",
    ),
    acts(
        "output_config",
        Kind::Object,
        "effort: how hard to reason; format: json_schema with its schema, which the answer keeps to.",
    ),
    acts("reasoning_effort", Kind::Word(&EFFORTS), "The same; none answers at once."),
    acts("output_format", Kind::Object, "The same as output_config.format, by its older name."),
    only("container", "null", "nothing is run here"),
    only("mcp_servers", "[]", "tools are called by the client, not here"),
    nothing("cache_control", "what is known of a prompt is found by its tokens"),
    nothing(
        "context_management",
        "the model's format says which reasoning it sees again; all else is the client's to leave out",
    ),
    nothing("metadata", "it names whom a service blames"),
    nothing("service_tier", "there is one"),
    nothing("speed", "there is one"),
    nothing("inference_geo", "answers are computed here"),
    nothing("betas", "what they add is understood, or refused by name, without them"),
    nothing("user_profile_id", "it names whom a service blames"),
];

const MESSAGE: &[&[Field]] = &[&[
    acts("role", Kind::Word(&["user", "assistant", "system"]), "Who speaks."),
    acts("content", Kind::Any, "A text, or blocks."),
]];

/// What blocks of all types may have.
const BLOCK: [Field; 3] = [
    acts("type", Kind::Str, "What it is."),
    nothing("cache_control", "what is known of a prompt is found by its tokens"),
    nothing("citations", "they are about a text, not part of it"),
];
const TEXT: &[&[Field]] = &[&BLOCK, &[acts("text", Kind::Str, "The text.")]];
const THINKING: &[&[Field]] = &[
    &BLOCK,
    &[
        acts("thinking", Kind::Str, "What an assistant thought."),
        acts("signature", Kind::Str, "The same, sealed: if it was here, this counts, byte for byte."),
    ],
];
const REDACTED: &[&[Field]] =
    &[&BLOCK, &[acts("data", Kind::Str, "Reasoning that was sealed here; that of others is left out.")]];
const USE: &[&[Field]] = &[
    &BLOCK,
    &[
        acts("id", Kind::Str, "What the result is matched by."),
        acts("name", Kind::Str, "Which tool."),
        acts("input", Kind::Object, "Its arguments."),
        nothing("caller", "the model calls, nobody else"),
    ],
];
const RESULT: &[&[Field]] = &[
    &BLOCK,
    &[
        acts("tool_use_id", Kind::Str, "Which call it is the result of."),
        acts("content", Kind::Any, "A text, or blocks of type text, which become paragraphs."),
        acts("is_error", Kind::Bool, "Whether the call failed: the model sees Error: before the text."),
    ],
];
const REFERENCE: &[&[Field]] =
    &[&BLOCK, &[acts("tool_name", Kind::Str, "A tool that was searched for: the model sees its name.")]];

const TOOL: &[&[Field]] = &[&[
    acts("type", Kind::Word(&["custom"]), "What it is."),
    acts("name", Kind::Str, "What it is called by."),
    acts("description", Kind::Str, "What it does."),
    acts("input_schema", Kind::Object, "The JSON schema of its arguments."),
    nothing("cache_control", "what is known of a prompt is found by its tokens"),
    nothing("defer_loading", "the model sees all tools at once"),
    nothing("eager_input_streaming", "a call is told when it is complete"),
    nothing("input_examples", "the models' formats have no place for them"),
    nothing("allowed_callers", "the model calls, nobody else"),
    acts("strict", Kind::Bool, "Calls keep to all of its schema, or the request is refused."),
]];

/// How the answer is to be told.
#[derive(Clone, Debug)]
pub(crate) struct Telling {
    model: String,
    /// Reasoning is only in its signature, and not shown.
    sealed: bool,
    sealer: Arc<Sealer>,
}

/// Reads a request.
///
/// # Errors
/// What of it we cannot do.
pub(crate) fn read(request: &Value, model: &Model) -> Result<Request<Telling>, Refusal> {
    let fields = Fields::of(request, FIELDS)?;
    model.check_name(fields.str("model"))?;
    let conversation = conversation(&fields, &model.sealer)?;
    let (sealed, sealer) = (is_sealed(&fields), model.sealer.clone());
    let telling = Telling { model: model.name.clone(), sealed, sealer };
    let ask = conversation.ask(model, sampling(&fields, &model.sampling, model.seed)?)?;
    let ask = Ask { n_max: n_max(&fields), stop: stop(&fields, "stop_sequences")?, ..ask };
    Ok(Request { ask, stream: fields.flag("stream").unwrap_or(false), telling })
}

fn conversation(fields: &Fields<'_>, sealer: &Sealer) -> Result<Conversation, Refusal> {
    let mut turns = Turns::new(sealer);
    if let Some(system) = fields.any("system") {
        turns.say(Role::System, &system_text(system, &fields.path("system"))?);
    }
    let messages = fields.needed("messages")?.as_array().expect("the table says so");
    if messages.is_empty() {
        return Err(fields.refuse("messages", "is empty"));
    }
    for (i, message) in messages.iter().enumerate() {
        read_message(message, &fields.path(&format!("messages[{i}]")), &mut turns)?;
    }
    let end = match turns.last() {
        Some(last) if last.role == Role::Assistant && last.calls.is_empty() => End::Continue,
        _ => End::Answer,
    };
    let (thinking, effort) = wishes(fields)?;
    let (tools, choice) = tools(fields)?;
    let (messages, form) = (turns.into_messages(), asked_form(fields)?);
    let n_reasoning_max = n_reasoning_max(fields);
    Ok(Conversation { messages, tools, choice, form, thinking, effort, n_reasoning_max, end })
}

fn read_message(message: &Value, path: &str, turns: &mut Turns<'_>) -> Result<(), Refusal> {
    let fields = Fields::at(message, path, MESSAGE)?;
    let role = match fields.needed("role")?.as_str() {
        Some("system") => Role::System,
        Some("user") => Role::User,
        _ => Role::Assistant,
    };
    match fields.needed("content")? {
        Value::String(text) => add_text(turns, role, text),
        Value::Array(blocks) => {
            for (i, block) in blocks.iter().enumerate() {
                read_block(block, &fields.path(&format!("content[{i}]")), role, turns)?;
            }
        }
        _ => return Err(fields.refuse("content", "must be a string, or an array of blocks")),
    }
    Ok(())
}

/// The model's own text was cut into blocks; others' are paragraphs.
fn add_text(turns: &mut Turns, role: Role, text: &str) {
    match role {
        Role::Assistant => turns.assistant().text.push_str(text),
        _ => turns.say(role, text),
    }
}

fn read_block(block: &Value, path: &str, role: Role, turns: &mut Turns<'_>) -> Result<(), Refusal> {
    match (block["type"].as_str(), role) {
        (Some("text"), _) => add_text(turns, role, needed(&Fields::at(block, path, TEXT)?, "text")?),
        (Some("thinking"), Role::Assistant) => {
            let fields = Fields::at(block, path, THINKING)?;
            let (sealed, told) =
                (fields.str("signature").unwrap_or_default(), fields.str("thinking").unwrap_or_default());
            turns.think_again(sealed, told).map_err(|why| fields.refuse("signature", why))?;
        }
        (Some("redacted_thinking"), Role::Assistant) => {
            let fields = Fields::at(block, path, REDACTED)?;
            turns.think_again(needed(&fields, "data")?, "").map_err(|why| fields.refuse("data", why))?;
        }
        (Some("tool_use"), Role::Assistant) => {
            let fields = Fields::at(block, path, USE)?;
            let (id, name) = (needed(&fields, "id")?.to_owned(), needed(&fields, "name")?.to_owned());
            let arguments = fields.any("input").map_or_else(|| "{}".to_owned(), Value::to_string);
            turns.call(ToolCall { id, name, arguments }).map_err(|why| fields.refuse("id", why))?;
        }
        (Some("tool_result"), Role::User) => {
            let fields = Fields::at(block, path, RESULT)?;
            let mut text = match fields.any("content") {
                Some(content) => texts(content, &fields.path("content"))?,
                None => String::new(),
            };
            if fields.flag("is_error") == Some(true) {
                text.insert_str(0, "Error: ");
            }
            let id = needed(&fields, "tool_use_id")?;
            turns.result(id, text).map_err(|why| fields.refuse("tool_use_id", why))?;
        }
        (Some(kind), _) => return Err(unreadable(path, kind)),
        (None, _) => return Err(Refusal::field(&format!("{path}.type"), "is missing")),
    }
    Ok(())
}

fn unreadable(path: &str, kind: &str) -> Refusal {
    let why = format!("blocks of type {} cannot be read here: the model reads text only", shown(kind));
    Refusal::field(path, &why)
}

fn needed<'a>(fields: &Fields<'a>, name: &str) -> Result<&'a str, Refusal> {
    fields.needed(name)?.as_str().ok_or_else(|| fields.refuse(name, "must be a string"))
}

/// What the system says. Claude Code's first block of it is a line for whoever bills it, which changes from one conversation to the
/// next, so that nothing after it would be known again.
fn system_text(content: &Value, path: &str) -> Result<String, Refusal> {
    let is_said =
        |block: &&Value| !block["text"].as_str().is_some_and(|text| text.starts_with("x-anthropic-billing-header:"));
    match content {
        Value::Array(blocks) => texts(&blocks.iter().filter(is_said).cloned().collect(), path),
        content => texts(content, path),
    }
}

/// A text, or blocks of text as paragraphs.
fn texts(content: &Value, path: &str) -> Result<String, Refusal> {
    let blocks = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(blocks) => blocks,
        _ => return Err(Refusal::field(path, "must be a string, or an array of blocks")),
    };
    let mut all = String::new();
    for (i, block) in blocks.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let text = match block["type"].as_str() {
            Some("text") => needed(&Fields::at(block, &path, TEXT)?, "text")?,
            Some("tool_reference") => needed(&Fields::at(block, &path, REFERENCE)?, "tool_name")?,
            Some(kind) => return Err(unreadable(&path, kind)),
            None => return Err(Refusal::field(&format!("{path}.type"), "is missing")),
        };
        add_paragraph(&mut all, text);
    }
    Ok(all)
}

/// What may be called, and what is to be.
fn tools(fields: &Fields<'_>) -> Result<(Vec<Tool>, ToolChoice), Refusal> {
    const CHOICE: &[&[Field]] = &[&[
        acts("type", Kind::Word(&["auto", "any", "tool", "none"]), "Whether."),
        acts("name", Kind::Str, "Which."),
        acts("disable_parallel_tool_use", Kind::Bool, "At most one call is made."),
    ]];
    let tools = fields.array("tools").unwrap_or_default().iter().enumerate();
    let tools = tools.map(|(i, tool)| read_tool(tool, &fields.path(&format!("tools[{i}]"))));
    let tools = tools.collect::<Result<Vec<_>, _>>()?;
    check_names(&tools, fields)?;
    let Some(choice) = fields.any("tool_choice") else { return Ok((tools, ToolChoice::default())) };
    let choice = Fields::at(choice, &fields.path("tool_choice"), CHOICE)?;
    let named = match needed(&choice, "type")? {
        "tool" => ToolChoice { call: Calls::Must(Some(needed(&choice, "name")?.to_owned())), ..ToolChoice::default() },
        word => chosen(word).expect("the table says so"),
    };
    let one_call = choice.flag("disable_parallel_tool_use").unwrap_or(false);
    let choice = ToolChoice { one_call, ..named }.check(&tools).map_err(|why| fields.refuse("tool_choice", why))?;
    Ok((tools, choice))
}

/// A tool as models are shown it.
fn read_tool(tool: &Value, path: &str) -> Result<Tool, Refusal> {
    if let Some(kind) = tool["type"].as_str().filter(|&kind| kind != "custom") {
        let why = format!("{} is Anthropic's to run or to describe; tools here need an input_schema", shown(kind));
        return Err(Refusal::field(&format!("{path}.type"), &why));
    }
    let fields = Fields::at(tool, path, TOOL)?;
    let name = name(tool, path)?;
    let mut function = Map::from_iter([("name".to_owned(), json!(name))]);
    function.extend(fields.any("description").map(|text| ("description".to_owned(), text.clone())));
    function.insert("parameters".to_owned(), fields.needed("input_schema")?.clone());
    Ok(Tool { name, function, strict: fields.flag("strict") == Some(true) })
}

/// Whether to reason, and how hard.
fn wishes(fields: &Fields<'_>) -> Result<(Option<bool>, Option<Effort>), Refusal> {
    const WISH: &[&[Field]] = &[&[
        acts("type", Kind::Word(&["enabled", "adaptive", "disabled"]), "Whether; adaptive leaves it to the model."),
        acts(
            "budget_tokens",
            Kind::Int(0, i64::MAX),
            "The most tokens of reasoning. Under 4096, reason with low effort, too, unless an effort is given: reasoning that \
             comes to its own end makes better answers than one that is ended.",
        ),
        acts("display", Kind::Word(&["summarized", "omitted"]), "omitted seals the reasoning in its signature."),
    ]];
    let output = output_config(fields)?;
    let thinking = fields.any("thinking").map(|value| Fields::at(value, &fields.path("thinking"), WISH)).transpose()?;
    let word = output.as_ref().and_then(|output| output.str("effort")).or(fields.str("reasoning_effort"));
    let wanted = match thinking.as_ref().and_then(|thinking| thinking.str("type")) {
        Some("enabled") => Some(true),
        Some("disabled") => Some(false),
        _ => None,
    };
    let little = thinking.and_then(|thinking| thinking.int("budget_tokens")).is_some_and(|n| n < 4096);
    Ok(match word {
        _ if wanted == Some(false) => (wanted, None),
        Some("none") => (Some(false), None),
        Some(word) => (wanted, Some(effort_of(word))),
        None => (wanted, little.then_some(Effort::Low)),
    })
}

fn output_config<'a>(fields: &Fields<'a>) -> Result<Option<Fields<'a>>, Refusal> {
    const OUTPUT: &[&[Field]] = &[&[
        acts("effort", Kind::Word(&EFFORTS), "How hard to reason; none answers at once."),
        acts("format", Kind::Object, "What the answer must look like."),
        nothing("task_budget", "the client counts what its turns take"),
    ]];
    let config = fields.any("output_config");
    config.map(|config| Fields::at(config, &fields.path("output_config"), OUTPUT)).transpose()
}

/// What the answer must look like.
fn asked_form(fields: &Fields<'_>) -> Result<Option<Form>, Refusal> {
    let at = |fields: &Fields<'_>, name| fields.any(name).map_or(Ok(None), |value| flat(value, &fields.path(name)));
    let config = output_config(fields)?.map_or(Ok(None), |config| at(&config, "format"))?;
    one(one(config, at(fields, "output_format")?)?, form(fields)?)
}

fn is_sealed(fields: &Fields<'_>) -> bool {
    fields.any("thinking").is_some_and(|thinking| thinking["display"] == "omitted")
}

/// The tokens of a prompt.
pub(crate) fn count(n_tokens: usize) -> Value {
    json!({ "input_tokens": n_tokens })
}

/// Why an answer ended.
fn stop_reason(finish: &Finish) -> &'static str {
    match finish.stop {
        _ if finish.was_cut() => "max_tokens",
        engine::Stop::StopString(_) => "stop_sequence",
        _ if finish.n_calls > 0 => "tool_use",
        _ => "end_turn",
    }
}

/// Tokens, as Anthropic counts them: those that were known are not among the others. What is computed of a prompt is kept
/// without being told to, so that none are counted as kept.
fn usage(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.n_prompt - usage.n_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.n_cached,
        "output_tokens": usage.n_answer,
    })
}

fn message(telling: &Telling, content: Value, finish: Option<&Finish>) -> Value {
    let mut message = json!({
        "id": new_id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": telling.model,
        "content": content,
        "stop_reason": finish.map(stop_reason),
        "stop_sequence": finish.and_then(|finish| finish.stop_text.as_ref()),
        "usage": usage(finish.map_or(Usage::default(), |finish| finish.usage)),
    });
    if let Some(finish) = finish {
        tell_detail(&mut message, finish);
    }
    message
}

/// The answer as a whole.
pub(crate) fn reply(telling: &Telling, choice: &Choice) -> Value {
    let mut content = Vec::new();
    if !choice.reasoning.is_empty() {
        let shown = if telling.sealed { "" } else { &choice.reasoning };
        let signature = telling.sealer.seal(&choice.reasoning);
        content.push(json!({ "type": "thinking", "thinking": shown, "signature": signature }));
    }
    if !choice.text.is_empty() {
        content.push(json!({ "type": "text", "text": choice.text }));
    }
    for call in &choice.calls {
        let input = input(&call.arguments);
        content.push(json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": input }));
    }
    message(telling, Value::Array(content), Some(&choice.finish))
}

/// Arguments as an object, which is what clients expect, whatever the model wrote.
fn input(arguments: &str) -> Value {
    match serde_json::from_str(arguments) {
        Ok(Value::Object(input)) => Value::Object(input),
        _ => json!({}),
    }
}

/// Writes events.
pub(crate) struct Events {
    telling: Telling,
    /// The block that is open.
    block: Option<Block>,
    /// Blocks that were begun.
    n_blocks: usize,
    /// A call as far as it was heard.
    call: Option<ToolCall>,
    failed: bool,
}

enum Block {
    /// With what was thought, for the signature.
    Thinking(String),
    Text,
}

impl Events {
    pub(crate) fn new(telling: Telling) -> Events {
        Events { telling, block: None, n_blocks: 0, call: None, failed: false }
    }

    fn open(&mut self, content: Value, out: &mut Frames) {
        let start = json!({ "type": "content_block_start", "index": self.n_blocks, "content_block": content });
        out.event("content_block_start", &start);
        self.n_blocks += 1;
    }

    /// More of the block that is open.
    fn delta(&self, delta: Value, out: &mut Frames) {
        let delta = json!({ "type": "content_block_delta", "index": self.n_blocks - 1, "delta": delta });
        out.event("content_block_delta", &delta);
    }

    fn stop(&self, out: &mut Frames) {
        out.event("content_block_stop", &json!({ "type": "content_block_stop", "index": self.n_blocks - 1 }));
    }

    fn close(&mut self, out: &mut Frames) {
        let Some(block) = self.block.take() else { return };
        if let Block::Thinking(text) = block {
            let signature = self.telling.sealer.seal(&text);
            self.delta(json!({ "type": "signature_delta", "signature": signature }), out);
        }
        self.stop(out);
    }

    fn think(&mut self, text: String, out: &mut Frames) {
        if !matches!(self.block, Some(Block::Thinking(_))) {
            self.close(out);
            self.open(json!({ "type": "thinking", "thinking": "", "signature": "" }), out);
            self.block = Some(Block::Thinking(String::new()));
        }
        if let Some(Block::Thinking(all)) = &mut self.block {
            all.push_str(&text);
        }
        if !self.telling.sealed {
            self.delta(json!({ "type": "thinking_delta", "thinking": text }), out);
        }
    }

    fn text(&mut self, text: &str, out: &mut Frames) {
        if !matches!(self.block, Some(Block::Text)) {
            self.close(out);
            self.open(json!({ "type": "text", "text": "" }), out);
            self.block = Some(Block::Text);
        }
        self.delta(json!({ "type": "text_delta", "text": text }), out);
    }

    fn called(&mut self, out: &mut Frames) {
        let Some(call) = self.call.take() else { return };
        self.close(out);
        self.open(json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": {} }), out);
        let arguments = input(&call.arguments).to_string();
        self.delta(json!({ "type": "input_json_delta", "partial_json": arguments }), out);
        self.stop(out);
    }

    fn finish(&mut self, finish: &Finish, out: &mut Frames) {
        self.close(out);
        let mut delta = json!({ "stop_reason": stop_reason(finish), "stop_sequence": finish.stop_text });
        tell_detail(&mut delta, finish);
        out.event("message_delta", &json!({ "type": "message_delta", "delta": delta, "usage": usage(finish.usage) }));
    }
}

impl Writer for Events {
    /// How long the prompt is, the end says: it is read only now.
    fn begin(&mut self, out: &mut Frames) {
        let message = message(&self.telling, json!([]), None);
        out.event("message_start", &json!({ "type": "message_start", "message": message }));
        self.alive(out);
    }

    fn said(&mut self, Heard { said, .. }: Heard, out: &mut Frames) {
        match said {
            Said::Begun | Said::Tokens(_) => {}
            Said::Prefill(prefill) => out.comment(&format!("prefill {} of {}", prefill.done, prefill.total)),
            Said::Thinking(text) => self.think(text, out),
            Said::Text(text) => self.text(&text, out),
            Said::Call(Call { id, name, .. }) => self.call = Some(ToolCall { id, name, arguments: String::new() }),
            Said::Arguments(_, json) => {
                if let Some(call) = &mut self.call {
                    call.arguments.push_str(&json);
                }
            }
            Said::Called(_) => self.called(out),
            Said::End(finish) => self.finish(&finish, out),
            Said::Failed(refusal) => {
                self.failed = true;
                out.event("error", &refusal.to_json(Dialect::Anthropic));
            }
        }
    }

    fn end(&mut self, out: &mut Frames) {
        if !self.failed {
            out.event("message_stop", &json!({ "type": "message_stop" }));
        }
    }

    fn alive(&mut self, out: &mut Frames) {
        out.event("ping", &json!({ "type": "ping" }));
    }
}

#[cfg(test)]
mod tests;
