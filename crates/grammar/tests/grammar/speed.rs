//! What a grammar costs, in the vocabulary of 129,280 tokens. Figures: `cargo test -p grammar speed -- --nocapture`.

use std::time::Instant;

use grammar::{Source, Vocabulary};

use crate::DEEPSEEK;

const TOOL: &str = r#"{"type": "object", "properties": {
    "path": {"type": "string"}, "line": {"type": "integer", "minimum": 1}, "mode": {"enum": ["read", "write", "append"]},
    "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z-]+$"}}, "at": {"type": "string", "format": "date-time"},
    "more": {"type": "object", "additionalProperties": {"type": ["string", "number", "null"]}}},
    "required": ["path", "line", "mode", "tags", "at", "more"], "additionalProperties": false}"#;
const CALL: &str = r#"{"path": "crates/engine/src/answer.rs – the loop", "line": 118, "mode": "append", "tags": ["a-b", "long-tag"],
  "at": "2026-11-29T00:30:00Z", "more": {"a key": "Some text, as long as texts are: it goes on for a while.", "n": -1.5e3, "x": null}}"#;
const ANY: &str =
    r#"{"a": [1, {"b": "text and more text"}, [[], null, true]], "c": {"d": {"e": "\"quoted\" \\ é 日本"}}}"#;

/// Milliseconds of each mask along `text`, of `accept`, of compiling and of starting.
fn measure(name: &str, source: Source<'_>, text: &str) -> f64 {
    let start = Instant::now();
    let grammar = DEEPSEEK.compile(source);
    let compile = start.elapsed();
    let ids = DEEPSEEK.tokenizer.encode(text, tokenizer::Special::Plain);
    let mut best = vec![f64::INFINITY; ids.len()];
    let (mut begin, mut accept) = (f64::INFINITY, f64::INFINITY);
    let mut first = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let mut constraint = grammar.start();
        begin = begin.min(start.elapsed().as_secs_f64());
        let mut accepts = 0.0;
        for (&id, best) in ids.iter().zip(&mut best) {
            let start = Instant::now();
            let mask = constraint.mask().unwrap();
            let seconds = start.elapsed().as_secs_f64();
            *best = seconds.min(*best);
            assert!(mask.contains(id), "{:?} in {text}", DEEPSEEK.tokenizer.text_of(id));
            let start = Instant::now();
            constraint.accept(id).unwrap();
            accepts += start.elapsed().as_secs_f64();
            if first.len() < ids.len() {
                first.push(seconds);
            }
        }
        accept = accept.min(accepts / ids.len() as f64);
    }
    let mean = best.iter().sum::<f64>() / ids.len() as f64 * 1e3;
    let max = best.iter().fold(0.0, |a: f64, &b| a.max(b)) * 1e3;
    println!(
        "{name}: compiled in {:.1} ms, started in {:.3} ms; a mask {mean:.3} ms, at most {max:.3} ms; accept {:.4} ms; {} tokens",
        compile.as_secs_f64() * 1e3,
        begin * 1e3,
        accept * 1e3,
        ids.len(),
    );
    mean
}

#[test]
fn a_mask_takes_less_than_the_choice_of_a_token() {
    let start = Instant::now();
    Vocabulary::new(&DEEPSEEK.tokenizer, DEEPSEEK.tokenizer.eog()).unwrap();
    println!("a vocabulary: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    for (name, source, text) in [
        ("a tool's arguments", Source::JsonSchema(TOOL), CALL),
        ("any JSON object", Source::JsonObject, ANY),
        ("a regular expression", Source::Regex("([A-Z][a-z]+ )*[a-z]+\\."), "The Quick Brown Fox jumps."),
        ("free text", Source::Regex("(?s:.*)"), "Anything at all, and some more of it."),
    ] {
        // Others may be using the processor: ten times of what it takes.
        let ms = measure(name, source, text);
        assert!(ms < 10.0, "{name}: {ms} ms");
    }
}
