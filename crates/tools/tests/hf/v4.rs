//! DeepSeek V4 as its authors publish it: FP8 with scales per block, FP4 experts, a drafter beside.

use std::{collections::HashMap, fs, path::Path, time::Instant};

use expect_test::{Expect, expect};
use gguf::Element;
use quant::Format;
use serde_json::{Value, json};
use tools::{Source, hf::Folder, quantize::Plan, recipe::Recipe};

use crate::common::{
    Random, byte_tokenizer, bytes_of, convert, logits,
    safetensors::{self, Tensor, shard_name, write_index},
    v4::{shards, sparse_v4},
    write_json,
};

fn published(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/deepseek_v4").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap_or_else(|e| panic!("{e}"))).unwrap_or_else(|e| panic!("{e}"))
}

/// Every kind of layer, PRO's first one included, widths that are no whole blocks of 128, and heads that llama.cpp runs, too.
fn tiny() -> Value {
    let mut config = published("config-flash.json");
    let sizes = json!({
        "num_hidden_layers": 6,
        "compress_ratios": [128, 0, 4, 128, 4, 128, 0],
        "num_hash_layers": 2,
        "hidden_size": 160,
        "num_attention_heads": 4,
        "head_dim": 128,
        "qk_rope_head_dim": 16,
        "q_lora_rank": 96,
        "o_lora_rank": 48,
        "o_groups": 2,
        "sliding_window": 16,
        "n_routed_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "index_n_heads": 16,
        "index_head_dim": 64,
        "index_topk": 4,
        "vocab_size": 300,
    });
    for (key, value) in sizes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// Bytes of a tensor, such that activations neither vanish nor overflow.
fn random_bytes(t: &Tensor, rng: &mut Random) -> Vec<u8> {
    let is_norm = t.name.ends_with("norm.weight");
    let n = t.n_elements();
    let byte = |rng: &mut Random| rng.below(256) as u8;
    match t.dtype {
        "F32" => (0..n).flat_map(|_| (0.5 * rng.real()).to_le_bytes()).collect(),
        "BF16" => {
            let mut value = || if is_norm { 1.0 + 0.2 * rng.real() } else { 0.2 * rng.real() };
            (0..n).flat_map(|_| half::bf16::from_f32(value()).to_le_bytes()).collect()
        }
        "F8_E4M3" => (0..n).map(|_| byte(rng)).map(|code| if code & 127 == 127 { 0 } else { code }).collect(),
        "F8_E8M0" if t.name.contains(".experts.") => (0..n).map(|_| 121 + rng.below(3) as u8).collect(),
        "F8_E8M0" => (0..n).map(|_| 116 + rng.below(3) as u8).collect(),
        "I64" => (0..n).flat_map(|_| rng.below(6).to_le_bytes()).collect(),
        _ => (0..n).map(|_| byte(rng)).collect(),
    }
}

type Stored = HashMap<String, (Tensor, Vec<u8>)>;

/// Writes the tiny model, and returns what it wrote.
fn write_tiny(folder: &Path) -> Stored {
    write_changed(folder, &tiny(), &|_, _| {})
}

/// As [`write_tiny`], with other sizes, or tensors changed.
fn write_changed(folder: &Path, config: &Value, change: &dyn Fn(&mut Tensor, &mut Vec<u8>)) -> Stored {
    let (mut rng, mut all) = (Random(7), Stored::new());
    let shards = shards(&tiny());
    for (i, tensors) in shards.iter().enumerate() {
        let filled = tensors.iter().map(|t| {
            let (mut t, mut bytes) = (t.clone(), random_bytes(t, &mut rng));
            change(&mut t, &mut bytes);
            (t, bytes)
        });
        let filled: Vec<_> = filled.collect();
        safetensors::write(&folder.join(shard_name(i, shards.len())), &filled);
        all.extend(filled.into_iter().map(|(t, bytes)| (t.name.clone(), (t, bytes))));
    }
    write_index(folder, &shards);
    write_json(&folder.join("config.json"), config);
    write_json(&folder.join("tokenizer.json"), &byte_tokenizer());
    all
}

/// The numbers of a stored matrix, straight from the definition of its types.
fn numbers(stored: &Stored, name: &str) -> Vec<f32> {
    let (t, bytes) = &stored[name];
    let scale = |row: usize, col: usize| {
        let (s, bytes) = &stored[&name.replace(".weight", ".scale")];
        2f64.powi(i32::from(bytes[row * s.shape[1] + col]) - 127)
    };
    let n_cols = t.shape[t.shape.len() - 1];
    match t.dtype {
        "F32" => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        "BF16" => bytes.as_chunks().0.iter().map(|b: &[u8; 2]| f32::from_le_bytes([0, 0, b[0], b[1]])).collect(),
        "F8_E4M3" => {
            let number = |(i, code): (usize, &u8)| {
                let (e, m) = (i32::from(code >> 3 & 15), f64::from(code & 7));
                let magnitude = if e == 0 { m / 512.0 } else { (1.0 + m / 8.0) * 2f64.powi(e - 7) };
                let sign = if code >> 7 == 1 { -1.0 } else { 1.0 };
                (sign * magnitude * scale(i / n_cols / 128, i % n_cols / 128)) as f32
            };
            bytes.iter().enumerate().map(number).collect()
        }
        "I8" => {
            let codes = bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]);
            let number = |(i, code): (usize, u8)| {
                let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
                let sign = if code & 8 == 8 { -1.0 } else { 1.0 };
                (sign * magnitude * scale(i / (2 * n_cols), i % (2 * n_cols) / 32)) as f32
            };
            codes.enumerate().map(number).collect()
        }
        other => panic!("{other}"),
    }
}

