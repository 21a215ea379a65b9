//! Golden models, written as the folders that they might have come from, become what they were: the same keys, the same
//! bytes, the same logits.

use std::path::{Path, PathBuf};

use gguf::{Element, Gguf, Metadata};
use serde_json::{Value, json};
use tools::{GgufSource, Source, hf::Folder};

use crate::common::{
    bytes_of, convert, logits,
    safetensors::{self, Tensor},
    write_json, write_vocabulary,
};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

fn tokens(name: &str) -> Vec<u32> {
    let text = std::fs::read_to_string(path(&format!("{name}.tokens"))).expect("a token file");
    text.split_whitespace().map(|n| n.parse().expect("a token id")).collect()
}

/// How a family's folder is written from its GGUF.
struct Family {
    arch: &'static str,
    config: fn(&Metadata) -> Value,
    /// Names after `blk.N.` and `prefix.N.`, then those without a layer.
    names: &'static [(&'static str, &'static str)],
    prefix: &'static str,
    steps: fn() -> Value,
    normalizer: &'static str,
    ignore_merges: bool,
}

const V4: Family = Family {
    arch: "deepseek4",
    config: v4_config,
    prefix: "layers",
    steps: || crate::common::byte_tokenizer()["pre_tokenizer"]["pretokenizers"].clone(),
    normalizer: "",
    ignore_merges: false,
    names: &[
        ("attn_norm.weight", "attn_norm.weight"),
        ("ffn_norm.weight", "ffn_norm.weight"),
        ("attn_sinks.weight", "attn.attn_sink"),
        ("attn_q_a.weight", "attn.wq_a.weight"),
        ("attn_q_a_norm.weight", "attn.q_norm.weight"),
        ("attn_q_b.weight", "attn.wq_b.weight"),
        ("attn_kv.weight", "attn.wkv.weight"),
        ("attn_kv_a_norm.weight", "attn.kv_norm.weight"),
        ("attn_output_a.weight", "attn.wo_a.weight"),
        ("attn_output_b.weight", "attn.wo_b.weight"),
        ("hc_attn_fn.weight", "hc_attn_fn"),
        ("hc_attn_base.weight", "hc_attn_base"),
        ("hc_attn_scale.weight", "hc_attn_scale"),
        ("hc_ffn_fn.weight", "hc_ffn_fn"),
        ("hc_ffn_base.weight", "hc_ffn_base"),
        ("hc_ffn_scale.weight", "hc_ffn_scale"),
        ("attn_compressor_kv.weight", "attn.compressor.wkv.weight"),
        ("attn_compressor_gate.weight", "attn.compressor.wgate.weight"),
        ("attn_compressor_ape.weight", "attn.compressor.ape"),
        ("attn_compressor_norm.weight", "attn.compressor.norm.weight"),
        ("indexer.attn_q_b.weight", "attn.indexer.wq_b.weight"),
        ("indexer.proj.weight", "attn.indexer.weights_proj.weight"),
        ("indexer_compressor_kv.weight", "attn.indexer.compressor.wkv.weight"),
        ("indexer_compressor_gate.weight", "attn.indexer.compressor.wgate.weight"),
        ("indexer_compressor_ape.weight", "attn.indexer.compressor.ape"),
        ("indexer_compressor_norm.weight", "attn.indexer.compressor.norm.weight"),
        ("ffn_gate_inp.weight", "ffn.gate.weight"),
        ("exp_probs_b.bias", "ffn.gate.bias"),
        ("ffn_gate_tid2eid.weight", "ffn.gate.tid2eid"),
        ("ffn_gate_exps.weight", "ffn.experts.*.w1.weight"),
        ("ffn_up_exps.weight", "ffn.experts.*.w3.weight"),
        ("ffn_down_exps.weight", "ffn.experts.*.w2.weight"),
        ("ffn_gate_shexp.weight", "ffn.shared_experts.w1.weight"),
        ("ffn_up_shexp.weight", "ffn.shared_experts.w3.weight"),
        ("ffn_down_shexp.weight", "ffn.shared_experts.w2.weight"),
        ("token_embd.weight", "embed.weight"),
        ("output.weight", "head.weight"),
        ("output_norm.weight", "norm.weight"),
        ("output_hc_fn.weight", "hc_head_fn"),
        ("output_hc_base.weight", "hc_head_base"),
        ("output_hc_scale.weight", "hc_head_scale"),
    ],
};

const DENSE: &[(&str, &str)] = &[
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output.weight", "lm_head.weight"),
    ("output_norm.weight", "model.norm.weight"),
];

const QWEN2: Family = Family {
    arch: "qwen2",
    config: |keys| dense_config(keys, "Qwen2ForCausalLM", "qwen2"),
    prefix: "model.layers",
    steps: || cut_by(r"\p{N}"),
    normalizer: "NFC",
    ignore_merges: false,
    names: DENSE,
};

const LLAMA_3: Family = Family {
    arch: "llama",
    config: |keys| {
        let mut config = dense_config(keys, "LlamaForCausalLM", "llama");
        config["rope_scaling"] = json!({
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 512,
        });
        config
    },
    steps: || cut_by(r"\p{N}{1,3}"),
    normalizer: "",
    ignore_merges: true,
    ..QWEN2
};

