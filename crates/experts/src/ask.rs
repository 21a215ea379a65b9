//! How a batch gets the experts that it chose in one layer: in ascending order, as they land.

use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard},
    time::{Duration, Instant},
};

use compute::{Bank, Device};

use crate::{
    Foresight, ReadError, Store,
    arena::Slot,
    store::Shared,
    table::{State, Table},
};

/// Experts that a batch has read beyond the one it needs: enough for any disk, and few enough that those it is done with
/// make room for the others.
pub(crate) const AHEAD: usize = 16;

/// The experts that a batch chose in one layer, and has not yet met.
pub struct Ask<'a> {
    store: &'a Store,
    layer: usize,
    rest: VecDeque<usize>, // ascending
    /// Nearly all experts were chosen, and nearly all will be in the next layer.
    broad: bool,
}

impl<'a> Ask<'a> {
    /// Begins to read `experts`, ascending, as far as they are not here.
    pub(crate) fn new(
        store: &'a Store,
        layer: usize,
        experts: Vec<usize>,
        mut table: MutexGuard<'_, Table>,
    ) -> Ask<'a> {
        for &e in &experts {
            let key = store.key(layer, e);
            match table.states[key] {
                State::Here(_) => table.stats.n_hits += 1,
                _ => table.stats.n_misses += 1,
            }
            // What failed for somebody else is tried again for us.
            if matches!(table.states[key], State::Failed(_)) {
                table.states[key] = State::Absent;
            }
            table.wanted[key] += 1;
        }
        let broad = experts.len() * 10 >= store.places.n_expert * 9;
        let ask = Ask { store, layer, rest: experts.into(), broad };
        ask.request(&mut table);
        ask
    }

    /// Queues reads of what is absent, in the order in which it will be needed, while there are slots.
    fn request(&self, table: &mut Table) {
        let store = self.store;
        for (i, &e) in self.rest.iter().take(AHEAD).enumerate() {
            let key = store.key(self.layer, e);
            if !matches!(table.states[key], State::Absent) {
                continue;
            }
            let room = if i == 0 { table.room_now() } else { table.room() };
            let Some(slot) = room else { return };
            let job = store.job(table, key, slot);
            store.readers.push(job);
        }
        if self.broad && self.rest.len() <= AHEAD && self.layer + 1 < store.places.layers.len() {
            let next = store.key(self.layer + 1, 0);
            let _ = (next..next + store.places.n_expert).all(|key| store.expect(table, key, Foresight::Certain));
        }
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
        while here.len() < table.n_slots.div_ceil(2)
            && let Some(&e) = self.rest.front()
            && let State::Here(slot) = &table.states[store.key(self.layer, e)]
        {
            here.push((e, slot.clone()));
            table.wanted[store.key(self.layer, e)] -= 1;
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
            if began.max(table.landed).elapsed() > store.patience {
                let extent = &store.places.extents(self.layer, self.rest[0])[0];
                let (path, offset) = (store.sources[extent.file].path().to_owned(), extent.offset);
                return (table, Err(ReadError::Stalled { path, offset, seconds: store.patience.as_secs() }));
            }
            let wait = store.shared.changed.wait_timeout(table, Duration::from_secs(1).min(store.patience));
            table = wait.unwrap_or_else(|e| e.into_inner()).0;
        }
        table.stats.stalled += began.elapsed();
        (table, Ok(()))
    }
}

impl Drop for Ask<'_> {
    fn drop(&mut self) {
        let mut table = self.store.shared.lock();
        for &e in &self.rest {
            table.wanted[self.store.key(self.layer, e)] -= 1;
        }
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
