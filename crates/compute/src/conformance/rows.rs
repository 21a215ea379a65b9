//! Cases of the operations that look at one row of the batch at a time.

use quant::{FORMATS, Format, RowFormat};

use super::{
    Bound, Cases, Promise,
    lab::{Lab, batches},
};
use crate::{F32, Hyper, Kind, Pairs, Rope, Tensor, reference};

const ROWS: [usize; 4] = [1, 2, 9, 33];

pub(super) fn memory(cases: &mut Cases) {
    cases.add("new memory is zero; views read and write their part", |lab| {
        let dev = lab.dev;
        let zero = dev.alloc(F32, &[3, 5]).expect("memory for a case");
        lab.claim(reference::f32s(dev, &zero).iter().all(|&v| v.to_bits() == 0), "new memory is zero");
        let x = lab.even(&[4, 6], 1.0);
        let part = lab.even(&[2, 6], 1.0);
        reference::put(dev, &x.slice(1..3), &reference::f32s(dev, &part));
        let w = lab.weights(Format::Q8_0, &[3, 2, 64]);
        vec![(Bound::Exact, zero), (Bound::Exact, x.slice(2..4)), (Bound::Exact, x), (Bound::Exact, w.slice(1..3))]
    });
    cases.add("more memory than there can be is refused", |lab| {
        for shape in [[1 << 40, 1 << 40], [usize::MAX / 2 + 1, 2], [2, usize::MAX / 2 + 1], [usize::MAX / 16, 1]] {
            for kind in [F32, Kind::I32, Kind::Cached(RowFormat::F16)] {
                lab.claim(lab.dev.alloc(kind, &shape).is_err(), &format!("{kind:?} {shape:?} is refused"));
            }
        }
        vec![]
    });
    cases.add("a step runs its body", |lab| {
        let (x, one) = (lab.even(&[1, 8], 1.0), lab.even(&[1, 8], 1.0));
        for _ in 0..3 {
            lab.dev.step(7, &mut || lab.dev.add(&x, &one));
        }
        vec![(Bound::Exact, x)]
    });
}

pub(super) fn embed(cases: &mut Cases) {
    for &format in FORMATS {
        for n in [format.block_len(), 3 * format.block_len()] {
            cases.add(format!("{format:?} [11, {n}]"), move |lab| {
                let (name, rows) = &batches()[4];
                assert_eq!(*name, "three sessions");
                let table = lab.weights(format, &[11, n]);
                let y = lab.out(&[rows.len(), n]);
                for (range, step) in lab.steps(rows) {
                    lab.dev.embed(&y.slice(range), &table, &step);
                }
                vec![(Bound::Float, y)]
            });
        }
    }
}

pub(super) fn rms_norm(cases: &mut Cases) {
    for n_rows in ROWS {
        for n in [1, 7, 64, 333, 2048] {
            for (weighted, scale) in [(true, 1.0), (false, 1.0), (true, 1e-4)] {
                cases.add(format!("[{n_rows}, {n}] of {scale}, weights: {weighted}"), move |lab| {
                    let x = lab.even(&[n_rows, n], scale);
                    let w = weighted.then(|| lab.even(&[n], 2.0));
                    let y = lab.out(&[n_rows, n]);
                    for range in lab.cuts(n_rows) {
                        lab.dev.rms_norm(&y.slice(range.clone()), &x.slice(range.clone()), w.as_ref(), 1e-6);
                        lab.dev.rms_norm(&x.slice(range.clone()), &x.slice(range), w.as_ref(), 1e-6); // in place
                    }
                    vec![(Bound::Float, y), (Bound::Float, x)]
                });
            }
        }
    }
}

/// A format for each way in which devices are likely to multiply many rows: floats, blocks of 32, and groups of 256 with
/// minima, with scales of 16 weights, and with a codebook.
const PROMPTS: [Format; 5] = [Format::F16, Format::Q8_0, Format::Q2_K, Format::Q6_K, Format::IQ2_XXS];

pub(super) fn matmul(cases: &mut Cases) {
    for &format in FORMATS {
        let shapes: &[[usize; 3]] = match format.block_len() {
            1 => &[[1, 1, 9], [9, 5, 1], [37, 100, 9], [70, 333, 67]],
            2..256 => &[[1, 32, 9], [9, 96, 1], [37, 288, 9], [70, 544, 67]],
            _ => &[[1, 256, 9], [9, 512, 1], [5, 1792, 7], [70, 512, 67]],
        };
        for &[n_out, n_in, n_rows] in shapes {
            cases.add(format!("{format:?} [{n_out}, {n_in}] x [{n_rows}, {n_in}]"), move |lab| {
                product(lab, format, [n_out, n_in, n_rows], 1)
            });
        }
    }
    // A prompt's: many rows of weights and of the batch, which no device takes all at once.
    for format in PROMPTS {
        let shape @ [n_out, n_in, n_rows] = [536, 512, 37];
        cases.add(format!("{format:?} [{n_out}, {n_in}] x [{n_rows}, {n_in}]"), move |lab| {
            product(lab, format, shape, 1)
        });
    }
}

