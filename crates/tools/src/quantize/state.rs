//! The file while it is not complete: what is on the disk outlasts the process, and the next one goes on from there.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use sha2::{Digest as _, Sha256};

use super::{Error, Plan};

/// A file in the making.
pub(super) struct Partial {
    path: PathBuf,
    partial: PathBuf,
    state: PathBuf,
    file: File,
    log: File,
}

impl Partial {
    /// Begins the file at `path`, or goes on with what an earlier process left of the same `identity`; the number of
    /// tensors that are there already.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Space`], [`Error::Write`].
    pub(super) fn begin(path: &Path, plan: &Plan, identity: &str) -> Result<(Partial, usize), Error> {
        let fails = |source| Error::Write { path: path.to_owned(), source };
        let [partial, state] = [".partial", ".partial.state"].map(|end| beside(path, end));
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let file = options.open(&partial).map_err(fails)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: path.to_owned() }),
            // Not everywhere can files be locked; where they cannot, there is nothing to lose.
            Err(TryLockError::Error(_)) => {}
        }
        let mut log = OpenOptions::new().create(true).append(true).open(&state).map_err(fails)?;
        let (n_done, kept) = n_complete(&state, identity).unwrap_or((0, 0));
        log.set_len(kept).map_err(fails)?;
        if n_done == 0 {
            file.set_len(0).map_err(fails)?;
            log.set_len(0).and_then(|()| writeln!(log, "{identity}")).map_err(fails)?;
            write_all_at(&file, plan.layout.header(), 0).map_err(fails)?;
        }
        let end = |n: usize| if n == 0 { plan.layout.header().len() as u64 } else { plan.layout.range(n - 1).end };
        let needed = plan.n_bytes() - end(n_done);
        let free = files::free_bytes(path);
        let partial = Partial { path: path.to_owned(), partial, state, file, log };
        match free {
            Some(free) if free < needed => {
                if n_done == 0 {
                    partial.remove();
                }
                Err(Error::Space { path: path.to_owned(), needed, free })
            }
            _ => {
                partial.file.set_len(plan.n_bytes()).map_err(fails)?;
                Ok((partial, n_done))
            }
        }
    }

    /// Writes some bytes of the file.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> Result<(), Error> {
        write_all_at(&self.file, bytes, at).map_err(|source| self.fails(source))
    }

    /// The first `n` tensors are written: has them outlast everything.
    pub(super) fn complete(&self, n: usize) -> Result<(), Error> {
        let synced =
            self.file.sync_data().and_then(|()| writeln!(&self.log, "{n}")).and_then(|()| self.log.sync_data());
        synced.map_err(|source| self.fails(source))
    }

    /// All is written: gives the file its name.
    pub(super) fn finish(self) -> Result<(), Error> {
        let named = self.file.sync_all().and_then(|()| fs::rename(&self.partial, &self.path));
        named.map_err(|source| self.fails(source))?;
        let folder = self.path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
        files::sync_folder(folder).map_err(|source| self.fails(source))?;
        drop(self.log);
        // The file is there, whatever becomes of this.
        let _ = fs::remove_file(&self.state);
        Ok(())
    }

    /// Leaves nothing.
    pub(super) fn remove(self) {
        let Partial { partial, state, file, log, .. } = self;
        drop((file, log));
        // What cannot be removed does not have the file's name.
        let _ = fs::remove_file(partial).and(fs::remove_file(state));
    }

    fn fails(&self, source: io::Error) -> Error {
        Error::Write { path: self.path.clone(), source }
    }
}

/// How many tensors are complete, if they are of the same file, and how many bytes say so: a line that was cut short has
/// no end, and is not counted.
fn n_complete(state: &Path, identity: &str) -> Option<(usize, u64)> {
    let text = fs::read_to_string(state).ok()?;
    let whole = &text[..=text.rfind('\n')?];
    let mut lines = whole.lines();
    (lines.next()? == identity).then_some(())?;
    Some((lines.last()?.parse().ok()?, whole.len() as u64))
}

/// A file of the source, as it was.
#[derive(PartialEq)]
pub(super) struct Stamp {
    pub(super) path: PathBuf,
    n_bytes: u64,
    written: SystemTime,
}

impl Stamp {
    /// The file as it is.
    ///
    /// # Errors
    /// [`Error::Changed`] where it is gone.
    pub(super) fn of(path: &Path) -> Result<Stamp, Error> {
        let found = fs::metadata(path).and_then(|found| Ok((found.len(), found.modified()?)));
        let (n_bytes, written) = found.map_err(|_| Error::Changed { path: path.to_owned() })?;
        Ok(Stamp { path: path.to_owned(), n_bytes, written })
    }
}

/// What makes a file the same as one that was begun before: what is written, what it is read from, what guides it.
pub(super) fn identity(plan: &Plan, files: &[Stamp], guide: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(plan.layout.header());
    hash.update(guide);
    for file in files {
        let path = fs::canonicalize(&file.path).unwrap_or_else(|_| file.path.clone());
        let nanos = file.written.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        hash.update(format!("{}\0{} {nanos}\0", path.display(), file.n_bytes));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(end);
    path.with_file_name(name)
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, at)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => (bytes, at) = (&bytes[n..], at + n as u64),
        }
    }
    Ok(())
}
