//! The forward pass.

use std::ops::Range;

use compute::{Bank, Chooser, Compressor, Device, Gating, Kind, Latent, Router, Step, Tensor};
use experts::{Foresight, Turn};

use super::{
    config::Config,
    state::{Cache, IndexerBuffers, IndexerCache, V4State, cut, open_windows, window_rows},
    weights::{AttnWeights, CompressorWeights, FfnWeights, HyperWeights, IndexerWeights},
};
use crate::{Error, State, memory::CachePart};

impl State for V4State {
    fn forward(&self, dev: &dyn Device, step: &Step, layers: Range<usize>) -> Result<(), Error> {
        if layers.start == 0 {
            dev.embed(&self.buffers.x.slice(0..step.len()), &self.weights.embed, step);
            self.foresee(dev, step)?;
        }
        for i in layers {
            let l = &self.weights.layers[i];
            self.connected(dev, &l.hyper_attn, step, &|| {
                self.attention(dev, &l.attn, &self.caches[i], step);
                Ok(())
            })?;
            self.connected(dev, &l.hyper_ffn, step, &|| self.experts(dev, &l.ffn, i, step))?;
        }
        Ok(())
    }

    fn logits(&self, dev: &dyn Device, rows: Range<usize>) -> Tensor {
        let (w, b, n) = (&*self.weights, &self.buffers, rows.len());
        let c = &w.config;
        let (x, y, h, logits) = (b.x.slice(rows), b.y.slice(0..n), b.h.slice(0..n), self.logits.slice(0..n));
        let mixes = cut(&b.mixes, n, c.n_stream);
        dev.matmul(&mixes, &w.head.mix, &x);
        dev.hyper_head(&y, &x.reshape(&[n, c.n_stream, c.n_embd]), &mixes, &w.head.scale, &w.head.base, &c.hyper);
        dev.rms_norm(&h, &y, Some(&w.output_norm), c.eps);
        dev.matmul(&logits, &w.output, &h);
        logits
    }

    fn n_rewind(&self, _: usize) -> usize {
        self.n_rewind
    }

    fn rows(&self, slot: usize, tokens: Range<usize>) -> Vec<CachePart> {
        self.compressors().map(|c| window_rows(c, slot, &tokens)).collect()
    }

    fn frontier(&self, slot: usize, n: usize) -> Vec<CachePart> {
        let recent = n.saturating_sub(self.weights.config.window - 1)..n;
        let rings = self.caches.iter().map(|cache| CachePart::new(&cache.ring, slot, recent.clone()));
        rings.chain(self.compressors().flat_map(|c| open_windows(c, slot, n))).collect()
    }
}

impl V4State {
    /// `X[k] = post[k] * f(hyper_pre(X)) + sum_j C[j, k] X[j]`, where `f` reads `buffers.y` and writes `buffers.out`
    /// (E2, E5; E6, E9).
    fn connected(
        &self,
        dev: &dyn Device,
        w: &HyperWeights,
        step: &Step,
        f: &dyn Fn() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (b, c, t) = (&self.buffers, &self.weights.config, step.len());
        let x = b.x.slice(0..t);
        let [mixes, post, y, out] = [&b.mixes, &b.post, &b.y, &b.out].map(|b| b.slice(0..t));
        let streams = x.reshape(&[t, c.n_stream, c.n_embd]);
        let comb = b.comb.slice(0..t).reshape(&[t, c.n_stream, c.n_stream]);
        dev.matmul(&mixes, &w.mix, &x);
        dev.hyper_pre(&y, &post, &comb, &streams, &mixes, &w.scale, &w.base, &c.hyper);
        f()?;
        dev.hyper_post(&streams, &out, &post, &comb);
        Ok(())
    }

