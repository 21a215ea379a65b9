//! OpenAI's responses: `POST /v1/responses`, and what they are in tokens: `POST /v1/responses/input_tokens`. How they are told is in
//! [`telling`].
//!
//! Nothing is stored: clients send the whole conversation each time, with reasoning in the item in which they got it.

mod telling;

use std::sync::Arc;

use models::{Calls, Effort, End, Role, Tool, ToolCall};
use serde_json::{Map, Value, json};

pub(crate) use self::telling::{Events, Telling, reply};
use self::telling::{INPUT, Origin};
use super::{
    Request,
    budget::{BUDGETS, SAME, n_reasoning_max},
    content::{
        Conversation, EFFORTS, ToolChoice, Turns, check_names, chosen, effort_of, name, named, shown, text,
        word_of_choice,
    },
    form::{FORMS, flat, form, one},
    new_id, now_s,
    sampling::{LENGTH, SAMPLING, n_max, sampling},
};
use crate::{
    app::Model,
    ask::{Ask, Form, N_TOP_MAX},
    error::Refusal,
    fields::{Field, Fields, Kind, acts, nothing, only},
    seal::Sealer,
};

/// What may be included.
const ENCRYPTED: &str = "reasoning.encrypted_content";
const LOGPROBS: &str = "message.output_text.logprobs";

/// What a request may say.
pub(crate) const FIELDS: &[&[Field]] = &[&SAMPLING, &LENGTH, &FORMS, &BUDGETS, &OWN];

