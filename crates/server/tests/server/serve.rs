//! A server and its clients, over real connections.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::common::{Running, Setup, post, start, wait_for};
use engine::Kept;
use serde_json::{Value, json};

fn question(more: Value) -> Value {
    let mut request = json!({
        "messages": [{ "role": "user", "content": "Hello there" }], "max_tokens": 12, "temperature": 0, "think": false,
    });
    request.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
    request
}

#[test]
fn a_stream_says_what_the_whole_says() {
    let server = start(Setup::default());
    let whole = server.post("/v1/chat/completions", &question(json!({})));
    assert_eq!(whole.status, 200, "{whole:?}");
    let whole = whole.json();
    let stream = server
        .post("/v1/chat/completions", &question(json!({"stream": true, "stream_options": {"include_usage": true}})));
    assert!(stream.head.contains("text/event-stream"));
    assert!(stream.body.ends_with("data: [DONE]\n\n"));
    let events = stream.events();
    let text: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(whole["choices"][0]["message"]["content"], text);
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    let last = events.last().expect("there are some");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 12);
    assert_eq!(last["usage"]["prompt_tokens"], whole["usage"]["prompt_tokens"]);
    assert_eq!(whole["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

#[test]
fn reasoning_is_apart_from_the_answer() {
    let server = start(Setup::default());
    let reply = server.post("/v1/chat/completions", &question(json!({"think": true})));
    let message = &reply.json()["choices"][0]["message"];
    assert_eq!(message["content"], "");
    assert!(!message["reasoning_content"].as_str().expect("it reasons").is_empty());
}

#[test]
fn several_answers_differ_by_their_seeds_and_repeat() {
    let server = start(Setup::default());
    let texts = |more: Value| -> Vec<String> {
        let reply = server.post("/v1/chat/completions", &question(more)).json();
        let choices = reply["choices"].as_array().expect("there are some").iter();
        choices.map(|choice| choice["message"]["content"].as_str().expect("a text").to_owned()).collect()
    };
    let three = texts(json!({"n": 3, "temperature": 1.5, "seed": 7}));
    assert_eq!(three.len(), 3);
    assert!(three[0] != three[1] && three[1] != three[2]);
    assert_eq!(texts(json!({"n": 3, "temperature": 1.5, "seed": 7})), three);
    assert_eq!(texts(json!({"temperature": 1.5, "seed": 8})), three[1..2]);
}

#[test]
fn a_text_is_continued_and_its_stop_is_no_part_of_it() {
    let server = start(Setup::default());
    let request = json!({"prompt": "Once", "max_tokens": 20, "temperature": 0, "echo": true});
    let reply = server.post("/v1/completions", &request).json();
    let text = reply["choices"][0]["text"].as_str().expect("a text");
    assert!(text.starts_with("Once"));
    let ids = server.post("/tokenize", &json!({"content": "Once", "add_special": true})).json();
    let by_ids = json!({"prompt": ids["tokens"], "max_tokens": 20, "temperature": 0});
    let by_ids = server.post("/v1/completions", &by_ids).json();
    assert_eq!(format!("Once{}", by_ids["choices"][0]["text"].as_str().expect("a text")), text);
    let stop: String = text.chars().skip(10).take(2).collect();
    let request = json!({"prompt": "Once", "max_tokens": 20, "temperature": 0, "stop": stop});
    let reply = server.post("/v1/completions", &request).json();
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    assert!(!reply["choices"][0]["text"].as_str().expect("a text").contains(&stop));
}

#[test]
fn what_we_cannot_do_is_refused_by_name() {
    let server = start(Setup::default());
    let refused = |more: Value| {
        let reply = server.post("/v1/chat/completions", &question(more));
        (reply.status, reply.json()["error"]["message"].as_str().expect("a message").to_owned())
    };
    assert_eq!(refused(json!({"temprature": 1})), (400, "temprature: there is no such field".into()));
    assert_eq!(refused(json!({"temperature": "hot"})), (400, "temperature: must be a number from 0 to 100".into()));
    assert_eq!(refused(json!({"tool_choice": "required"})), (400, "tool_choice: there are no tools to call".into()));
    let image = json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]});
    let (status, message) = refused(image);
    assert!(status == 400 && message.contains("the model reads text only"), "{message}");
    let (status, message) = refused(json!({"messages": [{"role": "user", "content": "x".repeat(3000)}]}));
    assert!(status == 400 && message.contains("but the context holds 1024"), "{message}");
}

