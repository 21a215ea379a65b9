//! Cases of the operations that remember earlier tokens.

use quant::RowFormat;

use super::{
    Bound, Cases,
    lab::{Lab, N_POS, N_SLOT, Outcome, batches, rows},
    rows::{ROW_FORMATS, turn},
};
use crate::{
    Attention, Chooser, Compressed, Compressor, Device, Kind, Latent, Pairs, Row, Tensor,
    reference::{self},
};

pub(super) fn store(cases: &mut Cases) {
    for format in ROW_FORMATS {
        for (name, batch) in batches() {
            for n_row in [3, 128, N_POS] {
                let batch = batch.clone();
                cases.add(format!("{name} in rings of {n_row}, {format:?}"), move |lab| {
                    let cache = lab.cache(format, [N_SLOT, n_row, 130], 1.0);
                    let x = lab.even(&[batch.len(), 130], 3.0);
                    for (range, step) in lab.steps(&batch) {
                        lab.dev.store(&cache, &x.slice(range), &step);
                    }
                    vec![(Bound::Exact, cache)]
                });
            }
        }
    }
}

pub(super) fn attention(cases: &mut Cases) {
    let shapes = [(1, 1, 1), (4, 4, 6), (6, 2, 16), (8, 1, 64), (7, 7, 33), (32, 8, 64), (9, 3, 128)];
    for format in [RowFormat::F32, RowFormat::F16] {
        for shape in shapes {
            for (name, batch) in batches() {
                cases.add(format!("{name}, {shape:?} heads and size, {format:?}"), move |lab| {
                    attend(lab, &batch, shape, format, N_POS)
                });
            }
        }
    }
    // Devices may cut long contexts into chunks.
    let long = [("token 1100", rows(&[(1, 1100..1101)])), ("30 more at 1000", rows(&[(0, 1000..1030), (2, 500..503)]))];
    for (name, batch) in long {
        for shape in [(2, 1, 16), (8, 4, 40)] {
            let batch = batch.clone();
            cases.add(format!("{name}, {shape:?} heads and size"), move |lab| {
                attend(lab, &batch, shape, RowFormat::F16, 1101)
            });
        }
    }
}

fn attend(
    lab: &mut Lab,
    batch: &[Row],
    (n_head, n_head_kv, head_dim): (usize, usize, usize),
    format: RowFormat,
    n_row: usize,
) -> Outcome {
    let a = Attention { n_head, n_head_kv, scale: 1.0 / (head_dim as f32).sqrt() };
    let [k, v] = [2.0, 1.0].map(|s| lab.cache(format, [N_SLOT, n_row, n_head_kv * head_dim], s));
    let [new_k, new_v] = [2.0, 1.0].map(|s| lab.even(&[batch.len(), n_head_kv * head_dim], s));
    let q = lab.even(&[batch.len(), n_head * head_dim], 2.0);
    let y = lab.out(&[batch.len(), n_head * head_dim]);
    for (range, step) in lab.steps(batch) {
        let [y, q, new_k, new_v] = [&y, &q, &new_k, &new_v].map(|t| t.slice(range.clone()));
        lab.dev.store(&k, &new_k, &step);
        lab.dev.store(&v, &new_v, &step);
        lab.dev.attention(&y, &q, &k, &v, &a, &step);
    }
    vec![(Bound::Float, y)]
}

