//! Ollama's chats and texts: `POST /api/chat`, `POST /api/generate`, `GET /api/tags`, `POST /api/show`, `GET /api/version`.
//!
//! A stream is lines of JSON, the last of which has `done` and tells of tokens and times, in nanoseconds. A stream is what a
//! request gets that does not say.

use engine::SamplerOptions;
use jiff::Timestamp;
use models::{Effort, Message, Role, Tool, ToolCall};
use serde_json::{Map, Value, json};

use super::{
    content::{Called, Conversation, check_names, check_role, effort_of, logprobs, named},
    form::{self, FORMS, one},
    new_id,
    sampling::{SAMPLING, sampling, stop},
    tell_detail,
};
use crate::{
    app::Model,
    ask::{Ask, Form, N_TOP_MAX, Prompt, Rule},
    error::{Dialect, Refusal},
    fields::{Field, Fields, Kind, acts, nothing, only},
    likely::{self, Token},
    reply::{Choice, Frames, Framing, Writer},
    said::{Call, Finish, Heard, Said},
};

/// What a request for a chat may say.
pub(crate) const CHAT: &[&[Field]] = &[
    &BOTH,
    &[
        acts("messages", Kind::Array, "The conversation; with none, nothing is asked."),
        acts("tools", Kind::Array, "Functions that the model may call."),
    ],
];

