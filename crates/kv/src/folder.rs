//! What is in the folder, and whether this store may write there.
//!
//! ```text
//! writer.lock          held by the one store that writes
//! <name>.kv            a piece
//! <name>.kv.partial    a piece that is being written, or was when its writer was ended
//! ```
//!
//! Stores that do not write look again when the folder has changed. What fails here fails for the folder alone: the store
//! goes on in memory, and the one who writes tries again, after one second, then two, up to a minute.

use std::{
    collections::HashSet,
    fmt, io,
    path::Path,
    sync::{PoisonError, TryLockError},
};

use crate::{
    Kind, Lasting, Name,
    file::{Head, INTRO_BYTES, Refused},
    heat::Heat,
    index::{Entry, NOBODY, OnDisk},
    outside::Listed,
    state::Shared,
};

pub(crate) const LOCK: &str = "writer.lock";
const EXTENSION: &str = ".kv";
pub(crate) const PARTIAL: &str = ".kv.partial";

const PATIENCE_MS: u64 = 1000;
const PATIENCE_MAX_MS: u64 = 60_000;

/// A file that is listed within so many milliseconds of a change may have come before others of the same moment.
const TICK_MS: u64 = 50;

const IN_MEMORY: &str = "what sessions remember stays in memory until that works";

/// The piece that a file should hold, by its name.
pub(crate) fn name_of(file_name: &str) -> Option<Name> {
    Name::parse(file_name.strip_suffix(EXTENSION)?)
}

