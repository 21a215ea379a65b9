//! The vocabulary of a model file as plain data, and the checks that make it safe to build on.

use gguf::Metadata;

use crate::{Error, TokenId, error::shorten, pre};

/// The algorithm, `tokenizer.ggml.model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// `gpt2`: byte-level BPE. Pieces are spelled with one printable character per byte.
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
        found
            .map(|(_, m)| *m)
            .ok_or_else(|| Error::UnknownModel { name: shorten(name), known: Self::NAMES.map(|(n, _)| n).join(", ") })
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
        [Normal, Unknown, Control, UserDefined, Unused, Byte].into_iter().find(|t| *t as i32 == n)
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
    fn from_gguf(keys: &Metadata) -> Result<SpecialIds, Error> {
        let mut ids = SpecialIds::default();
        for (key, id) in ids.fields() {
            *id = keys.u32_opt(key)?;
        }
        Ok(ids)
    }

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
    /// The vocabulary that the keys of a model file hold.
    ///
    /// # Errors
    /// [`Error::Metadata`] where a key is missing or of the wrong type, or [`Error::UnknownModel`].
    pub fn from_gguf(keys: &Metadata) -> Result<Vocab, Error> {
        let model = Model::from_name(keys.str("tokenizer.ggml.model")?)?;
        let owned = |strings: Vec<&str>| strings.into_iter().map(String::from).collect();
        Ok(Vocab {
            model,
            pre: keys.str_opt("tokenizer.ggml.pre")?.map(String::from),
            tokens: owned(keys.strs("tokenizer.ggml.tokens")?),
            types: keys.i32s("tokenizer.ggml.token_type")?,
            scores: match model {
                Model::Gpt2 => Vec::new(),
                Model::Llama => keys.f32s("tokenizer.ggml.scores")?,
            },
            merges: match model {
                Model::Gpt2 => owned(keys.strs("tokenizer.ggml.merges")?),
                Model::Llama => Vec::new(),
            },
            special: SpecialIds::from_gguf(keys)?,
            add_bos: keys.bool_opt("tokenizer.ggml.add_bos_token")?,
            add_space_prefix: keys.bool_opt("tokenizer.ggml.add_space_prefix")?,
            chat_template: keys.str_opt("tokenizer.chat_template")?.map(String::from),
        })
    }

    /// Checks what the arrays promise each other, and returns the types as an enum.
    pub(crate) fn check(&mut self) -> Result<Vec<TokenType>, Error> {
        let n_vocab = self.tokens.len();
        let bytes = self.tokens.iter().map(String::len).sum();
        if n_vocab == 0 || u32::try_from(bytes).is_err() || u32::try_from(n_vocab).is_err() {
            return Err(Error::Size { n_vocab, bytes });
        }
        let count = |key, found| match found == n_vocab {
            true => Ok(()),
            false => Err(Error::Count { key, found, n_vocab }),
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
        let types =
            (0..).zip(&self.types).map(|(id, &found)| TokenType::from_i32(found).ok_or(Error::Type { id, found }));
        types.collect()
    }

    /// The pre-tokenizer that `pre` names.
    pub(crate) fn pre_tokenizer(&self) -> Result<&'static pre::PreTokenizer, Error> {
        let found = self.pre.as_deref().and_then(pre::find);
        found.ok_or_else(|| Error::UnknownPre { name: self.pre.clone(), known: pre::known() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Special, Tokenizer, alphabet};

    /// Every byte, `ab`, and two marks: 256 to 258.
    fn tiny() -> Vocab {
        let marks = ["ab", "<s>", "<think>"];
        let bytes = alphabet::CHARS.map(String::from);
        Vocab {
            model: Model::Gpt2,
            pre: Some("gpt-2".into()),
            tokens: bytes.into_iter().chain(marks.map(String::from)).collect(),
            types: [vec![1; 257], vec![3, 4]].concat(),
            scores: vec![],
            merges: vec!["a b".into()],
            special: SpecialIds { bos: Some(257), ..Default::default() },
            add_bos: None,
            add_space_prefix: None,
            chat_template: None,
        }
    }

    fn tiny_llama() -> Vocab {
        let bytes = (0..256).map(|b| format!("<0x{b:02X}>"));
        let pieces = ["a", "b", "ab", "</s>"].map(String::from);
        Vocab {
            model: Model::Llama,
            pre: None,
            tokens: bytes.chain(pieces).collect(),
            types: [vec![6; 256], vec![1, 1, 1, 3]].concat(),
            scores: vec![0.0; 260],
            merges: vec![],
            add_bos: Some(false),
            ..tiny()
        }
    }

    fn check(change: impl FnOnce(&mut Vocab), message: &str) {
        refused(tiny(), change, message);
    }

    fn check_llama(change: impl FnOnce(&mut Vocab), message: &str) {
        refused(tiny_llama(), change, message);
    }

    fn refused(mut vocab: Vocab, change: impl FnOnce(&mut Vocab), message: &str) {
        change(&mut vocab);
        match Tokenizer::from_vocab(vocab) {
            Ok(_) => panic!("accepted: {message}"),
            Err(e) => assert_eq!(e.to_string(), message),
        }
    }

    #[test]
    fn tiny_vocabularies_work() {
        let t = Tokenizer::from_vocab(tiny()).unwrap();
        assert_eq!(t.encode("abab<s>", Special::Parse), [256, 256, 257]);
        let t = Tokenizer::from_vocab(tiny_llama()).unwrap();
        assert_eq!(t.encode("ab!", Special::Parse), [0xE2, 0x96, 0x81, 258, 0x21]);
    }

    #[test]
    fn counts_must_agree() {
        check(|v| v.types.truncate(3), "`tokenizer.ggml.token_type` has 3 entries for 259 tokens");
        check_llama(|v| v.scores.push(0.0), "`tokenizer.ggml.scores` has 261 entries for 260 tokens");
        check(|v| v.tokens.clear(), "the vocabulary has 0 tokens, 0 bytes");
    }

    #[test]
    fn numbers_must_be_in_range() {
        check(|v| v.types[7] = 9, "token 7 has type 9; types are 1 to 6");
        check_llama(|v| v.scores[3] = f32::NAN, "the score of token 3 is not a number");
        check(
            |v| v.special.eos = Some(u32::MAX),
            "`tokenizer.ggml.eos_token_id` is 4294967295, but there are 259 tokens",
        );
        check(
            |v| (v.add_bos, v.special.bos) = (Some(true), None),
            "a BOS token is to be added, but `tokenizer.ggml.bos_token_id` is absent",
        );
    }

    #[test]
    fn bytes_must_have_their_tokens() {
        check(|v| v.tokens[b'x' as usize] = "xx".into(), "no token stands for byte 0x78");
        check_llama(|v| v.types[65] = 1, "no token stands for byte 0x41");
        for bad in ["<0x-1>", "<0xZZ>", "<0x1FF>"] {
            let message = format!("byte token 65 is `{bad}`, not `<0x00>` to `<0xFF>`");
            check_llama(|v| v.tokens[65] = bad.into(), &message);
        }
    }

    #[test]
    fn merges_must_make_tokens_of_tokens() {
        check(|v| v.merges.push("ab".into()), "merge 1, `ab`, has no space between two pieces");
        let none = "has parts, or makes a whole, that are no tokens";
        check(|v| v.merges.push("b a".into()), &format!("merge 1, `b a`, {none}"));
        check(|v| v.merges.push(" ".into()), "merge 1, ` `, has no space between two pieces");
        check_llama(|v| v.tokens[258] = "a".repeat(5000), "token 258 has 5000 bytes; at most 1024 are supported");
    }

    #[test]
    fn merges_that_would_make_marks_are_left_out() {
        let mut vocab = tiny();
        vocab.tokens[258] = "abc".into();
        vocab.merges.push("ab c".into());
        let t = Tokenizer::from_vocab(vocab).unwrap();
        assert_eq!(t.encode("abc", Special::Plain), [256, 99]);
        assert_eq!(t.encode("abc", Special::Parse), [258]);
    }

    #[test]
    fn unknown_names_list_the_known() {
        let pre = "deepseek-v3, joyai-llm, deepseek-llm, deepseek-coder, gpt-2, smollm, llama-bpe, \
                   llama3, llama-v3, glm4, glm5, qwen2, deepseek-r1-qwen, qwen35, gpt-4o";
        check(|v| v.pre = Some("tekken".into()), &format!("tokenizer.ggml.pre is `tekken`; known are: {pre}"));
        check(|v| v.pre = None, &format!("tokenizer.ggml.pre is absent; known are: {pre}"));
        assert_eq!(
            Model::from_name("rwkv").unwrap_err().to_string(),
            "tokenizer.ggml.model is `rwkv`; known are: gpt2, llama"
        );
    }

    #[test]
    fn of_equal_tokens_the_first_is_produced_and_all_decode() {
        let mut vocab = tiny();
        vocab.tokens.extend(["ab".into(), String::new(), "<s>".into()]);
        vocab.types.extend([1, 1, 3]);
        let t = Tokenizer::from_vocab(vocab).unwrap();
        assert_eq!(t.encode("ab<s>", Special::Parse), [256, 257]);
        assert_eq!(t.decode(&[259, 260, 256]), "abab");
    }

    proptest! {
        #[test]
        fn whatever_the_arrays_hold_nothing_panics(
            tokens in prop::collection::vec((0..300_usize, "\\PC{0,6}"), 0..40),
            types in prop::collection::vec((0..300_usize, 0..8), 0..10),
            merges in prop::collection::vec("[a-c ]{0,5}", 0..10),
            llama in any::<bool>(),
            text in any::<String>(),
        ) {
            let mut vocab = if llama { tiny_llama() } else { tiny() };
            for (at, token) in tokens {
                match vocab.tokens.get_mut(at) {
                    Some(place) => *place = token,
                    None => vocab.tokens.push(token),
                }
            }
            vocab.types.resize(vocab.tokens.len(), 1);
            vocab.scores.resize(vocab.tokens.len(), -1.0);
            for (at, kind) in types {
                if let Some(t) = vocab.types.get_mut(at) {
                    *t = kind;
                }
            }
            vocab.merges.extend(merges);
            if let Ok(t) = Tokenizer::from_vocab(vocab) {
                t.decode(&t.encode(&text, Special::Parse));
            }
        }
    }
}