#[test]
fn bodies_that_are_none_are_told_from_each_other() {
    let server = start(Setup::default());
    let path = "/v1/chat/completions";
    let status = |bytes: &[u8]| server.raw(bytes).status;
    assert_eq!(status(&post(path, "{", "")), 400);
    assert_eq!(status(&post(path, "[]", "")), 400);
    assert_eq!(status(&post(path, &"[".repeat(10_000), "")), 400);
    assert_eq!(status(&post(path, "{}", "Content-Encoding: gzip\r\n")), 415);
    assert_eq!(status(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"), 415);
    assert_eq!(
        status(
            &[
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n",
                format!("Content-Length: {}\r\nConnection: close\r\n\r\n{{}}", 65 << 20).as_bytes()
            ]
            .concat()
        ),
        413
    );
    let endless = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, " ".repeat(1 << 20));
    assert_eq!(status(format!("{endless}{}", chunk.repeat(65)).as_bytes()), 413);
    assert_eq!(status(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), 404);
    assert_eq!(status(b"GET /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), 405);
    assert_eq!(status(b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"), 421);
    assert_eq!(
        status(b"GET /health HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nConnection: close\r\n\r\n"),
        403
    );
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn the_interface_describes_itself() {
    let server = start(Setup::default());
    let described = server.get("/openapi.json").json();
    let paths = described["paths"].as_object().expect("there are some");
    for path in paths.keys().filter(|path| !path.contains('{')) {
        let there = if paths[path].get("get").is_some() { 200 } else { 405 };
        assert_eq!(server.get(path).status, there, "{path}");
    }
    let fields =
        &described["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(fields["properties"]["n"]["maximum"], 16);
}

#[test]
fn an_answer_keeps_to_a_schema() {
    let server = start(Setup::default());
    let schema = json!({"type": "object", "properties": {"n": {"enum": [1, 2, 3]}, "b": {"type": "boolean"}},
        "required": ["n", "b"], "additionalProperties": false});
    let format =
        |schema: &Value| json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}});
    for think in [false, true] {
        let more =
            json!({"response_format": format(&schema), "max_tokens": 400, "temperature": 1, "seed": 1, "think": think});
        let reply = server.post("/v1/chat/completions", &question(more)).json();
        let choice = &reply["choices"][0];
        if choice["finish_reason"] == "length" {
            continue; // it thinks and thinks
        }
        let answer: Value = serde_json::from_str(choice["message"]["content"].as_str().expect("a text")).expect("JSON");
        assert!([1, 2, 3].map(Value::from).contains(&answer["n"]) && answer["b"].is_boolean(), "{answer}");
    }
    let refused =
        server.post("/v1/chat/completions", &question(json!({"response_format": format(&json!({"type": 7}))})));
    assert_eq!((refused.status, refused.json()["error"]["param"].as_str()), (400, Some("response_format")));
}

#[test]
fn a_bias_decides() {
    let server = start(Setup::default());
    let ids = server.post("/tokenize", &json!({"content": "a"})).json();
    let request =
        json!({"prompt": "Once", "max_tokens": 3, "temperature": 0, "logit_bias": {ids["tokens"][0].to_string(): 100}});
    assert_eq!(server.post("/v1/completions", &request).json()["choices"][0]["text"], "aaa");
    let wrong = json!({"prompt": "Once", "logit_bias": {"999999": 1}});
    assert_eq!(server.post("/v1/completions", &wrong).status, 400);
}

#[test]
fn keys_are_asked_for() {
    let server = start(Setup { keys: &["0123456789abcdef"], ..Setup::default() });
    assert_eq!(server.get("/v1/models").status, 401);
    assert_eq!(server.get("/metrics").status, 401);
    assert_eq!(server.get("/").status, 200);
    let with = |header: &str| {
        server.raw(
            format!("GET /v1/models HTTP/1.1\r\nHost: localhost\r\n{header}\r\nConnection: close\r\n\r\n").as_bytes(),
        )
    };
    assert_eq!(with("Authorization: Bearer 0123456789abcdef").json()["data"][0]["id"], "micro");
    assert_eq!(with("x-api-key: 0123456789abcdef").status, 200);
    assert_eq!(with("x-api-key: 0123456789abcdee").status, 401);
}

/// What metrics say of one of them.
fn metric(server: &Running, name: &str) -> f64 {
    let text = server.get("/metrics").body;
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

/// A question whose answer does not end before it has all its tokens, 8000 unless more is said.
fn endless(server: &Running, more: Value) -> Value {
    let end = server.post("/tokenize", &json!({"content": "<｜end▁of▁sentence｜>"})).json()["tokens"][0].to_string();
    let mut fields = json!({"max_tokens": 8000, "temperature": 1, "logit_bias": {end: -100}});
    fields.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
    question(fields)
}

/// Asks, and does not wait for the answer.
fn begin(server: &Running, request: &Value) -> TcpStream {
    let mut stream = server.connect();
    stream.write_all(&post("/v1/chat/completions", &request.to_string(), "")).expect("it is read");
    stream
}

#[test]
fn who_goes_away_frees_the_session() {
    let server = start(Setup { n_sessions: 1, n_ctx: 8192, ..Setup::default() });
    let mut stream = begin(&server, &endless(&server, json!({"stream": true})));
    stream.read_exact(&mut [0; 400]).expect("it answers");
    wait_for("it is begun", || metric(&server, "test_sessions_busy") == 1.0);
    drop(stream);
    wait_for("the session is free", || metric(&server, "test_sessions_busy") == 0.0);
    wait_for("it is counted", || metric(&server, "test_answers_abandoned_total") == 1.0);
    assert_eq!(server.post("/v1/chat/completions", &question(json!({}))).status, 200);
}

/// Keeps the one session busy with a stream, and has others wait for it.
fn fill<const N: usize>(server: &Running, others: [Value; N]) -> (TcpStream, [TcpStream; N]) {
    let busy = begin(server, &endless(server, json!({"stream": true})));
    wait_for("it is begun", || metric(server, "test_sessions_busy") == 1.0);
    let mut n_waiting = 0.0;
    let others = others.map(|request| {
        let stream = begin(server, &request);
        n_waiting += 1.0;
        wait_for("it waits", || metric(server, "test_requests_waiting") == n_waiting);
        stream
    });
    (busy, others)
}

#[test]
fn a_stream_that_waits_says_so() {
    let server = start(Setup { n_sessions: 1, n_ctx: 8192, ..Setup::default() });
    let (_busy, [mut waiting]) = fill(&server, [question(json!({"stream": true}))]);
    // Who went away without a word is found out by what is sent there.
    for _ in 0..2 {
        assert!(waiting.read(&mut [0; 4096]).expect("it is heard of") > 0);
    }
    assert_eq!(metric(&server, "test_requests_waiting"), 1.0);
}

#[test]
fn a_full_line_sends_away() {
    let server = start(Setup { n_sessions: 1, n_ctx: 8192, n_waiting_max: 3, ..Setup::default() });
    let _open = fill(&server, [question(json!({"n": 2})), question(json!({}))]);
    let reply = server.post("/v1/chat/completions", &question(json!({})));
    assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (429, Some("server_busy")));
    assert!(reply.head.to_ascii_lowercase().contains("retry-after"));
}

#[test]
fn further_answers_wait_behind_those_who_waited() {
    let server = start(Setup { n_sessions: 1, n_ctx: 8192, ..Setup::default() });
    let two = endless(&server, json!({"n": 2, "max_tokens": 1000}));
    let (busy, [two, mut one]) = fill(&server, [two, question(json!({}))]);
    drop(busy);
    let mut reply = String::new();
    one.read_to_string(&mut reply).expect("it is text");
    two.set_nonblocking(true).expect("it can be");
    assert!(two.peek(&mut [0]).is_err(), "its second answer was before who waited");
    assert!(reply.contains("\"finish_reason\":\"length\""), "{reply}");
}

#[test]
fn another_turn_computes_what_is_new() {
    let server = start(Setup::default());
    let first = question(json!({"max_tokens": 8}));
    let answer = server.post("/v1/chat/completions", &first).json();
    let text = &answer["choices"][0]["message"]["content"];
    let mut second = first.clone();
    let messages = second["messages"].as_array_mut().expect("there are some");
    messages.push(json!({"role": "assistant", "content": text}));
    messages.push(json!({"role": "user", "content": "And then?"}));
    let usage = server.post("/v1/chat/completions", &second).json()["usage"].clone();
    let n_known = answer["usage"]["total_tokens"].as_u64().expect("a number") - 1;
    assert!(
        usage["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number") >= n_known,
        "{usage} {n_known}"
    );
}

#[test]
fn another_turn_without_the_reasoning_computes_what_is_new() {
    let kept = Kept { dir: None, ram_bytes: 64 << 20, disk_bytes: 0, written_bytes_per_day: 0 };
    let server = start(Setup { kept: Some(kept), ..Setup::default() });
    let mut request = question(json!({"think": true, "max_tokens": 100}));
    request["messages"][0]["content"] = json!("Why? ".repeat(20));
    let first = server.post("/v1/chat/completions", &request).json();
    let messages = request["messages"].as_array_mut().expect("there are some");
    messages.push(json!({"role": "assistant", "content": "Because."}));
    messages.push(json!({"role": "user", "content": "And then?"}));
    let usage = server.post("/v1/chat/completions", &request).json()["usage"].clone();
    let n_known = first["usage"]["prompt_tokens"].as_u64().expect("a number") - 1;
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], n_known, "{usage}");
}

#[test]
fn another_turn_after_a_restart_computes_what_is_new() {
    let folder = tempfile::tempdir().expect("a folder");
    let setup = || {
        let (ram_bytes, disk_bytes, written_bytes_per_day) = (64 << 20, 64 << 20, 1 << 40);
        let kept = Kept { dir: Some(folder.path().into()), ram_bytes, disk_bytes, written_bytes_per_day };
        start(Setup { kept: Some(kept), ..Setup::default() })
    };
    let mut request = question(json!({"max_tokens": 8}));
    request["messages"][0]["content"] = json!("Why? ".repeat(100));
    let server = setup();
    let first = server.post("/v1/chat/completions", &request).json();
    server.end();
    let messages = request["messages"].as_array_mut().expect("there are some");
    messages.push(json!({"role": "assistant", "content": first["choices"][0]["message"]["content"]}));
    messages.push(json!({"role": "user", "content": "And then?"}));
    let usage = setup().post("/v1/chat/completions", &request).json()["usage"].clone();
    let n_known = first["usage"]["total_tokens"].as_u64().expect("a number") - 1;
    assert!(
        usage["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number") >= n_known,
        "{usage} {n_known}"
    );
}

#[test]
fn an_end_completes_what_is_under_way() {
    let server = start(Setup { n_sessions: 1, ..Setup::default() });
    let request = question(json!({"stream": true, "max_tokens": 200}));
    let mut stream = server.connect();
    stream.write_all(&post("/v1/chat/completions", &request.to_string(), "")).expect("it is read");
    stream.read_exact(&mut [0; 300]).expect("it answers");
    wait_for("it is begun", || metric(&server, "test_sessions_busy") == 1.0);
    server.end();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("it is text");
    assert!(rest.contains("[DONE]") && rest.contains("\"finish_reason\":\"length\""), "{rest}");
}

#[test]
fn reasoning_comes_back_out_of_its_seal_also_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let setup = || {
        let (ram_bytes, disk_bytes, written_bytes_per_day) = (64 << 20, 64 << 20, 1 << 40);
        let kept = Kept { dir: Some(folder.path().into()), ram_bytes, disk_bytes, written_bytes_per_day };
        start(Setup { kept: Some(kept), ..Setup::default() })
    };
    let request = |display: &str| {
        json!({
            "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 64, "temperature": 0,
            "thinking": {"type": "enabled", "display": display}, "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        })
    };
    let server = setup();
    let thought = |display: &str| server.post("/v1/messages", &request(display)).json()["content"][0].clone();
    let (open, sealed) = (thought("summarized"), thought("omitted"));
    assert_eq!((open["type"].as_str(), sealed["thinking"].as_str()), (Some("thinking"), Some("")));
    assert_eq!(open["signature"], sealed["signature"]);
    server.end();
    let server = setup();
    let count = |block: Value| {
        let mut request = request("omitted");
        let messages = request["messages"].as_array_mut().expect("there are some");
        messages.push(json!({"role": "assistant", "content": [block, {"type": "text", "text": "So."}]}));
        messages.push(json!({"role": "user", "content": "And?"}));
        let reply = server.post("/v1/messages/count_tokens", &request);
        (reply.status, reply.json()["input_tokens"].as_u64())
    };
    let told = count(json!({"type": "thinking", "thinking": open["thinking"]}));
    assert_eq!(
        (count(sealed.clone()), count(json!({"type": "redacted_thinking", "data": sealed["signature"]}))),
        (told, told)
    );
    let mut others = sealed.clone();
    others["signature"] = json!("EqQBCgIYAhIkZ");
    assert!(count(others).1 < told.1, "what others sealed is left out");
    let mut changed = sealed.clone();
    changed["signature"] = json!(format!("{}!", sealed["signature"].as_str().expect("a text")));
    assert_eq!(count(changed), (400, None));
}

#[test]
fn who_closes_only_its_half_is_answered() {
    let server = start(Setup { n_ctx: 4096, ..Setup::default() });
    for stream in [false, true] {
        let request = question(json!({"stream": stream, "max_tokens": 800})).to_string();
        let mut client = server.connect();
        client.write_all(&post("/v1/chat/completions", &request, "")).expect("it is read");
        client.shutdown(std::net::Shutdown::Write).expect("it is open");
        let mut reply = String::new();
        client.read_to_string(&mut reply).expect("it is text");
        assert!(reply.contains("\"finish_reason\":\""), "{reply}");
    }
}

#[test]
fn bytes_behind_a_request_do_not_hide_that_the_client_went_away() {
    let server = start(Setup { n_sessions: 1, n_ctx: 8192, ..Setup::default() });
    for (n, stream) in [(1.0, false), (2.0, true)] {
        let mut client = begin(&server, &endless(&server, json!({"stream": stream})));
        client.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is read");
        wait_for("it is begun", || metric(&server, "test_sessions_busy") == 1.0);
        drop(client);
        wait_for("the session is free", || metric(&server, "test_sessions_busy") == 0.0);
        wait_for("it is counted", || metric(&server, "test_answers_abandoned_total") == n);
    }
}

#[test]
fn an_end_waits_for_nobody_who_asks_nothing() {
    let server = start(Setup { n_sessions: 2, n_ctx: 4096, ..Setup::default() });
    let halves: [&[u8]; 3] = [
        b"",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    ];
    let half = |bytes: &[u8]| {
        let mut client = server.connect();
        client.write_all(bytes).expect("it is read");
        client
    };
    let _stalled = halves.map(half);
    let mut client = server.connect();
    let request = question(json!({"stream": true, "n": 16, "max_tokens": 400})).to_string();
    client.write_all(&post("/v1/chat/completions", &request, "")).expect("it is read");
    wait_for("it is begun", || metric(&server, "test_sessions_busy") > 0.0);
    let start = Instant::now();
    server.end();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let mut reply = String::new();
    client.read_to_string(&mut reply).expect("it is text");
    assert!(reply.contains("[DONE]"), "{reply}");
}

#[test]
fn every_reply_has_an_id() {
    let server = start(Setup::default());
    let id = |header: &str, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n");
        let head = server.raw(request.as_bytes()).head.to_ascii_lowercase();
        let line = head.lines().find_map(|line| line.strip_prefix("x-request-id: ").map(str::to_owned));
        line.unwrap_or_else(|| panic!("{head}"))
    };
    let new = |header: &str, path: &str| {
        let id = id(header, path);
        id.len() == 36 && id.starts_with("req_")
    };
    assert!(new("", "/health") && new("", "/nowhere") && id("", "/health") != id("", "/health"));
    assert_eq!(id("X-Request-Id: my-7.a_b\r\n", "/v1/models"), "my-7.a_b");
    assert!(new("X-Request-Id: \"a\" b\r\n", "/") && new(&format!("X-Request-Id: {}\r\n", "x".repeat(65)), "/"));
}