const OWN: [Field; 30] = [
    acts("model", Kind::Str, "Must be the model that is served, or one of its other names."),
    acts("input", Kind::Any, "The conversation: a text, or items."),
    acts("instructions", Kind::Str, "What the system says first."),
    acts("stream", Kind::Bool, "Send the answer as it comes, as server-sent events."),
    acts("tools", Kind::Array, "What the model may call: functions, custom tools, and namespaces of them."),
    acts(
        "tool_choice",
        Kind::Any,
        "auto, none, required, the function that must be called, or allowed_tools: mode and tools.",
    ),
    acts("parallel_tool_calls", Kind::Bool, "If false, one call at most is made."),
    acts(
        "reasoning",
        Kind::Object,
        "effort: how hard to reason; max_tokens: the same as thinking_budget; summary: tell the reasoning as a summary.",
    ),
    acts(
        "include",
        Kind::Array,
        "reasoning.encrypted_content: reasoning, to be sent back; message.output_text.logprobs: how likely the model found \
         each token of the answer's text.",
    ),
    acts("text", Kind::Object, "format: text, json_object, or json_schema with its schema, which the answer keeps to."),
    only("previous_response_id", "null", "nothing is stored; replay the full input"),
    only("conversation", "null", "nothing is stored; replay the full input"),
    only("prompt", "null", "nothing is stored; send the text"),
    only("store", "false", "nothing is stored for later requests"),
    only("background", "false", "nothing is stored for later requests"),
    only("truncation", r#""disabled""#, "what does not fit is refused"),
    acts(
        "top_logprobs",
        Kind::Int(0, N_TOP_MAX),
        "Tell as many of the likeliest tokens with each token's probability.",
    ),
    only("logit_bias", "{}", "logits cannot be changed"),
    only("modalities", r#"["text"]"#, "the model writes text only"),
    nothing("stream_options", "on loopback, nobody measures the length of events"),
    nothing("max_tool_calls", "it is about tools that a service calls"),
    nothing("user", "it names whom a service blames"),
    nothing("safety_identifier", "it names whom a service blames"),
    nothing("metadata", "it is for the service's own records"),
    nothing("client_metadata", "it is for the service's own records"),
    nothing("prompt_cache_key", "what is known of a prompt is found by its tokens"),
    nothing("prompt_cache_retention", "what is known of a prompt is kept while there is room"),
    nothing("prompt_cache_options", "what is known of a prompt is found by its tokens"),
    nothing("service_tier", "there is one"),
    nothing("moderation", "nobody judges what is asked"),
];

/// Types of tools that are left out of what the model sees: clients offer them to every server, and do without where they are
/// not called.
pub(crate) const LEFT_OUT: &[&str] = &["web_search", "web_search_preview", "image_generation", "tool_search"];

/// What items of all types may have.
const ITEM: [Field; 5] = [
    acts("type", Kind::Str, "What it is; a message if absent."),
    nothing("id", "nothing is stored"),
    nothing("status", "what is sent back is taken as it is"),
    nothing("internal_chat_message_metadata_passthrough", "it is for the service's own records"),
    nothing("metadata", "it is for the service's own records"),
];
const MESSAGE: &[&[Field]] = &[
    &ITEM,
    &[
        acts("role", Kind::Word(&["system", "developer", "user", "assistant"]), "Who speaks."),
        acts("content", Kind::Any, "A text, or parts of type input_text or output_text."),
        nothing("end_turn", "what comes next says so"),
        nothing("phase", "what comes next says so"),
    ],
];
const CALL: &[&[Field]] = &[
    &ITEM,
    &[
        acts("call_id", Kind::Str, "What the result is matched by."),
        acts("name", Kind::Str, "Which tool."),
        acts("namespace", Kind::Str, "The namespace that it is in."),
        acts("arguments", Kind::Str, "The JSON text of an object."),
        acts("input", Kind::Str, "A custom tool's text."),
        nothing("caller", "the model calls, nobody else"),
    ],
];
const OUTPUT: &[&[Field]] = &[
    &ITEM,
    &[
        acts("call_id", Kind::Str, "Which call it is the result of."),
        acts("output", Kind::Any, "A text, or parts of type input_text."),
        nothing("name", "the call says it"),
        nothing("caller", "the model calls, nobody else"),
    ],
];
const REASONING: &[&[Field]] = &[
    &ITEM,
    &[
        acts("encrypted_content", Kind::Str, "What an assistant thought, if it was sealed here."),
        acts("content", Kind::Array, "The same, in parts of type reasoning_text."),
        acts("summary", Kind::Array, "The same, in parts of type summary_text."),
    ],
];

const FUNCTION: &[&[Field]] = &[&[
    acts("type", Kind::Word(&["function", "custom"]), "What it is."),
    acts("name", Kind::Str, "What it is called by."),
    acts("description", Kind::Str, "What it does."),
    acts("parameters", Kind::Object, "The JSON schema of its arguments."),
    acts("format", Kind::Object, "What a custom tool's text is like; shown to the model, not enforced."),
    acts("strict", Kind::Bool, "Calls keep to all of its schema, or the request is refused."),
    nothing("defer_loading", "the model sees all tools at once"),
    nothing("output_schema", "the models' formats have no place for it"),
    nothing("allowed_callers", "the model calls, nobody else"),
]];
const NAMESPACE: &[&[Field]] = &[&[
    acts("type", Kind::Word(&["namespace"]), "What it is."),
    acts("name", Kind::Str, "What its tools' names begin with, as the model sees them."),
    acts("tools", Kind::Array, "What is in it."),
    nothing("description", "its tools describe themselves"),
]];

/// Reads a request.
///
/// # Errors
/// What of it we cannot do.
pub(crate) fn read(request: &Value, model: &Model) -> Result<Request<Telling>, Refusal> {
    let fields = Fields::of(request, FIELDS)?;
    model.check_name(fields.str("model"))?;
    let (conversation, telling) = read_fields(&fields, &model.name, &model.sealer)?;
    let ask = conversation.ask(model, sampling(&fields, &model.sampling, model.seed)?)?;
    let ask = Ask { n_max: n_max(&fields), logprobs: logprobs(&fields)?, ..ask };
    Ok(Request { ask, stream: fields.flag("stream").unwrap_or(false), telling })
}

fn read_fields(fields: &Fields<'_>, model: &str, sealer: &Arc<Sealer>) -> Result<(Conversation, Telling), Refusal> {
    let mut turns = Turns::new(sealer);
    turns.say(Role::System, fields.str("instructions").unwrap_or_default());
    match fields.needed("input")? {
        Value::String(text) => turns.say(Role::User, text),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                read_item(item, &fields.path(&format!("input[{i}]")), &mut turns)?;
            }
        }
        _ => return Err(fields.refuse("input", "must be a string, or an array of items")),
    }
    let (thinking, effort, summary) = wishes(fields)?;
    let (tools, origins) = tools(fields)?;
    let one_call = fields.flag("parallel_tool_calls") == Some(false);
    let choice = ToolChoice { one_call, ..tool_choice(fields)? };
    let choice = choice.check(&tools).map_err(|why| fields.refuse("tool_choice", why))?;
    let (sealed, sealer) = (is_sealed(fields)?, sealer.clone());
    let telling = Telling { head: head(fields, model), origins, summary, sealed, sealer };
    let messages = turns.into_messages();
    if messages.is_empty() {
        return Err(fields.refuse("input", "is empty"));
    }
    let form = one(text_format(fields)?, form(fields)?)?;
    let n_reasoning_max = n_reasoning_max(fields);
    let end = End::Answer;
    Ok((Conversation { messages, tools, choice, form, thinking, effort, n_reasoning_max, end }, telling))
}

