//! A client's socket, with TLS or without, and whether there is still a client behind it.
//!
//! One that has sent all it wants to say may close its half of the connection and wait for the answer; one that goes away closes
//! both. From here the two look the same, and HTTP does not tell them apart by itself. So who closes a half is asked, by words that
//! clients pass over: if nobody is there, the system answers that.
//!
//! ```text
//! bytes behind the request    the client may say more, and be gone meanwhile: they do not hide it
//! its half is closed          100 Continue, every second until something of the answer is sent; then its next parts
//! that was refused            it has gone, and what is done for it ends
//! ```
//!
//! HTTP/1.0 has no such words: those clients get nothing but their answer. Who vanishes without a word, as behind a cable that was
//! pulled, is found out by the system. What is seen is the connection's below TLS, what is asked goes through TLS as the answer does.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use axum::http::Version;
use futures_util::FutureExt as _;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{Instant, sleep},
};
use tokio_rustls::server::TlsStream;

use crate::tls::Tls;

/// How often it is looked whether the client is there.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often one is asked that has closed its half.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// After how long of silence the system asks, and how often then.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
/// How long what was sent may remain without a word that it has come.
#[cfg(target_os = "linux")]
const UNHEARD_TIME: Duration = Duration::from_secs(30);
/// What a client that waits for an answer passes over.
const STILL_THERE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// How a client of TLS begins: a record of a handshake.
const HANDSHAKE: u8 = 22;
/// What others are told on a port with TLS.
const NO_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 42\r\nConnection: close\r\n\r\n\
    this port speaks TLS: ask it with https://";
/// The most bytes of theirs that are read, so that they read ours.
const N_PASSED_OVER_MAX: usize = 64 << 10;

/// A socket that can be watched while it is used.
#[derive(Clone)]
pub(crate) struct Socket {
    bare: Bare,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    way: Way,
    /// Whether the client knows that there may be words before the answer.
    may_be_asked: bool,
    /// Whether something was sent since something was read.
    answers: bool,
    /// Whether the client has to take something before more can be sent, and how many are as far behind.
    is_behind: bool,
    n_behind: Arc<AtomicUsize>,
}

/// How bytes get to the client.
enum Way {
    Plain(Bare),
    Tls(Box<TlsStream<Bare>>),
}

/// The connection itself.
#[derive(Clone)]
pub(crate) struct Bare(Arc<TcpStream>);

impl Socket {
    /// One without TLS. It counts itself in `n_behind` while there is more to send than the client takes.
    pub(crate) fn plain(stream: TcpStream, n_behind: Arc<AtomicUsize>) -> Socket {
        let bare = Bare::new(stream);
        Socket::new(bare.clone(), Way::Plain(bare), n_behind)
    }

    /// One with TLS, after a handshake that may take as long as the client likes; `None` if that fails.
    pub(crate) async fn tls(stream: TcpStream, tls: &Tls, n_behind: Arc<AtomicUsize>) -> Option<Socket> {
        let bare = Bare::new(stream);
        let mut first = [0];
        match bare.0.peek(&mut first).await {
            Ok(1) if first[0] == HANDSHAKE => {}
            Ok(1) => {
                bare.tell_no_tls().await;
                return None;
            }
            _ => return None,
        }
        let stream = tls.accept(bare.clone()).await.ok()?;
        Some(Socket::new(bare, Way::Tls(Box::new(stream)), n_behind))
    }

    fn new(bare: Bare, way: Way, n_behind: Arc<AtomicUsize>) -> Socket {
        let shared = Shared { way, may_be_asked: false, answers: false, is_behind: false, n_behind };
        Socket { bare, shared: Arc::new(Mutex::new(shared)) }
    }

    /// A request has come, in this version of HTTP.
    pub(crate) fn requested(&self, version: Version) {
        let mut shared = self.shared();
        (shared.may_be_asked, shared.answers) = (version > Version::HTTP_10, false);
    }

