//! Who is where: every expert is absent, being read, or in a slot; and how a batch gets those it chose.
//!
//! One lock guards the table and is never held while something is read or computed. An expert that a bank holds is kept by
//! the count of its slot's owners: the slot can be taken for another read only when the table is the last.

use std::{
    collections::VecDeque,
    iter::Sum,
    ops::{Range, Sub},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use compute::{Bank, Device, Expert, Tensor};

use crate::{
    Places, ReadError,
    arena::{Slot, slots},
    heat::Heat,
    reader::{Job, N_READERS, Readers, Source},
};

/// How long no read may come back before the answers that wait end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Experts that a batch reads ahead of the one it needs: enough for all readers, and few enough that those it is done
/// with make room for the others.
const AHEAD: usize = 2 * N_READERS;

/// What was asked for, and what it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Experts that were there when a batch chose them.
    pub n_hits: u64,
    /// Experts that were not.
    pub n_misses: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Time that batches waited for an expert.
    pub stalled: Duration,
}

impl Stats {
    /// Of what was chosen, the part that was there.
    pub fn hit_rate(&self) -> f64 {
        self.n_hits as f64 / (self.n_hits + self.n_misses).max(1) as f64
    }
}

impl Sub for Stats {
    type Output = Stats;

    fn sub(self, before: Stats) -> Stats {
        Stats {
            n_hits: self.n_hits - before.n_hits,
            n_misses: self.n_misses - before.n_misses,
            read_bytes: self.read_bytes - before.read_bytes,
            stalled: self.stalled - before.stalled,
        }
    }
}

impl Sum for Stats {
    fn sum<I: Iterator<Item = Stats>>(parts: I) -> Stats {
        parts.fold(Stats::default(), |a, b| Stats {
            n_hits: a.n_hits + b.n_hits,
            n_misses: a.n_misses + b.n_misses,
            read_bytes: a.read_bytes + b.read_bytes,
            stalled: a.stalled + b.stalled,
        })
    }
}

/// The experts of all layers, and the arena that holds some of them.
pub struct Store {
    places: Places,
    n_slots: usize,
    sources: Arc<Vec<Source>>,
    shared: Arc<Shared>,
    readers: Readers,
}

struct Shared {
    table: Mutex<Table>,
    changed: Condvar,
}

struct Table {
    states: Vec<State>, // layer * n_expert + expert
    free: Vec<Slot>,
    /// Batches that wait for each: it stays until they have it.
    claims: Vec<u16>,
    heat: Heat,
    stats: Stats,
    /// When a read last came back.
    landed: Instant,
}

enum State {
    Absent,
    Reading,
    Here(Arc<Slot>),
    /// Until the next who asks is told; then absent.
    Failed(ReadError),
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
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A read has ended.
    fn land(&self, key: usize, slot: Slot, result: Result<(), ReadError>) {
        let mut table = self.lock();
        table.landed = Instant::now();
        match result {
            Ok(()) => {
                table.states[key] = State::Here(Arc::new(slot));
                table.heat.enter(key);
            }
            Err(e) => {
                table.free.push(slot);
                table.states[key] = State::Failed(e);
            }
        }
        self.changed.notify_all();
    }
}

impl Store {
    /// A store of `n_slots` experts at a time, at least one and at most all; its memory is taken here.
    ///
    /// # Errors
    /// If the files cannot be opened, or there is not enough memory.
    pub fn new(places: Places, n_slots: usize) -> Result<Store, ReadError> {
        let (n_slots, bytes) = (n_slots.clamp(1, places.n_experts().max(1)), places.slot_bytes());
        let error = |source| ReadError::Arena { bytes: n_slots.saturating_mul(bytes), source };
        let sources = Arc::new(places.files.iter().map(|path| Source::open(path)).collect::<Result<Vec<_>, _>>()?);
        let table = Table {
            states: (0..places.n_experts()).map(|_| State::Absent).collect(),
            free: slots(n_slots, bytes).map_err(error)?,
            claims: vec![0; places.n_experts()],
            heat: Heat::new(places.layers.len(), places.n_expert),
            stats: Stats::default(),
            landed: Instant::now(),
        };
        let shared = Arc::new(Shared { table: Mutex::new(table), changed: Condvar::new() });
        let done = shared.clone();
        let done = Arc::new(move |key, slot, result| done.land(key, slot, result));
        let readers = Readers::new(sources.clone(), done).map_err(error)?;
        Ok(Store { places, n_slots, sources, shared, readers })
    }

