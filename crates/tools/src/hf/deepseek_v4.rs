//! DeepSeek V4, by the names of its authors' files.
//!
//! Experts are one tensor each there, and one per layer here. `mtp.*`, which drafts tokens, is left out, and so are the
//! routers' biases that are for pictures, or stand in layers whose experts are chosen by token id.
//! Source: `conversion/deepseek.py` in llama.cpp; the specification, sections 1.1, 4.1 and 4.2.

use serde_json::json;

use super::{
    Error,
    builder::{Builder, Plan},
    config::{Config, N_CTX_MAX, N_LAYER_MAX, N_VOCAB_MAX, WIDTH_MAX},
    family::Keys,
    rows::FP8_BLOCK,
    shards::Shards,
};

/// Tokens per row of the layers that have an indexer, and whose windows overlap.
const CSA_RATIO: usize = 4;
/// `expert_gating_func` of `sqrt(softplus(x))`.
const SQRT_SOFTPLUS: u32 = 4;

/// Sizes that decide shapes.
struct Sizes {
    n_layer: usize,
    n_embd: usize,
    n_head: usize,
    head_dim: usize,
    q_rank: usize,
    n_group: usize,
    o_rank: usize,
    n_stream: usize,
    n_expert: usize,
    n_used: usize,
    n_ff: usize,
    n_shared: usize,
    n_hash_layer: usize,
    n_vocab: usize,
    /// Heads and their width, where a layer has an indexer.
    indexer: Option<(usize, usize)>,
    ratios: Vec<usize>,
}

/// The keys of the GGUF.
pub(super) fn keys(c: &Config) -> Result<Keys, Error> {
    let s = Sizes::read(c)?;
    let mut keys = Keys::new("deepseek4");
    keys.set("block_count", s.n_layer as u32);
    keys.set("context_length", c.size("max_position_embeddings", 1..=N_CTX_MAX)? as u32);
    keys.set("embedding_length", s.n_embd as u32);
    keys.set("embedding_length_out", (s.n_embd * s.n_stream) as u32);
    keys.set("vocab_size", s.n_vocab as u32);
    attention(c, &s, &mut keys)?;
    rope(c, &mut keys)?;
    experts(c, &s, &mut keys)?;
    keys.set("hyper_connection.count", s.n_stream as u32);
    keys.set("hyper_connection.sinkhorn_iterations", c.size("hc_sinkhorn_iters", 1..=1000)? as u32);
    keys.set("hyper_connection.epsilon", c.real("hc_eps", 0.0..=1.0)?);
    keys.set("hash_layer_count", s.n_hash_layer as u32);
    Ok(keys)
}

fn attention(c: &Config, s: &Sizes, keys: &mut Keys) -> Result<(), Error> {
    keys.set("attention.head_count", s.n_head as u32);
    keys.set("attention.head_count_kv", 1_u32);
    keys.set("attention.key_length", s.head_dim as u32);
    keys.set("attention.value_length", s.head_dim as u32);
    keys.set("attention.layer_norm_rms_epsilon", c.real("rms_norm_eps", 0.0..=1.0)?);
    keys.set("attention.q_lora_rank", s.q_rank as u32);
    keys.set("attention.output_lora_rank", s.o_rank as u32);
    keys.set("attention.output_group_count", s.n_group as u32);
    keys.set("attention.sliding_window", c.size("sliding_window", 1..=1 << 16)? as u32);
    keys.set("attention.compress_ratios", s.ratios.iter().map(|&r| r as i32).collect::<Vec<_>>());
    keys.set("attention.compress_rope_freq_base", c.real("compress_rope_theta", 1.001..=1e12)?);
    if let Some((n_head, head_dim)) = s.indexer {
        keys.set("attention.indexer.head_count", n_head as u32);
        keys.set("attention.indexer.key_length", head_dim as u32);
        keys.set("attention.indexer.top_k", c.size("index_topk", 1..=1 << 16)? as u32);
    }
    Ok(())
}

