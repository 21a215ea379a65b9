//! The thread that writes.
//!
//! ```text
//! what nobody uses any more      removed
//! for each piece in the queue    room is made -> partial file, written and synced -> renamed
//! the folder                     synced: only now they count as safe, and may leave memory
//! ```
//!
//! A crash at any point leaves old pieces whole, new ones there or not, and at most one partial file, which the next writer
//! removes. Budgets are checked before anything is written, and what is being written counts.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    Lasting, Name, Piece, file,
    folder::PARTIAL,
    index::{Entry, Need, OnDisk, Place},
    state::{Shared, State},
};

/// Pieces for which the folder is synced once.
const BATCH: usize = 32;

/// How often it is looked whether it is time to try again.
const LOOK_EVERY: Duration = Duration::from_millis(500);

enum Task {
    /// Write everything, and answer all who asked until then.
    Flush(u64),
    /// Try again to become the one who writes.
    Attach,
    Write,
}

enum Turn {
    Piece(Next),
    /// What was condemned has to go before anything is written.
    Room,
    Nothing,
}

enum Verdict {
    Admitted,
    /// If these go.
    Instead(Vec<Name>),
    Refused,
}

/// A piece whose time has come.
struct Next {
    name: Name,
    piece: Arc<Piece>,
    file_bytes: u64,
}

/// What did not work.
struct Failed {
    what: &'static str,
    path: PathBuf,
    why: io::Error,
}

/// Lets nobody wait for a writer that has ended.
struct Alone<'a>(&'a Shared);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.state().is_alone = true;
        self.0.done.notify_all();
    }
}

impl Shared {
    /// Writes until the store is dropped.
    pub(crate) fn write(&self) {
        let _alone = Alone(self);
        while let Some(task) = self.task() {
            match task {
                Task::Attach => _ = self.attach(),
                Task::Write => _ = self.try_batch(),
                Task::Flush(asked) => self.flush(asked),
            }
        }
    }