    /// Waits until the client has gone.
    pub(crate) async fn gone(&self) {
        let mut asked: Option<Instant> = None;
        loop {
            sleep(LOOK_EVERY).await;
            let seen = self.bare.0.ready(Interest::READABLE | Interest::WRITABLE | Interest::ERROR).now_or_never();
            let Some(Ok(seen)) = seen else { continue };
            if seen.is_write_closed() || seen.is_error() {
                return;
            }
            let is_time = asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY);
            if seen.is_read_closed() && is_time && self.ask() {
                asked = Some(Instant::now());
            }
        }
    }

    /// Asks whether there is somebody; false if the answer does so by itself, or nothing may come before it. While a part of the last
    /// one waits to be sent, that is so too, though the next request may have been read.
    fn ask(&self) -> bool {
        let mut shared = self.shared();
        let may_ask = shared.may_be_asked && !shared.answers && !shared.is_behind;
        if may_ask {
            // Nobody else waits to write. If it cannot be asked, the answer will tell.
            let mut context = Context::from_waker(Waker::noop());
            let _ = shared.way.writer().poll_write(&mut context, STILL_THERE);
            let _ = shared.way.writer().poll_flush(&mut context);
        }
        may_ask
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where an answer goes.
    fn answering(&self) -> MutexGuard<'_, Shared> {
        let mut shared = self.shared();
        shared.answers = true;
        shared
    }
}

impl Shared {
    /// Counts who has to take something before more can be sent.
    fn sent<T>(&mut self, sent: Poll<T>) -> Poll<T> {
        self.set_behind(sent.is_pending());
        sent
    }

    fn set_behind(&mut self, is_behind: bool) {
        match (self.is_behind, is_behind) {
            (false, true) => _ = self.n_behind.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.n_behind.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        self.is_behind = is_behind;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.set_behind(false);
    }
}

impl Way {
    fn reader(&mut self) -> Pin<&mut (dyn AsyncRead + Unpin)> {
        match self {
            Way::Plain(bare) => Pin::new(bare),
            Way::Tls(stream) => Pin::new(stream),
        }
    }

    fn writer(&mut self) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        match self {
            Way::Plain(bare) => Pin::new(bare),
            Way::Tls(stream) => Pin::new(stream),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (n, mut shared) = (buf.filled().len(), self.shared());
        let read = ready!(shared.way.reader().poll_read(context, buf));
        shared.answers &= buf.filled().len() == n;
        Poll::Ready(match read {
            // A half that is closed without a word of TLS: HTTP knows by itself whether a request is whole.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            read => read,
        })
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut shared = self.answering();
        let sent = shared.way.writer().poll_write(context, bytes);
        shared.sent(sent)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.answering();
        let sent = shared.way.writer().poll_write_vectored(context, bytes);
        shared.sent(sent)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared();
        let sent = shared.way.writer().poll_flush(context);
        shared.sent(sent)
    }

    /// TLS says that this is all.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared().way.writer().poll_shutdown(context)
    }
}

impl Bare {
    fn new(stream: TcpStream) -> Bare {
        // Whatever of this a system cannot do, the answer will tell.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNHEARD_TIME));
        Bare(Arc::new(stream))
    }

    /// Answers who does not speak TLS, and passes over what it says: with bytes unread, the system would take the answer back.
    async fn tell_no_tls(&self) {
        let written = poll_fn(|context| Pin::new(&mut self.clone()).poll_write(context, NO_TLS));
        let _ = written.await; // there is room for it
        let mut bytes = [0; 4096];
        let mut n_read = 0;
        while n_read < N_PASSED_OVER_MAX {
            let mut buf = ReadBuf::new(&mut bytes);
            let read = poll_fn(|context| Pin::new(&mut self.clone()).poll_read(context, &mut buf)).await;
            if read.is_err() || buf.filled().is_empty() {
                return;
            }
            n_read += buf.filled().len();
        }
    }

