//! Vocabularies that come from the keys of a model file.

use std::path::{Path, PathBuf};

use gguf::{Gguf, Metadata, Value};
use tokenizer::{Special, Tokenizer, Vocab};

use crate::data::{self, NAMES};

/// The keys that a converter would write for `vocab`.
fn keys(vocab: &Vocab, model: &str) -> Vec<(String, Value)> {
    let mut keys: Vec<(&str, Value)> = vec![
        ("model", model.into()),
        ("tokens", vocab.tokens.clone().into()),
        ("token_type", vocab.types.clone().into()),
    ];
    keys.extend(vocab.pre.clone().map(|pre| ("pre", pre.into())));
    keys.extend(vocab.add_bos.map(|add| ("add_bos_token", add.into())));
    match model {
        "gpt2" => keys.push(("merges", vocab.merges.clone().into())),
        _ => keys.push(("scores", vocab.scores.clone().into())),
    }
    let special = &vocab.special;
    for (key, id) in [
        ("bos_token_id", special.bos),
        ("eos_token_id", special.eos),
        ("unknown_token_id", special.unknown),
        ("padding_token_id", special.padding),
    ] {
        keys.extend(id.map(|id| (key, id.into())));
    }
    keys.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect()
}

#[test]
fn what_converters_write_comes_back() {
    for name in NAMES {
        let vocab = data::vocab(name);
        let model = if name == "tinyllama" { "llama" } else { "gpt2" };
        let read = Vocab::from_gguf(&Metadata::new("m.gguf", keys(&vocab, model))).unwrap();
        let [read, vocab] = [read, vocab].map(|v| format!("{v:?}"));
        assert!(read == vocab, "{name}");
    }
}

#[test]
fn each_key_that_is_needed_is_named_when_it_is_missing_or_of_another_type() {
    let vocab = data::vocab("smollm2");
    for key in ["model", "tokens", "token_type", "merges"].map(|k| format!("tokenizer.ggml.{k}")) {
        let mut keys = keys(&vocab, "gpt2");
        let place = keys.iter().position(|(k, _)| *k == key).unwrap();
        keys[place].1 = Value::F64(0.5);
        let message = Tokenizer::from_gguf(&Metadata::new("m.gguf", keys.clone())).unwrap_err().to_string();
        assert!(message.starts_with(&format!("m.gguf: key `{key}` is of type f64; expected ")), "{message}");
        keys.remove(place);
        let error = Tokenizer::from_gguf(&Metadata::new("m.gguf", keys)).unwrap_err();
        assert_eq!(error.to_string(), format!("m.gguf: key `{key}` is missing"));
    }
}

#[test]
fn ids_below_zero_are_refused() {
    let mut keys = keys(&data::vocab("smollm2"), "gpt2");
    keys.push(("tokenizer.ggml.eot_token_id".into(), Value::I32(-1)));
    let error = Tokenizer::from_gguf(&Metadata::new("m.gguf", keys)).unwrap_err();
    let message = "m.gguf: key `tokenizer.ggml.eot_token_id` has the value -1; allowed: 0 to 4294967295";
    assert_eq!(error.to_string(), message);
}

/// Every model under `folder`.
fn models(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let found = entries.flat_map(|path| if path.is_dir() { models(&path) } else { vec![path] });
    found.filter(|path| path.extension().is_some_and(|e| e == "gguf")).collect()
}

fn text_survives(path: &Path) {
    let model = Gguf::open(path).unwrap_or_else(|e| panic!("{e}"));
    let t = Tokenizer::from_gguf(model.metadata()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    for text in ["the end", "größe, 東京!\n\n  fn main() { }", "<|im_end|></s> 12345 🙂"] {
        let ids = t.encode(text, Special::Plain);
        assert_eq!(t.decode(&ids).trim_start(), text, "{}", path.display());
    }
}

#[test]
fn text_survives_the_vocabularies_of_all_golden_models() {
    let models = models(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata"));
    if models.is_empty() {
        eprintln!("skipped: no models under testdata");
    }
    models.iter().for_each(|path| text_survives(path));
}

#[test]
#[ignore = "needs published models in the folder $MODELS"]
fn text_survives_the_vocabularies_of_published_models() {
    let folder = std::env::var_os("MODELS").expect("MODELS is set");
    let models = models(Path::new(&folder));
    assert!(!models.is_empty(), "no models in {folder:?}");
    models.iter().for_each(|path| text_survives(path));
}
