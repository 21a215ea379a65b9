//! Text to ids and back.

use std::{borrow::Cow, collections::HashMap, fmt, sync::Arc};

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::{
    Model as _, NormalizedString,
    models::bpe::{self, BPE, BpeBuilder},
};

use crate::{
    Decoder, Error, Model, SpecialIds, TokenId, TokenType, Vocab, alphabet, decoder::Pieces, error::shorten,
    pre::Splitter, spm,
};

/// Whether the texts of special tokens are taken for the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// They are: for templates and other text of our own. The longest one wins.
    Parse,
    /// They are text like any other: for everything that people, files and tools say. No control,
    /// user-defined, unknown or unused token comes out, whatever the text.
    Plain,
}

/// A vocabulary, ready to use. Clones share it.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    bpe: BPE,
    plain: Plain,
    pieces: Arc<Pieces>,
    specials: Specials,
    ids: SpecialIds,
    eog: Vec<TokenId>,
    add_bos: bool,
    chat_template: Option<String>,
}

/// How plain text is prepared for the merges.
enum Plain {
    /// Cut by the pre-tokenizer, after NFC if so, and spelled in the byte alphabet.
    Bytes { splitter: Splitter, nfc: bool },
    /// Spaces written as U+2581, one more in front if `prefix`.
    Spaces { prefix: bool },
}

impl Tokenizer {
    /// The tokenizer of the model file with these keys.
    ///
    /// # Errors
    /// Each of [`Error`]'s, by what is wrong with the vocabulary.
    pub fn from_gguf(keys: &gguf::Metadata) -> Result<Tokenizer, Error> {
        Tokenizer::from_vocab(Vocab::from_gguf(keys)?)
    }

    /// Checks `vocab` and builds on it.
    ///
    /// # Errors
    /// Each of [`Error`]'s, by what is wrong with the vocabulary.
    pub fn from_vocab(mut vocab: Vocab) -> Result<Tokenizer, Error> {
        let types = vocab.check()?;
        let known = Known::new(&vocab.tokens, &types);
        let (bpe, plain, add_bos) = match vocab.model {
            Model::Gpt2 => {
                let pre = vocab.pre_tokenizer()?;
                known.check_alphabet()?;
                let merges = known.merges(&vocab.merges)?;
                let bpe = known.builder(merges).ignore_merges(pre.ignore_merges);
                let (splitter, nfc) = (Splitter::new(pre), pre.nfc);
                (bpe, Plain::Bytes { splitter, nfc }, pre.add_bos)
            }
            Model::Llama => {
                spm::check_bytes(&vocab.tokens, &types)?;
                let merges = spm::merges_by_score(&known.pieces, &vocab.tokens, &vocab.scores)?;
                let bpe = known.builder(merges).byte_fallback(true);
                let prefix = vocab.add_space_prefix.unwrap_or(true);
                (bpe, Plain::Spaces { prefix }, true)
            }
        };
        let add_bos = vocab.add_bos.unwrap_or(add_bos);
        if add_bos && vocab.special.bos.is_none() {
            return Err(Error::NoBos);
        }
        let specials = Specials::new(&vocab.tokens, &types)?;
        let space_prefix = matches!(plain, Plain::Spaces { prefix: true });
        Ok(Tokenizer(Arc::new(Inner {
            bpe: bpe.build().map_err(|e| Error::Build(e.to_string()))?,
            plain,
            eog: specials.end_of_generation(&vocab.special),
            specials,
            pieces: Arc::new(Pieces::new(vocab.model, &vocab.tokens, types, space_prefix)),
            ids: vocab.special,
            add_bos,
            chat_template: vocab.chat_template,
        })))
    }

    /// The ids of `text`. Adds no BOS: see [`bos`](Tokenizer::bos).
    pub fn encode(&self, text: &str, special: Special) -> Vec<TokenId> {
        self.encode_parts(&[(text, special)])
    }

    /// The ids of one text that comes in parts. Special tokens are found within a part only.
    /// Plain text goes on across the ends of parts, so the ids are those of the whole text as the
    /// model saw it in training, and still nothing in a [`Special::Plain`] part makes a special
    /// token.
    ///
    /// Vocabularies with a space prefix get it at the start and after each special token, which
    /// is what llama.cpp does, and Hugging Face for models of that age (`legacy`).
    pub fn encode_parts(&self, parts: &[(&str, Special)]) -> Vec<TokenId> {
        let mut ids = Vec::new();
        let mut plain = String::new();
        for &(text, special) in parts {
            let mut done = 0;
            if special == Special::Parse {
                for (start, end, id) in self.0.specials.find_iter(text) {
                    plain.push_str(&text[done..start]);
                    self.encode_plain(&plain, &mut ids);
                    plain.clear();
                    ids.push(id);
                    done = end;
                }
            }
            plain.push_str(&text[done..]);
        }
        self.encode_plain(&plain, &mut ids);
        ids
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<TokenId>) {
        if text.is_empty() {
            return;
        }
        match &self.0.plain {
            Plain::Bytes { splitter, nfc } => {
                let text = if *nfc { composed(text) } else { text.into() };
                let mut spelled = String::new();
                splitter.split(&text, &mut |piece| {
                    alphabet::spell(piece, &mut spelled);
                    self.merge(&spelled, ids);
                });
            }
            Plain::Spaces { prefix } => {
                let front = if *prefix { spm::SPACE } else { "" };
                self.merge(&format!("{front}{}", text.replace(' ', spm::SPACE)), ids);
            }
        }
    }

