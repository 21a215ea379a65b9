//! The operations. Outputs come first; sizes are read from the tensors; what changes per token comes from the
//! [`Step`]. Operations are queued in order and return nothing: a wrong shape ([`crate::shapes`]) is our bug and panics, a
//! failed device remembers, and [`Memory::read`] reports it.
//!
//! Notation: `t` is a row of the batch, `p(t)` its position, `s(t)` its cache slot. A cache has the shape
//! `[n_slot, n_row, width]`; position `p` lies in row `p mod n_row`, so a cache shorter than the context is a ring.

use std::sync::Arc;

use crate::{Bank, Kind, Step, Tensor, reference, shapes};

/// Bytes of the host, kept alive by whoever holds them: a mapped file, or a vector.
pub type HostBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// What can go wrong below the operations.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// An allocation was refused.
    #[error("{device}: no memory for {bytes} more bytes")]
    OutOfMemory {
        /// The device's name.
        device: String,
        /// Bytes asked for; the most there are where nobody can count them.
        bytes: usize,
    },

    /// The system refused a thread.
    #[error("{device}: cannot start {n_threads} threads: {source}")]
    Threads {
        /// The device's name.
        device: String,
        /// Threads asked for.
        n_threads: usize,
        /// Why.
        source: std::io::Error,
    },
}

/// A device's memory, and the only call that waits.
pub trait Memory: Send + Sync {
    /// Zeroed memory.
    ///
    /// # Errors
    /// When there is not enough.
    fn alloc(&self, kind: Kind, shape: &[usize]) -> Result<Tensor, DeviceError>;

    /// Weights: used in place where the device can read host memory, else copied.
    ///
    /// # Errors
    /// When there is not enough memory for the copy.
    fn load(&self, kind: Kind, shape: &[usize], bytes: HostBytes) -> Result<Tensor, DeviceError>;

    /// Fills `t` with `bytes` of exactly its length.
    fn write(&self, t: &Tensor, bytes: &[u8]);

    /// Waits for all queued operations, then copies the bytes of `t`.
    ///
    /// # Errors
    /// Whatever went wrong since the last read.
    fn read(&self, t: &Tensor, out: &mut [u8]) -> Result<(), DeviceError>;

    /// Keeps the memory of `t` from being swapped out, as far as the system allows that.
    fn pin(&self, _: &Tensor) {}

    /// Says what the weights `t` are called, for devices that tell what they do with them.
    fn label(&self, _: &Tensor, _name: &str) {}
}

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// `(2i, 2i+1)`: llama's rows in a GGUF, DeepSeek.
    Adjacent,
    /// `(i, i + n_rot/2)`: the NeoX way, Qwen.
    Halves,
}

/// Rotary positions (Su et al. 2021, eq. 34).
#[derive(Clone, Debug)]
pub struct Rope {
    /// Angle per position of each pair, `[n_rot / 2]`.
    pub freq: Tensor,
    /// Which elements make a pair.
    pub pairs: Pairs,
    /// Whether the rotated elements are the last of the head, or the first.
    pub tail: bool,
    /// Factor on cosine and sine (YaRN's magnitude).
    pub scale: f32,
}

/// Grouped-query attention over cached keys and values.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads; query head `h` reads head `h * n_head_kv / n_head`.
    pub n_head_kv: usize,
    /// Factor on the scores.
    pub scale: f32,
}

/// Rows that stand for whole windows of `ratio` tokens.
#[derive(Clone, Debug)]
pub struct Compressed {
    /// `[n_slot, n_row, head_dim]`; row `w` stands for tokens `w * ratio ..`.
    pub rows: Tensor,
    /// Tokens per row.
    pub ratio: usize,
    /// The rows each query attends to, ascending and then -1, `[t, k]`; without it, all visible ones.
    pub chosen: Option<Tensor>,
}

