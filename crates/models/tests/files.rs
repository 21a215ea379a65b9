//! Files that contradict themselves or hold more than we know are refused in one line; what changes nothing is not.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use compute::{Reference, Row, Step, reference};
use expect_test::{Expect, expect};
use experts::Routing;
use gguf::{Element, Gguf, Value, Writer};
use models::{Error, KvType, Model, Residency, StateOptions};
use quant::Format;

/// A model file in pieces.
struct Parts {
    keys: Vec<(String, Value)>,
    tensors: Vec<(String, Vec<usize>, Element, Vec<u8>)>,
}

const F32: Element = Element::Packed(Format::F32);

impl Parts {
    fn of(name: &str) -> Parts {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name);
        let gguf = Gguf::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let keys = gguf.metadata().iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
        let tensor =
            |t: &gguf::TensorInfo| (t.name.clone(), t.shape.clone(), t.element, gguf.bytes(t).as_ref().to_vec());
        Parts { keys, tensors: gguf.tensors().iter().map(tensor).collect() }
    }

    fn set(mut self, key: &str, value: impl Into<Value>) -> Parts {
        self.keys.retain(|(k, _)| k != key);
        self.keys.push((key.into(), value.into()));
        self
    }

    fn add(mut self, name: &str, values: &[f32]) -> Parts {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.push((name.into(), vec![values.len()], F32, bytes));
        self
    }

    fn take(&mut self, name: &str) -> Vec<u8> {
        let at = self.tensors.iter().position(|t| t.0 == name).unwrap_or_else(|| panic!("no tensor {name}"));
        self.tensors.remove(at).3
    }

    fn without(mut self, name: &str) -> Parts {
        self.take(name);
        self
    }

    /// Opens them as a model, from a file that is gone afterwards.
    fn open(&self) -> Result<Box<dyn Model>, Error> {
        static N_FILES: AtomicUsize = AtomicUsize::new(0);
        let number = (std::process::id(), N_FILES.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("model-{}-{}.gguf", number.0, number.1));
        let mut writer = Writer::new();
        for (key, value) in &self.keys {
            writer.set(key, value.clone());
        }
        for (name, shape, element, bytes) in &self.tensors {
            writer.tensor(name, shape, *element, bytes);
        }
        writer.write(&path).unwrap_or_else(|e| panic!("{e}"));
        let opened =
            Gguf::open(&path).map_err(Error::from).and_then(|gguf| models::open(&gguf, &Reference, Residency::All));
        fs::remove_file(&path).unwrap_or_else(|e| panic!("{e}"));
        opened
    }
}

fn check(parts: Parts, expected: Expect) {
    let message = match parts.open() {
        Ok(_) => "opens".to_string(),
        Err(e) => {
            assert!(!e.hint().is_empty());
            let message = e.to_string();
            message.split_once(": ").map_or(message.clone(), |(_, what)| what.to_string())
        }
    };
    expected.assert_eq(&message);
}

const LLAMA: &str = "llama/micro.gguf";
const LLAMA_3: &str = "llama/micro-llama3.gguf";
const QWEN_2: &str = "qwen2/micro.gguf";
const FLASH: &str = "deepseek_v4/micro-flash.gguf";

#[test]
fn the_golden_files_open() {
    for name in [LLAMA, LLAMA_3, QWEN_2, FLASH] {
        check(Parts::of(name), expect!["opens"]);
    }
}

#[test]
fn a_family_that_we_lack_is_named() {
    let parts = Parts::of(LLAMA).set("general.architecture", "mamba");
    check(parts, expect!["architecture `mamba` is not supported; known are: deepseek4, llama, qwen2"]);
}

#[test]
fn sizes_that_contradict_the_tensors_are_refused() {
    check(Parts::of(LLAMA).set("llama.block_count", 0u32), expect!["`llama.block_count` is 0; allowed is 1 to 512"]);
    check(
        Parts::of(LLAMA).set("llama.feed_forward_length", 96u32),
        expect!["tensor `blk.0.ffn_gate.weight` has shape [256, 96], but the hyper-parameters make it [96, 96]"],
    );
    check(
        Parts::of(LLAMA).set("llama.attention.head_count_kv", 2u32),
        expect!["`llama.attention.head_count_kv` is 2; allowed is a divisor of 3 heads"],
    );
    check(
        Parts::of(FLASH).set("deepseek4.attention.value_length", 64u32),
        expect!["`deepseek4.attention.value_length` is 64; allowed is [128]"],
    );
}

