//! Answers that say the same again and again: what is told of them.

use std::sync::Mutex;

use crate::common::{Running, Setup, post, start, wait_for};
use serde_json::{Map, Value, json};
use server::Log;

/// What the server tells.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn tell(line: &str) {
    LINES.lock().expect("nobody panics").push(line.to_owned());
}

/// What is told of a request.
fn told(id: &str) -> Option<Value> {
    let lines = LINES.lock().expect("nobody panics");
    let line = lines.iter().find(|line| line.contains(id))?;
    Some(serde_json::from_str(line).expect("it is JSON"))
}

fn tokens(server: &Running, text: &str) -> Vec<Value> {
    let reply = server.post("/tokenize", &json!({"content": text, "parse_special": true})).json();
    reply["tokens"].as_array().expect("they are a list").clone()
}

#[test]
fn nobody_hears_of_what_was_dropped() {
    const ROUND: &str = "one,two,three;";
    let server = start(Setup { n_ctx: 8192, log: Log::Json, tell, ..Setup::default() });
    // It has to go round for ever, and likes these tokens best.
    let mut bias: Map<String, Value> = tokens(&server, ROUND).iter().map(|id| (id.to_string(), json!(100))).collect();
    bias.extend(tokens(&server, "<｜end▁of▁sentence｜>").iter().map(|id| (id.to_string(), json!(-100))));
    let request = json!({
        "messages": [{"role": "user", "content": "Count."}], "think": false, "temperature": 0, "seed": 1, "stream": true,
        "guided_regex": format!("({ROUND})+"), "logit_bias": bias, "stream_options": {"include_usage": true},
    });
    let reply = server.raw(&post("/v1/chat/completions", &request.to_string(), "X-Request-Id: dropped\r\n"));
    let events = reply.events();
    let text = |event: &Value| event["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned();
    let content: String = events.iter().map(text).collect();
    assert!(ROUND.repeat(1000).starts_with(&content), "{content}");
    let end = events.iter().find(|event| event["choices"][0]["finish_reason"].is_string()).expect("it ends");
    let choice = &end["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["finish_detail"]), (&json!("length"), &json!("repetition")));
    // From where it began to show, there is no other way, for as long as a block may be.
    assert_eq!(choice["rewound_tokens"], 2048 - 256, "{choice}");
    let usage = &events.last().expect("there are some")["usage"];
    assert_eq!(usage["completion_tokens"], 256 + 64, "{usage}");
    wait_for("it is told", || told("dropped").is_some());
    assert_eq!(told("dropped").expect("it is there")["n_answer"], 256 + 64);
    // The next one finds the session as it was left.
    let next = json!({"messages": [{"role": "user", "content": "Count."}], "think": false, "max_tokens": 4});
    assert_eq!(server.post("/v1/chat/completions", &next).status, 200);
}