/// DeepSeek V4's attention: one row is key and value of all heads.
#[derive(Clone, Debug)]
pub struct Latent {
    /// The last rows, a ring of `[n_slot, n_row, head_dim]` with `n_row >= window - 1 + t`.
    pub ring: Tensor,
    /// How many of them a query sees, its own included.
    pub window: usize,
    /// Older context.
    pub compressed: Option<Compressed>,
    /// A logit per head that only enlarges the denominator, `[n_head]`.
    pub sinks: Tensor,
    /// Factor on the scores.
    pub scale: f32,
}

/// Turns windows of tokens into single rows (DeepSeek V4, compressor).
#[derive(Clone, Debug)]
pub struct Compressor {
    /// Tokens per row.
    pub ratio: usize,
    /// Whether a row also covers the window before its own; `kv` and `gate` then hold two halves, the first of which
    /// belongs to the next window's row.
    pub overlap: bool,
    /// Added to the gate, `[ratio, width]`.
    pub ape: Tensor,
    /// Weight of the norm, `[head_dim]`.
    pub norm: Tensor,
    /// Its epsilon.
    pub eps: f32,
    /// Turned to the position of the window's first token.
    pub rope: Rope,
    /// Whether the row passes the Hadamard transform before it is stored.
    pub hadamard: bool,
    /// Values of the last tokens, a ring of `[n_slot, n_row, width]`.
    pub frontier_kv: Tensor,
    /// Gates of the last tokens, with `ape` added, likewise.
    pub frontier_gate: Tensor,
    /// Where row `w` of a sequence goes, `[n_slot, n_row, head_dim]`.
    pub rows: Tensor,
}

/// Picks the compressed rows that a query attends to (DeepSeek V4, lightning indexer).
#[derive(Clone, Debug)]
pub struct Chooser {
    /// The indexer's rows, `[n_slot, n_row, head_dim]`.
    pub rows: Tensor,
    /// Tokens per row.
    pub ratio: usize,
    /// Factor on the head weights.
    pub scale: f32,
}

/// Sizes of the hyper-connections (Zhu et al. 2024; the manifold-constrained form of DeepSeek V4).
#[derive(Clone, Copy, Debug)]
pub struct Hyper {
    /// Normalisations of the mixing matrix.
    pub n_iter: usize,
    /// Added to the weights and sums.
    pub eps: f32,
    /// Epsilon of the norm over all streams.
    pub eps_norm: f32,
}

/// How a router's logits become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// `softmax`
    Softmax,
    /// `sqrt(ln(1 + e^x))`
    SqrtSoftplus,
}

/// The choice of experts.
#[derive(Clone, Debug)]
pub struct Router {
    /// How logits become probabilities.
    pub gating: Gating,
    /// Added for the choice only, `[n_expert]`.
    pub bias: Option<Tensor>,
    /// A fixed choice per token id, `[n_vocab, k]`, in place of the best `k`.
    pub table: Option<Tensor>,
    /// Whether the chosen probabilities are divided by their sum.
    pub normalize: bool,
    /// Factor on the result.
    pub scale: f32,
}

/// What bounds a device, as measured on it: decoding by how fast it reads, prefill by how fast it multiplies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// 10^9 bytes per second, read by all threads together from memory that caches do not hold.
    pub read_gbps: f64,
    /// How much memory that was.
    pub read_bytes: usize,
    /// 10^9 multiply-adds of bytes per second, by all threads together, in registers.
    pub int8_gmacs: f64,
    /// The instructions that do them.
    pub int8_by: &'static str,
}

/// A machine that computes. Every operation has a default body: out to the host, through the loop that defines it,
/// and back.
///
/// An operation panics where its caller broke the contract (shapes, kinds, an output that shares memory with something
/// else) and nowhere else: sizes and numbers that come from files and people are checked before they get here.
pub trait Device: Memory {
    /// What it is, in words.
    fn name(&self) -> String;

    /// Measures what bounds the device, in some tenths of a second, on about `bytes` of memory that is taken for this;
    /// `None` where nobody knows how, or there is no such memory.
    fn limits(&self, bytes: usize) -> Option<Limits> {
        let _ = bytes;
        None
    }

