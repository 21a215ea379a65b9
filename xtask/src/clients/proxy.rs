//! What stands between a client and the server: it hands requests on as they are, with one more field that holds the answer to
//! the script, and remembers what was asked and answered.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use serde_json::{Value, json};

use super::{
    http::{self, Message, exchange, read_request},
    script::{Asked, Call, MARKS, grammar},
};

/// A request and its reply, as the server saw them.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) request: Message,
    pub(crate) reply: Message,
}

impl Exchange {
    /// The same request again, to a server.
    pub(crate) fn again(&self, server: SocketAddr) -> io::Result<Exchange> {
        Ok(Exchange { request: self.request.clone(), reply: http::ask(server, &self.request)? })
    }
}

/// A proxy that listens. It does as long as the program runs.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    call: Option<Call>,
    exchanges: Mutex<Vec<Exchange>>,
    /// One for each connection.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Proxy {
    /// Listens for a client of `server` that is to make a call.
    pub(crate) fn start(server: SocketAddr, call: Option<Call>) -> io::Result<Proxy> {
        check_marks(server)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { server, call, exchanges: Mutex::default(), threads: Mutex::default() });
        let of_thread = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = of_thread.clone();
                let thread = thread::spawn(move || shared.serve(stream));
                locked(&of_thread.threads).push(thread);
            }
        });
        Ok(Proxy { address, shared })
    }

    /// What a client has asked, and what it was answered; once it has ended.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        let threads = std::mem::take(&mut *locked(&self.shared.threads));
        threads.into_iter().for_each(|thread| thread.join().expect("nothing panics"));
        locked(&self.shared.exchanges).clone()
    }
}

impl Shared {
    /// Answers one request, and remembers it. A client that breaks off has what it wants, or says itself what it lacks.
    fn serve(&self, mut stream: TcpStream) {
        let Ok(Some(mut request)) = read_request(&stream) else { return };
        let reply =
            self.hold_to_script(&mut request).and_then(|()| exchange(self.server, &request, &mut stream)).transpose();
        if let Some(reply) = reply {
            let reply = reply.unwrap_or_else(|error| Message {
                start: "HTTP/1.1 502 there is no reply".into(),
                body: error.to_string().into(),
                ..Message::default()
            });
            locked(&self.exchanges).push(Exchange { request, reply });
        }
    }

    /// Adds what holds the answer to the script, unless the client itself says what it is to look like.
    fn hold_to_script(&self, request: &mut Message) -> io::Result<()> {
        let Some(mut body) = request.json() else { return Ok(()) };
        if let Some(asked) = Asked::read(request.path(), &body) {
            let tokens = tokens(self.server, &asked.script(self.call.as_ref()))?;
            body["structured_outputs"] = json!({ "grammar": grammar(&tokens), "raw": true });
            request.body = body.to_string().into_bytes();
        }
        Ok(())
    }
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// That the script's marks are tokens of the model.
fn check_marks(server: SocketAddr) -> io::Result<()> {
    let n_tokens = tokens(server, &MARKS.concat())?.len();
    let all = n_tokens == MARKS.len();
    all.then_some(()).ok_or_else(|| io::Error::other("the model lacks marks of DeepSeek V4"))
}

/// A text as the server cuts it.
fn tokens(server: SocketAddr, text: &str) -> io::Result<Vec<u64>> {
    let reply = http::ask(server, &Message::post("/tokenize", &json!({ "content": text, "parse_special": true })))?;
    let ids = reply.json().and_then(|body| body["tokens"].as_array()?.iter().map(Value::as_u64).collect());
    ids.ok_or_else(|| io::Error::other(format!("{text:?} was not cut into tokens: {}", reply.text())))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_server_that_does_not_reply_is_remembered() {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
        let shared = Shared { server: free, call: None, exchanges: Mutex::default(), threads: Mutex::default() };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"GET /v1/models HTTP/1.1\r\n\r\n").unwrap();
        shared.serve(listener.accept().unwrap().0);
        let exchanges = locked(&shared.exchanges);
        assert_eq!(
            exchanges.iter().map(|e| (e.request.path(), e.reply.status())).collect::<Vec<_>>(),
            [("/v1/models", 502)]
        );
    }
}
