//! What the model says to a client. It is a model with random weights, so it is held to the words by a grammar: it still samples
//! every token of them, and reading, calling and streaming is the server's own. The grammar is of tokens, not of texts: a text can be cut
//! in several ways, and one that was not cut as the server does it is known only to the server that said it.
//!
//! ```text
//! the client's tool is offered        reasoning </think> a call of the tool, with a file that holds a secret word
//! and its result has been sent        reasoning </think> The word is SECRET. (and the call that ends the work, for who wants one)
//! neither: titles, summaries, chat    reasoning </think> Plain words.
//! ```

use serde_json::{Map, Value};

/// What is said where there is nothing to call.
pub(crate) const PLAIN: &str = "Plain words, as were asked for.";
/// What is said before the secret word.
pub(crate) const FOUND: &str = "The word is ";
/// What secret words begin with.
pub(crate) const SECRET: &str = "word-";

/// What the model thinks.
pub(crate) const REASONING: &str = "Let me think about it.";
/// The token that ends reasoning, and the one in tags of calls.
pub(crate) const MARKS: [&str; 2] = ["</think>", "｜DSML｜"];

/// A call that the model is to make.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) arguments: Value,
    /// Arguments of a second one, by which the work is ended.
    pub(crate) closing: Option<Value>,
}

/// What a client asks of the model, whatever the interface.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// What may be called.
    pub(crate) tools: Vec<String>,
    /// The ids of the calls whose results it tells, and the results' texts.
    pub(crate) results: Vec<(String, String)>,
    thinks: bool,
}

impl Asked {
    /// Reads a request; `None` if it wants no answer.
    pub(crate) fn read(path: &str, request: &Value) -> Option<Asked> {
        let results = match path {
            "/v1/chat/completions" => results(request["messages"].as_array()?, "tool_call_id", "content"),
            "/v1/responses" => match &request["input"] {
                Value::Array(items) => results(items, "call_id", "output"),
                _ => Vec::new(),
            },
            "/v1/messages" => {
                let contents =
                    request["messages"].as_array()?.iter().filter_map(|message| message["content"].as_array());
                results(&contents.flatten().cloned().collect::<Vec<_>>(), "tool_use_id", "content")
            }
            _ => return None,
        };
        let tools = request["tools"].as_array().map(|tools| tools.iter().filter_map(name).collect());
        Some(Asked { tools: tools.unwrap_or_default(), results, thinks: thinks(request) })
    }

    /// What the model is to say.
    pub(crate) fn script(&self, call: Option<&Call>) -> String {
        let offered = call.filter(|call| self.tools.iter().any(|tool| tool == call.name));
        let said = match (self.results.last(), offered) {
            (Some((_, text)), call) => {
                let found = secret(text).unwrap_or("nowhere");
                let closing = call.and_then(|call| Some(called(call.name, call.closing.as_ref()?)));
                format!("{FOUND}{found}.{}", closing.unwrap_or_default())
            }
            (None, Some(call)) => format!("I will look.{}", called(call.name, &call.arguments)),
            (None, None) => PLAIN.to_owned(),
        };
        if self.thinks { format!("{REASONING}{}{said}", MARKS[0]) } else { said }
    }
}

/// What holds an answer to these tokens.
pub(crate) fn grammar(tokens: &[u64]) -> String {
    let tokens: Vec<_> = tokens.iter().map(|id| format!("<[{id}]>")).collect();
    format!("start: {}", tokens.join(" "))
}

/// Those of `items` that are results.
fn results(items: &[Value], id: &str, content: &str) -> Vec<(String, String)> {
    let result = |item: &Value| Some((item[id].as_str()?.to_owned(), texts(item.get(content)?)));
    items.iter().filter_map(result).collect()
}

/// A text, or the texts of parts.
fn texts(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(|part| texts(&part["text"])).collect(),
        _ => String::new(),
    }
}

fn name(tool: &Value) -> Option<String> {
    let name = tool["function"]["name"].as_str().or(tool["name"].as_str());
    name.map(str::to_owned)
}

