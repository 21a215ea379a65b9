//! Results: text on stdout, files that are there in full or not at all.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{error::Error, terminal};

/// Names that are tried for a file that is not complete.
const N_NAMES: usize = 1000;

/// The files that are being written, for a program that is ended in the middle.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes what is not complete, and never will be.
pub(crate) fn abandon() {
    for temporary in unfinished().drain(..) {
        let _ = fs::remove_file(temporary);
    }
}

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file is complete, or given up.
fn forget(temporary: &Path) {
    unfinished().retain(|other| other != temporary);
}

/// Prints a result: as it is, but that a terminal is shown what it would obey.
///
/// # Errors
/// [`Error::Closed`] when nobody reads.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let text = if terminal::stdout_is_terminal() { terminal::clean(text) } else { text.into() };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::stdout)
}

/// Whether two paths are the same, or lead to one file that exists, under whichever of its names.
fn is_same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    let identity = |path: &Path| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(path).map(|m| (m.dev(), m.ino()))
    };
    #[cfg(not(unix))]
    let identity = |path: &Path| fs::canonicalize(path);
    a == b || matches!((identity(a), identity(b)), (Ok(a), Ok(b)) if a == b)
}

/// Refuses to put a result in the place of what it is made from.
///
/// # Errors
/// [`Error::SameFile`].
pub(crate) fn never_over(out: &Path, input: &Path) -> Result<(), Error> {
    match is_same_file(out, input) {
        true => Err(Error::SameFile { path: out.into() }),
        false => Ok(()),
    }
}

/// Refuses what cannot be the name of a result, before there is one: standard output, and folders.
///
/// # Errors
/// [`Error::Usage`], [`Error::Write`].
pub(crate) fn check_name(path: &Path) -> Result<(), Error> {
    if path.as_os_str() == "-" {
        return Err(Error::Usage {
            what: "-: such results are not written to standard output".into(),
            help: "give a name; ./- is a file that is called so".into(),
        });
    }
    if path.as_os_str().as_encoded_bytes().ends_with(std::path::MAIN_SEPARATOR_STR.as_bytes()) {
        return Err(Error::Write { path: path.into(), source: io::ErrorKind::IsADirectory.into() });
    }
    Ok(())
}

/// A file that appears under its name when it is complete. Dropped before, it leaves nothing behind.
pub(crate) struct NewFile {
    path: PathBuf,
    /// Where the bytes are until then; `None` for what is no regular file, such as a pipe, and cannot be replaced.
    temporary: Option<PathBuf>,
    out: BufWriter<File>,
}

impl NewFile {
    /// Begins `path`.
    ///
    /// # Errors
    /// [`Error::Write`], as all of them.
    pub(crate) fn create(path: &Path) -> Result<NewFile, Error> {
        let fails = |source| Error::Write { path: path.into(), source };
        // Through links, so that the file they lead to is replaced and not the link.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.into());
        let (temporary, file) = match fs::metadata(&target) {
            Ok(found) if found.is_dir() => return Err(fails(io::ErrorKind::IsADirectory.into())),
            Ok(found) if !found.is_file() => (None, File::options().write(true).open(&target).map_err(fails)?),
            _ => {
                let (temporary, file) = beside(&target).map_err(fails)?;
                unfinished().push(temporary.clone());
                (Some(temporary), file)
            }
        };
        Ok(NewFile { path: target, temporary, out: BufWriter::with_capacity(1 << 20, file) })
    }

    /// Appends little-endian floats.
    pub(crate) fn floats(&mut self, row: &[f32]) -> Result<(), Error> {
        let written = row.iter().try_for_each(|x| self.out.write_all(&x.to_le_bytes()));
        written.map_err(|source| self.fails(source))
    }

    /// Appends what `fill` writes.
    pub(crate) fn fill(&mut self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
        fill(&mut self.out).map_err(|source| self.fails(source))
    }

    /// Appends words.
    pub(crate) fn text(&mut self, words: &str) -> Result<(), Error> {
        self.out.write_all(words.as_bytes()).map_err(|source| self.fails(source))
    }

    /// Refuses what the disk has no room for. Tells how much it has, if that is known.
    ///
    /// # Errors
    /// [`Error::NoSpace`].
    pub(crate) fn check_room(&self, needed_bytes: u64) -> Result<Option<u64>, Error> {
        let free = self.temporary.as_deref().and_then(files::free_bytes);
        match free {
            Some(free_bytes) if free_bytes < needed_bytes => {
                Err(Error::NoSpace { path: self.path.clone(), needed_bytes, free_bytes })
            }
            free => Ok(free),
        }
    }

    /// All is written: gives the file its name.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        self.out.flush().map_err(|source| self.fails(source))?;
        if let Some(temporary) = &self.temporary {
            files::publish(self.out.get_ref(), temporary, &self.path).map_err(|source| self.fails(source))?;
            forget(temporary);
            self.temporary = None;
        }
        Ok(())
    }

    fn fails(&self, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Error::Closed,
            _ => Error::Write { path: self.path.clone(), source },
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            let _ = fs::remove_file(&temporary);
            forget(&temporary);
        }
    }
}

/// Appends bytes.
impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A new file beside `path`, hidden. A number that has come around may be in the name of what another process has left behind.
fn beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    for i in 0..N_NAMES {
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}-{i}.partial", std::process::id()));
        let path = path.with_file_name(hidden);
        match File::create_new(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (path, file)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("ds4-output-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn a_file_appears_when_it_is_complete() {
        let folder = folder("complete");
        let mut file = NewFile::create(&folder.join("x.f32")).unwrap();
        file.floats(&[1.0, -2.5]).unwrap();
        assert!(!folder.join("x.f32").exists());
        file.finish().unwrap();
        assert_eq!(names(&folder), ["x.f32"]);
        assert_eq!(fs::read(folder.join("x.f32")).unwrap(), [0, 0, 128, 63, 0, 0, 32, 192]);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_not_completed_leaves_the_old_file() {
        let folder = folder("dropped");
        fs::write(folder.join("x.f32"), "old").unwrap();
        let mut file = NewFile::create(&folder.join("x.f32")).unwrap();
        file.floats(&[1.0]).unwrap();
        drop(file);
        assert_eq!(names(&folder), ["x.f32"]);
        assert_eq!(fs::read(folder.join("x.f32")).unwrap(), b"old");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_others_left_behind_is_in_nobodys_way() {
        let folder = folder("left");
        let first = beside(&folder.join("x")).unwrap().0;
        let mut file = NewFile::create(&folder.join("x")).unwrap();
        file.text("new").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read(folder.join("x")).unwrap(), b"new");
        assert!(first.exists() && fs::read_dir(&folder).unwrap().count() == 2);
        fs::remove_dir_all(folder).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn devices_are_written_to_and_links_followed() {
        let folder = folder("links");
        fs::write(folder.join("real"), "old").unwrap();
        std::os::unix::fs::symlink(folder.join("real"), folder.join("link")).unwrap();
        let mut file = NewFile::create(&folder.join("link")).unwrap();
        file.floats(&[0.0]).unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read(folder.join("real")).unwrap(), [0; 4]);
        assert!(fs::symlink_metadata(folder.join("link")).unwrap().is_symlink());
        NewFile::create(Path::new("/dev/null")).unwrap().finish().unwrap();
        assert!(NewFile::create(&folder).is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
