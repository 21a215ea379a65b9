//! The experts of all layers, and who may read them.
//!
//! One lock guards the table and is never held while something is read or computed. An expert that a bank holds is kept by
//! the count of its slot's owners: the slot can be taken for another read only when the table is the last.

use std::{
    ops::Range,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use compute::{Device, Expert, Tensor};

use crate::{
    Ask, Places, ReadError, Stats,
    arena::{Slot, slots},
    growth::Growth,
    heat::Score,
    io::{Job, Probe, Readers, Settings, Source, probe},
    table::{State, Table},
};

/// How long a read may be under way while somebody waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// Steps in which an arena grows from nothing to its full size.
const GROWTH_STEPS: usize = 8;

/// The experts of all layers, and the arena that holds some of them.
pub struct Store {
    pub(crate) places: Places,
    pub(crate) sources: Arc<Vec<Source>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) readers: Readers,
    pub(crate) patience: Duration,
    room: Room,
    probe: Option<Probe>,
    /// What that took.
    probe_bytes: u64,
}

/// How many experts a store has room for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// At first.
    pub n_slots: usize,
    /// After it has grown as far as it may.
    pub n_slots_max: usize,
    /// Whether the system has so many bytes to spare.
    pub is_free: fn(u64) -> bool,
}

impl Room {
    /// Always the same.
    pub fn fixed(n_slots: usize) -> Room {
        Room { n_slots, n_slots_max: n_slots, is_free: |_| true }
    }
}

/// The table, and who waits for a change in it.
pub(crate) struct Shared {
    table: Mutex<Table>,
    pub(crate) changed: Condvar,
}

/// How sure it is that a layer will choose an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foresight {
    /// Its choice depends on nothing that is not yet known.
    Certain,
    /// Something like its router says so.
    Guess,
}

/// A part of a slot, as a device takes it.
struct Piece {
    slot: Arc<Slot>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.slot.bytes()[self.range.clone()]
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A read has ended.
    pub(crate) fn land(&self, key: usize, slot: Slot, result: Result<(), ReadError>) {
        self.lock().land(key, slot, result);
        self.changed.notify_all();
    }
}

impl Store {
    /// A store with room for at least one and at most all experts; its memory is taken here, and when it grows. Measures
    /// how the disk is best read.
    ///
    /// # Errors
    /// If the files cannot be opened, there is not enough memory, or the disk does not answer.
    pub fn new(places: Places, room: Room) -> Result<Store, ReadError> {
        let n_max = room.n_slots_max.clamp(1, places.n_experts().max(1));
        let (n_slots, bytes) = (room.n_slots.clamp(1, n_max), places.slot_bytes());
        let error = |source| ReadError::Arena { bytes: n_slots.saturating_mul(bytes), source };
        let sources = Arc::new(places.files.iter().map(|path| Source::open(path)).collect::<Result<Vec<_>, _>>()?);
        let mut free = slots(n_slots, bytes).map_err(error)?;
        let (probe, probe_bytes) = probe(&sources, &places, &mut free)?;
        let growth = Growth::new(n_max - n_slots, n_max / GROWTH_STEPS);
        let table = Mutex::new(Table::new(places.layers.len(), places.n_expert, free, growth));
        let shared = Arc::new(Shared { table, changed: Condvar::new() });
        let done = shared.clone();
        let done = Arc::new(move |key, slot, result| done.land(key, slot, result));
        let settings = probe.map_or_else(Settings::default, Settings::from);
        let readers = Readers::new(sources.clone(), settings, done).map_err(error)?;
        let room = Room { n_slots, n_slots_max: n_max, ..room };
        Ok(Store { places, sources, shared, readers, patience: PATIENCE, room, probe, probe_bytes })
    }

    /// Experts that there is room for now.
    pub fn n_slots(&self) -> usize {
        self.shared.lock().n_slots
    }

    /// Experts that there will be room for, at most.
    pub fn n_slots_max(&self) -> usize {
        self.room.n_slots_max
    }