    /// Queues the operations of `body`. Calls with the same `key` queue the same operations on the same tensors, so a
    /// backend may record the first and replay it later without calling `body`.
    fn step(&self, key: u64, body: &mut dyn FnMut()) {
        let _ = key;
        body();
    }

    /// `y[t] = table[id(t)]`, repeated until the row of `y` is full.
    fn embed(&self, y: &Tensor, table: &Tensor, step: &Step) {
        reference::embed(self, y, table, step);
    }

    /// `y[t, i] = w[i] * x[t, i] / sqrt(mean_j x[t, j]^2 + eps)` (Zhang & Sennrich 2019, eq. 4); `w` may be left out,
    /// and `y` may be `x`, but not half of it.
    fn rms_norm(&self, y: &Tensor, x: &Tensor, w: Option<&Tensor>, eps: f32) {
        reference::rms_norm(self, y, x, w, eps);
    }

    /// `y[t, o] = sum_i w[o, i] * x[t, i]`
    fn matmul(&self, y: &Tensor, w: &Tensor, x: &Tensor) {
        self.matmul_grouped(y, w, x, 1);
    }

    /// Several products with the same `x`, each into its own `y`: `(y, w)`.
    fn matmuls(&self, products: &[(&Tensor, &Tensor)], x: &Tensor) {
        products.iter().for_each(|(y, w)| self.matmul(y, w, x));
    }

    /// Block-diagonal product: with `w` cut into `n_group` blocks of rows and `x[t]` into as many parts, block `g` is
    /// multiplied with part `g`.
    fn matmul_grouped(&self, y: &Tensor, w: &Tensor, x: &Tensor, n_group: usize) {
        reference::matmul_grouped(self, y, w, x, n_group);
    }

    /// `x[t, i] += b[t, i]`, or `b[i]` where `b` has one row.
    fn add(&self, x: &Tensor, b: &Tensor) {
        reference::add(self, x, b);
    }

    /// `y = silu(min(gate, limit)) * clamp(up, -limit, limit)` (Shazeer 2020, eq. 6); without a limit, no clamps.
    fn swiglu(&self, y: &Tensor, gate: &Tensor, up: &Tensor, limit: Option<f32>) {
        reference::swiglu(self, y, gate, up, limit);
    }

    /// `y = swiglu(w_gate x, w_up x)`, given `(gate, w_gate)` and `(up, w_up)`; what the buffers `gate` and `up` hold
    /// afterwards is undefined.
    fn gated(&self, y: &Tensor, [gate, up]: [(&Tensor, &Tensor); 2], x: &Tensor, limit: Option<f32>) {
        shapes::gated(y, [gate, up], x);
        self.matmuls(&[gate, up], x);
        self.swiglu(y, gate.0, up.0, limit);
    }

    /// Turns each head of `x`, `[t, n_head, head_dim]`, to position `p(t)`, or back by it.
    fn rope(&self, x: &Tensor, rope: &Rope, inverse: bool, step: &Step) {
        reference::rope(self, x, rope, inverse, step);
    }

    /// `cache[s(t), p(t) mod n_row] = x[t]`, packed as the cache's kind says. Of rows of the batch that meet in one place
    /// the last wins.
    fn store(&self, cache: &Tensor, x: &Tensor, step: &Step) {
        reference::store(self, cache, x, step);
    }

    /// `y[t, h] = sum_j softmax_j(scale * q[t, h] . k[j, g]) v[j, g]` over positions `j <= p(t)` and `g` the head's
    /// group (Ainslie et al. 2023). `k` and `v` are caches of `[n_slot, n_row, n_head_kv * head_dim]`.
    fn attention(&self, y: &Tensor, q: &Tensor, k: &Tensor, v: &Tensor, a: &Attention, step: &Step) {
        reference::attention(self, y, q, k, v, a, step);
    }

