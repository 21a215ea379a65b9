//! The mapped file.
//!
//! Only regular files are mapped, so that opening never waits for a pipe. The bytes are handed out as `&[u8]` only.
//! Somebody who rewrites a model in place while it is in use changes what we read, and somebody who cuts it short ends
//! us with SIGBUS, as with every program that maps files (see `lost.rs`); replacing the file by renaming another over it
//! is harmless.
#![allow(unsafe_code, reason = "mapping a file is unsafe, since others can change it")]

use std::{
    fmt,
    fs::{self, File, FileType},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use memmap2::{Mmap, MmapOptions};

use crate::Error;

/// One mapped file.
pub(crate) struct Map {
    path: PathBuf,
    file: File,
    stamp: Stamp,
    bytes: Mmap,
}

/// What changes when a file is written to, or another takes its name: which one it is, its length, and when it was written to
/// last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    identity: Option<(u64, u64)>,
    len: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    /// The stamp of an open file.
    ///
    /// # Errors
    /// What the system says when it is asked.
    pub fn of(file: &File) -> io::Result<Stamp> {
        let metadata = file.metadata()?;
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt as _;
            Some((metadata.dev(), metadata.ino()))
        };
        #[cfg(not(unix))]
        let identity = None;
        Ok(Stamp { identity, len: metadata.len(), modified: metadata.modified().ok() })
    }

    /// The stamp of the file that a path leads to now.
    ///
    /// # Errors
    /// What the system says when it is asked.
    pub fn at(path: &Path) -> io::Result<Stamp> {
        Stamp::of(&File::open(path)?)
    }

    /// Length of the file.
    pub fn n_bytes(&self) -> u64 {
        self.len
    }

    /// When it was written to last, if the system tells.
    pub fn modified(&self) -> Option<SystemTime> {
        self.modified
    }
}

impl Map {
    pub(crate) fn open(path: &Path) -> Result<Map, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let kind = fs::metadata(path).map_err(io)?.file_type();
        if !kind.is_file() {
            return Err(Error::NotAFile { path: path.to_owned(), found: name_of(kind) });
        }
        let file = File::open(path).map_err(io)?;
        let stamp = Stamp::of(&file).map_err(io)?;
        let len = usize::try_from(stamp.len).map_err(|_| io(io::ErrorKind::FileTooLarge.into()))?;
        // SAFETY: the map is private to this struct and lent as `&[u8]`. Writers to the file could change bytes under
        // such a slice; the head of this module says that they must not, and what we parse is copied before it is
        // checked, so no invariant of ours hangs on bytes that could change after the check.
        let bytes = unsafe { MmapOptions::new().len(len).map(&file) }.map_err(io)?;
        Ok(Map { path: path.to_owned(), file, stamp, bytes })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Checks that the path still leads to this very file, as it was.
    pub(crate) fn is_there(&self) -> Result<(), Error> {
        match Stamp::at(&self.path).map_err(|source| Error::Io { path: self.path.clone(), source })? == self.stamp {
            true => Ok(()),
            false => Err(Error::Changed { path: self.path.clone() }),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether nobody wrote to the file since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), Error> {
        let now = Stamp::of(&self.file).map_err(|source| Error::Io { path: self.path.clone(), source })?;
        if now == self.stamp { Ok(()) } else { Err(Error::Changed { path: self.path.clone() }) }
    }
}

#[cfg(unix)]
fn name_of(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        k if k.is_dir() => "a folder",
        k if k.is_fifo() => "a pipe",
        k if k.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(not(unix))]
fn name_of(kind: FileType) -> &'static str {
    if kind.is_dir() { "a folder" } else { "something else" }
}

/// A range of a file's bytes. Cheap to clone; the file stays mapped while there are any.
#[derive(Clone)]
pub struct Bytes {
    map: Arc<Map>,
    range: Range<usize>,
}

impl Bytes {
    /// The bytes of a whole file, whatever they are.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NotAFile`].
    pub fn open(path: &Path) -> Result<Bytes, Error> {
        let map = Map::open(path)?;
        let range = 0..map.bytes.len();
        Ok(Bytes { map: Arc::new(map), range })
    }

    pub(crate) fn new(map: Arc<Map>, range: Range<usize>) -> Bytes {
        assert!(range.start <= range.end && range.end <= map.bytes.len(), "{range:?} is not in this file");
        Bytes { map, range }
    }

    /// A part of these bytes: one expert's weights, some rows.
    ///
    /// # Panics
    /// If `range` goes past the end.
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.range.len(), "{range:?} is not in {:?}", self.range);
        let start = self.range.start;
        Bytes { map: self.map.clone(), range: start + range.start..start + range.end }
    }

    /// Checks that nobody wrote to the file since it was opened, for who reads long after that.
    ///
    /// # Errors
    /// [`Error::Changed`], [`Error::Io`].
    pub fn check_unchanged(&self) -> Result<(), Error> {
        self.map.check_unchanged()
    }

    /// Asks the system to read these bytes ahead of their use. Returns at once; a wish, not a promise.
    pub fn prefetch(&self) {
        // A system that refuses the advice reads the pages when they are touched, as it would have without.
        #[cfg(unix)]
        let _ = self.map.bytes.advise_range(memmap2::Advice::WillNeed, self.range.start, self.range.len());
    }

    /// Gives the pages of these bytes back, for who has copied them. They are read from the file again when touched.
    pub fn release(&self) {
        // SAFETY: the map is of a file and never written to, so that pages that are dropped come back as they were.
        #[cfg(unix)]
        let _ = unsafe {
            self.map.bytes.unchecked_advise_range(
                memmap2::UncheckedAdvice::DontNeed,
                self.range.start,
                self.range.len(),
            )
        };
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.map.bytes[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bytes").field("path", &self.map.path).field("range", &self.range).finish()
    }
}
