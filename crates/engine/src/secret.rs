//! A secret of a server, made once and kept for its next runs: 64 hexadecimal digits in a file that its owner alone can read.

use std::{io, path::Path};

use crate::{Error, folder::Folder};

const NAME: &str = "reasoning.key";
const BYTES_MAX: u64 = 65;

/// The key that is kept in a folder, for whoever may read its files; if there is none yet, `fresh`, which is then.
///
/// # Errors
/// [`Error::Key`] with what the system says, or that the file holds no key.
pub fn kept_key(dir: &Path, fresh: [u8; 32]) -> Result<[u8; 32], Error> {
    let folder = Folder::new(dir);
    find_or_keep(&folder, fresh).map_err(|source| Error::Key { path: folder.path(NAME), source })
}

fn find_or_keep(folder: &Folder, fresh: [u8; 32]) -> io::Result<[u8; 32]> {
    if let Some(bytes) = folder.read(NAME, BYTES_MAX)? {
        return parse(&bytes);
    }
    let mut key = fresh;
    folder.update(NAME, BYTES_MAX, |old| {
        key = old?.map_or(Ok(fresh), |bytes| parse(&bytes))?; // another run may have been faster
        Ok::<_, io::Error>(key.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n")
    })?;
    Ok(key)
}

fn parse(bytes: &[u8]) -> io::Result<[u8; 32]> {
    let digits = bytes.trim_ascii_end();
    let digit = |i: usize| char::from(*digits.get(i)?).to_digit(16);
    let byte = |i: usize| Some((16 * digit(2 * i)? + digit(2 * i + 1)?) as u8);
    let key = (0..32).map(byte).collect::<Option<Vec<u8>>>().and_then(|bytes| bytes.try_into().ok());
    key.filter(|_| digits.len() == 64).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "is no key"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_is_made_once() {
        let root = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let dir = root.path().join("kv");
        for fresh in [[7; 32], [9; 32]] {
            assert_eq!(kept_key(&dir, fresh).unwrap_or_else(|e| panic!("{e}")), [7; 32]);
        }
    }

    #[test]
    fn what_is_no_key_is_named_and_left_alone() {
        let root = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = root.path().join(NAME);
        for damaged in ["07", &"07".repeat(33), &"0g".repeat(32), &"+7".repeat(32)] {
            fs::write(&path, damaged).unwrap_or_else(|e| panic!("{e}"));
            let error = kept_key(root.path(), [9; 32]).expect_err("it is no key");
            assert!(error.to_string().starts_with(&format!("{}: is ", path.display())), "{error}");
            assert!(error.hint().contains("remove it"), "{}", error.hint());
            assert_eq!(fs::read(&path).ok().as_deref(), Some(damaged.as_bytes()));
        }
    }
}
