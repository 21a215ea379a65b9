//! Aged frequency: the one that fewest rows chose goes, and of such the least recently used. Every 16 tokens that are
//! decoded halve all counts. The rule of antirez's engine for Metal, as read in its source in 2026.

use super::Policy;
use crate::{ranked::Ranked, trace::Head};

/// Decoded tokens after which a count is halved.
const TOKENS: u32 = 16;

pub(super) struct Lfu {
    n_expert: usize,
    /// Count, and when it was used last.
    here: Ranked<(u32, u64)>,
    now: u64,
    /// Tokens that each layer decoded.
    decoded: Vec<u32>,
}

impl Lfu {
    pub(super) fn new(head: &Head) -> Lfu {
        let here = Ranked::new(head.n_experts(), (0, 0));
        Lfu { n_expert: head.n_expert, here, now: 0, decoded: vec![0; head.n_layer] }
    }
}

impl Policy for Lfu {
    fn tick(&mut self, layer: usize, n_rows: usize) {
        self.decoded[layer] += u32::from(n_rows == 1);
        if n_rows == 1 && self.decoded[layer].is_multiple_of(TOKENS) {
            for key in layer * self.n_expert..(layer + 1) * self.n_expert {
                let (count, used) = self.here.rank(key);
                self.here.set(key, (count / 2, used));
            }
        }
    }

    fn choose(&mut self, key: usize, n: usize, _: usize) {
        self.now += 1;
        let (count, _) = self.here.rank(key);
        self.here.set(key, (count.saturating_add(n as u32), self.now));
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
