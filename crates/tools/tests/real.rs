//! The perplexity of real weights is llama.cpp's.
//!
//! `cargo xtask fetch smollm2`, then `cargo test --package tools --test real -- --ignored`.

use std::{
    fs::{self, File},
    ops::ControlFlow,
    path::Path,
};

use engine::{Engine, Options};
use serde_json::Value;
use tools::perplexity::{Figures, Files, Passages, score};

/// By so large a part figures may differ: activations are rounded to 8 bits where weights are quantised.
const TOLERANCE: f64 = 0.005;

#[test]
#[ignore = "needs a model: cargo xtask fetch smollm2"]
fn perplexity_is_as_recorded() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let real = root.join("testdata/real");
    let recorded = fs::read_to_string(real.join("perplexity.json")).expect("the recorded figures");
    let recorded: Vec<Value> = serde_json::from_str(&recorded).expect("a list");
    for case in &recorded {
        let word = |key: &str| case[key].as_str().expect("a string");
        let number = |key: &str| case[key].as_u64().expect("a number") as usize;
        let engine = Engine::open(&Options::new(root.join("models").join(word("file")))).expect("a model");
        let text = fs::read_to_string(real.join(word("text"))).expect("a text");
        let tokenizer = engine.tokenizer().expect("a vocabulary");
        let passages = Passages::new(tokenizer, &text, number("n_ctx"), Some(number("n_chunks"))).expect("chunks");
        let mut session = engine.session(passages.n_ctx()).expect("room for a session");
        let mut positions = Vec::new();
        let mut keep = |position| {
            positions.push(position);
            ControlFlow::Continue(())
        };
        score(&mut session, &passages, Files::<File> { base: None, save: None }, &mut keep).expect("figures");
        let found = Figures::of(&positions).expect("positions").nll.exp();
        let expected = case["ppl"].as_f64().expect("a number");
        assert!((found.value / expected - 1.0).abs() < TOLERANCE, "{} for {expected}", found.value);
        eprintln!("{}: {:.4} for {expected}", word("file"), found.value);
    }
}
