//! What a cache of so many experts would have read, had it run by another rule: traces, replayed.
//!
//! ```text
//! for every layer of every batch    the experts chosen, each once, ascending: d[0] < d[1] < ...
//!     tick, choose(d[0]), choose(d[1]), ...
//!     for every d[j] that is not here: leave(victim), if there is no room; enter(d[j])
//! ```
//!
//! The cache behaves like [`Store`](crate::Store). Experts are read [`AHEAD`] of the one that is computed, so from
//! `d[j - AHEAD + 1]` on they are in use or wanted, and none of them goes for `d[j]`. Where there are fewer slots than the
//! batch wants experts, one whose turn is still to come has to go, and will be read again: that is a miss, too.
//!
//! | file | holds |
//! |---|---|
//! | `queue.rs` | experts in the order in which they came |
//! | `lru.rs`, `lfu.rs`, `two_queues.rs`, `s3_fifo.rs` | rules from elsewhere |
//! | `ours.rs` | the store's own rule, by the store's own code |
//! | `belady.rs` | the fewest misses that any rule can have, by knowing the future |

mod belady;
mod lfu;
mod lru;
mod ours;
mod queue;
mod s3_fifo;
mod two_queues;

use belady::Belady;
use lfu::Lfu;
use lru::Lru;
use ours::Ours;
use s3_fifo::S3Fifo;
use two_queues::TwoQueues;

use crate::{
    ask::AHEAD,
    trace::{Head, Trace},
};

/// A rule that says who goes. Keys are `layer * n_expert + expert`.
trait Policy {
    /// A batch of so many rows begins in a layer.
    fn tick(&mut self, layer: usize, n_rows: usize) {
        let _ = (layer, n_rows);
    }

    /// In this layer, `n` of `n_rows` rows chose an expert. Told for each that was chosen, before any is read.
    fn choose(&mut self, key: usize, n: usize, n_rows: usize);

    /// An expert is in memory from now on.
    fn enter(&mut self, key: usize);

    /// No longer.
    fn leave(&mut self, key: usize);

    /// The batch is done with an expert that it chose.
    fn done(&mut self, key: usize) {
        let _ = key;
    }

    /// Who should go, of those in memory that are not `kept`.
    fn victim(&mut self, kept: &dyn Fn(usize) -> bool) -> Option<usize>;
}

/// Every rule: its name, what it does, and how it begins for a replay with so many slots.
const POLICIES: [(&str, &str, fn(&Replay, usize) -> Box<dyn Policy>); 6] = [
    ("lru", "least recently used goes", |replay, _| Box::new(Lru::new(replay.head.n_experts()))),
    ("lfu-aged", "least often used goes; counts are halved every 16 tokens", |replay, _| {
        Box::new(Lfu::new(&replay.head))
    }),
    ("2q", "2Q: two queues, for those used once and those used again", |replay, n_slots| {
        Box::new(TwoQueues::new(replay.head.n_experts(), n_slots))
    }),
    ("s3-fifo", "S3-FIFO: a small queue as a sieve before the main one", |replay, n_slots| {
        Box::new(S3Fifo::new(replay.head.n_experts(), n_slots))
    }),
    ("ours", "what this program does: the coldest goes", |replay, _| Box::new(Ours::new(&replay.head))),
    ("belady", "the fewest reads there can be, by knowing the future", |replay, _| Box::new(Belady::new(replay))),
];

/// The names of all rules and what they do.
pub fn policies() -> impl ExactSizeIterator<Item = (&'static str, &'static str)> {
    POLICIES.iter().map(|&(name, what, _)| (name, what))
}

/// What happened to the batches of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Batches.
    pub n_batches: u64,
    /// Their rows.
    pub n_tokens: u64,
    /// Experts that they chose: of each layer of each batch, every one once.
    pub n_chosen: u64,
    /// Experts that were read.
    pub n_misses: u64,
}

impl Tally {
    /// Of what was chosen, the part that was there.
    pub fn hit_rate(&self) -> f64 {
        1.0 - self.n_misses as f64 / self.n_chosen.max(1) as f64
    }

    /// Bytes that were read for a token.
    pub fn bytes_per_token(&self, head: &Head) -> f64 {
        self.n_misses as f64 * head.expert_bytes as f64 / self.n_tokens.max(1) as f64
    }
}

