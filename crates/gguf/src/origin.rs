//! Where a model is: in a file, or in the program itself.

use std::path::{Path, PathBuf};

/// What a model is opened from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A file, or the first of a split model.
    File(PathBuf),
    /// A model that the program carries.
    Inside(Inside),
}

/// The bytes of a GGUF file that is a part of the program.
#[derive(Clone, Copy)]
pub struct Inside {
    /// What it is called where a file's path would be told.
    pub name: &'static str,
    /// The file. It begins at a multiple of 64 bytes, so that tensors lie as they would in a mapped one.
    pub bytes: &'static [u8],
}

impl Origin {
    /// The path of a file.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Origin::File(path) => Some(path),
            Origin::Inside(_) => None,
        }
    }

    /// What it is called in messages: the path, or the name that a model inside the program has.
    pub fn name(&self) -> &Path {
        match self {
            Origin::File(path) => path,
            Origin::Inside(inside) => Path::new(inside.name),
        }
    }
}

impl<P: Into<PathBuf>> From<P> for Origin {
    fn from(path: P) -> Origin {
        Origin::File(path.into())
    }
}

impl From<Inside> for Origin {
    fn from(inside: Inside) -> Origin {
        Origin::Inside(inside)
    }
}

impl std::fmt::Debug for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inside").field("name", &self.name).field("n_bytes", &self.bytes.len()).finish()
    }
}
