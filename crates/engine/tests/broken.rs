//! Weights that are no numbers: told with the file and the place, never passed on as logits.

mod common;

use std::{fs, ops::ControlFlow, path::PathBuf};

use common::copy_with;
use engine::{Engine, Options};

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
    for (error, pos) in errors.iter().zip([2, 3, 4]) {
        let expected = format!("{}: the weights give no numbers at position {pos}", to.display());
        assert_eq!(error.to_string(), expected);
        assert!(error.is_bad_file());
    }
    assert!(session.logits().is_empty());
}