    /// What is to be done next; `None` at the end.
    fn task(&self) -> Option<Task> {
        let mut state = self.state();
        loop {
            if state.n_asked > state.n_answered {
                return Some(Task::Flush(state.n_asked));
            }
            if state.is_ending {
                return None;
            }
            if state.lock.is_none() {
                if self.outside.now_ms() >= state.retry_at_ms {
                    return Some(Task::Attach);
                }
            } else {
                self.squeeze(&mut state);
                if !state.queue.is_empty() || !state.condemned.is_empty() || state.is_untrimmed {
                    return Some(Task::Write);
                }
            }
            state = match self.work.wait_timeout(state, LOOK_EVERY) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Queues what was to be written at the end if it fills half of the memory. That takes a look at all pieces, so some
    /// have to come before the next one.
    fn squeeze(&self, state: &mut State) {
        let is_scarce = state.index.totals().unsaved_bytes > self.options.ram_bytes / 2;
        if state.queue.is_empty() && is_scarce && state.kept_bytes >= self.options.ram_bytes / 16 {
            state.kept_bytes = 0;
            let mut unsaved = state.index.unsaved(Lasting::AtEnd);
            unsaved.retain(|name| state.index.get(name).is_some_and(|entry| !entry.refused));
            state.queue = unsaved.into();
        }
    }

    fn flush(&self, asked: u64) {
        let writes = self.state().lock.is_some() || self.attach();
        if writes {
            let mut state = self.state();
            state.queue = state.index.unsaved(Lasting::AtEnd).into();
            // Who keeps more and more must not keep others waiting.
            let n_batches = 2 + state.queue.len() / BATCH;
            drop(state);
            let is_more = || !self.state().queue.is_empty();
            let _ = (0..n_batches).all(|_| self.try_batch() && is_more());
            self.note_heat();
        }
        self.state().n_answered = asked;
        self.done.notify_all();
    }

    /// Writes how hot pieces are. Nothing depends on it.
    fn note_heat(&self) {
        let touched = {
            let mut state = self.state();
            let touched = state.index.iter().filter(|(_, entry)| entry.touched && entry.on_disk == OnDisk::Yes);
            let touched: Vec<_> = touched.map(|(name, entry)| (*name, entry.heat.modified_ms())).collect();
            touched.iter().for_each(|(name, _)| state.index.change(name, |entry| entry.touched = false));
            touched
        };
        touched.iter().for_each(|(name, modified_ms)| _ = self.outside.touch(&self.path(name), *modified_ms));
    }

    /// Whether all of a batch worked. What did not is told, and tried again later.
    fn try_batch(&self) -> bool {
        self.batch().map_err(|Failed { what, path, why }| self.fail(what, &path, &why)).is_ok()
    }

    fn batch(&self) -> Result<(), Failed> {
        self.trim();
        let (mut named, mut result) = (Vec::new(), self.remove_condemned());
        while named.len() < BATCH && result.is_ok() {
            result = match self.turn() {
                Turn::Piece(next) => {
                    let written = self.write_piece(&next);
                    match written {
                        Ok(()) => named.push(next),
                        Err(_) => self.unwrite(&next.name, 0),
                    }
                    written
                }
                Turn::Room => self.remove_condemned(),
                Turn::Nothing => break,
            }
        }
        let synced = self.sync(named);
        self.put_late();
        synced.and(result)
    }

    /// Now that it is known what became of those that were written, puts better ones in their place.
    fn put_late(&self) {
        let mut state = self.state();
        for (name, entry) in std::mem::take(&mut state.late) {
            self.put(&mut state, name, entry);
        }
        self.shrink(&mut state);
    }

    /// Condemns what is too much in the folder since somebody else wrote there, or since it may be less.
    fn trim(&self) {
        let mut state = self.state();
        if std::mem::take(&mut state.is_untrimmed) {
            let need = Need::beyond(self.options.disk_bytes, state.disk_bytes());
            let (victims, _) = state.index.victims(Place::Disk, need, None, self.outside.now_ms());
            state.evict(victims);
        }
    }

    fn remove_condemned(&self) -> Result<(), Failed> {
        let condemned = self.state().condemned();
        for name in condemned {
            let path = self.path(&name);
            let removed = self.outside.remove(&path);
            match removed {
                Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(Failed { what: "remove", path, why }),
                _ => self.state().condemned.remove(&name),
            };
        }
        Ok(())
    }

    /// Whose turn it is. A piece that is returned counts as being written.
    fn turn(&self) -> Turn {
        loop {
            let mut state = self.state();
            let Some(name) = state.queue.pop_front() else { return Turn::Nothing };
            let Some(entry) = state.index.get(&name).filter(|entry| entry.on_disk == OnDisk::No) else { continue };
            let Some(piece) = entry.ram.clone() else { continue };
            let (parent, file_bytes) = (entry.parent, entry.file_bytes);
            // Without what it hangs from, nobody could use it: it comes again when that has a file.
            let has_file = |parent: &Entry| parent.on_disk != OnDisk::No;
            if parent != self.root && !state.index.get(&parent).is_some_and(has_file) {
                continue;
            }
            match self.verdict(&mut state, &name, self.options.disk_bytes) {
                Verdict::Admitted => {
                    state.spend(file_bytes);
                    state.index.change(&name, |entry| (entry.on_disk, entry.refused) = (OnDisk::Writing, false));
                    let behind: Vec<_> = state.index.behind(self.root, &name).map(|(name, _)| *name).collect();
                    behind.iter().for_each(|name| self.want(&mut state, name));
                    return Turn::Piece(Next { name, piece, file_bytes });
                }
                Verdict::Instead(victims) => {
                    state.evict(victims);
                    state.queue.push_front(name);
                    return Turn::Room;
                }
                Verdict::Refused => {
                    let was_refused = state.index.get(&name).is_some_and(|entry| entry.refused);
                    state.counts.n_refused += u64::from(!was_refused);
                    state.index.change(&name, |entry| entry.refused = true);
                    drop(state);
                    self.tell_refused(file_bytes);
                }
            }
        }
    }

    /// Whether a piece may be written to a folder of at most `disk_bytes`.
    fn verdict(&self, state: &mut State, name: &Name, disk_bytes: u64) -> Verdict {
        let Some(entry) = state.index.get(name) else { return Verdict::Refused };
        let (file_bytes, now_ms) = (entry.file_bytes, self.outside.now_ms());
        if state.day_room(self.options.written_bytes_per_day, now_ms) < file_bytes {
            return Verdict::Refused;
        }
        let need = Need::beyond(disk_bytes, state.disk_bytes() + file_bytes);
        if need.is_nothing() {
            return Verdict::Admitted;
        }
        match state.index.victims(Place::Disk, need, Some(name), now_ms) {
            (victims, true) => Verdict::Instead(victims),
            (_, false) => Verdict::Refused,
        }
    }

    fn write_piece(&self, next: &Next) -> Result<(), Failed> {
        self.remove_condemned()?;
        let path = self.path(&next.name);
        let partial = path.with_extension(&PARTIAL[1..]);
        let intro = file::intro(&next.piece, &self.root, &self.options.model, self.outside.now_ms());
        let write = || self.outside.write(&partial, &[&intro, next.piece.data()]).and_then(|sync| sync());
        let mut written = write();
        if written.as_ref().is_err_and(is_full) && self.has_less_to_lose(next) {
            self.remove_condemned()?;
            written = self.outside.remove(&partial).and_then(|()| write());
        }
        written.and_then(|()| self.outside.rename(&partial, &path)).map_err(|why| {
            // Also under its name: who says that a thing did not work may have done it.
            let is_gone = [&path, &partial].map(|path| is_removed(&self.outside.remove(path)));
            self.state().other_bytes += if is_gone == [true, true] { 0 } else { next.file_bytes };
            Failed { what: "write", path, why }
        })
    }

    /// Whether something worth less than a piece has left a disk that is full, and the piece may be tried once more.
    fn has_less_to_lose(&self, next: &Next) -> bool {
        let mut state = self.state();
        let disk_bytes = state.disk_bytes(); // in which the piece is counted already
        let Verdict::Instead(victims) = self.verdict(&mut state, &next.name, disk_bytes) else { return false };
        state.evict(victims);
        state.spend(next.file_bytes);
        true
    }

    /// Makes safe what has got its name.
    fn sync(&self, named: Vec<Next>) -> Result<(), Failed> {
        let Some(dir) = self.options.dir.clone().filter(|_| !named.is_empty()) else { return Ok(()) };
        match self.outside.sync(&dir) {
            Ok(()) => {
                let mut state = self.state();
                named.iter().for_each(|n| state.index.change(&n.name, |entry| entry.on_disk = OnDisk::Yes));
                state.patience_ms = 0;
                Ok(())
            }
            Err(why) => {
                // After such an error the system forgets what was not written: a second sync would say that all is well.
                // What hangs from others goes before them.
                for next in named.iter().rev() {
                    let is_gone = is_removed(&self.outside.remove(&self.path(&next.name)));
                    self.unwrite(&next.name, if is_gone { 0 } else { next.file_bytes });
                }
                Err(Failed { what: "sync", path: dir, why })
            }
        }
    }

    /// A piece is in memory only, after all; `n_bytes` of its file could not be removed.
    fn unwrite(&self, name: &Name, n_bytes: u64) {
        let mut state = self.state();
        state.index.change(name, |entry| entry.on_disk = OnDisk::No);
        state.other_bytes += n_bytes;
    }

    fn tell_refused(&self, file_bytes: u64) {
        let dir = self.options.dir.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default();
        if file_bytes > self.options.disk_bytes {
            let line = || {
                format!("{dir}: a piece of {file_bytes} bytes is larger than the folder may be; it is not kept there")
            };
            self.tell("size", line);
        } else if self.state().day_room(self.options.written_bytes_per_day, self.outside.now_ms()) < file_bytes {
            self.tell("day", || {
                format!("{dir}: as many bytes were written today as may be; no more is written until tomorrow")
            });
        }
    }
}

fn is_removed(removed: &io::Result<()>) -> bool {
    removed.as_ref().map_or_else(|e| e.kind() == io::ErrorKind::NotFound, |()| true)
}

/// Whether there is no room left, for this user or anybody.
fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
