//! The memory that running takes, known before it is taken.
//!
//! ```text
//! caches, buffers    counted by the code that allocates them, run on a device that only counts
//! packed rows        what a backend makes of the buffers before products, columns and unpacked weights among it: no more
//!                    than the buffers
//! gathered rows      what each thread looks at for one query: V4 unpacks a row of 512 per 128 tokens, 16 bytes a token
//! logits, tokens     the session's own
//! ```
//!
//! The last three are bounds, not counts; `tests/plan.rs` holds them against an allocator that counts.

use std::fmt;

use compute::{Meter, Step};
use experts::Routing;
use models::{Model, N_LOGITS_MAX, StateOptions};

use crate::{Error, machine};

/// What a thread gathers for one query: per token of context, and whatever the context.
const GATHERED_BYTES_PER_TOKEN: usize = 16;
const GATHERED_BYTES: usize = 4 << 20;

/// Program, threads and libraries.
const PROGRAM_BYTES: u64 = 24 << 20;

/// Room for experts that are read from the SSD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arena {
    /// Its size, once it has grown.
    pub bytes: u64,
    /// Of that, what it has taken so far.
    pub taken_bytes: u64,
    /// Experts that it holds.
    pub n_slots: usize,
    /// Experts that the model has, in all layers.
    pub n_experts: usize,
}

/// Memory of sessions, with the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Sessions side by side.
    pub n_sessions: usize,
    /// Positions that each has room for.
    pub n_ctx: usize,
    /// The mapped file; of a streamed model, its weights but the experts.
    pub weights_bytes: u64,
    /// Of a streamed model, the experts in memory.
    pub experts: Option<Arena>,
    /// Cached rows.
    pub kv_bytes: u64,
    /// Of those, what each token of context adds.
    pub bytes_per_token: u64,
    /// Buffers of a batch, what the backend keeps beside them, and the sessions' own.
    pub scratch_bytes: u64,
    /// What sessions leave for others, in memory.
    pub kept_bytes: u64,
    /// The program and its vocabulary.
    pub program_bytes: u64,
    /// What the machine has to give, cached files included; `None` where it does not say.
    pub available_bytes: Option<u64>,
}

impl Plan {
    /// The plan of a session as `options` describe it.
    ///
    /// # Errors
    /// None in practice: counting needs no memory.
    pub(crate) fn new(
        model: &dyn Model,
        options: &StateOptions,
        n_threads: usize,
        weights_bytes: u64,
        experts: Option<Arena>,
        vocab_bytes: u64,
    ) -> Result<Plan, Error> {
        let count = |n_ctx: usize| -> Result<_, Error> {
            let meter = Meter::default();
            Step::new(&meter, options.n_batch)?;
            model.state(&meter, &StateOptions { n_ctx, ..*options }, &Routing::default())?;
            Ok(meter.counts())
        };
        let gathered = n_threads * (GATHERED_BYTES + options.n_ctx * GATHERED_BYTES_PER_TOKEN);
        let n_rows = N_LOGITS_MAX + options.n_slot; // of logits
        let own = (n_rows * model.shape().n_vocab + options.n_slot * options.n_ctx) * size_of::<f32>();
        let counts = count(options.n_ctx)?;
        let more = count(options.n_ctx + PER_TOKEN_SPAN)?;
        Ok(Plan {
            n_sessions: options.n_slot,
            n_ctx: options.n_ctx,
            weights_bytes,
            experts,
            kv_bytes: counts.cache_bytes as u64,
            bytes_per_token: ((more.cache_bytes - counts.cache_bytes) / PER_TOKEN_SPAN) as u64,
            scratch_bytes: (2 * counts.other_bytes + gathered + own) as u64,
            kept_bytes: 0,
            program_bytes: PROGRAM_BYTES + vocab_bytes,
            available_bytes: machine::available_bytes(),
        })
    }

    /// Everything together.
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes + self.arena_bytes() + self.session_bytes() + self.program_bytes
    }

    /// Whether what is not yet taken fits into memory: of a streamed model, that is the session. If not, weights are read
    /// from disk again and again.
    pub fn fits(&self) -> bool {
        let needed_bytes = if self.experts.is_some() { self.session_bytes() } else { self.total_bytes() };
        self.room_bytes().is_none_or(|bytes| needed_bytes <= bytes)
    }

    /// What is available and not promised to experts: an arena that has yet to grow finds its memory free when it does.
    pub fn room_bytes(&self) -> Option<u64> {
        let promised_bytes = self.experts.map_or(0, |arena| arena.bytes - arena.taken_bytes);
        self.available_bytes.map(|bytes| bytes.saturating_sub(promised_bytes))
    }

    fn arena_bytes(&self) -> u64 {
        self.experts.map_or(0, |arena| arena.bytes)
    }

    /// What opening the sessions allocates, and what they leave may take.
    pub fn session_bytes(&self) -> u64 {
        self.kv_bytes + self.scratch_bytes + self.kept_bytes
    }
}

/// A difference in context over which every cache grows.
const PER_TOKEN_SPAN: usize = 1 << 16;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let how = if self.experts.is_some() { "read" } else { "mapped" };
        let mut parts = vec![(self.weights_bytes, format!("weights {} ({how})", mib(self.weights_bytes)))];
        if let Some(a) = self.experts {
            parts.push((
                a.bytes,
                format!("experts {} ({} of {}, others on disk)", mib(a.bytes), a.n_slots, a.n_experts),
            ));
        }
        let sessions = if self.n_sessions == 1 { String::new() } else { format!("{} sessions of ", self.n_sessions) };
        let (kv, n_ctx) = (mib(self.kv_bytes), self.n_ctx);
        parts.push((
            self.kv_bytes,
            format!("KV cache {kv} ({sessions}{n_ctx} tokens, {} bytes each)", self.bytes_per_token),
        ));
        if self.kept_bytes > 0 {
            parts.push((self.kept_bytes, format!("kept conversations {}", mib(self.kept_bytes))));
        }
        parts.push((self.scratch_bytes, format!("buffers {}", mib(self.scratch_bytes))));
        parts.push((self.program_bytes, format!("program {}", mib(self.program_bytes))));
        let total: u64 = parts.iter().map(|part| mib(part.0)).sum();
        let parts: Vec<String> = parts.into_iter().map(|part| part.1).collect();
        write!(f, "memory: {total} MiB = {}", parts.join(" + "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_arena_will_grow_into_is_no_room_for_a_session() {
        let plan = |session_bytes, experts, available_bytes| Plan {
            n_sessions: 1,
            n_ctx: 1,
            weights_bytes: 50,
            experts,
            kv_bytes: session_bytes,
            bytes_per_token: 1,
            scratch_bytes: 0,
            kept_bytes: 0,
            program_bytes: 0,
            available_bytes,
        };
        let grown = |taken_bytes| Some(Arena { bytes: 40, taken_bytes, n_slots: 4, n_experts: 8 });
        assert_eq!(plan(1, grown(30), Some(100)).room_bytes(), Some(90));
        assert!(plan(90, grown(30), Some(100)).fits() && !plan(91, grown(30), Some(100)).fits());
        assert!(plan(100, grown(40), Some(100)).fits(), "it has all it will take");
        assert_eq!(plan(1, grown(0), Some(30)).room_bytes(), Some(0));
        assert!(plan(1, grown(0), None).fits(), "nobody knows");
        assert!(plan(50, None, Some(100)).fits() && !plan(51, None, Some(100)).fits(), "weights are still to be read");
    }
}