fn needed<'a>(fields: &Fields<'a>, name: &str) -> Result<&'a str, Refusal> {
    fields.needed(name)?.as_str().ok_or_else(|| fields.refuse(name, "must be a string"))
}

fn read_item(item: &Value, path: &str, turns: &mut Turns<'_>) -> Result<(), Refusal> {
    match item["type"].as_str().unwrap_or("message") {
        "message" => {
            let fields = Fields::at(item, path, MESSAGE)?;
            let text = text(fields.needed("content")?, &fields.path("content"))?;
            match needed(&fields, "role")? {
                "assistant" => turns.assistant().text.push_str(&text),
                "user" => turns.say(Role::User, &text),
                _ => turns.say(Role::System, &text),
            }
        }
        "reasoning" => {
            let fields = Fields::at(item, path, REASONING)?;
            let sealed = fields.str("encrypted_content").unwrap_or_default();
            let said = |name| fields.array(name).unwrap_or_default().iter().filter_map(|part| part["text"].as_str());
            let content: String = said("content").collect();
            let summary = || said("summary").collect::<Vec<_>>().join("\n\n");
            let told = if content.is_empty() { summary() } else { content };
            turns.think_again(sealed, &told).map_err(|why| fields.refuse("encrypted_content", why))?;
        }
        kind @ ("function_call" | "custom_tool_call") => {
            let fields = Fields::at(item, path, CALL)?;
            let arguments = match kind {
                "function_call" => needed(&fields, "arguments")?.to_owned(),
                _ => json!({ INPUT: needed(&fields, "input")? }).to_string(),
            };
            let name = in_namespace(fields.str("namespace"), needed(&fields, "name")?);
            let call = ToolCall { id: needed(&fields, "call_id")?.to_owned(), name, arguments };
            turns.call(call).map_err(|why| fields.refuse("call_id", why))?;
        }
        "function_call_output" | "custom_tool_call_output" => {
            let fields = Fields::at(item, path, OUTPUT)?;
            let text = text(fields.needed("output")?, &fields.path("output"))?;
            let id = needed(&fields, "call_id")?;
            turns.result(id, text).map_err(|why| fields.refuse("call_id", why))?;
        }
        kind => {
            let why = format!("items of type {} cannot be read here", shown(kind));
            return Err(Refusal::field(path, &why));
        }
    }
    Ok(())
}

/// What a tool is called by the model.
fn in_namespace(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(space) if space.ends_with("__") => format!("{space}{name}"),
        Some(space) => format!("{space}__{name}"),
        None => name.to_owned(),
    }
}