    /// `y[t, h] = sum_j e^(scale * q[t, h] . r_j) r_j / (sum_j e^(scale * q[t, h] . r_j) + e^sink[h])` over the rows `j`
    /// of the window and the compressed rows visible or chosen; compressed row `w` is visible from position
    /// `(w + 1) * ratio - 1` (DeepSeek V4 `model.py`, `sparse_attn`).
    fn latent_attention(&self, y: &Tensor, q: &Tensor, a: &Latent, step: &Step) {
        reference::latent_attention(self, y, q, a, step);
    }

    /// Adds the tokens' `kv` and `gate`, `[t, width]`, to the frontier, and stores a row for every window that ends
    /// in this batch: `rope(rms_norm(sum_s softmax_s(gate_s) * kv_s))`, each element with its own softmax (DeepSeek V4
    /// `model.py`, `Compressor`). `gate` is overwritten.
    fn compress(&self, kv: &Tensor, gate: &Tensor, c: &Compressor, step: &Step) {
        reference::compress(self, kv, gate, c, step);
    }

    /// Walsh-Hadamard transform of each row, normalised.
    fn hadamard(&self, x: &Tensor) {
        reference::hadamard(self, x);
    }

    /// Rounds each row as storing it in a cache of this kind would.
    fn round(&self, x: &Tensor, kind: Kind) {
        reference::round(self, x, kind);
    }

    /// `chosen[t]` = the `k` visible rows `w` with the largest `sum_h scale * weight[t, h] * max(0, q[t, h] . r_w)`, in
    /// ascending order, then -1; of equal scores the lower row (DeepSeek V4 `model.py`, `Indexer`).
    fn choose(&self, chosen: &Tensor, q: &Tensor, weight: &Tensor, c: &Chooser, step: &Step) {
        reference::choose(self, chosen, q, weight, c, step);
    }

    /// From the streams `x`, `[t, n, d]`, and their mixes `[t, (2 + n) * n]`: the layer's input `y[t]`, how its output
    /// is spread (`post`, `[t, n]`), and how streams mix (`comb`, `[t, n, n]`, source first). Equations H1 to H9 of
    /// DeepSeek V4 `model.py`, `hc_pre`.
    #[allow(clippy::too_many_arguments, reason = "three outputs, two inputs and the two parameters of the affine map")]
    fn hyper_pre(
        &self,
        y: &Tensor,
        post: &Tensor,
        comb: &Tensor,
        x: &Tensor,
        mixes: &Tensor,
        scale: &Tensor,
        base: &Tensor,
        h: &Hyper,
    ) {
        reference::hyper_pre(self, [y, post, comb], x, mixes, scale, base, h);
    }

    /// `x[t, k] = post[t, k] * f[t] + sum_j comb[t, j, k] * x[t, j]` (DeepSeek V4 `model.py`, `hc_post`)
    fn hyper_post(&self, x: &Tensor, f: &Tensor, post: &Tensor, comb: &Tensor) {
        reference::hyper_post(self, x, f, post, comb);
    }

    /// `y[t] = sum_h (sigmoid(mixes[t, h] * rho * scale + base[h]) + eps) * x[t, h]` (DeepSeek V4 `model.py`, `hc_head`)
    fn hyper_head(&self, y: &Tensor, x: &Tensor, mixes: &Tensor, scale: &Tensor, base: &Tensor, h: &Hyper) {
        reference::hyper_head(self, y, x, mixes, scale, base, h);
    }

    /// Experts of each row, ascending, `[t, k]`, and their weights, from the router's logits `[t, n_expert]`. Of equal
    /// scores the lower expert wins. If one of the scores is no number, neither are the weights.
    fn route(&self, experts: &Tensor, weights: &Tensor, logits: &Tensor, r: &Router, step: &Step) {
        reference::route(self, experts, weights, logits, r, step);
    }

    /// `y[t] += down_e (w_k * swiglu(gate_e x[t], up_e x[t]))` for each of the row's experts `e` that the bank has, in
    /// ascending order: banks that hold one after another what was chosen add up to the same as one that holds all.
    fn moe(&self, y: &Tensor, x: &Tensor, bank: &Bank, experts: &Tensor, weights: &Tensor, limit: Option<f32>) {
        reference::moe(self, y, x, bank, experts, weights, limit);
    }
}
