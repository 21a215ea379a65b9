//! Tokens for a prompt whose beginning is known as tokens.
//!
//! Clients send a conversation back as text. The tokens that a model sampled for an answer need not be those that its text
//! gives, and one that differs makes everything behind it unknown. So a text that known tokens spell is these tokens, whole
//! texts between two markers first; where the known tokens end, the rest of a text follows.
//!
//! Known are the tokens of a session, and those of pieces that were kept, which are followed from block to block as long as
//! they spell the prompt.

use kv::{Kind, Name, Store};
use models::Part;
use tokenizer::{Special, TokenId, TokenType, Tokenizer};

/// How far known tokens spell a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seam {
    /// How many of them.
    pub(crate) n_tokens: usize,
    /// The part that comes next, and how many of its bytes are spelled already.
    part: usize,
    byte: usize,
}

impl Seam {
    /// Nothing is spelled.
    const START: Seam = Seam { n_tokens: 0, part: 0, byte: 0 };

    /// What of `parts` is behind it.
    pub(crate) fn rest(&self, parts: &[Part]) -> Vec<Part> {
        let rest = parts[self.part..].iter().enumerate().map(|(i, part)| match part {
            Part::Text(text) if i == 0 => Part::Text(text[self.byte..].into()),
            whole => whole.clone(),
        });
        rest.filter(|part| !part.as_str().is_empty()).collect()
    }
}

/// A prompt, and the vocabulary in which it is spelled.
pub(crate) struct Speller<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) parts: &'a [Part],
}

impl Speller<'_> {
    /// How far `known` spells the prompt: up to the end of a part, and to its own end if that is in a part.
    pub(crate) fn seams(&self, known: &[TokenId]) -> [Seam; 2] {
        self.seams_from(known, Seam::START)
    }

    /// Whether tokens spell the prompt, and nothing else.
    pub(crate) fn is_spelled(&self, ids: &[TokenId]) -> bool {
        let [_, seam] = self.seams(ids);
        seam.n_tokens == ids.len() && seam.rest(self.parts).is_empty()
    }

    /// The same as [`Self::seams`] where it is known to spell what is before `start`, which is between two parts.
    fn seams_from(&self, known: &[TokenId], start: Seam) -> [Seam; 2] {
        let mut here = start;
        while let Some(part) = self.parts.get(here.part) {
            let rest = &known[here.n_tokens..];
            let n_run = match part {
                Part::Marker(marker) => match (self.tokenizer.encode(marker, Special::Parse).as_slice(), rest) {
                    (&[id], &[next, ..]) if id == next => 1,
                    _ => break,
                },
                Part::Text(text) => {
                    let n_run = rest.iter().position(|&id| self.is_marker(id)).unwrap_or(rest.len());
                    let spelled = self.tokenizer.decode(&rest[..n_run]);
                    if n_run == rest.len() && text.starts_with(&spelled) {
                        return [here, Seam { n_tokens: known.len(), byte: spelled.len(), ..here }];
                    }
                    if spelled != *text {
                        break;
                    }
                    n_run
                }
            };
            here = Seam { n_tokens: here.n_tokens + n_run, part: here.part + 1, byte: 0 };
        }
        [here, here]
    }

    fn is_marker(&self, id: TokenId) -> bool {
        let kind = self.tokenizer.type_of(id);
        matches!(kind, Some(TokenType::Control | TokenType::UserDefined | TokenType::Unknown))
    }

    /// The longest list of tokens in a store that spells the prompt's beginning.
    pub(crate) fn kept(&self, store: &Store) -> Vec<TokenId> {
        let mut longest = Vec::new();
        self.follow(store, store.root(), &[], Seam::START, &mut longest);
        longest
    }

    /// Looks for a longer one behind a prefix, whose tokens spell the beginning, and the parts before `start` as a whole.
    fn follow(&self, store: &Store, prefix: Name, before: &[TokenId], start: Seam, longest: &mut Vec<TokenId>) {
        for (name, kind, ids) in store.behind(&prefix) {
            let known = [before, &ids].concat();
            let [whole, seam] = self.seams_from(&known, start);
            if seam.n_tokens < known.len() {
                continue;
            }
            if known.len() > longest.len() {
                longest.clone_from(&known);
            }
            if kind == Kind::Rows {
                self.follow(store, name, &known, whole, longest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokenizer::{Model, SpecialIds, Vocab};

    use super::*;

    /// Every byte, some pieces and two markers.
    fn tokenizer() -> Tokenizer {
        let bytes = (0..256).map(|b| format!("<0x{b:02X}>"));
        let tokens: Vec<String> = bytes.chain(["ab", "cd", "abcd", "<u>", "<a>"].map(String::from)).collect();
        let vocab = Vocab {
            model: Model::Llama,
            pre: None,
            scores: vec![0.0; tokens.len()],
            types: [vec![6; 256], vec![1; 3], vec![3; 2]].concat(),
            tokens,
            merges: vec![],
            special: SpecialIds::default(),
            add_bos: Some(false),
            add_space_prefix: Some(false),
            chat_template: None,
        };
        Tokenizer::from_vocab(vocab).unwrap_or_else(|e| panic!("{e}"))
    }

    const AB: TokenId = 256;
    const CD: TokenId = 257;
    const ABCD: TokenId = 258;
    const U: TokenId = 259;
    const A: TokenId = 260;

    fn parts(texts: &[&str]) -> Vec<Part> {
        let part = |text: &&str| match text.starts_with('<') {
            true => Part::Marker(text.to_string()),
            false => Part::Text(text.to_string()),
        };
        texts.iter().map(part).collect()
    }

    #[test]
    fn known_tokens_are_followed_as_long_as_they_spell_the_prompt() {
        let (tokenizer, parts) = (&tokenizer(), &parts(&["<u>", "abcd", "<a>", "cdab", "<u>", "x"]));
        let speller = Speller { tokenizer, parts };
        let a = u32::from(b'a');
        for (known, n_tokens, rest) in [
            (&[U, AB, CD, A, CD, AB, U, 120][..], 8, &[][..]),
            (&[U, ABCD, A, CD, a, 98], 6, &["<u>", "x"]),
            (&[U, AB, CD, A, CD, a], 6, &["b", "<u>", "x"]),
            (&[U, AB, CD, A, CD, CD, U], 4, &["cdab", "<u>", "x"]),
            (&[U, AB, CD, A, CD, U], 4, &["cdab", "<u>", "x"]),
            (&[U, AB, CD, U], 3, &["<a>", "cdab", "<u>", "x"]),
            (&[U, AB, CD, A, CD, AB, 0xc3], 4, &["cdab", "<u>", "x"]), // half a character
            (&[AB], 0, &["<u>", "abcd", "<a>", "cdab", "<u>", "x"]),
            (&[], 0, &["<u>", "abcd", "<a>", "cdab", "<u>", "x"]),
        ] {
            let [_, seam] = speller.seams(known);
            assert_eq!(seam.n_tokens, n_tokens, "{known:?}");
            assert_eq!(seam.rest(parts), self::parts(rest), "{known:?}");
        }
    }

    #[test]
    fn a_text_that_spells_a_marker_is_none() {
        let (tokenizer, parts) = (&tokenizer(), &[Part::Text("<u>".into())]);
        assert_eq!(Speller { tokenizer, parts }.seams(&[U])[1].n_tokens, 0);
        let spelled = b"<u>".map(TokenId::from);
        assert!(Speller { tokenizer, parts }.is_spelled(&spelled));
    }
}
