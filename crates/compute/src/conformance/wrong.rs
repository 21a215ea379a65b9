//! Calls that break the contract: every device panics, instead of computing something or reaching beyond its memory.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quant::RowFormat;

use super::{Cases, lab::rows};
use crate::{Attention, Bank, Device, F32, Gating, Hyper, Kind, Pairs, Rope, Router, Step, Tensor};

/// What a wrong call finds: memory of any shape, and a batch of three.
struct Bench<'a> {
    dev: &'a dyn Device,
    step: Step,
}

impl Bench<'_> {
    fn of(&self, shape: &[usize]) -> Tensor {
        self.dev.alloc(F32, shape).expect("memory for a case")
    }

    fn cache(&self, shape: &[usize]) -> Tensor {
        self.dev.alloc(Kind::Cached(RowFormat::F32), shape).expect("memory for a case")
    }

    fn i32s(&self, shape: &[usize]) -> Tensor {
        self.dev.alloc(Kind::I32, shape).expect("memory for a case")
    }
}

/// A call that would be right with `0`, and is wrong with `1`: that many elements too many somewhere.
type Call = fn(&Bench, usize);

const CALLS: &[(&str, Call)] = &[
    ("embed: columns", |b, n| b.dev.embed(&b.of(&[3, 8 + n]), &b.of(&[11, 4]), &b.step)),
    ("embed: rows", |b, n| b.dev.embed(&b.of(&[3 + n, 4]), &b.of(&[11, 4]), &b.step)),
    ("rms_norm: y", |b, n| b.dev.rms_norm(&b.of(&[3 + n, 8]), &b.of(&[3, 8]), None, 1e-6)),
    ("rms_norm: w", |b, n| b.dev.rms_norm(&b.of(&[3, 8]), &b.of(&[3, 8]), Some(&b.of(&[8 + n])), 1e-6)),
    ("rms_norm: half in place", |b, n| {
        let x = b.of(&[4, 8]);
        b.dev.rms_norm(&x.slice(0..3), &x.slice(n..3 + n), None, 1e-6);
    }),
    ("matmul: n_in", |b, n| b.dev.matmul(&b.of(&[3, 5]), &b.of(&[5, 8]), &b.of(&[3, 8 + n]))),
    ("matmul: n_out", |b, n| b.dev.matmul(&b.of(&[3, 5 + n]), &b.of(&[5, 8]), &b.of(&[3, 8]))),
    ("matmul: rows", |b, n| b.dev.matmul(&b.of(&[3 + n, 5]), &b.of(&[5, 8]), &b.of(&[3, 8]))),
    ("matmul_grouped: n_out is no multiple", |b, n| {
        b.dev.matmul_grouped(&b.of(&[3, 6 + n]), &b.of(&[6 + n, 8]), &b.of(&[3, 16]), 2);
    }),
    ("matmuls: n_in of the second", |b, n| {
        let (x, w) = (b.of(&[3, 8]), [b.of(&[5, 8]), b.of(&[4, 8 + n])]);
        b.dev.matmuls(&[(&b.of(&[3, 5]), &w[0]), (&b.of(&[3, 4]), &w[1])], &x);
    }),
    ("gated: y", |b, n| gated(b, 6, 3 + n)),
    ("gated: gate and up differ", |b, n| gated(b, 6 + n, 3)),
    ("add: columns", |b, n| b.dev.add(&b.of(&[3, 8]), &b.of(&[1, 8 + n]))),
    ("add: rows", |b, n| b.dev.add(&b.of(&[3, 8]), &b.of(&[3 + n, 8]))),
    ("swiglu", |b, n| b.dev.swiglu(&b.of(&[3, 8]), &b.of(&[3, 8]), &b.of(&[3 + n, 8]), None)),
    ("rope: rows", |b, n| b.dev.rope(&b.of(&[3 + n, 2, 8]), &rope(b, 4), false, &b.step)),
    ("rope: heads too short", |b, n| b.dev.rope(&b.of(&[3, 2, 8]), &rope(b, 4 + n), false, &b.step)),
    ("store", |b, n| b.dev.store(&b.cache(&[3, 9, 8]), &b.of(&[3 + n, 8]), &b.step)),
    ("attention: heads", |b, n| attend(b, 4 - n, 8)),
    ("attention: cache", |b, n| attend(b, 4, 8 + n)),
    ("route: weights", |b, n| route(b, [2 + n, 8], None)),
    ("route: more than there are", |b, n| route(b, [2, 2 - n], None)),
    ("route: bias", |b, n| route(b, [2, 8], Some(8 + n))),
    ("moe: rows", |b, n| moe(b, [3 + n, 2], 6)),
    ("moe: weights", |b, n| moe(b, [3, 2 + n], 6)),
    ("moe: down", |b, n| moe(b, [3, 2], 6 + n)),
    ("hyper_pre: post", |b, n| hyper_pre(b, 3 + n, 8)),
    ("hyper_pre: base", |b, n| hyper_pre(b, 3, 8 + n)),
    ("hyper_post", |b, n| {
        b.dev.hyper_post(&b.of(&[3, 2, 5]), &b.of(&[3, 5]), &b.of(&[3, 2]), &b.of(&[3 + n, 2, 2]));
    }),
    ("hyper_head", |b, n| {
        let (x, mixes) = (b.of(&[3, 2, 5]), b.of(&[3, 2]));
        b.dev.hyper_head(&b.of(&[3, 5]), &x, &mixes, &b.of(&[1]), &b.of(&[2 + n]), &HYPER);
    }),
];

