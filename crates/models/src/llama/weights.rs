//! The tensors, by the names of the GGUF.

use compute::{Device, Pairs, Rope, Tensor};
use gguf::Gguf;

use super::config::Config;
use crate::{
    Error, Residency,
    loader::{Bound, Loader},
};

/// A bound file.
pub(crate) struct Weights {
    pub(crate) config: Config,
    pub(crate) bound: Bound,
    pub(crate) embed: Tensor, // [n_vocab, n_embd]
    pub(crate) layers: Vec<Layer>,
    pub(crate) output_norm: Tensor, // [n_embd]
    pub(crate) output: Tensor,      // [n_vocab, n_embd]; the embeddings where the file has none
    pub(crate) rope: Rope,
}

/// A layer's weights.
pub(crate) struct Layer {
    pub(crate) attn_norm: Tensor,  // [n_embd]
    pub(crate) wq: Tensor,         // [n_head * head_dim, n_embd]
    pub(crate) wk: Tensor,         // [n_head_kv * head_dim, n_embd]
    pub(crate) wv: Tensor,         // [n_head_kv * head_dim, n_embd]
    pub(crate) bq: Option<Tensor>, // [n_head * head_dim]
    pub(crate) bk: Option<Tensor>, // [n_head_kv * head_dim]
    pub(crate) bv: Option<Tensor>, // [n_head_kv * head_dim]
    pub(crate) wo: Tensor,         // [n_embd, n_head * head_dim]
    pub(crate) bo: Option<Tensor>, // [n_embd]
    pub(crate) ffn_norm: Tensor,   // [n_embd]
    pub(crate) gate: Tensor,       // [n_ff, n_embd]
    pub(crate) up: Tensor,         // [n_ff, n_embd]
    pub(crate) down: Tensor,       // [n_embd, n_ff]
}

impl Weights {
    pub(crate) fn load(
        gguf: &Gguf,
        dev: &dyn Device,
        residency: Residency,
        arch: &str,
        pairs: Pairs,
    ) -> Result<Weights, Error> {
        let l = Loader::new(gguf, dev, residency);
        let c = Config::read(gguf, arch, l.rows_of("token_embd.weight")?)?;
        let embed = l.matrix("token_embd.weight", &[c.n_vocab, c.n_embd])?;
        let output = match l.has("output.weight") {
            true => l.matrix("output.weight", &[c.n_vocab, c.n_embd])?,
            false => embed.clone(),
        };
        Ok(Weights {
            layers: (0..c.n_layer).map(|i| Layer::load(&l, &c, i)).collect::<Result<_, _>>()?,
            output_norm: l.vector("output_norm.weight", &[c.n_embd])?,
            rope: rope(&l, &c, pairs)?,
            bound: l.finish(|_| false)?,
            embed,
            output,
            config: c,
        })
    }
}

/// `rope_freqs.weight` divides the angles (Llama 3's scaling).
fn rope(l: &Loader, c: &Config, pairs: Pairs) -> Result<Rope, Error> {
    let mut freq = c.freq.clone();
    if l.has("rope_freqs.weight") {
        let divisors = l.values("rope_freqs.weight", &[freq.len()])?;
        if let Some(i) = divisors.iter().position(|d| !(*d > 0.0 && d.is_finite())) {
            return Err(l.wrong_entry("rope_freqs.weight", i, divisors[i], "a positive number"));
        }
        freq.iter_mut().zip(divisors).for_each(|(f, d)| *f /= d);
    }
    Ok(Rope { freq: l.upload(&[freq.len()], &freq)?, pairs, tail: false, scale: c.rope_scale })
}

impl Layer {
    fn load(l: &Loader, c: &Config, i: usize) -> Result<Layer, Error> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let (n_q, n_kv) = (c.n_head * c.head_dim, c.n_head_kv * c.head_dim);
        let n_qkv = n_q + 2 * n_kv;
        let cut = |fused: Tensor| [0..n_q, n_q..n_q + n_kv, n_q + n_kv..n_qkv].map(|rows| fused.slice(rows));
        let [wq, wk, wv] = match l.has(&name("attn_qkv.weight")) {
            true => cut(l.matrix(&name("attn_qkv.weight"), &[n_qkv, c.n_embd])?),
            false => [
                l.matrix(&name("attn_q.weight"), &[n_q, c.n_embd])?,
                l.matrix(&name("attn_k.weight"), &[n_kv, c.n_embd])?,
                l.matrix(&name("attn_v.weight"), &[n_kv, c.n_embd])?,
            ],
        };
        let [bq, bk, bv] = match l.vector_opt(&name("attn_qkv.bias"), &[n_qkv])? {
            Some(fused) => cut(fused).map(Some),
            None => [
                l.vector_opt(&name("attn_q.bias"), &[n_q])?,
                l.vector_opt(&name("attn_k.bias"), &[n_kv])?,
                l.vector_opt(&name("attn_v.bias"), &[n_kv])?,
            ],
        };
        Ok(Layer {
            attn_norm: l.vector(&name("attn_norm.weight"), &[c.n_embd])?,
            wq,
            wk,
            wv,
            bq,
            bk,
            bv,
            wo: l.matrix(&name("attn_output.weight"), &[c.n_embd, n_q])?,
            bo: l.vector_opt(&name("attn_output.bias"), &[c.n_embd])?,
            ffn_norm: l.vector(&name("ffn_norm.weight"), &[c.n_embd])?,
            gate: l.matrix(&name("ffn_gate.weight"), &[c.n_ff, c.n_embd])?,
            up: l.matrix(&name("ffn_up.weight"), &[c.n_ff, c.n_embd])?,
            down: l.matrix(&name("ffn_down.weight"), &[c.n_embd, c.n_ff])?,
        })
    }
}
