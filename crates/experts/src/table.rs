//! Who is where: every expert is absent, being read, or in a slot; and who may have to go.
//!
//! ```text
//! claimed    a batch waits for it, or computes with it          never goes
//! wanted     a batch chose it, and comes to it later             goes only for what a batch needs now
//! expected   it was read ahead, and its layer has not chosen     the same
//! others     the coldest goes first
//! ```

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Foresight, ReadError, Stats,
    arena::Slot,
    growth::Growth,
    heat::{Heat, Score},
    trial::Trial,
};

/// All that changes about experts; keys are `layer * n_expert + expert`.
pub(crate) struct Table {
    n_layer: usize,
    pub(crate) states: Vec<State>,
    pub(crate) free: Vec<Slot>,
    /// Slots, free or not.
    pub(crate) n_slots: usize,
    /// Batches that wait for each now.
    pub(crate) claims: Vec<u16>,
    /// Batches that chose each, and have not met it.
    pub(crate) wanted: Vec<u16>,
    expected: Vec<usize>,
    /// How each of them came to be expected.
    expectations: Vec<Option<Expectation>>,
    pub(crate) heat: Heat,
    pub(crate) stats: Stats,
    pub(crate) trial: Trial,
    pub(crate) growth: Growth,
    /// The token that is computed now, if nobody computes another one beside it.
    token: Option<Token>,
}

/// A token that is decoded.
struct Token {
    began: Instant,
    /// How long all before it had waited.
    stalled: Duration,
    /// Layers that have chosen for it.
    n_layers: usize,
}

/// Why an expert that its layer has not yet chosen stays.
#[derive(Clone, Copy)]
struct Expectation {
    foresight: Foresight,
    /// Whether it is read for that reason, and no other.
    is_read: bool,
}

/// Where an expert is.
pub(crate) enum State {
    Absent,
    Reading,
    Here(Arc<Slot>),
    /// Until the next who asks is told; then absent.
    Failed(ReadError),
}

impl Table {
    pub(crate) fn new(n_layer: usize, n_expert: usize, free: Vec<Slot>, growth: Growth) -> Table {
        let n = n_layer * n_expert;
        Table {
            n_layer,
            states: (0..n).map(|_| State::Absent).collect(),
            n_slots: free.len(),
            free,
            claims: vec![0; n],
            wanted: vec![0; n],
            expected: Vec::new(),
            expectations: vec![None; n],
            heat: Heat::new(n_layer, n_expert),
            stats: Stats::default(),
            trial: Trial::new(),
            growth,
            token: None,
        }
    }

    /// A read has ended. It may be one that was given up, and another has come before it.
    pub(crate) fn land(&mut self, key: usize, slot: Slot, result: Result<(), ReadError>) {
        match (result, &self.states[key]) {
            (Ok(()), State::Absent | State::Reading | State::Failed(_)) => {
                self.states[key] = State::Here(Arc::new(slot));
                self.heat.enter(key);
            }
            (Err(e), State::Reading) => {
                self.free.push(slot);
                self.states[key] = State::Failed(e);
            }
            _ => self.free.push(slot),
        }
    }

    /// A read does not end: as if it had failed, but its slot is the kernel's until it lands.
    pub(crate) fn give_up(&mut self, key: usize, why: ReadError) {
        if matches!(self.states[key], State::Reading) {
            self.states[key] = State::Failed(why);
        }
    }

    /// Why an expert could not be read, once: from now on it is absent.
    pub(crate) fn take_failure(&mut self, key: usize) -> Option<ReadError> {
        if !matches!(self.states[key], State::Failed(_)) {
            return None;
        }
        match std::mem::replace(&mut self.states[key], State::Absent) {
            State::Failed(why) => Some(why),
            _ => unreachable!("just seen"),
        }
    }

    /// A slot that is free, or taken from the coldest expert that nobody is to meet, if that ranks below `below`.
    pub(crate) fn room(&mut self, below: Score) -> Option<Slot> {
        self.free
            .pop()
            .or_else(|| self.coldest_spare().filter(|&key| self.heat.rank(key) < below).map(|key| self.evict(key)))
    }

    /// The coldest expert that nobody is to meet.
    pub(crate) fn coldest_spare(&self) -> Option<usize> {
        self.coldest(|key| self.wanted[key] == 0 && self.expectations[key].is_none())
    }

    /// The coldest of all: one that somebody will need, where there is no other.
    pub(crate) fn coldest_of_all(&self) -> Option<usize> {
        self.coldest_spare().or_else(|| self.coldest(|_| true))
    }

    /// The coldest expert in a slot that nobody computes with or waits for, of those that `may` go.
    fn coldest(&self, may: impl Fn(usize) -> bool) -> Option<usize> {
        let alone = |key: usize| matches!(&self.states[key], State::Here(slot) if Arc::strong_count(slot) == 1);
        self.heat.coldest().find(|&key| may(key) && self.claims[key] == 0 && alone(key))
    }

