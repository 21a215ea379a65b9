//! The forward pass, and the memory it runs on.

use std::{ops::Range, sync::Arc};

use compute::{Attention, Device, DeviceError, F32, Kind, Step, Tensor};

use super::weights::{Layer, Weights};
use crate::{Error, N_LOGITS_MAX, State, StateOptions, memory::CachePart};

/// Caches of all layers, and the buffers of one batch.
pub(crate) struct LlamaState {
    weights: Arc<Weights>,
    caches: Vec<Cache>,
    x: Tensor,      // [n_batch, n_embd], the residual
    h: Tensor,      // [n_batch, n_embd]
    q: Tensor,      // [n_batch, n_head * head_dim]
    k: Tensor,      // [n_batch, n_head_kv * head_dim]
    v: Tensor,      // [n_batch, n_head_kv * head_dim]
    a: Tensor,      // [n_batch, n_head * head_dim]
    gate: Tensor,   // [n_batch, n_ff]
    up: Tensor,     // [n_batch, n_ff]
    act: Tensor,    // [n_batch, n_ff]
    logits: Tensor, // [N_LOGITS_MAX, n_vocab]
}

/// A layer's keys and values, `[n_slot, n_ctx, n_head_kv * head_dim]` each.
struct Cache {
    k: Tensor,
    v: Tensor,
}

impl LlamaState {
    pub(crate) fn new(weights: Arc<Weights>, dev: &dyn Device, o: &StateOptions) -> Result<LlamaState, DeviceError> {
        let c = &weights.config;
        let (n_q, n_kv) = (c.n_head * c.head_dim, c.n_head_kv * c.head_dim);
        let cache = || dev.alloc(Kind::Cached(o.kv.row_format()), &[o.n_slot, o.n_ctx, n_kv]);
        let rows = |n: usize| dev.alloc(F32, &[o.n_batch, n]);
        Ok(LlamaState {
            caches: (0..c.n_layer)
                .map(|_| Ok(Cache { k: cache()?, v: cache()? }))
                .collect::<Result<_, DeviceError>>()?,
            x: rows(c.n_embd)?,
            h: rows(c.n_embd)?,
            q: rows(n_q)?,
            k: rows(n_kv)?,
            v: rows(n_kv)?,
            a: rows(n_q)?,
            gate: rows(c.n_ff)?,
            up: rows(c.n_ff)?,
            act: rows(c.n_ff)?,
            logits: dev.alloc(F32, &[N_LOGITS_MAX.min(o.n_batch), c.n_vocab])?,
            weights,
        })
    }

    /// The buffers, cut to the `t` rows of a batch.
    fn cut(&self, t: usize) -> [Tensor; 9] {
        [&self.x, &self.h, &self.q, &self.k, &self.v, &self.a, &self.gate, &self.up, &self.act].map(|b| b.slice(0..t))
    }

    fn layer(&self, dev: &dyn Device, l: &Layer, cache: &Cache, step: &Step) {
        let w = &*self.weights;
        let c = &w.config;
        let t = step.len();
        let [x, h, q, k, v, a, gate, up, act] = &self.cut(t);

        dev.rms_norm(h, x, Some(&l.attn_norm), c.eps);
        dev.matmuls(&[(q, &l.wq), (k, &l.wk), (v, &l.wv)], h);
        [(q, &l.bq), (k, &l.bk), (v, &l.bv)].into_iter().for_each(|(y, b)| bias(dev, y, b));
        dev.rope(&q.reshape(&[t, c.n_head, c.head_dim]), &w.rope, false, step);
        dev.rope(&k.reshape(&[t, c.n_head_kv, c.head_dim]), &w.rope, false, step);
        dev.store(&cache.k, k, step);
        dev.store(&cache.v, v, step);
        let attention = Attention { n_head: c.n_head, n_head_kv: c.n_head_kv, scale: c.scale };
        dev.attention(a, q, &cache.k, &cache.v, &attention, step);
        dev.matmul(h, &l.wo, a);
        bias(dev, h, &l.bo);
        dev.add(x, h);

        dev.rms_norm(h, x, Some(&l.ffn_norm), c.eps);
        dev.gated(act, [(gate, &l.gate), (up, &l.up)], h, None);
        dev.matmul(h, &l.down, act);
        dev.add(x, h);
    }
}

/// `y += b`, where there is a bias.
fn bias(dev: &dyn Device, y: &Tensor, b: &Option<Tensor>) {
    if let Some(b) = b {
        dev.add(y, b);
    }
}

impl State for LlamaState {
    fn forward(&self, dev: &dyn Device, step: &Step, layers: Range<usize>) -> Result<(), Error> {
        if layers.start == 0 {
            dev.embed(&self.x.slice(0..step.len()), &self.weights.embed, step);
        }
        for (l, cache) in self.weights.layers[layers.clone()].iter().zip(&self.caches[layers]) {
            self.layer(dev, l, cache, step);
        }
        Ok(())
    }

    fn logits(&self, dev: &dyn Device, rows: Range<usize>) -> Tensor {
        let (w, n) = (&*self.weights, rows.len());
        let (h, logits) = (self.h.slice(0..n), self.logits.slice(0..n));
        dev.rms_norm(&h, &self.x.slice(rows), Some(&w.output_norm), w.config.eps);
        dev.matmul(&logits, &w.output, &h);
        logits
    }

    fn n_rewind(&self, n: usize) -> usize {
        n
    }

    fn rows(&self, slot: usize, tokens: Range<usize>) -> Vec<CachePart> {
        let caches = self.caches.iter().flat_map(|cache| [&cache.k, &cache.v]);
        caches.map(|cache| CachePart::new(cache, slot, tokens.clone())).collect()
    }

    fn frontier(&self, _: usize, _: usize) -> Vec<CachePart> {
        Vec::new()
    }
}
