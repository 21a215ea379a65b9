//! As much of HTTP/1.1 as it takes to stand between a client and our server: one exchange a connection, bodies by their length
//! or in chunks.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// How long the other side may be silent.
const SILENCE: Duration = Duration::from_secs(300);

/// A request, or the reply to one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// The first line.
    pub(crate) start: String,
    /// The other lines of the head.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// A request for JSON.
    pub(crate) fn post(path: &str, body: &Value) -> Message {
        let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
        Message { start: format!("POST {path} HTTP/1.1"), headers, body: body.to_string().into_bytes() }
    }

    /// What was asked for, without what is behind a question mark.
    pub(crate) fn path(&self) -> &str {
        let target = self.start.split(' ').nth(1).unwrap_or_default();
        target.split('?').next().unwrap_or_default()
    }

    pub(crate) fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body, if it is JSON.
    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }

    /// Its bytes as a request to `host`, after which the connection is closed.
    fn to_bytes(&self, host: SocketAddr) -> Vec<u8> {
        const OURS: [&str; 5] = ["host", "connection", "content-length", "transfer-encoding", "expect"];
        let mut head = format!("{}\r\nHost: {host}\r\nConnection: close\r\n", self.start);
        for (name, value) in self.headers.iter().filter(|(name, _)| !OURS.contains(&&*name.to_lowercase())) {
            head += &format!("{name}: {value}\r\n");
        }
        if !self.body.is_empty() {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }
}

/// Reads a request; `None` if none comes.
pub(crate) fn read_request(stream: &TcpStream) -> io::Result<Option<Message>> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut reader = BufReader::new(stream);
    let Some(mut request) = read_head(&mut reader)? else { return Ok(None) };
    if request.is_chunked() {
        request.body = read_chunks(&mut reader)?;
    } else if let Some(n_bytes) = request.header("content-length").and_then(|n| n.parse().ok()) {
        request.body = vec![0; n_bytes];
        reader.read_exact(&mut request.body)?;
    }
    Ok(Some(request))
}

/// Asks `server`, hands on what comes as it comes, and returns all of it; `None` once `to` takes no more.
pub(crate) fn exchange(server: SocketAddr, request: &Message, to: &mut dyn Write) -> io::Result<Option<Message>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.write_all(&request.to_bytes(server))?;
    let (mut all, mut part) = (Vec::new(), [0; 1 << 14]);
    loop {
        match stream.read(&mut part)? {
            0 => break,
            n => {
                all.extend_from_slice(&part[..n]);
                if to.write_all(&part[..n]).and_then(|()| to.flush()).is_err() {
                    return Ok(None);
                }
            }
        }
    }
    let mut all = all.as_slice();
    let mut reply = read_head(&mut all)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    reply.body = if reply.is_chunked() { read_chunks(&mut all)? } else { all.to_vec() };
    Ok(Some(reply))
}

/// Asks `server`, and waits for all of the reply.
pub(crate) fn ask(server: SocketAddr, request: &Message) -> io::Result<Message> {
    Ok(exchange(server, request, &mut io::sink())?.expect("a sink takes everything"))
}

fn read_head(reader: &mut dyn BufRead) -> io::Result<Option<Message>> {
    let mut message = Message::default();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        match line.split_once(':') {
            _ if line.is_empty() => return Ok(Some(message)),
            Some((name, value)) if !message.start.is_empty() => {
                message.headers.push((name.to_owned(), value.trim().to_owned()));
            }
            _ => message.start = line.to_owned(),
        }
    }
}

fn read_chunks(reader: &mut dyn BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size)?;
        let n_bytes = usize::from_str_radix(size.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
        let start = body.len();
        body.resize(start + n_bytes, 0);
        reader.read_exact(&mut body[start..])?;
        reader.read_line(&mut String::new())?;
        if n_bytes == 0 {
            return Ok(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_in_chunks_is_one_text() {
        let mut bytes = &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"[..];
        let head = read_head(&mut bytes).unwrap().unwrap();
        assert_eq!((head.status(), head.is_chunked()), (200, true));
        assert_eq!(read_chunks(&mut bytes).unwrap(), b"abcde");
    }

    #[test]
    fn a_request_keeps_its_headers_and_is_told_its_length_anew() {
        let mut bytes =
            &b"POST /v1/messages?beta=true HTTP/1.1\r\nhost: x\r\nX-Api-Key: k\r\ncontent-length: 9\r\n\r\n"[..];
        let request = Message { body: b"{}".to_vec(), ..read_head(&mut bytes).unwrap().unwrap() };
        assert_eq!(request.path(), "/v1/messages");
        assert_eq!(
            String::from_utf8(request.to_bytes(SocketAddr::from(([127, 0, 0, 1], 80)))).unwrap(),
            "POST /v1/messages?beta=true HTTP/1.1\r\nHost: 127.0.0.1:80\r\nConnection: close\r\nX-Api-Key: k\r\n\
             Content-Length: 2\r\n\r\n{}"
        );
    }
}
