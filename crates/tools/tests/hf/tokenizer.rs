//! Ids are those of Hugging Face's own library, which reads the same `tokenizer.json`.

use std::{fs, path::Path};

use expect_test::{Expect, expect};
use gguf::Metadata;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokenizer::{PRE_TOKENIZERS, Special, Tokenizer};
use tools::{
    Source,
    hf::{Error, Folder},
};

use crate::common::{Random, alphabet, safetensors, safetensors::Tensor, write_json};

/// A model of no layer to speak of, with a vocabulary.
struct Model {
    folder: TempDir,
    n_vocab: usize,
}

impl Model {
    fn new(tokenizer: &Value, n_vocab: usize) -> Model {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "num_hidden_layers": 1,
            "max_position_embeddings": 128,
            "hidden_size": 2,
            "intermediate_size": 2,
            "num_attention_heads": 1,
            "rms_norm_eps": 1e-5,
            "vocab_size": n_vocab,
            "tie_word_embeddings": true,
        });
        let model = Model { folder, n_vocab };
        model.write("config.json", &config);
        model.write("tokenizer.json", tokenizer);
        let tensor = |name: &str, shape: &[usize]| Tensor::new(format!("model.{name}.weight"), "F16", shape);
        let norms = ["norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm"].map(|n| tensor(n, &[2]));
        let matrices = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"];
        let matrices = matrices.map(|n| tensor(&format!("layers.0.{n}_proj"), &[2, 2]));
        let all = [&norms[..], &matrices[..], &[tensor("embed_tokens", &[n_vocab, 2])]].concat();
        safetensors::write_sparse(&model.folder.path().join("model.safetensors"), &all);
        model
    }

    fn write(&self, name: &str, json: &Value) {
        write_json(&self.folder.path().join(name), json);
    }

    fn open(&self) -> Result<Metadata, Error> {
        Ok(Metadata::new("m.gguf", Folder::open(self.folder.path())?.keys().to_vec()))
    }

    fn keys(&self) -> Metadata {
        self.open().unwrap_or_else(|e| panic!("{e}"))
    }
}

/// Steps that cut text by these expressions.
fn steps(passes: &[&str]) -> Value {
    let split = |p: &&str| json!({"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": false});
    let mut steps: Vec<Value> = passes.iter().map(split).collect();
    steps.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}));
    json!({"type": "Sequence", "pretokenizers": steps})
}

const MARKS: [(&str, bool); 4] = [("<s>", true), ("<|user|>", false), ("<think>", false), ("</s>", true)];

