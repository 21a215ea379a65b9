//! Reasoning that is bounded: how it is ended, counted and told, and that its turn is known in the next.

use crate::common::{Running, Setup, start};
use serde_json::{Value, json};

/// A request whose answer says nothing but `a`, for as long as it may: 20 tokens.
fn asked(server: &Running, more: Value) -> Value {
    let tokens = server.post("/tokenize", &json!({"content": "a"})).json()["tokens"].clone();
    assert_eq!(tokens.as_array().map(Vec::len), Some(1), "{tokens}");
    let mut request = json!({
        "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 20, "logit_bias": {tokens[0].to_string(): 100},
    });
    let more = more.as_object().expect("it is one").clone();
    request.as_object_mut().expect("it is one").extend(more);
    request
}

fn ask(server: &Running, more: Value) -> Value {
    let reply = server.post("/v1/chat/completions", &asked(server, more));
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()
}

/// Reasoning, text, tokens of both and of the reasoning, and what became of it.
fn told(reply: &Value) -> (usize, usize, u64, u64, Option<&str>) {
    let (choice, usage) = (&reply["choices"][0], &reply["usage"]);
    let n = |text: &Value| text.as_str().unwrap_or_default().matches('a').count();
    let message = &choice["message"];
    let n_reasoning = usage["completion_tokens_details"]["reasoning_tokens"].as_u64().expect("a number");
    let n_all = usage["completion_tokens"].as_u64().expect("a number");
    (n(&message["reasoning_content"]), n(&message["content"]), n_all, n_reasoning, choice["finish_detail"].as_str())
}

#[test]
fn reasoning_ends_at_its_budget_and_the_answer_follows() {
    let server = start(Setup::default());
    let cut = Some("reasoning_budget");
    assert_eq!(told(&ask(&server, json!({"thinking_budget": 5}))), (5, 14, 20, 5, cut));
    assert_eq!(told(&ask(&server, json!({"reasoning": {"max_tokens": 1}}))), (1, 18, 20, 1, cut));
    // None at all is an answer at once.
    assert_eq!(told(&ask(&server, json!({"thinking": {"type": "enabled", "budget_tokens": 0}}))), (0, 20, 20, 0, None));
    // It is longer than the answer may be, there is none, and nobody reasons.
    for unbound in [json!({"thinking_budget": 20}), json!({"thinking_budget": -1}), json!({})] {
        assert_eq!(told(&ask(&server, unbound.clone())), (20, 0, 20, 20, None), "{unbound}");
    }
    assert_eq!(told(&ask(&server, json!({"thinking_budget": 5, "think": false}))), (0, 20, 20, 0, None));
}

#[test]
fn its_end_is_no_part_of_a_stream() {
    let server = start(Setup::default());
    let reply = server.post("/v1/chat/completions", &asked(&server, json!({"thinking_budget": 5, "stream": true})));
    let (mut reasoning, mut content, mut detail) = (String::new(), String::new(), Value::Null);
    for event in reply.events() {
        let choice = &event["choices"][0];
        reasoning += choice["delta"]["reasoning_content"].as_str().unwrap_or_default();
        content += choice["delta"]["content"].as_str().unwrap_or_default();
        detail = [choice["finish_detail"].clone(), detail].into_iter().find(|d| !d.is_null()).unwrap_or_default();
    }
    assert_eq!((reasoning, content), ("a".repeat(5), "a".repeat(14)));
    assert_eq!(detail, "reasoning_budget");
}

#[test]
fn a_form_and_probabilities_are_those_of_the_answer() {
    let server = start(Setup::default());
    let more = json!({"thinking_budget": 5, "guided_regex": "(yes|no)", "logprobs": true, "n": 2});
    let reply = ask(&server, more);
    for choice in reply["choices"].as_array().expect("it is one") {
        let content = choice["message"]["content"].as_str().expect("a text");
        assert!(["yes", "no"].contains(&content), "{reply}");
        let tokens = choice["logprobs"]["content"].as_array().expect("it is one");
        let spelled: String = tokens.iter().map(|token| token["token"].as_str().expect("a text")).collect();
        assert_eq!(spelled, content);
        assert_eq!((&choice["finish_reason"], &choice["finish_detail"]), (&json!("stop"), &json!("reasoning_budget")));
    }
    let raw = json!({"thinking_budget": 5, "structured_outputs": {"grammar": "start: \"a\"", "raw": true}});
    let reply = server.post("/v1/chat/completions", &asked(&server, raw));
    assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (400, Some("structured_outputs.grammar")));
}

#[test]
fn a_call_that_must_be_made_is_made_behind_it() {
    let server = start(Setup { n_ctx: 4096, ..Setup::default() });
    let parameters = json!({"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]});
    let tools = json!([{"type": "function", "function": {"name": "look", "parameters": parameters}}]);
    let more = json!({"thinking_budget": 5, "tools": tools, "tool_choice": "required", "max_tokens": 200});
    let reply = ask(&server, more);
    let choice = &reply["choices"][0];
    assert_eq!(choice["message"]["reasoning_content"], "aaaaa", "{reply}");
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "look", "{reply}");
}

#[test]
fn a_turn_that_was_cut_is_known_in_the_next() {
    let server = start(Setup::default());
    // With tools the format shows all reasoning again.
    let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {}}}]);
    let first = ask(&server, json!({"thinking_budget": 5, "tools": tools}));
    let n = |reply: &Value, pointer: &str| reply.pointer(pointer).and_then(Value::as_u64).expect("a number");
    // The last token of an answer is computed with what comes behind it.
    let n_known = n(&first, "/usage/prompt_tokens") + n(&first, "/usage/completion_tokens") - 1;
    let messages = json!([
        {"role": "user", "content": "Hi"}, first["choices"][0]["message"], {"role": "user", "content": "And?"},
    ]);
    let second = ask(&server, json!({"messages": messages, "tools": tools}));
    assert!(n(&second, "/usage/prompt_tokens_details/cached_tokens") >= n_known, "{n_known}: {second}");
}

#[test]
fn anthropics_budget_is_kept() {
    let server = start(Setup::default());
    let request = json!({
        "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 40, "temperature": 0,
        "thinking": {"type": "enabled", "budget_tokens": 7},
    });
    let reply = server.post("/v1/messages", &request).json();
    let types: Vec<_> = reply["content"].as_array().expect("it is one").iter().map(|block| &block["type"]).collect();
    assert_eq!(types, ["thinking", "text"], "{reply}");
    assert_eq!(reply["finish_detail"], "reasoning_budget", "{reply}");
}
