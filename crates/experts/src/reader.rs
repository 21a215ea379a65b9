//! Threads that read experts into slots, past the page cache: what they read stays in the arena alone.
//!
//! A solid-state disk reaches its rate only with several reads under way, so there are [`N_READERS`] threads, and
//! requests are served in order. A read that fails says so, with file and offset. A file that was written to since it was
//! opened gives no bytes: a model is never mixed of two.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

use compute::DeviceError;
use gguf::Stamp;

use crate::{
    arena::{PAGE, Slot, slots},
    places::Extent,
};

/// Reads under way at a time.
pub(crate) const N_READERS: usize = 8;

/// Why experts are not there.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened a second time, for reading past the page cache.
    #[error("{}: cannot be opened: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A read failed, and again.
    #[error("{}: cannot read {len} bytes at offset {offset}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// How many bytes were asked for.
        len: usize,
        /// Why.
        source: io::Error,
    },

    /// Somebody wrote to the file.
    #[error("{}: changed while it was in use", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },

    /// A read does not come back.
    #[error("{}: no answer for {seconds} seconds to a read at offset {offset}", path.display())]
    Stalled {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// Time waited.
        seconds: u64,
    },

    /// The system does not have the memory, or the threads.
    #[error("no memory or threads for a cache of {bytes} bytes: {source}")]
    Arena {
        /// Its size.
        bytes: usize,
        /// Why.
        source: io::Error,
    },

    /// The device cannot hold an expert.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// A file as it was when it was opened.
pub(crate) struct Source {
    path: PathBuf,
    file: File,
    stamp: Stamp,
}

impl Source {
    /// Opens a file past the page cache where its file system allows that, else through it.
    pub(crate) fn open(path: &Path) -> Result<Source, ReadError> {
        let error = |source| ReadError::Open { path: path.to_owned(), source };
        let file = direct(path).map_or_else(|| File::open(path), Ok).map_err(error)?;
        Ok(Source { path: path.to_owned(), stamp: Stamp::of(&file).map_err(error)?, file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills the extent's room in `slot`.
    fn fill(&self, extent: &Extent, slot: &mut Slot) -> Result<(), ReadError> {
        let pages = extent.pages();
        let n_needed = extent.range().end - extent.room;
        let room = &mut slot.bytes_mut()[extent.room..][..(pages.end - pages.start) as usize];
        read(&self.file, pages.start, room, n_needed).map_err(|source| self.error(extent, source))?;
        let now = Stamp::of(&self.file).map_err(|source| self.error(extent, source))?;
        if now == self.stamp { Ok(()) } else { Err(ReadError::Changed { path: self.path.clone() }) }
    }

    fn error(&self, extent: &Extent, source: io::Error) -> ReadError {
        ReadError::Read { path: self.path.clone(), offset: extent.offset, len: extent.len, source }
    }
}

/// The file opened past the page cache, if that works: a read shows it, some file systems refuse only then.
#[cfg(target_os = "linux")]
fn direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).ok()?;
    let mut page = slots(1, PAGE).ok()?;
    file.read_at(page[0].bytes_mut(), 0).ok()?;
    Some(file)
}

#[cfg(not(target_os = "linux"))]
fn direct(_: &Path) -> Option<File> {
    None
}

/// Reads at least `n_needed` bytes from `offset` on, which like `room` is a whole number of pages.
fn read(file: &File, offset: u64, room: &mut [u8], n_needed: usize) -> io::Result<()> {
    let mut n = 0;
    while n < n_needed {
        match read_at(file, &mut room[n..], offset + n as u64) {
            Ok(more) if n + more >= n_needed => return Ok(()),
            // Reads go on at a page; what does not reach the next one is the file's end.
            Ok(more) if more < PAGE => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => n += more / PAGE * PAGE,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(unix)]
fn read_at(file: &File, room: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, room, offset)
}

#[cfg(windows)]
fn read_at(file: &File, room: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, room, offset)
}

/// A request: the parts of one expert, and the slot they go to.
pub(crate) struct Job {
    /// What the asker knows it by.
    pub(crate) key: usize,
    pub(crate) extents: [Extent; 3],
    pub(crate) slot: Slot,
}

/// Told when a request is done: its key, the slot, and what went wrong.
type Done = dyn Fn(usize, Slot, Result<(), ReadError>) + Send + Sync;

/// The threads. Dropping this tells them to end; it does not wait for a read that may never come back.
pub(crate) struct Readers(Arc<Queue>);

#[derive(Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    more: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    ahead: VecDeque<Job>,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The next request, once there is one; `None` when there will be none.
    fn next(&self) -> Option<Job> {
        let mut jobs = self.lock();
        loop {
            match jobs.waiting.pop_front().or_else(|| jobs.ahead.pop_front()) {
                _ if jobs.closed => return None,
                Some(job) => return Some(job),
                None => jobs = self.more.wait(jobs).unwrap_or_else(|e| e.into_inner()),
            }
        }
    }
}

