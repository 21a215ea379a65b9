//! What each operation means: loops over host memory, in the order of the equations, sums in f64.
//!
//! [`Reference`] is a device with memory and nothing else; it inherits every operation from the default bodies in
//! [`Device`], which end here. Speed is no concern; there is nothing to be careful about but the equation.

pub mod row;

use std::{
    any::Any,
    sync::{Arc, RwLock},
};

use crate::{
    Attention, Bank, Buffer, Chooser, Compressed, Compressor, Device, DeviceError, F32, HostBytes, Hyper, Kind, Latent,
    Memory, Rope, Router, Step, Tensor, shapes,
};

/// The device that defines all others.
#[derive(Debug, Default)]
pub struct Reference;

struct HostBuffer(RwLock<Vec<u8>>);

impl Buffer for HostBuffer {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Reference {
    fn tensor(kind: Kind, shape: &[usize], bytes: Vec<u8>) -> Tensor {
        Tensor::new(Arc::new(HostBuffer(RwLock::new(bytes))), kind, shape)
    }
}

fn host(t: &Tensor) -> &RwLock<Vec<u8>> {
    &t.buffer().as_any().downcast_ref::<HostBuffer>().expect("a tensor of this device").0
}

impl Memory for Reference {
    fn alloc(&self, kind: Kind, shape: &[usize]) -> Result<Tensor, DeviceError> {
        let refused = |bytes: usize| DeviceError::OutOfMemory { device: self.name(), bytes };
        let bytes = kind.bytes(shape).ok_or_else(|| refused(usize::MAX))?;
        let mut zeros = vec![];
        zeros.try_reserve_exact(bytes).map_err(|_| refused(bytes))?;
        zeros.resize(bytes, 0);
        Ok(Reference::tensor(kind, shape, zeros))
    }

    fn load(&self, kind: Kind, shape: &[usize], bytes: HostBytes) -> Result<Tensor, DeviceError> {
        let t = Reference::tensor(kind, shape, (*bytes).as_ref().to_vec());
        assert_eq!(t.byte_range().end, (*bytes).as_ref().len(), "bytes of {t:?}");
        Ok(t)
    }

    fn write(&self, t: &Tensor, bytes: &[u8]) {
        host(t).write().expect("no operation panicked")[t.byte_range()].copy_from_slice(bytes);
    }