/// Bytes, pieces of two and three, and marks.
fn vocabulary(pre: Value, nfc: bool, ignore_merges: bool) -> Value {
    let mut pieces = alphabet();
    let (mut merges, mut rng) = (Vec::new(), Random(5));
    let letters: Vec<String> = "aeinorstlĠ.1ĊÃ©".chars().map(String::from).collect();
    while merges.len() < 150 {
        let all = [&letters[..], &pieces[256..]].concat();
        let [left, right] = [0; 2].map(|_| all[rng.below(all.len() as u64) as usize].clone());
        let whole = format!("{left}{right}");
        if whole.chars().count() <= 4 && !pieces.contains(&whole) {
            pieces.push(whole);
            merges.push(json!([left, right]));
        }
    }
    let n = pieces.len();
    let vocab: serde_json::Map<String, Value> = pieces.into_iter().zip((0..n).map(Value::from)).collect();
    let mark = |(i, (text, special)): (usize, &(&str, bool))| {
        json!({"id": n + i, "content": text, "special": special, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": MARKS.iter().enumerate().map(mark).collect::<Vec<_>>(),
        "normalizer": if nfc { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": pre,
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
            "vocab": vocab, "merges": merges},
    })
}

/// Ids of all vocabularies: of bytes, pieces and marks.
const N_VOCAB: usize = 256 + 150 + 4;

const TEXTS: [&str; 9] = [
    "",
    "It's 12345 tests, isn't it? IT'S!",
    "  two  spaces\n\n\tTab\r\n  ",
    "naïve cafe\u{301} – “quotes” … Größe",
    "你好，世界。日本語テキスト 한국어 ไทย",
    "def f(x):\n    return x**2  # ok\r\n",
    "http://a.b/c?d=e&f=1 \u{1f642}\u{1f468}\u{200d}\u{1f469}",
    "<s><|user|>on a rainy night<think>so it is</think></s>",
    "tan tree senior lesson nostril  ... 1 11 111 1111\u{3000}a",
];

fn check_same_ids(name: &str, model: &Model) {
    let keys = model.keys();
    let ours = Tokenizer::from_gguf(&keys).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(ours.n_vocab(), model.n_vocab);
    let path = model.folder.path().join("tokenizer.json");
    let theirs = tokenizers::Tokenizer::from_file(path).unwrap_or_else(|e| panic!("{name}: {e}"));
    for text in TEXTS {
        let expected = theirs.encode(text, false).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(ours.encode(text, Special::Parse), expected.get_ids(), "{name}: {text:?}");
    }
}

#[test]
fn ids_are_those_of_hugging_face_with_every_pre_tokenizer() {
    for pre in PRE_TOKENIZERS {
        let tokenizer = vocabulary(steps(pre.passes), pre.nfc, pre.ignore_merges);
        let model = Model::new(&tokenizer, N_VOCAB);
        let keys = model.keys();
        let found = keys.str("tokenizer.ggml.pre").unwrap_or_else(|e| panic!("{e}"));
        let has_name = |p: &&tokenizer::PreTokenizer| p.names.contains(&found);
        let same = PRE_TOKENIZERS.iter().find(has_name).expect("a name of ours");
        assert_eq!((same.passes, same.nfc, same.ignore_merges), (pre.passes, pre.nfc, pre.ignore_merges));
        check_same_ids(pre.names[0], &model);
    }
}

#[test]
fn steps_with_expressions_of_their_own_are_recognised() {
    let last = |use_regex| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let digits =
        json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, last(true)]});
    for (pre, name) in [(last(true), "gpt-2"), (digits, "smollm")] {
        let model = Model::new(&vocabulary(pre, false, false), N_VOCAB);
        assert_eq!(model.keys().str("tokenizer.ggml.pre").unwrap_or_else(|e| panic!("{e}")), name);
        check_same_ids(name, &model);
    }
}

/// A vocabulary as GPT-2's, in which something was changed.
fn changed(change: impl FnOnce(&mut Value)) -> Model {
    let mut tokenizer = vocabulary(json!({"type": "ByteLevel", "add_prefix_space": false}), false, false);
    change(&mut tokenizer);
    Model::new(&tokenizer, N_VOCAB + 2)
}

#[test]
fn types_and_padding_follow_the_marks() {
    let keys = changed(|_| {}).keys();
    let types = keys.i32s("tokenizer.ggml.token_type").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(types[405..], [1, 3, 3, 4, 3, 5, 5]);
    let tokens = keys.strs("tokenizer.ggml.tokens").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(tokens[406..], ["<s>", "<|user|>", "<think>", "</s>", "[PAD410]", "[PAD411]"]);
}

/// The keys of roles, with files beside.
fn check_roles(files: &[(&str, Value)], expected: Expect) {
    let model = changed(|_| {});
    files.iter().for_each(|(name, json)| model.write(name, json));
    let keys = model.keys();
    let is_role = |key: &str| key.ends_with("_id") || key.ends_with("add_bos_token") || key.contains("template");
    let line = |(key, value): (&str, &gguf::Value)| format!("{key} {value}\n");
    expected.assert_eq(&keys.iter().filter(|(key, _)| is_role(key)).map(line).collect::<String>());
}