fn rope(c: &Config, keys: &mut Keys) -> Result<(), Error> {
    let head_dim = c.size("head_dim", 2..=1 << 16)?;
    let n_rot = c.size("qk_rope_head_dim", 2..=head_dim)?;
    if n_rot % 2 != 0 {
        return Err(c.refuse("qk_rope_head_dim", &json!(n_rot), "an even number"));
    }
    keys.set("rope.dimension_count", n_rot as u32);
    keys.set("rope.freq_base", c.real("rope_theta", 1.001..=1e12)?);
    if c.get("rope_scaling").is_none() {
        return Ok(());
    }
    let kind = if c.get("rope_scaling.rope_type").is_some() { "rope_scaling.rope_type" } else { "rope_scaling.type" };
    c.word_opt(kind)?.ok_or_else(|| c.missing(kind))?;
    c.only(kind, &[json!("yarn")])?;
    keys.set("rope.scaling.type", "yarn");
    keys.set("rope.scaling.factor", c.real("rope_scaling.factor", 1.0..=1e6)?);
    let original = "rope_scaling.original_max_position_embeddings";
    keys.set("rope.scaling.original_context_length", c.size(original, 1..=N_CTX_MAX)? as u32);
    let beta = |key: &str, default| Ok::<f32, Error>(c.real_opt(key, 1e-3..=1e6)?.unwrap_or(default));
    keys.set("rope.scaling.yarn_beta_fast", beta("rope_scaling.beta_fast", 32.0)?);
    keys.set("rope.scaling.yarn_beta_slow", beta("rope_scaling.beta_slow", 1.0)?);
    Ok(())
}

fn experts(c: &Config, s: &Sizes, keys: &mut Keys) -> Result<(), Error> {
    c.only("scoring_func", &[json!("sqrtsoftplus")])?;
    c.only("topk_method", &[json!("noaux_tc")])?;
    keys.set("expert_count", s.n_expert as u32);
    keys.set("expert_used_count", s.n_used as u32);
    keys.set("expert_shared_count", s.n_shared as u32);
    keys.set("expert_feed_forward_length", s.n_ff as u32);
    keys.set("expert_weights_scale", c.real("routed_scaling_factor", 1e-3..=1e3)?);
    keys.set("expert_weights_norm", c.flag_opt("norm_topk_prob")?.unwrap_or(true));
    keys.set("expert_gating_func", SQRT_SOFTPLUS);
    if let Some(limit) = c.real_opt("swiglu_limit", 0.0..=1e6)? {
        keys.set("swiglu_clamp_exp", vec![limit; s.n_layer]);
        keys.set("swiglu_clamp_shexp", vec![limit; s.n_layer]);
    }
    Ok(())
}

impl Sizes {
    fn read(c: &Config) -> Result<Sizes, Error> {
        c.only("hidden_act", &[json!("silu")])?;
        c.only("attention_bias", &[json!(false)])?;
        c.only("tie_word_embeddings", &[json!(false)])?;
        c.only("num_key_value_heads", &[json!(1)])?;
        c.only("quantization_config.quant_method", &[json!("fp8")])?;
        c.only("quantization_config.fmt", &[json!("e4m3")])?;
        c.only("quantization_config.scale_fmt", &[json!("ue8m0")])?;
        c.only("quantization_config.weight_block_size", &[json!([FP8_BLOCK, FP8_BLOCK])])?;
        let n_layer = c.size("num_hidden_layers", 1..=N_LAYER_MAX)?;
        let n_head = c.size("num_attention_heads", 1..=4096)?;
        let n_group = c.size("o_groups", 1..=n_head)?;
        if !n_head.is_multiple_of(n_group) {
            return Err(c.refuse("o_groups", &json!(n_group), format_args!("a divisor of {n_head} heads")));
        }
        let n_expert = c.size("n_routed_experts", 1..=1024)?;
        let ratios = c.sizes("compress_ratios", n_layer, 0..=4096)?;
        let indexer = match ratios.contains(&CSA_RATIO) {
            true => Some((c.size("index_n_heads", 1..=1024)?, c.size("index_head_dim", 1..=1 << 12)?)),
            false => None,
        };
        Ok(Sizes {
            n_layer,
            n_embd: c.size("hidden_size", 1..=WIDTH_MAX)?,
            n_head,
            head_dim: c.size("head_dim", 2..=1 << 16)?,
            q_rank: c.size("q_lora_rank", 1..=WIDTH_MAX)?,
            n_group,
            o_rank: c.size("o_lora_rank", 1..=WIDTH_MAX / n_group)?,
            n_stream: c.size("hc_mult", 1..=16)?,
            n_expert,
            n_used: c.size("num_experts_per_tok", 1..=n_expert)?,
            n_ff: c.size("moe_intermediate_size", 1..=WIDTH_MAX)?,
            n_shared: c.size("n_shared_experts", 1..=16)?,
            n_hash_layer: c.size_opt("num_hash_layers", 0..=n_layer)?.unwrap_or(0),
            n_vocab: c.size("vocab_size", 1..=N_VOCAB_MAX)?,
            indexer,
            ratios,
        })
    }
}

