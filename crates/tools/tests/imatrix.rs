//! What is collected while small models run, against what follows from their files alone.

use std::path::PathBuf;

use engine::{Budget, Engine, Experts, Options};
use gguf::{Element, Gguf};
use tokenizer::TokenId;
use tools::imatrix::{Collect, Collector, Imatrix, Rows};

const LLAMA: &str = "llama/micro.gguf";
const MIXTURE: &str = "deepseek_v4/micro-flash.gguf";
const WEIGHTED: Collect = Collect { down: Rows::Weighted, output: false };

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

/// Two chunks of a text.
fn chunks() -> [Vec<TokenId>; 2] {
    [0, 1].map(|c| (0..50 + 13 * c).map(|i| (i * 37 + 11 + c) % 250).collect())
}

fn n_tokens() -> u64 {
    chunks().concat().len() as u64
}

fn options(n_batch: usize, threads: usize) -> Options {
    Options { n_batch, threads: Some(threads), ..Options::new("") }
}

fn collect(name: &str, how: Collect, options: Options) -> Imatrix {
    collect_from(&chunks(), name, how, options)
}

fn collect_from(chunks: &[Vec<TokenId>], name: &str, how: Collect, options: Options) -> Imatrix {
    let collector = Collector::new(how);
    let options = Options { model: file(name).into(), ..options };
    let engine = Engine::open_through(&options, |dev| collector.watch(dev)).unwrap_or_else(|e| panic!("{e}"));
    let mut session = engine.session(64).unwrap_or_else(|e| panic!("{e}"));
    for chunk in chunks {
        collector.run(&mut session, chunk).unwrap_or_else(|e| panic!("{e}"));
    }
    collector.imatrix(chunks.len() as u32, 64)
}

fn values(gguf: &Gguf, name: &str) -> Vec<f32> {
    let info = gguf.tensor(name).unwrap_or_else(|| panic!("{name} is missing"));
    let Element::Packed(format) = info.element else { panic!("{name} is no weights") };
    let mut values = vec![0.0; info.n_elements()];
    format.decode(gguf.bytes(info).as_ref(), &mut values);
    values
}

/// What the first layer's attention is multiplied with follows from the embedding and a norm.
#[test]
fn sums_are_those_of_a_plain_loop_over_the_text() {
    let gguf = Gguf::open(&file(LLAMA)).unwrap_or_else(|e| panic!("{e}"));
    let [embd, norm] = ["token_embd.weight", "blk.0.attn_norm.weight"].map(|name| values(&gguf, name));
    let eps = gguf.metadata().f32("llama.attention.layer_norm_rms_epsilon").unwrap_or_else(|e| panic!("{e}"));
    let n_embd = norm.len();
    let mut expected = vec![0f64; n_embd];
    for id in chunks().concat() {
        let x = &embd[id as usize * n_embd..][..n_embd];
        let square = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n_embd as f64;
        let scale = 1.0 / (square + f64::from(eps)).sqrt();
        let row = x.iter().zip(&norm).map(|(&x, &w)| (f64::from(x) * f64::from(w) * scale).powi(2));
        expected.iter_mut().zip(row).for_each(|(sum, square)| *sum += square);
    }
    let found = collect(LLAMA, WEIGHTED, options(64, 2));
    for name in ["attn_q", "attn_k", "attn_v"] {
        let entry = &found.entries[&format!("blk.0.{name}.weight")];
        assert_eq!(entry.counts(), [n_tokens()]);
        for (sum, expected) in entry.sums().iter().zip(&expected) {
            assert!((f64::from(*sum) - expected).abs() <= 1e-5 * expected, "{name}: {sum}, not {expected}");
        }
    }
    assert!(found.entries.keys().all(|name| name.starts_with("blk.")));
}