    /// The arena's size when it has grown.
    pub fn arena_bytes(&self) -> usize {
        self.room.n_slots_max * self.places.slot_bytes()
    }

    /// How fast the disk was when the store was made, if that could be measured.
    pub fn probe(&self) -> Option<Probe> {
        self.probe
    }

    /// What happened since the store was made, and the bytes that were read to measure the disk.
    pub fn stats(&self) -> Stats {
        Stats { read_bytes: self.probe_bytes + self.readers.landed_bytes(), ..self.shared.lock().stats }
    }

    /// Begins to read what `n_rows` rows chose in a layer, as far as it is not here.
    ///
    /// # Panics
    /// If there is no such layer or expert.
    pub fn ask(&self, layer: usize, choices: &[i32], n_rows: usize) -> Ask<'_> {
        let mut keys = self.keys(layer, choices);
        keys.sort_unstable();
        let mut table = self.shared.lock();
        table.token(layer, n_rows).into_iter().for_each(|n| self.grow(n));
        table.heat.tick(layer);
        let first = self.key(layer, 0);
        for same in keys.chunk_by(|a, b| a == b) {
            table.heat.add(layer, same[0] - first, same.len() as f32 / n_rows as f32);
        }
        let share = choices.len() as f64 / (n_rows * self.places.n_expert) as f64;
        keys.dedup();
        self.settle(&mut table, layer, &keys);
        Ask::new(self, layer, keys.iter().map(|key| key - first).collect(), share, table)
    }

    /// A layer has chosen: what was read ahead for it in vain is left where it is not yet read.
    fn settle(&self, table: &mut Table, layer: usize, chosen: &[usize]) {
        let first = self.key(layer, 0);
        let wrong = table.settle(first..first + self.places.n_expert, |key| chosen.binary_search(&key).is_ok());
        for job in self.readers.take_back(&|key| wrong.contains(&key)) {
            let slot = self.unqueue(table, job);
            table.free.push(slot);
            self.shared.changed.notify_all();
        }
    }

    /// Begins to read experts before their layer has chosen, behind all that was, as far as there is room. They stay until
    /// it has.
    ///
    /// # Panics
    /// If there is no such layer or expert.
    pub fn read_ahead(&self, layer: usize, experts: &[i32], foresight: Foresight) {
        let keys = self.keys(layer, experts);
        let mut table = self.shared.lock();
        let _ = keys.iter().all(|&key| self.expect(&mut table, key, foresight, Score::HOTTEST));
    }

    /// Every expert that choices have made hot, hottest first: its layer, its number there and its heat now. What [`Store::warm`]
    /// gave is left out, so that what is known confirms nothing.
    pub fn heat(&self) -> Vec<(usize, usize, f32)> {
        let (table, n_expert) = (self.shared.lock(), self.places.n_expert);
        let of = |key: usize| (key / n_expert, key % n_expert, table.heat.earned(key) as f32);
        let mut all: Vec<_> = (0..self.places.n_experts()).map(of).filter(|e| e.2 > 0.0).collect();
        all.sort_by(|a, b| b.2.total_cmp(&a.2));
        all
    }

    /// Begins to read as many of these as there is free room for, in this order, behind all that was; their heat is what
    /// is given.
    pub fn warm(&self, list: &[(usize, usize, f32)]) {
        let mut table = self.shared.lock();
        for &(layer, e, heat) in list.iter().filter(|l| l.0 < self.places.layers.len() && l.1 < self.places.n_expert) {
            let key = self.key(layer, e);
            table.heat.give(key, f64::from(heat));
            if matches!(table.states[key], State::Absent)
                && let Some(slot) = table.free.pop()
            {
                let job = self.job(&mut table, key, slot);
                self.readers.push_ahead(job);
            }
        }
    }

    /// Takes memory for `n` more slots, beside the answers that go on.
    fn grow(&self, n: usize) {
        let (shared, bytes, is_free) = (self.shared.clone(), self.places.slot_bytes(), self.room.is_free);
        let take = move || {
            let more = is_free((n * bytes) as u64).then(|| slots(n, bytes).ok()).flatten();
            shared.lock().grow(more);
            shared.changed.notify_all();
        };
        // Without a thread, the step is lost.
        let _ = std::thread::Builder::new().name("arena".into()).spawn(take);
    }

    /// Whether guesses are worth their reads, as far as is known, for a batch of so many rows.
    pub fn guesses(&self, n_rows: usize) -> bool {
        n_rows == 1 && self.shared.lock().trial.guesses()
    }

    /// Reads an expert ahead, or keeps it; false if there is no slot but those of others that rank as high as `below`.
    pub(crate) fn expect(&self, table: &mut Table, key: usize, foresight: Foresight, below: Score) -> bool {
        if !table.may_expect() {
            return false;
        }
        let is_missing = matches!(table.states[key], State::Absent | State::Failed(_));
        if is_missing {
            let Some(slot) = table.room(below) else { return false };
            let job = self.job(table, key, slot);
            self.readers.push_ahead(job);
        }
        table.expect(key, foresight, is_missing);
        true
    }

    /// A slot for what a batch chose: a free one, else of what is coldest of those that are here and of reads ahead that
    /// have not begun. If it is `needed` now, it may be that of an expert which somebody else, or this batch, will need.
    pub(crate) fn slot(&self, table: &mut Table, needed: bool) -> Option<Slot> {
        let free = table.free.pop();
        if free.is_some() {
            return free;
        }
        let coldest = table.coldest_spare();
        let is_colder = |key: usize| coldest.is_none_or(|coldest| table.heat.rank(key) < table.heat.rank(coldest));
        if let Some(job) = self.readers.take_back_last(&|key| table.is_spare(key) && is_colder(key)) {
            return Some(self.unqueue(table, job));
        }
        let coldest = if needed { table.coldest_of_all() } else { coldest };
        coldest.map(|key| table.evict(key))
    }

    /// The slot of a read that was taken back.
    fn unqueue(&self, table: &mut Table, Job { key, slot, .. }: Job) -> Slot {
        // It may have come by a read that had been given up.
        if matches!(table.states[key], State::Reading) {
            table.states[key] = State::Absent;
        }
        slot
    }

    /// Gives up reads that do not end; whether there were any.
    pub(crate) fn give_up(&self, table: &mut Table) -> bool {
        let lost = self.readers.give_up(self.patience);
        let is_any = !lost.is_empty();
        lost.into_iter().for_each(|(key, why)| table.give_up(key, why));
        if is_any {
            self.shared.changed.notify_all();
        }
        is_any
    }

    /// A read of an expert into a slot.
    pub(crate) fn job(&self, table: &mut Table, key: usize, slot: Slot) -> Job {
        let (layer, e) = (key / self.places.n_expert, key % self.places.n_expert);
        table.states[key] = State::Reading;
        Job { key, extents: self.places.extents(layer, e), slot }
    }

    /// Keys of experts of a layer. To be made before the table is locked, since what comes from outside may be wrong.
    fn keys(&self, layer: usize, experts: &[i32]) -> Vec<usize> {
        assert!(layer < self.places.layers.len(), "layer {layer} of {}", self.places.layers.len());
        experts.iter().map(|&e| self.key(layer, e as usize)).collect()
    }

    pub(crate) fn key(&self, layer: usize, e: usize) -> usize {
        assert!(e < self.places.n_expert, "expert {e} of {}", self.places.n_expert);
        layer * self.places.n_expert + e
    }

    pub(crate) fn expert(
        &self,
        dev: &dyn Device,
        layer: usize,
        e: usize,
        slot: &Arc<Slot>,
    ) -> Result<Expert, ReadError> {
        let extents = self.places.extents(layer, e);
        let load = |i: usize| -> Result<Tensor, ReadError> {
            let m = &self.places.layers[layer][i];
            let w = dev.load(m.kind, &m.shape, Arc::new(Piece { slot: slot.clone(), range: extents[i].range() }))?;
            dev.label(&w, &m.name);
            Ok(w)
        };
        Ok(Expert { gate: load(0)?, up: load(1)?, down: load(2)? })
    }
}