pub(super) fn matmul_grouped(cases: &mut Cases) {
    for format in [Format::F32, Format::F16, Format::Q8_0, Format::Q4_K] {
        for (n_group, n_out, n_rows) in [(2, 10, 1), (8, 104, 11), (4, 12, 67)] {
            cases.add(format!("{format:?}: {n_group} groups, {n_out} outputs, {n_rows} rows"), move |lab| {
                product(lab, format, [n_out, 256, n_rows], n_group)
            });
        }
    }
}

fn product(lab: &mut Lab, format: Format, [n_out, n_in, n_rows]: [usize; 3], n_group: usize) -> super::lab::Outcome {
    let w = lab.weights(format, &[n_out, n_in]);
    let x = lab.even(&[n_rows, n_group * n_in], 3.0);
    let y = lab.out(&[n_rows, n_out]);
    for range in lab.cuts(n_rows) {
        let (y, x) = (y.slice(range.clone()), x.slice(range));
        match n_group {
            1 => lab.dev.matmul(&y, &w, &x),
            _ => lab.dev.matmul_grouped(&y, &w, &x, n_group),
        }
    }
    vec![(bound(format), y)]
}

/// Formats for weights that meet the same rows: one way to round these, several, and weights that are numbers.
const TOGETHER: [&[Format]; 4] = [
    &[Format::Q4_K, Format::Q6_K, Format::IQ2_XXS],
    &[Format::Q8_0, Format::Q4_1, Format::Q4_K, Format::F16],
    &[Format::F16, Format::F32],
    &[Format::Q4_0; 11],
];

pub(super) fn matmuls(cases: &mut Cases) {
    for formats in TOGETHER {
        for n_rows in [0, 1, 3, 9, 33] {
            cases.add(format!("{n_rows} rows, {formats:?}"), move |lab| {
                let x = lab.even(&[n_rows, 512], 3.0);
                let sizes = [70, 40, 33, 300].into_iter().cycle();
                let w: Vec<Tensor> = formats.iter().zip(sizes).map(|(&f, n)| lab.weights(f, &[n, 512])).collect();
                let y: Vec<Tensor> = w.iter().map(|w| lab.out(&[n_rows, w.rows()])).collect();
                let apart: Vec<Tensor> = w.iter().map(|w| lab.out(&[n_rows, w.rows()])).collect();
                for r in lab.cuts(n_rows) {
                    let x = x.slice(r.clone());
                    let cut: Vec<Tensor> = y.iter().map(|y| y.slice(r.clone())).collect();
                    lab.dev.matmuls(&cut.iter().zip(&w).collect::<Vec<_>>(), &x);
                    apart.iter().zip(&w).for_each(|(y, w)| lab.dev.matmul(&y.slice(r.clone()), w, &x));
                }
                y.iter().zip(&apart).for_each(|(y, apart)| same(lab, y, apart));
                w.iter().zip(y).map(|(w, y)| (bound_of(w), y)).collect()
            });
        }
    }
}

pub(super) fn gated(cases: &mut Cases) {
    for [gate, up] in [[Format::Q4_K; 2], [Format::Q4_K, Format::Q6_K], [Format::Q8_0, Format::Q4_1], [Format::F16; 2]]
    {
        for (n_rows, n_ff) in [(0, 70), (1, 1), (1, 333), (3, 70), (9, 40), (33, 70)] {
            for limit in [None, Some(2.0)] {
                cases.add(format!("{gate:?}, {up:?}, {n_rows} rows to {n_ff}, limit {limit:?}"), move |lab| {
                    let x = lab.even(&[n_rows, 512], 0.3);
                    let [w_gate, w_up] = [gate, up].map(|f| lab.weights(f, &[n_ff, 512]));
                    let [y, apart, g, u] = [(); 4].map(|()| lab.out(&[n_rows, n_ff]));
                    for r in lab.cuts(n_rows) {
                        let [y, apart, g, u, x] = [&y, &apart, &g, &u, &x].map(|t| t.slice(r.clone()));
                        lab.dev.gated(&y, [(&g, &w_gate), (&u, &w_up)], &x, limit);
                        lab.dev.matmul(&g, &w_gate, &x);
                        lab.dev.matmul(&u, &w_up, &x);
                        lab.dev.swiglu(&apart, &g, &u, limit);
                    }
                    same(lab, &y, &apart);
                    let float = bound_of(&w_gate) == Bound::Float;
                    vec![(if float { Bound::Float } else { Bound::RoundedTwice }, y)]
                });
            }
        }
    }
}