    /// Experts that there is room for.
    pub fn n_slots(&self) -> usize {
        self.n_slots
    }

    /// The arena's size.
    pub fn arena_bytes(&self) -> usize {
        self.n_slots * self.places.slot_bytes()
    }

    /// What happened since the store was made.
    pub fn stats(&self) -> Stats {
        self.shared.lock().stats
    }

    /// Begins to read what `n_rows` rows chose in a layer, as far as it is not here.
    ///
    /// # Panics
    /// If there is no such layer or expert.
    pub fn ask(&self, layer: usize, choices: &[i32], n_rows: usize) -> Ask<'_> {
        let mut sorted = choices.to_vec();
        sorted.sort_unstable();
        let mut ask = Ask { store: self, layer, rest: VecDeque::new() };
        let mut table = self.shared.lock();
        table.heat.tick(layer);
        for same in sorted.chunk_by(|a, b| a == b) {
            let e = same[0] as usize;
            table.heat.add(layer, e, same.len() as f32 / n_rows as f32);
            let key = self.key(layer, e);
            match table.states[key] {
                State::Here(_) => table.stats.n_hits += 1,
                _ => table.stats.n_misses += 1,
            }
            // What failed for somebody else is tried again for us.
            if matches!(table.states[key], State::Failed(_)) {
                table.states[key] = State::Absent;
            }
            ask.rest.push_back(e);
        }
        ask.request(&mut table);
        drop(table);
        ask
    }

    fn key(&self, layer: usize, e: usize) -> usize {
        assert!(e < self.places.n_expert, "expert {e} of {}", self.places.n_expert);
        layer * self.places.n_expert + e
    }

    fn expert(&self, dev: &dyn Device, layer: usize, e: usize, slot: &Arc<Slot>) -> Result<Expert, ReadError> {
        let extents = self.places.extents(layer, e);
        let load = |i: usize| -> Result<Tensor, ReadError> {
            let m = &self.places.layers[layer][i];
            Ok(dev.load(m.kind, &m.shape, Arc::new(Piece { slot: slot.clone(), range: extents[i].range() }))?)
        };
        Ok(Expert { gate: load(0)?, up: load(1)?, down: load(2)? })
    }
}

impl Table {
    /// The coldest expert in a slot that nobody computes with or waits for, of those that `may` go.
    fn coldest(&self, may: impl Fn(usize) -> bool) -> Option<usize> {
        let alone = |key: usize| matches!(&self.states[key], State::Here(slot) if Arc::strong_count(slot) == 1);
        self.heat.coldest().find(|&key| may(key) && self.claims[key] == 0 && alone(key))
    }

    /// Its slot, from which it is gone.
    fn evict(&mut self, key: usize) -> Slot {
        self.heat.leave(key);
        match std::mem::replace(&mut self.states[key], State::Absent) {
            State::Here(slot) => Arc::into_inner(slot).expect("nobody else has it"),
            _ => unreachable!("heat lists what is in slots"),
        }
    }
}

/// The experts that a batch chose in one layer, and has not yet met.
pub struct Ask<'a> {
    store: &'a Store,
    layer: usize,
    rest: VecDeque<usize>, // ascending
}

impl<'a> Ask<'a> {
    /// Queues reads of what is absent, in the order in which it will be needed, while there are slots.
    fn request(&self, table: &mut Table) {
        let store = self.store;
        for (i, &e) in self.rest.iter().take(AHEAD).enumerate() {
            let key = store.key(self.layer, e);
            if !matches!(table.states[key], State::Absent) {
                continue;
            }
            let Some(slot) = self.room(table, i == 0) else { break };
            table.states[key] = State::Reading;
            let extents = store.places.extents(self.layer, e);
            table.stats.read_bytes += extents.iter().map(|e| e.len as u64).sum::<u64>();
            store.readers.push(Job { key, extents, slot });
        }
    }