/// The first layer of this mixture chooses by tokens alone, from a table in the file.
#[test]
fn experts_are_counted_as_they_are_chosen() {
    let gguf = Gguf::open(&file(MIXTURE)).unwrap_or_else(|e| panic!("{e}"));
    let number = |key: &str| gguf.metadata().u32(key).unwrap_or_else(|e| panic!("{e}")) as usize;
    let found = collect(MIXTURE, WEIGHTED, options(64, 2));
    let table = gguf.tensor("blk.0.ffn_gate_tid2eid.weight").unwrap_or_else(|| panic!("there is a table"));
    let bytes = gguf.bytes(table);
    let table: Vec<i32> = bytes.as_ref().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
    let n_used = number("deepseek4.expert_used_count");
    let gate = &found.entries["blk.0.ffn_gate_exps.weight"];
    let mut expected = vec![0; gate.counts().len()];
    for id in chunks().concat() {
        table[id as usize * n_used..][..n_used].iter().for_each(|&e| expected[e as usize] += 1);
    }
    assert_eq!(gate.counts(), expected);
    for (name, entry) in found.entries.iter().filter(|(name, _)| name.contains("_exps.")) {
        assert_eq!(entry.counts().iter().sum::<u64>(), n_used as u64 * n_tokens(), "{name}");
    }
    assert_eq!(gate.sums(), found.entries["blk.0.ffn_up_exps.weight"].sums());
    let n_group = number("deepseek4.attention.output_group_count") as u64;
    assert_eq!(found.entries["blk.0.attn_output_a.weight"].counts(), [n_group * n_tokens()]);
}

#[test]
fn batches_threads_and_the_place_of_experts_change_no_bit() {
    let found = collect(MIXTURE, WEIGHTED, options(64, 1));
    for (n_batch, threads, n_slots) in [(1, 1, 3), (7, 2, 1), (64, 2, usize::MAX)] {
        assert!(collect(MIXTURE, WEIGHTED, options(n_batch, threads)) == found, "batches of {n_batch}");
        let experts = Experts::Streamed(Budget::Count(n_slots));
        let streamed = collect(MIXTURE, WEIGHTED, Options { experts, ..options(n_batch, threads) });
        assert!(streamed == found, "batches of {n_batch}, {n_slots} slots");
    }
}

#[test]
fn only_rows_of_down_are_weighted() {
    let [weighted, alike] =
        [Rows::Weighted, Rows::Alike].map(|down| collect(MIXTURE, Collect { down, ..WEIGHTED }, options(64, 2)));
    assert_eq!((weighted.down, alike.down), (Some(Rows::Weighted), Some(Rows::Alike)));
    for (name, entry) in &weighted.entries {
        assert_eq!(entry == &alike.entries[name], !name.contains("ffn_down_exps"), "{name}");
        assert_eq!(entry.counts(), alike.entries[name].counts());
    }
}

#[test]
fn the_matrix_that_makes_logits_is_counted_for_every_token_where_that_is_asked_for() {
    let mut found = collect(LLAMA, Collect { output: true, ..WEIGHTED }, options(7, 2));
    let output = found.entries.iter().filter(|(name, _)| !name.starts_with("blk."));
    assert_eq!(output.map(|(_, entry)| entry.counts()).collect::<Vec<_>>(), [[n_tokens()]]);
    found.entries.retain(|name, _| name.starts_with("blk."));
    assert!(found == collect(LLAMA, WEIGHTED, options(64, 2)));
}

#[test]
fn two_parts_of_a_corpus_make_a_whole() {
    let whole = collect(MIXTURE, WEIGHTED, options(64, 2));
    let mut merged = Imatrix::new(64);
    for chunk in chunks() {
        let part = collect_from(&[chunk], MIXTURE, WEIGHTED, options(64, 2));
        merged.merge(part).unwrap_or_else(|e| panic!("{e}"));
    }
    assert_eq!((merged.chunk_count, merged.down), (whole.chunk_count, whole.down));
    for (name, entry) in &whole.entries {
        assert_eq!(entry.counts(), merged.entries[name].counts());
        for (a, b) in entry.sums().iter().zip(&*merged.entries[name].sums()) {
            assert!((a - b).abs() <= 1e-6 * a, "{name}: {a}, not {b}");
        }
    }
}