#[test]
fn all_numbers_are_kept_and_the_engine_runs_them() {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let stored = write_tiny(folder.path());
    let source = Folder::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    let read = |name: &str| {
        let i = source.weights().iter().position(|w| w.name == name).unwrap_or_else(|| panic!("{name}"));
        let mut out = vec![0.0; source.weights()[i].shape.iter().product()];
        source.read(i, 0..source.weights()[i].n_rows(), &mut out).unwrap_or_else(|e| panic!("{e}"));
        (source.weights()[i].element, out)
    };
    let check = |name: &str, format: Format, expected: Vec<f32>| {
        let (element, found) = read(name);
        assert_eq!(element, Element::Packed(format), "{name}");
        assert!(found == expected, "{name}");
    };
    for layer in 0..6 {
        let name = |part: &str| format!("layers.{layer}.{part}");
        for (made, part) in
            [("attn_q_a", "attn.wq_a"), ("attn_output_b", "attn.wo_b"), ("ffn_up_shexp", "ffn.shared_experts.w3")]
        {
            let expected = numbers(&stored, &name(&format!("{part}.weight")));
            check(&format!("blk.{layer}.{made}.weight"), Format::BF16, expected);
        }
        for (made, w) in [("gate", "w1"), ("up", "w3"), ("down", "w2")] {
            let expert = |e: usize| numbers(&stored, &name(&format!("ffn.experts.{e}.{w}.weight")));
            let expected = (0..6).flat_map(expert).collect();
            check(&format!("blk.{layer}.ffn_{made}_exps.weight"), Format::MXFP4, expected);
        }
    }
    check("blk.2.indexer.attn_q_b.weight", Format::BF16, numbers(&stored, "layers.2.attn.indexer.wq_b.weight"));
    check("blk.3.attn_compressor_ape.weight", Format::F32, numbers(&stored, "layers.3.attn.compressor.ape"));
    let made = folder.path().join("tiny.gguf");
    convert(&source, &made);
    let logits = logits(&made, &(0..200).map(|i| i * 7 % 300).collect::<Vec<_>>());
    assert!(logits.iter().all(|x| x.is_finite()));
    let (first, last) = (&logits[..300], &logits[199 * 300..]);
    assert!(first != last && first.iter().any(|x| *x != first[0]));
}

#[test]
fn expert_tables_and_what_is_left_out() {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let stored = write_tiny(folder.path());
    let source = Folder::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    let i = source.weights().iter().position(|w| w.name == "blk.1.ffn_gate_tid2eid.weight").expect("the table");
    assert_eq!((source.weights()[i].element, &source.weights()[i].shape[..]), (Element::I32, &[300, 2][..]));
    let found: Vec<i64> =
        bytes_of(&source, i).as_chunks().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect();
    let expected: Vec<i64> =
        stored["layers.1.ffn.gate.tid2eid"].1.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
    assert_eq!(found, expected);
    assert!(!source.left_out().is_empty() && source.left_out().iter().all(|name| name.starts_with("mtp.0.")));
    let n_drafter = stored.keys().filter(|name| name.starts_with("mtp.")).count();
    assert_eq!(source.left_out().len(), n_drafter);
}

