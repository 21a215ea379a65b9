//! Clients that are broken, or mean to break us: whatever they send, others are served. `SERVER_MUTATIONS` says how many requests
//! are sent with something wrong (`cargo xtask mutate`). They measure this process's memory, so nothing else runs in it.

#[allow(dead_code)] // of what it can say, these tests need a part
#[path = "server/common.rs"]
mod common;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use common::{Running, Setup, post, start, wait_for};
use serde_json::json;

/// Numbers that look random, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

const WORDS: [&str; 24] = [
    "null",
    "true",
    "-1",
    "0",
    "1e308",
    "-0",
    "9223372036854775808",
    "\"\"",
    "[]",
    "{}",
    "[[]]",
    "\"\\ud800\"",
    "\"a\"",
    "1.5",
    "{\"a\":1}",
    "\"<｜Assistant｜>\"",
    "[null]",
    "NaN",
    "\u{feff}",
    "\"\\u0000\"",
    ":",
    ",",
    "]",
    "}",
];

/// Valid bodies, and where they go.
fn valid(server: &Running) -> Vec<(&'static str, String)> {
    let tools = json!([{"type": "function", "function": {"name": "look", "strict": true, "parameters": {"type": "object",
        "properties": {"at": {"type": "string"}}}}}]);
    let schema = json!({"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]});
    let thinking = json!({"type": "enabled", "budget_tokens": 1024});
    let think = json!({"max_tokens": 8, "messages": [{"role": "user", "content": "Why?"}], "thinking": thinking});
    let sealed = server.post("/v1/messages", &think).json()["content"][0].clone();
    assert!(sealed["signature"].as_str().is_some_and(|seal| seal.len() > 64), "{sealed}");
    let messages = json!([
        {"role": "system", "content": "Be brief"}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Yes", "reasoning_content": "So"}, {"role": "user", "content": "Why?"},
    ]);
    vec![
        ("/v1/chat/completions", json!({"model": "micro", "messages": messages, "max_tokens": 2, "stream": true,
            "stream_options": {"include_usage": true}, "temperature": 0.5, "top_p": 0.9, "stop": ["a"], "n": 1, "seed": 3,
            "reasoning_effort": "low", "user": "me"}).to_string()),
        ("/v1/chat/completions", json!({"messages": messages, "max_tokens": 4, "tools": tools, "tool_choice": "auto",
            "parallel_tool_calls": false, "logprobs": true, "top_logprobs": 2, "logit_bias": {"7": -1.5}}).to_string()),
        ("/v1/chat/completions", json!({"messages": messages, "max_tokens": 4, "reasoning_effort": "none",
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}}}).to_string()),
        ("/v1/chat/completions", json!({"messages": messages, "max_tokens": 4,
            "structured_outputs": {"grammar": "start: \"a\" B?\nB: /b+/", "raw": true}}).to_string()),
        ("/v1/completions", json!({"prompt": "Hi", "max_tokens": 4, "guided_regex": "(a|b){2,4}"}).to_string()),
        ("/v1/completions", json!({"prompt": "Hi", "max_tokens": 4, "guided_choice": ["yes", "no"], "logprobs": 1}).to_string()),
        ("/v1/messages", json!({"max_tokens": 2, "thinking": thinking, "messages": [{"role": "user", "content": "Why?"},
            {"role": "assistant", "content": [sealed, {"type": "text", "text": "So."}]}, {"role": "user", "content": "And?"}]}).to_string()),
        ("/v1/completions", json!({"prompt": [1, 2, 3], "max_tokens": 2, "echo": false, "temperature": 0}).to_string()),
        ("/v1/messages", json!({"model": "micro", "max_tokens": 2, "system": [{"type": "text", "text": "Be brief"}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "So", "signature": "x"}, {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "18C"}]}],
            "tools": [{"name": "look", "description": "Looks", "input_schema": {"type": "object"}}], "stream": true,
            "thinking": {"type": "enabled", "budget_tokens": 1024}, "stop_sequences": ["a"]}).to_string()),
        ("/v1/responses", json!({"model": "micro", "input": [{"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "Hi"}]}], "instructions": "Be brief", "max_output_tokens": 2, "stream": true, "store": false,
            "tools": [{"type": "function", "name": "look", "parameters": {}}], "include": ["reasoning.encrypted_content"]}).to_string()),
        ("/api/generate", json!({"model": "micro", "prompt": "Hi", "system": "Be brief", "stream": true, "think": false,
            "options": {"num_predict": 2, "temperature": 0.5, "stop": ["a"]}}).to_string()),
        ("/v1/messages/count_tokens", json!({"messages": [{"role": "user", "content": "Hi"}], "system": "Be brief"}).to_string()),
        ("/v1/responses/input_tokens", json!({"input": "Hi", "instructions": "Be brief"}).to_string()),
        ("/api/chat", json!({"model": "micro", "messages": [{"role": "user", "content": "Hi"}], "options": {"num_predict": 2}}).to_string()),
        ("/tokenize", json!({"content": "Hello", "add_special": true, "with_pieces": true}).to_string()),
        ("/detokenize", json!({"tokens": [1, 2, 3]}).to_string()),
    ]
}

