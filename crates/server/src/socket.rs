//! A client's socket, and whether there is still a client behind it.
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

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::sleep,
};

/// How often it is looked whether the client is there.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What a client that waits for an answer passes over.
const STILL_THERE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A socket that can be watched while it is used.
#[derive(Clone, Debug)]
pub(crate) struct Socket(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stream: TcpStream,
    /// Whether something was sent since something was read.
    answers: AtomicBool,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Socket {
        let _ = stream.set_nodelay(true);
        Socket(Arc::new(Shared { stream, answers: AtomicBool::new(false) }))
    }

    /// Waits until the client has gone.
    pub(crate) async fn gone(&self) {
        let stream = &self.0.stream;
        let mut is_asked = false;
        loop {
            sleep(LOOK_EVERY).await;
            let seen = stream.ready(Interest::READABLE | Interest::WRITABLE | Interest::ERROR).now_or_never();
            let Some(Ok(seen)) = seen else { continue };
            if seen.is_write_closed() || seen.is_error() {
                return;
            }
            if seen.is_read_closed() && !is_asked && !self.0.answers.load(Ordering::Relaxed) {
                let _ = stream.try_write(STILL_THERE); // if it cannot be asked, the answer will tell
                is_asked = true;
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.stream.poll_read_ready(context))?;
            match self.0.stream.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    buf.advance(n);
                    self.0.answers.fetch_and(n == 0, Ordering::Relaxed);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Socket {
    fn poll_try_write(
        &self,
        context: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.0.answers.store(true, Ordering::Relaxed);
        loop {
            ready!(self.0.stream.poll_write_ready(context))?;
            match write(&self.0.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncWrite for Socket {
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
