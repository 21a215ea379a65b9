//! The tensors of a DeepSeek V4 checkpoint, by the specification's section 4.1 and the sizes of a `config.json`.

use std::path::Path;

use serde_json::Value;

use super::{
    byte_tokenizer,
    safetensors::{Tensor, shard_name, write_index, write_sparse},
    write_json,
};

/// A folder with the headers of all files of such a model, and no data: a file per layer, one before, one for the drafter.
/// It takes a few megabytes.
pub(crate) fn sparse_v4(folder: &Path, config: &Value) {
    let shards = shards(config);
    for (i, tensors) in shards.iter().enumerate() {
        write_sparse(&folder.join(shard_name(i, shards.len())), tensors);
    }
    write_index(folder, &shards);
    write_json(&folder.join("config.json"), config);
    write_json(&folder.join("tokenizer.json"), &byte_tokenizer());
}

/// The tensors, file by file.
pub(crate) fn shards(config: &Value) -> Vec<Vec<Tensor>> {
    let c = Sizes { config };
    let (d, n_vocab) = (c.get("hidden_size"), c.get("vocab_size"));
    let mut top = vec![
        Tensor::new("embed.weight", "BF16", &[n_vocab, d]),
        Tensor::new("head.weight", "BF16", &[n_vocab, d]),
        Tensor::new("norm.weight", "BF16", &[d]),
    ];
    c.head("", &mut top);
    let mut shards = vec![top];
    for layer in 0..c.get("num_hidden_layers") {
        let ratio = config["compress_ratios"][layer].as_u64().unwrap() as usize;
        let mut tensors = Vec::new();
        c.block(&format!("layers.{layer}."), ratio, layer < c.get("num_hash_layers"), &mut tensors);
        shards.push(tensors);
    }
    let mut drafters = Vec::new();
    for i in 0..c.get("num_nextn_predict_layers") {
        let prefix = format!("mtp.{i}.");
        c.block(&prefix, 0, false, &mut drafters);
        c.head(&prefix, &mut drafters);
        ["e_proj", "h_proj"].iter().for_each(|name| fp8(&format!("{prefix}{name}"), d, d, &mut drafters));
        let norms = ["enorm", "hnorm", "norm"].map(|name| Tensor::new(format!("{prefix}{name}.weight"), "BF16", &[d]));
        drafters.extend(norms);
    }
    shards.push(drafters);
    shards
}

/// An FP8 matrix and its scales.
fn fp8(name: &str, rows: usize, cols: usize, out: &mut Vec<Tensor>) {
    out.push(Tensor::new(format!("{name}.weight"), "F8_E4M3", &[rows, cols]));
    out.push(Tensor::new(format!("{name}.scale"), "F8_E8M0", &[rows.div_ceil(128), cols.div_ceil(128)]));
}

/// An FP4 matrix and its scales.
fn fp4(name: &str, rows: usize, cols: usize, out: &mut Vec<Tensor>) {
    out.push(Tensor::new(format!("{name}.weight"), "I8", &[rows, cols / 2]));
    out.push(Tensor::new(format!("{name}.scale"), "F8_E8M0", &[rows, cols / 32]));
}

/// A matrix or norm that is not packed.
fn bf16(name: String, shape: &[usize], out: &mut Vec<Tensor>) {
    out.push(Tensor::new(format!("{name}.weight"), "BF16", shape));
}

struct Sizes<'a> {
    config: &'a Value,
}

