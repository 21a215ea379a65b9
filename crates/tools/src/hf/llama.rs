//! `LlamaForCausalLM` and `Qwen2ForCausalLM`, dense transformers with grouped-query attention and SwiGLU.
//!
//! Llama's rows of queries and keys change their order: stored, row `i` of a head turns with the one half a head
//! further; in a GGUF, neighbours turn together. Qwen2's stay. The scaling of angles that Llama 3.1 brought becomes
//! divisors, `rope_freqs.weight`.
//! Source: `conversion/llama.py` and `conversion/qwen.py` in llama.cpp; `_compute_llama3_parameters` in
//! `modeling_rope_utils.py` of transformers.

use std::f64::consts::PI;

use serde_json::json;

use super::{
    Error,
    builder::{Builder, Plan},
    config::{Config, N_CTX_MAX, N_LAYER_MAX, N_VOCAB_MAX, WIDTH_MAX},
    family::Keys,
    shards::Shards,
};

/// Sizes that decide shapes.
struct Sizes {
    n_layer: usize,
    n_embd: usize,
    n_head: usize,
    n_head_kv: usize,
    head_dim: usize,
    n_ff: usize,
    n_vocab: usize,
    is_tied: bool,
}

pub(super) fn llama_keys(c: &Config) -> Result<Keys, Error> {
    c.only("attention_bias", &[json!(false)])?;
    c.only("mlp_bias", &[json!(false)])?;
    keys(c, "llama")
}

pub(super) fn qwen2_keys(c: &Config) -> Result<Keys, Error> {
    c.only("use_sliding_window", &[json!(false)])?;
    keys(c, "qwen2")
}

pub(super) fn llama_plan(c: &Config, files: &Shards) -> Result<Plan, Error> {
    plan(c, files, true)
}

pub(super) fn qwen2_plan(c: &Config, files: &Shards) -> Result<Plan, Error> {
    plan(c, files, false)
}

fn keys(c: &Config, arch: &'static str) -> Result<Keys, Error> {
    let s = Sizes::read(c)?;
    let mut keys = Keys::new(arch);
    keys.set("block_count", s.n_layer as u32);
    keys.set("context_length", c.size("max_position_embeddings", 1..=N_CTX_MAX)? as u32);
    keys.set("embedding_length", s.n_embd as u32);
    keys.set("feed_forward_length", s.n_ff as u32);
    keys.set("vocab_size", s.n_vocab as u32);
    keys.set("attention.head_count", s.n_head as u32);
    keys.set("attention.head_count_kv", s.n_head_kv as u32);
    keys.set("attention.key_length", s.head_dim as u32);
    keys.set("attention.value_length", s.head_dim as u32);
    keys.set("attention.layer_norm_rms_epsilon", c.real("rms_norm_eps", 0.0..=1.0)?);
    keys.set("rope.dimension_count", s.head_dim as u32);
    keys.set("rope.freq_base", theta(c)?);
    match scaling(c)? {
        Some(("linear", part)) => {
            keys.set("rope.scaling.type", "linear");
            keys.set("rope.scaling.factor", c.real(&format!("{part}.factor"), 1.0..=1e6)?);
        }
        Some(("yarn", part)) => {
            c.only(&format!("{part}.attention_factor"), &[])?;
            let original = format!("{part}.original_max_position_embeddings");
            keys.set("rope.scaling.type", "yarn");
            keys.set("rope.scaling.factor", c.real(&format!("{part}.factor"), 1.0..=1e6)?);
            keys.set("rope.scaling.original_context_length", c.size(&original, 1..=N_CTX_MAX)? as u32);
            let beta = |name: &str| c.real_opt(&format!("{part}.beta_{name}"), 1e-3..=1e6);
            keys.set("rope.scaling.yarn_beta_fast", beta("fast")?.unwrap_or(32.0));
            keys.set("rope.scaling.yarn_beta_slow", beta("slow")?.unwrap_or(1.0));
        }
        _ => {}
    }
    Ok(keys)
}

impl Sizes {
    fn read(c: &Config) -> Result<Sizes, Error> {
        c.only("hidden_act", &[json!("silu")])?;
        c.only("quantization_config", &[])?;
        c.only("partial_rotary_factor", &[json!(1.0), json!(1)])?;
        let n_embd = c.size("hidden_size", 1..=WIDTH_MAX)?;
        let n_head = c.size("num_attention_heads", 1..=4096)?;
        let n_head_kv = c.size_opt("num_key_value_heads", 1..=n_head)?.unwrap_or(n_head);
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(c.refuse(
                "num_key_value_heads",
                &json!(n_head_kv),
                format_args!("a divisor of {n_head} heads"),
            ));
        }
        let head_dim = match c.size_opt("head_dim", 2..=WIDTH_MAX / n_head)? {
            Some(n) => n,
            None if n_embd.is_multiple_of(n_head) => n_embd / n_head,
            None => {
                return Err(c.refuse("num_attention_heads", &json!(n_head), format_args!("a divisor of {n_embd}")));
            }
        };
        if head_dim % 2 != 0 {
            return Err(c.refuse("head_dim", &json!(head_dim), "an even number"));
        }
        Ok(Sizes {
            n_layer: c.size("num_hidden_layers", 1..=N_LAYER_MAX)?,
            n_embd,
            n_head,
            n_head_kv,
            head_dim,
            n_ff: c.size("intermediate_size", 1..=WIDTH_MAX)?,
            n_vocab: c.size("vocab_size", 1..=N_VOCAB_MAX)?,
            is_tied: c.flag_opt("tie_word_embeddings")?.unwrap_or(false),
        })
    }
}

