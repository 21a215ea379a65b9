//! Threads that read experts into slots, past the page cache: what they read stays in the arena alone.
//!
//! A solid-state disk reaches its rate only with several reads under way, so there are [`N_READERS`] threads, and
//! requests are served in order. A read that fails is tried once more; then the error names file and offset. A file that
//! was written to since it was opened gives no bytes: a model is never mixed of two.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::JoinHandle,
    time::SystemTime,
};

use compute::DeviceError;

use crate::{
    arena::{PAGE, Slot, slots},
    places::Extent,
};

/// Reads under way at a time.
const N_READERS: usize = 8;

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

    /// A read failed twice.
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

type Stamp = (u64, Option<SystemTime>);

fn stamp(file: &File) -> io::Result<Stamp> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.modified().ok()))
}

impl Source {
    /// Opens a file past the page cache where its file system allows that, else through it.
    pub(crate) fn open(path: &Path) -> Result<Source, ReadError> {
        let error = |source| ReadError::Open { path: path.to_owned(), source };
        let file = direct(path).map_or_else(|| File::open(path), Ok).map_err(error)?;
        Ok(Source { path: path.to_owned(), stamp: stamp(&file).map_err(error)?, file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills the extent's room in `slot`.
    fn fill(&self, extent: &Extent, slot: &mut Slot) -> Result<(), ReadError> {
        let pages = extent.pages();
        let n_needed = extent.range().end - extent.room;
        let room = &mut slot.bytes_mut()[extent.room..][..(pages.end - pages.start) as usize];
        read(&self.file, pages.start, room, n_needed)
            .or_else(|_| read(&self.file, pages.start, room, n_needed))
            .map_err(|source| self.error(extent, source))?;
        let now = stamp(&self.file).map_err(|source| self.error(extent, source))?;
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

/// The threads; they end when this is dropped.
pub(crate) struct Readers {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    more: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
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
            match jobs.waiting.pop_front() {
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
        let mut readers = Readers { queue: Arc::default(), threads: Vec::new() };
        for i in 0..N_READERS {
            let (queue, sources, done) = (readers.queue.clone(), sources.clone(), done.clone());
            let work = move || {
                while let Some(Job { key, extents, mut slot }) = queue.next() {
                    let result = extents.iter().try_for_each(|e| sources[e.file].fill(e, &mut slot));
                    done(key, slot, result);
                }
            };
            match std::thread::Builder::new().name(format!("reader {i}")).spawn(work) {
                Ok(thread) => readers.threads.push(thread),
                Err(e) if i == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(readers)
    }

    pub(crate) fn push(&self, job: Job) {
        self.queue.lock().waiting.push_back(job);
        self.queue.more.notify_one();
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.more.notify_all();
        // A thread that panicked has said so.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
