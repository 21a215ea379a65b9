//! For tests: reads that end when these say so, one by one, in the order in which they are queued.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use crate::{
    ReadError, Store,
    arena::Slot,
    io::{Readers, Settings},
    table::State,
};

type Read = (usize, Slot, Result<(), ReadError>);

/// What a store's reads wait for.
pub(crate) struct Hand {
    reads: Receiver<Read>,
    go_on: Sender<()>,
    /// What has been read, and has not landed.
    held: Option<Read>,
}

impl Hand {
    /// From now on, a store's reads wait.
    pub(crate) fn new(store: &mut Store) -> Hand {
        let ((read, reads), (go_on, gone_on)) = (channel(), channel::<()>());
        let gone_on = Mutex::new(gone_on);
        let done = move |key, slot, result| {
            // When the hand is gone, nobody waits for anything.
            let _ = read.send((key, slot, result));
            let _ = gone_on.lock().expect("nobody panicked").recv();
        };
        let settings = Settings { ring: false, depth: 1, part_bytes: 1 << 20 };
        store.readers = Readers::new(store.sources.clone(), settings, Arc::new(done)).expect("a thread");
        // A test that goes wrong ends soon.
        store.patience = Duration::from_secs(5);
        Hand { reads, go_on, held: None }
    }

    /// Waits until the next read has begun; those after it then have not. Its key.
    pub(crate) fn hold(&mut self) -> usize {
        let reads = &self.reads;
        self.held.get_or_insert_with(|| reads.recv_timeout(Duration::from_secs(20)).expect("a read")).0
    }

    /// Lets the next read land. Its key.
    pub(crate) fn land(&mut self, store: &Store) -> usize {
        self.hold();
        let (key, slot, result) = self.held.take().expect("just held");
        store.shared.lock().land(key, slot, result);
        store.shared.changed.notify_all();
        self.go_on.send(()).expect("the reader waits");
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
}
