//! The file while it is not complete: what is on the disk outlasts the process, and the next one goes on from there.
//!
//! The state is believed only where the file in the making bears it out: it begins as planned, and is as long as what is
//! said to be complete. What the state says is on the disk before it says so; and before a file is begun afresh, the state
//! of another is gone from the disk.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::UNIX_EPOCH,
};

use gguf::Stamp;
use quant::ENCODERS;
use sha2::{Digest as _, Sha256};

use super::{Error, Plan};

/// How often a file in the making may change hands before it counts as somebody else's.
const TRIES: usize = 8;

/// What is written to while a file is made: the file, the one in the making, and what says how far that is.
pub fn names(path: &Path) -> [PathBuf; 3] {
    ["", ".partial", ".partial.state"].map(|end| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(end);
        path.with_file_name(name)
    })
}

/// A file in the making.
pub(super) struct Partial {
    path: PathBuf,
    partial: PathBuf,
    state: PathBuf,
    file: File,
    log: Mutex<Log>,
}

/// What says how far the file is.
struct Log {
    file: File,
    /// Tensors that are complete.
    n: usize,
    /// Whether noting them failed. A system reports writes that it lost once only, so nothing is noted from then on.
    failed: bool,
}

impl Partial {
    /// Begins the file at `path`, or goes on with what an earlier process left of the same `identity`; the number of
    /// tensors that are there already.
    ///
    /// # Errors
    /// [`Error::NotAFile`], [`Error::NotOurs`], [`Error::Busy`], [`Error::Space`], [`Error::Write`].
    pub(super) fn begin(path: &Path, plan: &Plan, identity: &str) -> Result<(Partial, usize), Error> {
        let fails = |source| Error::Write { path: path.to_owned(), source };
        let [path, partial, state] = names(path);
        [&partial, &state].into_iter().try_for_each(|path| check_place(path, true))?;
        if !state.exists() && partial.metadata().is_ok_and(|found| found.len() > 0) {
            return Err(Error::NotOurs { path: partial });
        }
        let file = open_alone(&path, &partial)?;
        let mut log = OpenOptions::new().create(true).append(true).open(&state).map_err(fails)?;
        let said = n_complete(&state, identity).filter(|(n, _)| bears_out(&file, plan, *n));
        let (n_done, kept) = said.unwrap_or((0, 0));
        log.set_len(kept).map_err(fails)?;
        if n_done == 0 {
            log.sync_all().and_then(|()| writeln!(log, "{identity}")).map_err(fails)?;
            file.set_len(0).and_then(|()| files::write_all_at(&file, plan.layout.header(), 0)).map_err(fails)?;
        }
        // What lies behind is made again: its room is free.
        file.set_len(end(plan, n_done)).map_err(fails)?;
        let needed = plan.n_bytes() - end(plan, n_done);
        let free = files::free_bytes(&path);
        let log = Mutex::new(Log { file: log, n: n_done, failed: false });
        let partial = Partial { path: path.clone(), partial, state, file, log };
        match free {
            Some(free) if free < needed => {
                if n_done == 0 {
                    partial.remove();
                }
                Err(Error::Space { path, needed, free })
            }
            _ => {
                partial.file.set_len(plan.n_bytes()).map_err(fails)?;
                Ok((partial, n_done))
            }
        }
    }

