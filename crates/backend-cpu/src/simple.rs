//! Operations that cost little beside the matrix products: one row of the batch at a time.

use compute::{
    Hyper, Kind, Rope, Router, Step, Tensor,
    reference::row::{self},
    shapes,
};

use crate::{Cpu, memory::borrow};

/// Elements below which a row is not worth waking another thread for.
const GRAIN: usize = 16 << 10;

fn grain(cols: usize) -> usize {
    (GRAIN / cols).max(1)
}

/// See [`compute::Device::embed`].
pub(crate) fn embed(cpu: &Cpu, y: &Tensor, table: &Tensor, step: &Step) {
    shapes::embed(y, table, step);
    let Kind::Packed(format) = table.kind() else { panic!("embeddings of kind {:?}", table.kind()) };
    let (outs, ins) = ([y], [table, &step.id]);
    let access = cpu.access(&outs, &ins);
    let (bytes, ids) = (access.input::<u8>(0), access.input::<i32>(1));
    let row_bytes = table.row_bytes();
    cpu.pool.rows(access.out::<f32>(0), y.cols(), grain(y.cols()), &|t, y| {
        let (row, copies) = y.split_at_mut(table.cols());
        format.decode(&bytes[ids[t] as usize * row_bytes..][..row_bytes], row);
        copies.chunks_exact_mut(row.len()).for_each(|copy| copy.copy_from_slice(row));
    });
}

/// `1 / sqrt(mean(x^2) + eps)`
pub(crate) fn rms(cpu: &Cpu, x: &[f32], eps: f32) -> f32 {
    1.0 / ((cpu.vector.sum_sq)(x) / x.len() as f32 + eps).sqrt()
}

/// See [`compute::Device::rms_norm`].
pub(crate) fn rms_norm(cpu: &Cpu, y: &Tensor, x: &Tensor, w: Option<&Tensor>, eps: f32) {
    shapes::rms_norm(y, x, w);
    let n = x.cols();
    let normalize = |y: &mut [f32], w: Option<&[f32]>| {
        let rms = rms(cpu, y, eps);
        match w {
            Some(w) => y.iter_mut().zip(w).for_each(|(y, w)| *y *= rms * w),
            None => y.iter_mut().for_each(|y| *y *= rms),
        }
    };
    let in_place = y.overlaps(x);
    let ins: &[&Tensor] = match (w, in_place) {
        (Some(w), false) => &[w, x],
        (Some(w), true) => &[w],
        (None, false) => &[x],
        (None, true) => &[],
    };
    let outs = [y];
    let access = cpu.access(&outs, ins);
    let weight = w.map(|_| access.input::<f32>(0));
    let source = (!in_place).then(|| access.input::<f32>(ins.len() - 1));
    cpu.pool.rows(access.out::<f32>(0), n, grain(n), &|t, y| {
        if let Some(x) = source {
            y.copy_from_slice(&x[t * n..][..n]);
        }
        normalize(y, weight);
    });
}

/// See [`compute::Device::add`].
pub(crate) fn add(cpu: &Cpu, x: &Tensor, b: &Tensor) {
    shapes::add(x, b);
    let (outs, ins) = ([x], [b]);
    let access = cpu.access(&outs, &ins);
    let (b, n) = (access.input::<f32>(0), x.cols());
    cpu.pool.rows(access.out::<f32>(0), n, grain(n), &|t, x| {
        let b = if b.len() == n { b } else { &b[t * n..][..n] };
        x.iter_mut().zip(b).for_each(|(x, b)| *x += b);
    });
}

/// See [`compute::Device::swiglu`].
pub(crate) fn swiglu(cpu: &Cpu, y: &Tensor, gate: &Tensor, up: &Tensor, limit: Option<f32>) {
    shapes::swiglu(y, gate, up);
    let (outs, ins) = ([y], [gate, up]);
    let access = cpu.access(&outs, &ins);
    let (gate, up, n) = (access.input::<f32>(0), access.input::<f32>(1), y.cols());
    cpu.pool.rows(access.out::<f32>(0), n, grain(n), &|t, y| {
        y.copy_from_slice(&gate[t * n..][..n]);
        (cpu.vector.swiglu)(y, &up[t * n..][..n], limit.unwrap_or(f32::INFINITY), 1.0);
    });
}

