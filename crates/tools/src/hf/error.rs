//! What can be wrong with a Hugging Face folder, each in one line: the file, the tensor or key, what was found and what
//! is allowed. Text from the files is escaped and cut to 64 characters.

use std::{
    io,
    path::{Path, PathBuf},
};

use gguf::{reason, shorten, shown};

/// Why a folder, or a tensor of it, is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("{}: {}", shown(path), reason(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A file where a folder was expected.
    #[error("{}: is not a folder, as Hugging Face publishes models", shown(path))]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },

    /// A folder without weights.
    #[error("{}: there is neither `model.safetensors` nor `model.safetensors.index.json`", shown(path))]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },

    /// Weights as programs of Python's.
    #[error("{}: weights in the pickle format are not read, as they are programs, not data", shown(path))]
    Pickle {
        /// A file of them.
        path: PathBuf,
    },

    /// A file of the index is not there.
    #[error("{}: is missing, though `model.safetensors.index.json` names it: {}", shown(path), reason(source))]
    MissingShard {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A file of JSON is none, or too long.
    #[error("{}: is no JSON file as it should be: {what}", shown(path))]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },

    /// A field has a value that is not allowed there.
    #[error("{}: {field} is {found}; allowed: {allowed}", shown(path))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What it may be.
        allowed: String,
    },

    /// A file ends in its header.
    #[error("{}: the header needs bytes 0..{needs}, but the file ends at byte {len}", shown(path))]
    Cut {
        /// The file.
        path: PathBuf,
        /// Length of the header, with its own length.
        needs: u64,
        /// Length of the file.
        len: u64,
    },

    /// A tensor reaches past the end of its file.
    #[error("{}: tensor `{tensor}` needs bytes {start}..{end}, but the file ends at byte {len}", shown(path))]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its first byte.
        start: u64,
        /// The byte after its last.
        end: u64,
        /// Length of the file.
        len: u64,
    },

    /// Two tensors share bytes.
    #[error(
        "{}: tensor `{second}` starts at byte {start}, inside tensor `{first}`, which ends at byte {end}",
        shown(path)
    )]
    Overlap {
        /// The file.
        path: PathBuf,
        /// The tensor that starts first.
        first: String,
        /// The other.
        second: String,
        /// Where the second starts.
        start: u64,
        /// Where the first ends.
        end: u64,
    },

    /// Bytes that no tensor accounts for.
    #[error("{}: bytes {start}..{end} belong to no tensor", shown(path))]
    Hole {
        /// The file.
        path: PathBuf,
        /// The first of them.
        start: u64,
        /// The byte after the last.
        end: u64,
    },

    /// A tensor has not as many bytes as its shape says.
    #[error(
        "{}: tensor `{tensor}` of type {dtype} and shape {shape:?} needs {needs}, but has {found} bytes",
        shown(path)
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The bytes that these take.
        needs: String,
        /// The bytes that there are.
        found: u64,
    },

    /// A tensor is in two files.
    #[error("{}: tensor `{tensor}` is in {} too", shown(path), shown(first))]
    InTwoShards {
        /// The later file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The earlier file.
        first: PathBuf,
    },

    /// A tensor is not where the index has it.
    #[error("{}: tensor `{tensor}` is missing, though `model.safetensors.index.json` has it here", shown(path))]
    NotInShard {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },

    /// Somebody wrote to a file since it was opened.
    #[error("{}: changed while it was being read", shown(path))]
    Changed {
        /// The file.
        path: PathBuf,
    },

    /// The model is of another family than those we know.
    #[error("{}: architecture `{found}` cannot be imported; known are: {known}", shown(path))]
    UnknownFamily {
        /// The file that says so.
        path: PathBuf,
        /// The architecture.
        found: String,
        /// Those that are known, with commas.
        known: String,
    },

    /// The vocabulary is none that we can build on.
    #[error("{}: {source}", shown(path))]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// What is wrong with what it becomes.
        source: tokenizer::Error,
    },

    /// A key that the model needs is absent.
    #[error("{}: `{key}` is missing", shown(path))]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },

    /// A tensor that the model needs is absent.
    #[error("{}: tensor `{tensor}` is missing", shown(path))]
    Missing {
        /// The folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },

    /// A tensor disagrees with `config.json`, or with another tensor. Shapes are outermost first.
    #[error("{}: tensor `{tensor}` has shape {found:?}; expected {expected:?}", shown(path))]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that fits.
        expected: Vec<usize>,
    },

    /// A tensor holds another kind of number than its role allows.
    #[error("{}: tensor `{tensor}` is of type {found}; allowed: {allowed}", shown(path))]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
        /// The types that it may have.
        allowed: String,
    },

    /// A tensor that no rule knows: the model would be wrong without it.
    #[error(
        "{}: tensor `{tensor}` is no part of the architecture as we know it, and neither are {others} more",
        shown(path)
    )]
    Unknown {
        /// The folder.
        path: PathBuf,
        /// The first of them.
        tensor: String,
        /// How many more.
        others: usize,
    },

    /// A number in a tensor has no place in the type that it becomes.
    #[error("{}: tensor `{tensor}` holds {found} in row {row}; allowed: {allowed}", shown(path))]
    Entry {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its row, outer dimensions flattened.
        row: usize,
        /// The number.
        found: String,
        /// What it may be.
        allowed: String,
    },
}

impl Error {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { path: path.to_owned(), source }
    }

    pub(super) fn invalid(path: &Path, field: impl Into<String>, found: &str, allowed: impl Into<String>) -> Error {
        let (field, allowed) = (field.into(), allowed.into());
        Error::Invalid { path: path.to_owned(), field, found: shorten(found), allowed }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "download the whole folder, with its .json files"
            }
            Error::Io { .. } => "check the permissions and the disk",
            Error::NotAFolder { .. } => "give the folder that holds config.json and the .safetensors files",
            Error::NoWeights { .. } => "download the model's .safetensors files into this folder",
            Error::Pickle { .. } => "convert it to safetensors with the authors' tools, where you trust its source",
            Error::MissingShard { .. } | Error::NotInShard { .. } | Error::InTwoShards { .. } => {
                "download all files of one revision into one folder"
            }
            Error::Cut { .. } | Error::Truncated { .. } => "the download stopped early; run it again, it will resume",
            Error::Changed { .. } => "wait until the download is finished, then start again",
            Error::UnknownFamily { .. } => "look for a GGUF of this model that somebody else made",
            Error::Json { .. } | Error::Overlap { .. } | Error::Hole { .. } | Error::Size { .. } => {
                "the file is damaged; download it again"
            }
            Error::Vocabulary { .. } | Error::Invalid { .. } | Error::MissingKey { .. } | Error::Missing { .. } => {
                "the model may be of another kind than expected, or incomplete"
            }
            Error::Shape { .. } | Error::Dtype { .. } | Error::Unknown { .. } | Error::Entry { .. } => {
                "the model may be of another kind than expected, or changed by somebody"
            }
        }
    }
}