/// What may be called, and as what it was offered.
fn tools(fields: &Fields<'_>) -> Result<(Vec<Tool>, Vec<Origin>), Refusal> {
    let (mut tools, mut origins) = (Vec::new(), Vec::new());
    let mut add = |tool: &Value, path: &str, namespace: Option<&str>| -> Result<(), Refusal> {
        let (tool, origin) = read_tool(tool, path, namespace)?;
        tools.push(tool);
        origins.push(origin);
        Ok(())
    };
    for (i, tool) in fields.array("tools").unwrap_or_default().iter().enumerate() {
        let path = fields.path(&format!("tools[{i}]"));
        match tool["type"].as_str().unwrap_or_default() {
            "function" | "custom" => add(tool, &path, None)?,
            "namespace" => {
                let space = Fields::at(tool, &path, NAMESPACE)?;
                let name = name(tool, &path)?;
                for (i, tool) in space.array("tools").unwrap_or_default().iter().enumerate() {
                    add(tool, &space.path(&format!("tools[{i}]")), Some(&name))?;
                }
            }
            kind if LEFT_OUT.contains(&kind) => {}
            kind => {
                let why = format!("tools of type {} cannot be called from here", shown(kind));
                return Err(Refusal::field(&path, &why));
            }
        }
    }
    check_names(&tools, fields)?;
    Ok((tools, origins))
}

/// A tool as models are shown it, and as it was offered.
fn read_tool(tool: &Value, path: &str, namespace: Option<&str>) -> Result<(Tool, Origin), Refusal> {
    let fields = Fields::at(tool, path, FUNCTION)?;
    let name = named(tool, path)?.name;
    let custom = needed(&fields, "type")? == "custom";
    let shown = in_namespace(namespace, &name);
    let mut function = Map::from_iter([("name".to_owned(), json!(shown))]);
    let format = fields.any("format").filter(|format| custom && format["type"] == "grammar");
    let description = fields.str("description").map(str::to_owned).unwrap_or_default();
    let description = match format.and_then(|format| format["definition"].as_str()) {
        Some(grammar) => format!("{description}\n\nThe input must follow this grammar:\n{grammar}"),
        None => description,
    };
    if !description.is_empty() {
        function.insert("description".to_owned(), json!(description));
    }
    let parameters = if custom {
        json!({ "type": "object", "properties": { INPUT: { "type": "string" } }, "required": [INPUT] })
    } else {
        fields.any("parameters").cloned().unwrap_or_else(|| json!({ "type": "object", "properties": {} }))
    };
    function.insert("parameters".to_owned(), parameters);
    let origin = Origin { shown: shown.clone(), name, namespace: namespace.map(str::to_owned), custom };
    let strict = fields.flag("strict") == Some(true);
    Ok((Tool { name: shown, function, strict }, origin))
}

fn tool_choice(fields: &Fields<'_>) -> Result<ToolChoice, Refusal> {
    const ALLOWED: [Field; 2] = [
        acts("mode", Kind::Word(&["auto", "required"]), "Whether one of them must be called."),
        acts("tools", Kind::Array, "Which."),
    ];
    const TOOL: [Field; 3] = [
        acts("type", Kind::Word(&["function", "custom", "allowed_tools"]), "What it is."),
        acts("name", Kind::Str, "Which."),
        acts("namespace", Kind::Str, "The namespace that it is in."),
    ];
    let name = |tool: &Fields<'_>| Ok(in_namespace(tool.str("namespace"), needed(tool, "name")?));
    if let Some(choice) = word_of_choice(fields)? {
        return Ok(choice);
    }
    let choice = Fields::at(fields.needed("tool_choice")?, &fields.path("tool_choice"), &[&TOOL, &ALLOWED])?;
    if choice.str("type") != Some("allowed_tools") {
        return Ok(ToolChoice { call: Calls::Must(Some(name(&choice)?)), ..ToolChoice::default() });
    }
    let tools = choice.needed("tools")?.as_array().expect("the table says so");
    let named = |(i, tool): (usize, &Value)| name(&Fields::at(tool, &choice.path(&format!("tools[{i}]")), &[&TOOL])?);
    let callable = tools.iter().enumerate().map(named).collect::<Result<_, Refusal>>()?;
    let chosen = chosen(choice.str("mode").unwrap_or("auto")).expect("the table says so");
    Ok(ToolChoice { callable: Some(callable), ..chosen })
}