/// See [`compute::Device::rope`].
pub(crate) fn rope(cpu: &Cpu, x: &Tensor, r: &Rope, inverse: bool, step: &Step) {
    shapes::rope(x, r, step);
    let (outs, ins) = ([x], [&r.freq, &step.pos]);
    let access = cpu.access(&outs, &ins);
    let (freq, pos) = (access.input::<f32>(0), access.input::<i32>(1));
    let (n_head, head_dim) = (x.shape()[1], x.cols());
    cpu.pool.rows(access.out::<f32>(0), n_head * head_dim, grain(n_head * head_dim), &|t, heads| {
        let angles = row::angles(freq, pos[t] as u32, r.scale, inverse);
        heads.chunks_exact_mut(head_dim).for_each(|head| row::rope(head, &angles, r.pairs, r.tail));
    });
}

/// See [`compute::Device::store`].
pub(crate) fn store(cpu: &Cpu, cache: &Tensor, x: &Tensor, step: &Step) {
    shapes::store(cache, x, step);
    let Kind::Cached(format) = cache.kind() else { panic!("a cache of kind {:?}", cache.kind()) };
    let (outs, ins) = ([cache], [x, &step.pos, &step.slot]);
    let access = cpu.access(&outs, &ins);
    let (x, pos, slot) = (access.input::<f32>(0), access.input::<i32>(1), access.input::<i32>(2));
    let (rows, n_row, row_bytes) = (access.out::<u8>(0), cache.shape()[1], cache.row_bytes());
    for (t, x) in x.chunks_exact(cache.cols()).enumerate() {
        let row = slot[t] as usize * n_row + pos[t] as usize % n_row;
        format.encode_row(x, &mut rows[row * row_bytes..][..row_bytes]);
    }
}

/// See [`compute::Device::hadamard`].
pub(crate) fn hadamard(cpu: &Cpu, x: &Tensor) {
    let outs = [x];
    let access = cpu.access(&outs, &[]);
    cpu.pool.rows(access.out::<f32>(0), x.cols(), grain(x.cols()), &|_, x| quant::hadamard(x));
}

/// See [`compute::Device::round`].
pub(crate) fn round(cpu: &Cpu, x: &Tensor, kind: Kind) {
    let Kind::Cached(format) = kind else { panic!("rounding to {kind:?}") };
    let outs = [x];
    let access = cpu.access(&outs, &[]);
    cpu.pool.rows(access.out::<f32>(0), x.cols(), grain(x.cols()), &|_, x| {
        borrow(format.row_bytes(x.len()), |packed| {
            format.encode_row(x, packed);
            format.decode_row(packed, x);
        });
    });
}

/// See [`compute::Device::hyper_pre`].
pub(crate) fn hyper_pre(cpu: &Cpu, [y, post, comb]: [&Tensor; 3], [x, mixes, scale, base]: [&Tensor; 4], h: &Hyper) {
    shapes::hyper_pre([y, post, comb], [x, mixes, scale, base]);
    let (outs, ins) = ([y, post, comb], [x, mixes, scale, base]);
    let access = cpu.access(&outs, &ins);
    let [x, mixes, scale, base] = [0, 1, 2, 3].map(|i| access.input::<f32>(i));
    let (n, d) = (post.cols(), y.cols());
    let mut scratch = cpu.scratch.lock().unwrap_or_else(|e| e.into_inner());
    let new_mixes = scratch.hidden.get::<f32>(mixes.len());
    new_mixes.copy_from_slice(mixes);
    cpu.pool.rows(new_mixes, (2 + n) * n, grain(n * d), &|t, mixes| {
        row::hyper_mix(mixes, n, rms(cpu, &x[t * n * d..][..n * d], h.eps_norm), scale, base, h);
    });
    let mixes: &[f32] = new_mixes;
    let (post, comb) = (access.out::<f32>(1), access.out::<f32>(2));
    for (t, mixes) in mixes.chunks_exact((2 + n) * n).enumerate() {
        post[t * n..][..n].copy_from_slice(&mixes[n..2 * n]);
        comb[t * n * n..][..n * n].copy_from_slice(&mixes[2 * n..]);
    }
    cpu.pool.rows(access.out::<f32>(0), d, grain(n * d), &|t, y| {
        mix_streams(cpu, y, &x[t * n * d..][..n * d], &mixes[t * (2 + n) * n..][..n]);
    });
}

