//! OpenAI's chat completions: `POST /v1/chat/completions`.

use models::{Calls, Effort, Message, Role, Tool, ToolCall};
use serde_json::{Value, json};

use super::{
    budget::{BUDGETS, SAME, n_reasoning_max},
    content::{
        Called, Conversation, EFFORTS, ToolChoice, check_names, check_role, chosen, effort_of, logprobs, named, shown,
        text, word_of_choice,
    },
    form::{FORMS, form, one},
    openai::{finish_reason, head, timings, usage, whole},
    sampling::{LENGTH, SAMPLING, SEVERAL, logit_bias, n_max, sampling, stop},
    tell_detail,
};
use crate::{
    app::Model,
    ask::{Ask, Form, N_TOP_MAX, Rule},
    error::{Dialect, Refusal},
    fields::{Field, Fields, Kind, acts, nothing, only},
    likely::{self, Token},
    reply::{Choice, Frames, Writer},
    said::{Heard, Said, Usage},
};

/// What a request may say.
pub(crate) const FIELDS: &[&[Field]] = &[&SAMPLING, &SEVERAL, &LENGTH, &FORMS, &BUDGETS, &OWN];

const OWN: [Field; 30] = [
    acts("model", Kind::Str, "Must be the model that is served, or one of its other names."),
    acts("messages", Kind::Array, "The conversation."),
    acts("stream", Kind::Bool, "Send the answer as it comes, as server-sent events."),
    acts("stream_options", Kind::Object, "include_usage: a last chunk says how many tokens there were."),
    acts("reasoning_effort", Kind::Word(&EFFORTS), "How hard to reason; none answers at once."),
    acts(
        "reasoning",
        Kind::Object,
        "effort: the same; enabled: whether to reason; max_tokens: the same as thinking_budget.",
    ),
    acts("thinking", Kind::Object, "type: enabled, adaptive or disabled; budget_tokens: the same as thinking_budget."),
    acts("think", Kind::Bool, "Whether to reason."),
    acts("enable_thinking", Kind::Bool, "The same."),
    acts(
        "chat_template_kwargs",
        Kind::Object,
        "enable_thinking and thinking: the same; reasoning_effort; thinking_budget.",
    ),
    acts("logprobs", Kind::Bool, "Tell how likely the model found each token of the answer's text."),
    acts("top_logprobs", Kind::Int(0, N_TOP_MAX), "With logprobs: tell also as many of the likeliest tokens."),
    acts("logit_bias", Kind::Object, "Token ids and what is added to their logits, -100 to 100."),
    acts(
        "response_format",
        Kind::Object,
        "type: text, json_object, or json_schema with json_schema.schema, which the answer keeps to.",
    ),
    acts("tools", Kind::Array, "Functions that the model may call."),
    acts(
        "tool_choice",
        Kind::Any,
        "auto, none, required, the function that must be called, or allowed_tools: mode and tools.",
    ),
    only("functions", "[]", "they were replaced by tools"),
    only("function_call", r#""none""#, "it was replaced by tool_choice"),
    acts("parallel_tool_calls", Kind::Bool, "If false, one call at most is made."),
    only("modalities", r#"["text"]"#, "the model writes text only"),
    only("audio", "{}", "the model writes text only"),
    only("store", "false", "nothing is stored for later requests"),
    only("best_of", "1", "all answers are returned"),
    nothing("user", "it names whom a service blames"),
    nothing("safety_identifier", "it names whom a service blames"),
    nothing("metadata", "it is for the service's own records"),
    nothing("prompt_cache_key", "what is known of a prompt is found by its tokens"),
    nothing("prompt_cache_retention", "what is known of a prompt is kept while there is room"),
    nothing("service_tier", "there is one"),
    nothing("verbosity", "no model that runs here was trained for it"),
];

const MESSAGE: &[Field] = &[
    acts("role", Kind::Word(&["system", "developer", "user", "assistant", "tool"]), "Who speaks."),
    acts("content", Kind::Any, "A text, or parts of type text."),
    acts("reasoning_content", Kind::Str, "What an assistant thought before it answered."),
    acts("reasoning", Kind::Str, "The same."),
    nothing("name", "the models' formats have no place for it"),
    nothing("refusal", "an answer that was refused says so itself"),
    nothing("annotations", "they are about an answer, not part of it"),
    acts("tool_calls", Kind::Array, "What an assistant called."),
    acts("tool_call_id", Kind::Str, "Which call a tool's message is the result of."),
    only("function_call", "{}", "it was replaced by tool_calls"),
    only("audio", "{}", "the model hears nothing"),
];

/// A request that was read.
pub(crate) struct Request {
    pub(crate) ask: Ask,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

/// Reads a request.
///
/// # Errors
/// What of it we cannot do.
pub(crate) fn read(request: &Value, model: &Model) -> Result<Request, Refusal> {
    let fields = Fields::of(request, FIELDS)?;
    model.check_name(fields.str("model"))?;
    let messages = fields.needed("messages")?.as_array().expect("the table says so");
    if messages.is_empty() {
        return Err(fields.refuse("messages", "is empty"));
    }
    let mut called = Called::default();
    let mut read = |(i, m)| message(m, &fields.path(&format!("messages[{i}]")), &mut called);
    let messages = messages.iter().enumerate().map(&mut read).collect::<Result<Vec<_>, _>>()?;
    let (thinking, effort) = wishes(&fields)?;
    let (tools, choice) = tools(&fields)?;
    let form = one(response_format(&fields)?, form(&fields)?)?;
    let n_reasoning_max = n_reasoning_max(&fields);
    let conversation =
        Conversation { messages, tools, choice, form, thinking, effort, n_reasoning_max, ..Conversation::default() };
    let ask = Ask {
        n_max: n_max(&fields),
        n_choices: fields.int("n").unwrap_or(1) as usize,
        stop: stop(&fields, "stop")?,
        logit_bias: logit_bias(&fields, model)?,
        logprobs: logprobs(&fields)?,
        ..conversation.ask(model, sampling(&fields, &model.sampling, model.seed)?)?
    };
    let include_usage = match fields.any("stream_options") {
        Some(options) => {
            let table: &[&[Field]] = &[&[
                acts("include_usage", Kind::Bool, "A last chunk says how many tokens there were."),
                nothing("include_obfuscation", "on loopback, nobody measures the length of chunks"),
            ]];
            Fields::at(options, "stream_options", table)?.flag("include_usage").unwrap_or(false)
        }
        None => false,
    };
    Ok(Request { ask, stream: fields.flag("stream").unwrap_or(false), include_usage })
}

fn message(message: &Value, path: &str, called: &mut Called) -> Result<Message, Refusal> {
    let fields = Fields::at(message, path, &[MESSAGE])?;
    let role = match fields.needed("role")?.as_str() {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("tool") => Role::Tool,
        _ => Role::Assistant,
    };
    let text = match fields.any("content") {
        Some(content) => text(content, &fields.path("content"))?,
        None if role == Role::Assistant => String::new(),
        None => return Err(fields.refuse("content", "is missing")),
    };
    let of_assistant = ["reasoning_content", "reasoning", "tool_calls"];
    check_role(&fields, role == Role::Assistant, &of_assistant, "an assistant's")?;
    check_role(&fields, role == Role::Tool, &["tool_call_id"], "a tool's")?;
    let reasoning = fields.str("reasoning_content").or(fields.str("reasoning"));
    let reasoning = reasoning.filter(|_| role == Role::Assistant).map(str::to_owned);
    let call_id = match role {
        Role::Tool => {
            let id = fields.needed("tool_call_id")?.as_str().expect("the table says so");
            called.result(id).map_err(|why| fields.refuse("tool_call_id", why))?;
            Some(id.to_owned())
        }
        Role::Assistant => {
            called.begin();
            None
        }
        _ => None,
    };
    Ok(Message { reasoning, call_id, calls: calls(&fields, called)?, ..Message::new(role, text) })
}

/// What an assistant called.
fn calls(fields: &Fields<'_>, called: &mut Called) -> Result<Vec<ToolCall>, Refusal> {
    const CALL: &[&[Field]] = &[&[
        acts("id", Kind::Str, "What the result is matched by."),
        acts("type", Kind::Word(&["function"]), "What is called."),
        acts("function", Kind::Object, "name and arguments."),
        nothing("index", "calls are in order"),
    ]];
    const FUNCTION: &[&[Field]] =
        &[&[acts("name", Kind::Str, "Which."), acts("arguments", Kind::Str, "The JSON text of an object.")]];
    let text = |fields: &Fields<'_>, name| Ok(fields.needed(name)?.as_str().expect("the table says so").to_owned());
    let mut call = |(i, call): (usize, &Value)| {
        let fields = Fields::at(call, &fields.path(&format!("tool_calls[{i}]")), CALL)?;
        let function = Fields::at(fields.needed("function")?, &fields.path("function"), FUNCTION)?;
        let call = ToolCall {
            id: text(&fields, "id")?,
            name: text(&function, "name")?,
            arguments: function.str("arguments").unwrap_or("{}").to_owned(),
        };
        called.call(&call).map_err(|why| fields.refuse("id", why))?;
        Ok(call)
    };
    fields.array("tool_calls").unwrap_or_default().iter().enumerate().map(&mut call).collect()
}

/// What may be called, and what is to be.
fn tools(fields: &Fields<'_>) -> Result<(Vec<Tool>, ToolChoice), Refusal> {
    const TOOL: &[&[Field]] = &[&[
        acts("type", Kind::Word(&["function"]), "What it is."),
        acts("function", Kind::Object, "name, description and parameters, shown to the model as they are."),
    ]];
    let tool = |(i, tool): (usize, &Value)| {
        let path = fields.path(&format!("tools[{i}]"));
        // Some clients leave out the wrapping.
        let (path, function) = match tool.get("function") {
            Some(_) => (format!("{path}.function"), Fields::at(tool, &path, TOOL)?.needed("function")?),
            None => match tool["type"].as_str().unwrap_or("function") {
                "function" => (path, tool),
                kind => {
                    return Err(Refusal::field(
                        &path,
                        &format!("tools of type {} cannot be called from here", shown(kind)),
                    ));
                }
            },
        };
        named(function, &path)
    };
    let tools =
        fields.array("tools").unwrap_or_default().iter().enumerate().map(tool).collect::<Result<Vec<_>, _>>()?;
    check_names(&tools, fields)?;
    let one_call = fields.flag("parallel_tool_calls") == Some(false);
    let choice = ToolChoice { one_call, ..tool_choice(fields)? };
    let choice = choice.check(&tools).map_err(|why| fields.refuse("tool_choice", why))?;
    Ok((tools, choice))
}

fn tool_choice(fields: &Fields<'_>) -> Result<ToolChoice, Refusal> {
    const CHOICE: &[&[Field]] = &[&[
        acts("type", Kind::Word(&["function", "allowed_tools"]), "What it is."),
        acts("function", Kind::Object, "name: which."),
        acts("allowed_tools", Kind::Object, "mode: auto or required; tools: which."),
    ]];
    const ALLOWED: &[&[Field]] = &[&[
        acts("mode", Kind::Word(&["auto", "required"]), "Whether one of them must be called."),
        acts("tools", Kind::Array, "Which."),
    ]];
    if let Some(choice) = word_of_choice(fields)? {
        return Ok(choice);
    }
    let choice = Fields::at(fields.needed("tool_choice")?, &fields.path("tool_choice"), CHOICE)?;
    if choice.str("type") != Some("allowed_tools") {
        let name = named(choice.needed("function")?, &choice.path("function"))?.name;
        return Ok(ToolChoice { call: Calls::Must(Some(name)), ..ToolChoice::default() });
    }
    let allowed = Fields::at(choice.needed("allowed_tools")?, &choice.path("allowed_tools"), ALLOWED)?;
    let tools = allowed.needed("tools")?.as_array().expect("the table says so");
    let name = |(i, tool): (usize, &Value)| {
        let path = allowed.path(&format!("tools[{i}]"));
        named(tool.get("function").unwrap_or(tool), &path).map(|tool| tool.name)
    };
    let callable = tools.iter().enumerate().map(name).collect::<Result<_, _>>()?;
    let choice = chosen(allowed.str("mode").unwrap_or("auto")).expect("the table says so");
    Ok(ToolChoice { callable: Some(callable), ..choice })
}

/// The form that `response_format` asks for.
fn response_format(fields: &Fields<'_>) -> Result<Option<Form>, Refusal> {
    const FORMAT: &[&[Field]] = &[&[
        acts("type", Kind::Word(&["text", "json_object", "json_schema"]), "Which form."),
        acts("json_schema", Kind::Object, "schema: which."),
    ]];
    const SCHEMA: &[&[Field]] = &[&[
        acts("schema", Kind::Any, "The schema."),
        nothing("name", "the schema says what it is"),
        nothing("description", "the schema says what it is"),
        nothing("strict", "schemas are always kept to"),
    ]];
    let Some(format) = fields.any("response_format") else { return Ok(None) };
    let field = fields.path("response_format");
    let format = Fields::at(format, &field, FORMAT)?;
    let rule = match format.needed("type")?.as_str() {
        Some("json_object") => Rule::JsonObject,
        Some("json_schema") => {
            let schema = Fields::at(format.needed("json_schema")?, &format.path("json_schema"), SCHEMA)?;
            Rule::JsonSchema(schema.needed("schema")?.to_string())
        }
        _ => return Ok(None),
    };
    Ok(Some(Form { rule, field }))
}

/// Whether to reason, and how hard, in all the ways that clients say it; the first that is there counts.
fn wishes(fields: &Fields<'_>) -> Result<(Option<bool>, Option<Effort>), Refusal> {
    const REASONING: &[&[Field]] = &[&[
        acts("effort", Kind::Word(&EFFORTS), "How hard."),
        acts("enabled", Kind::Bool, "Whether."),
        acts("max_tokens", Kind::Int(-1, i64::MAX), SAME),
        nothing("exclude", "clients leave out what they do not want"),
        nothing("summary", "reasoning is sent as it is"),
    ]];
    const THINKING: &[&[Field]] = &[&[
        acts("type", Kind::Word(&["enabled", "adaptive", "disabled", "auto"]), "Whether."),
        acts("budget_tokens", Kind::Int(-1, i64::MAX), SAME),
        nothing("display", "clients leave out what they do not want"),
    ]];
    const KWARGS: &[&[Field]] = &[&[
        acts("enable_thinking", Kind::Bool, "Whether."),
        acts("thinking", Kind::Bool, "Whether."),
        acts("reasoning_effort", Kind::Word(&EFFORTS), "How hard."),
        acts("thinking_budget", Kind::Int(-1, i64::MAX), SAME),
    ]];
    let inside = |name, table: &'static [&'static [Field]]| {
        fields.any(name).map(|value| Fields::at(value, &fields.path(name), table)).transpose()
    };
    let (reasoning, thinking) = (inside("reasoning", REASONING)?, inside("thinking", THINKING)?);
    let kwargs = inside("chat_template_kwargs", KWARGS)?;
    let effort = fields.str("reasoning_effort");
    let effort = effort.or_else(|| reasoning.as_ref()?.str("effort"));
    let effort = effort.or_else(|| kwargs.as_ref()?.str("reasoning_effort"));
    let said = fields.flag("think").or(fields.flag("enable_thinking"));
    let said = said.or_else(|| reasoning.as_ref()?.flag("enabled"));
    let said = said.or_else(|| match thinking.as_ref()?.str("type")? {
        "disabled" => Some(false),
        "enabled" => Some(true),
        _ => None,
    });
    let said = said.or_else(|| kwargs.as_ref().and_then(|k| k.flag("enable_thinking").or(k.flag("thinking"))));
    Ok(match effort {
        Some("none") => (Some(false), None),
        Some(word) if said != Some(false) => (said, Some(effort_of(word))),
        _ => (said, None),
    })
}

fn call(call: &ToolCall) -> Value {
    json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": call.arguments } })
}

/// The answers as a whole.
pub(crate) fn reply(model: &Model, choices: &[Choice]) -> Value {
    let choice = |(index, choice): (usize, &Choice)| {
        let mut message = json!({ "role": "assistant", "content": choice.text, "refusal": null });
        if !choice.reasoning.is_empty() {
            message["reasoning_content"] = json!(choice.reasoning);
        }
        if !choice.calls.is_empty() {
            message["tool_calls"] = choice.calls.iter().map(call).collect();
        }
        let logprobs = likely::of_chat(&choice.tokens);
        let reason = finish_reason(&choice.finish);
        let mut told = json!({ "index": index, "message": message, "logprobs": logprobs, "finish_reason": reason });
        tell_detail(&mut told, &choice.finish);
        told
    };
    whole(head("chatcmpl-", "chat.completion", model), choices.iter().enumerate().map(choice).collect(), choices)
}

/// Writes chunks.
pub(crate) struct Chunks {
    head: Value,
    include_usage: bool,
    usages: Vec<Usage>,
    timings: Value,
    n_choices: usize,
    /// Tokens of each answer that wait for their text.
    tokens: Vec<Vec<Token>>,
}

impl Chunks {
    pub(crate) fn new(model: &Model, request: &Request) -> Chunks {
        let head = head("chatcmpl-", "chat.completion.chunk", model);
        let (include_usage, n_choices) = (request.include_usage, request.ask.n_choices);
        let tokens = vec![Vec::new(); n_choices];
        Chunks {
            head,
            include_usage,
            usages: vec![Usage::default(); n_choices],
            timings: Value::Null,
            n_choices,
            tokens,
        }
    }

    fn chunk(&self, index: usize, delta: Value, finish_reason: Option<&str>) -> Value {
        let mut chunk = self.head.clone();
        chunk["choices"] =
            json!([{ "index": index, "delta": delta, "logprobs": null, "finish_reason": finish_reason }]);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }
}

impl Writer for Chunks {
    fn begin(&mut self, out: &mut Frames) {
        for index in 0..self.n_choices {
            out.data(&self.chunk(index, json!({ "role": "assistant", "content": "" }), None));
        }
    }

    fn said(&mut self, Heard { choice, said }: Heard, out: &mut Frames) {
        match said {
            Said::Begun => {}
            Said::Prefill(prefill) => out.comment(&format!("prefill {} of {}", prefill.done, prefill.total)),
            Said::Thinking(text) => out.data(&self.chunk(choice, json!({ "reasoning_content": text }), None)),
            Said::Tokens(tokens) => self.tokens[choice] = tokens,
            Said::Text(text) => {
                let mut chunk = self.chunk(choice, json!({ "content": text }), None);
                chunk["choices"][0]["logprobs"] = likely::of_chat(&std::mem::take(&mut self.tokens[choice]));
                out.data(&chunk);
            }
            Said::Call(call) => {
                let function = json!({ "name": call.name, "arguments": "" });
                let head = json!({ "index": call.index, "id": call.id, "type": "function", "function": function });
                out.data(&self.chunk(choice, json!({ "tool_calls": [head] }), None));
            }
            Said::Arguments(index, json) => {
                let more = json!({ "index": index, "function": { "arguments": json } });
                out.data(&self.chunk(choice, json!({ "tool_calls": [more] }), None));
            }
            Said::Called(_) => {}
            Said::End(finish) => {
                let mut chunk = self.chunk(choice, json!({}), Some(finish_reason(&finish)));
                tell_detail(&mut chunk["choices"][0], &finish);
                self.timings = timings(&finish);
                chunk["timings"] = self.timings.clone();
                self.usages[choice] = finish.usage;
                out.data(&chunk);
            }
            Said::Failed(refusal) => {
                out.data(&refusal.to_json(Dialect::OpenAi));
                out.word("[DONE]");
            }
        }
    }

    fn end(&mut self, out: &mut Frames) {
        if self.include_usage {
            let mut chunk = self.head.clone();
            chunk["choices"] = json!([]);
            chunk["usage"] = usage(&self.usages);
            chunk["timings"] = self.timings.clone();
            out.data(&chunk);
        }
        out.word("[DONE]");
    }

    /// A chunk that says nothing: comments do not reset every client's patience.
    fn alive(&mut self, out: &mut Frames) {
        out.data(&self.chunk(0, json!({}), None));
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::{reply::Framing, said::Call};

    fn wished(request: Value) -> (Option<bool>, Option<Effort>) {
        wishes(&Fields::of(&request, FIELDS).unwrap()).unwrap()
    }

    #[test]
    fn every_spelling_of_a_wish_to_reason_is_understood() {
        assert_eq!(wished(json!({})), (None, None));
        for no in [
            json!({"reasoning_effort": "none"}),
            json!({"thinking": {"type": "disabled"}}),
            json!({"think": false}),
            json!({"enable_thinking": false}),
            json!({"reasoning": {"enabled": false}}),
            json!({"chat_template_kwargs": {"enable_thinking": false}}),
            json!({"reasoning_effort": "high", "think": false}),
        ] {
            assert_eq!(wished(no.clone()), (Some(false), None), "{no}");
        }
        assert_eq!(wished(json!({"thinking": {"type": "enabled"}})), (Some(true), None));
        assert_eq!(wished(json!({"thinking": {"type": "adaptive"}})), (None, None));
        assert_eq!(wished(json!({"reasoning_effort": "medium"})), (None, Some(Effort::High)));
        assert_eq!(wished(json!({"reasoning": {"effort": "minimal"}})), (None, Some(Effort::Low)));
        assert_eq!(wished(json!({"chat_template_kwargs": {"reasoning_effort": "max"}})), (None, Some(Effort::Max)));
    }

    #[test]
    fn calls_come_head_first_and_arguments_as_they_are_written() {
        let mut chunks = Chunks {
            head: json!({}),
            include_usage: false,
            usages: vec![Usage::default()],
            timings: Value::Null,
            n_choices: 1,
            tokens: vec![Vec::new()],
        };
        let call = Call { index: 0, id: "call_1".into(), name: "look".into() };
        let heard =
            [Said::Call(call), Said::Arguments(0, "{\"a\":".into()), Said::Arguments(0, "1}".into()), Said::Called(0)];
        let mut out = Frames::new(Framing::Events);
        heard.into_iter().for_each(|said| chunks.said(Heard { choice: 0, said }, &mut out));
        let text = String::from_utf8(out.take().to_vec()).unwrap();
        let delta = |line: &str| {
            serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok()?["choices"][0]["delta"].to_string().into()
        };
        let deltas: Vec<String> = text.lines().filter_map(delta).collect();
        expect![[r#"
            [
                "{\"tool_calls\":[{\"index\":0,\"id\":\"call_1\",\"type\":\"function\",\"function\":{\"name\":\"look\",\"arguments\":\"\"}}]}",
                "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"a\\\":\"}}]}",
                "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"1}\"}}]}",
            ]
        "#]]
        .assert_debug_eq(&deltas);
    }

    #[test]
    fn tools_and_calls_are_read_as_clients_write_them() {
        let read = |request: Value| tools(&Fields::of(&request, FIELDS).unwrap()).map_err(|refusal| refusal.message);
        let tool = json!({"type": "function", "function": {"name": "look", "parameters": {}}});
        let (tools, choice) = read(json!({"tools": [tool, {"name": "go"}], "tool_choice": "required"})).unwrap();
        assert_eq!(tools.iter().map(|tool| &tool.name[..]).collect::<Vec<_>>(), ["look", "go"]);
        assert_eq!(choice.call, Calls::Must(None));
        let allowed = |names: &[&str], mode: &str| {
            let tools: Vec<Value> =
                names.iter().map(|name| json!({"type": "function", "function": {"name": name}})).collect();
            let allowed = json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}});
            read(json!({"tools": [tool, {"name": "go"}], "tool_choice": allowed, "parallel_tool_calls": false}))
        };
        let only_go = ToolChoice { call: Calls::Must(None), callable: Some(vec!["go".into()]), one_call: true };
        assert_eq!(allowed(&["go"], "required").unwrap().1, only_go);
        assert_eq!(allowed(&["go"], "auto").unwrap().1, ToolChoice { call: Calls::Auto, ..only_go });
        for none in [&["stay"][..], &[]] {
            assert_eq!(allowed(none, "auto").unwrap_err(), "tool_choice: allows what is none of the tools");
        }
        let named = json!({"tools": [tool], "tool_choice": {"type": "function", "function": {"name": "look"}}});
        assert_eq!(read(named).unwrap().1.call, Calls::Must(Some("look".into())));
        let other = json!({"tools": [tool], "tool_choice": {"type": "function", "function": {"name": "go"}}});
        assert_eq!(read(other).unwrap_err(), "tool_choice: names none of the tools");
        assert_eq!(
            read(json!({"tools": [{"type": "function", "function": {}}]})).unwrap_err(),
            "tools[0].function.name: must be a name of 1 to 128 letters, digits and _ - . : /"
        );
        assert_eq!(
            read(json!({"tools": [{"name": "look", "strict": "yes"}]})).unwrap_err(),
            "tools[0].strict: must be true or false"
        );
        let message = json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        ]});
        let message = super::message(&message, "messages[0]", &mut Called::default()).unwrap();
        assert_eq!((message.text.as_str(), message.calls.len()), ("", 1));
        assert_eq!(read(json!({"tools": [tool, tool]})).unwrap_err(), "tools: two of them are called look");
    }

    #[test]
    fn what_a_role_cannot_say_is_refused_by_name() {
        let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "look", "arguments": "{}"}});
        let calls = |ids: &[&str]| json!({"role": "assistant", "tool_calls": ids.iter().map(|id| call(id)).collect::<Vec<_>>()});
        let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "x"});
        let user = json!({"role": "user", "content": "Why?"});
        let with = |name: &str, value: Value| {
            let mut message = user.clone();
            message[name] = value;
            message
        };
        let check = |messages: &[Value], why: &str| {
            let mut called = Called::default();
            let read = |(i, m)| super::message(m, &format!("messages[{i}]"), &mut called);
            let read: Result<Vec<_>, _> = messages.iter().enumerate().map(read).collect();
            assert_eq!(read.map(|_| ()).map_err(|refusal| refusal.message).err().unwrap_or_default(), why);
        };
        check(&[calls(&["a", "b"]), result("b"), user.clone(), result("a"), calls(&["a"]), result("a")], "");
        check(&[json!({"role": "tool", "content": "x"})], "messages[0].tool_call_id: is missing");
        check(
            &[calls(&["a"]), result("b")],
            "messages[1].tool_call_id: is the id of no call of the assistant's last turn",
        );
        check(
            &[calls(&["a"]), json!({"role": "assistant", "content": "No."}), result("a")],
            "messages[2].tool_call_id: is the id of no call of the assistant's last turn",
        );
        check(
            &[calls(&["a"]), result("a"), result("a")],
            "messages[2].tool_call_id: is the id of a call that has its result already",
        );
        check(&[calls(&["a", "a"])], "messages[0].tool_calls[1].id: is the id of another call of that turn, too");
        check(&[with("tool_call_id", json!("a"))], "messages[0].tool_call_id: only a tool's message can have it");
        check(&[with("reasoning", json!("So"))], "messages[0].reasoning: only an assistant's message can have it");
        check(
            &[with("tool_calls", json!([call("a")]))],
            "messages[0].tool_calls: only an assistant's message can have it",
        );
        check(&[with("tool_calls", json!([])), with("reasoning_content", json!(""))], "");
    }
}