    /// Writes some bytes of the file.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> Result<(), Error> {
        files::write_all_at(&self.file, bytes, at).map_err(|source| self.fails(source))
    }

    /// The first `n` tensors are written: has them outlast everything.
    pub(super) fn complete(&self, n: usize) -> Result<(), Error> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.failed {
            return Err(self.fails(io::Error::other("what was written before did not reach the disk")));
        }
        if n <= log.n {
            return Ok(());
        }
        let synced = self.file.sync_data().and_then(|()| writeln!(log.file, "{n}"));
        let synced = synced.and_then(|()| log.file.sync_data());
        (log.n, log.failed) = (n, synced.is_err());
        synced.map_err(|source| self.fails(source))
    }

    /// All `n` tensors are written: gives the file its name, which may be taken if it is to `overwrite` what is there.
    pub(super) fn finish(self, n: usize, overwrite: bool) -> Result<(), Error> {
        self.complete(n)?;
        if check_place(&self.path, overwrite).is_err() {
            return Err(Error::Appeared { path: self.path, partial: self.partial });
        }
        files::publish(&self.file, &self.partial, &self.path).map_err(|source| self.fails(source))?;
        drop(self.log);
        // The file is there, whatever becomes of this: without the file in the making, nobody believes it.
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

/// Checks that nothing is at a path but, if that may be replaced, a regular file.
///
/// # Errors
/// [`Error::NotAFile`], [`Error::Exists`], [`Error::Write`].
pub(super) fn check_place(path: &Path, overwrite: bool) -> Result<(), Error> {
    let path = path.to_owned();
    match fs::symlink_metadata(&path) {
        Ok(found) if !found.is_file() => Err(Error::NotAFile { path }),
        Ok(_) if !overwrite => Err(Error::Exists { path }),
        Ok(_) => Ok(()),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Write { path, source }),
    }
}

/// Opens the file in the making of the one at `path`, for this process alone.
fn open_alone(path: &Path, partial: &Path) -> Result<File, Error> {
    let fails = |source| Error::Write { path: path.to_owned(), source };
    for _ in 0..TRIES {
        let options = OpenOptions::new().create(true).truncate(false).read(true).write(true).clone();
        let file = options.open(partial).map_err(fails)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => break,
            // Not everywhere can files be locked; where they cannot, there is nothing to lose.
            Err(TryLockError::Error(_)) => {}
        }
        if is_at(&file, partial) {
            return Ok(file);
        }
    }
    Err(Error::Busy { path: path.to_owned() })
}

/// Whether a path leads to this open file still: whoever had it before may have given it its name, or removed it.
fn is_at(file: &File, path: &Path) -> bool {
    matches!((Stamp::of(file), Stamp::at(path)), (Ok(a), Ok(b)) if a == b)
}

/// Where the first `n` tensors end.
fn end(plan: &Plan, n: usize) -> u64 {
    if n == 0 { plan.layout.header().len() as u64 } else { plan.layout.range(n - 1).end }
}