    /// Its slot, from which it is gone.
    pub(crate) fn evict(&mut self, key: usize) -> Slot {
        self.heat.leave(key);
        match std::mem::replace(&mut self.states[key], State::Absent) {
            State::Here(slot) => Arc::into_inner(slot).expect("nobody else has it"),
            _ => unreachable!("heat lists what is in slots"),
        }
    }

    /// Whether one more expert may be read ahead: half of the slots are for what was chosen.
    pub(crate) fn may_expect(&self) -> bool {
        self.expected.len() < self.n_slots / 2
    }

    /// An expert stays until its layer has chosen; whether its read was queued for that.
    pub(crate) fn expect(&mut self, key: usize, foresight: Foresight, is_read: bool) {
        if let Some(known) = &mut self.expectations[key] {
            known.is_read |= is_read;
            return;
        }
        self.expectations[key] = Some(Expectation { foresight, is_read });
        self.expected.push(key);
        self.stats.n_guesses += u64::from(foresight == Foresight::Guess);
    }

    /// Whether a read that is queued ahead can be done without: nobody chose its expert, and nobody is certain to.
    pub(crate) fn is_spare(&self, key: usize) -> bool {
        let is_certain = self.expectations[key].is_some_and(|e| e.foresight == Foresight::Certain);
        !is_certain && self.wanted[key] == 0
    }

    /// A layer, all keys of which are in `layer`, has chosen: what was expected of it no longer is. Those that it has not
    /// chosen, and that nobody else wanted to have read.
    pub(crate) fn settle(&mut self, layer: Range<usize>, chosen: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut wrong = Vec::new();
        let (stats, expectations) = (&mut self.stats, &mut self.expectations);
        self.expected.retain(|&key| {
            let Some(e) = expectations[key].take_if(|_| layer.contains(&key)) else { return true };
            match chosen(key) {
                true => stats.n_right += u64::from(e.foresight == Foresight::Guess),
                false => wrong.extend(e.is_read.then_some(key)),
            }
            false
        });
        wrong
    }

    /// A batch of so many rows meets a layer; tokens that are decoded one by one are timed. How many slots to add.
    pub(crate) fn token(&mut self, layer: usize, n_rows: usize) -> Option<usize> {
        // Of batches that are computed at once, each meets layers between those of the others: then nobody is timed.
        let token = self
            .token
            .take()
            .filter(|token| n_rows == 1 && token.n_layers == if layer > 0 { layer } else { self.n_layer });
        if layer > 0 {
            self.token = token.map(|token| Token { n_layers: layer + 1, ..token });
            return None;
        }
        let (now, stalled) = (Instant::now(), self.stats.stalled);
        self.token = (n_rows == 1).then_some(Token { began: now, stalled, n_layers: 1 });
        let before = token?;
        let took = (now - before.began).as_secs_f64();
        self.trial.token(took);
        self.growth.token(took, (stalled - before.stalled).as_secs_f64())
    }

