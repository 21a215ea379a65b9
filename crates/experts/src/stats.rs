//! What experts cost: how often they were in memory, what was read, and how long that held answers up.

use std::{
    iter::Sum,
    ops::{Add, Sub},
    time::Duration,
};

/// What was asked for, and what it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Experts that were there when a batch chose them.
    pub n_hits: u64,
    /// Experts that were not.
    pub n_misses: u64,
    /// Bytes that came from the disk.
    pub read_bytes: u64,
    /// Experts that were guessed, and read where they were not here already.
    pub n_guesses: u64,
    /// Of those, the ones that were then chosen.
    pub n_right: u64,
    /// Time that batches waited for an expert.
    pub stalled: Duration,
}

impl Stats {
    /// Of what was chosen, the part that was there.
    pub fn hit_rate(&self) -> f64 {
        self.n_hits as f64 / (self.n_hits + self.n_misses).max(1) as f64
    }
}

impl Add for Stats {
    type Output = Stats;

    fn add(self, more: Stats) -> Stats {
        Stats {
            n_hits: self.n_hits + more.n_hits,
            n_misses: self.n_misses + more.n_misses,
            read_bytes: self.read_bytes + more.read_bytes,
            n_guesses: self.n_guesses + more.n_guesses,
            n_right: self.n_right + more.n_right,
            stalled: self.stalled + more.stalled,
        }
    }
}

impl Sub for Stats {
    type Output = Stats;

    fn sub(self, before: Stats) -> Stats {
        Stats {
            n_hits: self.n_hits - before.n_hits,
            n_misses: self.n_misses - before.n_misses,
            read_bytes: self.read_bytes - before.read_bytes,
            n_guesses: self.n_guesses - before.n_guesses,
            n_right: self.n_right - before.n_right,
            stalled: self.stalled - before.stalled,
        }
    }
}

impl Sum for Stats {
    fn sum<I: Iterator<Item = Stats>>(parts: I) -> Stats {
        parts.fold(Stats::default(), Stats::add)
    }
}
