//! Reads experts into slots, past the page cache: what is read stays in the arena alone.
//!
//! ```text
//! push, push_ahead -> queue: two lanes -> jobs begin, cut into parts -> ring, or threads -> the job's asker is told
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `queue.rs` | what is to be read, and in which order |
//! | `part.rs` | jobs, their parts, and what a read brings |
//! | `probe.rs` | how many parts, and of what size, are best on this disk |
//! | `clock.rs` | time that counts against a read |
//! | `source.rs` | a file, opened past its page cache |
//! | `ring.rs` | one thread that has the kernel read, by `io_uring` |
//! | `uring.rs` | who owns memory that the kernel writes to |
//!
//! A solid-state disk reaches its rate only with several reads under way. What somebody waits for goes before what may be
//! needed; what has begun runs to its end, and what does not end holds up nobody else for long: its memory stays the
//! kernel's, and others read in its place. A read that fails says so, with file and offset. A file that was written to
//! since it was opened gives no bytes: a model is never mixed of two.

mod clock;
mod error;
mod part;
mod probe;
mod queue;
#[cfg(target_os = "linux")]
mod ring;
mod source;
#[cfg(target_os = "linux")]
mod uring;

use std::{io, sync::Arc, time::Duration};

pub(crate) use clock::TICK;
pub use error::ReadError;
pub(crate) use part::Job;
#[cfg(test)]
pub(crate) use part::Part;
pub use probe::Probe;
pub(crate) use probe::probe;
pub(crate) use source::Source;

use crate::arena::Slot;
use queue::Queue;

/// Parts under way at a time, at most.
const DEPTH_MAX: usize = 32;

/// How to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Whether to read by `io_uring`, if that can be.
    pub(crate) ring: bool,
    /// Parts under way at a time.
    pub(crate) depth: usize,
    /// A part's bytes, at most.
    pub(crate) part_bytes: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { ring: true, depth: 8, part_bytes: 1 << 20 }
    }
}

/// Told when a job has ended: its key, the slot, and what went wrong.
type Done = dyn Fn(usize, Slot, Result<(), ReadError>) + Send + Sync;

/// Those who read. Dropping this tells them to end; it does not wait for a read that may never come back.
pub(crate) struct Readers(Arc<Queue>);

impl Readers {
    /// # Errors
    /// If the system refuses the first thread; with fewer than planned, reads take turns.
    pub(crate) fn new(sources: Arc<Vec<Source>>, settings: Settings, done: Arc<Done>) -> io::Result<Readers> {
        // Through the page cache, a ring would copy on its one thread.
        let ring = settings.ring && sources.iter().all(Source::is_direct);
        let readers = Readers(Arc::new(Queue::new(sources, settings, done)));
        if !ring || ring::start(&readers.0).is_err() {
            threads(&readers.0, settings.depth)?;
        }
        Ok(readers)
    }

    /// Whether reads go by `io_uring`. They no longer do when that has failed again and again.
    pub(crate) fn has_ring(&self) -> bool {
        self.0.has_ring()
    }

    /// From now on, reads with other settings, as far as there are threads.
    pub(crate) fn tune(&self, depth: usize, part_bytes: usize) {
        self.0.tune(depth, part_bytes);
    }

    /// Bytes that were read, failed reads apart.
    pub(crate) fn landed_bytes(&self) -> u64 {
        self.0.landed_bytes()
    }

    /// Asks for what somebody waits for.
    pub(crate) fn push(&self, job: Job) {
        self.0.push(job);
    }

    /// Asks for what may be needed: read when nobody waits for anything.
    pub(crate) fn push_ahead(&self, job: Job) {
        self.0.push_ahead(job);
    }

    /// Somebody waits for the jobs with these keys, ascending: what was pushed ahead of them and has not begun goes before
    /// the others.
    pub(crate) fn hurry(&self, keys: &[usize]) {
        self.0.hurry(keys);
    }

    /// Of the jobs pushed ahead that have not begun, those with such keys, as if they had never been asked for.
    pub(crate) fn take_back(&self, which: &dyn Fn(usize) -> bool) -> Vec<Job> {
        self.0.take_back(which)
    }

    /// Of the same, the last.
    pub(crate) fn take_back_last(&self, which: &dyn Fn(usize) -> bool) -> Option<Job> {
        self.0.take_back_last(which)
    }
}

impl Readers {
    /// Gives up reads that have been under way for longer than `patience`. Their keys, and what is wrong with each; a read that
    /// comes back after all is told as others are.
    pub(crate) fn give_up(&self, patience: Duration) -> Vec<(usize, ReadError)> {
        let (n_lost, jobs) = self.0.give_up(patience);
        if n_lost > 0 && !self.has_ring() {
            // The threads that wait for them may be gone for good. Without others, those that are left read.
            let _ = threads(&self.0, n_lost);
        }
        jobs
    }
}

