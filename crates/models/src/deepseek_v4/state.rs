//! What a sequence remembers, and the buffers of one batch.
//!
//! ```text
//! per layer            ratio 0    ratio 4                           other ratios
//! ring of last rows    yes        yes                               yes
//! compressed rows      -          n_ctx / 4                         n_ctx / ratio
//! frontier             -          kv, gate of the last tokens       kv, gate of the last tokens
//! indexer              -          n_ctx / 4 rows, a frontier        -
//! ```
//!
//! Frontiers hold [`N_REWIND`] tokens more than making a row needs, and rings as many more as a batch has at most: that
//! many tokens can be dropped without a snapshot, because what follows needs only rows that are still there (a row that
//! was made of dropped tokens is made again before it is seen).

use std::{ops::Range, sync::Arc};

use compute::{Compressed, Compressor, Device, DeviceError, F32, Kind, Tensor};
use experts::Routing;
use quant::RowFormat;

use super::{
    config::{CSA_RATIO, Config, Indexer},
    weights::{AttnWeights, CompressorWeights, Weights},
};
use crate::{KvType, N_LOGITS_MAX, StateOptions, Work, memory::CachePart};

/// Tokens that can be dropped again.
pub(crate) const N_REWIND: usize = 32;

/// A model with the memory to run on.
pub(crate) struct V4State {
    pub(crate) weights: Arc<Weights>,
    pub(crate) routing: Routing,
    pub(crate) caches: Vec<Cache>,
    pub(crate) buffers: Buffers,
    pub(crate) logits: Tensor, // [N_LOGITS_MAX, n_vocab]
    pub(crate) n_rewind: usize,
}

/// A layer's memory of the sequence.
pub(crate) struct Cache {
    pub(crate) ring: Tensor, // [n_slot, window - 1 + n_batch, head_dim]
    pub(crate) compressor: Option<Compressor>,
    pub(crate) indexer: Option<IndexerCache>,
}

/// The indexer's rows, and how queries are prepared for them.
pub(crate) struct IndexerCache {
    pub(crate) compressor: Compressor,
    /// Queries are rotated and rounded as the rows are.
    pub(crate) rounding: Option<RowFormat>,
}

/// Rows of one batch: `[n_batch, width]` each.
pub(crate) struct Buffers {
    pub(crate) x: Tensor,           // n_stream * n_embd, the residual streams
    pub(crate) mixes: Tensor,       // (2 + n_stream) * n_stream
    pub(crate) post: Tensor,        // n_stream
    pub(crate) comb: Tensor,        // n_stream * n_stream
    pub(crate) y: Tensor,           // n_embd
    pub(crate) h: Tensor,           // n_embd, y normalised
    pub(crate) q_rank: Tensor,      // q_rank
    pub(crate) q: Tensor,           // n_head * head_dim
    pub(crate) kv: Tensor,          // head_dim
    pub(crate) heads: Tensor,       // n_head * head_dim
    pub(crate) groups: Tensor,      // n_group * o_rank
    pub(crate) pooled: [Tensor; 2], // 2 * head_dim: values and gates
    pub(crate) indexer: Option<IndexerBuffers>,
    pub(crate) router: Tensor,      // n_expert
    pub(crate) experts: Tensor,     // n_used, of expert numbers
    pub(crate) weights: Tensor,     // n_used
    pub(crate) ahead: [Tensor; 3],  // the last three, of one row in a layer that is yet to come
    pub(crate) shared: [Tensor; 3], // n_ff_shared: gate, up and their product
    pub(crate) out: Tensor,         // n_embd
    pub(crate) kept: Tensor,        // n_embd, a row for each choice of one token
}

/// Rows of one batch, for the indexer.
pub(crate) struct IndexerBuffers {
    pub(crate) q: Tensor,           // indexer.n_head * indexer.head_dim
    pub(crate) weight: Tensor,      // indexer.n_head
    pub(crate) pooled: [Tensor; 2], // 2 * indexer.head_dim: values and gates
    pub(crate) chosen: Tensor,      // top_k, of row numbers
}