pub(super) fn latent_attention(cases: &mut Cases) {
    let shapes = [(1, 16, 8), (2, 130, 128), (3, 64, 3), (4, 32, 1), (6, 32, 40), (12, 128, 128)];
    let older = [Older::None, Older::All { ratio: 128 }, Older::All { ratio: 4 }, Older::Chosen { ratio: 4, k: 9 }];
    for (i, (n_head, head_dim, window)) in shapes.into_iter().enumerate() {
        for (name, batch) in batches() {
            for older in older {
                // Every format meets every batch and every kind of older context, though not in every combination.
                let formats = ROW_FORMATS
                    .map(|f| if head_dim < 64 && f == (RowFormat::Fp8 { n_rope: 64 }) { RowFormat::F16 } else { f });
                let (ring, rows) = (formats[i % formats.len()], formats[(i + name.len()) % formats.len()]);
                let batch = batch.clone();
                let name =
                    format!("{name}, {n_head} heads of {head_dim}, window {window} {ring:?}, {older:?} {rows:?}");
                cases.add(name, move |lab| latent(lab, &batch, [n_head, head_dim, window], older, [ring, rows]));
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Older {
    None,
    All { ratio: usize },
    Chosen { ratio: usize, k: usize },
}

fn latent(
    lab: &mut Lab,
    batch: &[Row],
    [n_head, head_dim, window]: [usize; 3],
    older: Older,
    [ring, rows]: [RowFormat; 2],
) -> Outcome {
    // As short as the contract allows: the ring wraps.
    let ring = lab.cache(ring, [N_SLOT, window - 1 + batch.len(), head_dim], 1.0);
    let compressed = match older {
        Older::None => None,
        Older::All { ratio } | Older::Chosen { ratio, .. } => {
            let rows = lab.cache(rows, [N_SLOT, N_POS / ratio + 1, head_dim], 1.0);
            Some(Compressed { rows, ratio, chosen: chosen(lab, batch, older) })
        }
    };
    let sinks = lab.even(&[n_head], 3.0);
    let (new, q) = (lab.even(&[batch.len(), head_dim], 1.0), lab.even(&[batch.len(), n_head * head_dim], 3.0));
    let y = lab.out(&[batch.len(), n_head * head_dim]);
    for (range, step) in lab.steps(batch) {
        let compressed =
            compressed.clone().map(|c| Compressed { chosen: c.chosen.map(|chosen| chosen.slice(range.clone())), ..c });
        let scale = 1.0 / (head_dim as f32).sqrt();
        let a = Latent { ring: ring.clone(), window, compressed, sinks: sinks.clone(), scale };
        lab.dev.store(&ring, &new.slice(range.clone()), &step);
        lab.dev.latent_attention(&y.slice(range.clone()), &q.slice(range), &a, &step);
    }
    vec![(Bound::Float, y)]
}

/// Some of each query's visible rows, ascending, and -1 after them; for one query in three, none.
fn chosen(lab: &mut Lab, batch: &[Row], older: Older) -> Option<Tensor> {
    let Older::Chosen { ratio, k } = older else { return None };
    let mut all = vec![-1; batch.len() * k];
    for (t, (row, chosen)) in batch.iter().zip(all.chunks_exact_mut(k)).enumerate() {
        let visible = (row.pos as usize + 1) / ratio;
        let some = (0..visible as i32).filter(|_| lab.random.below(3) > 0).take(if t % 3 == 2 { 0 } else { k });
        chosen.iter_mut().zip(some.collect::<Vec<i32>>()).for_each(|(c, w)| *c = w);
    }
    Some(lab.i32s(&[batch.len(), k], &all))
}

pub(super) fn compress(cases: &mut Cases) {
    // Ratio, overlap, tokens that the frontier holds beyond the fewest, sizes.
    let shapes = [
        (4, true, 0, 128, 64),
        (4, true, 15, 130, 2),
        (2, true, 1, 16, 16),
        (3, false, 0, 7, 4),
        (128, false, 0, 64, 32),
        (128, false, 15, 64, 64),
    ];
    let starts = [0, 1, 5, 126];
    for (ratio, overlap, more, head_dim, n_rot) in shapes {
        for start in starts {
            for n in [1, 6, 140] {
                let hadamard = usize::is_power_of_two(head_dim);
                let name =
                    format!("{n} from {start}, ratio {ratio}, overlap {overlap}, {more} more, {head_dim} values");
                cases.add(name, move |lab| {
                    // The slot's first `start` tokens come one by one, so that the frontier is what it has to be.
                    let c = compressor(lab, (ratio, overlap, more), [head_dim, n_rot], hadamard, start + n);
                    let before = rows(&[(1, 0..start as u32)]);
                    let [kv, gate] = [1.0, 4.0].map(|s| lab.even(&[before.len() + 1, c.ape.cols()], s));
                    for (t, step) in before.chunks(1).enumerate() {
                        let step = crate::Step::new(lab.dev, 1).expect("memory for a step").set(lab.dev, step);
                        lab.dev.compress(&kv.slice(t..t + 1), &gate.slice(t..t + 1), &c, &step);
                    }
                    let (first, last) = (start as u32, (start + n) as u32);
                    feed(lab, &rows(&[(2, 0..2), (1, first..last), (0, 0..5)]), c)
                });
            }
        }
    }
}

fn compressor(
    lab: &mut Lab,
    (ratio, overlap, more): (usize, bool, usize),
    [head_dim, n_rot]: [usize; 2],
    hadamard: bool,
    n_pos: usize,
) -> Compressor {
    let (width, n_frontier) = if overlap { (2 * head_dim, 2 * ratio) } else { (head_dim, ratio) };
    let shape = [N_SLOT, n_frontier + more, width];
    Compressor {
        ratio,
        overlap,
        ape: lab.even(&[ratio, width], 2.0),
        norm: lab.even(&[head_dim], 2.0),
        eps: 1e-6,
        rope: turn(lab, n_rot, Pairs::Adjacent, true),
        hadamard,
        frontier_kv: lab.cache(RowFormat::F32, shape, 1.0),
        frontier_gate: lab.cache(RowFormat::F32, shape, 1.0),
        rows: lab.cache(RowFormat::F32, [N_SLOT, n_pos / ratio + 2, head_dim], 1.0),
    }
}

/// Compresses a batch; rows packed otherwise must be what storing the f32 rows makes of them.
fn feed(lab: &mut Lab, batch: &[Row], c: Compressor) -> Outcome {
    let (width, [n_slot, n_row, head_dim]) = (c.ape.cols(), [0, 1, 2].map(|i| c.rows.shape()[i]));
    let (kv, gate) = (lab.even(&[batch.len(), width], 1.0), lab.even(&[batch.len(), width], 4.0));
    let gate_rows = reference::f32s(lab.dev, &gate);
    let format = if head_dim % 128 == 0 { RowFormat::Fp4 } else { RowFormat::Fp8 { n_rope: 2 } };
    let packed = lab.dev.alloc(Kind::Cached(format), &[n_slot, n_row, head_dim]).expect("memory for a cache");
    encode(lab.dev, &packed, &reference::f32s(lab.dev, &c.rows));
    let frontier = [&c.frontier_kv, &c.frontier_gate].map(|t| reference::f32s(lab.dev, t));
    for (range, step) in lab.steps(batch) {
        lab.dev.compress(&kv.slice(range.clone()), &gate.slice(range), &c, &step);
    }
    // The same tokens again, into the packed rows.
    let other = Compressor {
        rows: packed.clone(),
        frontier_kv: fresh(lab.dev, &c.frontier_kv, &frontier[0]),
        frontier_gate: fresh(lab.dev, &c.frontier_gate, &frontier[1]),
        ..c.clone()
    };
    reference::put(lab.dev, &gate, &gate_rows);
    for (range, step) in lab.steps(batch) {
        lab.dev.compress(&kv.slice(range.clone()), &gate.slice(range), &other, &step);
    }
    let expected = lab.dev.alloc(packed.kind(), packed.shape()).expect("memory for a cache");
    encode(lab.dev, &expected, &reference::f32s(lab.dev, &c.rows));
    let same = reference::f32s(lab.dev, &packed) == reference::f32s(lab.dev, &expected);
    lab.claim(same, "packed rows are the f32 rows, packed");
    vec![(Bound::Float, c.rows), (Bound::Exact, c.frontier_kv), (Bound::Exact, c.frontier_gate)]
}

/// Fills a cache with rows.
fn encode(dev: &dyn Device, cache: &Tensor, rows: &[f32]) {
    let Kind::Cached(format) = cache.kind() else { panic!("a cache") };
    let mut bytes = vec![0; cache.byte_range().len()];
    for (row, x) in bytes.chunks_exact_mut(cache.row_bytes()).zip(rows.chunks_exact(cache.cols())) {
        format.encode_row(x, row);
    }
    dev.write(cache, &bytes);
}

/// A cache like `like` that holds `rows`.
fn fresh(dev: &dyn Device, like: &Tensor, rows: &[f32]) -> Tensor {
    let cache = dev.alloc(like.kind(), like.shape()).expect("memory for a cache");
    encode(dev, &cache, rows);
    cache
}

pub(super) fn choose(cases: &mut Cases) {
    for format in [RowFormat::F32, RowFormat::F16, RowFormat::Fp4] {
        for (n_head, head_dim) in [(1, 32), (5, 64), (64, 128)] {
            for (name, batch) in batches() {
                for (ratio, k) in [(4, 1), (4, 8), (1, 20), (2, 500)] {
                    let batch = batch.clone();
                    let name = format!("{name}, {n_head} heads of {head_dim}, ratio {ratio}, best {k}, {format:?}");
                    cases.add(name, move |lab| {
                        let c = Chooser { rows: whole(lab, format, head_dim, N_POS / ratio), ratio, scale: 0.25 };
                        // Small whole numbers: sums are exact in any order, and many scores are equal.
                        let q = lab.f32s(&[batch.len(), n_head * head_dim], |random| random.below(5) as f32 - 2.0);
                        let weight = lab.f32s(&[batch.len(), n_head], |random| random.below(4) as f32 - 1.0);
                        let chosen = lab.out_i32(&[batch.len(), k]);
                        for (range, step) in lab.steps(&batch) {
                            let [chosen, q, weight] = [&chosen, &q, &weight].map(|t| t.slice(range.clone()));
                            lab.dev.choose(&chosen, &q, &weight, &c, &step);
                        }
                        vec![(Bound::Exact, chosen)]
                    });
                }
            }
        }
    }
}

/// Cached rows of -6, -4, ... 6, which every format holds exactly.
fn whole(lab: &mut Lab, format: RowFormat, head_dim: usize, n_row: usize) -> Tensor {
    let levels = [-6.0, -4.0, -2.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 6.0];
    let rows: Vec<f32> = (0..N_SLOT * n_row * head_dim).map(|_| levels[lab.random.below(levels.len())]).collect();
    let cache = lab.dev.alloc(Kind::Cached(format), &[N_SLOT, n_row, head_dim]).expect("memory for a cache");
    encode(lab.dev, &cache, &rows);
    cache
}