    fn attention(&self, dev: &dyn Device, w: &AttnWeights, cache: &Cache, step: &Step) {
        let (b, c, t) = (&self.buffers, &self.weights.config, step.len());
        let [y, h, q_rank, q, kv, heads, groups, out] =
            [&b.y, &b.h, &b.q_rank, &b.q, &b.kv, &b.heads, &b.groups, &b.out].map(|b| b.slice(0..t));
        dev.rms_norm(&h, &y, Some(&w.norm), c.eps);

        // A1 to A4
        dev.matmuls(&[(&q_rank, &w.q_a), (&kv, &w.kv)], &h);
        dev.rms_norm(&q_rank, &q_rank, Some(&w.q_norm), c.eps);
        dev.matmul(&q, &w.q_b, &q_rank);
        let q_heads = q.reshape(&[t * c.n_head, c.head_dim]);
        dev.rms_norm(&q_heads, &q_heads, None, c.eps);
        dev.rope(&q.reshape(&[t, c.n_head, c.head_dim]), &w.rope, false, step);

        // A5 to A7
        dev.rms_norm(&kv, &kv, Some(&w.kv_norm), c.eps);
        dev.rope(&kv.reshape(&[t, 1, c.head_dim]), &w.rope, false, step);
        dev.store(&cache.ring, &kv, step);

        // Older context
        if let (Some(w), Some(cache)) = (&w.compressor, &cache.compressor) {
            compress(dev, w, cache, &b.pooled, &h, step);
        }
        let indexer = (&w.indexer, &cache.indexer, &b.indexer);
        let chosen = match indexer {
            (Some(iw), Some(cache), Some(buffers)) => Some(choose(dev, iw, w, cache, buffers, &h, &q_rank, step)),
            _ => None,
        };

        // B1 to B7
        let latent = Latent {
            ring: cache.ring.clone(),
            window: c.window,
            compressed: cache.compressed(chosen),
            sinks: w.sinks.clone(),
            scale: 1.0 / (c.head_dim as f32).sqrt(),
        };
        dev.latent_attention(&heads, &q, &latent, step);
        dev.rope(&heads.reshape(&[t, c.n_head, c.head_dim]), &w.rope, true, step);
        dev.matmul_grouped(&groups, &w.out_a, &heads, c.n_group);
        dev.matmul(&out, &w.out_b, &groups);
    }

    /// M1 to M6. The shared expert goes first, so that chosen ones can be read meanwhile.
    fn experts(&self, dev: &dyn Device, w: &FfnWeights, layer: usize, step: &Step) -> Result<(), Error> {
        let (b, c, t) = (&self.buffers, &self.weights.config, step.len());
        let [y, h, logits, chosen, weights, out] =
            [&b.y, &b.h, &b.router, &b.experts, &b.weights, &b.out].map(|b| b.slice(0..t));
        let [gate, up, act] = b.shared.each_ref().map(|b| b.slice(0..t));
        dev.rms_norm(&h, &y, Some(&w.norm), c.eps);
        dev.matmul(&logits, &w.router, &h);
        dev.route(&chosen, &weights, &logits, &w.router(c), step);
        let ask = self.routing.meet(dev, layer, &chosen)?;
        self.guess(dev, layer + 1, &y, step)?;
        dev.gated(&act, [(&gate, &w.shared_gate), (&up, &w.shared_up)], &h, c.moe.limits_shared[layer]);
        dev.matmul(&out, &w.shared_down, &act);
        let add = |y: &Tensor, bank: &Bank| dev.moe(y, &h, bank, &chosen, &weights, c.moe.limits[layer]);
        if let Some(bank) = &w.experts.bank {
            add(&out, bank);
        }
        match ask {
            None => {}
            Some(ask) if t > 1 => ask.each(dev, &mut |bank| add(&out, bank))?,
            Some(ask) => ask.each_early(dev, &mut |turn| match turn {
                Turn::Add(bank) => add(&out, bank),
                Turn::Keep(i, bank) => add(&self.nothing(dev, i), bank),
                Turn::AddKept(i) => dev.add(&out, &b.kept.slice(i..i + 1)),
            })?,
        }
        Ok(())
    }

    /// Room to keep what an expert computes, filled with what adding to changes nothing.
    fn nothing(&self, dev: &dyn Device, i: usize) -> Tensor {
        let kept = self.buffers.kept.slice(i..i + 1);
        // Adding to +0 would make a sum of -0 and -0 positive.
        dev.write(&kept, &(-0.0f32).to_le_bytes().repeat(kept.cols()));
        kept
    }

