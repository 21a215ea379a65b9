//! What is told of requests to whoever runs the server, over real connections.

use std::{
    io::{Read as _, Write as _},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::common::{Running, Setup, post, start, wait_for};
use serde_json::{Value, json};
use server::Log;

/// What all servers of these tests tell. Each test knows its lines by the ids that it gave.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn tell(line: &str) {
    LINES.lock().expect("nobody panics").push(line.to_owned());
}

fn lines_with(word: &str) -> Vec<String> {
    LINES.lock().expect("nobody panics").iter().filter(|line| line.contains(word)).cloned().collect()
}

/// The one line about a request, once it is told.
fn line_of(id: &str) -> String {
    wait_for(&format!("nothing is told of {id}"), || !lines_with(id).is_empty());
    let lines = lines_with(id);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0].clone()
}

fn json_of(id: &str) -> Value {
    serde_json::from_str(&line_of(id)).expect("it is JSON")
}

fn telling(log: Log) -> Running {
    start(Setup { log, tell, n_ctx: 4096, n_sessions: 1, ..Setup::default() })
}

fn named(id: &str) -> String {
    format!("X-Request-Id: {id}\r\n")
}

fn ask(server: &Running, id: &str, body: &Value) -> u16 {
    server.raw(&post("/v1/completions", &body.to_string(), &named(id))).status
}

#[test]
fn an_answer_is_told_with_its_tokens_and_times() {
    let server = telling(Log::Json);
    let request = json!({"prompt": "Once upon a time", "max_tokens": 5, "temperature": 0});
    ask(&server, "json-whole", &request);
    let told = json_of("json-whole");
    let keys = "time event id method path status duration_ms n_prompt n_cached n_answer queued_ms prefill_ms decode_ms end error";
    assert_eq!(told.as_object().expect("it is one").keys().cloned().collect::<Vec<_>>().join(" "), keys);
    assert_eq!(
        [&told["event"], &told["method"], &told["path"], &told["status"], &told["end"], &told["error"]],
        [&json!("request"), &json!("POST"), &json!("/v1/completions"), &json!(200), &json!("length"), &json!(null)]
    );
    assert!(told["time"].as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{told}");
    assert_eq!((&told["n_cached"], &told["n_answer"]), (&json!(0), &json!(5)));
    let ms = |name: &str| told[name].as_f64().expect("a number");
    assert!(ms("queued_ms") + ms("prefill_ms") + ms("decode_ms") <= ms("duration_ms"), "{told}");
    let stream = json!({"prompt": "Once upon a time", "max_tokens": 7, "temperature": 0, "stream": true, "n": 2});
    ask(&server, "json-stream", &stream);
    let again = json_of("json-stream");
    assert_eq!((&again["n_prompt"], &again["n_answer"]), (&told["n_prompt"], &json!(14)));
    assert!(again["n_cached"].as_u64() > Some(0), "{again}");
    // What is no answer has the same keys.
    server.raw(&post("/tokenize", "{\"content\":\"Hi\"}", &named("json-tokens")));
    let tokens = json_of("json-tokens");
    assert_eq!(tokens.as_object().map(serde_json::Map::len), told.as_object().map(serde_json::Map::len));
    assert_eq!([&tokens["status"], &tokens["n_prompt"], &tokens["end"]], [&json!(200), &json!(null), &json!(null)]);
}

#[test]
fn people_read_the_same() {
    let server = telling(Log::Text);
    ask(&server, "text-whole", &json!({"prompt": [1, 2, 3], "max_tokens": 4, "temperature": 0}));
    let line = line_of("text-whole");
    let shape: String = line.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(
        shape.split_once("text-whole").expect("it has an id").1,
        " POST /v0/completions 000 in 0.000 s, queued 0.000 s, prompt 0 tokens, 0 known, 0.000 s, answer 0 tokens, 0.000 s, length"
    );
    assert!(line.contains(" 200 in ") && line.contains("prompt 3 tokens, 0 known") && line.contains("answer 4 tokens"));
}

#[test]
fn refusals_are_told_with_their_code() {
    let server = telling(Log::Json);
    ask(&server, "refused-field", &json!({"prompt": "Hi", "temprature": 1}));
    let told = json_of("refused-field");
    assert_eq!((&told["status"], &told["error"]), (&json!(400), &json!("unknown_parameter")));
    let host = "GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\nX-Request-Id: refused-host\r\n\r\n";
    server.raw(host.as_bytes());
    let told = json_of("refused-host");
    assert_eq!((&told["status"], &told["error"]), (&json!(421), &json!("foreign_host")));
}

#[test]
fn who_leaves_is_told_once_as_that() {
    let server = telling(Log::Json);
    let end = server.post("/tokenize", &json!({"content": "<｜end▁of▁sentence｜>"})).json()["tokens"][0].to_string();
    let endless =
        |stream| json!({"prompt": "Once", "max_tokens": 4000, "stream": stream, "logit_bias": {end.clone(): -100}});
    let leave = |id: &str, stream: bool| {
        let mut client = server.connect();
        client.write_all(&post("/v1/completions", &endless(stream).to_string(), &named(id))).expect("it is read");
        client
    };
    let mut client = leave("gone-stream", true);
    client.read_exact(&mut [0; 600]).expect("it answers");
    drop(client);
    let told = json_of("gone-stream");
    assert_eq!((&told["status"], &told["end"]), (&json!(200), &json!("client_gone")));
    assert!(told["n_answer"].as_u64() > Some(0) && told["decode_ms"].as_f64() > Some(0.0), "{told}");
    drop(leave("gone-whole", false));
    let told = json_of("gone-whole");
    assert_eq!((&told["status"], &told["end"]), (&json!(null), &json!("client_gone")));
    // One that is still in the line is told at once, too.
    let mut busy = leave("gone-busy", true);
    busy.read_exact(&mut [0; 600]).expect("it answers");
    let mut waiting = leave("gone-waiting", true);
    waiting.read_exact(&mut [0; 10]).expect("it is alive");
    drop(waiting);
    let told = json_of("gone-waiting");
    assert_eq!((&told["queued_ms"], &told["end"]), (&json!(null), &json!("client_gone")));
    assert!(lines_with("gone-busy").is_empty());
}

#[test]
fn what_monitors_and_browsers_ask_is_told_only_if_it_goes_wrong() {
    let server = telling(Log::Json);
    let get = |path: &str, method: &str, id: &str, more: &str| {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}{}\r\n", named(id));
        server.raw(head.as_bytes()).status
    };
    for path in ["/health", "/metrics", "/", "/chat.js"] {
        assert_eq!(get(path, "GET", "quiet-good", ""), 200);
    }
    let page = "Origin: https://good.example\r\nAccess-Control-Request-Method: POST\r\n";
    assert_eq!(get("/v1/models", "OPTIONS", "quiet-good", page), 204);
    assert_eq!(get("/health", "HEAD", "quiet-good", ""), 200);
    assert_eq!(get("/health", "POST", "quiet-bad", ""), 405);
    assert_eq!(get("/v1/models", "GET", "quiet-last", ""), 200);
    assert_eq!(json_of("quiet-bad")["error"], "method_not_allowed");
    line_of("quiet-last");
    assert!(lines_with("quiet-good").is_empty(), "{:?}", lines_with("quiet-good"));
}

