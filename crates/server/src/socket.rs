//! A client's socket, with TLS or without, and whether there is still a client behind it.
//!
//! One that has sent all it wants to say may close its half of the connection and wait for the answer; one that goes away closes
//! both. From here the two look the same, and HTTP does not tell them apart by itself. So who closes a half is asked, by words that
//! clients pass over: if nobody is there, the system answers that.
//!
//! ```text
//! bytes behind the request    the client may say more, and be gone meanwhile: they do not hide it
//! its half is closed          100 Continue, if nothing of the answer was sent yet; else the next part of the answer
//! that was refused            it has gone, and what is done for it ends
//! ```
//!
//! What is seen is the connection's below TLS, what is asked goes through TLS as the answer does.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::sleep,
};
use tokio_rustls::server::TlsStream;

use crate::tls::Tls;

/// How often it is looked whether the client is there.
const LOOK_EVERY: Duration = Duration::from_millis(200);
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
    /// Whether something was sent since something was read.
    answers: bool,
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
    /// One without TLS.
    pub(crate) fn plain(stream: TcpStream) -> Socket {
        let bare = Bare::new(stream);
        Socket::new(bare.clone(), Way::Plain(bare))
    }

    /// One with TLS, after a handshake that may take as long as the client likes; `None` if that fails.
    pub(crate) async fn tls(stream: TcpStream, tls: &Tls) -> Option<Socket> {
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
        Some(Socket::new(bare, Way::Tls(Box::new(stream))))
    }

    fn new(bare: Bare, way: Way) -> Socket {
        Socket { bare, shared: Arc::new(Mutex::new(Shared { way, answers: false })) }
    }

    /// Waits until the client has gone.
    pub(crate) async fn gone(&self) {
        let mut is_asked = false;
        loop {
            sleep(LOOK_EVERY).await;
            let seen = self.bare.0.ready(Interest::READABLE | Interest::WRITABLE | Interest::ERROR).now_or_never();
            let Some(Ok(seen)) = seen else { continue };
            if seen.is_write_closed() || seen.is_error() {
                return;
            }
            is_asked = is_asked || seen.is_read_closed() && self.ask();
        }
    }

    /// Asks whether there is somebody; false if the answer does so by itself.
    fn ask(&self) -> bool {
        let mut shared = self.shared();
        if !shared.answers {
            // Nobody else waits to write. If it cannot be asked, the answer will tell.
            let mut context = Context::from_waker(Waker::noop());
            let _ = shared.way.writer().poll_write(&mut context, STILL_THERE);
            let _ = shared.way.writer().poll_flush(&mut context);
        }
        !shared.answers
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
        self.answering().way.writer().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.answering().way.writer().poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared().way.writer().poll_flush(context)
    }

    /// TLS says that this is all.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared().way.writer().poll_shutdown(context)
    }
}

impl Bare {
    fn new(stream: TcpStream) -> Bare {
        let _ = stream.set_nodelay(true);
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
