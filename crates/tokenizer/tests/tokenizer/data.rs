//! Reads `testdata/tokenizer`; its `make.py` says what is in there, byte by byte.

use std::{fs, io::Read, path::PathBuf};

use serde_json::Value;
use tokenizer::{Model, SpecialIds, TokenId, Tokenizer, Vocab};

/// The vocabularies.
pub(crate) const NAMES: [&str; 6] = ["deepseek-v4", "qwen3", "qwen3.5", "gpt-oss", "smollm2", "tinyllama"];

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tokenizer").join(name)
}

fn unpacked(name: &str) -> String {
    let packed = fs::File::open(path(name)).unwrap();
    let mut text = String::new();
    bzip2::read::BzDecoder::new(packed).read_to_string(&mut text).unwrap();
    text
}

/// A JSON file, packed or not.
pub(crate) fn json(name: &str) -> Value {
    let text = match name.ends_with(".bz2") {
        true => unpacked(name),
        false => fs::read_to_string(path(name)).unwrap(),
    };
    serde_json::from_str(&text).unwrap()
}

/// A list of strings in JSON.
pub(crate) fn strings(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|s| s.as_str().unwrap()).collect()
}

/// A vocabulary as its GGUF has it.
pub(crate) fn vocab(name: &str) -> Vocab {
    let text = unpacked(&format!("{name}.vocab.bz2"));
    let mut lines = text.split('\n');
    let head: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    let number = |key: &str| head[key].as_u64().unwrap() as usize;

    let tokens = lines.by_ref().take(number("n_vocab"));
    let mut tokens: Vec<String> = tokens.map(String::from).collect();
    let mut types = Vec::new();
    for run in head["types"].as_array().unwrap() {
        let kind = run[0].as_i64().unwrap() as i32;
        types.extend(std::iter::repeat_n(kind, run[1].as_u64().unwrap() as usize));
    }
    let mut scores = Vec::new();
    for run in head["scores"].as_array().unwrap() {
        let [first, step, count] = [0, 1, 2].map(|i| run[i].as_f64().unwrap());
        scores.extend((0..count as usize).map(|i| (first + step * i as f64) as f32));
    }
    let merges = merges(lines, &tokens);
    for id in tokens.len()..number("n_padded") {
        tokens.push(format!("[PAD{id}]"));
        types.push(5);
    }
    let special = |role: &str| head["special"][role].as_u64().map(|id| id as TokenId);
    Vocab {
        model: Model::from_name(head["model"].as_str().unwrap()).unwrap(),
        pre: head["pre"].as_str().map(String::from),
        tokens,
        types,
        scores,
        merges,
        special: SpecialIds {
            bos: special("bos"),
            eos: special("eos"),
            unknown: special("unknown"),
            padding: special("padding"),
            ..Default::default()
        },
        add_bos: head["add_bos"].as_bool(),
        add_space_prefix: None,
        chat_template: None,
    }
}

/// The lines that say, for each token in turn, how merges make it.
fn merges<'a>(lines: impl Iterator<Item = &'a str>, tokens: &[String]) -> Vec<String> {
    let mut merges = Vec::new();
    let mut made = 0;
    for line in lines {
        let cuts = match line.strip_prefix('@').and_then(|l| l.split_once(' ')) {
            Some((id, cuts)) => {
                made = id.parse().unwrap();
                cuts
            }
            None => line,
        };
        let token: &str = &tokens[made];
        for cut in cuts.chars() {
            let (at, _) = token.char_indices().nth(cut as usize - 48).unwrap();
            merges.push(format!("{} {}", &token[..at], &token[at..]));
        }
        made += 1;
    }
    merges
}

/// A vocabulary, built.
pub(crate) fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_vocab(vocab(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}
