//! Why experts are not there.

use std::{io, path::PathBuf};

use compute::DeviceError;

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

    /// All of the arena is in use: by those who compute, or by reads that do not come back.
    #[error("no place for an expert in {seconds} seconds: all of the cache is in use")]
    NoSlot {
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