/// `y = sum_k w[k] * x[k]`
fn mix_streams(cpu: &Cpu, y: &mut [f32], x: &[f32], w: &[f32]) {
    y.fill(0.0);
    for (x, &w) in x.chunks_exact(y.len()).zip(w) {
        (cpu.vector.axpy)(y, w, x);
    }
}

/// See [`compute::Device::hyper_post`].
pub(crate) fn hyper_post(cpu: &Cpu, x: &Tensor, f: &Tensor, post: &Tensor, comb: &Tensor) {
    shapes::hyper_post(x, f, post, comb);
    let (outs, ins) = ([x], [f, post, comb]);
    let access = cpu.access(&outs, &ins);
    let [f, post_rows, comb_rows] = [0, 1, 2].map(|i| access.input::<f32>(i));
    let (n, d) = (post.cols(), f.len() / post.rows());
    cpu.pool.rows(access.out::<f32>(0), n * d, grain(n * d), &|t, x| {
        let (f, post, comb) = (&f[t * d..][..d], &post_rows[t * n..][..n], &comb_rows[t * n * n..][..n * n]);
        borrow(n * d, |old| {
            old.copy_from_slice(x);
            for (k, x) in x.chunks_exact_mut(d).enumerate() {
                x.iter_mut().zip(f).for_each(|(x, f)| *x = post[k] * f);
                (0..n).for_each(|j| (cpu.vector.axpy)(x, comb[j * n + k], &old[j * d..][..d]));
            }
        });
    });
}

/// See [`compute::Device::hyper_head`].
pub(crate) fn hyper_head(cpu: &Cpu, y: &Tensor, [x, mixes, scale, base]: [&Tensor; 4], h: &Hyper) {
    shapes::hyper_head(y, [x, mixes, scale, base]);
    let (outs, ins) = ([y], [x, mixes, scale, base]);
    let access = cpu.access(&outs, &ins);
    let (n, d) = (mixes.cols(), y.cols());
    let [x, mixes, scale, base] = [0, 1, 2, 3].map(|i| access.input::<f32>(i));
    cpu.pool.rows(access.out::<f32>(0), d, grain(n * d), &|t, y| {
        let x = &x[t * n * d..][..n * d];
        let weights = row::hyper_head(&mixes[t * n..][..n], rms(cpu, x, h.eps_norm), scale[0], base, h);
        mix_streams(cpu, y, x, &weights);
    });
}

/// See [`compute::Device::route`].
pub(crate) fn route(cpu: &Cpu, experts: &Tensor, weights: &Tensor, logits: &Tensor, r: &Router, step: &Step) {
    shapes::route(experts, weights, logits, r, step);
    let (outs, mut ins) = ([experts, weights], vec![logits, &step.id]);
    ins.extend(r.bias.iter().chain(&r.table));
    let access = cpu.access(&outs, &ins);
    let bias = r.bias.as_ref().map(|_| access.input::<f32>(2));
    let table = r.table.as_ref().map(|_| access.input::<i32>(ins.len() - 1));
    let (logits_rows, ids) = (access.input::<f32>(0), access.input::<i32>(1));
    let (k, n) = (experts.cols(), logits.cols());
    let mut chosen = vec![(0i32, 0f32); ids.len() * k];
    cpu.pool.rows(&mut chosen, k, grain(16 * n), &|t, out| {
        let mut p = logits_rows[t * n..][..n].to_vec();
        row::gate(&mut p, r.gating);
        let mut experts = vec![0; k];
        match table {
            Some(table) => {
                experts.copy_from_slice(&table[ids[t] as usize * k..][..k]);
                experts.sort_unstable();
            }
            None => {
                let scores = p.iter().enumerate().map(|(e, p)| p + bias.map_or(0.0, |b| b[e]));
                if !row::top(&mut experts, &scores.collect::<Vec<f32>>()) {
                    p.fill(f32::NAN);
                }
            }
        }
        let mut weights = vec![0.0; k];
        row::route_weights(&mut weights, &experts, &p, r.normalize, r.scale);
        out.iter_mut().zip(experts.into_iter().zip(weights)).for_each(|(out, pair)| *out = pair);
    });
    access.out::<i32>(0).iter_mut().zip(&chosen).for_each(|(e, c)| *e = c.0);
    access.out::<f32>(1).iter_mut().zip(&chosen).for_each(|(w, c)| *w = c.1);
}
