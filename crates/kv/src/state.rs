//! What all threads of a store share, and the bounds of its memory.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::PathBuf,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::{
    Name, Options, Stats,
    index::{Entry, Index, Need, OnDisk, Place},
    outside::{Lock, Outside},
};

const DAY_MS: u64 = 86_400_000;

/// What is shared.
pub(crate) struct Shared {
    pub(crate) root: Name,
    pub(crate) options: Options,
    pub(crate) outside: Box<dyn Outside>,
    state: Mutex<State>,
    /// The writer has something to do.
    pub(crate) work: Condvar,
    /// The writer has done what was asked for.
    pub(crate) done: Condvar,
    /// Held by who looks what is in the folder.
    pub(crate) scanning: Mutex<()>,
}

/// What changes.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) index: Index,
    /// What is to be written next, parents first.
    pub(crate) queue: VecDeque<Name>,
    /// Bytes that were kept since it was looked for what should leave memory for the folder.
    pub(crate) kept_bytes: u64,
    /// Pieces that are better than those of the same names that are being written just now.
    pub(crate) late: Vec<(Name, Entry)>,
    /// Files that nobody uses any more. Only the writer removes them.
    pub(crate) condemned: HashMap<Name, Condemned>,
    n_condemned: u64,
    /// Bytes of files that are none of the pieces.
    pub(crate) other_bytes: u64,
    /// Held while this store may write.
    pub(crate) lock: Option<Lock>,
    /// When to try again for that, and how long to wait the next time.
    pub(crate) retry_at_ms: u64,
    pub(crate) patience_ms: u64,
    /// Whether the folder may hold more than it should since somebody else wrote to it.
    pub(crate) is_untrimmed: bool,
    /// When the folder had changed last when it was looked at, and when that was.
    pub(crate) seen: Option<(u64, u64)>,
    /// What was told.
    told: HashSet<&'static str>,
    /// Only what is counted, not what the index knows.
    pub(crate) counts: Stats,
    /// The day of the last write, and the bytes of that day.
    day: u64,
    day_bytes: u64,
    /// How many times somebody asked for all to be written, and how many of these are answered.
    pub(crate) n_asked: u64,
    pub(crate) n_answered: u64,
    /// The writer is to end.
    pub(crate) is_ending: bool,
    /// The writer has ended, or never was.
    pub(crate) is_alone: bool,
}

/// A file that is to be removed.
#[derive(Clone, Copy)]
pub(crate) struct Condemned {
    n_bytes: u64,
    /// Counts up: what hangs from others goes before them, so that no chain ever has a hole.
    turn: u64,
}

impl Shared {
    pub(crate) fn new(root: Name, options: Options, outside: Box<dyn Outside>) -> Shared {
        let (day, day_bytes) = (outside.now_ms() / DAY_MS, options.written_today_bytes);
        let state = Mutex::new(State { day, day_bytes, ..State::default() });
        let (work, done) = (Condvar::new(), Condvar::new());
        Shared { root, options, outside, state, work, done, scanning: Mutex::default() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Every change leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells something, once. Nobody holds the state meanwhile: who listens may be slow.
    pub(crate) fn tell(&self, what: &'static str, line: impl FnOnce() -> String) {
        let is_new = self.state().told.insert(what);
        if is_new {
            (self.options.warn)(&line());
        }
    }

    /// Where a piece's file is. Only who has a folder asks.
    pub(crate) fn path(&self, name: &Name) -> PathBuf {
        self.options.dir.clone().unwrap_or_default().join(format!("{name}.kv"))
    }

    /// What is known of a piece, if it is one that this store may use.
    pub(crate) fn ours<'a>(&self, state: &'a State, name: &Name) -> Option<&'a Entry> {
        state.index.get(name).filter(|entry| entry.root == self.root && state.index.fits(entry))
    }

    /// Takes pieces out of memory until they fit: first those that have a file, then those that are worth least.
    pub(crate) fn shrink(&self, state: &mut State) {
        let over = |state: &State| state.index.totals().ram_bytes.saturating_sub(self.options.ram_bytes);
        if over(state) == 0 {
            return;
        }
        while let Some(name) = state.index.oldest_copy().filter(|_| over(state) > 0) {
            state.index.change(&name, |entry| entry.ram = None);
        }
        let need = Need::beyond(self.options.ram_bytes, state.index.totals().ram_bytes);
        let (victims, _) = state.index.victims(Place::Ram, need, None, self.outside.now_ms());
        state.counts.n_dropped += victims.len() as u64;
        victims.iter().for_each(|name| state.index.forget(name));
    }

    pub(crate) fn stats(&self) -> Stats {
        let state = self.state();
        let totals = state.index.totals();
        let (n_ram, ram_bytes, n_disk) = (totals.n_ram, totals.ram_bytes, totals.n_disk);
        Stats { n_ram, ram_bytes, n_disk, disk_bytes: state.disk_bytes(), ..state.counts }
    }
}

impl State {
    /// Bytes of all files in the folder, and of what is being written.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.index.totals().disk_bytes + self.other_bytes + self.condemned.values().map(|c| c.n_bytes).sum::<u64>()
    }

    /// Takes a piece that has a file out of use; the file is removed when the writer comes to it.
    pub(crate) fn condemn(&mut self, name: Name) {
        let Some(entry) = self.index.get(&name).filter(|entry| entry.on_disk == OnDisk::Yes) else { return };
        let n_bytes = entry.file_bytes;
        self.remove_soon(name, n_bytes);
        self.index.forget(&name);
    }

    /// Has a file removed.
    pub(crate) fn remove_soon(&mut self, name: Name, n_bytes: u64) {
        self.n_condemned += 1;
        self.condemned.insert(name, Condemned { n_bytes, turn: self.n_condemned });
    }

    /// Which files are to be removed, in this order.
    pub(crate) fn condemned(&self) -> Vec<Name> {
        let mut all: Vec<_> = self.condemned.iter().map(|(name, condemned)| (condemned.turn, *name)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, name)| name).collect()
    }

    /// Takes pieces out of use for better ones.
    pub(crate) fn evict(&mut self, victims: Vec<Name>) {
        self.counts.n_evicted += victims.len() as u64;
        victims.into_iter().for_each(|name| self.condemn(name));
    }

    /// Bytes that may still be written today.
    pub(crate) fn day_room(&mut self, bytes_per_day: u64, now_ms: u64) -> u64 {
        let day = now_ms / DAY_MS;
        // Who sets the clock back does not get a day twice.
        if day > self.day {
            (self.day, self.day_bytes) = (day, 0);
        }
        bytes_per_day.saturating_sub(self.day_bytes)
    }

    /// Counts bytes before they are written.
    pub(crate) fn spend(&mut self, n_bytes: u64) {
        self.day_bytes = self.day_bytes.saturating_add(n_bytes);
        self.counts.written_bytes += n_bytes;
    }
}