/// The tensors of the GGUF.
pub(super) fn plan(c: &Config, files: &Shards) -> Result<Plan, Error> {
    let s = Sizes::read(c)?;
    let mut b = Builder::new(files);
    b.matrix("token_embd.weight", "embed.weight", [s.n_vocab, s.n_embd])?;
    for layer in 0..s.n_layer {
        Layer { b: &mut b, s: &s, layer }.add()?;
    }
    b.plain("output_norm.weight", "norm.weight", &[s.n_embd])?;
    b.matrix("output.weight", "head.weight", [s.n_vocab, s.n_embd])?;
    let n = s.n_stream;
    hyper(&mut b, "output_hc", "hc_head", [n, n * s.n_embd, 1])?;
    b.finish(|name| is_left_out(name, s.n_hash_layer))
}

fn is_left_out(name: &str, n_hash_layer: usize) -> bool {
    let router = name.strip_prefix("layers.").and_then(|rest| rest.split_once(".ffn.gate."));
    match router {
        Some((_, "bias_vl")) => true,
        Some((layer, "bias")) => layer.parse().is_ok_and(|layer: usize| layer < n_hash_layer),
        _ => name.starts_with("mtp."),
    }
}

/// What decides how streams meet a layer.
fn hyper(b: &mut Builder, name: &str, stored: &str, [n_out, n_in, n_scale]: [usize; 3]) -> Result<(), Error> {
    b.plain(&format!("{name}_fn.weight"), &format!("{stored}_fn"), &[n_out, n_in])?;
    b.plain(&format!("{name}_base.weight"), &format!("{stored}_base"), &[n_out])?;
    b.plain(&format!("{name}_scale.weight"), &format!("{stored}_scale"), &[n_scale])
}

/// A layer that is being added.
struct Layer<'a, 'b> {
    b: &'a mut Builder<'b>,
    s: &'a Sizes,
    layer: usize,
}

impl Layer<'_, '_> {
    fn add(&mut self) -> Result<(), Error> {
        let (n, n_embd) = (self.s.n_stream, self.s.n_embd);
        for part in ["hc_attn", "hc_ffn"] {
            let (name, stored) = (self.name(part), self.stored(part));
            hyper(self.b, &name, &stored, [(2 + n) * n, n * n_embd, 3])?;
        }
        self.attention()?;
        let ratio = self.s.ratios[self.layer];
        if ratio > 0 {
            self.compressor("attn_compressor", "attn.compressor", ratio, self.s.head_dim)?;
        }
        if let Some((n_head, head_dim)) = self.s.indexer.filter(|_| ratio == CSA_RATIO) {
            self.matrix("indexer.attn_q_b", "attn.indexer.wq_b", [n_head * head_dim, self.s.q_rank])?;
            self.matrix("indexer.proj", "attn.indexer.weights_proj", [n_head, n_embd])?;
            self.compressor("indexer_compressor", "attn.indexer.compressor", ratio, head_dim)?;
        }
        self.router()?;
        self.experts()
    }

