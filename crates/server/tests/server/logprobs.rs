//! Probabilities of tokens, and the texts that the tokens make up.

use crate::common::{Setup, start};
use serde_json::{Value, json};

fn chat(more: Value) -> Value {
    let mut request = json!({
        "messages": [{ "role": "user", "content": "Hello there" }], "max_tokens": 40, "temperature": 0, "think": false,
        "logprobs": true, "top_logprobs": 3,
    });
    request.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
    request
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// The text of tokens, by their bytes.
fn text_of(tokens: &[Value]) -> String {
    let bytes = tokens.iter().flat_map(|token| list(&token["bytes"]));
    let bytes: Vec<u8> = bytes.map(|byte| byte.as_u64().expect("a byte") as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn the_tokens_of_a_chat_are_its_text_whole_and_streamed() {
    let server = start(Setup::default());
    let reply = server.post("/v1/chat/completions", &chat(json!({}))).json();
    let choice = &reply["choices"][0];
    let tokens = list(&choice["logprobs"]["content"]);
    assert_eq!(text_of(&tokens), choice["message"]["content"].as_str().expect("a text"));
    assert_eq!(tokens.len(), 40);
    for token in &tokens {
        let top = list(&token["top_logprobs"]);
        let values: Vec<f64> = top.iter().map(|top| top["logprob"].as_f64().expect("a number")).collect();
        assert!(values.is_sorted_by(|a, b| a >= b) && values.iter().map(|x| x.exp()).sum::<f64>() <= 1.0 + 1e-5);
        // The likeliest was taken.
        assert_eq!((top.len(), &top[0]["bytes"], &top[0]["logprob"]), (3, &token["bytes"], &token["logprob"]));
    }
    let stream = server.post("/v1/chat/completions", &chat(json!({"stream": true})));
    let mut streamed = Vec::new();
    for event in stream.events() {
        let told = list(&event["choices"][0]["logprobs"]["content"]);
        let text = event["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        assert_eq!(told.is_empty(), text.is_empty(), "{event}");
        streamed.extend(told);
    }
    assert_eq!(streamed, tokens);
}

#[test]
fn tokens_of_reasoning_are_not_told_and_what_is_not_asked_for_is_null() {
    let server = start(Setup::default());
    let reply = server.post("/v1/chat/completions", &chat(json!({"think": true, "max_tokens": 10}))).json();
    assert_eq!(reply["choices"][0]["message"]["content"], "");
    assert_eq!(reply["choices"][0]["logprobs"], Value::Null);
    let reply = server.post("/v1/chat/completions", &chat(json!({"logprobs": false, "top_logprobs": 0}))).json();
    assert_eq!(reply["choices"][0]["logprobs"], Value::Null);
    let refused = server.post("/v1/chat/completions", &chat(json!({"logprobs": null}))).json();
    assert_eq!(refused["error"]["message"], "top_logprobs: is for requests with logprobs");
}

#[test]
fn tokens_of_one_character_are_told_once_with_it() {
    let server = start(Setup::default());
    let reply = server.post("/v1/chat/completions", &chat(json!({"structured_outputs": {"regex": "a日é🙂b"}}))).json();
    let tokens = list(&reply["choices"][0]["logprobs"]["content"]);
    assert_eq!(text_of(&tokens), "a日é🙂b");
    let request =
        json!({"prompt": "Once", "temperature": 0, "max_tokens": 40, "logprobs": 2, "guided_regex": "a日é🙂b"});
    let whole = server.post("/v1/completions", &request).json();
    let told = &whole["choices"][0]["logprobs"];
    assert_eq!(list(&told["tokens"]).len(), tokens.len());
    let offsets: Vec<u64> =
        list(&told["text_offset"]).iter().map(|offset| offset.as_u64().expect("a number")).collect();
    assert!(offsets.is_sorted() && offsets[0] == 0 && *offsets.last().expect("some") == 4, "{offsets:?}");
    let mut streamed = json!({"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []});
    let mut request = request;
    request["stream"] = json!(true);
    for event in server.post("/v1/completions", &request).events() {
        for (name, all) in streamed.as_object_mut().expect("it is one") {
            all.as_array_mut().expect("it is one").extend(list(&event["choices"][0]["logprobs"][name]));
        }
    }
    assert_eq!(streamed, *told);
}

#[test]
fn completions_tell_what_they_say_and_where() {
    let server = start(Setup::default());
    let request = |more: Value| {
        let mut request = json!({"prompt": "Once", "temperature": 0, "max_tokens": 30, "logprobs": 0});
        request.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
        server.post("/v1/completions", &request).json()
    };
    let reply = request(json!({}));
    let (text, told) = (reply["choices"][0]["text"].as_str().expect("a text"), &reply["choices"][0]["logprobs"]);
    let (tokens, offsets) = (list(&told["tokens"]), list(&told["text_offset"]));
    assert_eq!(tokens.len(), 30);
    let chars: Vec<char> = text.chars().collect();
    for (token, offset) in tokens.iter().zip(&offsets) {
        let (token, offset) = (token.as_str().expect("a text"), offset.as_u64().expect("a number") as usize);
        if !token.starts_with("bytes:") {
            assert!(chars[offset..].iter().collect::<String>().starts_with(token), "{token:?} at {offset} of {text:?}");
        }
    }
    // What ends an answer is no part of it, and its tokens are not either.
    let stop: String = chars[10..12].iter().collect();
    let stopped = request(json!({"stop": stop}));
    let n_told = list(&stopped["choices"][0]["logprobs"]["tokens"]).len();
    let n_chars = stopped["choices"][0]["text"].as_str().expect("a text").chars().count();
    let last = stopped["choices"][0]["logprobs"]["text_offset"][n_told - 1].as_u64().expect("a number") as usize;
    assert!(n_told < tokens.len() && last < n_chars, "{stopped}");
    assert_eq!(request(json!({"echo": true}))["error"]["param"], "logprobs");
}

#[test]
fn responses_and_ollama_tell_the_same() {
    let server = start(Setup::default());
    let request = json!({"input": "Hello there", "reasoning": {"effort": "none"}, "max_output_tokens": 12, "temperature": 0,
        "include": ["message.output_text.logprobs"], "top_logprobs": 2});
    let reply = server.post("/v1/responses", &request).json();
    let part = &reply["output"][0]["content"][0];
    let tokens = list(&part["logprobs"]);
    assert_eq!((text_of(&tokens).as_str(), tokens.len()), (part["text"].as_str().expect("a text"), 12));
    let mut stream = request.clone();
    stream["stream"] = json!(true);
    let events = server.post("/v1/responses", &stream).events();
    let of = |kind: &str| -> Vec<Value> {
        events.iter().filter(|event| event["type"] == kind).flat_map(|event| list(&event["logprobs"])).collect()
    };
    assert_eq!(of("response.output_text.delta"), tokens);
    assert_eq!(of("response.output_text.done"), tokens);
    let request = json!({"messages": [{"role": "user", "content": "Hello there"}], "think": false, "stream": false,
        "logprobs": true, "top_logprobs": 2, "options": {"temperature": 0, "num_predict": 12}});
    assert_eq!(list(&server.post("/api/chat", &request).json()["logprobs"]), tokens);
}
