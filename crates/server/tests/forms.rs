//! Answers in forms that were asked for, of a model that says what it likes.
#![allow(missing_docs)]

mod common;

use common::{Running, Setup, start};
use serde_json::{Value, json};

/// An answer of each dialect to a question with these fields, as a text.
const DIALECTS: [(&str, fn(&Value) -> &Value); 4] = [
    ("/v1/chat/completions", |reply| &reply["choices"][0]["message"]["content"]),
    ("/v1/completions", |reply| &reply["choices"][0]["text"]),
    ("/v1/responses", |reply| &reply["output"][0]["content"][0]["text"]),
    ("/v1/messages", |reply| &reply["content"][0]["text"]),
];

/// A question in the words of the dialect of `path`.
fn question(path: &str, more: &Value) -> Value {
    let mut request = json!({ "temperature": 1, "seed": 1, "max_tokens": 300 });
    let asked = match path {
        "/v1/completions" => json!({ "prompt": "Once" }),
        "/v1/responses" => json!({ "input": "Hello", "reasoning": { "effort": "none" } }),
        _ => json!({ "messages": [{ "role": "user", "content": "Hello" }], "reasoning_effort": "none" }),
    };
    for fields in [&asked, more] {
        request.as_object_mut().expect("it is one").extend(fields.as_object().expect("it is one").clone());
    }
    request
}

fn answers(server: &Running, more: &Value) -> Vec<String> {
    let answer = |(path, text): &(&str, fn(&Value) -> &Value)| {
        let reply = server.post(path, &question(path, more));
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        text(&reply.json()).as_str().unwrap_or_else(|| panic!("{path}: {}", reply.body)).to_owned()
    };
    DIALECTS.iter().map(answer).collect()
}

#[test]
fn every_dialect_takes_every_form() {
    let server = start(Setup::default());
    let schema = json!({"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"],
        "additionalProperties": false});
    for more in [json!({"structured_outputs": {"json": schema}}), json!({"guided_json": schema.to_string()})] {
        for answer in answers(&server, &more) {
            let answer: Value = serde_json::from_str(&answer).expect("JSON");
            assert!(answer == json!({"n": 1}) || answer == json!({"n": 2}), "{answer}");
        }
    }
    for more in [json!({"structured_outputs": {"regex": "a{2}b"}}), json!({"guided_regex": "a{2}b"})] {
        assert_eq!(answers(&server, &more), ["aab"; 4]);
    }
    for more in
        [json!({"structured_outputs": {"grammar": "start: \"x\" \"yz\""}}), json!({"guided_grammar": "start: \"xyz\""})]
    {
        assert_eq!(answers(&server, &more), ["xyz"; 4]);
    }
    let choice = ["\"yes\"\n", "nö", "nöö"];
    for more in [json!({"structured_outputs": {"choice": choice}}), json!({"guided_choice": choice})] {
        for answer in answers(&server, &more) {
            assert!(choice.contains(&&*answer), "{answer:?}");
        }
    }
}

#[test]
fn a_form_that_is_none_is_refused_by_its_field() {
    let server = start(Setup::default());
    for (more, field) in [
        (json!({"structured_outputs": {"regex": "("}}), "structured_outputs.regex"),
        (json!({"guided_json": {"type": 7}}), "guided_json"),
        (json!({"guided_choice": []}), "guided_choice"),
        (json!({"guided_grammar": "begin: \"a\""}), "guided_grammar"),
    ] {
        for (path, _) in DIALECTS {
            let refused = server.post(path, &question(path, &more));
            let message = refused.json()["error"]["message"].as_str().expect("a message").to_owned();
            assert!(refused.status == 400 && message.starts_with(&format!("{field}: ")), "{path}: {message}");
        }
    }
}
