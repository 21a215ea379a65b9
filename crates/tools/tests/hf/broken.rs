//! A line for everything that can be wrong with a folder, and nothing allocated by what a file claims.

use std::{
    fs,
    path::{Path, PathBuf},
};

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use tools::{Source, hf::Folder};

use crate::common::{
    Random, byte_tokenizer,
    safetensors::{self, Tensor, shard_name, write_index},
    write_json,
};

/// A folder with a tiny Llama, or what was changed in it.
struct Model {
    folder: TempDir,
    config: Value,
    tokenizer: Value,
    tensors: Vec<(Tensor, Vec<u8>)>,
}

impl Model {
    fn new() -> Model {
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "num_hidden_layers": 1,
            "max_position_embeddings": 128,
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5,
            "vocab_size": 260,
            "tie_word_embeddings": true,
        });
        let matrix = |name: &str, rows, cols| Tensor::new(format!("model.{name}.weight"), "F32", &[rows, cols]);
        let norm = |name: &str| Tensor::new(format!("model.{name}.weight"), "BF16", &[8]);
        let tensors = vec![
            matrix("embed_tokens", 260, 8),
            norm("norm"),
            norm("layers.0.input_layernorm"),
            norm("layers.0.post_attention_layernorm"),
            matrix("layers.0.self_attn.q_proj", 8, 8),
            matrix("layers.0.self_attn.k_proj", 4, 8),
            matrix("layers.0.self_attn.v_proj", 4, 8),
            matrix("layers.0.self_attn.o_proj", 8, 8),
            matrix("layers.0.mlp.gate_proj", 16, 8),
            matrix("layers.0.mlp.up_proj", 16, 8),
            matrix("layers.0.mlp.down_proj", 8, 16),
        ];
        let mut rng = Random(3);
        let filled = tensors.into_iter().map(|t| {
            let bytes = (0..t.n_bytes()).map(|_| rng.below(60) as u8).collect();
            (t, bytes)
        });
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        Model { folder, config, tokenizer: byte_tokenizer(), tensors: filled.collect() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self) {
        write_json(&self.path("config.json"), &self.config);
        write_json(&self.path("tokenizer.json"), &self.tokenizer);
        safetensors::write(&self.path("model.safetensors"), &self.tensors);
    }

    /// The message, the folder shown as `.`.
    fn error(&self) -> String {
        match Folder::open(self.folder.path()) {
            Ok(_) => "opened".into(),
            Err(e) => self.shown(&e),
        }
    }

    fn shown(&self, error: &tools::hf::Error) -> String {
        assert!(!error.hint().is_empty());
        error.to_string().replace(&self.folder.path().display().to_string(), ".")
    }

    fn find(&mut self, name: &str) -> &mut (Tensor, Vec<u8>) {
        self.tensors.iter_mut().find(|(t, _)| t.name.contains(name)).expect("a tensor")
    }
}

/// Changes the model before it is written.
fn check(change: impl FnOnce(&mut Model), expected: Expect) {
    let mut model = Model::new();
    change(&mut model);
    model.write();
    expected.assert_eq(&model.error());
}

/// Changes the folder after it was written.
fn check_folder(change: impl FnOnce(&Path), expected: Expect) {
    let model = Model::new();
    model.write();
    change(model.folder.path());
    expected.assert_eq(&model.error());
}

/// Puts other bytes in the place of the weights.
fn check_weights(bytes: impl Into<Vec<u8>>, expected: Expect) {
    let bytes = bytes.into();
    check_folder(|folder| write(&folder.join("model.safetensors"), &bytes), expected);
}