/// Readers that do nothing by themselves.
#[cfg(test)]
impl Readers {
    pub(crate) fn idle(sources: Arc<Vec<Source>>, settings: Settings, done: Arc<Done>) -> Readers {
        let readers = Readers(Arc::new(Queue::new(sources, settings, done)));
        // As if a ring read: no threads are started for it.
        readers.0.enter_ring(Box::new(|| ()));
        readers
    }

    pub(crate) fn try_next(&self) -> Option<Part> {
        self.0.try_next()
    }

    pub(crate) fn read(&self, part: Part) {
        assert!(self.0.read(part), "tests' files can be read");
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Has `n` threads read, or as many as the system gives.
fn threads(queue: &Arc<Queue>, n: usize) -> io::Result<()> {
    for i in 0..n {
        let queue = queue.clone();
        match std::thread::Builder::new().name(format!("reader {i}")).spawn(move || serve(&queue)) {
            Err(e) if i == 0 => return Err(e),
            Err(_) => break,
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Reads one part after another, until the queue is closed.
fn serve(queue: &Queue) {
    while let Some(part) = queue.next() {
        queue.read(part);
    }
}

/// Other systems have other rings.
#[cfg(not(target_os = "linux"))]
mod ring {
    pub(super) fn start(_: &std::sync::Arc<super::Queue>) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, sync::mpsc};

    use super::*;
    use crate::{
        arena::{PAGE, slots},
        places::{self, Extent},
    };

    /// Ways to read that nobody can tell apart.
    fn all_settings() -> impl Iterator<Item = Settings> {
        let sizes = [(1, PAGE), (3, 3 * PAGE), (8, 1 << 20), (32, PAGE)];
        let with = move |ring| sizes.map(|(depth, part_bytes)| Settings { ring, depth, part_bytes });
        [true, false].into_iter().flat_map(with)
    }

    pub(super) fn byte(i: usize) -> u8 {
        (i * 31 % 251) as u8
    }

    /// Says aloud that a test cannot run here; what is printed, the test's harness would keep to itself.
    pub(super) fn skipped(why: &str) {
        writeln!(io::stderr(), "skipped: {why}").expect("there is somebody to tell");
    }

    /// A file of `len` bytes, opened to be read.
    pub(super) fn file(len: usize) -> (tempfile::TempDir, Arc<Vec<Source>>) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, (0..len).map(byte).collect::<Vec<u8>>()).expect("written");
        let source = Source::open(&path).expect("opened");
        (folder, Arc::new(vec![source]))
    }

    pub(super) fn job(key: usize, parts: [(u64, usize); 3]) -> Job {
        let mut room = 0;
        let extents = parts.map(|(offset, len)| {
            let extent = Extent { file: 0, offset, len, room };
            room += places::room(len);
            extent
        });
        Job { key, extents, slot: slots(1, room + PAGE).expect("memory").remove(0) }
    }

    pub(super) type Results = mpsc::Receiver<(usize, Slot, Result<(), ReadError>)>;

    pub(super) fn teller() -> (Arc<Done>, Results) {
        let (landed, results) = mpsc::sync_channel(100);
        (Arc::new(move |key, slot, result| landed.send((key, slot, result)).expect("the test waits")), results)
    }

    /// What is read for these parts of a file.
    fn read(
        sources: &Arc<Vec<Source>>,
        settings: Settings,
        parts: [(u64, usize); 3],
    ) -> Result<[Vec<u8>; 3], ReadError> {
        let (done, results) = teller();
        let readers = Readers::new(sources.clone(), settings, done).expect("threads");
        let job = job(7, parts);
        let (extents, len) = (job.extents.clone(), job.slot.bytes().len());
        readers.push(job);
        let (key, slot, result) = results.recv().expect("a result");
        assert_eq!((key, slot.bytes().len()), (7, len));
        result.map(|()| extents.map(|e| slot.bytes()[e.range()].to_vec()))
    }

    #[test]
    fn bytes_come_from_anywhere_in_a_file() {
        let (_folder, sources) = file(100_000);
        let all = [[(0, 1), (1, 4096), (4097, 70_000)], [(32, 4064), (4096, 8192), (99_999, 1)], [(99_000, 1000); 3]];
        for (parts, settings) in all.into_iter().flat_map(|parts| all_settings().map(move |settings| (parts, settings)))
        {
            let read = read(&sources, settings, parts).unwrap_or_else(|e| panic!("{e}"));
            for ((offset, len), bytes) in parts.into_iter().zip(read) {
                let expected: Vec<u8> = (offset as usize..offset as usize + len).map(byte).collect();
                assert!(bytes == expected, "{len} bytes at {offset}, {settings:?}");
            }
        }
    }

    #[test]
    fn what_ends_too_early_is_an_error_with_its_place() {
        let (_folder, sources) = file(100_000);
        for (offset, len) in [(99_000, 1001), (100_000, 1), (8192, 95_000), (1 << 40, 5)] {
            for ring in [true, false] {
                let settings = Settings { ring, ..Settings::default() };
                let error = read(&sources, settings, [(0, 10), (offset, len), (0, 10)]).expect_err("past the end");
                let expected = format!("/file: cannot read {len} bytes at offset {offset}: ");
                assert!(error.to_string().contains(&expected), "{error}");
            }
        }
    }

    #[test]
    fn an_error_is_that_of_the_part() {
        let (_folder, sources) = file(100_000);
        for ring in [true, false] {
            let settings = Settings { ring, depth: 4, part_bytes: 4 * PAGE };
            // Seven parts of four pages, of which the file ends in the last.
            let error = read(&sources, settings, [(0, 10), (100, 104_000), (0, 10)]).expect_err("past the end");
            let expected = "/file: cannot read 5796 bytes at offset 98304: ";
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_file_that_changed_gives_no_bytes() {
        let (folder, sources) = file(100_000);
        let path = folder.path().join("file");
        for change in [fs::write(&path, [1; 100_000]), fs::write(&path, [1; 10])] {
            change.expect("written");
            for settings in all_settings() {
                let error =
                    read(&sources, settings, [(0, 10), (4096, 70_000), (0, 10)]).expect_err("changed").to_string();
                assert!(error.ends_with("/file: changed while it was in use"), "{error}");
            }
        }
    }

    #[test]
    fn many_jobs_at_a_time_all_come_back_right() {
        let (_folder, sources) = file(100_000);
        for settings in all_settings() {
            let (done, results) = teller();
            let readers = Readers::new(sources.clone(), settings, done).expect("threads");
            let parts = |key| [(key as u64 * 997, 5000), (50_000 - key as u64, 40_000), (key as u64 * 31, 1)];
            for key in 0..60 {
                if key % 3 == 0 {
                    readers.push(job(key, parts(key)))
                } else {
                    readers.push_ahead(job(key, parts(key)))
                }
                readers.hurry(&[key / 2]);
            }
            for _ in 0..60 {
                let (key, slot, result) = results.recv_timeout(Duration::from_secs(60)).expect("a result");
                result.expect("read");
                for extent in job(key, parts(key)).extents {
                    let expected = (0..extent.len).map(|i| byte(extent.offset as usize + i));
                    assert!(expected.eq(slot.bytes()[extent.range()].iter().copied()), "{extent:?} {settings:?}");
                }
            }
        }
    }

    #[test]
    fn what_somebody_waits_for_goes_first() {
        let (_folder, sources) = file(100_000);
        let (done, results) = teller();
        let settings = Settings { ring: false, depth: 2, part_bytes: 1 << 20 };
        let queue = Queue::new(sources, settings, done);
        let parts = [(0, 1), (10_000, 1), (20_000, 1)];
        (0..4).for_each(|key| queue.push_ahead(job(key, parts)));
        let mut order = Vec::new();
        let mut next = || {
            let part = queue.next().expect("a part");
            order.push(part.key());
            queue.land(part, Ok(()));
        };
        next();
        queue.push(job(10, parts));
        queue.hurry(&[0]); // which has begun: its other parts go on at once
        queue.hurry(&[3]);
        queue.hurry(&[99]);
        (0..2 + 3 + 3 + 1).for_each(|_| next());
        let back: Vec<usize> = queue.take_back(&|_| true).iter().map(|job| job.key).collect();
        (0..2).for_each(|_| next());
        assert_eq!(order, [0, 0, 0, 10, 10, 10, 3, 3, 3, 1, 1, 1]);
        assert_eq!(back, [2], "what has begun stays");
        assert_eq!(results.try_iter().map(|(key, ..)| key).collect::<Vec<_>>(), [0, 10, 3, 1]);
        queue.close();
        assert!(queue.next().is_none());
    }

    #[test]
    fn a_read_that_is_lost_holds_up_no_others() {
        let (_folder, sources) = file(100_000);
        let (done, results) = teller();
        let queue = Queue::new(sources, Settings { ring: false, depth: 1, part_bytes: 1 << 20 }, done);
        queue.push(job(0, [(0, 1), (10_000, 1), (20_000, 1)]));
        let read = |part: Part| queue.land(part, Ok(()));
        read(queue.try_next().expect("the first of three"));
        let part = queue.try_next().expect("the second");
        assert!(queue.try_next().is_none() && queue.give_up(Duration::from_secs(60)).0 == 0);
        std::thread::sleep(Duration::from_millis(1));
        let (n_lost, jobs) = queue.give_up(Duration::ZERO);
        assert_eq!((n_lost, jobs.len(), jobs[0].0), (1, 1, 0));
        let told = jobs[0].1.to_string();
        assert!(told.ends_with("/file: no answer for 0 seconds to a read at offset 10000"), "{told}");
        let third = queue.try_next().expect("the third takes its turn");
        let (n_lost, jobs) = queue.give_up(Duration::from_secs(60));
        assert!(n_lost == 1 && jobs.is_empty(), "a job is told once");
        read(third);
        assert!(results.try_recv().is_err());
        read(part);
        assert_eq!(results.try_recv().map(|(key, ..)| key), Ok(0), "it came late");
    }
}
