//! The vocabulary of a model file as plain data, and the checks that make it safe to build on.

use crate::{Error, TokenId, error::shorten, pre};

/// The algorithm, `tokenizer.ggml.model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// `gpt2`: byte-level BPE. Pieces are spelled in the [alphabet](crate::alphabet) of bytes.
    Gpt2,
    /// `llama`: SentencePiece BPE. Scores rank the merges, U+2581 stands for a space, and bytes
    /// that no piece covers have tokens of their own.
    Llama,
}

impl Model {
    const NAMES: [(&str, Model); 2] = [("gpt2", Model::Gpt2), ("llama", Model::Llama)];

    /// The model called `name` in `tokenizer.ggml.model`.
    ///
    /// # Errors
    /// [`Error::UnknownModel`].
    pub fn from_name(name: &str) -> Result<Model, Error> {
        let found = Self::NAMES.iter().find(|(n, _)| *n == name);
        found.map(|(_, m)| *m).ok_or_else(|| Error::UnknownModel {
            name: shorten(name),
            known: Self::NAMES.map(|(n, _)| n).join(", "),
        })
    }
}

/// What a token is for, `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TokenType {
    /// A piece of text.
    Normal = 1,
    /// Stands for text that no piece covers.
    Unknown = 2,
    /// A mark of the format, such as the end of a turn. Not part of the visible text.
    Control = 3,
    /// A mark that is part of the visible text, such as `<think>`.
    UserDefined = 4,
    /// Padding of the table. Never to be produced.
    Unused = 5,
    /// One byte, spelled `<0x41>` (`llama` only).
    Byte = 6,
}

impl TokenType {
    fn from_i32(n: i32) -> Option<TokenType> {
        use TokenType::*;
        [Normal, Unknown, Control, UserDefined, Unused, Byte]
            .into_iter()
            .find(|t| *t as i32 == n)
    }

    /// Whether the token can only be asked for, never arise from plain text.
    pub(crate) fn is_special(self) -> bool {
        matches!(self, Self::Unknown | Self::Control | Self::UserDefined)
    }
}

/// The tokens with a role that the file names, each from `tokenizer.ggml.<field>_token_id`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the keys of the format, one by one")]
pub struct SpecialIds {
    pub bos: Option<TokenId>,
    pub eos: Option<TokenId>,
    pub eot: Option<TokenId>,
    pub eom: Option<TokenId>,
    pub unknown: Option<TokenId>,
    pub separator: Option<TokenId>,
    pub padding: Option<TokenId>,
    pub fim_pre: Option<TokenId>,
    pub fim_suf: Option<TokenId>,
    pub fim_mid: Option<TokenId>,
    pub fim_pad: Option<TokenId>,
    pub fim_rep: Option<TokenId>,
    pub fim_sep: Option<TokenId>,
}

impl SpecialIds {
    /// Each role's key and place; `seperator` is how the format spells it.
    fn fields(&mut self) -> [(&'static str, &mut Option<TokenId>); 13] {
        [
            ("tokenizer.ggml.bos_token_id", &mut self.bos),
            ("tokenizer.ggml.eos_token_id", &mut self.eos),
            ("tokenizer.ggml.eot_token_id", &mut self.eot),
            ("tokenizer.ggml.eom_token_id", &mut self.eom),
            ("tokenizer.ggml.unknown_token_id", &mut self.unknown),
            ("tokenizer.ggml.seperator_token_id", &mut self.separator),
            ("tokenizer.ggml.padding_token_id", &mut self.padding),
            ("tokenizer.ggml.fim_pre_token_id", &mut self.fim_pre),
            ("tokenizer.ggml.fim_suf_token_id", &mut self.fim_suf),
            ("tokenizer.ggml.fim_mid_token_id", &mut self.fim_mid),
            ("tokenizer.ggml.fim_pad_token_id", &mut self.fim_pad),
            ("tokenizer.ggml.fim_rep_token_id", &mut self.fim_rep),
            ("tokenizer.ggml.fim_sep_token_id", &mut self.fim_sep),
        ]
    }
}

/// A vocabulary, as the file has it. [`Tokenizer::from_vocab`](crate::Tokenizer::from_vocab)
/// checks it.
///
/// Two tokens may share a text: text becomes the one with the lowest id among those of the same
/// kind (pieces, or marks), and each decodes. Empty tokens are allowed and never produced.
#[derive(Clone, Debug)]
pub struct Vocab {
    /// The algorithm.
    pub model: Model,
    /// `tokenizer.ggml.pre`, one of [`PRE_TOKENIZERS`](crate::PRE_TOKENIZERS); unused by `llama`.
    pub pre: Option<String>,
    /// Spelling of each token, in the order of ids.
    pub tokens: Vec<String>,
    /// Type of each token, 1 to 6 as in [`TokenType`].
    pub types: Vec<i32>,
    /// Score of each token (`llama`), higher merges first; else empty.
    pub scores: Vec<f32>,
    /// `left right`, best first (`gpt2`); else unused.
    pub merges: Vec<String>,
    /// Tokens with a role.
    pub special: SpecialIds,
    /// Whether prompts begin with BOS; absent: what the pre-tokenizer's family does.
    pub add_bos: Option<bool>,
    /// Whether text is given a space in front (`llama`); absent: yes.
    pub add_space_prefix: Option<bool>,
    /// The Jinja template of conversations.
    pub chat_template: Option<String>,
}

impl Vocab {
    /// Checks what the arrays promise each other, and returns the types as an enum.
    pub(crate) fn check(&mut self) -> Result<Vec<TokenType>, Error> {
        let n_vocab = self.tokens.len();
        let bytes = self.tokens.iter().map(String::len).sum();
        if n_vocab == 0 || u32::try_from(bytes).is_err() || u32::try_from(n_vocab).is_err() {
            return Err(Error::Size { n_vocab, bytes });
        }
        let count = |key, found| match found == n_vocab {
            true => Ok(()),
            false => Err(Error::Count {
                key,
                found,
                n_vocab,
            }),
        };
        count("tokenizer.ggml.token_type", self.types.len())?;
        if self.model == Model::Llama {
            count("tokenizer.ggml.scores", self.scores.len())?;
        }
        if let Some(id) = self.scores.iter().position(|s| s.is_nan()) {
            return Err(Error::Score { id: id as TokenId });
        }
        for (key, id) in self.special.fields() {
            if let Some(id) = id.filter(|&id| id as usize >= n_vocab) {
                return Err(Error::SpecialId { key, id, n_vocab });
            }
        }
        let types = (0..)
            .zip(&self.types)
            .map(|(id, &found)| TokenType::from_i32(found).ok_or(Error::Type { id, found }));
        types.collect()
    }

    /// The pre-tokenizer that `pre` names.
    pub(crate) fn pre_tokenizer(&self) -> Result<&'static pre::PreTokenizer, Error> {
        let found = self.pre.as_deref().and_then(pre::find);
        found.ok_or_else(|| Error::UnknownPre {
            name: self.pre.clone(),
            known: pre::known(),
        })
    }
}
