//! Files that are right, files that lie, and files that were damaged by chance.

mod damage;
mod lies;
#[cfg(unix)]
mod lost;
mod models;
mod raw;
mod round_trip;
mod splits;

use std::{fs, path::Path};

use gguf::{Error, Gguf};

/// Opens a file of `bytes` called `m.gguf`.
fn open(bytes: &[u8]) -> Result<Gguf, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, bytes).unwrap();
    Gguf::open(&path)
}

/// The message of `error`, with the names of files in `folder` only.
fn message(error: &Error, folder: &Path) -> String {
    error.to_string().replace(&format!("{}/", folder.display()), "")
}
