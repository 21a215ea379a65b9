//! Calls of tools that are held to what was asked for, of a model that says what it likes.

use crate::common::{Running, Setup, start};
use serde_json::{Value, json};

/// Two tools whose arguments come to an end by themselves.
fn tools() -> Value {
    let look = json!({"type": "object", "required": ["path"], "properties": {
        "path": {"type": "string", "maxLength": 6}, "mode": {"enum": ["r", "rw", 7]}, "n": {"type": ["integer", "null"], "minimum": 0, "maximum": 9}}});
    let wait = json!({"type": "object", "properties": {"on": {"type": "boolean"}, "at": {"$ref": "#/$defs/at"}},
        "$defs": {"at": {"type": "array", "items": {"enum": [1, "a"]}, "maxItems": 2}}});
    json!([
        {"type": "function", "function": {"name": "look", "parameters": look}},
        {"type": "function", "function": {"name": "wait", "parameters": wait}},
    ])
}

fn ask(server: &Running, seed: u64, more: &Value) -> Value {
    let mut request = json!({"messages": [{"role": "user", "content": "Hello"}], "tools": tools(), "temperature": 1,
        "seed": seed, "max_tokens": 900, "reasoning_effort": "none"});
    request.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
    let reply = server.post("/v1/chat/completions", &request);
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()["choices"][0].clone()
}

/// The calls of an answer, which has to be one of calls only.
fn calls(answer: &Value) -> Vec<(String, Value)> {
    assert_eq!(answer["finish_reason"], "tool_calls", "{answer}");
    assert_eq!(answer["message"]["content"].as_str().unwrap_or_default(), "", "{answer}");
    let call = |call: &Value| {
        let text = |key: &str| call["function"][key].as_str().expect("a text");
        (text("name").to_owned(), serde_json::from_str(text("arguments")).unwrap_or_else(|e| panic!("{e}: {call}")))
    };
    answer["message"]["tool_calls"].as_array().expect("calls").iter().map(call).collect()
}

fn is_valid(name: &str, arguments: &Value) -> bool {
    let among = |key: &str, all: Value| arguments.get(key).is_none_or(|value| all.as_array().unwrap().contains(value));
    let keys: Vec<&String> = arguments.as_object().expect("an object").keys().collect();
    match name {
        "look" => {
            arguments["path"].as_str().is_some_and(|path| path.chars().count() <= 6)
                && among("mode", json!(["r", "rw", 7]))
                && among("n", json!([null, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]))
                && keys.iter().all(|key| ["path", "mode", "n"].contains(&key.as_str()))
        }
        "wait" => {
            let is_at = |at: &Value| {
                at.as_array().is_some_and(|at| at.len() <= 2 && at.iter().all(|x| *x == json!(1) || *x == "a"))
            };
            among("on", json!([true, false])) && arguments.get("at").is_none_or(is_at)
        }
        _ => false,
    }
}

#[test]
fn a_call_that_must_be_made_is_made() {
    let server = start(Setup { n_ctx: 4096, ..Setup::default() });
    for seed in 0..3 {
        for more in [
            json!({"tool_choice": "required"}),
            json!({"tool_choice": "required", "parallel_tool_calls": false}),
            json!({"tool_choice": {"type": "function", "function": {"name": "wait"}}}),
            json!({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "look"}}]}}}),
        ] {
            let calls = calls(&ask(&server, seed, &more));
            for (name, arguments) in &calls {
                assert!(is_valid(name, arguments), "{more}: {name} {arguments}");
            }
            let only = match more["tool_choice"]["type"].as_str() {
                None => None,
                Some("function") => Some("wait"),
                _ => Some("look"),
            };
            assert!(only.is_none_or(|only| calls.iter().all(|(name, _)| name == only)), "{more}: {calls:?}");
            let is_one = more["parallel_tool_calls"] == false || only == Some("wait");
            assert!(!is_one || calls.len() == 1, "{more}: {calls:?}");
        }
    }
}

#[test]
fn reasoning_comes_before_a_call_and_has_none() {
    let server = start(Setup { n_ctx: 4096, ..Setup::default() });
    let end = server.post("/tokenize", &json!({"content": "</think>", "parse_special": true})).json()["tokens"][0]
        .to_string();
    for seed in 0..3 {
        let more = json!({"reasoning_effort": "high", "tool_choice": "required", "logit_bias": {end.clone(): 3}});
        let answer = ask(&server, seed, &more);
        for (name, arguments) in calls(&answer) {
            assert!(is_valid(&name, &arguments), "{name} {arguments}");
        }
        assert!(!answer["message"]["reasoning_content"].as_str().unwrap_or_default().contains("DSML"), "{answer}");
    }
}

#[test]
fn an_answer_has_its_form_or_calls() {
    let server = start(Setup { n_ctx: 4096, ..Setup::default() });
    let (mut n_calls, mut n_forms) = (0, 0);
    for seed in 0..12 {
        let answer = ask(&server, seed, &json!({"structured_outputs": {"choice": ["yes", "no"]}}));
        match answer["message"]["content"].as_str() {
            Some("yes" | "no") => n_forms += 1,
            _ => {
                n_calls += 1;
                assert!(calls(&answer).iter().all(|(name, arguments)| is_valid(name, arguments)), "{answer}");
            }
        }
    }
    assert!(n_calls > 0 && n_forms > 0, "{n_calls} and {n_forms}");
}

#[test]
fn a_schema_without_a_grammar_is_kept_as_far_as_can_be_unless_it_is_strict() {
    let server = start(Setup { n_ctx: 4096, ..Setup::default() });
    let tool = |strict: bool, parameters: Value| {
        json!({"tools": [{"type": "function", "function": {"name": "look", "strict": strict, "parameters": parameters}}],
            "tool_choice": "required", "max_tokens": 900, "seed": 1, "messages": [{"role": "user", "content": "?"}], "reasoning_effort": "none"})
    };
    let unkept = json!({"type": "object", "properties": {"x": {"type": "array", "uniqueItems": true, "maxItems": 2}}, "required": ["x"]});
    for (parameters, message) in [
        (unkept.clone(), "tools: the schema of `look`: `uniqueItems` at `#` is not supported"),
        (
            json!({"type": "object", "anyOf": [{}]}),
            "tools: the schema of `look` cannot be kept to: `anyOf` at `#` is not supported for the arguments of a tool",
        ),
    ] {
        let refused = server.post("/v1/chat/completions", &tool(true, parameters));
        assert_eq!(refused.status, 400, "{}", refused.body);
        let refusal = refused.json()["error"]["message"].as_str().expect("a message").to_owned();
        assert!(refusal.starts_with(message), "{refusal}");
    }
    let bounded = json!({"logit_bias": {}});
    let mut request = tool(false, unkept);
    request.as_object_mut().expect("it is one").extend(bounded.as_object().expect("it is one").clone());
    let reply = server.post("/v1/chat/completions", &request);
    assert_eq!(reply.status, 200, "{}", reply.body);
}