/// Claims that a fused operation computed what its parts do, as a device promises it.
fn same(lab: &mut Lab, fused: &Tensor, parts: &Tensor) {
    let [fused, parts] = [fused, parts].map(|t| reference::f32s(lab.dev, t));
    let equal = fused.iter().zip(&parts).all(|(f, p)| f.to_bits() == p.to_bits());
    lab.claim(equal || lab.promise == Promise::Bounds, "a fused operation has the bits of its parts");
}

fn bound_of(w: &Tensor) -> Bound {
    let Kind::Packed(format) = w.kind() else { panic!("weights of kind {:?}", w.kind()) };
    bound(format)
}

/// Weights that are numbers meet activations as they are.
pub(super) fn bound(format: Format) -> Bound {
    match format {
        Format::F32 | Format::F16 | Format::BF16 => Bound::Float,
        _ => Bound::Rounded,
    }
}

pub(super) fn add(cases: &mut Cases) {
    for n_rows in ROWS {
        for n in [1, 130, 1000] {
            cases.add(format!("[{n_rows}, {n}]"), move |lab| {
                let (x, b) = (lab.even(&[n_rows, n], 1.0), lab.even(&[n_rows, n], 1.0));
                lab.cuts(n_rows).into_iter().for_each(|r| lab.dev.add(&x.slice(r.clone()), &b.slice(r)));
                vec![(Bound::Exact, x)]
            });
            cases.add(format!("[{n_rows}, {n}] and one row for all"), move |lab| {
                let (x, b) = (lab.even(&[n_rows, n], 1.0), lab.even(&[1, n], 1.0));
                lab.cuts(n_rows).into_iter().for_each(|r| lab.dev.add(&x.slice(r), &b));
                vec![(Bound::Exact, x)]
            });
        }
    }
}

pub(super) fn swiglu(cases: &mut Cases) {
    for n_rows in ROWS {
        for n in [1, 40, 777] {
            for (limit, scale) in [(None, 3.0), (None, 150.0), (Some(10.0), 30.0), (Some(0.5), 3.0)] {
                cases.add(format!("[{n_rows}, {n}] of {scale}, limit {limit:?}"), move |lab| {
                    let (gate, up) = (lab.even(&[n_rows, n], scale), lab.even(&[n_rows, n], scale));
                    let y = lab.out(&[n_rows, n]);
                    for r in lab.cuts(n_rows) {
                        lab.dev.swiglu(&y.slice(r.clone()), &gate.slice(r.clone()), &up.slice(r), limit);
                    }
                    vec![(Bound::Float, y)]
                });
            }
        }
    }
}

pub(super) fn rope(cases: &mut Cases) {
    for (n_head, head_dim, n_rot) in [(1, 2, 2), (3, 8, 4), (5, 64, 64), (2, 512, 64)] {
        for pairs in [Pairs::Adjacent, Pairs::Halves] {
            for tail in [false, true] {
                for inverse in [false, true] {
                    let name = format!("{n_head} heads of {head_dim}, {n_rot} turn, {pairs:?}, tail {tail}");
                    cases.add(format!("{name}, inverse {inverse}"), move |lab| {
                        let (_, mut rows) = batches().swap_remove(4);
                        rows[0].pos = 1_000_003; // where an f32 angle would be wrong
                        let x = lab.even(&[rows.len(), n_head, head_dim], 1.0);
                        let rope = self::turn(lab, n_rot, pairs, tail);
                        for (range, step) in lab.steps(&rows) {
                            lab.dev.rope(&x.slice(range), &rope, inverse, &step);
                        }
                        vec![(Bound::Float, x)]
                    });
                }
            }
        }
    }
}

/// Rotary positions over `n_rot` elements.
pub(super) fn turn(lab: &mut Lab, n_rot: usize, pairs: Pairs, tail: bool) -> Rope {
    let mut i = 0.0;
    let freq = lab.f32s(&[n_rot / 2], |_| {
        i += 1.0;
        10000f32.powf((1.0 - i) * 2.0 / n_rot as f32)
    });
    Rope { freq, pairs, tail, scale: 1.25 }
}