#[test]
fn missing_tensors_are_named_and_unknown_ones_not_left_out() {
    check(Parts::of(LLAMA).without("blk.1.ffn_up.weight"), expect!["tensor `blk.1.ffn_up.weight` is missing"]);
    check(
        Parts::of(LLAMA).add("blk.0.attn_q_norm.weight", &[1.0; 16]),
        expect![
            "tensor `blk.0.attn_q_norm.weight` is no part of the architecture as we know it, and neither are 0 more"
        ],
    );
}

/// Running the first layers alone would give answers, and wrong ones.
#[test]
fn layers_beyond_the_count_are_refused_unless_they_are_drafters() {
    let fewer = |drafters: u32| {
        Parts::of(FLASH).set("deepseek4.block_count", 3 + drafters).set("deepseek4.nextn_predict_layers", drafters)
    };
    check(fewer(3), expect!["opens"]);
    check(
        fewer(1),
        expect![
            "tensor `blk.4.attn_norm.weight` is no part of the architecture as we know it, and neither are 61 more"
        ],
    );
}

#[test]
fn a_router_bias_that_token_ids_make_idle_is_left_out() {
    check(Parts::of(FLASH).add("blk.0.exp_probs_b.bias", &[0.0; 8]), expect!["opens"]);
}

#[test]
fn experts_that_do_not_exist_are_refused() {
    let mut parts = Parts::of(FLASH);
    let table = parts.tensors.iter_mut().find(|t| t.0.contains("tid2eid")).expect("a layer with a table");
    table.3[4..8].copy_from_slice(&8i32.to_le_bytes());
    check(parts, expect!["tensor `blk.0.ffn_gate_tid2eid.weight` holds 8 at index 1; allowed is 0 to 7"]);
}

#[test]
fn angles_divided_by_nothing_are_refused() {
    let mut parts = Parts::of(LLAMA_3);
    let n = parts.take("rope_freqs.weight").len() / 4;
    let mut divisors = vec![1.0; n];
    divisors[2] = 0.0;
    let parts = parts.add("rope_freqs.weight", &divisors);
    check(parts, expect!["tensor `rope_freqs.weight` holds 0 at index 2; allowed is a positive number"]);
}

#[test]
fn query_key_and_value_may_come_as_one() {
    let mut parts = Parts::of(QWEN_2);
    for layer in 0..2 {
        for kind in ["weight", "bias"] {
            let name = |part: &str| format!("blk.{layer}.attn_{part}.{kind}");
            let width = parts.tensors.iter().find(|t| t.0 == name("q")).expect("a query").1.clone();
            let element = parts.tensors.iter().find(|t| t.0 == name("q")).expect("a query").2;
            let bytes: Vec<u8> = ["q", "k", "v"].iter().flat_map(|part| parts.take(&name(part))).collect();
            let row_bytes = element.row_bytes(*width.last().expect("a dimension")).expect("whole rows");
            let shape = match kind {
                "weight" => vec![bytes.len() / row_bytes, width[1]],
                _ => vec![bytes.len() / 4],
            };
            parts.tensors.push((name("qkv"), shape, element, bytes));
        }
    }
    assert_eq!(logits(&parts), logits(&Parts::of(QWEN_2)));
}

/// After four tokens.
fn logits(parts: &Parts) -> Vec<f32> {
    let model = parts.open().unwrap_or_else(|e| panic!("{e}"));
    let options = StateOptions { n_ctx: 4, n_slot: 1, n_batch: 4, kv: KvType::F32 };
    let state = model.state(&Reference, &options, &Routing::default()).unwrap_or_else(|e| panic!("{e}"));
    let rows = [5, 200, 7, 31].into_iter().zip(0..).map(|(id, pos)| Row { id, pos, slot: 0 });
    let step = Step::new(&Reference, 4).unwrap_or_else(|e| panic!("{e}"));
    let step = step.set(&Reference, &rows.collect::<Vec<Row>>());
    state.forward(&Reference, &step, 0..model.shape().n_layer).unwrap_or_else(|e| panic!("{e}"));
    reference::f32s(&Reference, &state.logits(&Reference, 3..4))
}

#[test]
fn what_would_change_the_answer_is_not_ignored() {
    check(
        Parts::of(LLAMA).set("llama.attention.sliding_window", 16u32),
        expect!["`llama.attention.sliding_window` is 16; allowed is [0]"],
    );
    check(
        Parts::of(LLAMA).set("llama.rope.scaling.type", "longrope"),
        expect!["`llama.rope.scaling.type` is longrope; allowed is none, linear or yarn"],
    );
    check(Parts::of(LLAMA).set("llama.expert_count", 8u32), expect!["`llama.expert_count` is 8; allowed is [0]"]);
}