    fn read(&self, t: &Tensor, out: &mut [u8]) -> Result<(), DeviceError> {
        out.copy_from_slice(&host(t).read().expect("no operation panicked")[t.byte_range()]);
        Ok(())
    }
}

impl Device for Reference {
    fn name(&self) -> String {
        "reference".into()
    }
}

/// The elements of `t` as f32, rows decoded. Zeros after a failure, which the device remembers.
pub fn f32s<M: Memory + ?Sized>(m: &M, t: &Tensor) -> Vec<f32> {
    let bytes = bytes(m, t);
    let mut out = vec![0.0; t.rows() * t.cols()];
    for (row, out) in bytes.chunks_exact(t.row_bytes()).zip(out.chunks_exact_mut(t.cols())) {
        match t.kind() {
            Kind::Packed(format) => format.decode(row, out),
            Kind::Cached(format) => format.decode_row(row, out),
            Kind::I32 => panic!("{t:?} holds no numbers to compute with"),
        }
    }
    out
}

/// The elements of an I32 tensor.
pub fn i32s<M: Memory + ?Sized>(m: &M, t: &Tensor) -> Vec<i32> {
    assert_eq!(t.kind(), Kind::I32);
    bytes(m, t).as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

/// Fills an F32 tensor.
pub fn put<M: Memory + ?Sized>(m: &M, t: &Tensor, x: &[f32]) {
    assert_eq!(t.kind(), F32);
    m.write(t, &x.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
}

fn put_i32<M: Memory + ?Sized>(m: &M, t: &Tensor, x: &[i32]) {
    assert_eq!(t.kind(), Kind::I32);
    m.write(t, &x.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
}

fn bytes<M: Memory + ?Sized>(m: &M, t: &Tensor) -> Vec<u8> {
    let mut out = vec![0; t.byte_range().len()];
    let _ = m.read(t, &mut out);
    out
}

/// A row of the batch, as [`crate::Row`], with sizes as indices.
struct Place {
    id: usize,
    pos: usize,
    slot: usize,
}

fn places<M: Memory + ?Sized>(m: &M, step: &Step) -> Vec<Place> {
    let [id, pos, slot] = [&step.id, &step.pos, &step.slot].map(|t| i32s(m, t));
    let place = |i: usize| Place { id: id[i] as usize, pos: pos[i] as usize, slot: slot[i] as usize };
    (0..step.len()).map(place).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// See [`Device::embed`].
pub fn embed<M: Memory + ?Sized>(m: &M, y: &Tensor, table: &Tensor, step: &Step) {
    shapes::embed(y, table, step);
    for (t, place) in places(m, step).iter().enumerate() {
        let row = f32s(m, &table.slice(place.id..place.id + 1));
        put(m, &y.slice(t..t + 1), &row.repeat(y.cols() / row.len()));
    }
}

/// See [`Device::rms_norm`].
pub fn rms_norm<M: Memory + ?Sized>(m: &M, y: &Tensor, x: &Tensor, w: Option<&Tensor>, eps: f32) {
    shapes::rms_norm(y, x, w);
    let mut x_rows = f32s(m, x);
    let w = w.map(|w| f32s(m, w));
    for x in x_rows.chunks_exact_mut(x.cols()) {
        let rms = row::rms(x, eps);
        x.iter_mut().enumerate().for_each(|(i, x)| *x *= rms * w.as_ref().map_or(1.0, |w| w[i]));
    }
    put(m, y, &x_rows);
}

/// See [`Device::matmul_grouped`].
pub fn matmul_grouped<M: Memory + ?Sized>(m: &M, y: &Tensor, w: &Tensor, x: &Tensor, n_group: usize) {
    shapes::matmul_grouped(y, w, x, n_group);
    let (n_out, n_in) = (w.rows(), w.cols());
    let (w, x) = (f32s(m, w), f32s(m, x));
    let mut y_rows = Vec::with_capacity(y.rows() * n_out);
    for x in x.chunks_exact(n_in * n_group) {
        for (o, w) in w.chunks_exact(n_in).enumerate() {
            let g = o / (n_out / n_group);
            y_rows.push(dot(w, &x[g * n_in..][..n_in]) as f32);
        }
    }
    put(m, y, &y_rows);
}

/// See [`Device::add`].
pub fn add<M: Memory + ?Sized>(m: &M, x: &Tensor, b: &Tensor) {
    shapes::add(x, b);
    let (mut sum, b) = (f32s(m, x), f32s(m, b));
    sum.iter_mut().zip(b.iter().cycle()).for_each(|(x, b)| *x += b);
    put(m, x, &sum);
}

/// See [`Device::swiglu`].
pub fn swiglu<M: Memory + ?Sized>(m: &M, y: &Tensor, gate: &Tensor, up: &Tensor, limit: Option<f32>) {
    shapes::swiglu(y, gate, up);
    let (gate, up) = (f32s(m, gate), f32s(m, up));
    put(m, y, &gate.iter().zip(up).map(|(&g, u)| row::swiglu(g, u, limit)).collect::<Vec<f32>>());
}

/// See [`Device::rope`].
pub fn rope<M: Memory + ?Sized>(m: &M, x: &Tensor, r: &Rope, inverse: bool, step: &Step) {
    shapes::rope(x, r, step);
    let freq = f32s(m, &r.freq);
    let (n_head, head_dim) = (x.shape()[1], x.cols());
    let mut rows = f32s(m, x);
    for (place, heads) in places(m, step).iter().zip(rows.chunks_exact_mut(n_head * head_dim)) {
        let angles = row::angles(&freq, place.pos as u32, r.scale, inverse);
        heads.chunks_exact_mut(head_dim).for_each(|head| row::rope(head, &angles, r.pairs, r.tail));
    }
    put(m, x, &rows);
}

/// See [`Device::store`].
pub fn store<M: Memory + ?Sized>(m: &M, cache: &Tensor, x: &Tensor, step: &Step) {
    shapes::store(cache, x, step);
    let x = f32s(m, x);
    for (place, x) in places(m, step).iter().zip(x.chunks_exact(cache.cols())) {
        put_row(m, cache, place.slot, place.pos % cache.shape()[1], x);
    }
}

fn cache_row(cache: &Tensor, slot: usize, row: usize) -> Tensor {
    cache.slice(slot..slot + 1).reshape(&cache.shape()[1..]).slice(row..row + 1)
}

fn put_row<M: Memory + ?Sized>(m: &M, cache: &Tensor, slot: usize, row: usize, x: &[f32]) {
    let mut packed = vec![0; cache.row_bytes()];
    match cache.kind() {
        Kind::Cached(format) => format.encode_row(x, &mut packed),
        kind => panic!("a cache of {kind:?}"),
    }
    m.write(&cache_row(cache, slot, row), &packed);
}

/// See [`Device::attention`].
pub fn attention<M: Memory + ?Sized>(
    m: &M,
    y: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    a: &Attention,
    step: &Step,
) {
    shapes::attention(y, q, k, v, a, step);
    let q_rows = f32s(m, q);
    let head_dim = q.cols() / a.n_head;
    let mut out = Vec::with_capacity(q_rows.len());
    for (place, q) in places(m, step).iter().zip(q_rows.chunks_exact(q.cols())) {
        let cached = |cache: &Tensor, pos: usize| f32s(m, &cache_row(cache, place.slot, pos % cache.shape()[1]));
        let rows: Vec<_> = (0..=place.pos).map(|j| (cached(k, j), cached(v, j))).collect();
        for (h, q) in q.chunks_exact(head_dim).enumerate() {
            let part = h * a.n_head_kv / a.n_head * head_dim..;
            let key_value = rows.iter().map(|(k, v)| (&k[part.clone()][..head_dim], &v[part.clone()][..head_dim]));
            out.extend(attend(q, key_value, f64::from(a.scale), f64::NEG_INFINITY));
        }
    }
    put(m, y, &out);
}

/// Softmax attention of one head, with a sink in the denominator.
fn attend<'a>(
    q: &[f32],
    rows: impl Iterator<Item = (&'a [f32], &'a [f32])> + Clone,
    scale: f64,
    sink: f64,
) -> Vec<f32> {
    let scores: Vec<f64> = rows.clone().map(|(k, _)| dot(q, k) * scale).collect();
    let max = scores.iter().copied().fold(sink, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum::<f64>() + (sink - max).exp();
    let mut y = vec![0.0; q.len()];
    for ((_, v), s) in rows.zip(scores) {
        let p = (s - max).exp() / sum;
        y.iter_mut().zip(v).for_each(|(y, &v)| *y += p * f64::from(v));
    }
    y.into_iter().map(|y| y as f32).collect()
}

/// See [`Device::latent_attention`].
pub fn latent_attention<M: Memory + ?Sized>(m: &M, y: &Tensor, q: &Tensor, a: &Latent, step: &Step) {
    shapes::latent_attention(y, q, a, step);
    let (q_rows, sinks) = (f32s(m, q), f32s(m, &a.sinks));
    let head_dim = a.ring.cols();
    let mut out = Vec::with_capacity(q_rows.len());
    for (t, (place, q)) in places(m, step).iter().zip(q_rows.chunks_exact(q.cols())).enumerate() {
        let first = (place.pos + 1).saturating_sub(a.window);
        let recent = (first..=place.pos).map(|j| cache_row(&a.ring, place.slot, j % a.ring.shape()[1]));
        let older = a.compressed.iter().flat_map(|c| seen(m, c, t, place));
        let rows: Vec<_> = recent.chain(older).map(|row| f32s(m, &row)).collect();
        for (q, &sink) in q.chunks_exact(head_dim).zip(&sinks) {
            out.extend(attend(q, rows.iter().map(|r| (&r[..], &r[..])), f64::from(a.scale), f64::from(sink)));
        }
    }
    put(m, y, &out);
}

/// The compressed rows that row `t` of the batch attends to.
fn seen<M: Memory + ?Sized>(m: &M, c: &Compressed, t: usize, place: &Place) -> Vec<Tensor> {
    let row = |w: usize| cache_row(&c.rows, place.slot, w);
    match &c.chosen {
        Some(chosen) => {
            i32s(m, &chosen.slice(t..t + 1)).iter().filter(|&&w| w >= 0).map(|&w| row(w as usize)).collect()
        }
        None => (0..(place.pos + 1) / c.ratio).map(row).collect(),
    }
}

/// See [`Device::compress`]. Token by token; a frontier of `2 * ratio` rows (`ratio` without overlap) is enough.
pub fn compress<M: Memory + ?Sized>(m: &M, kv: &Tensor, gate: &Tensor, c: &Compressor, step: &Step) {
    shapes::compress(kv, gate, c, step);
    let (kv, gate, ape) = (f32s(m, kv), f32s(m, gate), f32s(m, &c.ape));
    let width = c.ape.cols();
    for (t, place) in places(m, step).iter().enumerate() {
        let gate: Vec<f32> = (0..width).map(|i| gate[t * width + i] + ape[place.pos % c.ratio * width + i]).collect();
        put_row(m, &c.frontier_kv, place.slot, place.pos % c.frontier_kv.shape()[1], &kv[t * width..][..width]);
        put_row(m, &c.frontier_gate, place.slot, place.pos % c.frontier_gate.shape()[1], &gate);
        if (place.pos + 1) % c.ratio == 0 {
            put_row(m, &c.rows, place.slot, place.pos / c.ratio, &window(m, c, place));
        }
    }
}

/// The row of the window that ends at `place`.
fn window<M: Memory + ?Sized>(m: &M, c: &Compressor, place: &Place) -> Vec<f32> {
    let (first, head_dim) = (place.pos + 1 - c.ratio, c.rows.cols());
    let token = |pos: usize, half: usize| {
        let part = |ring: &Tensor| {
            f32s(m, &cache_row(ring, place.slot, pos % ring.shape()[1]))[half * head_dim..][..head_dim].to_vec()
        };
        (part(&c.frontier_kv), part(&c.frontier_gate))
    };
    let before = first.checked_sub(c.ratio).filter(|_| c.overlap).into_iter().flat_map(|p| p..p + c.ratio);
    let mut slots: Vec<_> = before.map(|pos| token(pos, 0)).collect();
    slots.extend((first..=place.pos).map(|pos| token(pos, usize::from(c.overlap))));
    let mut row = pool(&slots, head_dim);
    let (rms, norm) = (row::rms(&row, c.eps), f32s(m, &c.norm));
    row.iter_mut().zip(norm).for_each(|(x, w)| *x *= rms * w);
    let angles = row::angles(&f32s(m, &c.rope.freq), first as u32, c.rope.scale, false);
    row::rope(&mut row, &angles, c.rope.pairs, c.rope.tail);
    if c.hadamard {
        quant::hadamard(&mut row);
    }
    row
}

/// `sum_s softmax_s(gate_s) * kv_s`, element by element.
fn pool(slots: &[(Vec<f32>, Vec<f32>)], head_dim: usize) -> Vec<f32> {
    let element = |i: usize| {
        let max = slots.iter().map(|(_, gate)| gate[i]).fold(f32::NEG_INFINITY, f32::max);
        let weights = slots.iter().map(|(_, gate)| f64::from(gate[i] - max).exp());
        let sum: f64 = weights.clone().sum();
        (weights.zip(slots).map(|(w, (kv, _))| w * f64::from(kv[i])).sum::<f64>() / sum) as f32
    };
    (0..head_dim).map(element).collect()
}

/// See [`Device::hadamard`].
pub fn hadamard<M: Memory + ?Sized>(m: &M, x: &Tensor) {
    let mut rows = f32s(m, x);
    rows.chunks_exact_mut(x.cols()).for_each(quant::hadamard);
    put(m, x, &rows);
}

/// See [`Device::round`].
pub fn round<M: Memory + ?Sized>(m: &M, x: &Tensor, kind: Kind) {
    let Kind::Cached(format) = kind else { panic!("rounding to {kind:?}") };
    let mut rows = f32s(m, x);
    let mut packed = vec![0; kind.row_bytes(x.cols())];
    for row in rows.chunks_exact_mut(x.cols()) {
        format.encode_row(row, &mut packed);
        format.decode_row(&packed, row);
    }
    put(m, x, &rows);
}

/// See [`Device::choose`].
pub fn choose<M: Memory + ?Sized>(m: &M, chosen: &Tensor, q: &Tensor, weight: &Tensor, c: &Chooser, step: &Step) {
    shapes::choose(chosen, q, weight, c, step);
    let (q_rows, weights) = (f32s(m, q), f32s(m, weight));
    let head_dim = c.rows.cols();
    let mut out = vec![-1; chosen.rows() * chosen.cols()];
    for (t, place) in places(m, step).iter().enumerate() {
        let (q, weight) = (&q_rows[t * q.cols()..][..q.cols()], &weights[t * weight.cols()..][..weight.cols()]);
        let score = |w: usize| {
            let r = f32s(m, &cache_row(&c.rows, place.slot, w));
            let heads = q.chunks_exact(head_dim).zip(weight);
            heads.map(|(q, &v)| f64::from(v * c.scale) * dot(q, &r).max(0.0)).sum::<f64>() as f32
        };
        let scores: Vec<f32> = (0..(place.pos + 1) / c.ratio).map(score).collect();
        let _ = row::top(&mut out[t * chosen.cols()..][..chosen.cols()], &scores);
    }
    put_i32(m, chosen, &out);
}

/// See [`Device::hyper_pre`].
pub fn hyper_pre<M: Memory + ?Sized>(
    m: &M,
    [y, post, comb]: [&Tensor; 3],
    x: &Tensor,
    mixes: &Tensor,
    scale: &Tensor,
    base: &Tensor,
    h: &Hyper,
) {
    shapes::hyper_pre([y, post, comb], [x, mixes, scale, base]);
    let (n, d) = (post.cols(), y.cols());
    let (x_rows, mut mix_rows, scale, base) = (f32s(m, x), f32s(m, mixes), f32s(m, scale), f32s(m, base));
    let (mut ys, mut posts, mut combs) = (vec![0.0; y.rows() * d], vec![], vec![]);
    let rows = x_rows.chunks_exact(n * d).zip(mix_rows.chunks_exact_mut((2 + n) * n));
    for ((x, mixes), y) in rows.zip(ys.chunks_exact_mut(d)) {
        row::hyper_mix(mixes, n, row::rms(x, h.eps_norm), &scale, &base, h);
        row::mix_streams(y, x, &mixes[..n]);
        posts.extend_from_slice(&mixes[n..2 * n]);
        combs.extend_from_slice(&mixes[2 * n..]);
    }
    put(m, y, &ys);
    put(m, post, &posts);
    put(m, comb, &combs);
}

/// See [`Device::hyper_post`].
pub fn hyper_post<M: Memory + ?Sized>(m: &M, x: &Tensor, f: &Tensor, post: &Tensor, comb: &Tensor) {
    shapes::hyper_post(x, f, post, comb);
    let (n, d) = (post.cols(), f.cols());
    let mut x_rows = f32s(m, x);
    let (f, post, comb) = (f32s(m, f), f32s(m, post), f32s(m, comb));
    for (i, x) in x_rows.chunks_exact_mut(n * d).enumerate() {
        row::hyper_post(x, &f[i * d..][..d], &post[i * n..][..n], &comb[i * n * n..][..n * n]);
    }
    put(m, x, &x_rows);
}

/// See [`Device::hyper_head`].
pub fn hyper_head<M: Memory + ?Sized>(
    m: &M,
    y: &Tensor,
    x: &Tensor,
    mixes: &Tensor,
    scale: &Tensor,
    base: &Tensor,
    h: &Hyper,
) {
    shapes::hyper_head(y, [x, mixes, scale, base]);
    let (n, d) = (mixes.cols(), y.cols());
    let (x_rows, mix_rows, scale, base) = (f32s(m, x), f32s(m, mixes), f32s(m, scale), f32s(m, base));
    let mut ys = vec![0.0; y.rows() * d];
    for (i, y) in ys.chunks_exact_mut(d).enumerate() {
        let x = &x_rows[i * n * d..][..n * d];
        let rho = row::rms(x, h.eps_norm);
        row::mix_streams(y, x, &row::hyper_head(&mix_rows[i * n..][..n], rho, scale[0], &base, h));
    }
    put(m, y, &ys);
}

/// See [`Device::route`].
pub fn route<M: Memory + ?Sized>(m: &M, experts: &Tensor, weights: &Tensor, logits: &Tensor, r: &Router, step: &Step) {
    shapes::route(experts, weights, logits, r, step);
    let k = experts.cols();
    let mut rows = f32s(m, logits);
    let bias = r.bias.as_ref().map(|b| f32s(m, b));
    let (mut chosen, mut scaled) = (vec![0; experts.rows() * k], vec![0.0; weights.rows() * k]);
    for (t, p) in rows.chunks_exact_mut(logits.cols()).enumerate() {
        row::gate(p, r.gating);
        let chosen = &mut chosen[t * k..][..k];
        match &r.table {
            Some(table) => {
                let id = places(m, step)[t].id;
                chosen.copy_from_slice(&i32s(m, &table.slice(id..id + 1)));
                chosen.sort_unstable();
            }
            None => {
                let scores = p.iter().enumerate().map(|(e, p)| p + bias.as_ref().map_or(0.0, |b| b[e]));
                if !row::top(chosen, &scores.collect::<Vec<f32>>()) {
                    p.fill(f32::NAN);
                }
            }
        }
        row::route_weights(&mut scaled[t * k..][..k], chosen, p, r.normalize, r.scale);
    }
    put_i32(m, experts, &chosen);
    put(m, weights, &scaled);
}

/// See [`Device::moe`].
pub fn moe<M: Memory + ?Sized>(
    m: &M,
    y: &Tensor,
    x: &Tensor,
    bank: &Bank,
    experts: &Tensor,
    weights: &Tensor,
    limit: Option<f32>,
) {
    shapes::moe(y, x, bank, experts, weights);
    let (x_rows, experts_rows, weight_rows) = (f32s(m, x), i32s(m, experts), f32s(m, weights));
    let (k, d, mut ys) = (experts.cols(), x.cols(), f32s(m, y));
    for (t, (x, y)) in x_rows.chunks_exact(d).zip(ys.chunks_exact_mut(d)).enumerate() {
        for (&e, &w) in experts_rows[t * k..][..k].iter().zip(&weight_rows[t * k..][..k]) {
            let Some(expert) = bank.get(e as usize) else { continue };
            let [gate, up, down] = [&expert.gate, &expert.up, &expert.down].map(|w| f32s(m, w));
            let pairs = gate.chunks_exact(d).zip(up.chunks_exact(d));
            let h: Vec<f32> = pairs.map(|(g, u)| w * row::swiglu(dot(g, x) as f32, dot(u, x) as f32, limit)).collect();
            y.iter_mut().zip(down.chunks_exact(h.len())).for_each(|(y, down)| *y += dot(down, &h) as f32);
        }
    }
    put(m, y, &ys);
}
