//! The trace of what is said and answered, over real connections.

use std::{
    io::{Read as _, Write as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::common::{Running, Setup, post, start};
use serde_json::{Value, json};
use server::{Trace, TraceError};

/// A server that has ended leaves its trace a moment later, when the thread that writes it has ended, too.
fn opened(path: &Path, is_redacted: bool) -> Trace {
    let start = Instant::now();
    loop {
        match Trace::open(path, is_redacted) {
            Ok(trace) => return trace,
            Err(TraceError::InUse) if start.elapsed() < Duration::from_secs(10) => {
                thread::sleep(Duration::from_millis(5))
            }
            Err(e) => panic!("{e}"),
        }
    }
}

fn tracing(path: &Path, is_redacted: bool, keys: &[&str]) -> Running {
    let trace = opened(path, is_redacted);
    start(Setup { trace: Some(trace), n_ctx: 4096, n_sessions: 1, keys, ..Setup::default() })
}

/// The events about a request, and the whole text.
fn events(path: &Path, id: &str) -> (Vec<Value>, String) {
    let text = std::fs::read_to_string(path).expect("it is text");
    let event = |line: &str| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    (text.lines().map(event).filter(|event| event["id"] == id).collect(), text)
}

fn ask(server: &Running, path: &str, id: &str, body: &str) -> Value {
    let headers = format!("X-Request-Id: {id}\r\nAuthorization: Bearer 0123456789abcdef\r\n");
    server.raw(&post(path, body, &headers)).json()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().expect("a name")).collect()
}

fn question() -> Value {
    json!({
        "messages": [{"role": "system", "content": "Be very brief"}, {"role": "user", "content": "Hello <｜User｜> there\n"}],
        "max_tokens": 30, "temperature": 0, "think": true,
        "tools": [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}],
    })
}

#[test]
fn an_answer_is_traced_from_its_request_to_its_reply() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trace.jsonl");
    let server = tracing(&path, false, &["0123456789abcdef"]);
    let question = question();
    let reply = ask(&server, "/v1/chat/completions", "whole", &format!("{question:#}"));
    let tokens = ask(&server, "/tokenize", "tokens", "{\"content\": \"Hi\"}");
    server.end();
    let (events, text) = events(&path, "whole");
    assert_eq!(names(&events), ["request", "prompt", "answer", "reply"]);
    assert_eq!((&events[0]["path"], &events[0]["body"]), (&json!("/v1/chat/completions"), &question));
    let prompt = events[1]["text"].as_str().expect("a text");
    assert!(prompt.starts_with("<｜begin▁of▁sentence｜>") && prompt.ends_with("<think>"), "{prompt}");
    assert!(
        prompt.contains("Be very brief") && prompt.contains("Hello <｜User｜> there\n") && prompt.contains("look_up")
    );
    assert_eq!((&events[1]["n_prompt"], &events[1]["n_cached"]), (&reply["usage"]["prompt_tokens"], &json!(0)));
    let answer = events[2]["text"].as_str().expect("a text");
    let message = &reply["choices"][0]["message"];
    let said = [&message["reasoning_content"], &message["content"]].map(|text| text.as_str().unwrap_or_default());
    assert!(!answer.is_empty() && answer.starts_with(said[0]) && answer.ends_with(said[1]), "{answer}");
    assert_eq!(
        [&events[2]["end"], &events[2]["n_answer"], &events[2]["calls"]],
        [&json!("length"), &json!(30), &json!([])]
    );
    assert!(events[2]["decode_ms"].as_f64() > Some(0.0));
    assert_eq!([&events[3]["status"], &events[3]["end"]], [&json!(200), &json!("length")]);
    assert!(tokens["tokens"].is_array() && text.matches("\"id\":\"tokens\"").count() == 2);
    assert!(text.starts_with("{\"event\":\"begin\",\"version\":1,") && !text.contains("0123456789abcdef"));
}

#[test]
fn what_is_refused_or_left_is_traced_as_that() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trace.jsonl");
    let server = tracing(&path, false, &[]);
    let end = server.post("/tokenize", &json!({"content": "<｜end▁of▁sentence｜>"})).json()["tokens"][0].to_string();
    let refused = ask(&server, "/v1/completions", "refused", "{\"prompt\": \"Hi\", \"temprature\": 1}");
    ask(&server, "/v1/completions", "broken", "{\"prompt\": \"\u{2028}\n");
    let endless = json!({"prompt": "Once", "max_tokens": 4000, "stream": true, "logit_bias": {end: -100}}).to_string();
    let mut client = server.connect();
    client.write_all(&post("/v1/completions", &endless, "X-Request-Id: left\r\n")).expect("it is read");
    client.read_exact(&mut [0; 600]).expect("it answers");
    drop(client);
    server.end();
    let of = |id| events(&path, id).0;
    let [request, reply] = &of("refused")[..] else { panic!("{:?}", of("refused")) };
    assert_eq!((&request["body"]["temprature"], &reply["status"]), (&json!(1), &json!(400)));
    assert_eq!((&reply["error"], &reply["message"]), (&json!("unknown_parameter"), &refused["error"]["message"]));
    assert_eq!(of("broken")[0]["body"], "{\"prompt\": \"\u{2028}\n");
    let left = of("left");
    let answer = left.iter().find(|event| event["event"] == "answer").expect("it began");
    assert_eq!(answer["end"], "client_gone");
    assert!(answer["n_answer"].as_u64() > Some(0) && !answer["text"].as_str().expect("a text").is_empty(), "{answer}");
    let reply = left.iter().find(|event| event["event"] == "reply").expect("it is told");
    assert_eq!((&reply["status"], &reply["end"]), (&json!(200), &json!("client_gone")));
}

#[test]
fn nothing_of_texts_is_in_a_redacted_trace() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trace.jsonl");
    let server = tracing(&path, true, &[]);
    let reply = ask(&server, "/v1/chat/completions", "first", &question().to_string());
    ask(&server, "/v1/chat/completions", "second", &question().to_string());
    server.post("/v1/completions", &json!({"prompt": "Hi", "Hello there": 1}));
    server.end();
    let (first, text) = events(&path, "first");
    let (second, _) = events(&path, "second");
    assert_eq!(names(&first), ["request", "prompt", "answer", "reply"]);
    let message = &reply["choices"][0]["message"];
    let said = message["reasoning_content"].as_str().expect("it reasons");
    for secret in ["Be very brief", "<think>", "｜", said] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert_eq!(first[0]["body"]["messages"][0]["content"]["n_bytes"], 13);
    assert_eq!(first[0]["body"]["tools"][0]["function"]["name"], "look_up");
    for (i, field) in [(1, "text"), (2, "text")] {
        assert!(
            first[i][field]["n_bytes"].is_u64() && first[i][field] == second[i][field],
            "{} {}",
            first[i],
            second[i]
        );
    }
    assert!(second[1]["n_cached"].as_u64() > Some(0), "{}", second[1]);
}

#[test]
fn runs_follow_each_other_in_one_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trace.jsonl");
    for id in ["one", "two"] {
        let server = tracing(&path, false, &[]);
        ask(&server, "/v1/completions", id, "{\"prompt\": \"Hi\", \"max_tokens\": 1}");
        assert!(Trace::open(&path, false).is_err_and(|error| error.to_string().contains("another process")));
        server.end();
    }
    let (of_one, text) = events(&path, "one");
    assert_eq!((of_one.len(), text.matches("\"event\":\"begin\"").count()), (4, 2));
}