/// A recipe, the bytes of the file that is published of it (specification, section 4.3), and those that it makes here, of a
/// small vocabulary: `docs/quantization.md` states them.
type Size = (&'static str, u64, u64);

/// Opens a model of the published sizes, whose weights are holes, and plans files of it.
fn check_published(name: &str, n_layer: usize, n_weights: u64, recipes: &[Size]) {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    sparse_v4(folder.path(), &published(name));
    let start = Instant::now();
    let source = Folder::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    eprintln!("{name}: opened in {:.2} s", start.elapsed().as_secs_f64());
    let is_table = |element| !matches!(element, Element::Packed(_));
    let weights = source.weights().iter().filter(|w| !is_table(w.element));
    let total: u64 = weights.map(|w| w.shape.iter().product::<usize>() as u64).sum();
    assert_eq!(total, n_weights, "{name}");
    let n_layer_found = source.weights().iter().filter(|w| w.name.ends_with(".ffn_gate_exps.weight")).count();
    assert_eq!(n_layer_found, n_layer);
    for (recipe, published, expected) in recipes {
        let planned = Plan::new(&source, &Recipe::named(recipe).unwrap_or_default(), None);
        let planned = planned.unwrap_or_else(|e| panic!("{recipe}: {e}")).n_bytes();
        let off = planned.abs_diff(*published) as f64 / *published as f64;
        eprintln!("{name} by {recipe}: {planned} bytes, {:.4} % from the published {published}", 100.0 * off);
        assert_eq!(planned, *expected, "{name} by {recipe}");
        assert!(off < 3.5e-5, "{name} by {recipe}");
    }
    let last = source.weights().len() - 1;
    let mut row = [1.0];
    source.read(last, 0..1, &mut row).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(row, [0.0], "holes read as zeros");
}

#[test]
fn flash_has_its_published_size() {
    let recipes = [
        ("q2", 86_714_775_900, 86_717_727_136),
        ("q2-q4", 97_591_747_456, 97_589_363_104),
        ("q4", 164_628_167_004, 164_631_118_240),
        ("mxfp4", 155_971_123_548, 155_974_074_784),
    ];
    check_published("config-flash.json", 43, 284_332_240_471, &recipes);
}

#[test]
fn pro_has_its_published_size() {
    let recipes = [
        ("pro-q2", 464_621_966_732, 464_624_955_648),
        ("pro-q4", 899_827_144_076, 899_830_132_992),
        ("mxfp4", 851_471_013_260, 851_474_002_176),
    ];
    check_published("config-pro.json", 61, 1_572_997_201_763, &recipes);
}

/// What is said of a model with another size.
fn check_size(key: &str, value: Value, expected: Expect) {
    let (folder, mut config) = (tempfile::tempdir().unwrap_or_else(|e| panic!("{e}")), tiny());
    config[key] = value;
    write_changed(folder.path(), &config, &|_, _| {});
    let error = Folder::open(folder.path()).err().expect("an error").to_string();
    expected.assert_eq(&error.replace(&folder.path().display().to_string(), "."));
}

#[test]
fn sizes_are_checked() {
    check_size(
        "n_routed_experts",
        json!(1_u64 << 60),
        expect!["./config.json: `n_routed_experts` is 1152921504606846976; allowed: 1 to 1024"],
    );
    check_size(
        "n_routed_experts",
        json!(7),
        expect![
            "./model-00002-of-00008.safetensors: tensor `layers.0.ffn.gate.weight` has shape [6, 160]; expected [7, 160]"
        ],
    );
    check_size("o_groups", json!(3), expect!["./config.json: `o_groups` is 3; allowed: a divisor of 4 heads"]);
    check_size(
        "qk_rope_head_dim",
        json!(15),
        expect!["./config.json: `qk_rope_head_dim` is 15; allowed: an even number"],
    );
    check_size(
        "compress_ratios",
        json!([128, 0, 4]),
        expect!["./config.json: `compress_ratios` is [128,0,4]; allowed: a list of 6 numbers or more"],
    );
    check_size(
        "compress_ratios",
        json!([128, 0, 4, 128, 4, -1]),
        expect!["./config.json: `compress_ratios` is -1; allowed: 0 to 4096"],
    );
    check_size("num_experts_per_tok", json!(7), expect!["./config.json: `num_experts_per_tok` is 7; allowed: 1 to 6"]);
    check_size(
        "moe_intermediate_size",
        json!(48),
        expect![
            "./model-00002-of-00008.safetensors: tensor `layers.0.ffn.experts.0.w1.weight` has shape [64, 80]; expected [48, 80]"
        ],
    );
    check_size(
        "num_hidden_layers",
        json!(5),
        expect![
            ".: tensor `layers.5.attn_norm.weight` is no part of the architecture as we know it, and neither are 68 more"
        ],
    );
    check_size(
        "scoring_func",
        json!("softmax"),
        expect![[r#"./config.json: `scoring_func` is "softmax"; allowed: "sqrtsoftplus""#]],
    );
    check_size(
        "quantization_config",
        json!({"weight_block_size": [64, 64]}),
        expect!["./config.json: `quantization_config.weight_block_size` is [64,64]; allowed: [128,128]"],
    );
}

/// What is said of a model with a changed tensor, when it is opened or all of it is read.
fn check_tensor(name: &str, change: impl Fn(&mut Tensor, &mut Vec<u8>), expected: Expect) {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let change_one = |t: &mut Tensor, bytes: &mut Vec<u8>| {
        if t.name == name {
            change(t, bytes);
        }
    };
    write_changed(folder.path(), &tiny(), &change_one);
    let read_all = |source: Folder| {
        source.weights().iter().enumerate().try_for_each(|(i, w)| {
            let mut bytes = vec![0; w.element.row_bytes(w.n_cols()).expect("whole blocks") * w.n_rows()];
            source.read_bytes(i, 0..w.n_rows(), &mut bytes)
        })
    };
    let error = Folder::open(folder.path()).and_then(read_all).expect_err("an error").to_string();
    expected.assert_eq(&error.replace(&folder.path().display().to_string(), "."));
}

#[test]
fn tensors_are_checked() {
    let expert = "layers.2.ffn.experts.3.w2";
    let in_bf16 = |t: &mut Tensor, bytes: &mut Vec<u8>| {
        *t = Tensor::new(t.name.clone(), "BF16", &[160, 64]);
        *bytes = vec![0; t.n_bytes()];
    };
    check_tensor(
        &format!("{expert}.weight"),
        in_bf16,
        expect![
            "./model-00004-of-00008.safetensors: tensor `layers.2.ffn.experts.3.w2.weight` is of type BF16; allowed: I8, as the other experts' of this layer"
        ],
    );
    let transposed = |t: &mut Tensor, _: &mut Vec<u8>| t.shape.reverse();
    check_tensor(
        &format!("{expert}.weight"),
        transposed,
        expect![
            "./model-00004-of-00008.safetensors: tensor `layers.2.ffn.experts.3.w2.weight` has shape [32, 160]; expected [160, 32]"
        ],
    );
    check_tensor(
        &format!("{expert}.scale"),
        transposed,
        expect![
            "./model-00004-of-00008.safetensors: tensor `layers.2.ffn.experts.3.w2.scale` has shape [2, 160]; expected [160, 2]"
        ],
    );
    check_tensor(
        &format!("{expert}.scale"),
        |_, bytes| bytes[11] = 255,
        expect![
            "./model-00004-of-00008.safetensors: tensor `layers.2.ffn.experts.3.w2.weight` holds the scale 255, NaN in row 5; allowed: 0 to 254"
        ],
    );
    check_tensor(
        "layers.1.ffn.gate.tid2eid",
        |_, bytes| bytes[52] = 1,
        expect![
            "./model-00003-of-00008.safetensors: tensor `layers.1.ffn.gate.tid2eid` holds 4294967299 in row 3; allowed: numbers of 32 bits"
        ],
    );
    let renamed = |t: &mut Tensor, _: &mut Vec<u8>| t.name.push('x');
    check_tensor(
        "layers.4.hc_attn_fn",
        renamed,
        expect![
            "./model-00006-of-00008.safetensors: tensor `layers.4.hc_attn_fn` is missing, though `model.safetensors.index.json` has it here"
        ],
    );
}
