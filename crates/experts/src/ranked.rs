//! A set of experts, in the order of a rank that each has.

use std::collections::BTreeSet;

/// Those in the set go by rank, lowest first, and by key where ranks are equal.
pub(crate) struct Ranked<R> {
    ranks: Vec<R>, // by key, also of those that are not in the set
    members: BTreeSet<(R, usize)>,
}

impl<R: Ord + Copy> Ranked<R> {
    /// An empty set.
    pub(crate) fn new(n_keys: usize, rank: R) -> Ranked<R> {
        Ranked { ranks: vec![rank; n_keys], members: BTreeSet::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn contains(&self, key: usize) -> bool {
        self.members.contains(&(self.ranks[key], key))
    }

    pub(crate) fn rank(&self, key: usize) -> R {
        self.ranks[key]
    }

    /// Gives an expert another rank, in the set or not.
    pub(crate) fn set(&mut self, key: usize, rank: R) {
        let old = std::mem::replace(&mut self.ranks[key], rank);
        if self.members.remove(&(old, key)) {
            self.members.insert((rank, key));
        }
    }

    pub(crate) fn insert(&mut self, key: usize) {
        self.members.insert((self.ranks[key], key));
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, key: usize) -> bool {
        self.members.remove(&(self.ranks[key], key))
    }

    /// Those in the set, lowest rank first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        self.members.iter().map(|&(_, key)| key)
    }

    /// The first that is not `kept`.
    pub(crate) fn first(&self, kept: &dyn Fn(usize) -> bool) -> Option<usize> {
        self.iter().find(|&key| !kept(key))
    }
}
