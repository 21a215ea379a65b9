//! Why a model file cannot be run.

use std::path::PathBuf;

use compute::DeviceError;
use experts::ReadError;

/// A file that is a readable GGUF, but no model that we can run; or a machine that cannot hold it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container is damaged, or a key is missing or of the wrong type.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),

    /// The file is for another program, or newer than this one.
    #[error("{}: architecture `{found}` is not supported; known are: {known}", path.display())]
    UnknownFamily {
        /// The file.
        path: PathBuf,
        /// `general.architecture`.
        found: String,
        /// The architectures in `FAMILIES`, with commas.
        known: String,
    },

    /// A hyper-parameter has a value that no model has.
    #[error("{}: `{key}` is {found}; allowed is {allowed}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The metadata key.
        key: String,
        /// What it holds.
        found: String,
        /// What it may hold.
        allowed: String,
    },

    /// A tensor that the architecture needs is not there.
    #[error("{}: tensor `{tensor}` is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
    },

    /// A tensor disagrees with the hyper-parameters. Shapes are outermost first.
    #[error("{}: tensor `{tensor}` has shape {found:?}, but the hyper-parameters make it {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the metadata asks for.
        expected: Vec<usize>,
    },

    /// A tensor holds another kind of number than its role allows.
    #[error("{}: tensor `{tensor}` is of type {found}; allowed is {allowed}", path.display())]
    Element {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its type.
        found: String,
        /// The types that it may have.
        allowed: &'static str,
    },

    /// A number in a tensor means nothing: an expert that does not exist, an angle divided by zero.
    #[error("{}: tensor `{tensor}` holds {found} at index {index}; allowed is {allowed}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Where in the tensor.
        index: usize,
        /// The number.
        found: String,
        /// What it may be.
        allowed: String,
    },

    /// The file holds a tensor whose part in the model we do not know: leaving it out would change the answers.
    #[error("{}: tensor `{tensor}` is no part of the architecture as we know it, and neither are {others} more", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The first such tensor.
        tensor: String,
        /// How many more there are.
        others: usize,
    },

    /// The device cannot hold the model.
    #[error(transparent)]
    Device(#[from] DeviceError),

    /// Experts cannot be read.
    #[error(transparent)]
    Experts(#[from] ReadError),
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Error::Gguf(e) => e.hint().to_string(),
            Error::UnknownFamily { .. } | Error::Unknown { .. } => "a newer version may know this model".into(),
            Error::Experts(ReadError::Changed { .. }) => "start again, with a file that nobody writes to".into(),
            Error::Experts(ReadError::NoSlot { .. }) => "ask again, or give the experts a larger cache".into(),
            Error::Experts(_) => "check the disk that the model is on, then ask again".into(),
            Error::Device(_) => "close other programs, or take a smaller model or quantisation".into(),
            _ => "the file is damaged or was converted wrongly; download or convert it again".into(),
        }
    }
}
