//! Bytes of tokens, and text from tokens in whole characters.

use std::sync::Arc;

use crate::{Model, TokenId, TokenType, alphabet, spm};

/// The bytes of every token, side by side, and the types.
pub(crate) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    types: Vec<TokenType>,
    /// Whether encoding put a space in front of plain text that decoding takes away again.
    space_prefix: bool,
}

impl Pieces {
    pub(crate) fn new(model: Model, tokens: &[String], types: Vec<TokenType>, space_prefix: bool) -> Pieces {
        let mut bytes = Vec::with_capacity(tokens.iter().map(String::len).sum());
        let mut ends = Vec::with_capacity(tokens.len());
        for (token, kind) in tokens.iter().zip(&types) {
            match (model, kind) {
                (Model::Gpt2, TokenType::Normal) => push_spelled(&mut bytes, token),
                (Model::Llama, TokenType::Normal) => {
                    bytes.extend(token.replace(spm::SPACE, " ").bytes());
                }
                (Model::Llama, TokenType::Byte) => bytes.extend(spm::byte_of(token)),
                _ => bytes.extend(token.bytes()),
            }
            // Fits: `Vocab::check` has bounded the bytes of all tokens, and none grow here.
            ends.push(bytes.len() as u32);
        }
        Pieces { bytes, ends, types, space_prefix }
    }

    pub(crate) fn n_vocab(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of `id`; none if there is no such token.
    pub(crate) fn bytes_of(&self, id: TokenId) -> &[u8] {
        let i = id as usize;
        let Some(&end) = self.ends.get(i) else {
            return &[];
        };
        let start = i.checked_sub(1).map_or(0, |i| self.ends[i]);
        &self.bytes[start as usize..end as usize]
    }

    pub(crate) fn type_of(&self, id: TokenId) -> Option<TokenType> {
        self.types.get(id as usize).copied()
    }
}

/// Bytes of a piece in the byte alphabet; characters outside it stand for themselves.
fn push_spelled(bytes: &mut Vec<u8>, token: &str) {
    for c in token.chars() {
        match alphabet::byte(c) {
            Some(b) => bytes.push(b),
            None => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
}

/// Turns ids into text as they come, in whole characters: the bytes of one that is not yet
/// complete wait for the next id. What is not UTF-8 becomes U+FFFD. However the ids are cut into
/// calls, the text is the same.
///
/// Control tokens, and the unknown and unused ones, are hidden unless
/// [`show_control`](Decoder::show_control) asks for them.
pub struct Decoder {
    pieces: Arc<Pieces>,
    show_control: bool,
    /// Whether a space in front of the next piece is the one that encoding put there.
    at_start: bool,
    pending: Vec<u8>,
}

impl Decoder {
    pub(crate) fn new(pieces: Arc<Pieces>) -> Decoder {
        Decoder { at_start: pieces.space_prefix, show_control: false, pending: Vec::new(), pieces }
    }

    /// Writes control tokens, such as `<|im_end|>`, into the text.
    pub fn show_control(mut self) -> Decoder {
        self.show_control = true;
        self
    }

    /// The ids to come go on in the middle of a text, so that a space in front of the first one
    /// belongs to it. Matters to vocabularies with a space prefix only.
    pub fn continuing(mut self) -> Decoder {
        self.at_start = false;
        self
    }

    /// The characters that `id` completes.
    pub fn push(&mut self, id: TokenId) -> String {
        let mut out = String::new();
        self.push_to(id, &mut out);
        out
    }

    /// [`push`](Decoder::push), appending to `out`.
    pub fn push_to(&mut self, id: TokenId, out: &mut String) {
        let mut bytes = self.pieces.bytes_of(id);
        match self.pieces.type_of(id) {
            Some(TokenType::Normal | TokenType::Byte) => {
                if std::mem::take(&mut self.at_start) {
                    bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
                }
            }
            Some(TokenType::UserDefined) => self.at_start = self.pieces.space_prefix,
            Some(_) | None => {
                self.at_start = self.pieces.space_prefix;
                if !self.show_control {
                    return;
                }
            }
        }
        self.pending.extend(bytes);
        let n = push_whole(&self.pending, out);
        self.pending.drain(..n);
    }

    /// Whether no character has been begun.
    pub fn is_whole(&self) -> bool {
        self.pending.is_empty()
    }

    /// What is left: U+FFFD if the last character never became complete.
    pub fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// Appends the whole characters at the front of `bytes`, and U+FFFD for what cannot become one.
/// Returns how many bytes that took; the rest may be the start of a character.
fn push_whole(bytes: &[u8], out: &mut String) -> usize {
    let mut n = 0;
    loop {
        let error = match std::str::from_utf8(&bytes[n..]) {
            Ok(text) => {
                out.push_str(text);
                return bytes.len();
            }
            Err(error) => error,
        };
        let valid = &bytes[n..n + error.valid_up_to()];
        // Decodes without loss, being the part that was found valid.
        out.push_str(&String::from_utf8_lossy(valid));
        n += valid.len();
        match error.error_len() {
            Some(bad) => {
                out.push(char::REPLACEMENT_CHARACTER);
                n += bad;
            }
            None => return n,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_characters_only() {
        for (bytes, text, taken) in [
            (&b"abc"[..], "abc", 3),
            (b"a\xE6\x97", "a", 1),
            (b"\xE6\x97\xA5!", "日!", 4),
            (b"\xE6!\xF0\x9F", "\u{FFFD}!", 2),
            (b"\xFF\x80a", "\u{FFFD}\u{FFFD}a", 3),
        ] {
            let mut out = String::new();
            assert_eq!(push_whole(bytes, &mut out), taken, "{bytes:?}");
            assert_eq!(out, text, "{bytes:?}");
        }
    }
}
