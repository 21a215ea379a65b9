//! The file system and the clock, as the store needs them; tests put others in their place.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What is outside. Every method may fail at any time, and then may have done a part of its work.
pub(crate) trait Outside: Send + Sync {
    /// Milliseconds since 1970, by a clock that somebody may set.
    fn now_ms(&self) -> u64;
    /// Makes a folder that only its owner can read, if need be, and refuses one that anybody can write to.
    fn prepare(&self, dir: &Path) -> io::Result<()>;
    /// The lock of this path, held until it is dropped; `None` where somebody else holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Lock>>;
    /// When a folder's list of files changed last.
    fn modified_ms(&self, dir: &Path) -> io::Result<u64>;
    /// What is in a folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>>;
    /// The first bytes of a file, at most so many, and how many it has.
    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<(Vec<u8>, u64)>;
    /// A new file, which only its owner can read. Until it is synced, the power can take its bytes; its name, until the
    /// folder is.
    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<SyncBytes>;
    /// Gives a file another name, and takes that from whoever had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Puts all names of a folder's files on the disk.
    fn sync(&self, dir: &Path) -> io::Result<()>;
    /// Says when a file was modified.
    fn touch(&self, path: &Path, modified_ms: u64) -> io::Result<()>;
}

/// Puts the bytes of a file on the disk that was just written.
pub(crate) type SyncBytes = Box<dyn FnOnce() -> io::Result<()>>;

/// What holds a lock until it is dropped.
pub(crate) type Lock = Box<dyn Send>;

/// An entry of a folder.
pub(crate) struct Listed {
    pub(crate) file_name: String,
    pub(crate) is_file: bool,
    pub(crate) n_bytes: u64,
    pub(crate) modified_ms: u64,
}

/// The machine's.
pub(crate) struct Machine;

impl Outside for Machine {
    fn now_ms(&self) -> u64 {
        to_ms(SystemTime::now())
    }

    fn prepare(&self, dir: &Path) -> io::Result<()> {
        files::make_private_folder(dir)?;
        #[cfg(unix)]
        if std::os::unix::fs::PermissionsExt::mode(&fs::metadata(dir)?.permissions()) & 0o002 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "anybody can write to this folder (chmod o-w)",
            ));
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(not_a_file());
        }
        let file = files::private().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => same_owner(&file, path).map(|()| Some(Box::new(file) as Lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    fn modified_ms(&self, dir: &Path) -> io::Result<u64> {
        fs::metadata(dir)?.modified().map(to_ms)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Listed>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(file_name) = entry.file_name().into_string() else { continue };
            let found = match entry.metadata() {
                // It went while we were looking.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                found => found?,
            };
            let modified_ms = found.modified().map_or(0, to_ms);
            all.push(Listed { file_name, is_file: found.is_file(), n_bytes: found.len(), modified_ms });
        }
        Ok(all)
    }

    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<(Vec<u8>, u64)> {
        // Whoever opened a pipe would wait for somebody to fill it.
        if !fs::symlink_metadata(path)?.is_file() {
            return Err(not_a_file());
        }
        let file = File::open(path)?;
        let n_bytes = file.metadata()?.len();
        let mut bytes = Vec::new();
        let n = usize::try_from(n_bytes.min(bytes_max)).map_err(|_| io::ErrorKind::FileTooLarge)?;
        bytes.try_reserve_exact(n)?;
        file.take(bytes_max).read_to_end(&mut bytes)?;
        Ok((bytes, n_bytes))
    }

    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<SyncBytes> {
        let mut file = files::private().write(true).create_new(true).open(path)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        Ok(Box::new(move || file.sync_all()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync(&self, dir: &Path) -> io::Result<()> {
        files::sync_folder(dir)
    }

    fn touch(&self, path: &Path, modified_ms: u64) -> io::Result<()> {
        File::open(path)?.set_modified(UNIX_EPOCH + Duration::from_millis(modified_ms))
    }
}

fn to_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "is no file")
}

/// That the folder belongs to who locks it: a stranger's pieces are read by nobody else.
fn same_owner(lock: &File, path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let dir = path.parent().map(fs::metadata).transpose()?;
        if dir.is_some_and(|dir| lock.metadata().is_ok_and(|lock| lock.uid() != dir.uid())) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the folder belongs to somebody else"));
        }
    }
    let _ = (lock, path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary() -> tempfile::TempDir {
        tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn a_lock_has_one_holder() {
        let root = temporary();
        let path = root.path().join("lock");
        let lock = Machine.lock(&path).unwrap_or_else(|e| panic!("{e}"));
        assert!(lock.is_some() && Machine.lock(&path).is_ok_and(|lock| lock.is_none()));
        drop(lock);
        assert!(Machine.lock(&path).is_ok_and(|lock| lock.is_some()), "what a dead process left is no obstacle");
    }

    #[test]
    fn reads_end_where_they_are_told_to() {
        let root = temporary();
        let path = root.path().join("file");
        Machine.write(&path, &[b"abc", b"def"]).and_then(|sync| sync()).unwrap_or_else(|e| panic!("{e}"));
        assert!(Machine.read(&path, 4).is_ok_and(|(bytes, n)| bytes == b"abcd" && n == 6));
        assert!(Machine.read(&path, u64::MAX).is_ok_and(|(bytes, n)| bytes == b"abcdef" && n == 6));
        let again = Machine.write(&path, &[]).map(|_| ()).expect_err("it is there");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert!(
            Machine.touch(&path, 1000).is_ok() && Machine.list(root.path()).is_ok_and(|l| l[0].modified_ms == 1000)
        );
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read_or_write() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = temporary();
        let dir = root.path().join("a/b");
        let mode = |path: &Path| fs::metadata(path).map(|m| m.permissions().mode() & 0o777).unwrap_or_default();
        Machine.prepare(&dir).unwrap_or_else(|e| panic!("{e}"));
        let _lock = Machine.lock(&dir.join("lock")).unwrap_or_else(|e| panic!("{e}"));
        Machine.write(&dir.join("file"), &[]).and_then(|sync| sync()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!([mode(&dir), mode(&dir.join("lock")), mode(&dir.join("file"))], [0o700, 0o600, 0o600]);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o707)).unwrap_or_else(|e| panic!("{e}"));
        assert!(Machine.prepare(&dir).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_and_folders_are_never_opened() {
        let root = temporary();
        let [file, link, folder] = ["file", "link", "folder"].map(|name| root.path().join(name));
        fs::write(&file, "x").and_then(|()| fs::create_dir(&folder)).unwrap_or_else(|e| panic!("{e}"));
        std::os::unix::fs::symlink(&file, &link).unwrap_or_else(|e| panic!("{e}"));
        for path in [&link, &folder] {
            assert!(Machine.read(path, 1).is_err() && Machine.lock(path).is_err());
        }
    }
}
