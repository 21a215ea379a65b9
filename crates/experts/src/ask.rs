//! How a batch gets the experts that it chose in one layer: in ascending order, as they land.

use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard},
    time::Instant,
};

use compute::{Bank, Device};

use crate::{
    Foresight, ReadError, Store,
    arena::Slot,
    io::TICK,
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
    experts: Vec<usize>, // ascending
    /// Those of them that are computed, and wait for others before them to be added.
    kept: Vec<bool>,
    rest: VecDeque<usize>, // ascending, those that are not computed
    /// If nearly all experts were chosen, and so nearly all will be in the next layer: the share of rows that choose one.
    broad: Option<f64>,
}

/// What to do with experts that have come, so that all are added in ascending order.
pub enum Turn<'a> {
    /// Add what a bank has.
    Add(&'a Bank),
    /// Compute the one expert of a bank, and keep that under a number below that of a row's choices.
    Keep(usize, &'a Bank),
    /// Add what was kept under a number.
    AddKept(usize),
}

impl<'a> Ask<'a> {
    /// Begins to read `experts`, ascending, as far as they are not here; an expert is chosen by this share of the rows, in
    /// the mean.
    pub(crate) fn new(
        store: &'a Store,
        layer: usize,
        experts: Vec<usize>,
        share: f64,
        mut table: MutexGuard<'_, Table>,
    ) -> Ask<'a> {
        for &e in &experts {
            let key = store.key(layer, e);
            match table.states[key] {
                State::Here(_) => table.stats.n_hits += 1,
                _ => table.stats.n_misses += 1,
            }
            // What failed for somebody else is tried again for us.
            let _ = table.take_failure(key);
            table.wanted[key] += 1;
        }
        let broad = (experts.len() * 10 >= store.places.n_expert * 9).then_some(share);
        let (kept, rest) = (vec![false; experts.len()], experts.iter().copied().collect());
        let ask = Ask { store, layer, experts, kept, rest, broad };
        ask.request(&mut table);
        ask
    }

    /// Queues reads of what is absent, in the order in which it will be needed, while there are slots. What others, or a
    /// guess, have had read ahead is hurried.
    fn request(&self, table: &mut Table) {
        let store = self.store;
        let keys: Vec<usize> = self.rest.iter().take(AHEAD).map(|&e| store.key(self.layer, e)).collect();
        if keys.iter().any(|&key| matches!(table.states[key], State::Reading)) {
            store.readers.hurry(&keys);
        }
        for (i, key) in keys.into_iter().enumerate() {
            if !matches!(table.states[key], State::Absent) {
                continue;
            }
            let Some(slot) = store.slot(table, i == 0) else { return };
            let job = store.job(table, key, slot);
            store.readers.push(job);
        }
        if let Some(share) = self.broad
            && self.rest.len() <= AHEAD
            && self.layer + 1 < store.places.layers.len()
        {
            let next = store.key(self.layer + 1, 0);
            let _ = (next..next + store.places.n_expert).all(|key| {
                // Nothing has to go for it that will be hotter when it is chosen.
                let rank = table.heat.rank_if_chosen(key, share);
                store.expect(table, key, Foresight::Certain, rank)
            });
        }
    }

    /// Calls `compute` with banks of the experts that were asked for, which together hold each of them once, ascending.
    ///
    /// # Errors
    /// What could not be read, or the device's refusal to hold it. The store stays whole: the next who asks tries again.
    pub fn each(mut self, dev: &dyn Device, compute: &mut dyn FnMut(&Bank)) -> Result<(), ReadError> {
        while !self.rest.is_empty() {
            let (here, _) = self.next(false)?;
            compute(&self.bank(dev, &here)?);
        }
        Ok(())
    }

    /// As [`Ask::each`], but what is here is computed while what comes before it is still being read: see [`Turn`].
    ///
    /// # Errors
    /// As [`Ask::each`].
    pub fn each_early(mut self, dev: &dyn Device, compute: &mut dyn FnMut(Turn)) -> Result<(), ReadError> {
        while let Some(&first) = self.rest.front() {
            let (here, is_early) = self.next(true)?;
            let bank = self.bank(dev, &here)?;
            if is_early {
                compute(Turn::Keep(self.place(here.experts[0].0), &bank));
                continue;
            }
            compute(Turn::Add(&bank));
            // The bank first: who is told that slots are free must find them so.
            drop((bank, here));
            self.add_kept(first, compute);
        }
        Ok(())
    }

    /// Has those added that were kept because `first`, or one before it, was not there.
    fn add_kept(&mut self, first: usize, compute: &mut dyn FnMut(Turn)) {
        let next = self.rest.front().copied().unwrap_or(usize::MAX);
        for (place, &e) in self.experts.iter().enumerate() {
            if first < e && e < next && std::mem::take(&mut self.kept[place]) {
                compute(Turn::AddKept(place));
            }
        }
    }

    /// The place of an expert among those that were asked for.
    fn place(&self, e: usize) -> usize {
        self.experts.binary_search(&e).expect("it was asked for")
    }

    fn bank(&self, dev: &dyn Device, here: &Held) -> Result<Bank, ReadError> {
        let load = |(e, slot): &(usize, Arc<Slot>)| Ok((*e, self.store.expert(dev, self.layer, *e, slot)?));
        let experts = here.experts.iter().map(load).collect::<Result<Vec<_>, ReadError>>()?;
        Ok(Bank::new(self.store.places.n_expert, experts))
    }

    /// Waits for the next expert; it comes with those after it that are here, as long as half of the slots stay for reads.
    /// If `early`, one that is here comes before those that are not; whether it does.
    fn next(&mut self, early: bool) -> Result<(Held<'a>, bool), ReadError> {
        let store = self.store;
        let mut table = store.shared.lock();
        let key = store.key(self.layer, self.rest[0]);
        table.claims[key] += 1;
        let (mut table, found) = self.wait(table, key, early);
        table.claims[key] -= 1;
        found?;
        let mut here = Vec::new();
        match self.rest.iter().position(|&e| self.slot(&table, e).is_some()) {
            Some(i @ 1..) => here.extend(self.take(&mut table, i)),
            _ => {
                while here.len() < table.n_slots.div_ceil(2)
                    && let Some(&e) = self.rest.front()
                    && here.last().is_none_or(|&(last, _)| !self.is_kept_between(last, e))
                    && self.slot(&table, e).is_some()
                {
                    here.extend(self.take(&mut table, 0));
                }
            }
        }
        let is_early = here.first().is_some_and(|&(e, _)| self.kept[self.place(e)]);
        self.request(&mut table);
        Ok((Held { shared: &store.shared, experts: here }, is_early))
    }

    fn is_kept_between(&self, a: usize, b: usize) -> bool {
        self.kept[self.place(a)..self.place(b)].contains(&true)
    }

    /// An expert's slot, if it is here.
    fn slot<'t>(&self, table: &'t Table, e: usize) -> Option<&'t Arc<Slot>> {
        match &table.states[self.store.key(self.layer, e)] {
            State::Here(slot) => Some(slot),
            _ => None,
        }
    }

    /// Takes the `i`-th of the rest, which is here. What is not the first is kept until those before it are added.
    fn take(&mut self, table: &mut Table, i: usize) -> Option<(usize, Arc<Slot>)> {
        let e = self.rest.remove(i)?;
        let slot = self.slot(table, e)?.clone();
        table.wanted[self.store.key(self.layer, e)] -= 1;
        let place = self.place(e);
        self.kept[place] = i > 0;
        Some((e, slot))
    }

    /// Waits until the first of the rest, `key`, is here; if `early`, until any of them is.
    fn wait(
        &self,
        mut table: MutexGuard<'a, Table>,
        key: usize,
        early: bool,
    ) -> (MutexGuard<'a, Table>, Result<(), ReadError>) {
        let (store, began) = (self.store, Instant::now());
        let (tick, mut n_idle, mut is_retry) = (TICK.min(store.patience), 0, false);
        loop {
            self.request(&mut table);
            if let Some(end) = self.look(&mut table, key, early, &mut is_retry) {
                table.stats.stalled += began.elapsed();
                return (table, end);
            }
            if store.give_up(&mut table) {
                n_idle = 0;
                continue;
            }
            // A read that has begun is given up before.
            if tick * n_idle > 2 * store.patience {
                let error = self.nothing_happens(&table, key);
                return (table, Err(error));
            }
            let (next, wait) = store.shared.changed.wait_timeout(table, tick).unwrap_or_else(|e| e.into_inner());
            table = next;
            n_idle = if wait.timed_out() { n_idle + 1 } else { 0 };
        }
    }

    /// Whether there is something to compute, or never will be. What failed is tried again once: it may have been asked for
    /// by somebody else, or at a bad moment.
    fn look(&self, table: &mut Table, key: usize, early: bool, is_retry: &mut bool) -> Option<Result<(), ReadError>> {
        if let Some(why) = table.take_failure(key) {
            if !std::mem::replace(is_retry, true) {
                self.request(table);
            }
            // Where there is no slot for another try, that was all.
            return matches!(table.states[key], State::Absent).then_some(Err(why));
        }
        let is_here = |&e: &usize| self.slot(table, e).is_some();
        let found = if early { self.rest.iter().any(is_here) } else { self.rest.front().is_some_and(is_here) };
        found.then_some(Ok(()))
    }

    /// Nobody reads, computes or lets go of anything.
    fn nothing_happens(&self, table: &Table, key: usize) -> ReadError {
        let store = self.store;
        match table.states[key] {
            State::Absent => ReadError::NoSlot { seconds: store.patience.as_secs() },
            _ => {
                let extent = &store.places.extents(self.layer, self.rest[0])[0];
                store.sources[extent.file].stalled(extent.offset, store.patience)
            }
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        common::{InPlace, Model},
        hand::Hand,
    };

    /// Has experts of layer 0 read.
    fn bring(model: &Model, store: &Store, hand: &mut Hand, experts: &[i32]) {
        let ask = store.ask(0, experts, 1);
        hand.land_all(store);
        model.each(0, ask).1.unwrap_or_else(|e| panic!("{e}"));
    }

    /// The turns of a token that chooses `chosen`, of which `here` is there; the others land during the last turn that they
    /// do not wait for.
    fn turns(chosen: &[i32], here: &[i32]) -> Vec<String> {
        let model = Model::new(1, 20);
        let mut store = model.store(20);
        let mut hand = Hand::new(&mut store);
        bring(&model, &store, &mut hand, here);
        let mut turns = Vec::new();
        let ask = store.ask(0, chosen, 1);
        let each = ask.each_early(&InPlace, &mut |turn| {
            turns.push(match turn {
                Turn::Add(bank) => format!("add {:?}", model.check(0, bank)),
                Turn::Keep(i, bank) => format!("keep {:?} as {i}", model.check(0, bank)),
                Turn::AddKept(i) => format!("add kept {i}"),
            });
            if turns.len() == here.len() {
                hand.land_all(&store);
            }
        });
        each.unwrap_or_else(|e| panic!("{e}"));
        turns
    }

    #[test]
    fn what_is_here_is_computed_while_what_comes_before_it_is_read() {
        assert_eq!(turns(&[0, 5], &[5]), ["keep [5] as 1", "add [0]", "add kept 1"]);
        assert_eq!(turns(&[5, 0], &[0]), ["add [0]", "add [5]"]);
        assert_eq!(turns(&[1, 2, 3], &[1, 2, 3]), ["add [1, 2, 3]"]);
    }

    #[test]
    fn a_run_never_jumps_over_one_that_is_kept() {
        let expected = ["keep [2] as 1", "add [0]", "add kept 1", "add [4, 6]"];
        assert_eq!(turns(&[0, 2, 4, 6], &[2]), expected);
        let expected = ["keep [2] as 1", "keep [3] as 2", "add [0]", "add kept 1", "add kept 2", "add [4]"];
        assert_eq!(turns(&[0, 2, 3, 4], &[2, 3]), expected);
    }

    #[test]
    fn what_others_have_read_ahead_is_hurried() {
        let model = Model::new(1, 20);
        let mut store = model.store(4);
        let mut hand = Hand::new(&mut store);
        bring(&model, &store, &mut hand, &[10, 11, 12, 13]);
        let mut asks = Vec::new();
        let each = store.ask(0, &[10, 11], 1).each(&InPlace, &mut |_| {
            let each = store.ask(0, &[12, 13], 1).each(&InPlace, &mut |_| asks.push(store.ask(0, &[3], 1)));
            each.unwrap_or_else(|e| panic!("{e}"));
        });
        each.unwrap_or_else(|e| panic!("{e}"));
        store.read_ahead(0, &[6, 3], Foresight::Certain);
        asks[0].request(&mut store.shared.lock());
        assert_eq!(hand.land_all(&store), [3, 6]);
    }

    #[test]
    fn what_was_added_keeps_no_slot() {
        let model = Model::new(1, 20);
        let mut store = model.store(2);
        let mut hand = Hand::new(&mut store);
        bring(&model, &store, &mut hand, &[5]);
        let each = store.ask(0, &[0, 5], 1).each_early(&InPlace, &mut |turn| match turn {
            Turn::Keep(..) => _ = hand.land(&store),
            Turn::Add(_) => {}
            Turn::AddKept(_) => {
                let is_held = |state: &State| matches!(state, State::Here(slot) if Arc::strong_count(slot) > 1);
                assert!(!store.shared.lock().states.iter().any(is_held));
            }
        });
        each.unwrap_or_else(|e| panic!("{e}"));
    }

    #[test]
    fn a_batch_that_chose_nearly_all_has_the_next_layer_read() {
        let model = Model::new(2, 10);
        for (n_chosen, n_slots, n_ahead) in [(10, 20, 10), (9, 20, 10), (8, 20, 0), (10, 12, 2)] {
            let mut store = model.store(n_slots);
            let mut hand = Hand::new(&mut store);
            let choices: Vec<i32> = (0..n_chosen).collect();
            let ask = store.ask(0, &choices, 1);
            let keys = hand.land_all(&store);
            assert!(keys.iter().copied().eq((0..n_chosen as usize).chain(10..10 + n_ahead)), "{keys:?}");
            model.each(0, ask).1.unwrap_or_else(|e| panic!("{e}"));
            let before = store.stats();
            let ask = store.ask(1, &choices, 1);
            let keys = hand.land_all(&store);
            assert_eq!((store.stats() - before).n_hits, n_ahead.min(n_chosen as usize) as u64);
            assert!(keys.iter().copied().eq(10 + n_ahead..10 + n_chosen as usize), "{keys:?}, after the last layer");
            model.each(1, ask).1.unwrap_or_else(|e| panic!("{e}"));
        }
    }

    /// What comes of asking a store of `n_slots` for expert 3, whose first `n_lost` reads do not end.
    fn lose(n_slots: usize, n_lost: usize) -> (Model, Store, Hand, Result<Vec<usize>, String>) {
        let model = Model::new(1, 20);
        let mut store = model.store(n_slots);
        let mut hand = Hand::new(&mut store);
        bring(&model, &store, &mut hand, &[5]);
        store.patience = Duration::from_millis(250);
        let (added, result) = std::thread::scope(|s| {
            let waits = s.spawn(|| model.each(0, store.ask(0, &[3], 1)));
            (0..n_lost).for_each(|_| assert_eq!(hand.lose(&store), 3));
            if n_lost < 2 && n_slots > 1 {
                assert_eq!(hand.land(&store), 3);
            }
            waits.join().expect("it ends")
        });
        (model, store, hand, result.map(|()| added).map_err(|e| e.to_string()))
    }

    #[test]
    fn a_read_that_does_not_end_is_tried_again() {
        let (model, store, mut hand, result) = lose(3, 1);
        assert_eq!(result, Ok(vec![3]));
        hand.find(&store);
        assert_eq!(store.shared.lock().free.len(), 1, "a slot that comes late is not lost");
        assert_eq!(model.each(0, store.ask(0, &[3, 5], 1)).0, [3, 5]);
    }

    #[test]
    fn reads_that_do_not_end_are_told_and_others_go_on() {
        for (n_slots, n_lost) in [(3, 2), (1, 1)] {
            let (model, store, mut hand, result) = lose(n_slots, n_lost);
            let error = result.expect_err("nothing lands");
            let offset = store.places.extents(0, 3)[0].offset;
            let expected = format!("model.gguf: no answer for 0 seconds to a read at offset {offset}");
            assert!(error.ends_with(&expected), "{error}");
            if n_slots > 2 {
                assert_eq!(model.each(0, store.ask(0, &[5], 1)).0, [5]);
            }
            hand.find(&store);
            assert_eq!(model.each(0, store.ask(0, &[3], 1)).0, [3], "it came late");
        }
    }

    #[test]
    fn a_want_of_slots_is_told_as_such() {
        let model = Model::new(1, 20);
        let mut store = model.store(1);
        let mut hand = Hand::new(&mut store);
        bring(&model, &store, &mut hand, &[5]);
        store.patience = Duration::from_millis(50);
        let each = store.ask(0, &[5], 1).each(&InPlace, &mut |_| {
            let error = model.each(0, store.ask(0, &[3], 1)).1.expect_err("there is one slot");
            assert_eq!(error.to_string(), "no place for an expert in 0 seconds: all of the cache is in use");
        });
        each.unwrap_or_else(|e| panic!("{e}"));
    }

    #[test]
    fn a_slot_that_is_taken_back_goes_to_who_waits_for_one() {
        let model = Model::new(3, 20);
        let mut store = model.store(3);
        let mut hand = Hand::new(&mut store);
        bring(&model, &store, &mut hand, &[0]);
        let is_asked = |layer| store.shared.lock().claims[store.key(layer, 0)] > 0;
        let is_reading = |layer| matches!(store.shared.lock().states[store.key(layer, 0)], State::Reading);
        // One slot is computed with, one read does not end, and one waits behind it.
        let each = store.ask(0, &[0], 1).each(&InPlace, &mut |_| {
            drop(store.ask(1, &[9], 1));
            hand.hold(&store);
            store.read_ahead(0, &[1], Foresight::Certain);
            std::thread::scope(|s| {
                let waits = s.spawn(|| model.each(2, store.ask(2, &[0], 1)));
                while !is_asked(2) {
                    std::thread::yield_now();
                }
                std::thread::sleep(Duration::from_millis(10));
                assert!(!is_reading(2));
                drop(store.ask(0, &[0], 1));
                // Who is not told looks again after a second.
                let told = (0..500).any(|_| {
                    std::thread::sleep(Duration::from_millis(1));
                    is_reading(2)
                });
                hand.land_all(&store);
                assert!(told && waits.join().expect("it ends").0 == [0]);
            });
        });
        each.unwrap_or_else(|e| panic!("{e}"));
    }
}
