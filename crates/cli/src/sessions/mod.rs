//! Conversations with a name: what was said in them, in a folder beside what was computed for them.
//!
//! ```text
//! <store>/sessions/NAME.json        the conversation, as `file.rs` writes it; there in full or not at all
//! <store>/sessions/NAME.lock        held by the one process that goes on with it, and there as long
//! <store>/sessions/.NAME.partial    its next version, while it is written
//! <store>/sessions/NAME.json.broken what was in its place and could not be read
//! ```
//!
//! A conversation is the user's, unlike all else in the store: what cannot be read is set aside, and nothing ever takes its place.

mod file;
mod name;

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

pub(crate) use self::{
    file::{ModelId, Saved},
    name::SessionName,
};
use crate::error::Error;

/// More than any conversation holds that was ever written.
const BYTES_MAX: u64 = 1 << 30;

/// How often a name is tried for that somebody else gives up meanwhile.
const TRIES: usize = 16;

/// The folder of conversations; it need not exist yet.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    dir: PathBuf,
}

/// A conversation that no other process goes on with meanwhile.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) name: SessionName,
    dir: PathBuf,
    /// Locked until it is dropped.
    _lock: File,
}

/// What there is under a name.
pub(crate) struct Listed {
    pub(crate) name: SessionName,
    /// The conversation, or why it cannot be read.
    pub(crate) saved: Result<Saved, Error>,
}

impl Sessions {
    /// Those beside the store in a folder.
    pub(crate) fn beside(store: &Path) -> Sessions {
        Sessions { dir: store.join("sessions") }
    }

    /// Takes a name for this process, whether there is a conversation of that name or not.
    ///
    /// # Errors
    /// [`Error::SessionInUse`], [`Error::Write`].
    pub(crate) fn hold(&self, name: &SessionName) -> Result<Held, Error> {
        let path = self.dir.join(format!("{name}.lock"));
        let lock = self.lock(&path).map_err(|source| Error::Write { path, source })?;
        let lock = lock.ok_or_else(|| Error::SessionInUse { name: name.to_string() })?;
        Ok(Held { name: name.clone(), dir: self.dir.clone(), _lock: lock })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<File>> {
        files::make_private_folder(&self.dir)?;
        for _ in 0..TRIES {
            if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no file"));
            }
            let file = files::private().write(true).create(true).truncate(false).open(path)?;
            match file.try_lock() {
                Ok(()) if leads_to(path, &file)? => return Ok(Some(file)),
                // Who had it has removed it: it is a lock no more.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(e),
            }
        }
        Ok(None)
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// [`Error::Read`]: the folder cannot be.
    pub(crate) fn list(&self) -> Result<Vec<Listed>, Error> {
        let fails = |source| Error::Read { path: self.dir.clone(), source };
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(fails)?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let file_name = entry.map_err(fails)?.file_name();
            let name = file_name.to_str().and_then(|name| name.strip_suffix(".json")?.parse().ok());
            let Some(name) = name else { continue };
            // Without one, it has gone meanwhile.
            if let Some(saved) = read(&self.path(&name)).transpose() {
                all.push(Listed { name, saved });
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    fn path(&self, name: &SessionName) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }
}

impl Held {
    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(format!("{}.json", self.name))
    }

    /// Whether there is anything of that name, a conversation or not.
    pub(crate) fn is_taken(&self) -> bool {
        fs::symlink_metadata(self.path()).is_ok()
    }

    /// What was said in it; `None` if there is none of that name.
    ///
    /// # Errors
    /// [`Error::BrokenSession`], [`Error::Read`].
    pub(crate) fn read(&self) -> Result<Option<Saved>, Error> {
        read(&self.path())
    }

    /// What was said in it. What cannot be read is set aside, and told.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Write`].
    pub(crate) fn read_or_set_aside(&self, note: &mut dyn FnMut(&str)) -> Result<Option<Saved>, Error> {
        match self.read() {
            Err(broken @ Error::BrokenSession { .. }) => {
                let aside = self.set_aside()?;
                note(&format!("{broken}; it is kept as {}, and the conversation begins afresh", aside.display()));
                Ok(None)
            }
            read => read,
        }
    }

    /// Gives what is in its place another name.
    fn set_aside(&self) -> Result<PathBuf, Error> {
        let path = self.path();
        let named = |i: usize| if i == 1 { "broken".to_owned() } else { format!("broken{i}") };
        let mut names = (1..).map(|i| self.dir.join(format!("{}.json.{}", self.name, named(i))));
        let aside = names.find(|aside| fs::symlink_metadata(aside).is_err()).expect("numbers do not end");
        match fs::rename(&path, &aside) {
            Ok(()) => Ok(aside),
            Err(source) => Err(Error::Write { path, source }),
        }
    }

    /// Puts a conversation in the place of the one before.
    ///
    /// # Errors
    /// [`Error::Write`]: the one before is still there.
    pub(crate) fn save(&self, saved: &Saved) -> Result<(), Error> {
        let temporary = self.dir.join(format!(".{}.partial", self.name));
        let path = self.path();
        files::replace(&path, &temporary, saved.to_json().as_bytes()).map_err(|source| Error::Write { path, source })
    }

    /// Removes the conversation; whether there was one.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn remove(self) -> Result<bool, Error> {
        match fs::remove_file(self.path()) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::Write { path: self.path(), source }),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Where an open file cannot be removed, it stays, and locks nothing.
        let _ = fs::remove_file(self.dir.join(format!("{}.lock", self.name)));
    }
}