/// The same with something wrong, most likely.
fn mutated(body: &str, random: &mut Random) -> Vec<u8> {
    let mut bytes = body.as_bytes().to_vec();
    for _ in 0..1 + random.below(3) {
        let (at, n) = (random.below(bytes.len().max(1)), bytes.len());
        match random.below(6) {
            0 if n > 0 => bytes[at] = random.below(256) as u8,
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..n.min(at + random.below(12)))),
            3 => bytes.splice(at..at, WORDS[random.below(WORDS.len())].bytes()).for_each(drop),
            4 => {
                // A value becomes another one.
                let colons: Vec<_> = (0..n).filter(|&i| bytes[i] == b':').collect();
                if let Some(&colon) = colons.get(random.below(colons.len().max(1))) {
                    let end = (colon + 1..n).find(|&i| matches!(bytes[i], b',' | b'}' | b']')).unwrap_or(n);
                    bytes.splice(colon + 1..end, WORDS[random.below(WORDS.len())].bytes()).for_each(drop);
                }
            }
            _ => {
                let part = bytes[at..n.min(at + random.below(40))].to_vec();
                bytes.splice(at..at, part).for_each(drop);
            }
        }
    }
    bytes
}

/// What greedy decoding makes of a prompt.
fn answer(server: &Running) -> String {
    let request = json!({"prompt": "Once", "max_tokens": 8, "temperature": 0});
    let reply = server.post("/v1/completions", &request);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["choices"][0]["text"].as_str().expect("a text").to_owned()
}

#[test]
fn no_request_breaks_the_server() {
    let server = start(Setup { n_ctx: 4096, ..Setup::default() });
    let (before, valid, mut random) = (answer(&server), valid(&server), Random(1));
    let n_rounds = std::env::var("SERVER_MUTATIONS").map_or(2000, |text| text.parse().expect("it is a number"));
    for (path, body) in &valid {
        let reply = server.raw(&post(path, body, ""));
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
    }
    let mut warm = None;
    for round in 0..n_rounds {
        if round == n_rounds / 2 {
            warm = resident_mib();
        }
        let (path, body) = &valid[random.below(valid.len())];
        let body = mutated(body, &mut random);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let reply = server.raw(&[head.as_bytes(), &body].concat());
        let told = || format!("round {round}: {path} {} -> {reply:?}", String::from_utf8_lossy(&body));
        assert!(matches!(reply.status, 200 | 400..500), "{}", told());
        if reply.status >= 400 {
            let error = &reply.json()["error"];
            assert!(error.is_string() || error["message"].is_string(), "{}", told());
        }
    }
    assert_eq!(answer(&server), before);
    let resident = resident_mib();
    let mib = |resident: Option<u64>| resident.map_or("?".to_owned(), |mib| mib.to_string());
    println!("{n_rounds} requests: {} MiB resident behind half of them, {} behind all", mib(warm), mib(resident));
    assert!(resident <= warm.map(|warm| warm + GROWTH_MIB_MAX), "something is kept of every request");
}

/// How much more memory requests take that are as those before them.
const GROWTH_MIB_MAX: u64 = 32;

/// What this process, server and client, takes of memory; where the system tells.
fn resident_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? >> 10)
}