    fn merge(&self, piece: &str, ids: &mut Vec<TokenId>) {
        let tokens = self.0.bpe.tokenize(piece);
        let tokens = tokens.expect("only a missing unknown token could fail, and none is set");
        ids.extend(tokens.iter().map(|t| t.id));
    }

    /// The text of `ids`, without control tokens. What is not UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[TokenId]) -> String {
        decode_all(self.decoder(), ids)
    }

    /// [`decode`](Tokenizer::decode), with control tokens.
    pub fn decode_with_control(&self, ids: &[TokenId]) -> String {
        decode_all(self.decoder().show_control(), ids)
    }

    /// For ids that come one by one.
    pub fn decoder(&self) -> Decoder {
        Decoder::new(self.0.pieces.clone())
    }

    /// The same, for ids that follow on `last`. After a mark, or nothing, a text begins, and vocabularies with a space prefix begin it with a
    /// space that is not meant.
    pub fn decoder_after(&self, last: Option<TokenId>) -> Decoder {
        match last.and_then(|id| self.type_of(id)) {
            Some(TokenType::Normal | TokenType::Byte) => self.decoder().continuing(),
            _ => self.decoder(),
        }
    }

    /// The token that every prompt begins with, if this model wants one.
    pub fn bos(&self) -> Option<TokenId> {
        self.0.ids.bos.filter(|_| self.0.add_bos)
    }

    /// All tokens with a role that the file names.
    pub fn special_ids(&self) -> &SpecialIds {
        &self.0.ids
    }

    /// Number of tokens, padding included.
    pub fn n_vocab(&self) -> usize {
        self.0.pieces.n_vocab()
    }

    /// The tokens that end generation, in order: those that the file names, and those that do in every family.
    pub fn eog(&self) -> &[TokenId] {
        &self.0.eog
    }

    /// Whether `id` pads the table, or lies past it. Such ids must never be sampled.
    pub fn is_unused(&self, id: TokenId) -> bool {
        matches!(self.type_of(id), Some(TokenType::Unused) | None)
    }

    /// What `id` is for; nothing if there is no such token.
    pub fn type_of(&self, id: TokenId) -> Option<TokenType> {
        self.0.pieces.type_of(id)
    }

    /// The token spelled `text` in the file: a special one if there is, else a piece.
    pub fn id_of(&self, text: &str) -> Option<TokenId> {
        let special = self.0.specials.ids.get(text).copied();
        special.or_else(|| self.0.bpe.token_to_id(text))
    }

    /// The bytes that `id` stands for, control tokens included; none if there is no such token.
    pub fn bytes_of(&self, id: TokenId) -> &[u8] {
        self.0.pieces.bytes_of(id)
    }

    /// [`bytes_of`](Tokenizer::bytes_of) as text; what is not UTF-8 becomes U+FFFD.
    pub fn text_of(&self, id: TokenId) -> Cow<'_, str> {
        String::from_utf8_lossy(self.bytes_of(id))
    }

    /// The model's Jinja template of conversations.
    pub fn chat_template(&self) -> Option<&str> {
        self.0.chat_template.as_deref()
    }

    /// How much memory a tokenizer takes, rather more than less: texts in both directions, the
    /// merges, and a cache of ten thousand words.
    pub fn memory_bytes(n_vocab: usize, n_merges: usize) -> usize {
        // Measured as resident size: 42 MB for 129,280 tokens and 127,741 merges; 66 MB for
        // 248,320 and 247,587; 17 MB for 49,152 and 48,900.
        300 * n_vocab + 40 * n_merges + (2 << 20)
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Tokenizer");
        f.field("n_vocab", &self.n_vocab()).finish_non_exhaustive()
    }
}

fn decode_all(mut decoder: Decoder, ids: &[TokenId]) -> String {
    let mut out = String::new();
    for &id in ids {
        decoder.push_to(id, &mut out);
    }
    out + &decoder.finish()
}

/// `text` in composed form (NFC), by the library and so the Unicode version of Hugging Face.
fn composed(text: &str) -> Cow<'_, str> {
    // Below U+0300, the first combining mark, nothing changes.
    if text.chars().all(|c| c < '\u{300}') {
        return text.into();
    }
    let mut text = NormalizedString::from(text);
    text.nfc();
    text.get().to_string().into()
}

/// The pieces that plain text may become, by their text; of equals, the first.
struct Known<'a> {
    pieces: HashMap<&'a str, TokenId>,
    /// Those that only `llama`'s fallback to bytes may pick.
    bytes: Vec<(&'a str, TokenId)>,
    /// The texts of all other tokens.
    others: HashMap<&'a str, TokenId>,
}

