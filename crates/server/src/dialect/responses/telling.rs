//! How responses are told.
//!
//! ```text
//! response.created, .in_progress, then for each item of the answer: output_item.added, its parts and deltas, output_item.done;
//! response.completed, .incomplete or .failed
//! ```
//!
//! An item whose call breaks off is never done, so that nobody makes the call.

use std::sync::Arc;

use models::ToolCall;
use serde_json::{Map, Value, json};

use crate::{
    dialect::{new_id, tell_detail},
    error::Refusal,
    likely::{self, Token},
    reply::{Choice, Frames, Writer},
    said::{Call, Finish, Heard, Said, Usage},
    seal::Sealer,
};

/// How the answer is to be told.
#[derive(Clone, Debug)]
pub(crate) struct Telling {
    /// What replies repeat of the request.
    pub(super) head: Map<String, Value>,
    pub(super) origins: Vec<Origin>,
    /// Reasoning is told as its summary.
    pub(super) summary: bool,
    /// Reasoning is also told sealed.
    pub(super) sealed: bool,
    pub(super) sealer: Arc<Sealer>,
}

/// Where a tool that is shown to the model as a function comes from.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// As the model sees it.
    pub(super) shown: String,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    /// It is given a text, not arguments.
    pub(super) custom: bool,
}

/// A reply with these items. Only one that is complete repeats the tools, which are long.
fn response(telling: &Telling, status: &str, output: &[Value], finish: Option<&Finish>) -> Value {
    let mut response = Value::Object(telling.head.clone());
    if finish.is_none() {
        response["tools"] = json!([]);
    }
    response["status"] = json!(status);
    response["error"] = Value::Null;
    response["incomplete_details"] = match status {
        "incomplete" => json!({ "reason": "max_output_tokens" }),
        _ => Value::Null,
    };
    response["output"] = json!(output);
    response["usage"] = finish.map_or(Value::Null, |finish| usage(finish.usage));
    if let Some(finish) = finish {
        tell_detail(&mut response, finish);
    }
    response
}

/// How far an answer got.
fn status(finish: &Finish) -> &'static str {
    if finish.was_cut() { "incomplete" } else { "completed" }
}

fn usage(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.n_prompt,
        "input_tokens_details": { "cached_tokens": usage.n_cached },
        "output_tokens": usage.n_answer,
        "output_tokens_details": { "reasoning_tokens": usage.n_reasoning },
        "total_tokens": usage.n_prompt + usage.n_answer,
    })
}

/// Reasoning that is done.
fn reasoning_item(telling: &Telling, id: &str, text: &str) -> Value {
    let mut item = json!({ "id": id, "type": "reasoning", "summary": [] });
    match telling.summary {
        true => item["summary"] = json!([{ "type": "summary_text", "text": text }]),
        false => item["content"] = json!([{ "type": "reasoning_text", "text": text }]),
    }
    if telling.sealed {
        item["encrypted_content"] = json!(telling.sealer.seal(text));
    }
    item
}

fn text_part(text: &str, tokens: &[Token]) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": likely::list(tokens) })
}

fn message_item(id: &str, status: &str, content: &[Value]) -> Value {
    json!({ "id": id, "type": "message", "status": status, "role": "assistant", "content": content })
}

/// A call as its tool was offered.
fn call_item(telling: &Telling, id: &str, status: &str, call: &ToolCall) -> Value {
    let origin = telling.origins.iter().find(|origin| origin.shown == call.name);
    let mut item = json!({ "id": id, "type": "function_call", "status": status, "call_id": call.id });
    item["name"] = json!(origin.map_or(&call.name, |origin| &origin.name));
    if let Some(namespace) = origin.and_then(|origin| origin.namespace.as_ref()) {
        item["namespace"] = json!(namespace);
    }
    if origin.is_some_and(|origin| origin.custom) {
        item["type"] = json!("custom_tool_call");
        item["input"] = json!(custom_input(&call.arguments));
    } else {
        item["arguments"] = json!(call.arguments);
    }
    item
}

/// What a custom tool's text is called, as an argument.
pub(super) const INPUT: &str = "input";

/// The text for a custom tool; where the model wrote no object around it, what it wrote.
fn custom_input(arguments: &str) -> String {
    let object: Option<Value> = serde_json::from_str(arguments).ok();
    object.and_then(|object| object[INPUT].as_str().map(str::to_owned)).unwrap_or_else(|| arguments.to_owned())
}