#[test]
fn bytes_that_are_no_request_are_answered_or_dropped() {
    let server = start(Setup::default());
    let before = answer(&server);
    let json = "Host: localhost\r\nContent-Type: application/json";
    let long = "x".repeat(100_000);
    let lines: [(Option<u16>, Vec<u8>); 16] = [
        (None, b"\r\n\r\n\r\n\r\n".into()),
        (Some(400), b"GET /\r\n\r\n".into()),
        (Some(400), b"GET / HTTP/0.9\r\n\r\n".into()),
        (Some(400), b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n".into()),
        (None, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        (Some(400), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".into()),
        (Some(400), format!("POST /tokenize HTTP/1.1\r\n{json}\r\nContent-Length: -1\r\n\r\n{{}}").into()),
        (
            Some(400),
            format!("POST /tokenize HTTP/1.1\r\n{json}\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}").into(),
        ),
        (
            Some(400),
            format!("POST /tokenize HTTP/1.1\r\n{json}\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n")
                .into(),
        ),
        (Some(400), format!("POST /tokenize HTTP/1.1\r\n{json}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").into()),
        (Some(404), b"GET /%00%2e%2e/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".into()),
        (Some(404), b"GET //v1//models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".into()),
        (Some(421), b"GET / HTTP/1.1\r\nHost: \x80\r\nConnection: close\r\n\r\n".into()),
        (Some(405), b"BREW / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".into()),
        (Some(431), format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n").into()),
        (Some(431), format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n").into()),
    ];
    for (expected, bytes) in &lines {
        let mut stream = server.connect();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        let status = String::from_utf8_lossy(&reply).split(' ').nth(1).and_then(|s| s.parse::<u16>().ok());
        assert_eq!(status, *expected, "{}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)]));
    }
    assert_eq!(answer(&server), before);
}

#[test]
fn two_hundred_clients_share_eight_sessions() {
    let server = start(Setup { n_sessions: 8, n_waiting_max: 256, ..Setup::default() });
    let before = answer(&server);
    // Connections that say nothing, or half of something, and clients that do not read, hold nobody up.
    let mut idle: Vec<_> = (0..40).map(|_| server.connect()).collect();
    for stream in idle.iter_mut().take(20) {
        stream.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le").expect("it is read");
    }
    let endless = json!({"prompt": "Once", "max_tokens": 60, "stream": true, "temperature": 0}).to_string();
    for stream in idle.iter_mut().skip(20) {
        stream.write_all(&post("/v1/completions", &endless, "")).expect("it is read");
    }
    let texts = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..160).map(|_| scope.spawn(|| answer(&server))).collect();
        clients.into_iter().map(|client| client.join().expect("it is answered")).collect::<Vec<_>>()
    });
    assert!(texts.iter().all(|text| *text == before));
}

/// A grammar that takes seconds: as many names for one word, which are followed one by one.
fn hard_grammar() -> String {
    let names: String = (0..3900).map(|i| format!("T{i}: T{} \"a\"\n", i + 1)).collect();
    format!("start: T0\n{names}T3900: \"b\"")
}

#[test]
fn hard_grammars_hold_up_neither_others_nor_those_whose_clients_stayed() {
    let server = start(Setup::default());
    let held = |grammar: &str| {
        json!({"prompt": "Once", "max_tokens": 1, "structured_outputs": {"grammar": grammar}}).to_string()
    };
    let hard = post("/v1/completions", &held(&hard_grammar()), "");
    let [known, simple] = ["start: \"b\"", "start: \"a\""].map(|grammar| post("/v1/completions", &held(grammar), ""));
    assert_eq!(server.raw(&known).status, 200);
    let begin = |_| {
        let mut client = server.connect();
        client.write_all(&hard).expect("it is read");
        client.set_nonblocking(true).expect("it can be");
        client
    };
    let clients: Vec<_> = (0..68).map(begin).collect();
    let n_answered = |status: &str| {
        let mut head = [0; 12];
        let is_so = |client: &&TcpStream| client.peek(&mut head).is_ok() && head.ends_with(status.as_bytes());
        clients.iter().filter(is_so).count()
    };
    assert_eq!(server.post("/tokenize", &json!({"content": "Hello"})).status, 200);
    wait_for("four are too many", || n_answered("429") == 4);
    assert!(n_answered("") < 60, "who asks for no grammar waited for them");
    assert_eq!(server.raw(&known).status, 200, "what was compiled before waits for nobody");
    drop(clients);
    wait_for("nobody is before it any more", || server.raw(&simple).status == 200);
}

#[test]
fn heads_that_never_end_are_given_up() {
    let server = start(Setup::default());
    let mut stream = server.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: loc").expect("it is read");
    let start = Instant::now();
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    assert!((5..20).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(server.get("/health").status, 200);
    assert!(start.elapsed() < Duration::from_secs(25));
}
