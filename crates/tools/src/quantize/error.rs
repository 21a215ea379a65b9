//! Why there is no file, each in one line.

use std::{error, io, iter, path::PathBuf};

use gguf::Element;

use crate::imatrix;

/// Why a source is not packed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source cannot be read.
    #[error(transparent)]
    Source(Box<dyn error::Error + Send + Sync>),

    /// There is nothing to pack.
    #[error("the source is {found}, no model")]
    NotAModel {
        /// What it is.
        found: &'static str,
    },

    /// The recipe is for other models.
    #[error("the recipe is for models of the family {expected}, and this one is of the family {found:?}")]
    Family {
        /// The model's.
        found: String,
        /// The recipe's.
        expected: String,
    },

    /// The recipe goes by the number of layers, which is unknown.
    #[error("the recipe goes by the number of layers, and `{key}` does not say how many there are")]
    NoLayers {
        /// What should say it.
        key: String,
    },

    /// The recipe says nothing about a tensor.
    #[error("tensor `{tensor}`: no rule of the recipe fits it")]
    NoRule {
        /// The tensor.
        tensor: String,
    },

    /// A table of whole numbers was to be packed.
    #[error("tensor `{tensor}` holds {}, no weights that could be packed", found.name())]
    NotWeights {
        /// The tensor.
        tensor: String,
        /// What it consists of.
        found: Element,
    },

    /// A weight is no number.
    #[error("tensor `{tensor}`, row {row}, column {column}: the weight is {value}")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Its row, of all matrices.
        row: usize,
        /// Its column.
        column: usize,
        /// What is there.
        value: f32,
    },

    /// A weight is beyond what the format can hold.
    #[error("tensor `{tensor}`, row {row}, column {column}: a weight of {value:e} is beyond {format}")]
    TooLarge {
        /// The tensor.
        tensor: String,
        /// Its row, of all matrices.
        row: usize,
        /// Its column.
        column: usize,
        /// The weight.
        value: f32,
        /// The format.
        format: &'static str,
    },

    /// The importance is not this model's.
    #[error(transparent)]
    Importance(#[from] imatrix::Error),

    /// Nothing that is packed is in the importance matrix.
    #[error("{file}: knows none of the tensors that are packed")]
    OtherModel {
        /// The importance matrix.
        file: String,
    },

    /// A file of the source was written to.
    #[error("{}: changed while it was being read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },

    /// There is something of this name.
    #[error("{}: is there already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },

    /// There is something of this name that is no file, and is not replaced by one.
    #[error("{}: is no regular file", path.display())]
    NotAFile {
        /// What it is called.
        path: PathBuf,
    },

    /// There was nothing of this name when the work began, or a file that could be replaced.
    #[error("{}: somebody put something there; the result is complete as {}", path.display(), partial.display())]
    Appeared {
        /// The file.
        path: PathBuf,
        /// What was made.
        partial: PathBuf,
    },

    /// Another process makes the same file.
    #[error("{}: another process is writing it", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },

    /// The disk is too small.
    #[error("{}: the file takes {needed} more bytes, and {free} are free", path.display())]
    Space {
        /// The file.
        path: PathBuf,
        /// Bytes that are to be written.
        needed: u64,
        /// Bytes that there are.
        free: u64,
    },

    /// What is called as the file in the making would be was left by no run.
    #[error("{}: is there already, and is no unfinished file of this program", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },

    /// The system has no room for so many threads.
    #[error("{n_threads} threads cannot be started: {source}")]
    Threads {
        /// How many were asked for.
        n_threads: usize,
        /// What the system said.
        source: io::Error,
    },

    /// The result cannot be written.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// Whoever watched has had enough.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Whether the same may work later, from where it ended.
    pub fn can_go_on(&self) -> bool {
        match self {
            Error::Write { .. }
            | Error::Space { .. }
            | Error::Appeared { .. }
            | Error::Threads { .. }
            | Error::Interrupted => true,
            Error::Source(e) => is_of_the_system(&**e),
            _ => false,
        }
    }
}

/// Whether a source cannot be read because the system could not, and not for what is in it.
fn is_of_the_system(error: &(dyn error::Error + 'static)) -> bool {
    iter::successors(Some(error), |e| e.source()).any(|e| e.is::<io::Error>())
}
