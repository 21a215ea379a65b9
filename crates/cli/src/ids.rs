//! Token ids in files and on the command line.
//!
//! Two forms are told apart by their bytes. Text without control characters: decimal numbers with white space, commas
//! and the brackets of a JSON array between them, so that what `ds4 tokenize --ids` prints is one. Otherwise raw:
//! little-endian u32, four bytes each. Raw ids that happen to be text would all be above 150 million.

use tokenizer::TokenId;

use crate::error::Error;

/// The ids in `bytes`, and the form they were found in. `from` is what messages call their origin.
///
/// # Errors
/// [`Error::Tokens`].
pub(crate) fn parse(bytes: &[u8], from: &str) -> Result<(Vec<TokenId>, &'static str), Error> {
    let fails = |problem: String| Error::Tokens { from: from.into(), problem };
    let printable = |text: &str| text.chars().all(|c| !c.is_control() || c.is_ascii_whitespace());
    let (ids, form) = match std::str::from_utf8(bytes) {
        Ok(text) if printable(text) => (decimal(text).map_err(fails)?, "decimal text"),
        _ => (raw(bytes).map_err(fails)?, "raw u32"),
    };
    match ids.is_empty() {
        true => Err(fails("there are no token ids".into())),
        false => Ok((ids, form)),
    }
}

fn decimal(text: &str) -> Result<Vec<TokenId>, String> {
    let between = |c: char| c.is_ascii_whitespace() || ",[]".contains(c);
    let words = text.split(between).filter(|word| !word.is_empty());
    let id = |(i, word): (usize, &str)| {
        if !word.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("id {i} is no whole number: {}", shorten(word)));
        }
        word.parse().map_err(|_| format!("id {i} is {}, more than a u32 holds", shorten(word)))
    };
    words.enumerate().map(id).collect()
}

/// A word that may be a whole file.
fn shorten(word: &str) -> String {
    match word.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &word[..end]),
        None => word.into(),
    }
}

fn raw(bytes: &[u8]) -> Result<Vec<TokenId>, String> {
    let (ids, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(format!("{} bytes are neither decimal ids nor whole u32", bytes.len()));
    }
    Ok(ids.iter().map(|id| TokenId::from_le_bytes(*id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expect: Result<(&[TokenId], &str), &str>) {
        let found = parse(bytes, "f").map_err(|e| e.to_string());
        match (&found, expect) {
            (Ok((ids, form)), Ok(expect)) => assert_eq!((&ids[..], *form), expect),
            (Err(e), Err(expect)) => assert_eq!(e, expect),
            _ => panic!("{found:?}, not {expect:?}"),
        }
    }

    #[test]
    fn both_forms_are_known_by_their_bytes() {
        check(b"0 219\n3", Ok((&[0, 219, 3], "decimal text")));
        check(b"[0, 219,3]\n", Ok((&[0, 219, 3], "decimal text")));
        check(&[1, 0, 0, 0, 0, 1, 0, 0], Ok((&[1, 256], "raw u32")));
        check(b"4294967295", Ok((&[u32::MAX], "decimal text")));
    }

    #[test]
    fn what_is_neither_is_refused() {
        check(b"", Err("f: there are no token ids"));
        check(b" []", Err("f: there are no token ids"));
        check(b"1 4294967296", Err("f: id 1 is 4294967296, more than a u32 holds"));
        check(&[1, 0, 0, 0, 0], Err("f: 5 bytes are neither decimal ids nor whole u32"));
        check(b"1,2,abc", Err("f: id 2 is no whole number: abc"));
        check(b"-1 -2 -3", Err("f: id 0 is no whole number: -1"));
        check(&[b'x'; 1000], Err(&format!("f: id 0 is no whole number: {}…", "x".repeat(40))));
    }
}
