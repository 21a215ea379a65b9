//! Weights that are no numbers: told with the file and the place, never passed on as logits.

mod common;

use std::{fs, ops::ControlFlow, path::PathBuf};

use common::copy_with;
use engine::{Engine, Options};

/// Opens a copy of a golden model, one of whose tensors begins with other bytes.
fn broken(name: &str, tensor: &str, start: &[u8]) -> Engine {
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name);
    let to = std::env::temp_dir().join(format!("broken-{}-{tensor}.gguf", std::process::id()));
    copy_with(&from, &to, |t, mut bytes| {
        if t.name == tensor {
            bytes[..start.len()].copy_from_slice(start);
        }
        (t.element, bytes)
    });
    let engine = Engine::open(&Options::new(&to)).unwrap_or_else(|e| panic!("{e}"));
    fs::remove_file(&to).unwrap_or_else(|e| panic!("{e}"));
    engine
}

#[test]
fn damage_that_limits_and_choices_could_hide_is_an_error_too() {
    let (nan, inf) = (f32::NAN.to_le_bytes(), f32::INFINITY.to_le_bytes());
    let cases = [
        ("llama/micro.gguf", "blk.1.attn_v.weight", 0x7c00u16.to_le_bytes().to_vec()), // cached as halves
        ("deepseek_v4/micro-flash.gguf", "blk.3.exp_probs_b.bias", nan.to_vec()),      // which only chooses experts
        ("deepseek_v4/micro-flash.gguf", "blk.3.ffn_up_shexp.weight", inf.to_vec()),   // meets a limit
    ];
    for (file, tensor, start) in cases {
        let mut session = broken(file, tensor, &start).session(16).unwrap_or_else(|e| panic!("{e}"));
        let error = session.sync(&[1, 2, 3]).expect_err(tensor).to_string();
        assert!(error.ends_with("the weights give no numbers at position 2"), "{tensor}: {error}");
    }
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/llama/micro.gguf");
    let to = std::env::temp_dir().join(format!("broken-{}.gguf", std::process::id()));
    copy_with(&from, &to, |t, mut bytes| {
        if t.name == "blk.1.ffn_down.weight" {
            bytes[..2].copy_from_slice(&0x7e00u16.to_le_bytes()); // a NaN of f16
        }
        (t.element, bytes)
    });
    let engine = Engine::open(&Options::new(&to)).unwrap_or_else(|e| panic!("{e}"));
    fs::remove_file(&to).unwrap_or_else(|e| panic!("{e}"));

    let mut session = engine.session(16).unwrap_or_else(|e| panic!("{e}"));
    let errors = [
        session.sync(&[1, 2, 3]).map(|_| ()).unwrap_err(),
        session.push(4).unwrap_err(),
        session.score(&[5, 6], 2, &mut |_| ControlFlow::Continue(())).unwrap_err(),
    ];
    // What failed is not kept, so each begins at the first token.
    for (error, pos) in errors.iter().zip([2, 0, 0]) {
        let expected = format!("{}: the weights give no numbers at position {pos}", to.display());
        assert_eq!(error.to_string(), expected);
        assert!(error.is_bad_file());
    }
    assert!(session.logits().is_empty() && session.tokens().is_empty());
}
