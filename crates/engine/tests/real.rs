//! Real weights: a whole answer, through file, vocabulary, forward passes and sampling, reads as recorded.
//!
//! `cargo xtask fetch smollm2`, then `cargo test --package engine --test real -- --ignored`.

use std::{fs, ops::ControlFlow, path::PathBuf};

use engine::{AnswerOptions, Engine, Options, Sampler, SamplerOptions, answer};
use models::Event;
use serde_json::Value;
use tokenizer::Special;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The likeliest `n` tokens after `prompt`, as text.
fn greedy(engine: &Engine, prompt: &str, n: usize) -> String {
    let ids = engine.tokenizer().expect("a vocabulary").encode(prompt, Special::Parse);
    let mut session = engine.session(ids.len() + n).expect("room for a session");
    session.sync(&ids).expect("a prompt that fits");
    let mut text = String::new();
    let mut on = |event| {
        match event {
            Event::Text(more) | Event::Thinking(more) => text += &more,
        }
        ControlFlow::Continue(())
    };
    let options = AnswerOptions { n_max: n, ..AnswerOptions::default() };
    let mut sampler = Sampler::new(SamplerOptions::greedy());
    answer(engine, &mut session, &mut sampler, &options, &mut on).expect("an answer");
    text
}

#[test]
#[ignore = "needs a model: cargo xtask fetch smollm2"]
fn greedy_answers_read_as_recorded() {
    let recorded = fs::read_to_string(root().join("testdata/real/greedy.json")).expect("the recorded answers");
    let recorded: Vec<Value> = serde_json::from_str(&recorded).expect("a list");
    for case in &recorded {
        let word = |key: &str| case[key].as_str().expect("a string");
        let engine = Engine::open(&Options::new(root().join("models").join(word("file")))).expect("a model");
        let n = case["n"].as_u64().expect("a number") as usize;
        let found = greedy(&engine, word("prompt"), n);
        assert_eq!(found.trim_end_matches('\n'), word("greedy"), "after {:?}", word("prompt"));
    }
}