/// The answer as a whole.
pub(crate) fn reply(telling: &Telling, choice: &Choice) -> Value {
    let mut output = Vec::new();
    if !choice.reasoning.is_empty() {
        output.push(reasoning_item(telling, &new_id("rs_"), &choice.reasoning));
    }
    if !choice.text.is_empty() {
        output.push(message_item(&new_id("msg_"), status(&choice.finish), &[text_part(&choice.text, &choice.tokens)]));
    }
    for call in &choice.calls {
        output.push(call_item(telling, &new_id("fc_"), "completed", call));
    }
    response(telling, status(&choice.finish), &output, Some(&choice.finish))
}

/// Writes events.
pub(crate) struct Events {
    telling: Telling,
    n_events: usize,
    /// Items that have begun: a call that breaks off is never done.
    n_items: usize,
    /// Items that are done.
    output: Vec<Value>,
    item: Option<Item>,
    /// Tokens that wait for their text.
    tokens: Vec<Token>,
}

/// The item that is open.
struct Item {
    id: String,
    what: What,
}

enum What {
    Reasoning(String),
    Message(String, Vec<Token>),
    Call(ToolCall),
}

impl Events {
    pub(crate) fn new(telling: Telling) -> Events {
        Events { telling, n_events: 0, n_items: 0, output: Vec::new(), item: None, tokens: Vec::new() }
    }

    fn event(&mut self, name: &str, data: Value, out: &mut Frames) {
        let mut event = json!({ "type": name, "sequence_number": self.n_events });
        if let (Value::Object(event), Value::Object(data)) = (&mut event, data) {
            event.extend(data);
        }
        self.n_events += 1;
        out.event(name, &event);
    }

    /// An event about the item that is open.
    fn of_item(&mut self, name: &str, mut data: Value, out: &mut Frames) {
        let Some(item) = &self.item else { return };
        data["item_id"] = json!(item.id);
        data["output_index"] = json!(self.n_items - 1);
        self.event(name, data, out);
    }

    fn open(&mut self, item: Item, shown: &Value, out: &mut Frames) {
        let added = json!({ "output_index": self.n_items, "item": shown });
        self.n_items += 1;
        self.event("response.output_item.added", added, out);
        self.item = Some(item);
    }

    /// The item that is open is done.
    fn done(&mut self, item: Value, out: &mut Frames) {
        let done = json!({ "output_index": self.n_items - 1, "item": item });
        self.event("response.output_item.done", done, out);
        self.output.push(item);
        self.item = None;
    }

    /// Ends the item that is open, which gets this status. A call that is not complete ends without being done.
    fn close(&mut self, status: &str, out: &mut Frames) {
        let Some(Item { id, what }) = &self.item else { return };
        match what {
            What::Reasoning(text) => {
                let (item, text) = (reasoning_item(&self.telling, id, text), text.clone());
                self.reasoned(&text, out);
                self.done(item, out);
            }
            What::Message(text, tokens) => {
                let (part, text) = (text_part(text, tokens), text.clone());
                let item = message_item(id, status, std::slice::from_ref(&part));
                let done = json!({ "content_index": 0, "text": text, "logprobs": part["logprobs"] });
                self.of_item("response.output_text.done", done, out);
                self.of_item("response.content_part.done", json!({ "content_index": 0, "part": part }), out);
                self.done(item, out);
            }
            What::Call(_) => self.item = None,
        }
    }

    fn reasoned(&mut self, text: &str, out: &mut Frames) {
        if self.telling.summary {
            let part = json!({ "type": "summary_text", "text": text });
            self.of_item("response.reasoning_summary_text.done", json!({ "summary_index": 0, "text": text }), out);
            self.of_item("response.reasoning_summary_part.done", json!({ "summary_index": 0, "part": part }), out);
        } else {
            let part = json!({ "type": "reasoning_text", "text": text });
            self.of_item("response.reasoning_text.done", json!({ "content_index": 0, "text": text }), out);
            self.of_item("response.content_part.done", json!({ "content_index": 0, "part": part }), out);
        }
    }

    fn think(&mut self, more: &str, out: &mut Frames) {
        if !matches!(&self.item, Some(Item { what: What::Reasoning(_), .. })) {
            self.close("completed", out);
            let id = new_id("rs_");
            let shown = json!({ "id": id, "type": "reasoning", "summary": [] });
            self.open(Item { id, what: What::Reasoning(String::new()) }, &shown, out);
            if self.telling.summary {
                let part = json!({ "type": "summary_text", "text": "" });
                self.of_item("response.reasoning_summary_part.added", json!({ "summary_index": 0, "part": part }), out);
            } else {
                let part = json!({ "type": "reasoning_text", "text": "" });
                self.of_item("response.content_part.added", json!({ "content_index": 0, "part": part }), out);
            }
        }
        if let Some(Item { what: What::Reasoning(text), .. }) = &mut self.item {
            text.push_str(more);
        }
        if self.telling.summary {
            let delta = json!({ "summary_index": 0, "delta": more });
            self.of_item("response.reasoning_summary_text.delta", delta, out);
        } else {
            self.of_item("response.reasoning_text.delta", json!({ "content_index": 0, "delta": more }), out);
        }
    }

