//! The server behind TLS, over real connections. Certificates are those in `testdata/tls`.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::common::{Reply, Running, Setup, post, reply, start, wait_for};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use server::Tls;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tls").join(name)
}

fn secured(setup: Setup<'_>) -> Running {
    let tls = Tls::load(&file("localhost.pem"), &file("localhost.key")).unwrap_or_else(|e| panic!("{e}"));
    start(Setup { tls: Some(tls), ..setup })
}

type Client = StreamOwned<ClientConnection, TcpStream>;

/// A client that trusts a certificate and nothing else.
fn client_of(server: &Running, certificate: &str) -> Client {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(file(certificate)).expect("it is one");
    roots.add(certificate).expect("it can be trusted");
    let provider = Arc::new(rustls_graviola::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("there are some").with_root_certificates(roots).with_no_client_auth();
    let client = ClientConnection::new(Arc::new(config), "localhost".try_into().expect("it is a name"));
    StreamOwned::new(client.expect("it can be asked"), server.connect())
}

fn client(server: &Running) -> Client {
    client_of(server, "localhost.pem")
}

fn ask(server: &Running, bytes: &[u8]) -> Reply {
    let mut client = client(server);
    client.write_all(bytes).expect("it is read");
    let mut all = Vec::new();
    client.read_to_end(&mut all).expect("it ends as TLS does");
    reply(&all)
}

fn get(server: &Running, path: &str, headers: &str) -> Reply {
    ask(server, format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").as_bytes())
}

fn metric(server: &Running, name: &str) -> f64 {
    let text = get(server, "/metrics", "Host: localhost\r\n").body;
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

fn question(more: Value) -> String {
    let mut request = json!({"prompt": "Once", "max_tokens": 12, "temperature": 0});
    request.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
    request.to_string()
}

/// The token that ends a turn, for answers that must not end by themselves.
fn end(server: &Running) -> String {
    let content = json!({"content": "<｜end▁of▁sentence｜>"}).to_string();
    ask(server, &post("/tokenize", &content, "")).json()["tokens"][0].to_string()
}

#[test]
fn requests_and_streams_come_through() {
    for (certificate, key) in [("localhost.pem", "localhost.key"), ("rsa.pem", "rsa.key")] {
        let tls = Tls::load(&file(certificate), &file(key)).unwrap_or_else(|e| panic!("{e}"));
        let server = start(Setup { tls: Some(tls), ..Setup::default() });
        let mut client = client_of(&server, certificate);
        client.write_all(&post("/v1/completions", &question(json!({"stream": true})), "")).expect("it is read");
        let mut all = Vec::new();
        client.read_to_end(&mut all).expect("it ends as TLS does");
        let stream = reply(&all);
        assert!(stream.status == 200 && stream.body.ends_with("data: [DONE]\n\n"), "{stream:?}");
    }
    let server = secured(Setup::default());
    let stream = ask(&server, &post("/v1/completions", &question(json!({"stream": true})), ""));
    let whole = ask(&server, &post("/v1/completions", &question(json!({})), "")).json();
    let events = stream.events();
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(whole["choices"][0]["text"], text);
    // A body that takes many records, in both directions.
    let long = ask(&server, &post("/tokenize", &json!({"content": "a ".repeat(1 << 20)}).to_string(), ""));
    assert!(long.json()["tokens"].as_array().is_some_and(|tokens| tokens.len() > 1 << 19));
}

#[test]
fn the_page_is_ours_by_https_too() {
    let server = secured(Setup::default());
    let host = format!("Host: localhost:{}\r\n", server.address.port());
    let from = |origin: String| get(&server, "/v1/models", &format!("{host}Origin: {origin}\r\n")).status;
    assert_eq!(get(&server, "/", &host).status, 200);
    assert_eq!(from(format!("https://localhost:{}", server.address.port())), 200);
    assert_eq!(from("https://good.example".into()), 200);
    assert_eq!(from("https://evil.example".into()), 403);
    assert_eq!(get(&server, "/", "Host: evil.example\r\n").status, 421);
}

#[test]
fn who_goes_away_frees_the_session() {
    let server = secured(Setup { n_sessions: 1, n_ctx: 8192, ..Setup::default() });
    let end = end(&server);
    for (n, stream) in [(1.0, false), (2.0, true)] {
        let endless = question(json!({"stream": stream, "max_tokens": 8000, "logit_bias": {end.clone(): -100}}));
        let mut client = client(&server);
        client.write_all(&post("/v1/completions", &endless, "")).expect("it is read");
        wait_for("it is begun", || metric(&server, "test_sessions_busy") == 1.0);
        drop(client);
        wait_for("the session is free", || metric(&server, "test_sessions_busy") == 0.0);
        wait_for("it is counted", || metric(&server, "test_answers_abandoned_total") == n);
    }
}

#[test]
fn who_closes_only_its_half_is_answered() {
    let server = secured(Setup { n_ctx: 4096, ..Setup::default() });
    let end = end(&server);
    for (stream, says_so) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut client = client(&server);
        let more = json!({"stream": stream, "max_tokens": 800, "logit_bias": {end.clone(): -100}});
        let request = post("/v1/completions", &question(more), "");
        client.write_all(&request).expect("it is read");
        if says_so {
            client.conn.send_close_notify();
        }
        client.flush().expect("it is read");
        client.sock.shutdown(Shutdown::Write).expect("it is open");
        let mut reply = String::new();
        client.read_to_string(&mut reply).expect("it is text");
        assert!(reply.contains("\"finish_reason\":\""), "{reply}");
    }
}

#[test]
fn handshakes_that_never_end_are_connections_and_are_given_up() {
    let server = secured(Setup::default());
    let mut silent = server.connect();
    let mut half = server.connect();
    half.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").expect("it is read");
    wait_for("they count", || metric(&server, "test_connections") == 3.0);
    let start = Instant::now();
    for client in [&mut silent, &mut half] {
        let _ = client.read_to_end(&mut Vec::new()); // reset or closed
    }
    assert!((5..20).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    wait_for("they count no more", || metric(&server, "test_connections") == 1.0);
}

#[test]
fn who_does_not_speak_tls_is_told() {
    let server = secured(Setup::default());
    let start = Instant::now();
    for bytes in [&b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], &post("/tokenize", &"x".repeat(20_000), "")]
    {
        let mut client = server.connect();
        client.write_all(bytes).expect("it is read");
        client.shutdown(Shutdown::Write).expect("it is open");
        let mut all = Vec::new();
        client.read_to_end(&mut all).expect("it is not taken back");
        let told = reply(&all);
        assert!(told.status == 400 && told.body.contains("https://"), "{told:?}");
    }
    let mut garbage = server.connect();
    garbage.write_all(b"\x16garbage that is no handshake").expect("it is read");
    let _ = garbage.read_to_end(&mut Vec::new()); // an alert, or nothing
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(get(&server, "/health", "Host: localhost\r\n").status, 200);
}

#[test]
fn what_cannot_be_served_with_is_told_in_a_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("it is ours");
        path
    };
    let read = |name: &str| std::fs::read_to_string(file(name)).expect("it is text");
    let (certificate, key) = (file("localhost.pem"), file("localhost.key"));
    let cut = read("localhost.pem").replace("\nMII", "\nMIA");
    let broken = write("broken.pem", &cut);
    let no_pem = write("no.pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    let half = write("half.pem", read("localhost.pem").split("-----END").next().expect("it begins"));
    let bad_key = write("bad.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let chain = write("chain.pem", &[read("localhost.pem"), read("rsa.pem")].concat());
    let stale = write("stale.pem", &[read("localhost.pem"), read("expired.pem")].concat());
    let both = write("both.pem", &[read("localhost.key"), read("localhost.pem")].concat());
    let load = |certificate: &Path, key: &Path| Tls::load(certificate, key).map(drop).map_err(|e| e.to_string());
    assert_eq!(load(&certificate, &key), Ok(()));
    assert_eq!(load(&chain, &key), Ok(()));
    assert_eq!(load(&both, &both), Ok(()));
    let wrong: [(&Path, &Path, &str); 12] = [
        (&certificate, &file("rsa.key"), "is not the key of"),
        (&file("rsa.pem"), &key, "is not the key of"),
        (&file("expired.pem"), &key, "expired: it was valid until 2020-01-03T00:00:00Z"),
        (&stale, &key, "expired"),
        (&broken, &key, "is broken"),
        (&no_pem, &key, "is no PEM"),
        (&half, &key, "is no PEM: a line with END is missing"),
        (&key, &key, "there is no certificate in it"),
        (&certificate, &certificate, "there is no key in it"),
        (&certificate, &bad_key, "the key is broken"),
        (&folder.path().join("missing"), &key, "o such file"),
        (&certificate, folder.path(), "irectory"),
    ];
    for (certificate, key, why) in wrong {
        let told = load(certificate, key).expect_err(why);
        assert!(told.contains(why) && told.lines().count() == 1, "{told}");
    }
}
