//! Which model a file holds, whatever the file is called and wherever it lies.
//!
//! The answer is a digest of the keys, of every tensor's name, shape and type, and of the first bytes of those weights that
//! every token needs. It costs the pages that these lie on, which opening reads anyway; experts are not touched. Two models
//! that differ in nothing else than experts, or behind those first bytes, would count as one.

use std::fmt::Write as _;

use gguf::{Gguf, Value};
use sha2::{Digest as _, Sha256};

/// Bytes of each tensor that count.
const HEAD_BYTES: usize = 64;

/// Places in each tensor that count for a fingerprint.
const N_PLACES: usize = 8;

/// Hexadecimal digits of an identity: 128 bits.
const N_DIGITS: usize = 32;

/// The identity of a model.
pub(crate) fn identity(gguf: &Gguf) -> String {
    let mut digest = Sha256::new();
    let mut add = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    for (key, value) in gguf.metadata().iter() {
        add(key.as_bytes());
        match value {
            Value::String(text) => add(text.as_bytes()),
            other => add(other.to_string().as_bytes()), // of long lists, the beginning and the length
        }
    }
    for t in gguf.tensors() {
        add(format!("{} {:?} {}", t.name, t.shape, t.element.name()).as_bytes());
        if !models::is_expert(&t.name) {
            let bytes = gguf.bytes(t);
            add(&bytes.as_ref()[..t.n_bytes().min(HEAD_BYTES)]);
        }
    }
    hexadecimal(&digest.finalize())
}

/// The identity of a model and of its very numbers, experts included, for what is computed with them: another quantisation
/// of it is another one. Looked at are some bytes in several places of every tensor, so bytes that changed between these
/// places, and nowhere else, are not seen.
pub(crate) fn fingerprint(gguf: &Gguf) -> String {
    let mut digest = Sha256::new();
    digest.update(identity(gguf));
    digest.update(gguf.file_bytes().to_le_bytes());
    for t in gguf.tensors() {
        let bytes = gguf.bytes(t);
        let bytes = bytes.as_ref();
        let last = bytes.len().saturating_sub(HEAD_BYTES);
        for place in 0..N_PLACES {
            let first = last / (N_PLACES - 1) * place;
            digest.update(&bytes[first..(first + HEAD_BYTES).min(bytes.len())]);
        }
    }
    hexadecimal(&digest.finalize())
}

fn hexadecimal(digest: &[u8]) -> String {
    let mut digits = String::new();
    digest.iter().take(N_DIGITS / 2).for_each(|byte| _ = write!(digits, "{byte:02x}"));
    digits
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use gguf::{Element, Writer};

    use super::*;

    fn identity_of(name: &str, key: &str, weight: f32, expert: f32, to: &Path) -> String {
        let mut writer = Writer::new();
        writer.set("general.name", key);
        for (name, weight) in [(name, weight), ("blk.0.ffn_up_exps.weight", expert)] {
            writer.tensor(name, &[1, 1], Element::from_id(0).expect("f32"), weight.to_le_bytes());
        }
        writer.write(to).unwrap_or_else(|e| panic!("{e}"));
        identity(&Gguf::open(to).unwrap_or_else(|e| panic!("{e}")))
    }

    #[test]
    fn a_model_is_known_by_what_it_is_and_not_by_its_path() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let [a, b] = ["a.gguf", "b.gguf"].map(|name| folder.path().join(name));
        let known = identity_of("norm", "model", 1.0, 1.0, &a);
        fs::rename(&a, &b).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(identity(&Gguf::open(&b).unwrap_or_else(|e| panic!("{e}"))), known);
        assert!(known.len() == N_DIGITS && known.bytes().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(identity_of("norm", "model", 2.0, 1.0, &a), known);
        assert_ne!(identity_of("norm", "other", 1.0, 1.0, &a), known);
        assert_ne!(identity_of("form", "model", 1.0, 1.0, &a), known);
        assert_eq!(identity_of("norm", "model", 1.0, 2.0, &a), known, "experts are not read for this");
        let fingerprint_of = |path: &Path| fingerprint(&Gguf::open(path).unwrap_or_else(|e| panic!("{e}")));
        assert_ne!(fingerprint_of(&a), fingerprint_of(&b), "experts count for what was computed with them");
        fs::copy(&b, &a).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(fingerprint_of(&a), fingerprint_of(&b));
    }
}
