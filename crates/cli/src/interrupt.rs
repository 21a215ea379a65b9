//! Ctrl+C: while an answer is being computed it asks for its end, at any other time it ends the program. Also while
//! computing, a second one ends the program at once. Signals that ask a process to end count as Ctrl+C.

use std::{
    io::{self, Write as _},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use crate::{error::Error, output, terminal};

/// Nobody looks at the state: end.
const IDLE: u8 = 0;
/// Somebody looks: ask.
const WORKING: u8 = 1;
/// Asked.
const ASKED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(IDLE);

/// What is done before the program ends in the middle.
type Last = Box<dyn Fn() + Send>;

static LAST: Mutex<Option<Last>> = Mutex::new(None);

/// Exit status of a program that Ctrl+C ended: 128 + SIGINT.
pub(crate) const STATUS: u8 = 130;

/// Takes charge of Ctrl+C for the rest of the program. Not where whoever started us wants such signals ignored, as
/// `nohup` does: there they stay ignored, and those that are not end the program at once.
///
/// # Errors
/// If the system will not have it.
pub(crate) fn listen() -> Result<(), Error> {
    let listening = ctrlc::try_set_handler(|| {
        if STATE.compare_exchange(WORKING, ASKED, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            end();
        }
    });
    match listening {
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
        Err(e) => Err(Error::Stream { what: "Ctrl+C", source: io::Error::other(e) }),
    }
}

/// Has something done before a signal ends the program while nobody is at work.
pub(crate) fn before_end(last: impl Fn() + Send + 'static) {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(last));
}

/// Leaves the terminal and the folder as they were found, and the program.
fn end() -> ! {
    output::abandon();
    // Who asks a second time while work is going on does not wait for anything.
    if STATE.load(Ordering::SeqCst) == IDLE
        && let Some(last) = LAST.lock().unwrap_or_else(PoisonError::into_inner).take()
    {
        last();
    }
    if terminal::stderr_is_terminal() {
        let _ = io::stderr().write_all(b"\x1b[0m\n");
    }
    std::process::exit(STATUS.into())
}

/// While it lives, Ctrl+C only asks. Work may contain work: who begins starts unasked.
pub(crate) struct Work {
    /// The state to return to.
    outer: u8,
}

impl Work {
    pub(crate) fn begin() -> Work {
        Work { outer: STATE.swap(WORKING, Ordering::SeqCst) }
    }

    /// Whether Ctrl+C was pressed since the beginning.
    pub(crate) fn interrupted(&self) -> bool {
        Work::is_interrupted()
    }

    /// The same, for threads that do not own the work.
    pub(crate) fn is_interrupted() -> bool {
        STATE.load(Ordering::SeqCst) == ASKED
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        STATE.store(self.outer.min(WORKING), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_lasts_as_long_as_the_work() {
        let work = Work::begin();
        assert!(!work.interrupted());
        STATE.store(ASKED, Ordering::SeqCst);
        assert!(work.interrupted());
        let inner = Work::begin();
        assert!(!inner.interrupted());
        drop(inner);
        assert_eq!(STATE.load(Ordering::SeqCst), WORKING);
        drop(work);
        assert_eq!(STATE.load(Ordering::SeqCst), IDLE);
    }
}