/// What a request for a text may say.
pub(crate) const GENERATE: &[&[Field]] = &[
    &BOTH,
    &[
        acts("prompt", Kind::Str, "The question; without one, nothing is asked."),
        acts("system", Kind::Str, "What the system says before it."),
        acts("raw", Kind::Bool, "Continue the prompt as a text, rather than answer it."),
        only("suffix", r#""""#, "text can only be continued"),
        only("images", "[]", "the model reads text only"),
        only("template", r#""""#, "the model file has its own"),
        only("context", "[]", "nothing is stored; send the conversation to /api/chat"),
    ],
];

const BOTH: [Field; 11] = [
    acts("model", Kind::Str, "Must be the model that is served, or one of its other names; :latest may follow."),
    acts("stream", Kind::Bool, "Send the answer as it comes, as lines; true if absent."),
    acts("options", Kind::Object, "How tokens are chosen, and how many."),
    acts("think", Kind::Any, "Whether to reason: true, false, or low, medium, high or max."),
    acts("format", Kind::Any, "json for any JSON object, or a schema, which the answer keeps to."),
    acts("logprobs", Kind::Bool, "Tell how likely the model found each token of the answer's text."),
    acts("top_logprobs", Kind::Int(0, N_TOP_MAX), "With logprobs: tell also as many of the likeliest tokens."),
    nothing("keep_alive", "the model is there as long as the server"),
    nothing("truncate", "what does not fit is refused"),
    nothing("shift", "an answer ends where the context does"),
    nothing("prompt_eval_progress", "comments have no place between lines"),
];

/// What options there are. Ollama's libraries let through here what they do not know.
pub(crate) const OPTIONS: &[&[Field]] = &[
    &SAMPLING,
    &FORMS,
    &[
        acts(
            "num_predict",
            Kind::Int(-2, i64::MAX),
            "Longest answer in tokens, reasoning included; below 0 for what there is room for.",
        ),
        acts("stop", Kind::Any, "A text, or up to 64, that end the answer and are not part of it."),
        only("typical_p", "1.0", "tokens are chosen by their probability"),
        only("tfs_z", "1.0", "tokens are chosen by their probability"),
        only("mirostat", "0", "tokens are chosen by their probability"),
        nothing("mirostat_tau", "it is for mirostat, which is refused"),
        nothing("mirostat_eta", "it is for mirostat, which is refused"),
        nothing("penalize_newline", "a newline is a token as any other"),
        nothing("num_ctx", "contexts are as long as the server was told when it started"),
        nothing("num_keep", "an answer ends where the context does"),
        nothing("num_batch", "the server was told when it started"),
        nothing("num_gpu", "the server was told when it started"),
        nothing("main_gpu", "the server was told when it started"),
        nothing("num_thread", "the server was told when it started"),
        nothing("low_vram", "the server was told when it started"),
        nothing("use_mmap", "the server was told when it started"),
        nothing("use_mlock", "the server was told when it started"),
        nothing("numa", "the server was told when it started"),
        nothing("f16_kv", "the server was told when it started"),
    ],
];

const MESSAGE: &[&[Field]] = &[&[
    acts("role", Kind::Word(&["system", "user", "assistant", "tool"]), "Who speaks."),
    acts("content", Kind::Str, "What is said."),
    acts("thinking", Kind::Str, "What an assistant thought before it answered."),
    acts("tool_calls", Kind::Array, "What an assistant called."),
    acts("tool_call_id", Kind::Str, "Which call a tool's message is the result of."),
    acts("tool_name", Kind::Str, "If that is absent: of the first call of this tool; if both are, of the first."),
    nothing("name", "results follow their calls in order, or by tool_call_id or tool_name"),
    only("images", "[]", "the model reads text only"),
]];

/// A request that was read.
pub(crate) struct Request {
    /// `None` if nothing is asked, as of a server that is to load its model.
    pub(crate) ask: Option<Ask>,
    pub(crate) stream: bool,
    pub(crate) telling: Telling,
}

/// How the answer is to be told.
#[derive(Clone, Debug)]
pub(crate) struct Telling {
    model: String,
    /// As messages, not as texts.
    chat: bool,
}

/// Reads a request for a chat.
///
/// # Errors
/// What of it we cannot do.
pub(crate) fn read_chat(request: &Value, model: &Model) -> Result<Request, Refusal> {
    let fields = Fields::of(request, CHAT)?;
    let conversation = conversation(&fields)?;
    let asked = (!conversation.messages.is_empty()).then_some(Asked::Chat(conversation));
    request_of(&fields, asked, true, model)
}

/// Reads a request for a text.
///
/// # Errors
/// What of it we cannot do.
pub(crate) fn read_generate(request: &Value, model: &Model) -> Result<Request, Refusal> {
    let fields = Fields::of(request, GENERATE)?;
    let asked = match fields.str("prompt").filter(|prompt| !prompt.is_empty()) {
        None => None,
        Some(prompt) if fields.flag("raw") == Some(true) => {
            for name in ["system", "think"] {
                if fields.any(name).is_some_and(|value| *value != json!("") && *value != json!(false)) {
                    return Err(fields.refuse(name, "cannot act beside raw, which continues the prompt as it is"));
                }
            }
            Some(Asked::Text(prompt.to_owned()))
        }
        Some(prompt) => Some(Asked::Chat(question(&fields, prompt)?)),
    };
    request_of(&fields, asked, false, model)
}

/// What is to be answered.
enum Asked {
    Chat(Conversation),
    Text(String),
}

fn request_of(fields: &Fields<'_>, asked: Option<Asked>, chat: bool, model: &Model) -> Result<Request, Refusal> {
    model.check_name(fields.str("model").map(without_tag))?;
    let (sampling, n_max, stop) = options(fields, &model.sampling, model.seed)?;
    let ask = match asked {
        None => None,
        Some(Asked::Chat(conversation)) => Some(conversation.ask(model, sampling)?),
        Some(Asked::Text(text)) => Some(Ask { form: form(fields)?, ..Ask::new(Prompt::Text(text), sampling) }),
    };
    let logprobs = logprobs(fields)?;
    let ask = ask.map(|ask| Ask { n_max, stop, logprobs, ..ask });
    let telling = Telling { model: model.name.clone(), chat };
    Ok(Request { ask, stream: fields.flag("stream").unwrap_or(true), telling })
}

/// Clients put a tag behind every name.
fn without_tag(name: &str) -> &str {
    name.strip_suffix(":latest").unwrap_or(name)
}

/// How tokens are chosen, how many, and what ends them.
fn options(
    fields: &Fields<'_>,
    default: &SamplerOptions,
    seed: Option<u64>,
) -> Result<(SamplerOptions, Option<usize>, Vec<String>), Refusal> {
    let empty = json!({});
    let options = Fields::at(fields.any("options").unwrap_or(&empty), &fields.path("options"), OPTIONS)?;
    let sampling = sampling(&options, default, seed)?;
    let n_max = options.int("num_predict").and_then(|n| usize::try_from(n).ok());
    Ok((sampling, n_max, stop(&options, "stop")?))
}

/// What is asked by a prompt.
fn question(fields: &Fields<'_>, prompt: &str) -> Result<Conversation, Refusal> {
    let system = fields.str("system").filter(|system| !system.is_empty());
    let messages = system.map(Message::system).into_iter().chain([Message::user(prompt)]).collect();
    let (thinking, effort) = think(fields)?;
    Ok(Conversation { messages, thinking, effort, form: form(fields)?, ..Conversation::default() })
}

fn conversation(fields: &Fields<'_>) -> Result<Conversation, Refusal> {
    let mut called = Called::default();
    let mut read = |(i, m)| read_message(m, &fields.path(&format!("messages[{i}]")), &mut called);
    let messages = fields.array("messages").unwrap_or_default().iter().enumerate();
    let messages = messages.map(&mut read).collect::<Result<Vec<_>, _>>()?;
    let tools = fields.array("tools").unwrap_or_default().iter().enumerate();
    let tools = tools.map(|(i, tool)| read_tool(tool, &fields.path(&format!("tools[{i}]"))));
    let tools = tools.collect::<Result<Vec<_>, _>>()?;
    check_names(&tools, fields)?;
    let (thinking, effort) = think(fields)?;
    Ok(Conversation { messages, tools, thinking, effort, form: form(fields)?, ..Conversation::default() })
}

fn read_message(message: &Value, path: &str, called: &mut Called) -> Result<Message, Refusal> {
    let fields = Fields::at(message, path, MESSAGE)?;
    let role = match fields.needed("role")?.as_str() {
        Some("system") => Role::System,
        Some("user") => Role::User,
        Some("tool") => Role::Tool,
        _ => Role::Assistant,
    };
    check_role(&fields, role == Role::Assistant, &["thinking", "tool_calls"], "an assistant's")?;
    check_role(&fields, role == Role::Tool, &["tool_call_id", "tool_name"], "a tool's")?;
    let text = fields.str("content").unwrap_or_default();
    match role {
        Role::Tool => Ok(Message::result(call_id(&fields, called)?, text)),
        Role::Assistant => {
            called.begin();
            let calls = fields.array("tool_calls").unwrap_or_default().iter().enumerate();
            let calls = calls.map(|(i, call)| read_call(call, &fields.path(&format!("tool_calls[{i}]")), called));
            let (calls, reasoning) = (calls.collect::<Result<_, _>>()?, fields.str("thinking").map(str::to_owned));
            Ok(Message { reasoning, calls, ..Message::new(role, text) })
        }
        role => Ok(Message::new(role, text)),
    }
}

/// Which call a result is of.
fn call_id(fields: &Fields<'_>, called: &mut Called) -> Result<String, Refusal> {
    let name = fields.str("tool_name").filter(|name| !name.is_empty());
    let said = match (fields.str("tool_call_id"), name) {
        (Some(id), _) => Ok((id, "tool_call_id")),
        (None, Some(name)) => called.waiting(Some(name)).map(|id| (id, "tool_name")).ok_or("tool_name"),
        (None, None) => called.waiting(None).map(|id| (id, "role")).ok_or("role"),
    };
    let (id, field) = said.map_err(|field| fields.refuse(field, "there is no call that it is the result of"))?;
    let id = id.to_owned();
    called.result(&id).map_err(|why| fields.refuse(field, why))?;
    Ok(id)
}

fn read_call(call: &Value, path: &str, called: &mut Called) -> Result<ToolCall, Refusal> {
    const CALL: &[&[Field]] = &[&[
        acts("id", Kind::Str, "What the result is matched by."),
        acts("function", Kind::Object, "name and arguments."),
        nothing("type", "functions are all there is"),
    ]];
    const FUNCTION: &[&[Field]] = &[&[
        acts("name", Kind::Str, "Which."),
        acts("arguments", Kind::Object, "Its arguments."),
        nothing("index", "calls are in order"),
        nothing("description", "the tool says it"),
    ]];
    let fields = Fields::at(call, path, CALL)?;
    let function = Fields::at(fields.needed("function")?, &fields.path("function"), FUNCTION)?;
    let call = ToolCall {
        id: fields.str("id").map_or_else(|| new_id("call_"), str::to_owned),
        name: function.needed("name")?.as_str().unwrap_or_default().to_owned(),
        arguments: function.any("arguments").map_or_else(|| "{}".to_owned(), Value::to_string),
    };
    called.call(&call).map_err(|why| fields.refuse("id", why))?;
    Ok(call)
}

fn read_tool(tool: &Value, path: &str) -> Result<Tool, Refusal> {
    const TOOL: &[&[Field]] = &[&[
        acts("type", Kind::Word(&["function"]), "What it is."),
        acts("function", Kind::Object, "name, description and parameters, shown to the model as they are."),
    ]];
    let fields = Fields::at(tool, path, TOOL)?;
    named(fields.needed("function")?, &fields.path("function"))
}

/// What the answer must look like.
fn form(fields: &Fields<'_>) -> Result<Option<Form>, Refusal> {
    let asked = match fields.any("options") {
        Some(options) => form::form(&Fields::at(options, &fields.path("options"), OPTIONS)?)?,
        None => None,
    };
    one(format(fields)?, asked)
}

fn format(fields: &Fields<'_>) -> Result<Option<Form>, Refusal> {
    let rule = match fields.any("format") {
        None => return Ok(None),
        Some(Value::String(word)) if word.is_empty() => return Ok(None),
        Some(Value::String(word)) if word == "json" => Rule::JsonObject,
        Some(schema @ Value::Object(_)) => Rule::JsonSchema(schema.to_string()),
        Some(_) => return Err(fields.refuse("format", "must be json, or a schema")),
    };
    Ok(Some(Form { rule, field: fields.path("format") }))
}

/// Whether to reason, and how hard.
fn think(fields: &Fields<'_>) -> Result<(Option<bool>, Option<Effort>), Refusal> {
    match fields.any("think") {
        None => Ok((None, None)),
        Some(Value::Bool(think)) => Ok((Some(*think), None)),
        Some(Value::String(word)) if matches!(&**word, "low" | "medium" | "high" | "max") => {
            Ok((Some(true), Some(effort_of(word))))
        }
        Some(_) => Err(fields.refuse("think", "must be true, false, low, medium, high or max")),
    }
}

/// A part of an answer.
fn line(telling: &Telling, text: &str, thinking: &str, calls: &[Value], done: bool) -> Value {
    let mut said = Map::new();
    if telling.chat {
        said.insert("role".into(), json!("assistant"));
    }
    said.insert(if telling.chat { "content" } else { "response" }.into(), json!(text));
    if !thinking.is_empty() {
        said.insert("thinking".into(), json!(thinking));
    }
    if !calls.is_empty() {
        said.insert("tool_calls".into(), json!(calls));
    }
    let mut line = json!({ "model": telling.model, "created_at": Timestamp::now().to_string() });
    match (&mut line, telling.chat) {
        (Value::Object(line), false) => line.extend(said),
        (line, _) => line["message"] = Value::Object(said),
    }
    line["done"] = json!(done);
    line
}

fn call(index: usize, call: &ToolCall) -> Value {
    let arguments: Option<Map<String, Value>> = serde_json::from_str(&call.arguments).ok();
    let function = json!({ "index": index, "name": call.name, "arguments": arguments.unwrap_or_default() });
    json!({ "id": call.id, "function": function })
}

/// Adds how an answer came about.
fn finish(line: &mut Value, finish: &Finish) {
    let (usage, timings) = (finish.usage, finish.timings);
    let ns = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    line["done_reason"] = json!(if finish.was_cut() { "length" } else { "stop" });
    tell_detail(line, finish);
    line["total_duration"] = json!(ns(timings.queued + timings.prefill + timings.decode));
    line["load_duration"] = json!(ns(timings.queued));
    line["prompt_eval_count"] = json!(usage.n_prompt);
    line["prompt_eval_duration"] = json!(ns(timings.prefill));
    line["eval_count"] = json!(usage.n_answer);
    line["eval_duration"] = json!(ns(timings.decode));
}

/// Adds how likely tokens were, where that was asked for.
fn add_logprobs(line: &mut Value, tokens: &[Token]) {
    if !tokens.is_empty() {
        line["logprobs"] = likely::list(tokens);
    }
}

/// The answer as a whole.
pub(crate) fn reply(telling: &Telling, choice: &Choice) -> Value {
    let calls: Vec<_> = choice.calls.iter().enumerate().map(|(i, c)| call(i, c)).collect();
    let mut line = line(telling, &choice.text, &choice.reasoning, &calls, true);
    add_logprobs(&mut line, &choice.tokens);
    finish(&mut line, &choice.finish);
    line
}

/// The reply to a request that asks nothing: the model is there.
pub(crate) fn loaded(telling: &Telling) -> Value {
    let mut line = line(telling, "", "", &[], true);
    line["done_reason"] = json!("load");
    line
}

/// Writes lines.
pub(crate) struct Lines {
    telling: Telling,
    /// A call as far as it was heard.
    call: Option<ToolCall>,
    /// Tokens that wait for their text.
    tokens: Vec<Token>,
}

impl Lines {
    pub(crate) fn new(telling: Telling) -> Lines {
        Lines { telling, call: None, tokens: Vec::new() }
    }
}

impl Writer for Lines {
    fn begin(&mut self, _: &mut Frames) {}

    fn said(&mut self, Heard { said, .. }: Heard, out: &mut Frames) {
        match said {
            Said::Begun | Said::Prefill(_) => {}
            Said::Thinking(text) => out.data(&line(&self.telling, "", &text, &[], false)),
            Said::Tokens(tokens) => self.tokens = tokens,
            Said::Text(text) => {
                let mut line = line(&self.telling, &text, "", &[], false);
                add_logprobs(&mut line, &std::mem::take(&mut self.tokens));
                out.data(&line);
            }
            Said::Call(Call { id, name, .. }) => self.call = Some(ToolCall { id, name, arguments: String::new() }),
            Said::Arguments(_, json) => {
                if let Some(call) = &mut self.call {
                    call.arguments.push_str(&json);
                }
            }
            Said::Called(index) => {
                let calls: Vec<_> = self.call.take().iter().map(|heard| call(index, heard)).collect();
                out.data(&line(&self.telling, "", "", &calls, false));
            }
            Said::End(end) => {
                let mut line = line(&self.telling, "", "", &[], true);
                finish(&mut line, &end);
                out.data(&line);
            }
            Said::Failed(refusal) => out.data(&refusal.to_json(Dialect::Ollama)),
        }
    }

    fn end(&mut self, _: &mut Frames) {}

    /// A line that says nothing.
    fn alive(&mut self, out: &mut Frames) {
        out.data(&line(&self.telling, "", "", &[], false));
    }

    fn framing(&self) -> Framing {
        Framing::Lines
    }
}

/// The list of models, of which there is one.
pub(crate) fn tags(model: &Model) -> Value {
    let created = Timestamp::from_second(model.created_s as i64).unwrap_or_default().to_string();
    json!({ "models": [{
        "name": model.name,
        "model": model.name,
        "modified_at": created,
        "size": model.engine.info().file_bytes,
        "digest": "",
        "details": details(model),
    }] })
}

fn details(model: &Model) -> Value {
    let info = model.engine.info();
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": info.family,
        "families": [info.family],
        "parameter_size": format!("{:.1}B", info.n_params as f64 / 1e9),
        "quantization_level": "",
    })
}

