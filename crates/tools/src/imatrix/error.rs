//! What can be wrong with a file of importance: the entry is named, or the field and its place.

use std::{io, path::PathBuf};

/// Why a file is refused, or two do not go together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },

    /// Not even the container is right.
    #[error(transparent)]
    Container(#[from] gguf::Error),

    /// A sound file of something else.
    #[error("{}: {found}, not an importance matrix", path.display())]
    NotImatrix {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
    },

    /// A field of a legacy file cannot be what it is.
    #[error("{}: {field} at byte {offset} is {found}; allowed: {allowed}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// Where it starts.
        offset: u64,
        /// Its value.
        found: String,
        /// What it may be.
        allowed: String,
    },

    /// What an entry says cannot be.
    #[error("{}: entry `{entry}`: {why}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The tensor.
        entry: String,
        /// Why.
        why: String,
    },

    /// Two files know a tensor in different sizes.
    #[error("entry `{entry}`: {why}")]
    Merge {
        /// The tensor.
        entry: String,
        /// The sizes.
        why: String,
    },

    /// Two files count rows of `down` in different ways.
    #[error("rows of experts' `down` matrices are weighted by the router in one file, and not in the other")]
    Rows,

    /// Two files have no tensor in common.
    #[error("of one model there is `{one}`, of the other `{other}`, and no entry is of both")]
    Unrelated {
        /// A tensor of one.
        one: String,
        /// A tensor of the other.
        other: String,
    },

    /// The model computes something else than numbers.
    #[error("what the matrix `{entry}` is multiplied with is {found} in column {column}")]
    NoNumbers {
        /// The tensor.
        entry: String,
        /// A column.
        column: usize,
        /// What is there.
        found: f32,
    },

    /// The model does not run.
    #[error(transparent)]
    Engine(#[from] engine::Error),

    /// The model's tensor has other sizes.
    #[error("entry `{entry}` has {found} sums, but the tensor has {n_experts} times {n_cols} columns")]
    Length {
        /// The entry.
        entry: String,
        /// Its sums.
        found: usize,
        /// Columns of the tensor.
        n_cols: usize,
        /// Its matrices.
        n_experts: usize,
    },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Error::Io { .. } => "check the path, its permissions and the disk".into(),
            Error::Container(e) => e.hint(),
            Error::NotImatrix { .. } => "give the file that was made for this model, `.gguf` or `.dat`".into(),
            Error::Field { .. } | Error::Entry { .. } => "the file is damaged; make it again".into(),
            Error::Merge { .. } | Error::Length { .. } | Error::Unrelated { .. } => {
                "the files are of different models".into()
            }
            Error::NoNumbers { .. } => "the model's weights are damaged, or it needs more precision than it has".into(),
            Error::Engine(e) => e.hint(),
            Error::Rows => "merge files that were collected in the same way".into(),
        }
    }
}