/// Where the newer of two forms of the file keeps what it says of angles.
const ROPE: [&str; 2] = ["rope_parameters", "rope_scaling"];

fn theta(c: &Config) -> Result<f32, Error> {
    let [key, nested] = ["rope_theta", "rope_parameters.rope_theta"];
    let key = if c.get(nested).is_some() { nested } else { key };
    Ok(c.real_opt(key, 1.001..=1e12)?.unwrap_or(10000.0))
}

/// How angles are stretched, and the part of the file that says so.
fn scaling(c: &Config) -> Result<Option<(&str, &'static str)>, Error> {
    let Some(part) = ROPE.into_iter().find(|part| c.get(part).is_some()) else { return Ok(None) };
    let keys = [format!("{part}.rope_type"), format!("{part}.type")];
    let key = if c.get(&keys[0]).is_some() { &keys[0] } else { &keys[1] };
    c.only(key, &["default", "linear", "yarn", "llama3"].map(|kind| json!(kind)))?;
    let kind = c.word_opt(key)?.ok_or_else(|| c.missing(&keys[0]))?;
    Ok(Some((kind, part)).filter(|(kind, _)| *kind != "default"))
}

/// The divisors of Llama 3's scaling, a pair of elements each: 1 where it turns often within the original context, the
/// factor where it hardly does, and between them a ramp over the turns.
fn llama3_divisors(c: &Config, part: &str, head_dim: usize) -> Result<Vec<f32>, Error> {
    let real = |name: &str| Ok::<_, Error>(f64::from(c.real(&format!("{part}.{name}"), 1e-3..=1e6)?));
    let (factor, low, high) = (real("factor")?, real("low_freq_factor")?, real("high_freq_factor")?);
    if low >= high {
        let key = format!("{part}.low_freq_factor");
        return Err(c.refuse(&key, &json!(low), format_args!("less than the high_freq_factor, {high}")));
    }
    let n_ctx = c.size(&format!("{part}.original_max_position_embeddings"), 1..=N_CTX_MAX)? as f64;
    let theta = f64::from(theta(c)?);
    let divisor = |i: usize| {
        let wavelength = 2.0 * PI * theta.powf(2.0 * i as f64 / head_dim as f64);
        let ramp = ((n_ctx / wavelength - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - ramp) / factor + ramp)) as f32
    };
    Ok((0..head_dim / 2).map(divisor).collect())
}

fn plan(c: &Config, files: &Shards, is_llama: bool) -> Result<Plan, Error> {
    let s = Sizes::read(c)?;
    let mut b = Builder::new(files);
    b.matrix("token_embd.weight", "model.embed_tokens.weight", [s.n_vocab, s.n_embd])?;
    if let Some(("llama3", part)) = scaling(c)? {
        b.computed("rope_freqs.weight", llama3_divisors(c, part, s.head_dim)?);
    }
    for layer in 0..s.n_layer {
        add_layer(&mut b, &s, layer, is_llama)?;
    }
    b.plain("output_norm.weight", "model.norm.weight", &[s.n_embd])?;
    if !s.is_tied {
        b.matrix("output.weight", "lm_head.weight", [s.n_vocab, s.n_embd])?;
    }
    b.finish(|name| name.ends_with(".rotary_emb.inv_freq") || s.is_tied && name == "lm_head.weight")
}

fn add_layer(b: &mut Builder, s: &Sizes, layer: usize, is_llama: bool) -> Result<(), Error> {
    let name = |part: &str| format!("blk.{layer}.{part}");
    let stored = |part: &str| format!("model.layers.{layer}.{part}");
    let (n_q, n_kv) = (s.n_head * s.head_dim, s.n_head_kv * s.head_dim);
    b.plain(&name("attn_norm.weight"), &stored("input_layernorm.weight"), &[s.n_embd])?;
    for (part, n, turns) in [("q", n_q, true), ("k", n_kv, true), ("v", n_kv, false)] {
        let (name, stored) = (name(&format!("attn_{part}")), stored(&format!("self_attn.{part}_proj")));
        let (weight, stored_weight) = (format!("{name}.weight"), format!("{stored}.weight"));
        match is_llama && turns {
            true => b.interleaved(&weight, &stored_weight, [n, s.n_embd], s.head_dim)?,
            false => b.matrix(&weight, &stored_weight, [n, s.n_embd])?,
        }
        if !is_llama {
            b.plain(&format!("{name}.bias"), &format!("{stored}.bias"), &[n])?;
        }
    }
    b.matrix(&name("attn_output.weight"), &stored("self_attn.o_proj.weight"), [s.n_embd, n_q])?;
    b.plain(&name("ffn_norm.weight"), &stored("post_attention_layernorm.weight"), &[s.n_embd])?;
    b.matrix(&name("ffn_gate.weight"), &stored("mlp.gate_proj.weight"), [s.n_ff, s.n_embd])?;
    b.matrix(&name("ffn_up.weight"), &stored("mlp.up_proj.weight"), [s.n_ff, s.n_embd])?;
    b.matrix(&name("ffn_down.weight"), &stored("mlp.down_proj.weight"), [s.n_embd, s.n_ff])
}