const SMOLLM_2: Family = Family {
    config: |keys| {
        let mut config = dense_config(keys, "LlamaForCausalLM", "llama");
        config["tie_word_embeddings"] = true.into();
        config
    },
    steps: || {
        let last = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true});
        json!([{"type": "Digits", "individual_digits": true}, last])
    },
    ignore_merges: false,
    ..LLAMA_3
};

/// The steps of Llama 3's and Qwen2's pre-tokenizers, which cut digits in different ways.
fn cut_by(digits: &str) -> Value {
    let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+";
    let rest = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let pattern = json!({"Regex": format!("{words}|{digits}|{rest}")});
    json!([
        {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
    ])
}

fn v4_config(keys: &Metadata) -> Value {
    let size = |name: &str| keys.u32(&format!("deepseek4.{name}")).unwrap_or_else(|e| panic!("{e}"));
    let real = |name: &str| keys.f32(&format!("deepseek4.{name}")).unwrap_or_else(|e| panic!("{e}"));
    json!({
        "architectures": ["DeepseekV4ForCausalLM"],
        "num_hidden_layers": size("block_count"),
        "max_position_embeddings": size("context_length"),
        "hidden_size": size("embedding_length"),
        "vocab_size": size("vocab_size"),
        "num_attention_heads": size("attention.head_count"),
        "num_key_value_heads": 1,
        "head_dim": size("attention.key_length"),
        "rms_norm_eps": real("attention.layer_norm_rms_epsilon"),
        "qk_rope_head_dim": size("rope.dimension_count"),
        "rope_theta": real("rope.freq_base"),
        "rope_scaling": {
            "type": "yarn",
            "factor": 16,
            "original_max_position_embeddings": size("rope.scaling.original_context_length"),
            "beta_fast": 32,
            "beta_slow": 1,
        },
        "q_lora_rank": size("attention.q_lora_rank"),
        "o_lora_rank": size("attention.output_lora_rank"),
        "o_groups": size("attention.output_group_count"),
        "sliding_window": size("attention.sliding_window"),
        "compress_ratios": keys.u32s("deepseek4.attention.compress_ratios").unwrap_or_else(|e| panic!("{e}")),
        "compress_rope_theta": real("attention.compress_rope_freq_base"),
        "index_n_heads": size("attention.indexer.head_count"),
        "index_head_dim": size("attention.indexer.key_length"),
        "index_topk": size("attention.indexer.top_k"),
        "hc_mult": size("hyper_connection.count"),
        "hc_sinkhorn_iters": size("hyper_connection.sinkhorn_iterations"),
        "hc_eps": real("hyper_connection.epsilon"),
        "num_hash_layers": size("hash_layer_count"),
        "n_routed_experts": size("expert_count"),
        "num_experts_per_tok": size("expert_used_count"),
        "n_shared_experts": size("expert_shared_count"),
        "moe_intermediate_size": size("expert_feed_forward_length"),
        "routed_scaling_factor": real("expert_weights_scale"),
        "norm_topk_prob": true,
        "swiglu_limit": 10.0,
    })
}

fn dense_config(keys: &Metadata, architecture: &str, arch: &str) -> Value {
    let size = |name: &str| keys.u32(&format!("{arch}.{name}")).unwrap_or_else(|e| panic!("{e}"));
    let real = |name: &str| keys.f32(&format!("{arch}.{name}")).unwrap_or_else(|e| panic!("{e}"));
    json!({
        "architectures": [architecture],
        "num_hidden_layers": size("block_count"),
        "max_position_embeddings": size("context_length"),
        "hidden_size": size("embedding_length"),
        "intermediate_size": size("feed_forward_length"),
        "num_attention_heads": size("attention.head_count"),
        "num_key_value_heads": size("attention.head_count_kv"),
        "rope_theta": real("rope.freq_base"),
        "rms_norm_eps": real("attention.layer_norm_rms_epsilon"),
        "vocab_size": keys.strs("tokenizer.ggml.tokens").unwrap_or_else(|e| panic!("{e}")).len(),
        "tie_word_embeddings": false,
    })
}

/// Writes the folder of a golden model.
fn write_folder(gguf: &Gguf, family: &Family, folder: &Path) {
    let keys = gguf.metadata();
    write_json(&folder.join("config.json"), &(family.config)(keys));
    let normalizer = if family.normalizer.is_empty() { Value::Null } else { json!({"type": family.normalizer}) };
    write_vocabulary(folder, keys, (family.steps)(), normalizer, family.ignore_merges);
    let mut tensors = Vec::new();
    for t in gguf.tensors().iter().filter(|t| t.name != "rope_freqs.weight") {
        let bytes = gguf.bytes(t).as_ref().to_vec();
        let part = t.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let name = |part: &str| family.names.iter().find(|n| n.0 == part).unwrap_or_else(|| panic!("{}", t.name)).1;
        let stored = match part {
            Some((layer, part)) => format!("{}.{layer}.{}", family.prefix, name(part)),
            None => name(&t.name).to_string(),
        };
        tensors.extend(stored_as(family, keys, &stored, &t.name, &t.shape, t.element, bytes));
    }
    safetensors::write(&folder.join("model.safetensors"), &tensors);
}

/// The stored tensors that a tensor of a GGUF comes from.
fn stored_as(
    family: &Family,
    keys: &Metadata,
    stored: &str,
    name: &str,
    shape: &[usize],
    element: Element,
    bytes: Vec<u8>,
) -> Vec<(Tensor, Vec<u8>)> {
    if element == Element::I32 {
        let wide = bytes.as_chunks().0.iter().flat_map(|b| i64::from(i32::from_le_bytes(*b)).to_le_bytes());
        return vec![(Tensor::new(stored, "I64", shape), wide.collect())];
    }
    if let Some((begin, end)) = stored.split_once('*') {
        let each = bytes.chunks(bytes.len() / shape[0]).enumerate();
        let tensor = |(e, bytes): (usize, &[u8])| {
            (Tensor::new(format!("{begin}{e}{end}"), element.name(), &shape[1..]), bytes.to_vec())
        };
        return each.map(tensor).collect();
    }
    let turns = family.arch == "llama" && (name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight"));
    let n_head = keys.u32(&format!("{}.attention.head_count", family.arch)).expect("the number of heads") as usize;
    let bytes = if turns { halves(&bytes, shape[1], shape[1] / n_head) } else { bytes };
    vec![(Tensor::new(stored, element.name(), shape), bytes)]
}

/// Rows of F16 in which, within a head, rows 0, 2, 4 .. come first and then the others.
fn halves(bytes: &[u8], n_cols: usize, head_dim: usize) -> Vec<u8> {
    let rows: Vec<_> = bytes.chunks(2 * n_cols).collect();
    let heads = rows.chunks(head_dim);
    heads
        .flat_map(|head| head.iter().step_by(2).chain(head.iter().skip(1).step_by(2)))
        .copied()
        .flatten()
        .copied()
        .collect()
}

/// Keys that say the same in other words, or how a file was packed.
const EXEMPT: [&str; 4] = ["tokenizer.ggml.pre", "general.name", "general.file_type", "general.quantization_version"];

fn check(name: &str, family: &Family) {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let golden_path = path(&format!("{name}.gguf"));
    write_folder(&Gguf::open(&golden_path).unwrap_or_else(|e| panic!("{e}")), family, folder.path());
    let imported = Folder::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    let golden = GgufSource::open(&golden_path).unwrap_or_else(|e| panic!("{e}"));
    for (key, value) in golden.keys().iter().filter(|(key, _)| !EXEMPT.contains(&key.as_str())) {
        let found = imported.keys().iter().find(|(k, _)| k == key).map(|(_, v)| v);
        assert_eq!(found, Some(value), "{name}: {key}");
    }
    assert_eq!(imported.weights().len(), golden.weights().len(), "{name}");
    for (i, w) in golden.weights().iter().enumerate().filter(|(_, w)| w.name != "rope_freqs.weight") {
        let j = imported.weights().iter().position(|x| x.name == w.name).unwrap_or_else(|| panic!("{}", w.name));
        assert_eq!(&imported.weights()[j], w);
        assert!(bytes_of(&imported, j) == bytes_of(&golden, i), "{name}: {}", w.name);
    }
    let made = folder.path().join("made.gguf");
    convert(&imported, &made);
    let ids = tokens(name);
    let (found, expected) = (logits(&made, &ids), logits(&golden_path, &ids));
    let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // The divisors of Llama 3's angles may differ in their last bit.
    let tolerance = if name == "llama/micro-llama3" { 1e-4 } else { 0.0 };
    assert!(worst <= tolerance, "{name}: logits differ by {worst}");
}

#[test]
fn deepseek_v4_comes_back() {
    for name in ["micro-flash", "micro-pro", "micro-native"] {
        check(&format!("deepseek_v4/{name}"), &V4);
    }
}

#[test]
fn llama_comes_back_with_tied_embeddings_and_interleaved_heads() {
    check("llama/micro", &SMOLLM_2);
}

#[test]
fn llama_3_comes_back_with_its_stretched_angles() {
    check("llama/micro-llama3", &LLAMA_3);
    let golden = Gguf::open(&path("llama/micro-llama3.gguf")).unwrap_or_else(|e| panic!("{e}"));
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    write_folder(&golden, &LLAMA_3, folder.path());
    let imported = Folder::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    let i = imported.weights().iter().position(|w| w.name == "rope_freqs.weight").expect("divisors");
    let mut found = [0.0; 16];
    imported.read(i, 0..1, &mut found).unwrap_or_else(|e| panic!("{e}"));
    let bytes = golden.bytes(golden.tensor("rope_freqs.weight").expect("divisors"));
    for (found, golden) in found.iter().zip(bytes.as_ref().as_chunks().0) {
        let golden = f32::from_le_bytes(*golden);
        assert!((found - golden).abs() <= 1e-6 * golden, "{found} is not {golden}");
    }
}

#[test]
fn qwen2_comes_back_with_its_biases() {
    check("qwen2/micro", &QWEN2);
}