/// What a cache would have read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Batches of one row.
    pub decode: Tally,
    /// Batches of more.
    pub prefill: Tally,
}

/// A trace, made ready to be replayed.
pub struct Replay {
    head: Head,
    batches: Vec<Vec<Demand>>,
}

/// What a batch wants in a layer.
struct Demand {
    layer: usize,
    n_rows: usize,
    keys: Vec<usize>, // ascending
    /// Rows that chose each.
    counts: Vec<usize>,
}

impl Replay {
    /// Sorts what every batch chose.
    pub fn new(trace: &Trace) -> Replay {
        let n_expert = trace.head.n_expert;
        let demand = |l: &crate::trace::Layer| {
            let mut sorted = l.choices.clone();
            sorted.sort_unstable();
            let same = || sorted.chunk_by(|a, b| a == b);
            let keys = same().map(|same| l.layer * n_expert + same[0] as usize).collect();
            Demand { layer: l.layer, n_rows: l.n_rows, keys, counts: same().map(<[i32]>::len).collect() }
        };
        let batches = trace.batches.iter().map(|batch| batch.layers.iter().map(demand).collect()).collect();
        Replay { head: trace.head, batches }
    }

    /// What the rule of this name reads with `n_slots` experts in memory, at least one and at most all.
    ///
    /// # Panics
    /// If there is no such rule.
    pub fn run(&self, policy: &str, n_slots: usize) -> Outcome {
        let (_, _, new) = POLICIES.iter().find(|(name, ..)| *name == policy).expect("one of `policies`");
        let n_slots = n_slots.clamp(1, self.head.n_experts());
        self.replay(&mut *new(self, n_slots), n_slots)
    }

    fn replay(&self, policy: &mut dyn Policy, n_slots: usize) -> Outcome {
        let mut cache = Cache { here: vec![false; self.head.n_experts()], n_free: n_slots, n_slots, policy };
        let mut outcome = Outcome::default();
        for batch in &self.batches {
            let n_rows = batch.iter().map(|d| d.n_rows).max().unwrap_or(0);
            let tally = if n_rows == 1 { &mut outcome.decode } else { &mut outcome.prefill };
            tally.n_batches += 1;
            tally.n_tokens += n_rows as u64;
            for demand in batch {
                tally.n_chosen += demand.keys.len() as u64;
                tally.n_misses += cache.serve(demand);
            }
        }
        outcome
    }

    /// Every expert in the order in which batches meet them.
    fn met(&self) -> impl Iterator<Item = usize> {
        self.batches.iter().flatten().flat_map(|demand| &demand.keys).copied()
    }
}

struct Cache<'a> {
    here: Vec<bool>,
    n_free: usize,
    n_slots: usize,
    policy: &'a mut dyn Policy,
}

impl Cache<'_> {
    /// Lets a batch through a layer. Returns how many experts were read.
    fn serve(&mut self, demand: &Demand) -> u64 {
        self.policy.tick(demand.layer, demand.n_rows);
        demand.keys.iter().zip(&demand.counts).for_each(|(&key, &n)| self.policy.choose(key, n, demand.n_rows));
        let (mut n_misses, mut n_done) = (0, 0);
        for j in 0..demand.keys.len() {
            let n_past = (j + 1).saturating_sub(AHEAD.min(self.n_slots));
            demand.keys[n_done..n_past].iter().for_each(|&key| self.policy.done(key));
            n_done = n_past;
            if !self.here[demand.keys[j]] {
                n_misses += 1;
                self.read(&demand.keys, j, n_done);
            }
        }
        demand.keys[n_done..].iter().for_each(|&key| self.policy.done(key));
        n_misses
    }

    /// Brings in `keys[j]`; of these, the first `n_done` are no longer wanted.
    fn read(&mut self, keys: &[usize], j: usize, n_done: usize) {
        match self.n_free {
            0 => {
                let wanted = |key| keys[n_done..].binary_search(&key).is_ok();
                let not_later = |key| keys[j + 1..].binary_search(&key).is_err();
                let victim = self.policy.victim(&wanted).or_else(|| self.policy.victim(&not_later));
                let victim = victim.expect("fewer are in use than there are slots");
                self.policy.leave(victim);
                self.here[victim] = false;
            }
            _ => self.n_free -= 1,
        }
        self.here[keys[j]] = true;
        self.policy.enter(keys[j]);
    }
}

#[cfg(test)]
mod tests;
