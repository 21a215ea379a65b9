//! Answers in forms that were asked for, of a model that says what it likes.

use crate::common::{Running, Setup, start};
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
fn every_dialect_has_a_name_of_its_own_for_schemas() {
    let server = start(Setup::default());
    let schema = json!({"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"],
        "additionalProperties": false});
    let is_valid = |path: &str, more: Value, text: fn(&Value) -> &Value| {
        let reply = server.post(path, &question(path, &more)).json();
        let answer: Value = serde_json::from_str(text(&reply).as_str().unwrap_or_else(|| panic!("{path}: {reply}")))
            .unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(answer == json!({"n": 1}) || answer == json!({"n": 2}), "{path}: {answer}");
        reply
    };
    let flat = json!({"type": "json_schema", "name": "x", "strict": true, "schema": schema});
    let [_, _, (responses, of_responses), (messages, of_messages)] = DIALECTS;
    let reply = is_valid(responses, json!({"text": {"format": flat}}), of_responses);
    assert_eq!(reply["text"]["format"], flat);
    is_valid(messages, json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}}), of_messages);
    is_valid(messages, json!({"output_format": {"type": "json_schema", "schema": schema}}), of_messages);
    let ollama = |more: Value| {
        let mut request =
            json!({"stream": false, "think": false, "options": {"temperature": 1, "seed": 1, "num_predict": 300}});
        request.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
        request
    };
    let chat = json!({"messages": [{"role": "user", "content": "Hello"}], "format": schema});
    for (path, more) in [
        ("/api/chat", chat),
        ("/api/generate", json!({"prompt": "Hello", "format": schema})),
        ("/api/generate", json!({"prompt": "Hello", "format": schema, "raw": true})),
    ] {
        let reply = server.post(path, &ollama(more)).json();
        let text = reply["message"]["content"].as_str().or(reply["response"].as_str()).expect("a text");
        assert!([r#"{"n":1}"#, r#"{"n":2}"#].contains(&&*text.split_whitespace().collect::<String>()), "{text}");
    }
    let refused = server.post("/api/chat", &ollama(json!({"messages": [], "format": "yaml"})));
    assert_eq!(refused.json()["error"], "format: must be json, or a schema");
}

#[test]
fn a_form_may_have_many_ways_to_go_on() {
    let server = start(Setup::default());
    let texts: Vec<String> = (0..2500).map(|i| format!("text {i}")).collect();
    answers(&server, &json!({"structured_outputs": {"choice": texts}}));
    let optional = (0..900).map(|i| (format!("p{i}"), json!({"type": "boolean"}))).collect::<serde_json::Map<_, _>>();
    let schema = json!({"guided_json": {"type": "object", "properties": optional}, "max_tokens": 20});
    let reply = server.post("/v1/completions", &question("/v1/completions", &schema));
    assert_eq!(reply.status, 200, "{}", reply.body);
}

#[test]
fn what_is_too_complex_is_the_requests_matter() {
    let server = start(Setup::default());
    let rules: String = (0..3000).map(|i| format!("| \"a{i}\" start ")).collect();
    let more = json!({"structured_outputs": {"grammar": format!("start: \"b\" {rules}")}});
    let reply = server.post("/v1/completions", &question("/v1/completions", &more));
    assert!([200, 400].contains(&reply.status), "{}", reply.body);
}

#[test]
fn ollamas_options_take_every_form() {
    let server = start(Setup::default());
    let ask = |path: &str, options: Value, format: Value| {
        let asked = json!({"messages": [{"role": "user", "content": "Hello"}]});
        let mut request = if path == "/api/chat" { asked } else { json!({"prompt": "Hello"}) };
        let more = json!({"stream": false, "think": false, "options": options, "format": format});
        request.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
        server.post(path, &request).json()
    };
    let regex = json!({"structured_outputs": {"regex": "a{2}b"}});
    assert_eq!(ask("/api/chat", regex.clone(), Value::Null)["message"]["content"], "aab");
    assert_eq!(ask("/api/generate", regex.clone(), Value::Null)["response"], "aab");
    assert_eq!(ask("/api/generate", json!({"guided_choice": ["yes"]}), Value::Null)["response"], "yes");
    assert_eq!(
        ask("/api/chat", regex, json!("json"))["error"],
        "options.structured_outputs.regex: cannot be kept beside format: an answer has one form"
    );
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

#[test]
fn a_grammar_may_be_of_all_that_is_generated() {
    let server = start(Setup::default());
    let ids = server.post("/tokenize", &json!({"content": "</think>", "parse_special": true})).json();
    let grammar = format!("start: \"Hm.\" <[{}]> \"So.\"", ids["tokens"][0]);
    let form = json!({"grammar": grammar, "raw": true});
    let asked = json!({"messages": [{"role": "user", "content": "Hello"}], "think": true, "structured_outputs": form});
    let message = &server.post("/v1/chat/completions", &asked).json()["choices"][0]["message"];
    assert_eq!((&message["reasoning_content"], &message["content"]), (&json!("Hm."), &json!("So.")));
    // What is asked of calls beside it would be passed over.
    let tools = json!([{"type": "function", "function": {"name": "look"}}]);
    for more in [json!({"tool_choice": "required"}), json!({"parallel_tool_calls": false})] {
        let mut both = asked.clone();
        both["tools"] = tools.clone();
        both.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
        let reply = server.post("/v1/chat/completions", &both);
        assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (400, Some("structured_outputs.grammar")));
    }
}
