//! A file that experts are read from: past the page cache where its file system allows that, else through it.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use gguf::Stamp;

use super::ReadError;
use crate::places::Extent;

/// A file as it was when it was opened.
pub(crate) struct Source {
    path: PathBuf,
    file: File,
    stamp: Stamp,
    is_direct: bool,
}

impl Source {
    /// Opens a file, if that works past the page cache.
    pub(crate) fn open(path: &Path) -> Result<Source, ReadError> {
        let error = |source| ReadError::Open { path: path.to_owned(), source };
        let direct = direct(path);
        let is_direct = direct.is_some();
        let file = direct.map_or_else(|| File::open(path), Ok).map_err(error)?;
        Ok(Source { path: path.to_owned(), stamp: Stamp::of(&file).map_err(error)?, file, is_direct })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether reads go past the page cache: then they wait for the disk, and say how fast it is.
    pub(crate) fn is_direct(&self) -> bool {
        self.is_direct
    }

    #[cfg(target_os = "linux")]
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Reads some bytes from `offset` on, which like `room` is a whole number of pages.
    pub(super) fn read_at(&self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_at(&self.file, room, offset);
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_read(&self.file, room, offset);
    }

    /// Whether nobody wrote to the file since it was opened; what the system says when it cannot tell.
    pub(super) fn is_unchanged(&self) -> io::Result<bool> {
        Ok(Stamp::of(&self.file)? == self.stamp)
    }

    /// A read at `offset` did not come back within `patience`.
    pub(crate) fn stalled(&self, offset: u64, patience: Duration) -> ReadError {
        ReadError::Stalled { path: self.path.clone(), offset, seconds: patience.as_secs() }
    }

    /// What goes wrong when `extent` is read.
    pub(super) fn error(&self, extent: &Extent, source: io::Error) -> ReadError {
        ReadError::Read { path: self.path.clone(), offset: extent.offset, len: extent.len, source }
    }
}

/// The file opened past the page cache, if that works: a read shows it, some file systems refuse only then.
#[cfg(target_os = "linux")]
fn direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};

    use crate::arena::{PAGE, slots};

    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path).ok()?;
    let mut page = slots(1, PAGE).ok()?;
    file.read_at(page[0].bytes_mut(), 0).ok()?;
    Some(file)
}

#[cfg(not(target_os = "linux"))]
fn direct(_: &Path) -> Option<File> {
    None
}
