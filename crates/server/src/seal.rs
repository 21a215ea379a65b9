//! Reasoning as a text that clients keep for us: they send it back without reading it, as a `signature` or as `encrypted_content`,
//! and the model sees what it thought, byte for byte, also after a restart.
//!
//! ```text
//! r1:KEY:CODE:reasoning      KEY   8 digits that tell which key made the code, not what it is
//!                            CODE  64 digits, BLAKE3 of the reasoning under the key
//! ```
//!
//! It is not hidden: whoever asks has seen the model's words anyway, or may. The code says that nobody changed them. What another
//! key or another server sealed is passed over, as if there were no seal: conversations move. What our own key cannot have sealed
//! is refused.

use std::fmt;

use subtle::ConstantTimeEq as _;

const BEGIN: &str = "r1:";
/// What the name of a key is derived for.
const NAME_CONTEXT: &str = "local inference server 2026 name of the key that seals reasoning";

/// Seals, and opens what it has sealed.
#[derive(Clone)]
pub(crate) struct Sealer {
    key: [u8; 32],
    /// What seals begin with.
    begin: String,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("begin", &self.begin).finish_non_exhaustive()
    }
}

/// Somebody changed what was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tampered;

impl Sealer {
    pub(crate) fn new(key: [u8; 32]) -> Sealer {
        let name = blake3::Hash::from_bytes(blake3::derive_key(NAME_CONTEXT, &key)).to_hex();
        Sealer { key, begin: format!("{BEGIN}{}:", &name[..8]) }
    }

    /// Seals a text.
    pub(crate) fn seal(&self, reasoning: &str) -> String {
        format!("{}{}:{reasoning}", self.begin, self.code(reasoning))
    }

    /// The text in a seal; none if others made it.
    ///
    /// # Errors
    /// It says that we made it, and we did not.
    pub(crate) fn open<'a>(&self, sealed: &'a str) -> Result<Option<&'a str>, Tampered> {
        let Some(rest) = sealed.strip_prefix(&self.begin) else { return Ok(None) };
        let (code, reasoning) = rest.split_once(':').ok_or(Tampered)?;
        let is_ours = bool::from(code.as_bytes().ct_eq(self.code(reasoning).as_bytes()));
        is_ours.then_some(Some(reasoning)).ok_or(Tampered)
    }

    fn code(&self, reasoning: &str) -> String {
        blake3::keyed_hash(&self.key, reasoning.as_bytes()).to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasoning_comes_back_out_of_its_seal_and_nothing_else_does() {
        let (ours, others) = (Sealer::new([1; 32]), Sealer::new([2; 32]));
        for text in ["", "why: so", "\n é\u{0}\n"] {
            assert_eq!(ours.open(&ours.seal(text)), Ok(Some(text)));
            assert_eq!(Sealer::new([1; 32]).open(&ours.seal(text)), Ok(Some(text)), "another run has the same key");
            assert_eq!(ours.open(&others.seal(text)), Ok(None));
        }
        for foreign in ["", "EqQBCgIYAhIkZ", "text:why", "r1:", "r2:00000000:x:why"] {
            assert_eq!(ours.open(foreign), Ok(None), "{foreign}");
        }
        let sealed = ours.seal("why");
        for changed in
            [format!("{sealed}."), sealed.replace("why", "who"), sealed[..20].to_owned(), sealed.replacen(":", ":x", 1)]
        {
            assert_ne!(ours.open(&changed), Ok(Some("why")), "{changed}");
        }
        assert_eq!(ours.open(&sealed.replace("why", "who")), Err(Tampered));
        assert_eq!(ours.open(&sealed[..20]), Err(Tampered));
    }
}