/// Whether the model is to reason first; it does unless it is told not to.
fn thinks(request: &Value) -> bool {
    let off = [
        request["reasoning_effort"] == "none",
        request["reasoning"]["effort"] == "none",
        request["output_config"]["effort"] == "none",
        request["thinking"]["type"] == "disabled",
        request["enable_thinking"] == false,
        request["chat_template_kwargs"]["enable_thinking"] == false,
    ];
    !off.contains(&true)
}

/// A secret word in a text.
pub(crate) fn secret(text: &str) -> Option<&str> {
    let found = &text[text.find(SECRET)?..];
    let end = found.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(found.len());
    Some(&found[..end])
}

/// A call as DeepSeek V4 writes it.
fn called(name: &str, arguments: &Value) -> String {
    let dsml = MARKS[1];
    let parameter = |(key, value): (&String, &Value)| {
        let (is_text, value) = match value {
            Value::String(text) => (true, text.clone()),
            other => (false, other.to_string()),
        };
        format!("<{dsml}parameter name=\"{key}\" string=\"{is_text}\">{value}</{dsml}parameter>\n")
    };
    let none = Map::new();
    let parameters: String = arguments.as_object().unwrap_or(&none).iter().map(parameter).collect();
    let invoke = format!("<{dsml}invoke name=\"{name}\">\n{parameters}</{dsml}invoke>");
    format!("\n\n<{dsml}tool_calls>\n{invoke}\n</{dsml}tool_calls>")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn look() -> Call {
        Call { name: "look", arguments: json!({"path": "a \"b\"", "n": 3}), closing: None }
    }

    #[test]
    fn a_tool_that_is_offered_is_called_until_its_result_is_there() {
        let tools = json!([{"type": "function", "function": {"name": "look"}}]);
        let asked = |messages: Value| {
            Asked::read("/v1/chat/completions", &json!({"messages": messages, "tools": tools})).unwrap()
        };
        let first = asked(json!([{"role": "user", "content": "Hi"}]));
        assert_eq!(
            first.script(Some(&look())).replace("｜DSML｜", "*"),
            concat!(
                "Let me think about it.</think>I will look.\n\n<*tool_calls>\n<*invoke name=\"look\">\n<",
                "*parameter name=\"path\" string=\"true\">a \"b\"</*parameter>\n<",
                "*parameter name=\"n\" string=\"false\">3</*parameter>\n</*invoke>\n</*tool_calls>"
            )
        );
        assert_eq!(first.script(Some(&Call { name: "other", ..look() })), format!("{REASONING}</think>{PLAIN}"));
        let told = asked(json!([{"role": "tool", "tool_call_id": "1", "content": [{"text": "It is word-ab12."}]}]));
        assert_eq!(told.script(Some(&look())), format!("{REASONING}</think>The word is word-ab12."));
        let closing = Call { closing: Some(json!({})), ..look() };
        let script = told.script(Some(&closing));
        assert!(
            script.contains("The word is word-ab12.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"look\">"),
            "{script}"
        );
    }

    #[test]
    fn a_grammar_is_of_tokens() {
        assert_eq!(grammar(&[7, 8]), "start: <[7]> <[8]>");
    }

    #[test]
    fn all_interfaces_tell_results() {
        let results = |path, request: Value| Asked::read(path, &request).unwrap().results;
        let expected = [("1".to_owned(), "x".to_owned())];
        assert_eq!(
            results(
                "/v1/responses",
                json!({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]})
            ),
            expected
        );
        let block = json!({"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "x"}]});
        assert_eq!(results("/v1/messages", json!({"messages": [{"role": "user", "content": [block]}]})), expected);
    }

    #[test]
    fn who_asks_for_no_reasoning_gets_none() {
        let request = json!({"messages": [], "thinking": {"type": "disabled"}});
        assert_eq!(Asked::read("/v1/messages", &request).unwrap().script(None), PLAIN);
    }
}