impl Shared {
    /// Begins with what is in the folder.
    pub(crate) fn open(&self) {
        let Some(dir) = &self.options.dir else { return };
        if !self.attach() {
            match self.scan(dir, false) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => self.tell_folder(dir, &e),
                _ => {}
            }
        }
    }

    /// Whether this store may write from now on.
    pub(crate) fn attach(&self) -> bool {
        let Some(dir) = &self.options.dir else { return false };
        let locked = self.outside.prepare(dir).and_then(|()| self.outside.lock(&dir.join(LOCK)));
        match locked {
            Ok(Some(lock)) => {
                // What was found may not be safe yet: its writer may have ended before.
                match self.scan(dir, true).and_then(|()| self.outside.sync(dir)) {
                    Ok(()) => {
                        let mut state = self.state();
                        (state.lock, state.is_untrimmed, state.kept_bytes) = (Some(lock), true, self.options.ram_bytes);
                        state.queue = state.index.unsaved(Lasting::Soon).into();
                        return true;
                    }
                    Err(e) => self.tell_folder(dir, &e),
                }
            }
            Ok(None) => self.tell("reader", || {
                format!("{}: another process writes there; {IN_MEMORY}, and what it writes is used", dir.display())
            }),
            Err(e) => self.tell_folder(dir, &e),
        }
        self.detach();
        false
    }

    /// Writes no more for a while.
    pub(crate) fn detach(&self) {
        let mut state = self.state();
        state.lock = None;
        state.queue.clear();
        state.patience_ms = (2 * state.patience_ms).clamp(PATIENCE_MS, PATIENCE_MAX_MS);
        state.retry_at_ms = self.outside.now_ms() + state.patience_ms;
    }

    fn tell_folder(&self, dir: &Path, e: &io::Error) {
        self.tell("folder", || format!("{}: {e}; {IN_MEMORY}", dir.display()));
    }

    /// Tells what does not work, and writes no more for a while.
    pub(crate) fn fail(&self, what: &'static str, path: &Path, e: &io::Error) {
        self.detach();
        self.tell(what, || format!("{}: cannot {what}: {e}; {IN_MEMORY}", path.display()));
    }

    /// Looks again if somebody else has changed the folder.
    pub(crate) fn refresh(&self) {
        let Some(dir) = self.options.dir.as_ref().filter(|_| self.state().lock.is_none()) else { return };
        let Ok(modified_ms) = self.outside.modified_ms(dir) else { return };
        let is_known = |(known, at): (u64, u64)| known == modified_ms && known + TICK_MS < at;
        if self.state().seen.is_some_and(is_known) {
            return;
        }
        if let Err(e) = self.scan(dir, false) {
            self.tell_folder(dir, &e);
        }
    }

    /// Takes note of all files, and removes what earlier writers left half written if this one `writes`.
    pub(crate) fn scan(&self, dir: &Path, writes: bool) -> io::Result<()> {
        let _one_at_a_time = match self.scanning.try_lock() {
            Err(TryLockError::WouldBlock) if !writes => return Ok(()),
            Err(TryLockError::WouldBlock) => self.scanning.lock().unwrap_or_else(PoisonError::into_inner),
            Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
            Ok(guard) => guard,
        };
        let seen = Some((self.outside.modified_ms(dir)?, self.outside.now_ms()));
        let (mut there, mut other_bytes) = (HashSet::new(), 0);
        for file in self.outside.list(dir)? {
            if let Some(name) = name_of(&file.file_name) {
                match file.is_file {
                    true => _ = there.insert(name),
                    false => self
                        .tell("irregular", || format!("{}: is no file; it is left alone", self.path(&name).display())),
                }
                other_bytes += self.note(&name, &file);
            } else if file.file_name.ends_with(PARTIAL) {
                let is_gone = writes && self.outside.remove(&dir.join(&file.file_name)).is_ok();
                other_bytes += if is_gone { 0 } else { file.n_bytes };
            }
        }
        let mut state = self.state();
        if !writes && state.lock.is_some() {
            // By now this store writes itself, and knows better than a list that was made before.
            return Ok(());
        }
        let gone =
            |(name, entry): (&Name, &Entry)| (entry.on_disk == OnDisk::Yes && !there.contains(name)).then_some(*name);
        let gone: Vec<Name> = state.index.iter().filter_map(gone).collect();
        gone.iter().for_each(|name| state.index.change(name, |entry| entry.on_disk = OnDisk::No));
        state.condemned.retain(|name, _| there.contains(name));
        (state.other_bytes, state.seen) = (other_bytes, seen);
        Ok(())
    }

    /// Takes note of a file with a piece's name. Its bytes, if nothing else counts them.
    fn note(&self, name: &Name, file: &Listed) -> u64 {
        let state = self.state();
        let is_known = state.index.get(name).is_some_and(|entry| entry.on_disk != OnDisk::No);
        if is_known || state.condemned.contains_key(name) || !file.is_file {
            return 0;
        }
        drop(state);
        let path = self.path(name);
        match self.outside.read(&path, INTRO_BYTES as u64) {
            Ok((intro, n_bytes)) => match Head::read(&intro, n_bytes, name) {
                Ok(head) => self.found(*name, entry(head, file, n_bytes)),
                Err(Refused::Version { .. }) => self.found(*name, stranger(file)),
                Err(refused) => {
                    self.state().remove_soon(*name, file.n_bytes);
                    self.tell_broken(&path, &refused);
                }
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => {
                self.tell("read", || format!("{}: {e}; what it remembers is computed again", path.display()));
                return file.n_bytes;
            }
        }
        0
    }

    /// Takes note of a piece in a file. Of two with the same name, the better one counts.
    fn found(&self, name: Name, file: Entry) {
        let mut state = self.state();
        match state.index.get(&name) {
            None => state.index.insert(name, file),
            // It was written here meanwhile.
            Some(known) if known.on_disk != OnDisk::No => {}
            Some(known) if known.outdoes(&file) => state.remove_soon(name, file.file_bytes),
            Some(known) => {
                let is_better = file.outdoes(known);
                state.index.change(&name, |known| {
                    (known.on_disk, known.file_bytes, known.heat) = (OnDisk::Yes, file.file_bytes, file.heat);
                    if is_better {
                        (known.ram, known.has_logits) = (None, file.has_logits);
                    }
                });
            }
        }
    }

    /// No longer counts on a file that is not as it was written, and has it removed if this store writes.
    pub(crate) fn refuse<T>(&self, name: &Name, path: &Path, refused: &Refused) -> Option<T> {
        self.state().condemn(*name);
        self.work.notify_all();
        self.tell_broken(path, refused);
        None
    }

    fn tell_broken(&self, path: &Path, refused: &dyn fmt::Display) {
        self.state().counts.n_broken += 1;
        self.tell("broken", || format!("{}: {refused}; what it remembers is computed again", path.display()));
    }

    /// No longer counts on a file that cannot be read; `n_bytes` of it are still there.
    pub(crate) fn lose<T>(&self, name: &Name, n_bytes: u64) -> Option<T> {
        let mut state = self.state();
        // What is being written by now is another file.
        if state.index.get(name).is_some_and(|entry| entry.on_disk == OnDisk::Yes) {
            state.index.change(name, |entry| entry.on_disk = OnDisk::No);
            state.other_bytes += n_bytes;
        }
        None
    }
}

fn entry(head: Head, file: &Listed, file_bytes: u64) -> Entry {
    Entry {
        kind: head.kind,
        root: head.root,
        parent: head.parent,
        n_tokens: head.n_tokens,
        ids: if head.kind == Kind::Tail { head.ids } else { Vec::new() },
        has_logits: head.has_logits,
        file_bytes,
        ..stranger(file)
    }
}

/// A file of a format that another program knows: it has a size, and is worth nothing to this one.
fn stranger(file: &Listed) -> Entry {
    Entry {
        kind: Kind::Tail,
        root: NOBODY,
        parent: NOBODY,
        n_tokens: 0,
        ids: Vec::new(),
        has_logits: false,
        heat: Heat::of_file(file.modified_ms),
        used: 0,
        touched: false,
        lasting: Lasting::Soon,
        refused: false,
        ram: None,
        on_disk: OnDisk::Yes,
        file_bytes: file.n_bytes,
    }
}