/// Whether the first `n` tensors can be in a file as planned: what was never made, or is of another, has them not.
fn bears_out(file: &File, plan: &Plan, n: usize) -> bool {
    let mut header = vec![0; plan.layout.header().len()];
    let begins = files::read_exact_at(file, &mut header, 0).is_ok() && header == plan.layout.header();
    let is_long = |found: fs::Metadata| (end(plan, n)..=plan.n_bytes()).contains(&found.len());
    n <= plan.targets.len() && begins && file.metadata().is_ok_and(is_long)
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

/// What makes a file the same as one that was begun before: what is written and by which encoders, what it is read from,
/// what guides it.
pub(super) fn identity(plan: &Plan, files: &[(PathBuf, Stamp)], guide: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{} {ENCODERS}\0", env!("CARGO_PKG_VERSION")));
    hash.update(plan.layout.header());
    hash.update(guide);
    for (path, stamp) in files {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let nanos =
            stamp.modified().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default().as_nanos();
        hash.update(format!("{}\0{} {nanos}\0", path.display(), stamp.n_bytes()));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use gguf::{Element, Layout};
    use quant::Format;

    use super::{super::Planned, *};

    const F32: Element = Element::Packed(Format::F32);

    impl Partial {
        /// Has all writes fail.
        pub(in crate::quantize) fn break_writes(&mut self) {
            self.file = File::open(&self.partial).unwrap_or_else(|e| panic!("{e}"));
        }
    }

    /// Three tensors of four numbers.
    fn plan() -> Plan {
        let names = ["a", "b", "c"];
        let layout = Layout::new(3, &[], names.iter().map(|name| (*name, &[4][..], F32)));
        let target = |name: &&str| Planned {
            name: name.to_string(),
            shape: vec![4],
            from: F32,
            to: F32,
            instead_of: None,
            guided: false,
            n_bytes: 16,
        };
        Plan { targets: names.iter().map(target).collect(), layout }
    }

    fn begin(path: &Path) -> (Partial, usize) {
        Partial::begin(path, &plan(), "identity").unwrap_or_else(|e| panic!("{e}"))
    }

    fn write(partial: &Partial, i: usize, byte: u8) {
        partial.write(&[byte; 16], plan().layout.range(i).start).unwrap_or_else(|e| panic!("{e}"));
    }

    /// A folder in which two of three tensors of a file are complete, and some of the third is there.
    fn two_of_three() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = folder.path().join("file");
        let (partial, n) = begin(&path);
        assert_eq!(n, 0);
        (0..3).for_each(|i| write(&partial, i, 7));
        partial.complete(2).unwrap_or_else(|e| panic!("{e}"));
        (folder, path)
    }

    #[test]
    fn what_is_complete_is_gone_on_with_and_what_lies_behind_is_not_there() {
        let (_folder, path) = two_of_three();
        let (partial, n) = begin(&path);
        let mut found = [[1; 16]; 2];
        for (i, found) in [1, 2].into_iter().zip(&mut found) {
            files::read_exact_at(&partial.file, found, plan().layout.range(i).start).unwrap_or_else(|e| panic!("{e}"));
        }
        assert_eq!((n, found), (2, [[7; 16], [0; 16]]));
    }

    /// What becomes of two complete tensors if somebody does this meanwhile.
    fn check_afresh(change: impl Fn([PathBuf; 3])) {
        let (_folder, path) = two_of_three();
        change(names(&path));
        let (partial, n) = begin(&path);
        let mut found = [1; 16];
        files::read_exact_at(&partial.file, &mut found, plan().layout.range(0).start).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((n, found), (0, [0; 16]));
    }

    #[test]
    fn a_state_without_what_it_tells_of_is_not_believed() {
        let done = |result: io::Result<()>| result.unwrap_or_else(|e| panic!("{e}"));
        check_afresh(|[_, partial, _]| done(fs::remove_file(partial)));
        check_afresh(|[path, partial, _]| done(fs::rename(partial, path)));
        check_afresh(|[_, partial, _]| done(fs::write(partial, [0; 4096])));
        let cut = |path: &Path, len| File::options().write(true).open(path).and_then(|file| file.set_len(len));
        check_afresh(|[_, partial, _]| done(cut(&partial, end(&plan(), 2) - 1)));
        check_afresh(|[.., state]| done(fs::write(state, "identity\n2\n4\n")));
        check_afresh(|[.., state]| done(fs::write(state, "another\n2\n")));
        check_afresh(|[.., state]| done(fs::write(state, "")));
    }

    #[test]
    fn what_no_state_tells_of_is_somebody_elses() {
        let (_folder, path) = two_of_three();
        fs::remove_file(&names(&path)[2]).unwrap_or_else(|e| panic!("{e}"));
        assert!(matches!(Partial::begin(&path, &plan(), "identity"), Err(Error::NotOurs { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn after_writes_were_lost_nothing_is_noted() {
        let (_folder, path) = two_of_three();
        let (mut partial, _) = begin(&path);
        write(&partial, 2, 7);
        let null = File::options().write(true).open("/dev/null").unwrap_or_else(|e| panic!("{e}"));
        let file = std::mem::replace(&mut partial.file, null);
        assert!(partial.complete(3).is_err(), "what is no file cannot be synced");
        partial.file = file;
        assert!(partial.complete(3).is_err(), "the system would say that all is well");
        assert_eq!(fs::read_to_string(names(&path)[2].clone()).unwrap_or_default(), "identity\n2\n");
    }

    #[test]
    fn who_opened_a_file_that_has_another_name_now_knows() {
        let (_folder, path) = two_of_three();
        let [path, partial, _] = names(&path);
        let file = File::open(&partial).unwrap_or_else(|e| panic!("{e}"));
        assert!(is_at(&file, &partial));
        fs::rename(&partial, &path).unwrap_or_else(|e| panic!("{e}"));
        assert!(!is_at(&file, &partial));
        fs::write(&partial, "another").unwrap_or_else(|e| panic!("{e}"));
        assert!(!is_at(&file, &partial));
    }
}
