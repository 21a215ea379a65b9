//! Sizes and constants, read from the metadata.

use compute::Hyper;
use gguf::Gguf;

use crate::{
    Error,
    hparams::{Hparams, N_LAYER_MAX, WIDTH_MAX},
    rope::{Scaling, frequencies},
};

/// Tokens per row of the layers whose rows an indexer picks, and whose windows overlap.
pub(crate) const CSA_RATIO: usize = 4;

/// Everything about a file but its weights.
pub(crate) struct Config {
    pub(crate) n_embd: usize,
    pub(crate) n_head: usize,
    pub(crate) head_dim: usize,
    /// Rotated elements, the last of a head.
    pub(crate) n_rot: usize,
    pub(crate) q_rank: usize,
    /// Width of each of the `n_group` parts between the two output projections.
    pub(crate) o_rank: usize,
    pub(crate) n_group: usize,
    /// Recent positions that a query sees, its own included.
    pub(crate) window: usize,
    /// Layers after the last that draft tokens; we do without them.
    pub(crate) n_drafter: usize,
    /// Compression ratio of each layer.
    pub(crate) ratios: Vec<usize>,
    pub(crate) indexer: Option<Indexer>,
    pub(crate) n_vocab: usize,
    pub(crate) n_ctx_train: usize,
    pub(crate) eps: f32,
    /// Angles of the layers without compression.
    pub(crate) freq: Vec<f32>,
    /// Angles of the others.
    pub(crate) freq_compressed: Vec<f32>,
    /// Residual streams.
    pub(crate) n_stream: usize,
    pub(crate) hyper: Hyper,
    pub(crate) moe: Moe,
}

/// Sizes of the indexer.
#[derive(Clone, Copy)]
pub(crate) struct Indexer {
    pub(crate) n_head: usize,
    pub(crate) head_dim: usize,
    /// Rows that a query attends to.
    pub(crate) top_k: usize,
}

/// Sizes and constants of the experts.
pub(crate) struct Moe {
    pub(crate) n_expert: usize,
    pub(crate) n_used: usize,
    pub(crate) n_ff: usize,
    /// Width of the shared expert.
    pub(crate) n_ff_shared: usize,
    /// The first layers, whose experts are chosen by token id.
    pub(crate) n_hash_layer: usize,
    pub(crate) normalize: bool,
    pub(crate) scale: f32,
    /// Clamp of the routed experts' SwiGLU, per layer.
    pub(crate) limits: Vec<Option<f32>>,
    /// Clamp of the shared expert's.
    pub(crate) limits_shared: Vec<Option<f32>>,
}

impl Config {
    pub(crate) fn read(gguf: &Gguf, n_vocab: usize) -> Result<Config, Error> {
        let h = Hparams::new(gguf, "deepseek4");
        let n_drafter = h.size_opt("nextn_predict_layers", 0..=64)?.unwrap_or(0);
        let n_block = h.size("block_count", 1..=N_LAYER_MAX)?;
        let n_layer = n_block.checked_sub(n_drafter).filter(|&n| n > 0).ok_or_else(|| {
            h.refuse("nextn_predict_layers", n_drafter, format_args!("less than the {n_block} layers there are"))
        })?;
        let ratios = h.sizes("attention.compress_ratios", n_layer, 0..=4096)?;
        h.only("attention.head_count_kv", h.size_opt("attention.head_count_kv", 0..=usize::MAX)?, &[1])?;
        let n_head = h.size("attention.head_count", 1..=4096)?;
        let head_dim = h.size("attention.key_length", 2..=1 << 16)?;
        h.only("attention.value_length", h.size_opt("attention.value_length", 0..=usize::MAX)?, &[head_dim])?;
        let n_rot = h.size("rope.dimension_count", 2..=head_dim)?;
        if n_rot % 2 != 0 {
            return Err(h.refuse("rope.dimension_count", n_rot, "an even number"));
        }
        let n_group = h.size("attention.output_group_count", 1..=n_head)?;
        if !n_head.is_multiple_of(n_group) {
            return Err(h.refuse("attention.output_group_count", n_group, format_args!("a divisor of {n_head} heads")));
        }
        let eps = h.real("attention.layer_norm_rms_epsilon", 0.0..=1.0)?;
        Ok(Config {
            n_embd: h.size("embedding_length", 1..=WIDTH_MAX)?,
            n_head,
            head_dim,
            n_rot,
            q_rank: h.size("attention.q_lora_rank", 1..=WIDTH_MAX)?,
            o_rank: h.size("attention.output_lora_rank", 1..=WIDTH_MAX / n_group)?,
            n_group,
            n_drafter,
            window: h.size("attention.sliding_window", 1..=1 << 16)?,
            indexer: if ratios.contains(&CSA_RATIO) { Some(Indexer::read(&h, n_rot)?) } else { None },
            n_vocab,
            n_ctx_train: h.size("context_length", 1..=1 << 30)?,
            eps,
            freq: frequencies(n_rot, theta(&h, "rope.freq_base", 10000.0)?, Scaling::None),
            freq_compressed: frequencies(n_rot, theta(&h, "attention.compress_rope_freq_base", 160000.0)?, yarn(&h)?),
            n_stream: h.size("hyper_connection.count", 1..=16)?,
            hyper: Hyper {
                n_iter: h.size("hyper_connection.sinkhorn_iterations", 1..=1000)?,
                eps: h.real("hyper_connection.epsilon", 0.0..=1.0)?,
                eps_norm: eps,
            },
            moe: Moe::read(&h, n_layer)?,
            ratios,
        })
    }