impl Readers {
    /// # Errors
    /// If the system refuses the first thread; with fewer than planned, reads take turns.
    pub(crate) fn new(sources: Arc<Vec<Source>>, done: Arc<Done>) -> io::Result<Readers> {
        let readers = Readers(Arc::default());
        for i in 0..N_READERS {
            let (queue, sources, done) = (readers.0.clone(), sources.clone(), done.clone());
            let work = move || {
                while let Some(Job { key, extents, mut slot }) = queue.next() {
                    let mut fill = || extents.iter().try_for_each(|e| sources[e.file].fill(e, &mut slot));
                    // A slot must come back, whatever happens: it would be missing for ever.
                    let result = catch_unwind(AssertUnwindSafe(&mut fill)).unwrap_or_else(|_| {
                        Err(sources[extents[0].file].error(&extents[0], io::Error::other("the reader panicked")))
                    });
                    done(key, slot, result);
                }
            };
            match std::thread::Builder::new().name(format!("reader {i}")).spawn(work) {
                Err(e) if i == 0 => return Err(e),
                Err(_) => break,
                Ok(_) => {}
            }
        }
        Ok(readers)
    }

    pub(crate) fn push(&self, job: Job) {
        self.0.lock().waiting.push_back(job);
        self.0.more.notify_one();
    }

    pub(crate) fn push_ahead(&self, job: Job) {
        self.0.lock().ahead.push_back(job);
        self.0.more.notify_one();
    }

    pub(crate) fn hurry(&self, key: usize) {
        let mut jobs = self.0.lock();
        if let Some(i) = jobs.ahead.iter().position(|job| job.key == key) {
            let job = jobs.ahead.remove(i).expect("just found");
            jobs.waiting.push_back(job);
        }
    }

    pub(crate) fn take_back(&self, may: &dyn Fn(usize) -> bool) -> Vec<Job> {
        let mut jobs = self.0.lock();
        let (back, rest) = std::mem::take(&mut jobs.ahead).into_iter().partition(|job| may(job.key));
        jobs.ahead = rest;
        Vec::from_iter::<VecDeque<Job>>(back)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.more.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc};

    use super::*;
    use crate::places;

    fn byte(i: usize) -> u8 {
        (i * 31 % 251) as u8
    }

    /// What is read of a file of `len` bytes, for these parts of it.
    fn read(len: usize, parts: [(u64, usize); 3]) -> Result<[Vec<u8>; 3], ReadError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, (0..len).map(byte).collect::<Vec<u8>>()).expect("written");
        let mut room = 0;
        let extents = parts.map(|(offset, len)| {
            let extent = Extent { file: 0, offset, len, room };
            room += places::room(len);
            extent
        });
        let (landed, results) = mpsc::sync_channel(1);
        let done = move |key, slot, result| landed.send((key, slot, result)).expect("the test waits");
        let done: Arc<Done> = Arc::new(done);
        let readers = Readers::new(Arc::new(vec![Source::open(&path)?]), done).expect("threads");
        let slot = slots(1, room).expect("memory").remove(0);
        readers.push(Job { key: 7, extents: extents.clone(), slot });
        let (key, slot, result) = results.recv().expect("a result");
        assert_eq!(key, 7);
        result.map(|()| extents.map(|e| slot.bytes()[e.range()].to_vec()))
    }

    #[test]
    fn bytes_come_from_anywhere_in_a_file() {
        for parts in [[(0, 1), (1, 4096), (4097, 70_000)], [(32, 4064), (4096, 8192), (99_999, 1)], [(99_000, 1000); 3]]
        {
            let read = read(100_000, parts).unwrap_or_else(|e| panic!("{e}"));
            for ((offset, len), bytes) in parts.into_iter().zip(read) {
                let expected: Vec<u8> = (offset as usize..offset as usize + len).map(byte).collect();
                assert!(bytes == expected, "{len} bytes at {offset}");
            }
        }
    }

    #[test]
    fn what_ends_too_early_is_an_error_with_its_place() {
        for (offset, len) in [(99_000, 1001), (100_000, 1), (8192, 95_000), (1 << 40, 5)] {
            let error = read(100_000, [(0, 10), (offset, len), (0, 10)]).expect_err("past the end").to_string();
            let expected = format!("/file: cannot read {len} bytes at offset {offset}: ");
            assert!(error.contains(&expected), "{error}");
        }
    }
}