/// What the model is, and can do.
///
/// # Errors
/// Another one is meant.
pub(crate) fn show(request: &Value, model: &Model) -> Result<Value, Refusal> {
    const SHOW: &[&[Field]] = &[&[
        acts("model", Kind::Str, "Which."),
        acts("name", Kind::Str, "The same."),
        nothing("verbose", "there is no more to say"),
    ]];
    let fields = Fields::of(request, SHOW)?;
    model.check_name(fields.str("model").or(fields.str("name")).map(without_tag))?;
    let info = model.engine.info();
    let chat = model.engine.chat().ok();
    let can = |able: bool, word| able.then_some(word);
    let capabilities = [
        Some("completion"),
        can(chat.is_some_and(|chat| chat.can_call()), "tools"),
        can(chat.is_some_and(|chat| chat.can_think()), "thinking"),
    ];
    let capabilities: Vec<_> = capabilities.into_iter().flatten().collect();
    let mut about = json!({ "general.architecture": info.family, "general.parameter_count": info.n_params });
    about[format!("{}.context_length", info.family)] = json!(model.n_ctx);
    about[format!("{}.embedding_length", info.family)] = json!(info.n_embd);
    about[format!("{}.block_count", info.family)] = json!(info.n_layer);
    Ok(json!({
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": details(model),
        "model_info": about,
        "capabilities": capabilities,
    }))
}

