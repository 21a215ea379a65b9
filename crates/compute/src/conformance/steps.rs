//! Cases of steps: operations that a device recorded once must hold for other tokens, positions and sequences, which
//! are in the step block, and for other numbers in the same tensors.

use std::sync::atomic::{AtomicU64, Ordering};

use quant::{Format, RowFormat};

use super::{
    Bound, Cases,
    lab::{Lab, N_POS, N_SLOT, Outcome, rows},
    rows::turn,
};
use crate::{
    Attention, Chooser, Compressed, Compressor, Device, Gating, Latent, Pairs, Router, Row, Step, Tensor, reference,
};

/// Batches of three that follow each other in one step block.
fn batches() -> [Vec<Row>; 3] {
    [rows(&[(0, 5..8)]), rows(&[(1, 62..64), (2, 0..1)]), rows(&[(2, 126..129)])]
}

/// Runs `body` as the same step for every batch, with `fresh` numbers each time; what it makes of `y`, each time.
fn replay(
    lab: &mut Lab,
    (bound, y): (Bound, &Tensor),
    fresh: &[&Tensor],
    body: &dyn Fn(&dyn Device, &Step),
) -> Outcome {
    static KEY: AtomicU64 = AtomicU64::new(1 << 32); // calls with one key name the same tensors
    let (dev, key) = (lab.dev, KEY.fetch_add(1, Ordering::Relaxed));
    let block = Step::new(dev, 3).expect("memory for a step");
    let pass = |batch: Vec<Row>| {
        for x in fresh {
            let numbers: Vec<f32> = (0..x.rows() * x.cols()).map(|_| lab.random.unit() * 3.0).collect();
            reference::put(dev, x, &numbers);
        }
        let step = block.set(dev, &batch);
        dev.step(key, &mut || body(dev, &step));
        let mut bytes = vec![0; y.byte_range().len()];
        dev.read(y, &mut bytes).expect("the device works");
        let copy = dev.alloc(y.kind(), y.shape()).expect("memory for a case");
        dev.write(&copy, &bytes);
        (bound, copy)
    };
    batches().into_iter().map(pass).collect()
}

pub(super) fn steps(cases: &mut Cases) {
    cases.add("embeds other tokens", |lab| {
        let (table, y) = (lab.weights(Format::F32, &[11, 8]), lab.out(&[3, 8]));
        replay(lab, (Bound::Float, &y), &[], &|dev, step| dev.embed(&y, &table, step))
    });
    cases.add("turns to other positions", |lab| {
        let (x, rope) = (lab.out(&[3, 2, 16]), turn(lab, 8, Pairs::Halves, false));
        replay(lab, (Bound::Float, &x), &[&x], &|dev, step| dev.rope(&x, &rope, false, step))
    });
    cases.add("stores elsewhere", |lab| {
        let (cache, x) = (lab.cache(RowFormat::F16, [N_SLOT, 64, 10], 1.0), lab.out(&[3, 10]));
        replay(lab, (Bound::Exact, &cache), &[&x], &|dev, step| dev.store(&cache, &x, step))
    });
    cases.add("attends to other positions", |lab| {
        let [k, v] = [2.0, 1.0].map(|s| lab.cache(RowFormat::F16, [N_SLOT, N_POS, 2 * 16], s));
        let [new_k, new_v, q, y] = [32, 32, 64, 64].map(|n| lab.out(&[3, n]));
        let a = Attention { n_head: 4, n_head_kv: 2, scale: 0.25 };
        replay(lab, (Bound::Float, &y), &[&new_k, &new_v, &q], &|dev, step| {
            dev.store(&k, &new_k, step);
            dev.store(&v, &new_v, step);
            dev.attention(&y, &q, &k, &v, &a, step);
        })
    });
    cases.add("attends to other rows", |lab| {
        let (ring, rows) =
            (lab.cache(RowFormat::F16, [N_SLOT, 10, 32], 1.0), lab.cache(RowFormat::F16, [N_SLOT, 40, 32], 1.0));
        let compressed = Some(Compressed { rows, ratio: 4, chosen: None });
        let (sinks, scale) = (lab.even(&[4], 3.0), 0.2);
        let a = Latent { ring, window: 8, compressed, sinks, scale };
        let [new, q, y] = [32, 128, 128].map(|n| lab.out(&[3, n]));
        replay(lab, (Bound::Float, &y), &[&new, &q], &|dev, step| {
            dev.store(&a.ring, &new, step);
            dev.latent_attention(&y, &q, &a, step);
        })
    });
    cases.add("compresses other windows", |lab| {
        let ring = |lab: &mut Lab| lab.cache(RowFormat::F32, [N_SLOT, 4, 32], 1.0);
        let c = Compressor {
            ratio: 2,
            overlap: true,
            ape: lab.even(&[2, 32], 2.0),
            norm: lab.even(&[16], 2.0),
            eps: 1e-6,
            rope: turn(lab, 8, Pairs::Adjacent, true),
            hadamard: true,
            frontier_kv: ring(lab),
            frontier_gate: ring(lab),
            rows: lab.cache(RowFormat::F32, [N_SLOT, N_POS / 2 + 1, 16], 1.0),
        };
        let [kv, gate] = [32, 32].map(|n| lab.out(&[3, n]));
        replay(lab, (Bound::Float, &c.rows), &[&kv, &gate], &|dev, step| dev.compress(&kv, &gate, &c, step))
    });
    cases.add("chooses other rows", |lab| {
        let c = Chooser { rows: lab.cache(RowFormat::F32, [N_SLOT, N_POS / 4, 32], 1.0), ratio: 4, scale: 0.25 };
        let ([q, weight], chosen) = ([64, 2].map(|n| lab.out(&[3, n])), lab.out_i32(&[3, 5]));
        replay(lab, (Bound::Exact, &chosen), &[&q, &weight], &|dev, step| dev.choose(&chosen, &q, &weight, &c, step))
    });
    cases.add("routes other tokens", |lab| {
        let table: Vec<i32> = (0..11 * 2).map(|i| i / 2 + i % 2).collect();
        let table = Some(lab.i32s(&[11, 2], &table));
        let r = Router { gating: Gating::Softmax, bias: None, table, normalize: true, scale: 1.5 };
        let (experts, [weights, logits]) = (lab.out_i32(&[3, 2]), [2, 12].map(|n| lab.out(&[3, n])));
        replay(lab, (Bound::Exact, &experts), &[&logits], &|dev, step| dev.route(&experts, &weights, &logits, &r, step))
    });
}