    /// The arena has grown, or cannot.
    pub(crate) fn grow(&mut self, more: Option<Vec<Slot>>) {
        match more {
            None => self.growth.end(),
            Some(more) => {
                self.n_slots += more.len();
                self.free.extend(more);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Store,
        common::{EXPERT_BYTES, Model},
        hand::Hand,
    };

    const N_EXPERT: usize = 10;

    /// Lets a row through a layer, whatever it needs. How much of it was here.
    fn meet(model: &Model, store: &Store, hand: &mut Hand, layer: usize, experts: &[i32]) -> u64 {
        let before = store.stats();
        let ask = store.ask(layer, experts, 1);
        hand.land_all(store);
        model.each(layer, ask).1.unwrap_or_else(|e| panic!("{e}"));
        (store.stats() - before).n_hits
    }

    /// The keys of those that are here.
    fn here(store: &Store) -> Vec<usize> {
        let table = store.shared.lock();
        (0..table.states.len()).filter(|&key| matches!(table.states[key], State::Here(_))).collect()
    }

    #[test]
    fn what_is_certain_to_be_chosen_stays_until_then() {
        let model = Model::new(3, N_EXPERT);
        let mut store = model.store(8);
        let mut hand = Hand::new(&mut store);
        store.read_ahead(2, &[0, 1, 2, 3, 4, 5], Foresight::Certain);
        assert_eq!(hand.land_all(&store), [20, 21, 22, 23], "half of the slots");
        for i in 0..20 {
            meet(&model, &store, &mut hand, i % 2, &[0, 1, 2].map(|e| (e + 3 * i as i32) % N_EXPERT as i32));
        }
        assert!(here(&store).ends_with(&[20, 21, 22, 23]));
        assert_eq!(meet(&model, &store, &mut hand, 2, &[0, 1, 5]), 2);
        for i in 0..20 {
            meet(&model, &store, &mut hand, i % 2, &[0, 1, 2].map(|e| (e + 3 * i as i32) % N_EXPERT as i32));
        }
        assert!(here(&store).iter().all(|&key| key < 20), "they are as others are");
        store.read_ahead(2, &[6, 7, 8, 9], Foresight::Certain);
        assert_eq!(hand.land_all(&store), [26, 27, 28, 29], "there is room again");
    }

    #[test]
    fn guesses_are_counted_and_wrong_ones_go_first() {
        let model = Model::new(2, N_EXPERT);
        let mut store = model.store(8);
        let mut hand = Hand::new(&mut store);
        store.read_ahead(1, &[0, 1, 2, 3], Foresight::Guess);
        store.read_ahead(1, &[1], Foresight::Guess);
        assert_eq!((hand.land(&store), hand.hold(&store)), (10, 11));
        assert_eq!((store.stats().n_guesses, store.stats().read_bytes), (4, EXPERT_BYTES), "only one has come");
        assert_eq!(meet(&model, &store, &mut hand, 1, &[0]), 1);
        assert_eq!((store.stats().n_right, store.stats().read_bytes), (1, 2 * EXPERT_BYTES), "two had not begun");
        assert_eq!(here(&store), [10, 11]);
        meet(&model, &store, &mut hand, 0, &[0, 1, 2, 3, 4, 5]);
        assert_eq!(here(&store), [0, 1, 2, 3, 4, 5, 10, 11]);
        meet(&model, &store, &mut hand, 0, &[6]);
        assert_eq!(here(&store), [0, 1, 2, 3, 4, 5, 6, 10]);
    }

    /// A model and a store of four slots: two experts of layer 0 are here and hot by so much, and two reads of layer 1 are
    /// queued, of which one has begun.
    fn hot_and_warm(n_met: usize, warm: f32) -> (Model, Store, Hand) {
        let model = Model::new(2, N_EXPERT);
        let mut store = model.store(4);
        let mut hand = Hand::new(&mut store);
        for _ in 0..n_met {
            meet(&model, &store, &mut hand, 0, &[0, 1]);
        }
        store.warm(&[(1, 0, warm), (1, 1, warm)]);
        assert_eq!(hand.hold(&store), 10);
        (model, store, hand)
    }

    #[test]
    fn a_read_ahead_that_has_not_begun_makes_room_before_what_is_hotter() {
        let (model, store, mut hand) = hot_and_warm(3, 0.5);
        meet(&model, &store, &mut hand, 0, &[2]);
        assert_eq!(here(&store), [0, 1, 2, 10]);
        let (model, store, mut hand) = hot_and_warm(1, 9.0);
        meet(&model, &store, &mut hand, 0, &[2]);
        assert_eq!(here(&store), [1, 2, 10, 11], "what is colder goes first");
        let (model, store, mut hand) = hot_and_warm(3, 0.5);
        store.read_ahead(1, &[1], Foresight::Certain);
        meet(&model, &store, &mut hand, 0, &[2]);
        assert_eq!(here(&store), [1, 2, 10, 11], "what is certain to be chosen stays");
    }

    #[test]
    fn a_wrong_guess_takes_back_only_its_own_reads() {
        let (model, store, mut hand) = hot_and_warm(1, 0.5);
        store.read_ahead(1, &[1], Foresight::Guess);
        meet(&model, &store, &mut hand, 1, &[0]);
        assert_eq!(here(&store), [0, 1, 10, 11]);
    }

    #[test]
    fn a_choice_that_does_not_exist_changes_nothing() {
        let model = Model::new(2, N_EXPERT);
        let store = model.store(4);
        for (layer, e) in [(0, N_EXPERT as i32), (0, -1), (2, 0)] {
            let ask = || drop(store.ask(layer, &[3, e], 1));
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(ask)).expect_err("it does not exist");
            let ahead = || store.read_ahead(layer, &[3, e], Foresight::Certain);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(ahead)).expect_err("it does not exist");
        }
        assert!(store.heat().is_empty() && store.shared.lock().free.len() == 4);
    }

    #[test]
    fn tokens_that_are_computed_at_once_are_not_timed() {
        let mut table = Table::new(3, N_EXPERT, Vec::new(), Growth::new(0, 1));
        // Whether the trial saw a token, after these layers were met.
        let mut sees = |layers: &[usize]| {
            let before = table.trial.n_tokens();
            layers.iter().for_each(|&layer| _ = table.token(layer, 1));
            table.trial.n_tokens() > before
        };
        assert!(sees(&[0, 1, 2, 0]), "one after the other");
        assert!(!sees(&[0, 1, 1, 2, 2, 0]), "two that take turns");
        assert!(!sees(&[1, 0, 2, 1, 2, 0]), "two of which one is ahead");
        assert!(sees(&[1, 2, 0]), "one again");
    }
}