    /// Has experts read that are chosen by the tokens alone, before their layers come.
    fn foresee(&self, dev: &dyn Device, step: &Step) -> Result<(), Error> {
        if !self.routing.looks_ahead(step.len(), Foresight::Certain) {
            return Ok(());
        }
        let [logits, chosen, weights] = self.buffers.ahead.each_ref().map(|b| b.slice(0..step.len()));
        for (i, l) in self.weights.layers.iter().enumerate().filter(|(_, l)| l.ffn.table.is_some()) {
            // The table decides what is chosen; logits only weigh it.
            dev.route(&chosen, &weights, &logits, &l.ffn.router(&self.weights.config), step);
            self.routing.foresee(dev, i, &chosen, Foresight::Certain)?;
        }
        Ok(())
    }

    /// Has experts read that a layer would choose if nothing happened between `y`, the input of the one before, and it.
    fn guess(&self, dev: &dyn Device, layer: usize, y: &Tensor, step: &Step) -> Result<(), Error> {
        let (c, next) = (&self.weights.config, self.weights.layers.get(layer));
        let Some(w) = next.map(|l| &l.ffn).filter(|w| w.table.is_none()) else { return Ok(()) };
        if !self.routing.looks_ahead(step.len(), Foresight::Guess) {
            return Ok(());
        }
        // The batch's own experts come later: their buffer is free.
        let h = self.buffers.out.slice(0..step.len());
        let [logits, chosen, weights] = self.buffers.ahead.each_ref().map(|b| b.slice(0..step.len()));
        dev.rms_norm(&h, y, Some(&w.norm), c.eps);
        dev.matmul(&logits, &w.router, &h);
        dev.route(&chosen, &weights, &logits, &w.router(c), step);
        Ok(self.routing.foresee(dev, layer, &chosen, Foresight::Guess)?)
    }
}

impl FfnWeights {
    fn router(&self, c: &Config) -> Router {
        Router {
            gating: Gating::SqrtSoftplus,
            bias: self.bias.clone(),
            table: self.table.clone(),
            normalize: c.moe.normalize,
            scale: c.moe.scale,
        }
    }
}

/// C1 to C8 for the tokens of a batch whose normalised inputs are `h`.
fn compress(dev: &dyn Device, w: &CompressorWeights, c: &Compressor, pooled: &[Tensor; 2], h: &Tensor, step: &Step) {
    let [kv, gate] = pooled.each_ref().map(|b| cut(b, step.len(), w.ape.cols()));
    dev.matmuls(&[(&kv, &w.kv), (&gate, &w.gate)], h);
    dev.compress(&kv, &gate, c, step);
}

/// The rows that each query attends to (I1 to I9).
#[allow(clippy::too_many_arguments, reason = "an indexer reads both what attention reads and what it has made of it")]
fn choose(
    dev: &dyn Device,
    w: &IndexerWeights,
    attn: &AttnWeights,
    cache: &IndexerCache,
    b: &IndexerBuffers,
    h: &Tensor,
    q_rank: &Tensor,
    step: &Step,
) -> Tensor {
    let t = step.len();
    let [q, weight, chosen] = [&b.q, &b.weight, &b.chosen].map(|b| b.slice(0..t));
    let (n_head, head_dim) = (weight.cols(), cache.compressor.rows.cols());
    compress(dev, &w.compressor, &cache.compressor, &b.pooled, h, step);

    dev.matmul(&q, &w.q_b, q_rank);
    dev.rope(&q.reshape(&[t, n_head, head_dim]), &attn.rope, false, step);
    if let Some(format) = cache.rounding {
        let heads = q.reshape(&[t * n_head, head_dim]);
        dev.hadamard(&heads);
        dev.round(&heads, Kind::Cached(format));
    }
    dev.matmul(&weight, &w.proj, h);
    let chooser = Chooser {
        rows: cache.compressor.rows.clone(),
        ratio: cache.compressor.ratio,
        scale: 1.0 / ((head_dim * n_head) as f32).sqrt(),
    };
    dev.choose(&chosen, &q, &weight, &chooser, step);
    chosen
}
