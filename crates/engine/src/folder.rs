//! The folder of what is kept between runs: files of ours, readable by their owner alone, there in full or not at all.
//!
//! Who changes a file holds the folder's lock from reading the old one until the new one has its name, so processes that
//! run at once lose nothing of each other's. Reading needs no lock, and works in a folder that cannot be written.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use files::{make_private_folder, private, replace};

const LOCK: &str = "lock";

/// Changes take milliseconds: who holds the lock longer does not come back.
const PATIENCE: Duration = Duration::from_secs(5);

/// A folder that need not exist yet.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(path: &Path) -> Folder {
        Folder(path.to_owned())
    }

    /// Where a file of it is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes it if need be, and finds out whether files can be changed.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        self.open_lock().map(drop)
    }

    /// A file's bytes; `None` if there is none.
    ///
    /// # Errors
    /// What the system says, or that there are more than `bytes_max`.
    pub(crate) fn read(&self, name: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(name);
        match fs::metadata(&path) {
            // Whoever opened a pipe would wait for somebody to fill it.
            Ok(found) if !found.is_file() => return Err(io::Error::new(io::ErrorKind::InvalidData, "is no file")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let mut bytes = Vec::new();
        File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > bytes_max {
            true => Err(io::Error::new(io::ErrorKind::InvalidData, "is too long")),
            false => Ok(Some(bytes)),
        }
    }

    /// Puts what `change` makes of a file's bytes in its place. Where reading fails, `change` is told why.
    ///
    /// # Errors
    /// What the system says, or what `change` does: then the file stays as it was.
    pub(crate) fn update<E: From<io::Error>>(
        &self,
        name: &str,
        bytes_max: u64,
        change: impl FnOnce(io::Result<Option<Vec<u8>>>) -> Result<String, E>,
    ) -> Result<(), E> {
        let lock = self.lock()?;
        let new = change(self.read(name, bytes_max))?;
        replace(&self.path(name), &self.path(&format!("{name}.partial")), new.as_bytes())?;
        drop(lock);
        Ok(())
    }

    fn open_lock(&self) -> io::Result<File> {
        make_private_folder(&self.0)?;
        private().write(true).create(true).truncate(false).open(self.path(LOCK))
    }

    /// The lock, which is held until the file is closed.
    fn lock(&self) -> io::Result<File> {
        let (file, began) = (self.open_lock()?, Instant::now());
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(5)),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary() -> tempfile::TempDir {
        tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"))
    }

    fn append(folder: &Folder, text: &str) -> io::Result<()> {
        folder.update("f", 100, |old| Ok(String::from_utf8_lossy(&old?.unwrap_or_default()).into_owned() + text))
    }

    #[test]
    fn files_change_in_full_or_not_at_all() {
        let root = temporary();
        let folder = Folder::new(&root.path().join("a/b"));
        assert!(folder.read("f", 100).is_ok_and(|bytes| bytes.is_none()));
        append(&folder, "one").and_then(|()| append(&folder, ", two")).unwrap_or_else(|e| panic!("{e}"));
        let refused = folder.update("f", 100, |_| Err(io::Error::other("no")));
        assert!(refused.is_err() && folder.read("f", 100).is_ok_and(|b| b.is_some_and(|b| b == b"one, two")));
        let refused = folder.read("f", 7).expect_err("8 bytes");
        assert_eq!(refused.to_string(), "is too long");
        fs::write(folder.path("f.partial"), "half of what was to be").unwrap_or_else(|e| panic!("{e}"));
        append(&folder, "!").unwrap_or_else(|e| panic!("{e}"));
        assert!(folder.read("f", 100).is_ok_and(|b| b.is_some_and(|b| b == b"one, two!")));
        assert!(!folder.path("f.partial").exists());
    }

    #[test]
    fn those_who_change_a_file_at_once_lose_nothing() {
        let root = temporary();
        thread::scope(|scope| {
            for _ in 0..4 {
                let folder = Folder::new(root.path());
                scope.spawn(move || (0..10).for_each(|_| append(&folder, "x").unwrap_or_else(|e| panic!("{e}"))));
            }
        });
        let bytes = Folder::new(root.path()).read("f", 100).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(bytes.map(|b| b.len()), Some(40));
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = temporary();
        let folder = Folder::new(&root.path().join("a/b"));
        append(&folder, "x").unwrap_or_else(|e| panic!("{e}"));
        let mode = |path: &Path| fs::metadata(path).map(|m| m.permissions().mode() & 0o777).unwrap_or_default();
        assert_eq!([mode(&folder.0), mode(&folder.path("f")), mode(&folder.path(LOCK))], [0o700, 0o600, 0o600]);
    }

    #[test]
    fn what_cannot_be_written_is_told() {
        let root = temporary();
        fs::write(root.path().join("file"), "").unwrap_or_else(|e| panic!("{e}"));
        let folder = Folder::new(&root.path().join("file/folder"));
        assert!(folder.prepare().is_err() && append(&folder, "x").is_err());
        let folder = Folder::new(root.path());
        fs::create_dir(folder.path("f")).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(append(&folder, "x").map_err(|e| e.to_string()), Err("is no file".into()));
    }
}