#[test]
fn roles_come_from_the_files_beside() {
    check_roles(
        &[],
        expect![[r#"
        tokenizer.ggml.add_bos_token false
    "#]],
    );
    let config = (
        "tokenizer_config.json",
        json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null,
        "add_bos_token": true, "chat_template": "{{ messages }}"}),
    );
    let generation = ("generation_config.json", json!({"eos_token_id": [408, 409, 407], "pad_token_id": 406}));
    check_roles(
        std::slice::from_ref(&config),
        expect![[r#"
        tokenizer.ggml.bos_token_id 406
        tokenizer.ggml.eos_token_id 409
        tokenizer.ggml.add_bos_token true
        tokenizer.chat_template "{{ messages }}"
    "#]],
    );
    check_roles(
        std::slice::from_ref(&generation),
        expect![[r#"
        tokenizer.ggml.eos_token_id 408
        tokenizer.ggml.eot_token_id 409
        tokenizer.ggml.eom_token_id 407
        tokenizer.ggml.padding_token_id 406
        tokenizer.ggml.add_bos_token false
    "#]],
    );
    check_roles(
        &[config, generation],
        expect![[r#"
        tokenizer.ggml.bos_token_id 406
        tokenizer.ggml.eos_token_id 409
        tokenizer.ggml.eot_token_id 408
        tokenizer.ggml.eom_token_id 407
        tokenizer.ggml.padding_token_id 406
        tokenizer.ggml.add_bos_token true
        tokenizer.chat_template "{{ messages }}"
    "#]],
    );
    let several = json!({"chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]});
    check_roles(
        &[("tokenizer_config.json", several.clone())],
        expect![[r#"
        tokenizer.ggml.add_bos_token false
        tokenizer.chat_template "d"
    "#]],
    );
    let model = changed(|_| {});
    model.write("tokenizer_config.json", &several);
    fs::write(model.folder.path().join("chat_template.jinja"), "alone").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(model.keys().str("tokenizer.chat_template").unwrap_or_else(|e| panic!("{e}")), "alone");
}

#[test]
fn what_is_recommended_of_sampling_comes_along() {
    let model = changed(|_| {});
    model.write("generation_config.json", &json!({"do_sample": true, "temperature": 0.5}));
    assert_eq!(model.keys().f32("general.sampling.temp").unwrap_or_else(|e| panic!("{e}")), 0.5);
}

#[test]
fn a_post_processor_that_begins_with_a_token_adds_bos() {
    let begin = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}]});
    let sequence = json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, begin]});
    for (processor, adds) in [(begin, true), (sequence, true), (json!({"type": "ByteLevel"}), false)] {
        let model = changed(|t| t["post_processor"] = processor);
        model.write("tokenizer_config.json", &json!({"bos_token": "<s>"}));
        assert_eq!(model.keys().bool("tokenizer.ggml.add_bos_token").unwrap_or_else(|e| panic!("{e}")), adds);
    }
}

fn check_refused(change: impl FnOnce(&mut Value), expected: Expect) {
    let model = changed(change);
    let error = model.open().expect_err("an error").to_string();
    expected.assert_eq(&error.replace(&model.folder.path().display().to_string(), "."));
}

#[test]
fn what_would_read_text_in_another_way_is_refused_by_name() {
    check_refused(
        |t| t["model"]["type"] = "Unigram".into(),
        expect![[r#"./tokenizer.json: `model.type` is "Unigram"; allowed: "BPE""#]],
    );
    check_refused(
        |t| t["model"]["end_of_word_suffix"] = "</w>".into(),
        expect![[r#"./tokenizer.json: `model.end_of_word_suffix` is "</w>"; allowed: null, """#]],
    );
    check_refused(
        |t| t["pre_tokenizer"] = Value::Null,
        expect![
            "./tokenizer.json: a step of `pre_tokenizer` is null; allowed: Split by an expression into matches and what is between, Digits one by one, ByteLevel at last"
        ],
    );
    check_refused(
        |t| t["pre_tokenizer"] = steps(&[r"\w+|\W+"]),
        expect![[
            r#"./tokenizer.json: the expression in `pre_tokenizer` is \w+|\W+; allowed: those of deepseek-v3, deepseek-llm, deepseek-coder, gpt-2, smollm, llama-bpe, glm4, qwen2, qwen35, gpt-4o"#
        ]],
    );
    check_refused(
        |t| t["pre_tokenizer"] = steps(&[&"a|".repeat(1 << 20)]),
        expect![
            "./tokenizer.json: the expression in `pre_tokenizer` is a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|a|…; allowed: those of deepseek-v3, deepseek-llm, deepseek-coder, gpt-2, smollm, llama-bpe, glm4, qwen2, qwen35, gpt-4o"
        ],
    );
    check_refused(
        |t| t["pre_tokenizer"]["add_prefix_space"] = true.into(),
        expect![[
            r#"./tokenizer.json: a step of `pre_tokenizer` is {"type":"ByteLevel","add_prefix_space":true}; allowed: Split by an expression into matches and what is between, Digits one by one, ByteLevel at last"#
        ]],
    );
    check_refused(
        |t| t["pre_tokenizer"] = json!({"type": "Metaspace"}),
        expect![[
            r#"./tokenizer.json: a step of `pre_tokenizer` is {"type":"Metaspace"}; allowed: Split by an expression into matches and what is between, Digits one by one, ByteLevel at last"#
        ]],
    );
    check_refused(
        |t| t["normalizer"] = json!({"type": "Lowercase"}),
        expect![[r#"./tokenizer.json: `normalizer` is {"type":"Lowercase"}; allowed: NFC, null"#]],
    );
    check_refused(
        |t| t["normalizer"] = json!({"type": "NFC"}),
        expect![[r#"./tokenizer.json: `normalizer` is {"type":"NFC"}; allowed: null, with such a pre-tokenizer"#]],
    );
    check_refused(
        |t| t["model"]["ignore_merges"] = true.into(),
        expect!["./tokenizer.json: `model.ignore_merges` is true; allowed: false, with such a pre-tokenizer"],
    );
    check_refused(
        |t| t["model"]["vocab"]["zz"] = (1 << 30).into(),
        expect!["./tokenizer.json: id of token `zz` is 1073741824; allowed: 0 to 411"],
    );
    check_refused(
        |t| t["model"]["merges"][3] = "a b c".into(),
        expect![[r#"./tokenizer.json: merge 3 is "a b c"; allowed: two pieces without spaces"#]],
    );
    check_refused(
        |t| t["model"]["merges"][3] = json!(["zq", "zx"]),
        expect!["./tokenizer.json: merge 3, `zq zx`, has parts, or makes a whole, that are no tokens"],
    );
    check_refused(
        |t| _ = t["model"]["vocab"].as_object_mut().unwrap().remove("a"),
        expect!["./tokenizer.json: no token stands for byte 0x61"],
    );
}

/// Bytes, characters, pieces by their scores, and marks, as Llama 2 has them; merges as the conversion of its scores
/// makes them. Runs of spaces share a score, so that their merges alternate.
fn spm() -> Value {
    let marks = ["<unk>", "<s>", "</s>"].map(String::from);
    let bytes = (0..256).map(|b| format!("<0x{b:02X}>"));
    let made =
        ["▁t", "he", "▁the", "in", "▁in", "the", "▁a", "an", "▁an", "in▁", "▁▁", "▁▁▁", "▁▁▁▁"].map(String::from);
    let letters = "▁theinasr.é".chars().map(String::from);
    let tokens: Vec<String> = marks.into_iter().chain(bytes).chain(made.clone()).chain(letters).collect();
    let is_piece = |text: &str| tokens[259..].iter().any(|t| t == text);
    let mut halves = Vec::new();
    for (rank, whole) in made.iter().enumerate() {
        for (cut, _) in
            whole.char_indices().skip(1).filter(|(at, _)| is_piece(&whole[..*at]) && is_piece(&whole[*at..]))
        {
            let lengths = (whole[..cut].chars().count(), whole[cut..].chars().count());
            halves.push((rank.min(10), std::cmp::Reverse(lengths), format!("{} {}", &whole[..cut], &whole[cut..])));
        }
    }
    halves.sort_by_key(|half| (half.0, half.1));
    let merges: Vec<_> = halves.into_iter().map(|(_, _, merge)| merge).collect();
    let n = tokens.len();
    let vocab: serde_json::Map<String, Value> = tokens.into_iter().zip((0..n).map(Value::from)).collect();
    let mark = |(id, text): (usize, &str)| {
        json!({"id": id, "content": text, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    };
    let added: Vec<Value> = ["<unk>", "<s>", "</s>"].into_iter().enumerate().map(mark).collect();
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges},
    })
}

/// The number of ids of [`spm`].
const N_SPM: usize = 3 + 256 + 13 + 11;

#[test]
fn sentence_pieces_have_scores_that_make_the_same_ids() {
    let model = Model::new(&spm(), N_SPM);
    model.write("tokenizer_config.json", &json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}));
    let keys = model.keys();
    assert_eq!(keys.str("tokenizer.ggml.model").unwrap_or_else(|e| panic!("{e}")), "llama");
    let types = keys.i32s("tokenizer.ggml.token_type").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(types[..4], [2, 3, 3, 6]);
    assert_eq!(types[258..260], [6, 1]);
    let scores = keys.f32s("tokenizer.ggml.scores").unwrap_or_else(|e| panic!("{e}"));
    assert!(scores[259] > scores[260] && scores[270] == scores[271]);
    assert!(keys.bool("tokenizer.ggml.add_space_prefix").unwrap_or_else(|e| panic!("{e}")));
    assert!(keys.bool("tokenizer.ggml.add_bos_token").unwrap_or_else(|e| panic!("{e}")));
    check_same_ids("llama", &model);
}

#[test]
fn sentence_pieces_that_scores_cannot_make_are_refused() {
    let check = |change: &dyn Fn(&mut Value), expected: Expect| {
        let mut tokenizer = spm();
        change(&mut tokenizer);
        let model = Model::new(&tokenizer, N_SPM);
        let error = model.open().expect_err("an error").to_string();
        expected.assert_eq(&error.replace(&model.folder.path().display().to_string(), "."));
    };
    check(
        &|t| t["model"]["merges"].as_array_mut().unwrap().swap(2, 3),
        expect!["./tokenizer.json: merge 2 is ▁ the; allowed: ▁t he, by the order of what is made"],
    );
    check(
        &|t| _ = t["model"]["merges"].as_array_mut().unwrap().pop(),
        expect!["./tokenizer.json: merge 17 is absent; allowed: ▁ ▁, by the order of what is made"],
    );
    check(
        &|t| t["normalizer"] = json!({"type": "NFKC"}),
        expect![[
            r#"./tokenizer.json: `normalizer` and `pre_tokenizer` is {"type":"NFKC"} and null; allowed: spaces replaced by U+2581, with one in front of each text or none, and no other cut"#
        ]],
    );
    check(
        &|t| t["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁"}),
        expect![[
            r#"./tokenizer.json: `normalizer` and `pre_tokenizer` is {"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁…; allowed: spaces replaced by U+2581, with one in front of each text or none, and no other cut"#
        ]],
    );
}

#[test]
#[ignore = "needs published files `*.json` of tokenizers in the folder $TOKENIZERS"]
fn ids_of_published_tokenizers_are_those_of_hugging_face() {
    let folder = std::env::var_os("TOKENIZERS").expect("TOKENIZERS is set");
    let files = fs::read_dir(Path::new(&folder)).unwrap_or_else(|e| panic!("{e}")).flatten();
    for path in files.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")) {
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{e}"));
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}"));
        let model = Model::new(&json, 1 << 18);
        check_same_ids(&path.display().to_string(), &model);
    }
}
