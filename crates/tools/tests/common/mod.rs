//! Hugging Face folders for tests: written here from nothing, from a GGUF, or as large as the real ones without data.
#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod safetensors;
pub(crate) mod v4;

use std::{fs, ops::ControlFlow, path::Path};

use engine::{Engine, KvType, Options};
use gguf::{Metadata, Writer};
use serde_json::{Value, json};
use tools::Source;

/// A generator whose numbers are the same everywhere: SplitMix64 (Steele et al. 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// From -1 to 1.
    pub(crate) fn real(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Writes a JSON file.
pub(crate) fn write_json(path: &Path, json: &Value) {
    fs::write(path, json.to_string()).unwrap_or_else(|e| panic!("{e}"));
}

/// The characters that stand for bytes in byte-level BPE, in the order of the bytes.
pub(crate) fn alphabet() -> Vec<String> {
    let is_printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 256..;
    let char_of = |b| char::from_u32(if is_printable(b) { b } else { others.next().unwrap() }).unwrap();
    (0..256).map(char_of).map(String::from).collect()
}

/// A `tokenizer.json` of bytes alone, as DeepSeek's files cut text.
pub(crate) fn byte_tokenizer() -> Value {
    let vocab: serde_json::Map<String, Value> = alphabet().into_iter().zip((0..256).map(Value::from)).collect();
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let passes = [
        r"\p{N}{1,3}",
        "[一-龥\u{3040}-ゟ゠-ヿ]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    ];
    let mut steps: Vec<Value> = passes.iter().map(|p| split(p)).collect();
    steps.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}));
    json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": []},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "vocab": vocab, "merges": []},
    })
}

/// Writes `tokenizer.json` and `tokenizer_config.json` with the vocabulary of a GGUF; `steps` cut its text.
pub(crate) fn write_vocabulary(folder: &Path, keys: &Metadata, steps: Value, normalizer: Value, ignore_merges: bool) {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let tokens = keys.strs(&key("tokens")).unwrap_or_else(|e| panic!("{e}"));
    let types = keys.i32s(&key("token_type")).unwrap_or_else(|e| panic!("{e}"));
    let merges = keys.strs(&key("merges")).unwrap_or_else(|e| panic!("{e}"));
    let (mut vocab, mut added) = (serde_json::Map::new(), Vec::new());
    for (id, (token, kind)) in tokens.iter().zip(types).enumerate() {
        match kind {
            1 => _ = vocab.insert(token.to_string(), id.into()),
            3 | 4 => added.push(json!({"id": id, "content": token, "special": kind == 3})),
            _ => {}
        }
    }
    let file = json!({
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": ignore_merges},
    });
    write_json(&folder.join("tokenizer.json"), &file);
    let role = |name: &str| keys.u32_opt(&key(&format!("{name}_token_id"))).ok().flatten();
    let text = |name: &str| role(name).map(|id| tokens[id as usize]);
    let beside = json!({
        "bos_token": text("bos"),
        "eos_token": {"content": text("eos")},
        "pad_token": text("padding"),
        "add_bos_token": keys.bool_opt(&key("add_bos_token")).unwrap_or_else(|e| panic!("{e}")),
    });
    write_json(&folder.join("tokenizer_config.json"), &beside);
}

/// Writes a source as it is, in the types that keep all of it.
pub(crate) fn convert(source: &impl Source, path: &Path) {
    let mut writer = Writer::new();
    for (key, value) in source.keys() {
        writer.set(key, value.clone());
    }
    for (i, w) in source.weights().iter().enumerate() {
        let bytes = bytes_of(source, i);
        writer.tensor_with(&w.name, &w.shape, w.element, move |out| out.write_all(&bytes));
    }
    writer.write(path).unwrap_or_else(|e| panic!("{e}"));
}

/// All bytes of a tensor, read a few rows at a time.
pub(crate) fn bytes_of(source: &impl Source, i: usize) -> Vec<u8> {
    let w = &source.weights()[i];
    let row_bytes = w.element.row_bytes(w.n_cols()).expect("whole blocks");
    let mut bytes = vec![0; row_bytes * w.n_rows()];
    const STEP: usize = 37; // crosses the ends of heads, blocks and experts
    for (step, out) in bytes.chunks_mut(STEP * row_bytes).enumerate() {
        let rows = step * STEP..step * STEP + out.len() / row_bytes;
        source.read_bytes(i, rows, out).unwrap_or_else(|e| panic!("{e}"));
    }
    bytes
}

/// The logits of all tokens.
pub(crate) fn logits(path: &Path, ids: &[u32]) -> Vec<f32> {
    let mut options = Options::new(path.to_owned());
    options.kv = Some(KvType::F32);
    options.threads = Some(2);
    let engine = Engine::open(&options).unwrap_or_else(|e| panic!("{e}"));
    let mut session = engine.session(ids.len()).unwrap_or_else(|e| panic!("{e}"));
    let mut all = Vec::new();
    let mut keep = |row: &[f32]| {
        all.extend_from_slice(row);
        ControlFlow::Continue(())
    };
    session.score(ids, ids.len(), &mut keep).unwrap_or_else(|e| panic!("{e}"));
    all
}
