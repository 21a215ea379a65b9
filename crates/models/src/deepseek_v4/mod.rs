//! DeepSeek V4, Flash and PRO: four residual streams, attention over a window and compressed rows, experts.
//!
//! ```text
//! X = four copies of embed(token)
//! per layer, for f in (attention, experts):
//!     y, post, C = hyper_pre(X);   X[k] = post[k] f(rms_norm(y)) + sum_j C[j, k] X[j]
//! logits = W_output rms_norm(hyper_head(X))
//! ```
//!
//! A layer's compression ratio decides what it remembers beyond its window: nothing (0), a row per 4 tokens of which an
//! indexer picks some (4), or a row per `ratio` tokens, all of them seen. The list of ratios is in the file.
//!
//! Source: `inference/model.py` of the release; equations are numbered as in its specification (E, H, A, B, C, I, M).

mod chat;
mod config;
mod forward;
mod state;
mod weights;

use std::sync::Arc;

use compute::{Device, DeviceError};
use experts::{Places, Routing, trace::Head};
use gguf::Gguf;

use crate::{Cost, Error, KvType, Model, Residency, Shape, State, StateOptions, Work};
pub use chat::{DeepSeekV4, Release};
use weights::Weights;

/// Opens a file of this family.
pub(crate) fn open(gguf: &Gguf, dev: &dyn Device, residency: Residency) -> Result<Box<dyn Model>, Error> {
    Ok(Box::new(V4(Arc::new(Weights::load(gguf, dev, residency)?))))
}

struct V4(Arc<Weights>);

impl Model for V4 {
    fn shape(&self) -> Shape {
        let c = &self.0.config;
        Shape {
            n_layer: c.ratios.len(),
            n_embd: c.n_embd,
            n_vocab: c.n_vocab,
            n_ctx_train: c.n_ctx_train,
            n_params: self.0.bound.n_params,
            weights_bytes: self.0.bound.bytes,
        }
    }

    fn places(&self) -> Option<&Places> {
        let places = &self.0.bound.places;
        (places.n_experts() > 0).then_some(places)
    }

    fn routes(&self) -> Option<Head> {
        let (c, layers) = (&self.0.config, &self.0.layers);
        let expert_bytes = layers.iter().map(|l| l.ffn.experts.work.n_bytes).sum::<u64>() / layers.len() as u64;
        Some(Head { n_layer: layers.len(), n_expert: c.moe.n_expert, n_used: c.moe.n_used, expert_bytes })
    }

    fn cost(&self, pos: usize, kv: KvType) -> Cost {
        let (w, c) = (&*self.0, &self.0.config);
        Cost {
            layers: w.layers.iter().map(|l| l.work(c.moe.n_used)).sum(),
            logits: Work::of(&w.head.mix) + Work::of(&w.output),
            attention: c.ratios.iter().map(|&ratio| state::attention_work(c, ratio, pos, kv)).sum(),
        }
    }

    fn state(
        &self,
        dev: &dyn Device,
        options: &StateOptions,
        routing: &Routing,
    ) -> Result<Box<dyn State>, DeviceError> {
        Ok(Box::new(state::V4State::new(self.0.clone(), routing.clone(), dev, options)?))
    }
}