const HYPER: Hyper = Hyper { n_iter: 2, eps: 1e-6, eps_norm: 1e-6 };

fn rope(b: &Bench, n_pairs: usize) -> Rope {
    Rope { freq: b.of(&[n_pairs]), pairs: Pairs::Halves, tail: false, scale: 1.0 }
}

fn attend(b: &Bench, n_head: usize, width: usize) {
    let a = Attention { n_head, n_head_kv: 2, scale: 1.0 };
    let (k, v) = (b.cache(&[3, 9, width]), b.cache(&[3, 9, 8]));
    b.dev.attention(&b.of(&[3, 16]), &b.of(&[3, 16]), &k, &v, &a, &b.step);
}

fn gated(b: &Bench, n_up: usize, n_rows: usize) {
    let (gate, up) = ((&b.of(&[3, 6]), &b.of(&[6, 8])), (&b.of(&[3, n_up]), &b.of(&[n_up, 8])));
    b.dev.gated(&b.of(&[n_rows, 6]), [gate, up], &b.of(&[3, 8]), None);
}

fn route(b: &Bench, [n_weights, n_expert]: [usize; 2], bias: Option<usize>) {
    let bias = bias.map(|n| b.of(&[n]));
    let r = Router { gating: Gating::Softmax, bias, table: None, normalize: true, scale: 1.0 };
    b.dev.route(&b.i32s(&[3, 2]), &b.of(&[3, n_weights]), &b.of(&[3, n_expert]), &r, &b.step);
}

fn moe(b: &Bench, [n_rows, k]: [usize; 2], n_ff: usize) {
    let bank = Bank::resident(&b.of(&[2, 6, 4]), &b.of(&[2, 6, 4]), &b.of(&[2, 4, n_ff]));
    let (x, experts) = (b.of(&[3, 4]), b.i32s(&[3, 2]));
    b.dev.moe(&b.of(&[3, 4]), &x, &bank, &experts, &b.of(&[n_rows, k]), None);
}

fn hyper_pre(b: &Bench, n_rows: usize, n_base: usize) {
    let (x, mixes) = (b.of(&[3, 2, 5]), b.of(&[3, 8]));
    let (scale, base) = (b.of(&[3]), b.of(&[n_base]));
    let [y, post, comb] = [b.of(&[3, 5]), b.of(&[n_rows, 2]), b.of(&[3, 2, 2])];
    b.dev.hyper_pre(&y, &post, &comb, &x, &mixes, &scale, &base, &HYPER);
}

pub(super) fn calls(cases: &mut Cases) {
    for &(name, call) in CALLS {
        cases.add(name, move |lab| {
            let panics = |n: usize| {
                let step = Step::new(lab.dev, 3).expect("memory for a step").set(lab.dev, &rows(&[(1, 0..3)]));
                let bench = Bench { dev: lab.dev, step };
                catch_unwind(AssertUnwindSafe(|| call(&bench, n))).is_err()
            };
            let (right, wrong) = (!panics(0), panics(1));
            lab.claim(right, "the right call runs");
            lab.claim(wrong, "the wrong call panics");
            vec![]
        });
    }
}
