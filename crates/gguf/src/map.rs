//! The mapped file, or a model inside the program, which needs no mapping.
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

use crate::{Error, Inside};

/// One mapped file, or what takes its place.
pub(crate) struct Map {
    path: PathBuf,
    at: At,
}

enum At {
    File { file: File, stamp: Stamp, bytes: Mmap },
    Program(&'static [u8]),
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
        Ok(Map { path: path.to_owned(), at: At::File { file, stamp, bytes } })
    }

    /// # Panics
    /// If its bytes do not begin at a cache line.
    pub(crate) fn inside(inside: Inside) -> Map {
        assert!(inside.bytes.as_ptr().addr().is_multiple_of(64), "{inside:?} begins in the middle of a cache line");
        Map { path: inside.name.into(), at: At::Program(inside.bytes) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the file was when it was opened, if it is one.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        match self.at {
            At::File { stamp, .. } => Some(stamp),
            At::Program(_) => None,
        }
    }

    /// Checks that the path still leads to this very file, as it was.
    pub(crate) fn is_there(&self) -> Result<(), Error> {
        match self.at {
            At::File { stamp, .. } => self.check_stamp(stamp, Stamp::at(&self.path)),
            At::Program(_) => Ok(()),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.at {
            At::File { bytes, .. } => bytes,
            At::Program(bytes) => bytes,
        }
    }

    /// Whether nobody wrote to the file since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), Error> {
        match &self.at {
            At::File { file, stamp, .. } => self.check_stamp(*stamp, Stamp::of(file)),
            At::Program(_) => Ok(()),
        }
    }

    fn check_stamp(&self, then: Stamp, now: io::Result<Stamp>) -> Result<(), Error> {
        match now.map_err(|source| Error::Io { path: self.path.clone(), source })? == then {
            true => Ok(()),
            false => Err(Error::Changed { path: self.path.clone() }),
        }
    }

    /// The map of a file.
    #[cfg(unix)]
    fn mapped(&self) -> Option<&Mmap> {
        match &self.at {
            At::File { bytes, .. } => Some(bytes),
            At::Program(_) => None,
        }
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
        let range = 0..map.bytes().len();
        Ok(Bytes { map: Arc::new(map), range })
    }

    pub(crate) fn new(map: Arc<Map>, range: Range<usize>) -> Bytes {
        assert!(range.start <= range.end && range.end <= map.bytes().len(), "{range:?} is not in this file");
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
        let _ = self
            .map
            .mapped()
            .map(|map| map.advise_range(memmap2::Advice::WillNeed, self.range.start, self.range.len()));
    }

    /// Gives the pages of these bytes back, for who has copied them. They are read from the file again when touched.
    pub fn release(&self) {
        #[cfg(unix)]
        let _ = self.map.mapped().map(|map| {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is of a file and never written to, so that pages that are dropped come back as they were.
            unsafe { map.unchecked_advise_range(advice, self.range.start, self.range.len()) }
        });
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.map.bytes()[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bytes").field("path", &self.map.path).field("range", &self.range).finish()
    }
}
