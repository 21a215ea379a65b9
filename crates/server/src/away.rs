//! Work for a request that takes its time, away from the threads that serve connections. Who waits for a turn is forgotten with its
//! client; work that has begun keeps its turn until it is done, so that clients that go away do not add to what is done at a time.

use axum::http::StatusCode;
use tokio::{
    sync::oneshot::{Sender, channel},
    task::spawn_blocking,
};

use crate::error::Refusal;

/// Whoever waits for work.
pub(crate) struct Client<'a>(&'a dyn Fn() -> bool);

impl Client<'_> {
    /// Lets work go on that somebody waits for.
    ///
    /// # Errors
    /// Nobody does any more, so nobody hears of it.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let gone = || Refusal::new(StatusCode::REQUEST_TIMEOUT, "client_gone", "the client has gone");
        if (self.0)() { Err(gone()) } else { Ok(()) }
    }
}

/// Does `work` on a thread of its own, and gives `turn` back when it is done.
///
/// # Errors
/// What `work` says, or if it panics, `bug`.
pub(crate) async fn away<T: Send + 'static>(
    turn: impl Send + 'static,
    bug: impl FnOnce() -> Refusal,
    work: impl FnOnce(&Client<'_>) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let (to, from) = channel();
    spawn_blocking(move || {
        let done = work(&Client(&|| Sender::is_closed(&to)));
        drop(turn);
        let _ = to.send(done); // the client may have gone
    });
    from.await.unwrap_or_else(|_| Err(bug()))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn work_keeps_its_turn_when_its_client_goes() {
        let turns = Arc::new(Semaphore::new(1));
        let turn = turns.clone().try_acquire_owned().expect("there is one");
        let ((begun, begins), (go_on, wait)) = (channel(), mpsc::channel());
        let (end, ended) = channel();
        let work = away(turn, Refusal::bug, move |client| {
            let before = client.check();
            let _ = begun.send(());
            let _ = wait.recv();
            let _ = end.send((before, client.check()));
            Ok(())
        });
        tokio::select! {
            _ = work => unreachable!("it waits for us"),
            _ = begins => {} // and the client goes
        }
        assert_eq!(turns.available_permits(), 0);
        go_on.send(()).expect("it waits");
        let (before, after) = ended.await.expect("it says so");
        assert!(before.is_ok() && after.is_err_and(|refusal| refusal.code == "client_gone"));
        assert!(turns.acquire().await.is_ok());
    }

    #[tokio::test]
    async fn a_panic_is_a_bug_and_gives_the_turn_back() {
        let turns = Arc::new(Semaphore::new(1));
        let turn = turns.clone().try_acquire_owned().expect("there is one");
        let refused = away::<()>(turn, Refusal::bug, |_| panic!("as it should")).await.expect_err("it panicked");
        assert_eq!(refused.code, "internal_error");
        assert!(turns.acquire().await.is_ok());
    }
}