impl Sizes<'_> {
    fn get(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap_or_else(|| panic!("{key}")) as usize
    }

    fn head(&self, prefix: &str, out: &mut Vec<Tensor>) {
        let n = self.get("hc_mult");
        out.push(Tensor::new(format!("{prefix}hc_head_fn"), "F32", &[n, n * self.get("hidden_size")]));
        out.push(Tensor::new(format!("{prefix}hc_head_base"), "F32", &[n]));
        out.push(Tensor::new(format!("{prefix}hc_head_scale"), "F32", &[1]));
    }

    fn block(&self, prefix: &str, ratio: usize, hashed: bool, out: &mut Vec<Tensor>) {
        let (d, n) = (self.get("hidden_size"), self.get("hc_mult"));
        for part in ["attn", "ffn"] {
            bf16(format!("{prefix}{part}_norm"), &[d], out);
            out.push(Tensor::new(format!("{prefix}hc_{part}_fn"), "F32", &[(2 + n) * n, n * d]));
            out.push(Tensor::new(format!("{prefix}hc_{part}_base"), "F32", &[(2 + n) * n]));
            out.push(Tensor::new(format!("{prefix}hc_{part}_scale"), "F32", &[3]));
        }
        self.attention(&format!("{prefix}attn."), ratio, out);
        self.experts(&format!("{prefix}ffn."), hashed, out);
    }

    fn attention(&self, prefix: &str, ratio: usize, out: &mut Vec<Tensor>) {
        let (d, n_head, head_dim) = (self.get("hidden_size"), self.get("num_attention_heads"), self.get("head_dim"));
        let (q_rank, n_group) = (self.get("q_lora_rank"), self.get("o_groups"));
        let n_o = n_group * self.get("o_lora_rank");
        out.push(Tensor::new(format!("{prefix}attn_sink"), "F32", &[n_head]));
        bf16(format!("{prefix}q_norm"), &[q_rank], out);
        bf16(format!("{prefix}kv_norm"), &[head_dim], out);
        fp8(&format!("{prefix}wq_a"), q_rank, d, out);
        fp8(&format!("{prefix}wq_b"), n_head * head_dim, q_rank, out);
        fp8(&format!("{prefix}wkv"), head_dim, d, out);
        fp8(&format!("{prefix}wo_a"), n_o, n_head * head_dim / n_group, out);
        fp8(&format!("{prefix}wo_b"), d, n_o, out);
        if ratio > 0 {
            self.compressor(&format!("{prefix}compressor."), ratio, head_dim, out);
        }
        if ratio == 4 {
            let (n_head, head_dim) = (self.get("index_n_heads"), self.get("index_head_dim"));
            fp8(&format!("{prefix}indexer.wq_b"), n_head * head_dim, q_rank, out);
            bf16(format!("{prefix}indexer.weights_proj"), &[n_head, d], out);
            self.compressor(&format!("{prefix}indexer.compressor."), ratio, head_dim, out);
        }
    }

    fn compressor(&self, prefix: &str, ratio: usize, head_dim: usize, out: &mut Vec<Tensor>) {
        let width = if ratio == 4 { 2 * head_dim } else { head_dim };
        bf16(format!("{prefix}wkv"), &[width, self.get("hidden_size")], out);
        bf16(format!("{prefix}wgate"), &[width, self.get("hidden_size")], out);
        bf16(format!("{prefix}norm"), &[head_dim], out);
        out.push(Tensor::new(format!("{prefix}ape"), "F32", &[ratio, width]));
    }

    fn experts(&self, prefix: &str, hashed: bool, out: &mut Vec<Tensor>) {
        let (d, n_expert, n_ff) =
            (self.get("hidden_size"), self.get("n_routed_experts"), self.get("moe_intermediate_size"));
        bf16(format!("{prefix}gate"), &[n_expert, d], out);
        match hashed {
            true => {
                let shape = [self.get("vocab_size"), self.get("num_experts_per_tok")];
                out.push(Tensor::new(format!("{prefix}gate.tid2eid"), "I64", &shape));
            }
            false => out.push(Tensor::new(format!("{prefix}gate.bias"), "F32", &[n_expert])),
        }
        for (w, rows, cols) in [("w1", n_ff, d), ("w2", d, n_ff), ("w3", n_ff, d)] {
            (0..n_expert).for_each(|e| fp4(&format!("{prefix}experts.{e}.{w}"), rows, cols, out));
            fp8(&format!("{prefix}shared_experts.{w}"), rows, cols, out);
        }
    }
}
