//! Cases of the router and the experts.

use std::ops::Range;

use quant::{FORMATS, Format};

use super::{
    Bound, Cases,
    data::Random,
    lab::{Lab, rows},
};
use crate::{Bank, Gating, Router, reference};

pub(super) fn route(cases: &mut Cases) {
    for n_rows in [1, 8, 40] {
        for (n_expert, k) in [(1, 1), (8, 2), (8, 8), (256, 6)] {
            for gating in [Gating::Softmax, Gating::SqrtSoftplus] {
                for how in [How::Best, How::Biased, How::Tied, How::Table] {
                    for normalize in [false, true] {
                        let name = format!("{n_rows} rows, {k} of {n_expert}, {gating:?}, {how:?}");
                        cases.add(format!("{name}, normalized {normalize}"), move |lab| {
                            choice(lab, [n_rows, n_expert, k], gating, how, normalize)
                        });
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum How {
    Best,
    Biased,
    /// All experts score one of two values.
    Tied,
    Table,
}

fn choice(
    lab: &mut Lab,
    [n_rows, n_expert, k]: [usize; 3],
    gating: Gating,
    how: How,
    normalize: bool,
) -> super::lab::Outcome {
    let batch = rows(&[(0, 0..n_rows as u32)]);
    let logits = match how {
        How::Tied => lab.f32s(&[n_rows, n_expert], |random| [-0.5, 1.5][random.below(2)]),
        _ => lab.even(&[n_rows, n_expert], 4.0),
    };
    let n_vocab = 11;
    let fixed: Vec<i32> = (0..n_vocab).flat_map(|_| distinct(&mut lab.random, n_expert, k, false)).collect();
    let router = Router {
        gating,
        bias: matches!(how, How::Biased).then(|| lab.even(&[n_expert], 1.0)),
        table: matches!(how, How::Table).then(|| lab.i32s(&[n_vocab, k], &fixed)),
        normalize,
        scale: 1.5,
    };
    let (experts, weights) = (lab.out_i32(&[n_rows, k]), lab.out(&[n_rows, k]));
    for (range, step) in lab.steps(&batch) {
        let [experts, weights, logits] = [&experts, &weights, &logits].map(|t| t.slice(range.clone()));
        lab.dev.route(&experts, &weights, &logits, &router, &step);
    }
    vec![(Bound::Exact, experts), (Bound::Float, weights)]
}

/// `k` of the numbers `0..n`.
fn distinct(random: &mut Random, n: usize, k: usize, sorted: bool) -> Vec<i32> {
    let mut all: Vec<i32> = (0..n as i32).collect();
    (0..k).for_each(|i| all.swap(i, i + random.below(n - i)));
    all.truncate(k);
    if sorted {
        all.sort_unstable();
    }
    all
}

pub(super) fn moe(cases: &mut Cases) {
    for &format in FORMATS {
        let d = format.block_len().max(32);
        cases.add(format!("all {format:?}"), move |lab| mixture(lab, [format; 3], [9, 4, 3, 2 * d, d], Some(1.5)));
    }
    let mixed = [
        ([Format::IQ2_XXS, Format::IQ2_XXS, Format::Q2_K], Some(10.0)),
        ([Format::Q4_K, Format::Q4_K, Format::Q6_K], None),
        ([Format::MXFP4, Format::Q8_0, Format::Q5_0], Some(2.0)),
        ([Format::Q4_K, Format::Q8_0, Format::F16], None),
    ];
    for (formats, limit) in mixed {
        for [n_rows, n_expert, k] in [[1, 5, 1], [1, 9, 6], [3, 4, 4], [40, 3, 2]] {
            cases.add(format!("{formats:?}, {n_rows} rows, {k} of {n_expert}, limit {limit:?}"), move |lab| {
                mixture(lab, formats, [n_rows, n_expert, k, 256, 256], limit)
            });
        }
        // Experts that meet more rows than devices take at a time. Of so many sums without a limit some are far off.
        cases.add(format!("{formats:?}, 37 rows, 2 of 2"), move |lab| {
            mixture(lab, formats, [37, 2, 2, 256, 256], Some(2.0))
        });
    }
    cases.add("rows of minus zero that chose nothing of a bank", untouched);
}

/// Where a bank has none of a row's experts, nothing is added: to add 0 would take the sign of what was -0.
fn untouched(lab: &mut Lab) -> super::lab::Outcome {
    let [n_rows, n_expert, n_embd, n_ff] = [3, 5, 64, 32];
    let [gate, up] = [(); 2].map(|()| lab.weights(Format::Q8_0, &[n_expert, n_ff, n_embd]));
    let all = Bank::resident(&gate, &up, &lab.weights(Format::Q8_0, &[n_expert, n_embd, n_ff]));
    let part = |of: Range<usize>| Bank::new(n_expert, of.filter_map(|e| Some((e, all.get(e)?.clone()))).collect());
    let (x, weights) = (lab.even(&[n_rows, n_embd], 1.0), lab.even(&[n_rows, 2], 1.0));
    let experts = lab.i32s(&[n_rows, 2], &[0, 1, 2, 3, 1, 3]);
    let y = lab.f32s(&[n_rows, n_embd], |_| -0.0);
    // Nobody's experts, none at all, and those of all rows but the second.
    for (bank, kept) in [(part(4..5), 0..n_rows), (part(0..0), 0..n_rows), (part(0..2), 1..2)] {
        for range in lab.cuts(n_rows) {
            let [y, x, experts, weights] = [&y, &x, &experts, &weights].map(|t| t.slice(range.clone()));
            lab.dev.moe(&y, &x, &bank, &experts, &weights, None);
        }
        let kept = reference::f32s(lab.dev, &y.slice(kept));
        lab.claim(
            kept.iter().all(|v| v.to_bits() == (-0.0f32).to_bits()),
            "rows that chose nothing of a bank keep their bits",
        );
    }
    vec![]
}

fn mixture(
    lab: &mut Lab,
    [gate, up, down]: [Format; 3],
    [n_rows, n_expert, k, n_embd, n_ff]: [usize; 5],
    limit: Option<f32>,
) -> super::lab::Outcome {
    let bound = [gate, up, down].map(super::rows::bound);
    let bound = if bound == [Bound::Float; 3] { Bound::Float } else { Bound::RoundedTwice };
    let [gate, up] = [gate, up].map(|format| lab.weights(format, &[n_expert, n_ff, n_embd]));
    let all = Bank::resident(&gate, &up, &lab.weights(down, &[n_expert, n_embd, n_ff]));
    // As they are read from the SSD, some at a time; the last bank may have none.
    let part = |of: Range<usize>| Bank::new(n_expert, of.filter_map(|e| Some((e, all.get(e)?.clone()))).collect());
    let banks = [part(0..n_expert / 2), part(n_expert / 2..n_expert), part(0..0)];
    let x = lab.even(&[n_rows, n_embd], 4.0 / (n_embd as f32).sqrt());
    let chosen: Vec<i32> = (0..n_rows).flat_map(|_| distinct(&mut lab.random, n_expert, k, true)).collect();
    let experts = lab.i32s(&[n_rows, k], &chosen);
    let weights = lab.even(&[n_rows, k], 1.0);
    let (y, in_parts) = (lab.out(&[n_rows, n_embd]), lab.out(&[n_rows, n_embd]));
    for range in lab.cuts(n_rows) {
        let [y, z, x, experts, weights] = [&y, &in_parts, &x, &experts, &weights].map(|t| t.slice(range.clone()));
        [&y, &z].into_iter().for_each(|y| lab.dev.write(y, &vec![0; y.byte_range().len()]));
        lab.dev.moe(&y, &x, &all, &experts, &weights, limit);
        banks.iter().for_each(|bank| lab.dev.moe(&z, &x, bank, &experts, &weights, limit));
    }
    vec![(bound, y), (bound, in_parts)]
}
