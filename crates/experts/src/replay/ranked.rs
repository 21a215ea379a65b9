//! A set of experts, in the order of a rank that each has.

use std::collections::BTreeSet;

/// Those in the set go by rank, lowest first, and by key where ranks are equal.
pub(super) struct Ranked<R> {
    ranks: Vec<R>, // by key, also of those that are not in the set
    members: BTreeSet<(R, usize)>,
}

impl<R: Ord + Copy> Ranked<R> {
    /// An empty set.
    pub(super) fn new(n_keys: usize, rank: R) -> Ranked<R> {
        Ranked { ranks: vec![rank; n_keys], members: BTreeSet::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn contains(&self, key: usize) -> bool {
        self.members.contains(&(self.ranks[key], key))
    }

    pub(super) fn rank(&self, key: usize) -> R {
        self.ranks[key]
    }

    /// Gives an expert another rank, in the set or not.
    pub(super) fn set(&mut self, key: usize, rank: R) {
        let old = std::mem::replace(&mut self.ranks[key], rank);
        if self.members.remove(&(old, key)) {
            self.members.insert((rank, key));
        }
    }

    pub(super) fn insert(&mut self, key: usize) {
        self.members.insert((self.ranks[key], key));
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, key: usize) -> bool {
        self.members.remove(&(self.ranks[key], key))
    }

    /// The first that is not `kept`.
    pub(super) fn first(&self, kept: &dyn Fn(usize) -> bool) -> Option<usize> {
        self.members.iter().map(|&(_, key)| key).find(|&key| !kept(key))
    }
}

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
