//! Lines on their way to a place that may be slow: a pipe that nobody reads, a disk that is full. Whoever sends never waits; what
//! there is no room for is lost, and counted, and the count is told as soon as the place takes something again.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// The most lines that wait.
const N_LINES_MAX: usize = 4096;
/// How often it is looked for room while it is worth waiting.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Where lines go.
pub(crate) trait Place: Send + 'static {
    /// Writes a line, which has no end of line yet; false if it was not taken.
    fn write(&mut self, line: &str) -> bool;
    /// The line that tells how many were lost.
    fn lost(&self, n: u64) -> String;
}

/// What sends lines to a place, by a thread of its own.
#[derive(Clone)]
pub(crate) struct Outbox {
    to: SyncSender<Sent>,
    waiting: Arc<Waiting>,
    bytes_max: usize,
}

enum Sent {
    Line(String),
    /// Asks to be told when all before it was written.
    Mark(SyncSender<()>),
}

#[derive(Default)]
struct Waiting {
    n_bytes: AtomicUsize,
    n_lost: AtomicU64,
}

impl Outbox {
    /// Lines of `bytes_max` bytes may wait together; one alone may have more.
    ///
    /// # Errors
    /// The system has no thread.
    pub(crate) fn start(name: &str, bytes_max: usize, place: impl Place) -> io::Result<Outbox> {
        let (to, from) = sync_channel(N_LINES_MAX);
        let waiting = Arc::new(Waiting::default());
        let of_thread = waiting.clone();
        thread::Builder::new().name(name.into()).spawn(move || run(&from, &of_thread, place))?;
        Ok(Outbox { to, waiting, bytes_max })
    }

    /// Has a line written, if there is room.
    pub(crate) fn send(&self, line: String) {
        let n = line.len();
        let before = self.waiting.n_bytes.fetch_add(n, Ordering::Relaxed);
        let fits = before == 0 || before + n <= self.bytes_max;
        if !fits || self.to.try_send(Sent::Line(line)).is_err() {
            self.waiting.n_bytes.fetch_sub(n, Ordering::Relaxed);
            self.waiting.n_lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was sent is written, but no longer than `time`.
    pub(crate) fn flush(&self, time: Duration) {
        let end = Instant::now() + time;
        let (done, wait) = sync_channel(1);
        let mut mark = Sent::Mark(done);
        while let Err(TrySendError::Full(unsent)) = self.to.try_send(mark) {
            if Instant::now() >= end {
                return;
            }
            mark = unsent;
            thread::sleep(LOOK_EVERY);
        }
        let _ = wait.recv_timeout(end.saturating_duration_since(Instant::now())); // or it is given up
    }
}

/// Writes what comes, until nobody sends any more.
fn run(from: &Receiver<Sent>, waiting: &Waiting, mut place: impl Place) {
    for sent in from {
        match sent {
            Sent::Line(line) => {
                if !tell_lost(waiting, &mut place) || !place.write(&line) {
                    waiting.n_lost.fetch_add(1, Ordering::Relaxed);
                }
                waiting.n_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            }
            Sent::Mark(done) => {
                tell_lost(waiting, &mut place);
                let _ = done.send(()); // who asked may have given up
            }
        }
    }
}

/// Tells how many lines were lost, if some were; false if even that is not taken.
fn tell_lost(waiting: &Waiting, place: &mut impl Place) -> bool {
    let n = waiting.n_lost.swap(0, Ordering::Relaxed);
    let told = n == 0 || place.write(&place.lost(n));
    if !told {
        waiting.n_lost.fetch_add(n, Ordering::Relaxed);
    }
    told
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::AtomicBool,
        mpsc::{Sender, channel},
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    /// Takes a line when it is let, or nothing at all.
    struct Slow {
        let_go: Receiver<()>,
        is_full: Arc<AtomicBool>,
        lines: Arc<Mutex<Vec<String>>>,
    }

    impl Place for Slow {
        fn write(&mut self, line: &str) -> bool {
            let _ = self.let_go.recv(); // or it may always go on
            let takes = !self.is_full.load(Ordering::SeqCst);
            if takes {
                self.lines.lock().expect("nobody panics").push(line.into());
            }
            takes
        }

        fn lost(&self, n: u64) -> String {
            format!("lost {n}")
        }
    }

    struct Parts {
        outbox: Outbox,
        let_go: Sender<()>,
        is_full: Arc<AtomicBool>,
        lines: Arc<Mutex<Vec<String>>>,
    }

    fn start(bytes_max: usize) -> Parts {
        let (let_go, wait) = channel();
        let (is_full, lines) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let place = Slow { let_go: wait, is_full: is_full.clone(), lines: Arc::clone(&lines) };
        let outbox = Outbox::start("test", bytes_max, place).unwrap_or_else(|e| panic!("{e}"));
        Parts { outbox, let_go, is_full, lines }
    }

    #[test]
    fn who_sends_to_a_slow_place_never_waits_and_what_is_lost_is_told() {
        let Parts { outbox, let_go, lines, .. } = start(10);
        let _ = ["12345", "12345", "x", "y"].map(|line| outbox.send(line.into()));
        outbox.flush(Duration::from_millis(1));
        drop(let_go);
        outbox.flush(SOON);
        outbox.send("a line that is longer than all that may wait".into());
        outbox.flush(SOON);
        let lines = lines.lock().expect("nobody panics");
        let expected = ["lost 2", "12345", "12345", "a line that is longer than all that may wait"];
        // The first line may have been on its way before the others were lost.
        let (mut found, mut expected) = (lines.clone(), expected.map(str::to_owned).to_vec());
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_place_that_takes_nothing_is_told_later_how_much_that_was() {
        let Parts { outbox, let_go, is_full, lines } = start(1000);
        drop(let_go);
        is_full.store(true, Ordering::SeqCst);
        let _ = ["1", "2", "3"].map(|line| outbox.send(line.into()));
        outbox.flush(SOON);
        is_full.store(false, Ordering::SeqCst);
        outbox.send("4".into());
        outbox.flush(SOON);
        assert_eq!(*lines.lock().expect("nobody panics"), ["lost 3", "4"]);
    }
}
