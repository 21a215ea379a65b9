//! Names of token prefixes: hashes in a chain, so that whoever has the same tokens finds the same pieces.
//!
//! ```text
//! root               BLAKE3(model, layout)
//! block 0            BLAKE3("rows", root, 256 ids)
//! block 1            BLAKE3("rows", block 0, 256 ids)
//! tail behind it     BLAKE3("tail", block 1, 0 to 255 ids)
//! ```
//!
//! The name of a block is the name of the prefix that ends with it, and of the piece with its rows. Two prefixes with one
//! name would take 2^128 tries to find, so a name is as good as the tokens.

use std::fmt;

use crate::Kind;

/// The name of a token prefix and of the piece that ends it: 32 bytes, `{}` is their 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub(crate) [u8; Name::BYTES]);

impl Name {
    pub(crate) const BYTES: usize = 32;

    /// The name of the empty prefix: of a model, and of how its memory is laid out in pieces.
    pub fn root(model: &[u8], layout: &[u8]) -> Name {
        let mut hash = blake3::Hasher::new_derive_key("kv 1 root");
        for part in [model, layout] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Name(*hash.finalize().as_bytes())
    }

    /// The name of this prefix and the block behind it, and of the piece with the block's rows.
    pub fn then(&self, block: &[u32]) -> Name {
        self.hash("kv 1 rows", block)
    }

    /// The name of the tail behind this prefix with these tokens.
    pub fn tail(&self, ids: &[u32]) -> Name {
        self.hash("kv 1 tail", ids)
    }

    pub(crate) fn of(kind: Kind, parent: &Name, ids: &[u32]) -> Name {
        match kind {
            Kind::Rows => parent.then(ids),
            Kind::Tail => parent.tail(ids),
        }
    }

    /// The name that is written as 64 hexadecimal digits, in lower case.
    pub fn parse(digits: &str) -> Option<Name> {
        let digits: &[u8; 2 * Name::BYTES] = digits.as_bytes().try_into().ok()?;
        let mut bytes = [0; Name::BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Name(bytes))
    }

    fn hash(&self, what: &str, ids: &[u32]) -> Name {
        let mut hash = blake3::Hasher::new_derive_key(what);
        hash.update(&self.0);
        ids.iter().for_each(|id| _ = hash.update(&id.to_le_bytes()));
        Name(*hash.finalize().as_bytes())
    }
}

fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_differ_by_all_that_they_name() {
        let root = Name::root(b"model", b"1");
        let names = [
            root,
            Name::root(b"model1", b""),
            Name::root(b"model", b"2"),
            root.then(&[]),
            root.tail(&[]),
            root.then(&[1, 2]),
            root.tail(&[1, 2]),
            root.then(&[2, 1]),
            root.then(&[1]).then(&[2]),
            root.then(&[1]).tail(&[2]),
            Name::root(b"model", b"2").then(&[1, 2]),
        ];
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let name = Name::root(b"model", b"1");
        let digits = name.to_string();
        assert_eq!(Name::parse(&digits), Some(name));
        for wrong in
            ["", &digits[1..], &digits.to_uppercase(), &digits.replace(&digits[..1], "g"), &format!("{digits}0")]
        {
            assert_eq!(Name::parse(wrong), None, "{wrong}");
        }
    }
}