/// Whether to reason, how hard, and whether to tell it as a summary.
fn wishes(fields: &Fields<'_>) -> Result<(Option<bool>, Option<Effort>, bool), Refusal> {
    const WISH: &[&[Field]] = &[&[
        acts("effort", Kind::Word(&EFFORTS), "How hard; none answers at once."),
        acts("max_tokens", Kind::Int(-1, i64::MAX), SAME),
        acts("summary", Kind::Word(&["auto", "concise", "detailed", "none"]), "All of it is told, as a summary."),
        acts("generate_summary", Kind::Word(&["auto", "concise", "detailed", "none"]), "The same."),
        nothing("context", "the model's format says which reasoning it sees again"),
    ]];
    let Some(wish) = fields.any("reasoning") else { return Ok((None, None, false)) };
    let wish = Fields::at(wish, &fields.path("reasoning"), WISH)?;
    let summary = wish.str("summary").or(wish.str("generate_summary")).is_some_and(|word| word != "none");
    Ok(match wish.str("effort") {
        Some("none") => (Some(false), None, summary),
        word => (None, word.map(effort_of), summary),
    })
}

/// The form that `text` asks for.
fn text_format(fields: &Fields<'_>) -> Result<Option<Form>, Refusal> {
    const TEXT: &[&[Field]] = &[&[
        acts("format", Kind::Object, "What the answer must look like."),
        nothing("verbosity", "no model that runs here was trained for it"),
    ]];
    let Some(text) = fields.any("text") else { return Ok(None) };
    let text = Fields::at(text, &fields.path("text"), TEXT)?;
    text.any("format").map_or(Ok(None), |format| flat(format, &text.path("format")))
}

/// Whether reasoning is to be told sealed.
fn is_sealed(fields: &Fields<'_>) -> Result<bool, Refusal> {
    is_included(fields, ENCRYPTED)
}

/// Whether something is to be told. What is of tools and inputs that there are none of here never occurs.
fn is_included(fields: &Fields<'_>, name: &str) -> Result<bool, Refusal> {
    const NEVER: [&str; 6] = [
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "web_search_call.action.sources",
        "web_search_call.results",
    ];
    let wanted = fields.texts("include")?;
    let is_known = |word: &&String| [ENCRYPTED, LOGPROBS].contains(&word.as_str()) || NEVER.contains(&word.as_str());
    match wanted.iter().find(|word| !is_known(word)) {
        Some(word) => Err(fields.refuse("include", &format!("there is no {} to include", shown(word)))),
        None => Ok(wanted.iter().any(|wanted| wanted == name)),
    }
}

/// Whether probabilities are to be told, and of how many tokens each time.
fn logprobs(fields: &Fields<'_>) -> Result<Option<usize>, Refusal> {
    let n_top = fields.int("top_logprobs").unwrap_or(0) as usize;
    Ok((n_top > 0 || is_included(fields, LOGPROBS)?).then_some(n_top))
}

/// What replies repeat of the request.
fn head(fields: &Fields<'_>, model: &str) -> Map<String, Value> {
    let said = |name: &str, default: Value| fields.any(name).cloned().unwrap_or(default);
    let format = fields.any("text").and_then(|text| text.get("format")).filter(|format| !format.is_null());
    let head = json!({
        "id": new_id("resp_"),
        "object": "response",
        "created_at": now_s(),
        "model": model,
        "parallel_tool_calls": said("parallel_tool_calls", json!(true)),
        "tool_choice": said("tool_choice", json!("auto")),
        "tools": said("tools", json!([])),
        "reasoning": said("reasoning", json!({})),
        "temperature": said("temperature", Value::Null),
        "top_p": said("top_p", Value::Null),
        "max_output_tokens": n_max(fields),
        "text": { "format": format.unwrap_or(&json!({ "type": "text" })) },
        "truncation": "disabled",
        "previous_response_id": null,
        "instructions": null,
        "store": false,
        "metadata": {},
    });
    match head {
        Value::Object(head) => head,
        _ => unreachable!("an object was written"),
    }
}

/// The tokens of a prompt.
pub(crate) fn count(n_tokens: usize) -> Value {
    json!({ "object": "response.input_tokens", "input_tokens": n_tokens })
}

#[cfg(test)]
mod tests;