impl V4State {
    pub(crate) fn new(
        weights: Arc<Weights>,
        routing: Routing,
        dev: &dyn Device,
        o: &StateOptions,
    ) -> Result<V4State, DeviceError> {
        let caches = weights.layers.iter().zip(&weights.config.ratios);
        Ok(V4State {
            caches: caches.map(|(l, &r)| Cache::new(&weights.config, &l.attn, r, dev, o)).collect::<Result<_, _>>()?,
            buffers: Buffers::new(&weights.config, dev, o.n_batch)?,
            logits: dev.alloc(F32, &[N_LOGITS_MAX.min(o.n_batch), weights.config.n_vocab])?,
            n_rewind: N_REWIND.min(o.n_batch),
            weights,
            routing,
        })
    }
}

impl V4State {
    /// Those of all layers, each followed by its indexer's.
    pub(crate) fn compressors(&self) -> impl Iterator<Item = &Compressor> {
        self.caches.iter().flat_map(|c| c.compressor.iter().chain(c.indexer.iter().map(|x| &x.compressor)))
    }
}

/// The rows of windows that end among `tokens`.
pub(crate) fn window_rows(c: &Compressor, slot: usize, tokens: &Range<usize>) -> CachePart {
    CachePart::new(&c.rows, slot, tokens.start / c.ratio..tokens.end / c.ratio)
}

/// Values and gates of the tokens after `n` tokens that rows to come are made of: those of the window that has begun, and
/// of the one before it where windows overlap.
pub(crate) fn open_windows(c: &Compressor, slot: usize, n: usize) -> [CachePart; 2] {
    let first = n / c.ratio * c.ratio;
    let first = if c.overlap { first.saturating_sub(c.ratio) } else { first };
    [&c.frontier_kv, &c.frontier_gate].map(|ring| CachePart::new(ring, slot, first..n))
}

impl Cache {
    fn new(
        c: &Config,
        w: &AttnWeights,
        ratio: usize,
        dev: &dyn Device,
        o: &StateOptions,
    ) -> Result<Cache, DeviceError> {
        let rows = row_format(c, o.kv);
        let n_row = (c.window - 1 + o.n_batch).min(o.n_ctx.max(c.window));
        let compressor = |weights, format, hadamard| compressor(c, ratio, w, weights, format, hadamard, dev, o);
        Ok(Cache {
            ring: dev.alloc(Kind::Cached(rows), &[o.n_slot, n_row, c.head_dim])?,
            compressor: w.compressor.as_ref().map(|w| compressor(w, rows, false)).transpose()?,
            indexer: match &w.indexer {
                None => None,
                Some(w) => {
                    let rounding = rounding(o.kv);
                    let rows = rounding.unwrap_or(o.kv.row_format());
                    Some(IndexerCache { compressor: compressor(&w.compressor, rows, rounding.is_some())?, rounding })
                }
            },
        })
    }

    /// The compressed rows, with those chosen for each query.
    pub(crate) fn compressed(&self, chosen: Option<Tensor>) -> Option<Compressed> {
        let c = self.compressor.as_ref()?;
        Some(Compressed { rows: c.rows.clone(), ratio: c.ratio, chosen })
    }
}

/// How rows that are attended to are kept.
fn row_format(c: &Config, kv: KvType) -> RowFormat {
    match kv {
        KvType::Native => RowFormat::Fp8 { n_rope: c.n_rot },
        plain => plain.row_format(),
    }
}

/// How the indexer's rows are kept, and its queries rounded, where that is not as plain numbers.
fn rounding(kv: KvType) -> Option<RowFormat> {
    (kv == KvType::Native).then_some(RowFormat::Fp4)
}