pub(super) fn hadamard(cases: &mut Cases) {
    for n_rows in ROWS {
        for n in [1, 2, 16, 128, 512] {
            cases.add(format!("[{n_rows}, {n}]"), move |lab| {
                let x = lab.even(&[n_rows, n], 1.0);
                lab.cuts(n_rows).into_iter().for_each(|r| lab.dev.hadamard(&x.slice(r)));
                vec![(Bound::Float, x)]
            });
        }
    }
}

/// Every way to pack rows of a cache.
pub(super) const ROW_FORMATS: [RowFormat; 6] = [
    RowFormat::F32,
    RowFormat::F16,
    RowFormat::Fp8 { n_rope: 0 },
    RowFormat::Fp8 { n_rope: 2 },
    RowFormat::Fp8 { n_rope: 64 },
    RowFormat::Fp4,
];

pub(super) fn round(cases: &mut Cases) {
    for format in ROW_FORMATS {
        for n in [64, 65, 128, 512] {
            for n_rows in ROWS {
                cases.add(format!("[{n_rows}, {n}] to {format:?}"), move |lab| {
                    let x = lab.f32s(&[n_rows, n], |random| (random.unit() * 12.0).exp() * random.unit());
                    lab.cuts(n_rows).into_iter().for_each(|r| lab.dev.round(&x.slice(r), Kind::Cached(format)));
                    vec![(Bound::Exact, x)]
                });
            }
        }
    }
}

const HYPER: [(usize, usize, Hyper); 4] = [
    (1, 5, Hyper { n_iter: 1, eps: 1e-6, eps_norm: 1e-6 }),
    (2, 64, Hyper { n_iter: 2, eps: 1e-3, eps_norm: 1e-2 }),
    (4, 130, Hyper { n_iter: 20, eps: 1e-6, eps_norm: 1e-6 }),
    (4, 1024, Hyper { n_iter: 20, eps: 1e-6, eps_norm: 1e-6 }),
];

pub(super) fn hyper_pre(cases: &mut Cases) {
    for n_rows in ROWS {
        for (n, d, h) in HYPER {
            cases.add(format!("{n_rows} rows of {n} x {d}, {h:?}"), move |lab| {
                let x = lab.even(&[n_rows, n, d], 2.0);
                let mixes = lab.even(&[n_rows, (2 + n) * n], 3.0);
                let (scale, base) = (lab.even(&[3], 2.0), lab.even(&[(2 + n) * n], 2.0));
                let [y, post, comb] = [lab.out(&[n_rows, d]), lab.out(&[n_rows, n]), lab.out(&[n_rows, n, n])];
                for r in lab.cuts(n_rows) {
                    let [y, post, comb, x, mixes] = [&y, &post, &comb, &x, &mixes].map(|t| t.slice(r.clone()));
                    lab.dev.hyper_pre(&y, &post, &comb, &x, &mixes, &scale, &base, &h);
                }
                vec![(Bound::Float, y), (Bound::Float, post), (Bound::Float, comb)]
            });
        }
    }
}

pub(super) fn hyper_post(cases: &mut Cases) {
    for n_rows in ROWS {
        for (n, d, _) in HYPER {
            cases.add(format!("{n_rows} rows of {n} x {d}"), move |lab| {
                let (x, f) = (lab.even(&[n_rows, n, d], 2.0), lab.even(&[n_rows, d], 2.0));
                let (post, comb) = (lab.even(&[n_rows, n], 2.0), lab.even(&[n_rows, n, n], 1.0));
                for r in lab.cuts(n_rows) {
                    let [x, f, post, comb] = [&x, &f, &post, &comb].map(|t| t.slice(r.clone()));
                    lab.dev.hyper_post(&x, &f, &post, &comb);
                }
                vec![(Bound::Float, x)]
            });
        }
    }
}

pub(super) fn hyper_head(cases: &mut Cases) {
    for n_rows in ROWS {
        for (n, d, h) in HYPER {
            cases.add(format!("{n_rows} rows of {n} x {d}, {h:?}"), move |lab| {
                let (x, mixes) = (lab.even(&[n_rows, n, d], 2.0), lab.even(&[n_rows, n], 3.0));
                let (scale, base) = (lab.even(&[1], 2.0), lab.even(&[n], 2.0));
                let y = lab.out(&[n_rows, d]);
                for r in lab.cuts(n_rows) {
                    let [y, x, mixes] = [&y, &x, &mixes].map(|t| t.slice(r.clone()));
                    lab.dev.hyper_head(&y, &x, &mixes, &scale, &base, &h);
                }
                vec![(Bound::Float, y)]
            });
        }
    }
}
