//! The ids are those of Hugging Face's `tokenizers`, for every vocabulary and string we hold.

use crate::data::{NAMES, json, strings, tokenizer};
use serde_json::Value;
use tokenizer::{Special, TokenId, Tokenizer};

/// FNV-1a of the ids' bytes, as the goldens hold them.
fn hash(ids: &[TokenId]) -> String {
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
    let hash = bytes.fold(0x811C_9DC5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
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
    let texts = strings(&vectors["texts"]);
    for (name, golden) in vectors["tokenizers"].as_object().unwrap() {
        let t = tokenizer(name);
        let equal = |text: &str, ids: &Value| {
            let ids: Vec<TokenId> = serde_json::from_value(ids.clone()).unwrap();
            assert_eq!(t.encode(text, Special::Parse), ids, "{name}: {text:?}");
            assert_eq!(t.encode_parts(&[(text, Special::Parse)]), ids);
        };
        for (text, ids) in texts.iter().zip(golden["ids"].as_array().unwrap()) {
            equal(text, ids);
        }
        for (language, text) in vectors["udhr"].as_object().unwrap() {
            equal(text.as_str().unwrap(), &golden["udhr"][language]);
        }
        for case in golden["special"].as_array().unwrap() {
            equal(case["text"].as_str().unwrap(), &case["ids"]);
        }
    }
}

#[test]
fn prompts_of_the_specification_have_its_ids() {
    let check = |name: &str, text: &str, ids: &[TokenId]| {
        assert_eq!(tokenizer(name).encode(text, Special::Parse), ids, "{text}");
    };
    check(
        "deepseek-v4",
        "<｜begin▁of▁sentence｜>You are helpful<｜User｜>What is 2+2?<｜Assistant｜><think>",
        &[0, 3476, 477, 11502, 128803, 3085, 344, 223, 20, 13, 20, 33, 128804, 128821],
    );
    check("deepseek-v4", "\n\n<｜DSML｜tool_calls>\n", &[271, 30, 128825, 72461, 4941, 12548, 1018]);
    let smollm2 = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by \
                   Hugging Face<|im_end|>\n";
    let begins = [
        1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2,
        198,
    ];
    check("smollm2", smollm2, &begins);
}