/// The conversation in a file, if that is there.
fn read(path: &Path) -> Result<Option<Saved>, Error> {
    let broken = |why: &str| Error::BrokenSession { path: path.into(), why: why.into() };
    let fails = |source| Error::Read { path: path.into(), source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        // Whoever opened a pipe would wait for somebody to fill it.
        Ok(found) if !found.is_file() => return Err(broken("is no ordinary file")),
        Ok(found) if found.len() > BYTES_MAX => return Err(broken("is no session: it is too long")),
        found => found.map_err(fails)?,
    };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes)).map_err(fails)?;
    Saved::read(&bytes).map(Some).map_err(|why| broken(&why))
}

/// Whether a path still leads to an open file.
fn leads_to(path: &Path, file: &File) -> io::Result<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let ours = file.metadata()?;
        Ok(fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (ours.dev(), ours.ino())))
    }
    #[cfg(not(unix))]
    Ok(path.exists() && file.metadata()?.is_file())
}

#[cfg(test)]
mod tests {
    use super::{file::tests::example, *};

    fn sessions() -> (tempfile::TempDir, Sessions) {
        let dir = tempfile::tempdir().unwrap();
        let sessions = Sessions::beside(&dir.path().join("kv"));
        (dir, sessions)
    }

    fn hold(sessions: &Sessions, name: &str) -> Result<Held, Error> {
        sessions.hold(&name.parse().unwrap())
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .map(|all| all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        names.sort();
        names
    }

    #[test]
    fn a_conversation_is_kept_listed_and_removed() {
        let (_dir, sessions) = sessions();
        let held = hold(&sessions, "work").unwrap();
        assert_eq!(held.read().unwrap(), None);
        for tokens in [vec![1], vec![1, 2]] {
            let saved = Saved { tokens, ..example() };
            held.save(&saved).unwrap();
            assert_eq!(held.read().unwrap(), Some(saved));
        }
        assert_eq!(names(&sessions.dir), ["work.json", "work.lock"]);
        let listed = sessions.list().unwrap();
        assert!(listed.len() == 1 && listed[0].name.to_string() == "work" && listed[0].saved.is_ok());
        drop(held);
        assert_eq!(names(&sessions.dir), ["work.json"]);
        assert!(hold(&sessions, "work").unwrap().remove().unwrap());
        assert!(!hold(&sessions, "work").unwrap().remove().unwrap());
        assert!(names(&sessions.dir).is_empty());
    }

    #[test]
    fn a_name_is_held_once() {
        let (_dir, sessions) = sessions();
        let held = hold(&sessions, "a").unwrap();
        let _other = hold(&sessions, "b").unwrap();
        let told = hold(&sessions, "a").unwrap_err().to_string();
        assert_eq!(told, "session a: another process goes on with it");
        drop(held);
        hold(&sessions, "a").unwrap();
    }

    #[test]
    fn what_cannot_be_read_is_set_aside_and_never_overwritten() {
        let (_dir, sessions) = sessions();
        let held = hold(&sessions, "a").unwrap();
        for (content, aside) in [("{", "a.json.broken"), (r#"{"version":9}"#, "a.json.broken2")] {
            fs::write(held.path(), content).unwrap();
            let mut notes = Vec::new();
            assert_eq!(held.read_or_set_aside(&mut |line| notes.push(line.to_owned())).unwrap(), None);
            assert!(notes.len() == 1 && notes[0].contains("a.json: is ") && notes[0].contains(aside), "{notes:?}");
            held.save(&example()).unwrap();
            assert_eq!(fs::read_to_string(sessions.dir.join(aside)).unwrap(), content);
        }
        fs::remove_file(held.path()).unwrap();
        fs::create_dir(held.path()).unwrap();
        assert_eq!(held.read_or_set_aside(&mut |_| ()).unwrap(), None);
        held.save(&example()).unwrap();
        assert!(sessions.dir.join("a.json.broken3").is_dir() && held.read().unwrap().is_some());
    }

    #[cfg(unix)]
    #[test]
    fn conversations_are_nobody_elses_business() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_dir, sessions) = sessions();
        let held = hold(&sessions, "a").unwrap();
        held.save(&example()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&sessions.dir), mode(&held.path())), (0o700, 0o600));
        fs::set_permissions(&sessions.dir, fs::Permissions::from_mode(0o500)).unwrap();
        // Who may do everything is not kept out.
        if let Err(e) = held.save(&Saved { tokens: vec![9], ..example() }) {
            assert!(e.to_string().contains("a.json"), "{e}");
            assert_eq!(held.read().unwrap(), Some(example()), "the one before is still there");
        }
        fs::set_permissions(&sessions.dir, fs::Permissions::from_mode(0o700)).unwrap();
    }
}
