//! The least recently used one goes. What one batch chose counts as used in ascending order.

use super::Policy;
use crate::ranked::Ranked;

pub(super) struct Lru {
    here: Ranked<u64>,
    now: u64,
}

impl Lru {
    pub(super) fn new(n_keys: usize) -> Lru {
        Lru { here: Ranked::new(n_keys, 0), now: 0 }
    }
}

impl Policy for Lru {
    fn choose(&mut self, key: usize, _: usize, _: usize) {
        self.now += 1;
        self.here.set(key, self.now);
    }

    fn enter(&mut self, key: usize) {
        self.here.insert(key);
    }

    fn leave(&mut self, key: usize) {
        self.here.remove(key);
    }

    fn victim(&mut self, kept: &dyn Fn(usize) -> bool) -> Option<usize> {
        self.here.first(kept)
    }
}
