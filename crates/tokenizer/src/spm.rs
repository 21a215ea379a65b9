//! SentencePiece BPE (`llama`): merges from scores, spaces as U+2581, bytes as tokens.

use std::collections::HashMap;

use crate::{Error, TokenId, TokenType, error::shorten};

/// How pieces spell a space.
pub(crate) const SPACE: &str = "\u{2581}";

/// Longest piece whose halves are all tried. Real ones stay below 100; the time that a bad file
/// can cost grows with the square.
const PIECE_BYTES_MAX: usize = 1024;

/// The byte that a token spelled `<0x41>` stands for.
pub(crate) fn byte_of(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let digits = hex.len() == 2 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    digits.then(|| u8::from_str_radix(hex, 16).ok())?
}

/// Checks that every byte has its token, so that all text can be written.
pub(crate) fn check_bytes(tokens: &[String], types: &[TokenType]) -> Result<(), Error> {
    let mut found = [false; 256];
    for (id, (token, _)) in (0..).zip(tokens.iter().zip(types)).filter(|(_, (_, t))| **t == TokenType::Byte) {
        let byte = byte_of(token).ok_or_else(|| Error::ByteToken { id, text: shorten(token) })?;
        found[byte as usize] = true;
    }
    match found.iter().position(|f| !f) {
        Some(byte) => Err(Error::MissingByte { byte: byte as u8 }),
        None => Ok(()),
    }
}

/// Every way to make a piece out of two, best first: by the score of the result; between equals,
/// the longer left half, then the longer right one, as Hugging Face's conversion has it
/// (`generate_merges`). SentencePiece picks the leftmost of equals; no text is known where that
/// makes a difference.
///
/// # Errors
/// [`Error::TooLong`].
///
/// # Panics
/// If there is not a score for each token.
pub fn merges_by_score(
    pieces: &HashMap<&str, TokenId>,
    tokens: &[String],
    scores: &[f32],
) -> Result<Vec<(String, String)>, Error> {
    let mut found = Vec::new();
    for (id, token) in (0..).zip(tokens) {
        if pieces.get(token.as_str()) != Some(&id) {
            continue;
        }
        if token.len() > PIECE_BYTES_MAX {
            let bytes = token.len();
            return Err(Error::TooLong { id, bytes, bytes_max: PIECE_BYTES_MAX });
        }
        let n_chars = token.chars().count();
        for (left_chars, (cut, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(cut);
            if pieces.contains_key(left) && pieces.contains_key(right) {
                let right_chars = n_chars - left_chars;
                found.push(Half { id, cut, left_chars, right_chars });
            }
        }
    }
    // Stable, so that what is equal in all of this keeps the order of ids.
    found.sort_by(|a, b| {
        // The sum makes -0 into 0, which `total_cmp` would tell apart.
        let score = |x: &Half| scores[x.id as usize] + 0.0;
        score(b).total_cmp(&score(a)).then((b.left_chars, b.right_chars).cmp(&(a.left_chars, a.right_chars)))
    });
    Ok(found
        .into_iter()
        .map(|half| {
            let (left, right) = tokens[half.id as usize].split_at(half.cut);
            (left.to_string(), right.to_string())
        })
        .collect())
}

/// A piece, cut in two.
struct Half {
    id: TokenId,
    cut: usize,
    left_chars: usize,
    right_chars: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_tokens_are_two_upper_case_digits() {
        assert_eq!(["<0x00>", "<0x7F>", "<0xFF>"].map(byte_of), [Some(0), Some(127), Some(255)]);
        for bad in ["<0x-1>", "<0xZZ>", "<0x1FF>", "<0xff>", "<0x+1>", "<0x1>", "0x41", ""] {
            assert_eq!(byte_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn merges_are_ranked_by_the_score_of_what_they_make() {
        let tokens = ["a", "b", "ab", "ba", "aba", "x\u{2581}"].map(String::from);
        let pieces = (0..).zip(&tokens).map(|(id, t)| (t.as_str(), id)).collect();
        let merges = merges_by_score(&pieces, &tokens, &[0.0, 0.0, -2.0, -1.0, -3.0, 0.0]).unwrap();
        let merges: Vec<_> = merges.iter().map(|(l, r)| format!("{l} {r}")).collect();
        assert_eq!(merges, ["b a", "a b", "ab a", "a ba"]);
    }
}
