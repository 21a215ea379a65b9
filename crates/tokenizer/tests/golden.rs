//! The ids are those of Hugging Face's `tokenizers`, for every vocabulary and string we hold.

mod common;

use common::{NAMES, json, strings, tokenizer};
use serde_json::Value;
use tokenizer::{Special, TokenId, Tokenizer};

/// FNV-1a of the ids' bytes, as the goldens hold them.
fn hash(ids: &[TokenId]) -> String {
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
    let hash = bytes.fold(0x811C_9DC5_u32, |h, b| {
        (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
    });
    format!("{hash:08x}")
}

fn check(name: &str, t: &Tokenizer, texts: &[&str], special: Special, expected: &Value) {
    let expected = strings(expected);
    assert_eq!(texts.len(), expected.len());
    let different = |(text, golden): &(&&str, &str)| hash(&t.encode(text, special)) != *golden;
    let wrong: Vec<_> = texts.iter().zip(expected).filter(different).collect();
    assert!(
        wrong.is_empty(),
        "{name}, {special:?}: {} of {} differ, first {:?}",
        wrong.len(),
        texts.len(),
        wrong.iter().take(5).map(|(t, _)| t).collect::<Vec<_>>(),
    );
}

#[test]
fn ids_are_those_of_hugging_face() {
    let (texts, goldens) = (json("strings.json.bz2"), json("goldens.json.bz2"));
    let (plain, special) = (strings(&texts["plain"]), strings(&texts["special"]));
    let all = [&plain[..], &special[..]].concat();
    for name in NAMES {
        let (t, golden) = (tokenizer(name), &goldens[name]);
        check(name, &t, &all, Special::Plain, &golden["plain"]);
        check(name, &t, &special, Special::Parse, &golden["parse"]);
    }
}

#[test]
fn ids_of_the_shared_vectors_are_equal_one_by_one() {
    let vectors = json("token_vectors.json");
    let udhr: Vec<_> = vectors["udhr"].as_object().unwrap().iter().collect();
    eprintln!(
        "{:?}",
        vectors["tokenizers"]["qwen3"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(k, v)| (k, v.to_string().chars().take(150).collect::<String>()))
            .collect::<Vec<_>>()
    );
    eprintln!(
        "{:?}",
        udhr.iter()
            .map(|(k, v)| (k, v.to_string().chars().take(50).collect::<String>()))
            .collect::<Vec<_>>()
    );
    panic!();
}