    /// A slot for one more expert. What this batch will still need goes only for what it needs now.
    fn room(&self, table: &mut Table, now: bool) -> Option<Slot> {
        if let Some(slot) = table.free.pop() {
            return Some(slot);
        }
        let (store, n_expert) = (self.store, self.store.places.n_expert);
        let ours = |key: usize| key / n_expert == self.layer && self.rest.binary_search(&(key % n_expert)).is_ok();
        let other = table.coldest(|key| !ours(key));
        let last = || table.coldest(|key| key > store.key(self.layer, self.rest[0]));
        let victim = if now { other.or_else(last) } else { other };
        victim.map(|key| table.evict(key))
    }

    /// Calls `compute` with banks of the experts that were asked for, which together hold each of them once, ascending.
    ///
    /// # Errors
    /// What could not be read, or the device's refusal to hold it. The store stays whole: the next who asks tries again.
    pub fn each(mut self, dev: &dyn Device, compute: &mut dyn FnMut(&Bank)) -> Result<(), ReadError> {
        while !self.rest.is_empty() {
            let here = self.next()?;
            let load = |(e, slot): &(usize, Arc<Slot>)| Ok((*e, self.store.expert(dev, self.layer, *e, slot)?));
            let experts = here.experts.iter().map(load).collect::<Result<Vec<_>, ReadError>>()?;
            compute(&Bank::new(self.store.places.n_expert, experts));
        }
        Ok(())
    }

    /// Waits for the next expert; it comes with those after it that are here, as long as half of the slots stay for reads.
    fn next(&mut self) -> Result<Held<'a>, ReadError> {
        let store = self.store;
        let mut table = store.shared.lock();
        let key = store.key(self.layer, self.rest[0]);
        table.claims[key] += 1;
        let (mut table, found) = self.wait(table, key);
        table.claims[key] -= 1;
        found?;
        let mut here = Vec::new();
        while here.len() < store.n_slots.div_ceil(2)
            && let Some(&e) = self.rest.front()
            && let State::Here(slot) = &table.states[store.key(self.layer, e)]
        {
            here.push((e, slot.clone()));
            self.rest.pop_front();
        }
        self.request(&mut table);
        Ok(Held { shared: &store.shared, experts: here })
    }

    /// Waits until the first of the rest, `key`, is here.
    fn wait(&self, mut table: MutexGuard<'a, Table>, key: usize) -> (MutexGuard<'a, Table>, Result<(), ReadError>) {
        let (store, began) = (self.store, Instant::now());
        // What failed may have been asked for by somebody else, or at a bad moment.
        let mut again = true;
        loop {
            self.request(&mut table);
            match &mut table.states[key] {
                State::Here(_) => break,
                failed @ State::Failed(_) if again => {
                    again = false;
                    *failed = State::Absent;
                    continue;
                }
                failed @ State::Failed(_) => {
                    let State::Failed(e) = std::mem::replace(failed, State::Absent) else { unreachable!("just seen") };
                    return (table, Err(e));
                }
                State::Absent | State::Reading => {}
            }
            if began.max(table.landed).elapsed() > PATIENCE {
                let extent = &store.places.extents(self.layer, self.rest[0])[0];
                let (path, offset) = (store.sources[extent.file].path().to_owned(), extent.offset);
                return (table, Err(ReadError::Stalled { path, offset, seconds: PATIENCE.as_secs() }));
            }
            let wait = store.shared.changed.wait_timeout(table, Duration::from_secs(1));
            table = wait.unwrap_or_else(|e| e.into_inner()).0;
        }
        table.stats.stalled += began.elapsed();
        (table, Ok(()))
    }
}

/// Experts that somebody computes with. Letting go of them tells those who wait for a slot.
struct Held<'a> {
    shared: &'a Shared,
    experts: Vec<(usize, Arc<Slot>)>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let table = self.shared.lock();
        self.experts.clear();
        drop(table);
        self.shared.changed.notify_all();
    }
}
