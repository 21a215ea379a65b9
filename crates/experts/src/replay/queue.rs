//! Experts in the order in which they came.

use crate::ranked::Ranked;

/// A queue: the rank is the time at which an expert came last.
pub(super) struct Queue {
    ranked: Ranked<u64>,
    now: u64,
}

impl Queue {
    /// An empty queue.
    pub(super) fn new(n_keys: usize) -> Queue {
        Queue { ranked: Ranked::new(n_keys, 0), now: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.ranked.len()
    }

    pub(super) fn contains(&self, key: usize) -> bool {
        self.ranked.contains(key)
    }

    /// To the end, wherever it was before.
    pub(super) fn push(&mut self, key: usize) {
        self.now += 1;
        self.ranked.set(key, self.now);
        self.ranked.insert(key);
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, key: usize) -> bool {
        self.ranked.remove(key)
    }

    /// The one that came first, of those that are not `kept`.
    pub(super) fn first(&self, kept: &dyn Fn(usize) -> bool) -> Option<usize> {
        self.ranked.first(kept)
    }

    /// To the end, and the first ones out until there are `n_max`.
    pub(super) fn push_within(&mut self, key: usize, n_max: usize) {
        self.push(key);
        while self.len() > n_max
            && let Some(first) = self.first(&|_| false)
        {
            self.remove(first);
        }
    }
}
