//! What people do with a folder of pieces: list it, check it, remove from it. No model is needed for that.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
};

use crate::{
    Kind, Name, Refused,
    file::{self, Head, INTRO_BYTES},
    folder::{LOCK, name_of},
    heat::Heat,
    outside::{Machine, Outside as _},
};

/// Why a folder cannot be listed or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system says no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A store of another process writes to the folder.
    #[error("{}: another process writes there", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

impl Error {
    /// What to do about it, if that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::Io { .. } => None,
            Error::InUse { .. } => Some("end it, and try again"),
        }
    }
}

/// A file of a folder of pieces.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The file.
    pub path: PathBuf,
    /// Its name, by its file's.
    pub name: Name,
    /// Its bytes.
    pub n_bytes: u64,
    /// What its head says, or why that is not to be trusted.
    pub about: Result<About, Refused>,
}

/// What a piece's head says.
#[derive(Clone, Debug)]
pub struct About {
    /// What the piece is needed for.
    pub kind: Kind,
    /// The prefix that it hangs from.
    pub parent: Name,
    /// Tokens from the beginning to its end.
    pub n_tokens: usize,
    /// The name of the empty prefix, which tells models and layouts apart.
    pub root: Name,
    /// The model's name for people.
    pub model: String,
    /// Milliseconds since it was made.
    pub age_ms: u64,
    /// Milliseconds since it was used, at least.
    pub unused_ms: u64,
    /// Its uses, of which each counts half of what it did six hours before.
    pub heat: f64,
}

/// Whether a folder is one of pieces: a store has written there.
///
/// # Errors
/// [`Error::Io`].
pub fn is_store(dir: &Path) -> Result<bool, Error> {
    let files = Machine.list(dir).map_err(|source| Error::Io { path: dir.to_owned(), source })?;
    Ok(files.iter().any(|file| file.is_file && (file.file_name == LOCK || name_of(&file.file_name).is_some())))
}

/// What is in a folder of pieces, those of the longest prefixes last, and what hangs from a piece behind it.
///
/// # Errors
/// [`Error::Io`].
pub fn list(dir: &Path) -> Result<Vec<Listed>, Error> {
    let files = Machine.list(dir).map_err(|source| Error::Io { path: dir.to_owned(), source })?;
    let mut all = Vec::new();
    for file in files.into_iter().filter(|file| file.is_file) {
        let Some(name) = name_of(&file.file_name) else { continue };
        let path = dir.join(&file.file_name);
        let (intro, n_bytes) = match Machine.read(&path, INTRO_BYTES as u64) {
            // Somebody has removed it meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            read => read.map_err(|source| Error::Io { path: path.clone(), source })?,
        };
        let about = Head::read(&intro, n_bytes, &name).map(|head| about(head, Heat::of_file(file.modified_ms)));
        all.push(Listed { path, name, n_bytes, about });
    }
    all.sort_by_key(place);
    Ok(all)
}

/// Where it is in a list. A tail without tokens of its own ends where the rows do that it hangs from.
fn place(listed: &Listed) -> (usize, bool, Name) {
    let (n_tokens, is_tail) = listed.about.as_ref().map_or((0, false), |a| (a.n_tokens, a.kind == Kind::Tail));
    (n_tokens, is_tail, listed.name)
}

fn about(head: Head, heat: Heat) -> About {
    let now_ms = Machine.now_ms();
    About {
        kind: head.kind,
        parent: head.parent,
        n_tokens: head.n_tokens as usize,
        root: head.root,
        model: head.model,
        age_ms: now_ms.saturating_sub(head.created_ms),
        unused_ms: now_ms.saturating_sub(heat.modified_ms()),
        heat: heat.at(now_ms),
    }
}

/// Reads a file in full. Why nothing of it would be used, if so.
///
/// # Errors
/// [`Error::Io`].
pub fn verify(listed: &Listed) -> Result<Result<(), Refused>, Error> {
    let read = Machine.read(&listed.path, u64::MAX);
    let (bytes, _) = read.map_err(|source| Error::Io { path: listed.path.clone(), source })?;
    Ok(file::read(bytes, &listed.name).map(|_| ()))
}