/// What a layer of this ratio looks at for the token at position `pos`: rows of its window, compressed rows, and those
/// of the indexer that picks them.
pub(crate) fn attention_work(c: &Config, ratio: usize, pos: usize, kv: KvType) -> Work {
    let work = |format: RowFormat, width: usize, n_mac: usize, n_row: usize| {
        Work { n_bytes: format.row_bytes(width) as u64, n_mac: n_mac as u64 }.times(n_row)
    };
    // A row is key and value at once.
    let rows = |n_row| work(row_format(c, kv), c.head_dim, 2 * c.n_head * c.head_dim, n_row);
    let n_recent = c.window.min(pos + 1);
    let n_compressed = (pos + 1).checked_div(ratio).unwrap_or(0);
    match c.indexer.filter(|_| ratio == CSA_RATIO) {
        None => rows(n_recent + n_compressed),
        Some(x) => {
            let format = rounding(kv).unwrap_or(kv.row_format());
            rows(n_recent + n_compressed.min(x.top_k)) + work(format, x.head_dim, x.n_head * x.head_dim, n_compressed)
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "what a compressor is made of")]
fn compressor(
    c: &Config,
    ratio: usize,
    attn: &AttnWeights,
    w: &CompressorWeights,
    rows: RowFormat,
    hadamard: bool,
    dev: &dyn Device,
    o: &StateOptions,
) -> Result<Compressor, DeviceError> {
    let (head_dim, width) = (w.norm.cols(), w.ape.cols());
    let overlap = ratio == CSA_RATIO;
    let n_frontier = if overlap { 2 * ratio } else { ratio } - 1 + N_REWIND;
    let frontier = || dev.alloc(Kind::Cached(RowFormat::F32), &[o.n_slot, n_frontier, width]);
    Ok(Compressor {
        ratio,
        overlap,
        ape: w.ape.clone(),
        norm: w.norm.clone(),
        eps: c.eps,
        rope: attn.rope.clone(),
        hadamard,
        frontier_kv: frontier()?,
        frontier_gate: frontier()?,
        rows: dev.alloc(Kind::Cached(rows), &[o.n_slot, (o.n_ctx / ratio).max(1), head_dim])?,
    })
}

impl Buffers {
    fn new(c: &Config, dev: &dyn Device, n_batch: usize) -> Result<Buffers, DeviceError> {
        let rows = |n: usize| dev.alloc(F32, &[n_batch, n]);
        let (n, m) = (c.n_stream, &c.moe);
        Ok(Buffers {
            x: rows(n * c.n_embd)?,
            mixes: rows((2 + n) * n)?,
            post: rows(n)?,
            comb: rows(n * n)?,
            y: rows(c.n_embd)?,
            h: rows(c.n_embd)?,
            q_rank: rows(c.q_rank)?,
            q: rows(c.n_head * c.head_dim)?,
            kv: rows(c.head_dim)?,
            heads: rows(c.n_head * c.head_dim)?,
            groups: rows(c.n_group * c.o_rank)?,
            pooled: [rows(2 * c.head_dim)?, rows(2 * c.head_dim)?],
            indexer: c.indexer.map(|x| IndexerBuffers::new(x, dev, n_batch)).transpose()?,
            router: rows(m.n_expert)?,
            experts: dev.alloc(Kind::I32, &[n_batch, m.n_used])?,
            weights: rows(m.n_used)?,
            ahead: [
                dev.alloc(F32, &[1, m.n_expert])?,
                dev.alloc(Kind::I32, &[1, m.n_used])?,
                dev.alloc(F32, &[1, m.n_used])?,
            ],
            shared: [rows(m.n_ff_shared)?, rows(m.n_ff_shared)?, rows(m.n_ff_shared)?],
            out: rows(c.n_embd)?,
            kept: dev.alloc(F32, &[m.n_used, c.n_embd])?,
        })
    }
}

impl IndexerBuffers {
    fn new(x: Indexer, dev: &dyn Device, n_batch: usize) -> Result<IndexerBuffers, DeviceError> {
        let rows = |n: usize| dev.alloc(F32, &[n_batch, n]);
        Ok(IndexerBuffers {
            q: rows(x.n_head * x.head_dim)?,
            weight: rows(x.n_head)?,
            pooled: [rows(2 * x.head_dim)?, rows(2 * x.head_dim)?],
            chosen: dev.alloc(Kind::I32, &[n_batch, x.top_k])?,
        })
    }
}

/// The first `t` rows of a buffer, `width` wide.
pub(crate) fn cut(buffer: &Tensor, t: usize, width: usize) -> Tensor {
    // A buffer's memory is plain numbers, so that narrower rows are just its beginning.
    let flat = buffer.reshape(&[buffer.rows() * buffer.cols()]);
    flat.slice(0..t * width).reshape(&[t, width])
}