#[test]
fn whatever_clients_send_is_one_short_line_without_their_secrets() {
    for (log, kind) in [(Log::Text, "t"), (Log::Json, "j")] {
        let server = telling(log);
        let paths = [
            "/a\u{1b}[31mred".into(),
            "/a\u{2028}b\u{202e}c\u{85}".into(),
            "/%0a%0d".into(),
            "/\"quoted\\".into(),
            format!("/{}", "x".repeat(20_000)),
            format!("/v1/models/{}", "é".repeat(5000)),
            "/v1/models?key=sk-secret#sk-secret".into(),
        ];
        for (i, path) in paths.iter().enumerate() {
            let id = format!("line-{kind}{i}");
            let key = "Authorization: Bearer sk-secret\r\nx-api-key: sk-secret\r\n";
            let head =
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{key}{}\r\n", named(&id));
            if server.raw(head.as_bytes()).head.contains(&id) {
                let line = line_of(&id);
                assert!(line.len() < 600 && line.chars().all(|c| matches!(c, ' '..='~')), "{line:?}");
                assert!(!line.contains("sk-secret"), "{line:?}");
            }
        }
        let method = "M".repeat(60);
        let head =
            format!("{method} / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n", named("line-method"));
        server.raw(head.as_bytes());
    }
    assert!(!lines_with("line-j3").is_empty() || !lines_with("line-j2").is_empty());
    for line in lines_with("line-method") {
        assert!(line.contains("MMMMMMMMMMMMMMMM...") && line.len() < 600, "{line:?}");
    }
}

#[test]
fn whoever_wants_no_log_gets_none() {
    let server = telling(Log::Off);
    ask(&server, "off-whole", &json!({"prompt": "Hi", "max_tokens": 1}));
    server.end();
    assert!(lines_with("off-whole").is_empty());
}

/// Whether the slow reader goes on, and the lines that it has read.
static GOES_ON: AtomicBool = AtomicBool::new(false);
static SLOWLY: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn tell_slowly(line: &str) {
    while !GOES_ON.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(5));
    }
    SLOWLY.lock().expect("nobody panics").push(line.to_owned());
}

#[test]
fn nobody_waits_for_who_reads_the_log() {
    let server = start(Setup { log: Log::Json, tell: tell_slowly, ..Setup::default() });
    let mut client = server.connect();
    let nowhere = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(128));
    let n = 6000;
    for _ in 0..n / 100 {
        client.write_all(nowhere.repeat(100).as_bytes()).expect("it is read");
        let mut n_replies = 0;
        let mut bytes = Vec::new();
        while n_replies < 100 {
            let mut some = [0; 16 << 10];
            let n = client.read(&mut some).expect("it answers");
            assert!(n > 0);
            bytes.extend_from_slice(&some[..n]);
            n_replies = String::from_utf8_lossy(&bytes).matches("HTTP/1.1 404").count();
        }
    }
    assert_eq!(ask(&server, "slow", &json!({"prompt": "Hi", "max_tokens": 3, "stream": true})), 200);
    GOES_ON.store(true, Ordering::SeqCst);
    server.end();
    let lines = SLOWLY.lock().expect("nobody panics");
    let lost = lines.iter().find(|line| line.contains("lines of the log are lost")).expect("it is told");
    let lost: Value = serde_json::from_str(lost).expect("it is JSON");
    let n_lost: usize = lost["message"]
        .as_str()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .expect("it begins with how many");
    assert_eq!(lines.len() - 1 + n_lost, n + 1);
}
