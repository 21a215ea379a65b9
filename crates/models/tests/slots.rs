//! Sequences side by side in one state: what shares a batch does not matter.

use std::{ops::Range, path::PathBuf};

use compute::{Memory, Reference, Row, Step, reference};
use experts::Routing;
use gguf::Gguf;
use models::{CachePart, KvType, Model, Residency, State, StateOptions};

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

/// The bytes of parts of a state's memory, one behind the other.
fn take_out(parts: &[CachePart]) -> Vec<Vec<u8>> {
    let bytes = |part: &CachePart| {
        let views = part.views().iter().map(|view| {
            let mut bytes = vec![0; view.byte_range().len()];
            Reference.read(view, &mut bytes).unwrap_or_else(|e| panic!("{e}"));
            bytes
        });
        views.collect::<Vec<_>>().concat()
    };
    parts.iter().map(bytes).collect()
}

fn put_back(parts: &[CachePart], saved: &[Vec<u8>]) {
    assert_eq!(parts.len(), saved.len());
    for (part, bytes) in parts.iter().zip(saved) {
        assert_eq!(part.n_bytes(), bytes.len());
        let mut rest = &bytes[..];
        for view in part.views() {
            let (own, others) = rest.split_at(view.byte_range().len());
            Reference.write(view, own);
            rest = others;
        }
    }
}

#[test]
fn what_is_taken_out_anywhere_goes_on_elsewhere() {
    const N: u32 = 40;
    for name in ["llama/micro.gguf", "qwen2/micro.gguf", "deepseek_v4/micro-flash.gguf"] {
        let model = open(name);
        let state = |n_slot, n_ctx, n_batch| {
            let options = StateOptions { n_ctx, n_slot, n_batch, kv: KvType::Native };
            let state = model.state(&Reference, &options, &Routing::default()).unwrap_or_else(|e| panic!("{e}"));
            (state, Step::new(&Reference, n_batch).unwrap_or_else(|e| panic!("{e}")))
        };
        let run = |state: &_, slot: u32, tokens: Range<u32>, n_chunk: usize| {
            let rows: Vec<Row> = tokens.map(|pos| Row { slot, ..row(0, pos) }).collect();
            rows.chunks(n_chunk).flat_map(|rows| run(&*model, state, rows)).collect::<Vec<_>>()
        };
        let expected = run(&state(1, N as usize, 16), 0, 0..N, 16);
        for n in 1..N as usize {
            // Rows go in two pieces, as what was kept at one time and at a later one.
            let (from, half) = (state(2, N as usize + 3, 7), n / 8 * 4);
            run(&from, 1, 0..n as u32, 7);
            let saved = [0..half, half..n].map(|tokens| take_out(&from.0.rows(1, tokens)));
            let frontier = take_out(&from.0.frontier(1, n));
            let to = state(3, N as usize, 16);
            run(&to, 2, 5..9, 4); // what somebody else left
            let pieces = [0..half, half..n].into_iter().zip(saved);
            pieces.for_each(|(tokens, saved)| put_back(&to.0.rows(2, tokens), &saved));
            put_back(&to.0.frontier(2, n), &frontier);
            let found = run(&to, 2, n as u32..N, 5);
            assert!(found == expected[n..], "{name}: after {n} tokens");
        }
    }
}