    fn attention(&mut self) -> Result<(), Error> {
        let s = self.s;
        let (n_q, n_o) = (s.n_head * s.head_dim, s.n_group * s.o_rank);
        self.norm("attn_norm", "attn_norm", s.n_embd)?;
        self.plain("attn_sinks.weight", "attn.attn_sink", &[s.n_head])?;
        self.matrix("attn_q_a", "attn.wq_a", [s.q_rank, s.n_embd])?;
        self.norm("attn_q_a_norm", "attn.q_norm", s.q_rank)?;
        self.matrix("attn_q_b", "attn.wq_b", [n_q, s.q_rank])?;
        self.matrix("attn_kv", "attn.wkv", [s.head_dim, s.n_embd])?;
        self.norm("attn_kv_a_norm", "attn.kv_norm", s.head_dim)?;
        self.matrix("attn_output_a", "attn.wo_a", [n_o, n_q / s.n_group])?;
        self.matrix("attn_output_b", "attn.wo_b", [s.n_embd, n_o])
    }

    fn compressor(&mut self, name: &str, stored: &str, ratio: usize, head_dim: usize) -> Result<(), Error> {
        let width = if ratio == CSA_RATIO { 2 * head_dim } else { head_dim };
        self.matrix(&format!("{name}_kv"), &format!("{stored}.wkv"), [width, self.s.n_embd])?;
        self.matrix(&format!("{name}_gate"), &format!("{stored}.wgate"), [width, self.s.n_embd])?;
        self.plain(&format!("{name}_ape.weight"), &format!("{stored}.ape"), &[ratio, width])?;
        self.norm(&format!("{name}_norm"), &format!("{stored}.norm"), head_dim)
    }

    fn router(&mut self) -> Result<(), Error> {
        let s = self.s;
        self.norm("ffn_norm", "ffn_norm", s.n_embd)?;
        self.matrix("ffn_gate_inp", "ffn.gate", [s.n_expert, s.n_embd])?;
        if self.layer < s.n_hash_layer {
            let (name, stored) = (self.name("ffn_gate_tid2eid.weight"), self.stored("ffn.gate.tid2eid"));
            return self.b.numbers(&name, &stored, [s.n_vocab, s.n_used]);
        }
        self.plain("exp_probs_b.bias", "ffn.gate.bias", &[s.n_expert])
    }

    fn experts(&mut self) -> Result<(), Error> {
        let s = self.s;
        let n_ff_shared = s.n_ff * s.n_shared;
        for (part, w, turned) in [("gate", "w1", false), ("up", "w3", false), ("down", "w2", true)] {
            let shape = |n_ff| if turned { [s.n_embd, n_ff] } else { [n_ff, s.n_embd] };
            let [n_rows, n_cols] = shape(s.n_ff);
            let (name, stored) = (self.name(&format!("ffn_{part}_exps.weight")), self.stored("ffn.experts"));
            self.b.experts(&name, |e| format!("{stored}.{e}.{w}.weight"), [s.n_expert, n_rows, n_cols])?;
            self.matrix(&format!("ffn_{part}_shexp"), &format!("ffn.shared_experts.{w}"), shape(n_ff_shared))?;
        }
        Ok(())
    }

    fn norm(&mut self, name: &str, stored: &str, n: usize) -> Result<(), Error> {
        self.plain(&format!("{name}.weight"), &format!("{stored}.weight"), &[n])
    }

    fn matrix(&mut self, name: &str, stored: &str, shape: [usize; 2]) -> Result<(), Error> {
        let (name, stored) = (self.name(name), self.stored(stored));
        self.b.matrix(&format!("{name}.weight"), &format!("{stored}.weight"), shape)
    }

    fn plain(&mut self, name: &str, stored: &str, shape: &[usize]) -> Result<(), Error> {
        let (name, stored) = (self.name(name), self.stored(stored));
        self.b.plain(&name, &stored, shape)
    }

    fn name(&self, part: &str) -> String {
        format!("blk.{}.{part}", self.layer)
    }

    fn stored(&self, part: &str) -> String {
        format!("layers.{}.{part}", self.layer)
    }
}
