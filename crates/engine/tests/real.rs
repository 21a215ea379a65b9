//! Real weights: whole answers, through file, vocabulary, forward passes and sampling, read as recorded.
//!
//! Activations are rounded to 8 bits where weights are quantised, so the last bits of a sum decide about codes, and codes
//! about logits: llama.cpp differs from itself by 1.2 in some logit when it takes the same text one token at a time. With
//! the same weights as singles nothing is rounded, and every token has to be the recorded one.
//!
//! `cargo xtask fetch smollm2`, then `cargo test --package engine --test real -- --ignored`.

mod common;

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use common::copy_with;
use engine::{AnswerOptions, Engine, Options, Sampler, SamplerOptions, answer};
use gguf::Element;
use models::Event;
use quant::Format;
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
            call => panic!("{call:?} of a model without tools"),
        }
        ControlFlow::Continue(())
    };
    let options = AnswerOptions { n_max: n, ..AnswerOptions::default() };
    let mut sampler = Sampler::new(SamplerOptions::greedy());
    answer(engine, &mut session, &mut sampler, &options, &mut on).expect("an answer");
    text
}

/// Logits this close may change places: activations are rounded to 8 bits, and sums are added in another order.
const TIE: f32 = 0.25;

/// How far the logit of each of `ids[n_prompt..]` lies above all others; negative where another one is the largest.
fn leads(engine: &Engine, ids: &[u32], n_prompt: usize) -> Vec<f32> {
    let mut session = engine.session(ids.len()).expect("room for a session");
    let mut leads = Vec::new();
    let mut next = ids[1..].iter();
    let mut each = |row: &[f32]| {
        if let Some(&id) = next.next() {
            let others = (0..).zip(row).filter(|(other, _)| *other != id).map(|(_, logit)| *logit);
            leads.push(row[id as usize] - others.fold(f32::NEG_INFINITY, f32::max));
        }
        ControlFlow::Continue(())
    };
    session.score(ids, ids.len(), &mut each).expect("logits");
    leads.split_off(n_prompt - 1)
}

#[test]
#[ignore = "needs a model: cargo xtask fetch smollm2"]
fn greedy_answers_read_as_recorded_up_to_ties() {
    let recorded = fs::read_to_string(root().join("testdata/real/greedy.json")).expect("the recorded answers");
    let recorded: Vec<Value> = serde_json::from_str(&recorded).expect("a list");
    for case in &recorded {
        let word = |key: &str| case[key].as_str().expect("a string");
        let engine = Engine::open(&Options::new(root().join("models").join(word("file")))).expect("a model");
        let tokenizer = engine.tokenizer().expect("a vocabulary");
        let prompt = tokenizer.encode(word("prompt"), Special::Parse);
        let answer = tokenizer.encode(word("greedy"), Special::Plain);
        let leads = leads(&engine, &[prompt.clone(), answer.clone()].concat(), prompt.len());
        let worst = leads.iter().copied().fold(f32::INFINITY, f32::min);
        assert!(worst > -TIE, "after {:?} a recorded token is {worst} behind the likeliest", word("prompt"));

        let n_certain = leads.iter().take_while(|lead| **lead > TIE).count();
        assert!(n_certain >= 5, "after {:?} only {n_certain} tokens are certain", word("prompt"));
        let certain = tokenizer.decode(&answer[..n_certain]);
        let n = case["n"].as_u64().expect("a number") as usize;
        let found = greedy(&engine, word("prompt"), n);
        assert!(found.starts_with(&certain), "{found:?} does not begin with {certain:?}");
        eprintln!("{n_certain} of {} tokens are certain, the least lead is {worst}", answer.len());
    }
}

/// Ten prompts and 64 tokens each. Only tokens whose logits are closer than this may change places.
const TIE_EXACT: f32 = 1e-2;

#[test]
#[ignore = "needs a model: cargo xtask fetch smollm2"]
fn weights_as_singles_answer_as_recorded() {
    let recorded = fs::read_to_string(root().join("testdata/real/greedy_f32.json")).expect("the recorded answers");
    let recorded: Vec<Value> = serde_json::from_str(&recorded).expect("a list");
    let singles = std::env::temp_dir().join(format!("singles-{}.gguf", std::process::id()));
    write_singles(&root().join("models/SmolLM2-135M-Instruct.Q4_1.gguf"), &singles);
    let engine = Engine::open(&Options::new(&singles)).expect("a model");
    fs::remove_file(&singles).expect("the file just written");
    for case in &recorded {
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("a list of ids");
        let n_prompt = case["n_prompt"].as_u64().expect("a number") as usize;
        let prompt =
            engine.tokenizer().expect("a vocabulary").encode(case["prompt"].as_str().expect("text"), Special::Parse);
        assert_eq!(prompt, ids[..n_prompt]);
        let worst = leads(&engine, &ids, n_prompt).into_iter().fold(f32::INFINITY, f32::min);
        assert!(worst > -TIE_EXACT, "after {} a recorded token is {worst} behind the likeliest", case["prompt"]);
    }
}

/// Writes a model with all its weights as f32.
fn write_singles(from: &Path, to: &Path) {
    copy_with(from, to, |t, bytes| {
        let Element::Packed(format) = t.element else { panic!("{} holds no weights", t.name) };
        let mut values = vec![0.0; t.n_elements()];
        format.decode(&bytes, &mut values);
        (Element::Packed(Format::F32), values.iter().flat_map(|v| v.to_le_bytes()).collect())
    });
}
