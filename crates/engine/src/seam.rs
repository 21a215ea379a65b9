//! Tokens for a prompt whose beginning is known as tokens.
//!
//! Clients send a conversation back as text. The tokens that a model sampled for an answer need not be those that its text
//! gives, and one that differs makes everything behind it unknown. So a text that known tokens spell is these tokens, whole
//! texts between two markers first; where the known tokens end, the rest of a text follows.

use models::Part;
use tokenizer::{Special, TokenId, TokenType, Tokenizer};

/// How far known tokens spell a prompt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seam {
    /// How many of them.
    pub(crate) n_tokens: usize,
    /// The part that comes next, and how many of its bytes are spelled already.
    pub(crate) part: usize,
    pub(crate) byte: usize,
}

/// How far `known` spells `parts`: up to the end of a part, or to its own end.
pub(crate) fn seam(tokenizer: &Tokenizer, parts: &[Part], known: &[TokenId]) -> Seam {
    let is_marker = |id: &TokenId| {
        matches!(tokenizer.type_of(*id), Some(TokenType::Control | TokenType::UserDefined | TokenType::Unknown))
    };
    let mut n_tokens = 0;
    for (i, part) in parts.iter().enumerate() {
        let rest = &known[n_tokens..];
        let here = Seam { n_tokens, part: i, byte: 0 };
        match part {
            Part::Marker(marker) => match (tokenizer.encode(marker, Special::Parse).as_slice(), rest) {
                (&[id], &[next, ..]) if id == next => n_tokens += 1,
                _ => return here,
            },
            Part::Text(text) => {
                let n_run = rest.iter().position(is_marker).unwrap_or(rest.len());
                let spelled = tokenizer.decode(&rest[..n_run]);
                if n_run == rest.len() && text.starts_with(&spelled) {
                    return Seam { n_tokens: known.len(), part: i, byte: spelled.len() };
                }
                if spelled != *text {
                    return here;
                }
                n_tokens += n_run;
            }
        }
    }
    Seam { n_tokens, part: parts.len(), byte: 0 }
}

/// What of `parts` is behind a seam.
pub(crate) fn behind(parts: &[Part], seam: &Seam) -> Vec<Part> {
    let mut rest = parts[seam.part..].to_vec();
    if let Some(Part::Text(text)) = rest.first_mut().filter(|_| seam.byte > 0) {
        text.drain(..seam.byte);
    }
    rest
}
