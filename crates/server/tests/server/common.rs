//! A server with a model of some kilobytes, and a client that can say anything.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use engine::{Engine, Kept, Options, SamplerOptions};
use serde_json::Value;
use server::{Access, Ending, Log, Server, Tls, Trace};

/// A server that runs.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    ending: Ending,
    thread: Option<JoinHandle<()>>,
}

/// How to start one.
pub(crate) struct Setup<'a> {
    pub(crate) n_sessions: usize,
    pub(crate) n_ctx: usize,
    pub(crate) n_waiting_max: usize,
    pub(crate) keys: &'a [&'a str],
    pub(crate) kept: Option<Kept>,
    pub(crate) log: Log,
    /// Who takes the lines of the log.
    pub(crate) tell: fn(&str),
    pub(crate) trace: Option<Trace>,
    pub(crate) tls: Option<Tls>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Setup {
            n_sessions: 2,
            n_ctx: 1024,
            n_waiting_max: 64,
            keys: &[],
            kept: None,
            log: Log::Off,
            tell: |line| eprintln!("{line}"),
            trace: None,
            tls: None,
        }
    }
}

/// Starts one.
pub(crate) fn start(setup: Setup<'_>) -> Running {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/deepseek_v4/micro-flash.gguf");
    let key_dir = setup.kept.as_ref().and_then(|kept| kept.dir.clone());
    let options = Options { threads: Some(2), n_batch: 64, kept: setup.kept, ..Options::new(path) };
    let engine = Engine::open(&options).unwrap_or_else(|e| panic!("{e}"));
    let sessions = engine.sessions(setup.n_sessions, setup.n_ctx).unwrap_or_else(|e| panic!("{e}"));
    let keys: Vec<String> = setup.keys.iter().map(|key| (*key).to_owned()).collect();
    let options = server::Options {
        access: Access::new(&keys, &[], &["https://good.example".into()]),
        name: "micro".into(),
        aliases: Vec::new(),
        sampling: SamplerOptions::default(),
        seed: None,
        n_reasoning_max: None,
        n_waiting_max: setup.n_waiting_max,
        n_connections_max: 512,
        key_dir,
        prefix: "test".into(),
        log: setup.log,
        tell: setup.tell,
        trace: setup.trace,
        tls: setup.tls,
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("{e}"));
    let server = Server::new(engine, sessions, listener, options).unwrap_or_else(|e| panic!("{e}"));
    let (address, ending) = (server.address(), server.ending());
    Running { address, ending, thread: Some(std::thread::spawn(move || server.run(|| ()))) }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The data of server-sent events, without the last `[DONE]`.
    pub(crate) fn events(&self) -> Vec<Value> {
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
        data.map(|data| serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data}"))).collect()
    }
}

impl Running {
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap_or_else(|e| panic!("{e}"));
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap_or_else(|e| panic!("{e}"));
        stream
    }

    /// Sends bytes, and reads what comes until the connection is closed.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Reply {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes); // it may have been refused before its end
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        reply(&all)
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.raw(&post(path, &body.to_string(), ""))
    }

    /// Has it end, and waits for that.
    pub(crate) fn end(mut self) {
        self.ending.ask();
        self.thread.take().expect("it runs").join().expect("it ends");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ending.ask();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The reply in what came.
pub(crate) fn reply(bytes: &[u8]) -> Reply {
    let all = String::from_utf8_lossy(bytes).into_owned();
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or((&all, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { joined(body) } else { body.to_owned() };
    Reply { status, head: head.to_owned(), body }
}

/// The bytes of a request.
pub(crate) fn post(path: &str, body: &str, headers: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The text of chunks.
fn joined(mut chunks: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        text.push_str(rest.get(..size).unwrap_or(rest));
        chunks = rest.get(size + 2..).unwrap_or("");
    }
    text
}

/// Waits until something is so, but not for long.
pub(crate) fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
