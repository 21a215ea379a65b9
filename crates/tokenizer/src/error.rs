//! What can be wrong with the vocabulary of a model file.

use crate::TokenId;

/// Why a vocabulary is refused. Ids and indices count from zero, as in the file's arrays.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key is missing or has the wrong type.
    #[error(transparent)]
    Metadata(#[from] gguf::Error),

    /// `tokenizer.ggml.model` names an algorithm that this crate does not have.
    #[error("tokenizer.ggml.model is `{name}`; known are: {known}")]
    UnknownModel {
        /// The name in the file.
        name: String,
        /// The known names, with commas.
        known: String,
    },

    /// `tokenizer.ggml.pre` is absent or names a pattern that this crate does not have.
    #[error("tokenizer.ggml.pre is {}; known are: {known}", quoted(name))]
    UnknownPre {
        /// The name in the file, if any.
        name: Option<String>,
        /// The known names, with commas.
        known: String,
    },

    /// The vocabulary is empty or larger than 32-bit arithmetic over its bytes allows.
    #[error("the vocabulary has {n_vocab} tokens, {bytes} bytes")]
    Size {
        /// Number of tokens.
        n_vocab: usize,
        /// Length of all tokens together.
        bytes: usize,
    },

    /// An array that must have one entry per token has another length.
    #[error("`{key}` has {found} entries for {n_vocab} tokens")]
    Count {
        /// The array.
        key: &'static str,
        /// Its length.
        found: usize,
        /// Number of tokens.
        n_vocab: usize,
    },

    /// A token's type is none of 1 to 6.
    #[error("token {id} has type {found}; types are 1 to 6")]
    Type {
        /// The token.
        id: TokenId,
        /// The number in `tokenizer.ggml.token_type`.
        found: i32,
    },

    /// A score is not a number, so merges cannot be ranked.
    #[error("the score of token {id} is not a number")]
    Score {
        /// The token.
        id: TokenId,
    },

    /// A special id points past the vocabulary.
    #[error("`{key}` is {id}, but there are {n_vocab} tokens")]
    SpecialId {
        /// The metadata key.
        key: &'static str,
        /// The id it holds.
        id: TokenId,
        /// Number of tokens.
        n_vocab: usize,
    },

    /// BOS is to be added to every prompt, but no token is named for it.
    #[error("a BOS token is to be added, but `tokenizer.ggml.bos_token_id` is absent")]
    NoBos,

    /// A byte token is not `<0x00>` to `<0xFF>`.
    #[error("byte token {id} is `{text}`, not `<0x00>` to `<0xFF>`")]
    ByteToken {
        /// The token.
        id: TokenId,
        /// Its text, shortened.
        text: String,
    },

    /// Some byte of UTF-8 text has no token, so some text could not be written.
    #[error("no token stands for byte 0x{byte:02X}")]
    MissingByte {
        /// The first such byte.
        byte: u8,
    },

    /// A merge is not two known pieces that make a third.
    #[error("merge {index}, `{text}`, {problem}")]
    Merge {
        /// Its rank.
        index: usize,
        /// The line, shortened.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },

    /// A token that takes part in scored merges is too long to try all its halves.
    #[error("token {id} has {bytes} bytes; at most {bytes_max} are supported")]
    TooLong {
        /// The token.
        id: TokenId,
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },

    /// A library below refused what our checks let pass.
    #[error("building the tokenizer: {0}")]
    Build(String),
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Error::Metadata(error) => error.hint(),
            Error::UnknownModel { .. } | Error::UnknownPre { .. } => {
                "this model's tokenizer is not supported; a newer version may know it".into()
            }
            Error::NoBos => "the file contradicts itself; use another conversion of this model".into(),
            _ => "the file is damaged or was converted wrongly; download or convert it again".into(),
        }
    }
}

/// At most 40 characters of `text`, for messages about outside text of any length.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

fn quoted(name: &Option<String>) -> String {
    name.as_ref().map_or("absent".to_string(), |n| format!("`{}`", shorten(n)))
}
