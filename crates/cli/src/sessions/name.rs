//! Names of conversations: safe as names of files, and as words to type.

use std::{fmt, str::FromStr};

const LETTERS_MAX: usize = 64;

/// 1 to 64 of `A-Z a-z 0-9 - _ .`, of which the first is no dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionName(String);

impl FromStr for SessionName {
    type Err = String;

    fn from_str(text: &str) -> Result<SessionName, String> {
        let is_allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        let is_name = (1..=LETTERS_MAX).contains(&text.len()) && text.bytes().all(is_allowed) && !text.starts_with('.');
        is_name.then(|| SessionName(text.into())).ok_or_else(|| {
            format!("a name is 1 to {LETTERS_MAX} letters, digits, '-', '_' or '.', and begins with no dot")
        })
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_no_other_folder() {
        for name in ["a", "Work-2026_11.28", &"x".repeat(64)] {
            assert_eq!(name.parse::<SessionName>().map(|n| n.to_string()), Ok(name.into()));
        }
        for wrong in ["", ".", "..", ".a", "a/b", "a\\b", "a b", "é", "a\0", "a\n", &"x".repeat(65)] {
            assert!(wrong.parse::<SessionName>().is_err(), "{wrong:?}");
        }
    }
}