    /// Parts of a file that text does without: drafters, the router's bias for pictures, and the one of layers whose
    /// experts are chosen by token id.
    pub(crate) fn is_left_out(&self, tensor: &str) -> bool {
        let Some((layer, part)) = tensor.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            return false;
        };
        let (Ok(layer), n_layer) = (layer.parse::<usize>(), self.ratios.len()) else { return false };
        let is_drafter = (n_layer..n_layer + self.n_drafter).contains(&layer);
        let is_unused_bias = part == "exp_probs_b.bias" && layer < self.moe.n_hash_layer;
        is_drafter || is_unused_bias || part == "exp_probs_b_vl.bias"
    }

    /// Width of what a layer's compressor pools: two halves where windows overlap.
    pub(crate) fn compressor_width(ratio: usize, head_dim: usize) -> usize {
        if ratio == CSA_RATIO { 2 * head_dim } else { head_dim }
    }
}

fn theta(h: &Hparams, name: &str, default: f32) -> Result<f64, Error> {
    Ok(f64::from(h.real_opt(name, 1.001..=1e12)?.unwrap_or(default)))
}

/// The stretching of the compressed layers' angles. There is no factor on cosine and sine.
fn yarn(h: &Hparams) -> Result<Scaling, Error> {
    match h.word_opt("rope.scaling.type")?.as_deref() {
        None | Some("none") => Ok(Scaling::None),
        Some("yarn") => Ok(Scaling::Yarn {
            factor: f64::from(h.real("rope.scaling.factor", 1.0..=1e6)?),
            n_ctx_original: h.size("rope.scaling.original_context_length", 1..=1 << 30)? as f64,
            beta_fast: f64::from(h.real_opt("rope.scaling.yarn_beta_fast", 1e-3..=1e6)?.unwrap_or(32.0)),
            beta_slow: f64::from(h.real_opt("rope.scaling.yarn_beta_slow", 1e-3..=1e6)?.unwrap_or(1.0)),
        }),
        Some(other) => Err(h.refuse("rope.scaling.type", other, "none or yarn")),
    }
}

impl Indexer {
    fn read(h: &Hparams, n_rot: usize) -> Result<Indexer, Error> {
        let head_dim = h.size("attention.indexer.key_length", n_rot..=1 << 12)?;
        if !head_dim.is_power_of_two() {
            return Err(h.refuse("attention.indexer.key_length", head_dim, "a power of two"));
        }
        let n_head = h.size("attention.indexer.head_count", 1..=1024)?;
        Ok(Indexer { n_head, head_dim, top_k: h.size("attention.indexer.top_k", 1..=1 << 16)? })
    }
}

/// `expert_gating_func` of `sqrt(softplus(x))`.
const SQRT_SOFTPLUS: usize = 4;

impl Moe {
    fn read(h: &Hparams, n_layer: usize) -> Result<Moe, Error> {
        h.only("expert_gating_func", h.size_opt("expert_gating_func", 0..=usize::MAX)?, &[SQRT_SOFTPLUS])?;
        h.only("expert_group_count", h.size_opt("expert_group_count", 0..=usize::MAX)?, &[0, 1])?;
        let n_expert = h.size("expert_count", 1..=1024)?;
        let n_ff = h.size("expert_feed_forward_length", 1..=WIDTH_MAX)?;
        let n_shared = h.size("expert_shared_count", 1..=16)?;
        let limits = clamps(h, "swiglu_clamp_exp", n_layer)?.unwrap_or(vec![None; n_layer]);
        Ok(Moe {
            n_expert,
            n_used: h.size("expert_used_count", 1..=n_expert)?,
            n_ff,
            n_ff_shared: n_ff * n_shared,
            n_hash_layer: h.size_opt("hash_layer_count", 0..=N_LAYER_MAX)?.unwrap_or(0),
            normalize: h.flag_opt("expert_weights_norm")?.unwrap_or(true),
            scale: h.real_opt("expert_weights_scale", 0.0..=1e3)?.filter(|&s| s > 0.0).unwrap_or(1.0),
            limits_shared: clamps(h, "swiglu_clamp_shexp", n_layer)?.unwrap_or_else(|| limits.clone()),
            limits,
        })
    }
}

/// Clamps per layer; 0 stands for none.
fn clamps(h: &Hparams, name: &str, n_layer: usize) -> Result<Option<Vec<Option<f32>>>, Error> {
    let Some(values) = h.reals_opt(name, n_layer)? else { return Ok(None) };
    match values.iter().find(|v| !(0.0..=f32::MAX).contains(*v)) {
        Some(v) => Err(h.refuse(name, v, "0 or a positive number")),
        None => Ok(Some(values.into_iter().map(|v| Some(v).filter(|&v| v > 0.0)).collect())),
    }
}