impl<'a> Known<'a> {
    fn new(tokens: &'a [String], types: &[TokenType]) -> Known<'a> {
        let mut known =
            Known { pieces: HashMap::with_capacity(tokens.len()), bytes: Vec::new(), others: HashMap::new() };
        for (id, (token, kind)) in (0..).zip(tokens.iter().zip(types)) {
            match kind {
                _ if token.is_empty() => {}
                TokenType::Normal => {
                    known.pieces.entry(token).or_insert(id);
                }
                TokenType::Byte => known.bytes.push((token, id)),
                _ => {
                    known.others.entry(token).or_insert(id);
                }
            }
        }
        known
    }

    /// Bytes without a piece are lost in encoding, as they are in the model's own tokenizer; some
    /// vocabularies lack rare control characters. Without printable ASCII, it is no vocabulary.
    fn check_alphabet(&self) -> Result<(), Error> {
        let spelled = |b: u8| alphabet::CHARS[b as usize].to_string();
        let mut needed = (b' '..=b'~').chain([b'\n']);
        match needed.find(|&b| !self.pieces.contains_key(spelled(b).as_str())) {
            Some(byte) => Err(Error::MissingByte { byte }),
            None => Ok(()),
        }
    }

    /// Parses the lines `left right`, of which either may contain spaces only in front.
    ///
    /// Merges with tokens that are not pieces are left out: they would turn plain text into marks.
    fn merges(&self, lines: &[String]) -> Result<Vec<(String, String)>, Error> {
        let mut merges = Vec::with_capacity(lines.len());
        let mut whole = String::new();
        for (index, line) in lines.iter().enumerate() {
            let error = |problem| Error::Merge { index, text: shorten(line), problem };
            let space = line.bytes().skip(1).position(|b| b == b' ');
            let cut = space.ok_or_else(|| error("has no space between two pieces"))? + 1;
            let (left, right) = (&line[..cut], &line[cut + 1..]);
            whole.clear();
            whole.extend([left, right]);
            let parts = [left, right, &whole];
            if parts.iter().all(|p| self.pieces.contains_key(p)) {
                merges.push((left.to_string(), right.to_string()));
            } else if !parts.iter().all(|p| self.pieces.contains_key(p) || self.others.contains_key(p)) {
                return Err(error("has parts, or makes a whole, that are no tokens"));
            }
        }
        Ok(merges)
    }

    fn builder(&self, merges: Vec<(String, String)>) -> BpeBuilder {
        let pieces = self.pieces.iter().map(|(text, id)| (text.to_string(), *id));
        let bytes = self.bytes.iter().map(|(text, id)| (text.to_string(), *id));
        BPE::builder().vocab_and_merges(bytes.chain(pieces).collect::<bpe::Vocab>(), merges)
    }
}

/// The tokens that can be asked for by text.
struct Specials {
    finder: AhoCorasick,
    /// The token of each of the finder's patterns.
    by_pattern: Vec<TokenId>,
    ids: HashMap<String, TokenId>,
}

impl Specials {
    fn new(tokens: &[String], types: &[TokenType]) -> Result<Specials, Error> {
        let mut ids = HashMap::new();
        let mut by_pattern = Vec::new();
        for (id, (token, kind)) in (0..).zip(tokens.iter().zip(types)) {
            if kind.is_special() && !token.is_empty() && !ids.contains_key(token) {
                ids.insert(token.clone(), id);
                by_pattern.push(id);
            }
        }
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(by_pattern.iter().map(|&id| &tokens[id as usize]))
            .map_err(|e| Error::Build(e.to_string()))?;
        Ok(Specials { finder, by_pattern, ids })
    }

    /// Start, end and token of each special token in `text`.
    fn find_iter(&self, text: &str) -> impl Iterator<Item = (usize, usize, TokenId)> {
        let found = self.finder.find_iter(text);
        found.map(|m| (m.start(), m.end(), self.by_pattern[m.pattern().as_usize()]))
    }

    /// The roles that end a text, and the tokens known by their text to do so, as llama.cpp
    /// collects them.
    fn end_of_generation(&self, special: &SpecialIds) -> Vec<TokenId> {
        let texts = END_TEXTS.iter().filter_map(|t| self.ids.get(*t).copied());
        let roles = [special.eos, special.eot, special.eom];
        let fim = [special.fim_pad, special.fim_rep, special.fim_sep];
        let mut all: Vec<_> = roles.into_iter().chain(fim).flatten().chain(texts).collect();
        // In the harmony format, `<|end|>` ends a message, not the turn.
        if let (Some(_), Some(_), Some(end)) =
            (self.ids.get("<|return|>"), self.ids.get("<|call|>"), self.ids.get("<|end|>"))
        {
            all.retain(|id| id != end);
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Texts of tokens that end generation in one family or another.
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
    "[EOS]",
    "[EOT]",
    // Fill in the middle: padding, next repository, next file.
    "<|fim_pad|>",
    "<fim_pad>",
    "<|repo_name|>",
    "<repo_name>",
    "<|file_sep|>",
    "<file_sep>",
];
