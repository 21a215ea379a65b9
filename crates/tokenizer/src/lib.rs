//! Bytes to token ids, and back in whole characters.
//!
//! [`Vocab`] is what the model file says, [`Tokenizer`] what is built on it once it has been
//! checked. The merges are the `tokenizers` crate's; around them are ours: special tokens, which
//! only trusted text may name ([`Special`]), pre-tokenisation in linear time ([`PRE_TOKENIZERS`]),
//! and decoding in whole characters as ids come ([`Decoder`]).
//!
//! ```text
//! text -> special tokens split off -> NFC (Qwen) -> pieces -> byte alphabet -> merges -> ids
//! ids  -> bytes of each -> whole characters
//! ```
//!
//! Source: the specification of other models, sections 2.8 and 4.8 to 4.10; the ids are those of
//! Hugging Face's `tokenizers`, as `testdata/tokenizer` holds them.

#![forbid(unsafe_code)]

mod alphabet;
mod decoder;
mod error;
mod pre;
mod spm;
mod tokenizer;
mod vocab;

pub use decoder::Decoder;
pub use error::Error;
pub use pre::{PRE_TOKENIZERS, PreTokenizer};
pub use spm::merges_by_score;
pub use tokenizer::{Special, Tokenizer};
pub use vocab::{Model, SpecialIds, TokenType, Vocab};

/// A word of the vocabulary: its index in the file's arrays.
pub type TokenId = u32;
