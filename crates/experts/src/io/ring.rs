//! One thread that has the kernel read many parts at a time, by `io_uring`.
//!
//! While something is under way, the thread waits in the kernel, for the next end of a read or for the bell that is rung
//! when more is asked for. What the ring cannot read is read plainly, here. A ring that fails again and again is left for
//! good: others than this thread go on, and this one waits for what the kernel still holds, then joins them.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use super::{
    DEPTH_MAX,
    part::{Part, is_passing},
    queue::Queue,
    serve, threads,
    uring::{Event, Rest, Ring},
};

/// Calls in a row that fail and bring nothing, until the ring is left; and those that are interrupted.
const FAILURES_MAX: usize = 3;
const INTERRUPTIONS_MAX: usize = 1000;

/// Parts that the ring failed to read and others did, until the ring is left; and parts that it reads in a row until those
/// are forgotten.
const RESCUES_MAX: usize = 16;
const FORGOTTEN_AFTER: usize = 1000;

/// The ring's thread.
struct Driver {
    queue: Arc<Queue>,
    ring: Ring,
    bell: Bell,
    n_failures: usize,
    n_interruptions: usize,
    n_rescues: usize,
    /// Parts read since the last rescue, or since such were forgotten.
    n_good: usize,
}

/// What is heard of the bell: a byte for each time it was rung. A bell that is broken is not listened to: what is asked
/// for is then seen when the next read ends.
struct Bell {
    end: UnixStream,
    is_polled: bool,
    is_broken: bool,
}

/// Has a ring read what is queued.
///
/// # Errors
/// If the kernel has no ring for us, or there is no thread.
pub(super) fn start(queue: &Arc<Queue>) -> io::Result<()> {
    let driver = Driver::new(queue)?;
    let thread = thread::Builder::new().name("reader".into()).spawn(|| driver.run());
    thread.map(|_| ()).inspect_err(|_| queue.leave_ring())
}

impl Driver {
    fn new(queue: &Arc<Queue>) -> io::Result<Driver> {
        // As many again may be lost.
        let ring = Ring::new(queue.sources().clone(), 2 * DEPTH_MAX)?;
        let (end, other) = UnixStream::pair()?;
        end.set_nonblocking(true)?;
        other.set_nonblocking(true)?;
        // A bell that cannot be rung has been rung often enough, or is broken.
        queue.enter_ring(Box::new(move || _ = (&other).write(&[0])));
        let bell = Bell { end, is_polled: false, is_broken: false };
        Ok(Driver { queue: queue.clone(), ring, bell, n_failures: 0, n_interruptions: 0, n_rescues: 0, n_good: 0 })
    }

    fn run(mut self) {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.turn())) {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return,
                Ok(Err(_)) | Err(_) => return self.leave(),
            }
        }
    }

    /// Hands on what is asked for, and waits until something has ended. Whether there may be more to do.
    ///
    /// # Errors
    /// When the ring is not worth another try.
    fn turn(&mut self) -> io::Result<bool> {
        while let Some(part) = self.queue.try_next() {
            self.push(part);
        }
        if self.ring.is_idle() {
            let Some(part) = self.queue.next() else { return Ok(false) };
            self.push(part);
        }
        if !self.bell.is_polled && !self.bell.is_broken {
            self.bell.is_polled = self.ring.poll(&self.bell.end);
        }
        let wait = self.queue.doze();
        let entered = self.ring.enter(wait);
        self.queue.wake();
        let mut n_events = 0;
        while let Some(event) = self.ring.pop() {
            n_events += 1;
            self.take(event);
        }
        self.judge(entered.map(|taken| taken || !wait), n_events)?;
        Ok(true)
    }

    /// Whether the ring is worth another try after a call that failed, or else did something or not.
    fn judge(&mut self, entered: io::Result<bool>, n_events: usize) -> io::Result<()> {
        if n_events > 0 || matches!(entered, Ok(true)) {
            (self.n_failures, self.n_interruptions) = (0, 0);
        } else {
            // To come back with nothing is as if interrupted.
            let is_failure = entered.is_err_and(|e| !is_passing(&e));
            *if is_failure { &mut self.n_failures } else { &mut self.n_interruptions } += 1;
            thread::sleep(Duration::from_millis(1));
        }
        let is_good = self.n_failures < FAILURES_MAX && self.n_interruptions < INTERRUPTIONS_MAX;
        if is_good && self.n_rescues < RESCUES_MAX { Ok(()) } else { Err(io::Error::other("the ring fails")) }
    }

    /// What the ring has no room for is read here.
    fn push(&mut self, part: Part) {
        if let Err(part) = self.ring.push(part) {
            self.queue.read(part);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Poll(result) => self.bell.hear(result),
            Event::Read(mut part, result) => match result.and_then(|n| part.advance(n)) {
                Ok(true) => {
                    self.forget();
                    self.queue.land(part, Ok(()));
                }
                Ok(false) => self.push(part),
                Err(_) => {
                    self.n_good = 0;
                    self.n_rescues += usize::from(self.queue.read(part));
                }
            },
        }
    }

    /// A part was read: some errors in weeks say nothing about the ring.
    fn forget(&mut self) {
        self.n_good += 1;
        if self.n_good == FORGOTTEN_AFTER {
            (self.n_good, self.n_rescues) = (0, 0);
        }
    }

    /// Leaves the ring to others, who read by themselves.
    fn leave(self) {
        self.queue.leave_ring();
        // Without another thread, this one is enough.
        let _ = threads(&self.queue, self.queue.depth());
        let (parts, rest) = self.ring.close();
        self.queue.put_back(parts);
        drain(&self.queue, rest);
        serve(&self.queue);
    }
}

