//! Dense transformers with grouped-query attention and SwiGLU: `llama` (Llama 2 and 3, SmolLM2, TinyLlama, Mistral)
//! and `qwen2` (Qwen2, Qwen2.5, the R1 distills), which adds biases to q, k and v and pairs rotated elements by halves.
//!
//! ```text
//! x  = embed(token)
//! x += W_o attention(rope(W_q h), rope(W_k h), W_v h),      h = rms_norm(x; attn_norm)
//! x += W_down (silu(W_gate h) * W_up h),                    h = rms_norm(x; ffn_norm)
//! logits = W_output rms_norm(x; output_norm)
//! ```
//!
//! Source: Touvron et al. 2023; `models/llama/modeling_llama.py` and `models/qwen2/modeling_qwen2.py` in transformers;
//! names and layout of the tensors: `src/models/llama.cpp` and `qwen2.cpp` in llama.cpp.

mod config;
mod forward;
mod weights;

use std::sync::Arc;

use compute::{Device, DeviceError, Pairs};
use experts::Routing;
use gguf::Gguf;

use crate::{Cost, Error, KvType, Model, Residency, Shape, State, StateOptions, Work};
use weights::Weights;

/// Opens a file of `llama`, whose rows are permuted so that neighbours turn together.
pub(crate) fn open_llama(gguf: &Gguf, dev: &dyn Device, residency: Residency) -> Result<Box<dyn Model>, Error> {
    open(gguf, dev, residency, "llama", Pairs::Adjacent)
}

/// Opens a file of `qwen2`.
pub(crate) fn open_qwen2(gguf: &Gguf, dev: &dyn Device, residency: Residency) -> Result<Box<dyn Model>, Error> {
    open(gguf, dev, residency, "qwen2", Pairs::Halves)
}

fn open(
    gguf: &Gguf,
    dev: &dyn Device,
    residency: Residency,
    arch: &str,
    pairs: Pairs,
) -> Result<Box<dyn Model>, Error> {
    Ok(Box::new(Llama(Arc::new(Weights::load(gguf, dev, residency, arch, pairs)?))))
}

struct Llama(Arc<Weights>);

impl Model for Llama {
    fn shape(&self) -> Shape {
        let c = &self.0.config;
        Shape {
            n_layer: c.n_layer,
            n_embd: c.n_embd,
            n_vocab: c.n_vocab,
            n_ctx_train: c.n_ctx_train,
            n_params: self.0.bound.n_params,
            weights_bytes: self.0.bound.bytes,
        }
    }

    fn cost(&self, pos: usize, kv: KvType) -> Cost {
        let (w, c) = (&*self.0, &self.0.config);
        let matrices = w.layers.iter().flat_map(|l| [&l.wq, &l.wk, &l.wv, &l.wo, &l.gate, &l.up, &l.down]);
        let row_bytes = kv.row_format().row_bytes(c.n_head_kv * c.head_dim);
        let row = Work { n_bytes: row_bytes as u64, n_mac: (c.n_head * c.head_dim) as u64 };
        Cost {
            layers: matrices.map(Work::of).sum(),
            logits: Work::of(&w.output),
            attention: row.times(2 * c.n_layer * (pos + 1)), // a key and a value
        }
    }

    fn state(&self, dev: &dyn Device, options: &StateOptions, _: &Routing) -> Result<Box<dyn State>, DeviceError> {
        Ok(Box::new(forward::LlamaState::new(self.0.clone(), dev, options)?))
    }
}
