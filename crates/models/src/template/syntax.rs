//! Answers with calls as a grammar: [`Syntax`] in the format of Hermes.
//!
//! In the rules `§` and `¤` are the tags around a call, where they are markers of the vocabulary. A text that spells the first one
//! is no text: it would be read as a call.

use serde_json::{Value, json};

use super::hermes::{BEGIN, END};
use crate::chat::{Calls, ChatOptions, End, Hold, Syntax, Tool, alternatives, callable, quoted};

/// See [`Chat::syntax`](crate::Chat::syntax). `marked` tells for each of both tags whether it is a marker.
pub(super) fn syntax(options: &ChatOptions, hold: Hold<'_>, marked: [bool; 2]) -> Syntax {
    let tools = callable(options);
    let mut syntax = Syntax::default();
    let [begin, end] = [(BEGIN, "§"), (END, "¤")];
    let word = |(tag, sign): (&str, &str), is_marker: bool| if is_marker { sign.to_owned() } else { quoted(tag) };
    let (begin, end) = (word(begin, marked[0]), word(end, marked[1]));
    let more = if options.calls_once() { "" } else { " (\"\\n\" call)*" };
    let mut lark = format!(
        "start: {}\n\
         TEXT: {TEXT}\n\
         LINES: /\\n{{1,2}}/\n\
         before: {}\n\
         calls: call{more}\n\
         call: {begin} behind\n\
         behind: \"\\n{{\\\"name\\\": \" ({}) \"}}\\n\" {end}\n",
        start(options, hold),
        if marked[0] {
            format!("TEXT {begin} behind{more}")
        } else {
            format!("BEFORE behind{more}\nBEFORE: ({TEXT}) {begin}")
        },
        alternatives("c", tools.len()),
    );
    for (i, tool) in tools.iter().enumerate() {
        let of = (!hold.loose.contains(&tool.name)).then_some(*tool);
        let schema = syntax.schema(of, &of.map_or_else(any_object, parameters));
        lark +=
            &format!("c{i}: {} @{schema}\n", quoted(&format!("{}, \"arguments\": ", Value::from(tool.name.as_str()))));
    }
    syntax.write(&lark, &[('§', BEGIN), ('¤', END)]);
    syntax
}

/// Any text without the tag that begins calls.
const TEXT: &str = "/(?s:.*)/ & ~/(?s:.*)<tool_call>(?s:.*)/";

/// What the rule `start` says: behind the reasoning there may be some lines.
fn start(options: &ChatOptions, hold: Hold<'_>) -> String {
    match options.call {
        Calls::Must(_) if options.end == End::Continue => "before".to_owned(),
        Calls::Must(_) => "LINES? calls".to_owned(),
        _ if hold.text => format!("@{} | LINES? calls", Syntax::ANSWER),
        _ => "TEXT | before".to_owned(),
    }
}

/// The schema of a tool's arguments, which are an object. One of others has none, and no grammar.
fn parameters(tool: &Tool) -> Value {
    match tool.function.get("parameters") {
        Some(Value::Object(keywords)) => {
            let mut keywords = keywords.clone();
            match keywords.get("type") {
                Some(kind) if !names_object(kind) => {
                    return json!({ "allOf": [{ "type": kind }, { "type": "object" }] });
                }
                _ => keywords.insert("type".to_owned(), "object".into()),
            };
            keywords.into()
        }
        Some(schema) => schema.clone(),
        None => any_object(),
    }
}

fn names_object(kind: &Value) -> bool {
    kind == "object" || kind.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "object"))
}

fn any_object() -> Value {
    json!({ "type": "object" })
}
