//! The one that will be needed last goes (Belady 1966). No rule reads less, since what a batch keeps does not depend on the
//! rule: every other choice can be exchanged for this one without another miss.

use std::cmp::Reverse;

use super::{Policy, Replay};
use crate::ranked::Ranked;

pub(super) struct Belady {
    /// When each is needed, last time first.
    needs: Vec<Vec<u32>>,
    here: Ranked<Reverse<u32>>,
}

/// Needed never again.
const NEVER: u32 = u32::MAX;

impl Belady {
    pub(super) fn new(replay: &Replay) -> Belady {
        let mut needs = vec![Vec::new(); replay.head.n_experts()];
        replay.met().zip(0..NEVER).for_each(|(key, now)| needs[key].push(now));
        let mut here = Ranked::new(needs.len(), Reverse(NEVER));
        for (key, needs) in needs.iter_mut().enumerate() {
            needs.reverse();
            here.set(key, next(needs));
        }
        Belady { needs, here }
    }
}

fn next(needs: &[u32]) -> Reverse<u32> {
    Reverse(needs.last().copied().unwrap_or(NEVER))
}

impl Policy for Belady {
    fn choose(&mut self, _: usize, _: usize, _: usize) {}

    fn enter(&mut self, key: usize) {
        self.here.insert(key);
    }

    fn leave(&mut self, key: usize) {
        self.here.remove(key);
    }

    fn done(&mut self, key: usize) {
        self.needs[key].pop();
        self.here.set(key, next(&self.needs[key]));
    }

    fn victim(&mut self, kept: &dyn Fn(usize) -> bool) -> Option<usize> {
        self.here.first(kept)
    }
}