/// Waits until the kernel has let go of everything; it reports ends without being asked.
fn drain(queue: &Queue, mut rest: Rest) {
    let mut pause = Duration::from_millis(1);
    while !rest.is_idle() {
        while let Some(event) = rest.pop() {
            if let Event::Read(part, result) = event {
                finish(queue, part, result);
            }
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// What a read without a successor leaves undone is read here.
fn finish(queue: &Queue, mut part: Part, result: io::Result<usize>) {
    match result.and_then(|n| part.advance(n)) {
        Ok(true) => queue.land(part, Ok(())),
        _ => _ = queue.read(part),
    }
}

impl Bell {
    fn hear(&mut self, result: io::Result<()>) {
        self.is_polled = false;
        let heard = result.and_then(|()| self.end.read(&mut [0; 64]));
        self.is_broken = !matches!(heard, Ok(1..));
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::io::{
        Settings,
        tests::{Results, byte, file, job, skipped, teller},
    };

    const PARTS: [(u64, usize); 3] = [(0, 20_000), (30_001, 20_000), (99_000, 1000)];

    /// A ring's thread that has not started, for a file of 100,000 bytes, and three jobs.
    fn driver() -> Option<(TempDir, Arc<Queue>, Results, Driver)> {
        let (folder, sources) = file(100_000);
        let (done, results) = teller();
        let queue = Arc::new(Queue::new(sources, Settings { ring: true, depth: 4, part_bytes: 4096 }, done));
        let driver = Driver::new(&queue).inspect_err(|e| skipped(&format!("no io_uring here: {e}"))).ok()?;
        (0..3).for_each(|key| queue.push(job(key, PARTS)));
        Some((folder, queue, results, driver))
    }

    fn check(prepare: impl FnOnce(&mut Driver, &Queue)) {
        let Some((_folder, queue, results, mut driver)) = driver() else { return };
        prepare(&mut driver, &queue);
        let thread = thread::spawn(|| driver.run());
        (3..6).for_each(|key| queue.push(job(key, PARTS)));
        let extents = job(0, PARTS).extents;
        let mut keys: Vec<usize> = (0..6)
            .map(|_| {
                let (key, slot, result) = results.recv_timeout(Duration::from_secs(30)).expect("an answer");
                result.expect("read, one way or another");
                for extent in &extents {
                    let expected: Vec<u8> = (0..extent.len).map(|i| byte(extent.offset as usize + i)).collect();
                    assert!(slot.bytes()[extent.range()] == expected);
                }
                key
            })
            .collect();
        keys.sort_unstable();
        assert_eq!(keys, [0, 1, 2, 3, 4, 5]);
        let left = !queue.has_ring();
        queue.close();
        thread.join().expect("the thread ends");
        assert!(left, "a ring that fails is left");
    }

    #[test]
    fn a_ring_that_never_works_is_left() {
        check(|driver, _| driver.ring.fail());
    }

    #[test]
    fn a_ring_that_fails_gives_back_what_it_has() {
        check(|driver, queue| {
            driver.turn().expect("some are read");
            (0..4).filter_map(|_| queue.try_next()).for_each(|part| driver.push(part));
            driver.ring.enter(false).expect("handed on");
            driver.ring.fail();
        });
    }

    #[test]
    fn a_ring_whose_reads_fail_is_left() {
        check(|driver, _| driver.n_rescues = RESCUES_MAX);
    }

    #[test]
    fn old_failures_are_forgotten() {
        let Some((_folder, _queue, results, mut driver)) = driver() else { return };
        (driver.n_rescues, driver.n_good) = (RESCUES_MAX - 1, FORGOTTEN_AFTER - 1);
        while results.try_recv().is_err() {
            driver.turn().expect("it reads");
        }
        assert_eq!(driver.n_rescues, 0);
    }

    #[test]
    fn what_a_full_ring_does_not_take_is_read_here() {
        let Some((_folder, queue, results, mut driver)) = driver() else { return };
        while driver.ring.poll(&driver.bell.end) {}
        while results.try_recv().is_err() {
            driver.push(queue.try_next().expect("parts of a job"));
        }
    }

    #[test]
    fn a_broken_bell_is_not_listened_to() {
        let mut bell = Bell { end: UnixStream::pair().expect("sockets").0, is_polled: true, is_broken: false };
        bell.hear(Ok(()));
        assert!(bell.is_broken && !bell.is_polled);
    }
}
