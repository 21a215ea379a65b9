//! The model inside the program: it answers without a file, and its logits are the training code's.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use common::{run, scratch, testdata};

/// Words of the vocabulary.
const N_VOCAB: usize = 3072;

/// The file that the program was built with.
fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../nano/nano.gguf")
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn a_story_is_told_before_anything_is_downloaded() {
    let ran = run(&["-p", "Tell me a story about a red boat.", "--temp", "0"]);
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    let story = ran.out_str().trim();
    assert!(story.len() > 200 && story.contains("boat"), "{story}");
    assert!(story.ends_with(['.', '!', '?', '"']), "{story}");
    assert!(ran.err.starts_with("Nano, the small model in this program, is used; take a larger one with -m FILE\n"));
    assert!(!ran.err.contains("may be unfinished"), "{}", ran.err);
}

#[test]
fn the_first_token_is_there_within_a_second() {
    let fastest = (0..3).map(|_| {
        let start = Instant::now();
        assert_eq!(run(&["-p", "Hi", "-n", "1"]).status, Some(0));
        start.elapsed()
    });
    assert!(fastest.min() < Some(Duration::from_secs(1)));
}

#[test]
fn every_command_that_takes_a_model_takes_this_one() {
    let text = scratch().join("nano.txt");
    fs::write(&text, "Once upon a time there was a little girl. ".repeat(80)).unwrap();
    let text = text.to_str().unwrap();
    for args in
        [&["inspect"][..], &["tokenize", "a boat"], &["perplexity", "-f", text], &["bench", "-p", "8", "-n", "2"]]
    {
        let ran = run(args);
        assert_eq!(ran.status, Some(0), "{args:?}: {}", ran.err);
        assert!(!ran.out.is_empty(), "{args:?}");
    }
}

/// A model named without `-m` is not compared with one that nobody has asked for.
#[test]
fn a_model_that_is_named_is_the_only_one() {
    let text = scratch().join("nano-named.txt");
    fs::write(&text, "Once upon a time there was a little girl. ".repeat(80)).unwrap();
    let model = testdata("llama/micro.gguf");
    let ran = run(&["perplexity", "-f", text.to_str().unwrap(), model.to_str().unwrap()]);
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    let is_row = |line: &str| line.contains(" ±");
    let rows = Vec::from_iter(ran.out_str().lines().filter(|line| is_row(line)));
    assert!(matches!(*rows, [row] if row.starts_with("micro ")), "{rows:?}");
    assert!(!ran.err.contains("Nano"), "{}", ran.err);
}

#[test]
fn what_has_no_file_is_not_streamed() {
    let ran = run(&["--ssd-streaming", "-p", "Hi"]);
    assert_eq!(ran.status, Some(2));
    let told = "error: nano: it is a part of the program, so there is no file to read its experts from\n\
        help: leave out what streams experts, or name a model's file\n";
    assert!(ran.err.ends_with(told), "{}", ran.err);
}

/// Logits of the golden tokens, one row in sixteen.
fn logits(model: &Path, name: &str) -> Vec<f32> {
    let (tokens, out) = (testdata("nano/nano.tokens"), scratch().join(name));
    let [model, tokens, path] = [model, &tokens, &out].map(|path| path.to_str().unwrap());
    let ran = run(&["logits", "-m", model, "--tokens", tokens, "--kv-type", "f32", "-o", path]);
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    let all = floats(&out);
    let rows: Vec<_> = all.chunks_exact(N_VOCAB).collect();
    rows.iter().skip((rows.len() - 1) % 16).step_by(16).copied().flatten().copied().collect()
}

fn golden() -> Vec<f32> {
    floats(&testdata("nano/nano.logits.f32"))
}

/// The training code computes in float32 with what the blocks of the file stand for.
#[test]
fn unpacked_its_logits_are_the_training_codes() {
    let out = scratch().join("nano-f32.gguf");
    let (model, unpacked) = (shipped(), out.to_str().unwrap());
    let what = ["-r", "copy", "--tensor", "*=F32", "--tensor", "*tid2eid*=copy", "--overwrite", "-o", unpacked];
    let ran = run(&[&["quantize", model.to_str().unwrap()], &what[..]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    let (found, golden) = (logits(&out, "nano-f32.logits"), golden());
    assert_eq!(found.len(), golden.len());
    let worst = found.iter().zip(&golden).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-3, "{worst}");
}

/// As shipped, inputs of packed weights are rounded to 8 bits.
#[test]
fn packed_its_answers_are_hardly_others() {
    let (found, golden) = (logits(&shipped(), "nano.logits"), golden());
    let rows = found.chunks_exact(N_VOCAB).zip(golden.chunks_exact(N_VOCAB));
    let distances: Vec<f64> = rows.map(|(found, golden)| divergence(golden, found)).collect();
    let mean = distances.iter().sum::<f64>() / distances.len() as f64;
    assert!(mean < 5e-3, "mean divergence {mean}");
}

/// Kullback and Leibler's, of the probabilities of logits `q` from those of `p`.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p, q) = (log_softmax(p), log_softmax(q));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let most = row.iter().copied().fold(f32::MIN, f32::max) as f64;
    let total = row.iter().map(|v| (*v as f64 - most).exp()).sum::<f64>().ln() + most;
    row.iter().map(|v| *v as f64 - total).collect()
}
