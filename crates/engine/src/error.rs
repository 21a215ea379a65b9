//! Why a model does not open or a session does not go on.

use std::{io, path::PathBuf};

use compute::DeviceError;
use experts::{ReadError, trace::Head};
use tokenizer::TokenId;

/// What callers can act on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is no model that we can run.
    #[error(transparent)]
    Model(#[from] models::Error),

    /// The vocabulary of the file cannot be used.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: tokenizer::Error,
    },

    /// The file has more words than the model has rows for.
    #[error("{}: the vocabulary has {found} tokens, but the embeddings {rows} rows", path.display())]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// Words.
        found: usize,
        /// Rows.
        rows: usize,
    },

    /// An instruction set that there is not, or not here.
    #[error("this machine has no instruction set `{found}`; it has {known}")]
    InstructionSet {
        /// What was asked for.
        found: String,
        /// What there is.
        known: String,
    },

    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),

    /// A session would not fit into memory.
    #[error("a context of {n_ctx} tokens needs {} MiB, but {} MiB are available", needed_bytes >> 20, available_bytes >> 20)]
    Memory {
        /// Positions asked for.
        n_ctx: usize,
        /// Bytes that it would take.
        needed_bytes: u64,
        /// Bytes that there are.
        available_bytes: u64,
    },

    /// A model without experts was to be streamed, or its choices were to be written or replaced.
    #[error("{}: the model has no experts to choose from", path.display())]
    NoExperts {
        /// The file.
        path: PathBuf,
    },

    /// A model that is a part of the program was to be streamed.
    #[error("{name}: it is a part of the program, so there is no file to read its experts from")]
    NothingToStream {
        /// What the model is called.
        name: String,
    },

    /// Choices of experts cannot be written down.
    #[error("the trace of routes cannot be written: {source}")]
    Trace {
        /// Why.
        source: io::Error,
    },

    /// A trace of another model's choices was to be followed.
    #[error("a trace of {found}, but the model has {ours}")]
    OtherRoutes {
        /// What the trace is of.
        found: Head,
        /// What the model is.
        ours: Head,
    },

    /// A trace without choices was to be followed.
    #[error("a trace without choices for layer {layer}")]
    NoRoutes {
        /// The layer.
        layer: usize,
    },

    /// What every token needs does not fit into memory, experts left out.
    #[error("the weights without experts take {} MiB, but {} MiB are available", needed_bytes >> 20, available_bytes >> 20)]
    WeightsMemory {
        /// Bytes that they take.
        needed_bytes: u64,
        /// Bytes that there are.
        available_bytes: u64,
    },

    /// A cache of experts was to take what is free, but nobody knows how much that is.
    #[error("the system does not say how much memory is free for experts")]
    UnknownMemory,

    /// A cache of experts that has no room for one.
    #[error("a cache of {} KiB holds no expert: one takes {} KiB", bytes >> 10, slot_bytes >> 10)]
    NoRoomForExperts {
        /// What was asked for, or is free.
        bytes: u64,
        /// Bytes of one.
        slot_bytes: u64,
    },

    /// What a session leaves has no room for an expert.
    #[error(
        "a session needs {} MiB and an expert {} KiB, but {} MiB are available beside the weights",
        session_bytes >> 20, slot_bytes >> 10, available_bytes >> 20
    )]
    NoRoomBeside {
        /// What a session of the usual length takes.
        session_bytes: u64,
        /// Bytes of an expert.
        slot_bytes: u64,
        /// Bytes that there are.
        available_bytes: u64,
    },

    /// A cache of experts that does not fit into memory.
    #[error("a cache of {} MiB for experts, but {} MiB are available", needed_bytes >> 20, available_bytes >> 20)]
    ExpertCache {
        /// Bytes that it would take.
        needed_bytes: u64,
        /// Bytes that there are.
        available_bytes: u64,
    },

    /// The system does not give the memory for a cache of experts, though there seemed to be enough: a limit of this
    /// process, for one.
    #[error("the system refuses {} MiB for a cache of experts: {}", needed_bytes.div_ceil(1 << 20), source.kind())]
    ExpertCacheRefused {
        /// Bytes that it would take.
        needed_bytes: u64,
        /// Why.
        source: io::Error,
    },

    /// A context that no session can have.
    #[error("a context of {n_ctx} tokens; allowed is 1 to {n_ctx_max}")]
    ContextSize {
        /// Positions asked for.
        n_ctx: usize,
        /// The most there can be.
        n_ctx_max: usize,
    },

    /// More tokens than the session has room for.
    #[error("{n_tokens} tokens do not fit into a context of {n_ctx}")]
    ContextFull {
        /// Tokens that there would be.
        n_tokens: usize,
        /// Positions that there are.
        n_ctx: usize,
    },

    /// A token that the vocabulary does not have.
    #[error("token {id} at position {pos} does not exist; ids are 0 to {}", n_vocab - 1)]
    Token {
        /// The id.
        id: TokenId,
        /// Where it stands.
        pos: usize,
        /// Words of the vocabulary.
        n_vocab: usize,
    },

    /// Text was asked for, but the file has no vocabulary.
    #[error("the model file has no vocabulary")]
    NoVocabulary,

    /// The model's way to write conversations needs a token that its vocabulary does not have.
    #[error("the vocabulary has no token `{marker}`, which this model's conversations need")]
    NoMarker {
        /// What the token should read.
        marker: String,
    },

    /// The file with what the SSD had to do cannot be used.
    #[error("{}: {problem}", path.display())]
    Ledger {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// The file with a key cannot be used.
    #[error("{}: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },

    /// There is no last token to go on from.
    #[error("the session holds no prompt to go on from")]
    NoPrompt,

    /// A logit is not a number.
    #[error("{}: the weights give no numbers at position {pos}", path.display())]
    NoNumbers {
        /// The file.
        path: PathBuf,
        /// The token's place.
        pos: usize,
    },

    /// Every logit is minus infinity.
    #[error("the model computes no numbers at position {pos}")]
    NoChoice {
        /// Where the token would stand.
        pos: usize,
    },

    /// A bias, or a bias and a grammar, leave no token that the model could go on with.
    #[error("no token is allowed at position {pos}")]
    NothingAllowed {
        /// Where the token would stand.
        pos: usize,
    },

    /// A form that answers were to have, and that they cannot be held to.
    #[error(transparent)]
    Grammar(#[from] grammar::Error),
}

impl From<ReadError> for Error {
    fn from(e: ReadError) -> Error {
        match e {
            ReadError::Arena { bytes, source } => Error::ExpertCacheRefused { needed_bytes: bytes as u64, source },
            e => Error::Model(e.into()),
        }
    }
}

impl From<gguf::Error> for Error {
    fn from(e: gguf::Error) -> Error {
        Error::Model(e.into())
    }
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Error::Model(e) => e.hint(),
            Error::Tokenizer { source, .. } => source.hint().to_string(),
            Error::Vocabulary { .. } => "the file was converted wrongly; download or convert it again".into(),
            Error::InstructionSet { .. } => "ask for one of those, or leave the choice to the program".into(),
            Error::Device(DeviceError::Threads { .. }) => "ask for fewer threads".into(),
            Error::Device(_) => "close other programs, or ask for a smaller context".into(),
            Error::Memory { .. } => "ask for a smaller context, or close other programs".into(),
            Error::ContextSize { .. } => "choose a context that the model was trained for".into(),
            Error::ContextFull { .. } => "ask for a larger context, or send less text".into(),
            Error::NoExperts { .. } => "no flag about experts or their routes applies to such a model".into(),
            Error::NothingToStream { .. } => "leave out what streams experts, or name a model's file".into(),
            Error::Trace { .. } => "see that the disk has room, or write to another one".into(),
            Error::OtherRoutes { .. } => "follow a trace of a model of this shape".into(),
            Error::NoRoutes { .. } => "a trace to follow needs rows of every layer".into(),
            Error::WeightsMemory { .. } => "close other programs, or take a smaller model or quantisation".into(),
            Error::UnknownMemory => "give the cache of experts a size".into(),
            Error::NoRoomBeside { .. } => "compute fewer tokens at a time, or close other programs".into(),
            Error::NoRoomForExperts { .. } => "give the cache more memory, or close other programs".into(),
            Error::ExpertCache { .. } => "ask for a smaller cache, or close other programs".into(),
            Error::ExpertCacheRefused { .. } => {
                "ask for a smaller cache, or raise the limit on this process's memory".into()
            }
            Error::NoVocabulary => "take a file with a vocabulary; this one takes and gives raw token ids only".into(),
            Error::NoMarker { .. } => {
                "complete raw text with this file, or take another conversion of the model".into()
            }
            Error::Ledger { .. } => "mend the file, or remove it to begin afresh".into(),
            Error::Key { .. } => {
                "see that it can be read and its folder be written, or remove it to have a new one made".into()
            }
            Error::NoPrompt => "give the session a prompt, all of it, before asking for an answer".into(),
            Error::NoNumbers { .. } | Error::NoChoice { .. } => {
                "the weights are damaged or were converted wrongly; download them again".into()
            }
            Error::NothingAllowed { .. } => "let the bias leave something that may follow".into(),
            Error::Grammar(e) => e.hint().into(),
            Error::Token { .. } => "token ids belong to one vocabulary: make them with this model's".into(),
        }
    }

    /// Whether the model file is to blame.
    pub fn is_bad_file(&self) -> bool {
        match self {
            Error::Model(e) => !matches!(e, models::Error::Device(_) | models::Error::Experts(_)),
            Error::Tokenizer { .. } | Error::Vocabulary { .. } | Error::NoMarker { .. } => true,
            Error::NoNumbers { .. } | Error::NoChoice { .. } => true,
            Error::NoExperts { .. } | Error::NothingToStream { .. } => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_cannot_be_taken_is_a_matter_of_memory() {
        let source = io::ErrorKind::OutOfMemory.into();
        let error = Error::from(ReadError::Arena { bytes: 3 << 30, source });
        assert_eq!(error.to_string(), "the system refuses 3072 MiB for a cache of experts: out of memory");
        assert!(error.hint().contains("a smaller cache") && !error.is_bad_file(), "{}", error.hint());
        let error = Error::from(ReadError::Changed { path: "m".into() });
        assert!(matches!(error, Error::Model(models::Error::Experts(ReadError::Changed { .. }))), "{error}");
    }
}
