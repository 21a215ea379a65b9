//! Sizes and constants, read from the metadata.

use gguf::Gguf;

use crate::{
    Error,
    hparams::{Hparams, N_LAYER_MAX, WIDTH_MAX},
    rope::{Scaling, frequencies},
};

/// Everything about a file but its weights.
pub(crate) struct Config {
    pub(crate) n_layer: usize,
    pub(crate) n_embd: usize,
    pub(crate) n_head: usize,
    pub(crate) n_head_kv: usize,
    pub(crate) head_dim: usize,
    pub(crate) n_ff: usize,
    pub(crate) n_vocab: usize,
    pub(crate) n_ctx_train: usize,
    pub(crate) eps: f32,
    /// Factor on the attention scores.
    pub(crate) scale: f32,
    /// Angle per position of each rotated pair, before `rope_freqs`.
    pub(crate) freq: Vec<f32>,
    /// Factor on cosine and sine.
    pub(crate) rope_scale: f32,
}

impl Config {
    pub(crate) fn read(gguf: &Gguf, arch: &str, n_vocab: usize) -> Result<Config, Error> {
        let h = Hparams::new(gguf, arch);
        h.only("expert_count", h.size_opt("expert_count", 0..=usize::MAX)?, &[0])?;
        let n_ctx_train = h.size("context_length", 1..=1 << 30)?;
        // Some converters keep keys of relatives of these families. A window as long as the context is none.
        let window = h.size_opt("attention.sliding_window", 0..=usize::MAX)?;
        h.only("attention.sliding_window", window.filter(|&n| n < n_ctx_train), &[0])?;
        h.only("logit_scale", h.real_opt("logit_scale", f32::MIN..=f32::MAX)?, &[0.0, 1.0])?;
        let n_embd = h.size("embedding_length", 1..=WIDTH_MAX)?;
        let n_head = h.size("attention.head_count", 1..=4096)?;
        let n_head_kv = h.size_opt("attention.head_count_kv", 1..=n_head)?.unwrap_or(n_head);
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(h.refuse("attention.head_count_kv", n_head_kv, format_args!("a divisor of {n_head} heads")));
        }
        let head_dim = match h.size_opt("attention.key_length", 1..=WIDTH_MAX / n_head)? {
            Some(n) => n,
            None if n_embd.is_multiple_of(n_head) => n_embd / n_head,
            None => return Err(h.refuse("attention.head_count", n_head, format_args!("a divisor of {n_embd}"))),
        };
        h.only("attention.value_length", h.size_opt("attention.value_length", 0..=usize::MAX)?, &[head_dim])?;
        let n_rot = h.size_opt("rope.dimension_count", 2..=head_dim)?.unwrap_or(head_dim);
        if n_rot % 2 != 0 {
            return Err(h.refuse("rope.dimension_count", n_rot, "an even number"));
        }
        let (scaling, rope_scale) = scaling(&h)?;
        let theta = h.real_opt("rope.freq_base", 1.001..=1e12)?.unwrap_or(10000.0);
        let scale = h.real_opt("attention.scale", 0.0..=1e3)?.filter(|&s| s > 0.0);
        Ok(Config {
            n_layer: h.size("block_count", 1..=N_LAYER_MAX)?,
            n_embd,
            n_head,
            n_head_kv,
            head_dim,
            n_ff: h.size("feed_forward_length", 1..=WIDTH_MAX)?,
            n_vocab,
            n_ctx_train,
            eps: h.real("attention.layer_norm_rms_epsilon", 0.0..=1.0)?,
            scale: scale.unwrap_or(1.0 / (head_dim as f32).sqrt()),
            freq: frequencies(n_rot, f64::from(theta), scaling),
            rope_scale,
        })
    }
}

/// `rope.scaling.*`: how angles are stretched, and the factor on cosine and sine that comes with it.
fn scaling(h: &Hparams) -> Result<(Scaling, f32), Error> {
    let factor = || h.real("rope.scaling.factor", 1.0..=1e6);
    match h.word_opt("rope.scaling.type")?.as_deref() {
        None | Some("none") => Ok((Scaling::None, 1.0)),
        Some("linear") => Ok((Scaling::Linear { factor: f64::from(factor()?) }, 1.0)),
        Some("yarn") => {
            let factor = factor()?;
            let attn_factor = h.real_opt("rope.scaling.attn_factor", 0.0..=1e3)?.unwrap_or(1.0);
            let beta = |name: &str, default: f32| Ok::<_, Error>(h.real_opt(name, 1e-3..=1e6)?.unwrap_or(default));
            let scaling = Scaling::Yarn {
                factor: f64::from(factor),
                n_ctx_original: h.size("rope.scaling.original_context_length", 1..=1 << 30)? as f64,
                beta_fast: f64::from(beta("rope.scaling.yarn_beta_fast", 32.0)?),
                beta_slow: f64::from(beta("rope.scaling.yarn_beta_slow", 1.0)?),
            };
            Ok((scaling, attn_factor * (1.0 + 0.1 * factor.ln())))
        }
        Some(other) => Err(h.refuse("rope.scaling.type", other, "none, linear or yarn")),
    }
}