    fn text(&mut self, more: &str, out: &mut Frames) {
        if !matches!(&self.item, Some(Item { what: What::Message(..), .. })) {
            self.close("completed", out);
            let id = new_id("msg_");
            let shown = message_item(&id, "in_progress", &[]);
            self.open(Item { id, what: What::Message(String::new(), Vec::new()) }, &shown, out);
            let added = json!({ "content_index": 0, "part": text_part("", &[]) });
            self.of_item("response.content_part.added", added, out);
        }
        let logprobs = likely::list(&self.tokens);
        if let Some(Item { what: What::Message(text, tokens), .. }) = &mut self.item {
            text.push_str(more);
            tokens.append(&mut self.tokens);
        }
        let delta = json!({ "content_index": 0, "delta": more, "logprobs": logprobs });
        self.of_item("response.output_text.delta", delta, out);
    }

    fn call(&mut self, Call { id: call_id, name, .. }: Call, out: &mut Frames) {
        self.close("completed", out);
        let (id, call) = (new_id("fc_"), ToolCall { id: call_id, name, arguments: String::new() });
        let shown = call_item(&self.telling, &id, "in_progress", &call);
        self.open(Item { id, what: What::Call(call) }, &shown, out);
    }

    /// More of the arguments. Those of a custom tool are a text inside, and wait for their end.
    fn arguments(&mut self, json: &str, out: &mut Frames) {
        let Some(Item { what: What::Call(call), .. }) = &mut self.item else { return };
        call.arguments.push_str(json);
        if !self.telling.origins.iter().any(|origin| origin.custom && origin.shown == call.name) {
            self.of_item("response.function_call_arguments.delta", json!({ "delta": json }), out);
        }
    }

    fn called(&mut self, out: &mut Frames) {
        let Some(Item { id, what: What::Call(call) }) = &self.item else { return };
        let item = call_item(&self.telling, id, "completed", call);
        match item["input"].as_str() {
            Some(input) => {
                self.of_item("response.custom_tool_call_input.delta", json!({ "delta": input }), out);
                self.of_item("response.custom_tool_call_input.done", json!({ "input": input }), out);
            }
            None => {
                let done = json!({ "name": item["name"], "arguments": item["arguments"] });
                self.of_item("response.function_call_arguments.done", done, out);
            }
        }
        self.done(item, out);
    }

    fn finish(&mut self, finish: &Finish, out: &mut Frames) {
        let status = status(finish);
        self.close(status, out);
        let response = response(&self.telling, status, &self.output, Some(finish));
        self.event(&format!("response.{status}"), json!({ "response": response }), out);
    }

    fn fail(&mut self, refusal: &Refusal, out: &mut Frames) {
        let mut response = response(&self.telling, "failed", &self.output, None);
        response["error"] = json!({ "code": refusal.code, "message": refusal.message });
        self.event("response.failed", json!({ "response": response }), out);
    }
}

impl Writer for Events {
    fn begin(&mut self, out: &mut Frames) {
        let response = response(&self.telling, "in_progress", &[], None);
        self.event("response.created", json!({ "response": response }), out);
        self.alive(out);
    }

    fn said(&mut self, Heard { said, .. }: Heard, out: &mut Frames) {
        match said {
            Said::Begun => {}
            Said::Prefill(prefill) => out.comment(&format!("prefill {} of {}", prefill.done, prefill.total)),
            Said::Thinking(text) => self.think(&text, out),
            Said::Tokens(tokens) => self.tokens = tokens,
            Said::Text(text) => self.text(&text, out),
            Said::Call(call) => self.call(call, out),
            Said::Arguments(_, json) => self.arguments(&json, out),
            Said::Called(_) => self.called(out),
            Said::End(finish) => self.finish(&finish, out),
            Said::Failed(refusal) => self.fail(&refusal, out),
        }
    }

    /// The end of the answer was the last event.
    fn end(&mut self, _: &mut Frames) {}

    /// An event that repeats what is known: comments do not reset every client's patience.
    fn alive(&mut self, out: &mut Frames) {
        let response = response(&self.telling, "in_progress", &[], None);
        self.event("response.in_progress", json!({ "response": response }), out);
    }
}
