//! For tests: reads that end when these say so, one by one, in the order in which they are queued.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Store,
    io::{Part, Readers, Settings},
    table::State,
};

/// What a store's reads wait for.
pub(crate) struct Hand {
    /// The read that has begun.
    held: Vec<Part>,
    /// Reads that have begun, and do not end.
    lost: Vec<Part>,
}

impl Hand {
    /// From now on, a store's reads wait.
    pub(crate) fn new(store: &mut Store) -> Hand {
        // As many parts at a time as one expert has matrices.
        let settings = Settings { ring: false, depth: 3, part_bytes: 1 << 20 };
        let shared = store.shared.clone();
        let done = move |key, slot, result| shared.land(key, slot, result);
        store.readers = Readers::idle(store.sources.clone(), settings, Arc::new(done));
        // A test that goes wrong ends soon.
        store.patience = Duration::from_secs(5);
        Hand { held: Vec::new(), lost: Vec::new() }
    }

    /// Waits until the next read has begun; those after it then have not. Its key.
    pub(crate) fn hold(&mut self, store: &Store) -> usize {
        let began = Instant::now();
        while self.held.len() < 3 {
            self.held.extend(store.readers.try_next());
            assert!(began.elapsed() < Duration::from_secs(20), "a read");
            std::thread::yield_now();
        }
        let keys: Vec<usize> = self.held.iter().map(Part::key).collect();
        assert!(keys.iter().all(|&key| key == keys[0]), "parts of one read: {keys:?}");
        keys[0]
    }

    /// Lets the next read land. Its key.
    pub(crate) fn land(&mut self, store: &Store) -> usize {
        let key = self.hold(store);
        self.held.drain(..).for_each(|part| store.readers.read(part));
        key
    }

    /// Lets everything land. The keys, in order.
    pub(crate) fn land_all(&mut self, store: &Store) -> Vec<usize> {
        let is_reading = || store.shared.lock().states.iter().any(|state| matches!(state, State::Reading));
        let mut keys = Vec::new();
        while is_reading() {
            keys.push(self.land(store));
        }
        keys
    }

    /// The next read does not end. Its key.
    pub(crate) fn lose(&mut self, store: &Store) -> usize {
        let key = self.hold(store);
        self.lost.append(&mut self.held);
        key
    }

    /// Reads that did not end do so.
    pub(crate) fn find(&mut self, store: &Store) {
        self.lost.drain(..).for_each(|part| store.readers.read(part));
    }
}
