//! Sequences side by side in one state: what shares a batch does not matter.

use std::path::PathBuf;

use compute::{Reference, Row, Step, reference};
use experts::Routing;
use gguf::Gguf;
use models::{KvType, Model, Residency, State, StateOptions};

fn open(name: &str) -> Box<dyn Model> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name);
    let gguf = Gguf::open(&path).unwrap_or_else(|e| panic!("{e}"));
    models::open(&gguf, &Reference, Residency::All).unwrap_or_else(|e| panic!("{e}"))
}

fn state(model: &dyn Model, n_slot: usize) -> (Box<dyn State>, Step) {
    let options = StateOptions { n_ctx: 24, n_slot, n_batch: 16, kv: KvType::Native };
    let state = model.state(&Reference, &options, &Routing::default()).unwrap_or_else(|e| panic!("{e}"));
    (state, Step::new(&Reference, 16).unwrap_or_else(|e| panic!("{e}")))
}

/// The logits of all rows.
fn run(model: &dyn Model, (state, step): &(Box<dyn State>, Step), rows: &[Row]) -> Vec<Vec<f32>> {
    let done = state.forward(&Reference, &step.set(&Reference, rows), 0..model.shape().n_layer);
    done.unwrap_or_else(|e| panic!("{e}"));
    let logits = reference::f32s(&Reference, &state.logits(&Reference, 0..rows.len()));
    logits.chunks_exact(model.shape().n_vocab).map(<[f32]>::to_vec).collect()
}

/// Token `pos` of a sequence.
fn row(slot: u32, pos: u32) -> Row {
    Row { id: (slot * 131 + pos * 17 + 5) % 300, pos, slot }
}

#[test]
fn two_sequences_in_a_batch_are_as_if_alone() {
    for name in ["llama/micro.gguf", "qwen2/micro.gguf", "deepseek_v4/micro-flash.gguf"] {
        let model = open(name);
        let alone = |slot: u32, n: u32| {
            let rows: Vec<Row> = (0..n).map(|pos| Row { slot: 0, ..row(slot, pos) }).collect();
            rows.chunks(16).fold((state(&*model, 1), Vec::new()), |(state, mut all), rows| {
                all.extend(run(&*model, &state, rows));
                (state, all)
            })
        };
        let (long, short) = (alone(0, 20).1, alone(1, 9).1);
        let both = state(&*model, 2);
        // Seven and four tokens, then eight and one, then what is left.
        for (first, second) in [(0..7, 0..4), (7..15, 4..5), (15..20, 5..9)] {
            let rows: Vec<Row> = first.clone().map(|p| row(0, p)).chain(second.clone().map(|p| row(1, p))).collect();
            let found = run(&*model, &both, &rows);
            let expected = long[first.start as usize..first.end as usize].iter();
            let expected = expected.chain(&short[second.start as usize..second.end as usize]);
            assert!(found.iter().eq(expected), "{name}: positions {first:?} and {second:?}");
        }
    }
}