fn check_header(json: &str, n_data: usize, expected: Expect) {
    let mut bytes = safetensors::with_length(json);
    bytes.resize(bytes.len() + n_data, 0);
    check_weights(bytes, expected);
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_whole_model_opens() {
    check(|_| {}, expect!["opened"]);
}

#[test]
fn lengths_of_headers_are_checked_before_they_are_believed() {
    check_weights([1, 2, 3], expect!["./model.safetensors: the header needs bytes 0..8, but the file ends at byte 3"]);
    check_weights(
        0_u64.to_le_bytes(),
        expect!["./model.safetensors: length of the header at byte 0 is 0; allowed: 2 to 100000000"],
    );
    check_weights(
        u64::MAX.to_le_bytes(),
        expect!["./model.safetensors: length of the header at byte 0 is 18446744073709551615; allowed: 2 to 100000000"],
    );
    check_weights(
        100_000_001_u64.to_le_bytes(),
        expect!["./model.safetensors: length of the header at byte 0 is 100000001; allowed: 2 to 100000000"],
    );
    check_weights(
        99_000_000_u64.to_le_bytes(),
        expect!["./model.safetensors: the header needs bytes 0..99000008, but the file ends at byte 8"],
    );
}

#[test]
fn headers_are_objects_of_tensors() {
    check_header("[]", 0, expect!["./model.safetensors: the header at byte 8 is `[`; allowed: an object, `{`"]);
    check_header(
        "{} x",
        0,
        expect!["./model.safetensors: is no JSON file as it should be: header: trailing characters at line 1 column 4"],
    );
    check_header(
        "{\"a\": ",
        0,
        expect![
            "./model.safetensors: is no JSON file as it should be: header: EOF while parsing a value at line 1 column 6"
        ],
    );
    check_header(
        &format!("{{\"a\": {}", "[".repeat(10_000)),
        0,
        expect![
            "./model.safetensors: is no JSON file as it should be: header: recursion limit exceeded at line 1 column 133"
        ],
    );
    check_header(
        "{\"a\": 1}",
        0,
        expect![
            "./model.safetensors: tensor `a` is invalid type: integer `1`, expected struct TensorInfo; allowed: an object of dtype, shape and data_offsets"
        ],
    );
    check_header(
        r#"{"a": {"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}}"#,
        4,
        expect![[
            r#"./model.safetensors: type of tensor `a` is "F9"; allowed: the types of the safetensors format, F32, BF16, F8_E4M3 and others"#
        ]],
    );
    check_header(
        r#"{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}"#,
        4,
        expect![
            "./model.safetensors: tensor `a` is invalid value: integer `-1`, expected usize; allowed: an object of dtype, shape and data_offsets"
        ],
    );
}

#[test]
fn tensors_cover_the_data() {
    let of = |a: [u64; 2], b: [u64; 2]| {
        let tensor = |[begin, end]: [u64; 2]| json!({"dtype": "I8", "shape": [end.wrapping_sub(begin)], "data_offsets": [begin, end]});
        json!({"a": tensor(a), "b": tensor(b)}).to_string()
    };
    check_header(
        &of([0, 4], [3, 8]),
        8,
        expect!["./model.safetensors: tensor `b` starts at byte 116, inside tensor `a`, which ends at byte 117"],
    );
    check_header(&of([0, 4], [5, 8]), 8, expect!["./model.safetensors: bytes 117..118 belong to no tensor"]);
    check_header(&of([0, 4], [4, 8]), 9, expect!["./model.safetensors: bytes 121..122 belong to no tensor"]);
    check_header(
        &of([0, 4], [4, 8]),
        7,
        expect!["./model.safetensors: tensor `b` needs bytes 117..121, but the file ends at byte 120"],
    );
    check_header(
        &of([0, 4], [8, 4]),
        8,
        expect!["./model.safetensors: data_offsets of tensor `b` is [8, 4]; allowed: [begin, end], begin first"],
    );
    check_header(
        &of([0, 4], [4, u64::MAX]),
        8,
        expect![
            "./model.safetensors: data_offsets of tensor `b` is [4, 18446744073709551615]; allowed: [begin, end], begin first"
        ],
    );
}

#[test]
fn shapes_and_bytes_agree() {
    let of =
        |shape: Value, end: u64| json!({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).to_string();
    check_header(
        &of(json!([2, 3]), 20),
        20,
        expect!["./model.safetensors: tensor `a` of type F32 and shape [2, 3] needs 24 bytes, but has 20 bytes"],
    );
    check_header(
        &of(json!([1_u64 << 40, 1_u64 << 40]), 20),
        20,
        expect![
            "./model.safetensors: tensor `a` of type F32 and shape [1099511627776, 1099511627776] needs more than 2^60 bytes, but has 20 bytes"
        ],
    );
    check_header(
        r#"{"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}"#,
        1,
        expect!["./model.safetensors: tensor `a` of type F4 and shape [3] needs 1.5 bytes, but has 1 bytes"],
    );
}

#[test]
fn an_index_stays_in_its_folder_and_tells_the_truth() {
    let index = |map: Value| {
        let model = Model::new();
        model.write();
        let names: Vec<_> = model.tensors.iter().map(|(t, _)| t.clone()).collect();
        fs::rename(model.path("model.safetensors"), model.path(&shard_name(0, 1))).unwrap_or_else(|e| panic!("{e}"));
        write_index(model.folder.path(), &[names]);
        let path = model.path("model.safetensors.index.json");
        let mut json: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for (key, value) in map.as_object().unwrap() {
            json["weight_map"][key] = value.clone();
        }
        write_json(&path, &json);
        model
    };
    expect!["opened"].assert_eq(&index(json!({})).error());
    for bad in ["../a.safetensors", "/etc/a.safetensors", "a/b.safetensors", "..", "", "a.bin"] {
        assert_eq!(
            index(json!({"x": bad})).error(),
            format!(
                "./model.safetensors.index.json: file of tensor `x` is \"{bad}\"; \
                 allowed: the name of a .safetensors file in this folder"
            )
        );
    }
    expect!["./model.safetensors.index.json: file of tensor `x` is 3; allowed: the name of a .safetensors file in this folder"].assert_eq(&index(json!({"x": 3})).error());
    expect![
        "./other.safetensors: is missing, though `model.safetensors.index.json` names it: no such file or directory"
    ]
    .assert_eq(&index(json!({"x": "other.safetensors"})).error());
    expect![
        "./model-00001-of-00001.safetensors: tensor `x` is missing, though `model.safetensors.index.json` has it here"
    ]
    .assert_eq(&index(json!({"x": shard_name(0, 1)})).error());
    let twice = index(json!({"y": "other.safetensors"}));
    let y = Tensor::new("y", "I8", &[1]);
    let norm = twice.tensors[1].clone();
    safetensors::write(&twice.path("other.safetensors"), &[(y, vec![0]), norm]);
    expect!["./other.safetensors: tensor `model.norm.weight` is in ./model-00001-of-00001.safetensors too"]
        .assert_eq(&twice.error());
}

#[test]
fn weights_must_be_there_and_be_no_programs() {
    check_folder(
        |folder| fs::remove_file(folder.join("model.safetensors")).unwrap(),
        expect![".: there is neither `model.safetensors` nor `model.safetensors.index.json`"],
    );
    let pickled = |folder: &Path| {
        fs::remove_file(folder.join("model.safetensors")).unwrap();
        write(&folder.join("pytorch_model-00001-of-00002.bin"), b"\x80");
    };
    check_folder(
        pickled,
        expect![
            "./pytorch_model-00001-of-00002.bin: weights in the pickle format are not read, as they are programs, not data"
        ],
    );
    let file = Model::new();
    file.write();
    let error = Folder::open(&file.path("config.json")).err().expect("an error");
    expect!["./config.json: is not a folder, as Hugging Face publishes models"].assert_eq(&file.shown(&error));
    let error = Folder::open(&file.path("absent")).err().expect("an error");
    expect!["./absent: no such file or directory"].assert_eq(&file.shown(&error));
}

#[test]
fn tensors_are_those_of_the_family() {
    check(
        |m| m.tensors.retain(|(t, _)| !t.name.contains("k_proj")),
        expect![".: tensor `model.layers.0.self_attn.k_proj.weight` is missing"],
    );
    let surplus = |m: &mut Model| m.tensors.push((Tensor::new("model.layers.1.extra", "I8", &[2]), vec![0; 2]));
    check(
        surplus,
        expect![
            ".: tensor `model.layers.1.extra` is no part of the architecture as we know it, and neither are 0 more"
        ],
    );
    check(
        |m| m.find("k_proj").0.shape = vec![8, 4],
        expect![
            "./model.safetensors: tensor `model.layers.0.self_attn.k_proj.weight` has shape [8, 4]; expected [4, 8]"
        ],
    );
    check(
        |m| m.find("k_proj").0.dtype = "I32",
        expect![
            "./model.safetensors: tensor `model.layers.0.self_attn.k_proj.weight` is of type I32; allowed: F32, BF16, F16, F8_E4M3"
        ],
    );
    check(|m| m.find("input_layernorm").0.dtype = "F16", expect!["opened"]);
    let ignored = Tensor::new("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", &[2]);
    check(|m| m.tensors.push((ignored, vec![0; 8])), expect!["opened"]);
}

#[test]
fn scales_are_there_and_fit() {
    let packed = |m: &mut Model, scales: Option<Tensor>| {
        *m.find("up_proj") = (Tensor::new("model.layers.0.mlp.up_proj.weight", "F8_E4M3", &[16, 8]), vec![8; 128]);
        m.tensors.extend(scales.map(|t| (t.clone(), vec![127; t.n_bytes()])));
    };
    let name = "model.layers.0.mlp.up_proj.scale";
    check(|m| packed(m, Some(Tensor::new(name, "F8_E8M0", &[1, 1]))), expect!["opened"]);
    check(|m| packed(m, None), expect![".: tensor `model.layers.0.mlp.up_proj.scale` is missing"]);
    check(
        |m| packed(m, Some(Tensor::new(name, "F8_E8M0", &[16, 1]))),
        expect!["./model.safetensors: tensor `model.layers.0.mlp.up_proj.scale` has shape [16, 1]; expected [1, 1]"],
    );
    check(
        |m| packed(m, Some(Tensor::new(name, "F32", &[1, 1]))),
        expect!["./model.safetensors: tensor `model.layers.0.mlp.up_proj.scale` is of type F32; allowed: F8_E8M0"],
    );
}

#[test]
fn numbers_of_the_configuration_are_checked() {
    let set = |key: &'static str, value: Value| move |m: &mut Model| m.config[key] = value;
    check(set("num_hidden_layers", json!(0)), expect!["./config.json: `num_hidden_layers` is 0; allowed: 1 to 512"]);
    check(set("hidden_size", json!(-8)), expect!["./config.json: `hidden_size` is -8; allowed: 1 to 1048576"]);
    check(set("hidden_size", json!(8.5)), expect!["./config.json: `hidden_size` is 8.5; allowed: 1 to 1048576"]);
    check(set("hidden_size", json!("8")), expect![[r#"./config.json: `hidden_size` is "8"; allowed: 1 to 1048576"#]]);
    check(
        set("hidden_size", json!(1_u64 << 40)),
        expect!["./config.json: `hidden_size` is 1099511627776; allowed: 1 to 1048576"],
    );
    check(
        set("num_attention_heads", json!(3)),
        expect!["./config.json: `num_attention_heads` is 3; allowed: a divisor of 8"],
    );
    check(set("num_key_value_heads", json!(3)), expect!["./config.json: `num_key_value_heads` is 3; allowed: 1 to 2"]);
    check(set("head_dim", json!(5)), expect!["./config.json: `head_dim` is 5; allowed: an even number"]);
    check(set("rms_norm_eps", json!(2)), expect!["./config.json: `rms_norm_eps` is 2; allowed: 0 to 1"]);
    check(set("hidden_act", json!("gelu")), expect![[r#"./config.json: `hidden_act` is "gelu"; allowed: "silu""#]]);
    check(set("attention_bias", json!(true)), expect!["./config.json: `attention_bias` is true; allowed: false"]);
    check(
        set("quantization_config", json!({"quant_method": "gptq"})),
        expect![[r#"./config.json: `quantization_config` is {"quant_method":"gptq"}; allowed: null, or none at all"#]],
    );
    check(
        set("rope_scaling", json!({"type": "dynamic", "factor": 2.0})),
        expect![[r#"./config.json: `rope_scaling.type` is "dynamic"; allowed: "default", "linear", "yarn", "llama3""#]],
    );
    check(
        set("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0})),
        expect!["./config.json: `rope_scaling.low_freq_factor` is missing"],
    );
    check(set("tie_word_embeddings", json!(false)), expect![".: tensor `lm_head.weight` is missing"]);
    check(
        set("architectures", json!(["MambaForCausalLM"])),
        expect![
            "./config.json: architecture `MambaForCausalLM` cannot be imported; known are: DeepseekV4ForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM"
        ],
    );
    check(
        set("architectures", json!("LlamaForCausalLM")),
        expect![[
            r#"./config.json: architecture `"LlamaForCausalLM"` cannot be imported; known are: DeepseekV4ForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM"#
        ]],
    );
    check(
        |m| _ = m.config.as_object_mut().unwrap().remove("vocab_size"),
        expect!["./config.json: `vocab_size` is missing"],
    );
}

/// Words take memory, and a few bytes of a stranger's may claim millions of them.
#[test]
fn words_are_made_only_where_the_weights_have_them() {
    check(
        |m| {
            m.config["vocab_size"] = json!(1 << 24);
            m.tokenizer["model"]["type"] = json!("WordPiece"); // told, if the words were looked at
        },
        expect!["./model.safetensors: tensor `model.embed_tokens.weight` has shape [260, 8]; expected [16777216, 8]"],
    );
}

#[test]
fn json_is_json() {
    let with = |name: &'static str, text: &'static str| move |folder: &Path| write(&folder.join(name), text.as_bytes());
    check_folder(
        with("config.json", ""),
        expect!["./config.json: is no JSON file as it should be: EOF while parsing a value at line 1 column 0"],
    );
    check_folder(with("config.json", "[1, 2]"), expect!["./config.json: `architectures` is missing"]);
    check_folder(
        with("tokenizer.json", "{"),
        expect!["./tokenizer.json: is no JSON file as it should be: EOF while parsing an object at line 1 column 1"],
    );
    let deep = |folder: &Path| write(&folder.join("config.json"), "[".repeat(100_000).as_bytes());
    check_folder(
        deep,
        expect!["./config.json: is no JSON file as it should be: recursion limit exceeded at line 1 column 128"],
    );
    let absent = |folder: &Path| fs::remove_file(folder.join("tokenizer.json")).unwrap();
    check_folder(absent, expect!["./tokenizer.json: no such file or directory"]);
    let long = |folder: &Path| {
        let file = fs::File::create(folder.join("tokenizer.json")).unwrap();
        file.set_len(200_000_000).unwrap();
    };
    check_folder(
        long,
        expect!["./tokenizer.json: is no JSON file as it should be: a file of at most 100000000 bytes is expected"],
    );
}

#[test]
fn files_that_change_give_no_rows() {
    let model = Model::new();
    model.write();
    let source = Folder::open(model.folder.path()).unwrap_or_else(|e| panic!("{e}"));
    let mut row = [0.0; 8];
    source.read(0, 3..4, &mut row).unwrap_or_else(|e| panic!("{e}"));
    let path = model.path("model.safetensors");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap_or_else(|e| panic!("{e}"));
    let len = file.metadata().unwrap_or_else(|e| panic!("{e}")).len();
    for new_len in [len - 1, 4, len + 1] {
        file.set_len(new_len).unwrap_or_else(|e| panic!("{e}"));
        let error = source.read(0, 3..4, &mut row).unwrap_err();
        assert_eq!(model.shown(&error), "./model.safetensors: changed while it was being read");
    }
}

/// Some weights are made of it alone: whoever goes on with a file has to see that it is another.
#[test]
fn the_config_is_among_the_files_that_a_model_is_read_from() {
    let model = Model::new();
    model.write();
    let stamp = || {
        let files = Folder::open(model.folder.path()).unwrap_or_else(|e| panic!("{e}")).files();
        files.into_iter().find(|(path, _)| path.ends_with("config.json")).expect("it is there").1
    };
    let before = stamp();
    let config = fs::read_to_string(model.path("config.json")).unwrap_or_else(|e| panic!("{e}"));
    fs::write(model.path("config.json"), config + "\n").unwrap_or_else(|e| panic!("{e}"));
    assert_ne!(before, stamp());
}

#[test]
fn numbers_that_no_type_of_a_gguf_has_are_named() {
    let mut model = Model::new();
    let scale = Tensor::new("model.layers.0.mlp.up_proj.scale", "F8_E8M0", &[1, 1]);
    *model.find("up_proj") = (Tensor::new("model.layers.0.mlp.up_proj.weight", "F8_E4M3", &[16, 8]), vec![0; 128]);
    model.find("up_proj").1[43] = 1;
    model.tensors.push((scale, vec![2]));
    model.write();
    let source = Folder::open(model.folder.path()).unwrap_or_else(|e| panic!("{e}"));
    let i = source.weights().iter().position(|w| w.name.contains("ffn_up")).expect("a tensor");
    let mut rows = [0.0; 40];
    source.read(i, 0..5, &mut rows).unwrap_or_else(|e| panic!("{e}"));
    let error = source.read(i, 5..10, &mut rows).unwrap_err();
    expect!["./model.safetensors: tensor `model.layers.0.mlp.up_proj.weight` holds the FP8 number 0x01 with the scale 2 in row 5; allowed: a number that BF16 has: of scales, 3 to 246"].assert_eq(&model.shown(&error));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_the_files_hold_nothing_panics(
        places in prop::collection::vec((0_usize..4000, any::<u8>()), 1..6),
        cut in 0_usize..20_000,
        file in 0_usize..3,
    ) {
        let model = Model::new();
        model.write();
        let path = model.path(["model.safetensors", "config.json", "tokenizer.json"][file]);
        let mut bytes = fs::read(&path).unwrap_or_else(|e| panic!("{e}"));
        for (at, byte) in places {
            let len = bytes.len();
            bytes[at % len] = byte;
        }
        bytes.truncate(cut.max(1));
        write(&path, &bytes);
        if let Ok(source) = Folder::open(model.folder.path()) {
            for (i, w) in source.weights().iter().enumerate() {
                let mut rows = vec![0.0; w.shape.iter().product()];
                let _ = source.read(i, 0..w.n_rows(), &mut rows);
            }
        }
    }
}