/// Removes what is `chosen`, and all that hangs from it and would be of no use. What was removed.
///
/// # Errors
/// [`Error::InUse`], and then nothing was removed; [`Error::Io`].
pub fn remove(dir: &Path, chosen: impl Fn(&Listed) -> bool) -> Result<Vec<Listed>, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| Error::Io { path, source }
    };
    let lock = Machine.lock(&dir.join(LOCK)).map_err(failed(dir))?;
    let Some(_lock) = lock else { return Err(Error::InUse { path: dir.to_owned() }) };
    let mut gone = HashSet::new();
    let mut removed = list(dir)?;
    // Parents come before what hangs from them, and go after it.
    removed.retain(|listed| {
        let hangs = listed.about.as_ref().is_ok_and(|about| gone.contains(&about.parent));
        (hangs || chosen(listed)) && gone.insert(listed.name)
    });
    for listed in removed.iter().rev() {
        Machine.remove(&listed.path).map_err(failed(&listed.path))?;
    }
    Machine.sync(dir).map_err(failed(dir))?;
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{BLOCK, Lasting, Options, Piece, Store};

    /// A folder with a block, two that hang from it, and a tail behind one of these.
    fn folder() -> (tempfile::TempDir, [Name; 4]) {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let root = Name::root(b"model", b"1");
        let a = root.then(&[0; BLOCK]);
        let mut pieces = [
            Piece::rows(root, BLOCK, &[0; BLOCK]),
            Piece::rows(a, 2 * BLOCK, &[1; BLOCK]),
            Piece::rows(a, 2 * BLOCK, &[2; BLOCK]),
            Piece::tail(a.then(&[1; BLOCK]), 2 * BLOCK + 1, &[3]),
        ];
        pieces.iter_mut().for_each(|piece| piece.push("u8", 1, 3, &[1, 2, 3]));
        let store = open(dir.path(), root);
        pieces.iter().for_each(|piece| store.keep(piece.clone(), Lasting::Soon));
        drop(store);
        (dir, pieces.map(|piece| piece.name()))
    }

    fn open(dir: &Path, root: Name) -> Store {
        let (ram_bytes, disk_bytes, written_bytes_per_day) = (1 << 20, 1 << 20, 1 << 20);
        let (dir, model, warn) = (Some(dir.to_owned()), "a model".into(), |line: &str| panic!("{line}"));
        Store::open(
            root,
            Options { dir, model, ram_bytes, disk_bytes, written_bytes_per_day, written_today_bytes: 0, warn },
        )
    }

    fn names(dir: &Path) -> HashSet<Name> {
        list(dir).unwrap_or_else(|e| panic!("{e}")).iter().map(|listed| listed.name).collect()
    }

    #[test]
    fn a_folder_is_listed_without_a_model() {
        let (dir, names) = folder();
        let all = list(dir.path()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(all.iter().map(|listed| listed.name).collect::<HashSet<_>>(), HashSet::from(names));
        let last = all.last().and_then(|listed| listed.about.clone().ok()).expect("a tail");
        assert_eq!((last.kind, last.n_tokens, last.model.as_str()), (Kind::Tail, 2 * BLOCK + 1, "a model"));
        assert!(last.age_ms < 3_600_000 && (0.5..1.5).contains(&last.heat), "{last:?}");
    }

    #[test]
    fn a_flipped_byte_is_found() {
        let (dir, _) = folder();
        let all = list(dir.path()).unwrap_or_else(|e| panic!("{e}"));
        let path = &all[1].path;
        let mut bytes = fs::read(path).unwrap_or_default();
        *bytes.last_mut().expect("not empty") ^= 1;
        fs::write(path, bytes).unwrap_or_else(|e| panic!("{e}"));
        let verified: Vec<_> = all.iter().map(|l| verify(l).unwrap_or_else(|e| panic!("{e}"))).collect();
        let broken = Err(Refused::Checksum { part: "contents" });
        assert_eq!(verified, [Ok(()), broken, Ok(()), Ok(())]);
    }

    #[test]
    fn what_hangs_from_what_is_removed_goes_too() {
        let (dir, [a, b, c, tail]) = folder();
        let removed = remove(dir.path(), |listed| listed.name == b).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(removed.iter().map(|listed| listed.name).collect::<Vec<_>>(), [b, tail]);
        assert_eq!(names(dir.path()), HashSet::from([a, c]));
        remove(dir.path(), |_| true).unwrap_or_else(|e| panic!("{e}"));
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_tail_without_tokens_of_its_own_is_listed_behind_its_rows_and_goes_with_them() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let root = Name::root(b"model", b"1");
        let store = open(dir.path(), root);
        let blocks: [Name; 8] = std::array::from_fn(|i| root.then(&[i as u32; BLOCK]));
        for (i, block) in blocks.iter().enumerate() {
            store.keep(Piece::rows(root, BLOCK, &[i as u32; BLOCK]), Lasting::Soon);
            store.keep(Piece::tail(*block, BLOCK, &[]), Lasting::Soon);
        }
        drop(store);
        let all = list(dir.path()).unwrap_or_else(|e| panic!("{e}"));
        let place = |name: Name| all.iter().position(|listed| listed.name == name);
        assert!(blocks.iter().all(|block| place(*block) < place(block.tail(&[]))));
        remove(dir.path(), |listed| blocks.contains(&listed.name)).unwrap_or_else(|e| panic!("{e}"));
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_folder_is_one_of_pieces_once_a_store_has_been_there() {
        let (dir, _) = folder();
        let is_one = |dir: &Path| is_store(dir).unwrap_or_else(|e| panic!("{e}"));
        assert!(is_one(dir.path()));
        remove(dir.path(), |_| true).unwrap_or_else(|e| panic!("{e}"));
        assert!(is_one(dir.path()), "an empty one");
        fs::remove_file(dir.path().join(LOCK)).unwrap_or_else(|e| panic!("{e}"));
        assert!(!is_one(dir.path()));
        assert!(is_store(&dir.path().join("none")).is_err());
    }

    #[test]
    fn nothing_is_removed_while_somebody_writes() {
        let (dir, all) = folder();
        let _writes = open(dir.path(), Name::root(b"another", b"1"));
        let refused = remove(dir.path(), |_| true).expect_err("in use");
        assert_eq!((refused.hint(), names(dir.path()).len()), (Some("end it, and try again"), all.len()));
    }
}