/// The version of Ollama that this is like: clients want a certain one at least.
pub(crate) fn version() -> Value {
    json!({ "version": "0.13.0" })
}

#[cfg(test)]
mod tests {
    use engine::Stop;
    use expect_test::{Expect, expect};

    use super::*;
    use crate::dialect::{
        content::show as shown,
        script::{calls, choice, ends, says, streamed, thinks},
    };

    fn check(request: Value, expect: Expect) {
        let read = Fields::of(&request, CHAT).and_then(|fields| {
            let (sampling, n_max, stop) = options(&fields, &SamplerOptions::default(), None)?;
            let (t, recent) = (sampling.temperature, sampling.penalty_last_n);
            Ok(format!("{}t {t}, recent {recent}, n_max {n_max:?}, stop {stop:?}\n", shown(&conversation(&fields)?)))
        });
        expect.assert_eq(&read.unwrap_or_else(|refusal| refusal.message));
    }

    /// Lines, but for the times at which they were written.
    fn timeless(lines: &str) -> String {
        let timeless = |line: &str| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line["created_at"] = json!("TIME");
            format!("{line}\n")
        };
        lines.lines().map(timeless).collect()
    }

    #[test]
    fn what_ollamas_clients_send_is_understood() {
        check(
            json!({
                "model": "deepseek-v4-flash:latest",
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "List files.", "images": null},
                    {"role": "assistant", "content": "", "thinking": "I list.", "tool_calls": [
                        {"id": "call_1", "function": {"index": 0, "name": "ls", "arguments": {"path": "/"}}},
                        {"id": "call_2", "function": {"name": "ls", "arguments": {}}}]},
                    {"role": "tool", "tool_name": "ls", "content": "a.txt"},
                    {"role": "tool", "tool_name": "ls", "content": "b.txt"},
                ],
                "tools": [{"type": "function", "function": {"name": "ls", "parameters": {"type": "object"}}}],
                "think": "high",
                "options": {"num_ctx": 8192, "num_predict": 128, "temperature": 0, "repeat_last_n": -1, "stop": ["###"]},
                "keep_alive": "5m",
                "format": "",
            }),
            expect![[r####"
                system "Be brief."
                user "List files."
                assistant thinks "I list."
                assistant ""
                assistant calls call_1 ls {"path":"/"}
                assistant calls call_2 ls {}
                tool call_1 "a.txt"
                tool call_2 "b.txt"
                tool {"name":"ls","parameters":{"type":"object"}}
                call Auto, one false, thinking Some(true), effort Some(High), end Answer
                t 0, recent 18446744073709551615, n_max Some(128), stop ["###"]
            "####]],
        );
        check(
            json!({"messages": [], "options": {"num_predict": -1}, "think": false}),
            expect![[r#"
            call Auto, one false, thinking Some(false), effort None, end Answer
            t 1, recent 64, n_max None, stop []
        "#]],
        );
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        check(
            json!({"format": "json"}),
            expect![[r#"
            format JsonObject
            call Auto, one false, thinking None, effort None, end Answer
            t 1, recent 64, n_max None, stop []
        "#]],
        );
        check(
            json!({"format": {"type": "object"}}),
            expect![[r#"
                format JsonSchema("{\"type\":\"object\"}")
                call Auto, one false, thinking None, effort None, end Answer
                t 1, recent 64, n_max None, stop []
            "#]],
        );
        check(
            json!({"options": {"mirostat": 2}}),
            expect!["options.mirostat: can only be 0: tokens are chosen by their probability"],
        );
        check(json!({"options": {"best_effort": 2}}), expect!["options.best_effort: there is no such field"]);
        check(json!({"think": 3}), expect!["think: must be true, false, low, medium, high or max"]);
        check(
            json!({"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}),
            expect!["messages[0].images: can only be []: the model reads text only"],
        );
        check(
            json!({"messages": [{"role": "tool", "content": "x"}]}),
            expect!["messages[0].role: there is no call that it is the result of"],
        );
        let calls =
            json!({"role": "assistant", "tool_calls": [{"function": {"name": "ls"}}, {"function": {"name": "cat"}}]});
        let result = |name: &str| json!({"role": "tool", "tool_name": name, "content": name});
        check(
            json!({"messages": [calls, result("cat"), result("ls"), result("ls")]}),
            expect!["messages[3].tool_name: there is no call that it is the result of"],
        );
        check(
            json!({"messages": [calls, {"role": "tool", "tool_call_id": "x", "content": ""}]}),
            expect!["messages[1].tool_call_id: is the id of no call of the assistant's last turn"],
        );
        check(
            json!({"messages": [{"role": "user", "content": "x", "thinking": "So"}]}),
            expect!["messages[0].thinking: only an assistant's message can have it"],
        );
    }

    #[test]
    fn a_prompt_is_a_question() {
        let request = json!({"prompt": "Why?", "system": "Be brief.", "think": true});
        let fields = Fields::of(&request, GENERATE).unwrap();
        expect![[r#"
            system "Be brief."
            user "Why?"
            call Auto, one false, thinking Some(true), effort None, end Answer
        "#]]
        .assert_eq(&shown(&question(&fields, "Why?").unwrap()));
    }

    #[test]
    fn an_answer_is_lines() {
        let mut script = vec![Said::Begun, thinks("Why"), says("So"), says(".")];
        script.extend(calls(0, "f", &["{\"a\":", "1}"]));
        script.push(ends(Stop::EndOfTurn, 1));
        for chat in [true, false] {
            let telling = Telling { model: "m".into(), chat };
            let all = reply(&telling, &choice(script.clone())).to_string()
                + "\n"
                + &streamed(Lines::new(telling), script.clone());
            let expect = match chat {
                true => expect![[r#"
                    {"model":"m","created_at":"TIME","message":{"role":"assistant","content":"So.","thinking":"Why","tool_calls":[{"id":"call_0","function":{"index":0,"name":"f","arguments":{"a":1}}}]},"done":true,"done_reason":"stop","total_duration":110000000,"load_duration":0,"prompt_eval_count":100,"prompt_eval_duration":40000000,"eval_count":7,"eval_duration":70000000}
                    {"model":"m","created_at":"TIME","message":{"role":"assistant","content":"","thinking":"Why"},"done":false}
                    {"model":"m","created_at":"TIME","message":{"role":"assistant","content":"So"},"done":false}
                    {"model":"m","created_at":"TIME","message":{"role":"assistant","content":"."},"done":false}
                    {"model":"m","created_at":"TIME","message":{"role":"assistant","content":"","tool_calls":[{"id":"call_0","function":{"index":0,"name":"f","arguments":{"a":1}}}]},"done":false}
                    {"model":"m","created_at":"TIME","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":110000000,"load_duration":0,"prompt_eval_count":100,"prompt_eval_duration":40000000,"eval_count":7,"eval_duration":70000000}
                "#]],
                false => expect![[r#"
                    {"model":"m","created_at":"TIME","response":"So.","thinking":"Why","tool_calls":[{"id":"call_0","function":{"index":0,"name":"f","arguments":{"a":1}}}],"done":true,"done_reason":"stop","total_duration":110000000,"load_duration":0,"prompt_eval_count":100,"prompt_eval_duration":40000000,"eval_count":7,"eval_duration":70000000}
                    {"model":"m","created_at":"TIME","response":"","thinking":"Why","done":false}
                    {"model":"m","created_at":"TIME","response":"So","done":false}
                    {"model":"m","created_at":"TIME","response":".","done":false}
                    {"model":"m","created_at":"TIME","response":"","tool_calls":[{"id":"call_0","function":{"index":0,"name":"f","arguments":{"a":1}}}],"done":false}
                    {"model":"m","created_at":"TIME","response":"","done":true,"done_reason":"stop","total_duration":110000000,"load_duration":0,"prompt_eval_count":100,"prompt_eval_duration":40000000,"eval_count":7,"eval_duration":70000000}
                "#]],
            };
            expect.assert_eq(&timeless(&all));
        }
    }

    #[test]
    fn a_call_that_was_cut_short_is_not_told() {
        let mut script = vec![Said::Call(Call { index: 0, id: "call_0".into(), name: "rm".into() })];
        script.extend([Said::Arguments(0, "{\"path\":\"/".into()), ends(Stop::Length, 0)]);
        let telling = Telling { model: "m".into(), chat: true };
        expect![[r#"
            {"model":"m","created_at":"TIME","message":{"role":"assistant","content":""},"done":true,"done_reason":"length","total_duration":110000000,"load_duration":0,"prompt_eval_count":100,"prompt_eval_duration":40000000,"eval_count":7,"eval_duration":70000000}
        "#]].assert_eq(&timeless(&streamed(Lines::new(telling), script)));
    }
}