    fn poll_try_write(
        &self,
        context: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncRead for Bare {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Bare {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_try_write(context, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try_write(context, |stream| stream.try_write_vectored(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The socket is closed when it is dropped, which is what follows.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use tokio::{net::TcpListener, time::timeout};

    use super::*;

    /// A socket, and its client, which has asked and closed its half.
    async fn half_closed(version: Version) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
        let address = listener.local_addr().expect("it has one");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (client, socket) =
            (client.expect("it listens"), Socket::plain(accepted.expect("it comes").0, Arc::default()));
        SockRef::from(&client).shutdown(Shutdown::Write).expect("it is open");
        socket.requested(version);
        (socket, client)
    }

    /// What comes, until it is so much or there is no more.
    async fn read(stream: &TcpStream, n_bytes: usize) -> Vec<u8> {
        let (mut all, mut part) = (Vec::new(), [0; 64]);
        while all.len() < n_bytes {
            stream.readable().await.expect("it is open");
            match stream.try_read(&mut part[..64.min(n_bytes - all.len())]) {
                Ok(0) => break,
                Ok(n) => all.extend_from_slice(&part[..n]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        all
    }

    #[tokio::test]
    async fn who_has_closed_a_half_is_asked_until_it_goes() {
        let (socket, client) = half_closed(Version::HTTP_11).await;
        let watched = tokio::spawn(async move { socket.gone().await });
        for _ in 0..2 {
            assert_eq!(read(&client, STILL_THERE.len()).await, STILL_THERE);
        }
        assert!(!watched.is_finished());
        drop(client);
        timeout(Duration::from_secs(30), watched).await.expect("it is asked once more").expect("no panic");
    }

    #[tokio::test]
    async fn nothing_comes_between_the_parts_of_an_answer_or_before_one_in_http_1_0() {
        for (version, answer) in [(Version::HTTP_10, &b""[..]), (Version::HTTP_11, b"part")] {
            let (mut socket, client) = half_closed(version).await;
            if !answer.is_empty() {
                let written = poll_fn(|context| Pin::new(&mut socket).poll_write(context, answer)).await;
                assert_eq!(written.ok(), Some(answer.len()));
            }
            assert!(timeout(2 * ASK_EVERY, socket.gone()).await.is_err());
            drop(socket);
            assert_eq!(read(&client, usize::MAX).await, answer);
        }
    }

    #[tokio::test]
    async fn who_has_not_taken_all_is_behind() {
        let (mut socket, _client) = half_closed(Version::HTTP_11).await;
        let n_behind = socket.shared().n_behind.clone();
        let mut context = Context::from_waker(Waker::noop());
        while Pin::new(&mut socket).poll_write(&mut context, &[0; 1 << 16]).is_ready() {
            assert_eq!(n_behind.load(Ordering::Relaxed), 0);
        }
        assert_eq!(n_behind.load(Ordering::Relaxed), 1);
        drop(socket);
        assert_eq!(n_behind.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn nothing_comes_within_an_answer_though_the_next_request_was_read() {
        let (mut socket, client) = half_closed(Version::HTTP_11).await;
        let mut context = Context::from_waker(Waker::noop());
        while Pin::new(&mut socket).poll_write(&mut context, &[0; 1 << 16]).is_ready() {}
        socket.requested(Version::HTTP_11);
        let before = read(&client, 1 << 18).await;
        assert!(timeout(2 * ASK_EVERY, socket.gone()).await.is_err());
        drop(socket);
        let rest = read(&client, usize::MAX).await;
        assert!(before.iter().chain(&rest).all(|byte| *byte == 0));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_system_looks_for_clients_that_vanish() {
        let (socket, _client) = half_closed(Version::HTTP_11).await;
        let options = SockRef::from(&*socket.bare.0);
        assert_eq!(options.keepalive().ok(), Some(true));
        assert_eq!(options.tcp_user_timeout().ok().flatten(), Some(UNHEARD_TIME));
    }
}
