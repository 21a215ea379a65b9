//! What each operation asks of its callers' shapes: asserted in one place, for every device.
//!
//! Views may cut a tensor's elements into other dimensions than the operation's own, so that what counts is mostly how
//! many there are per row of the batch.

#[cfg(doc)]
use crate::Device;
use crate::{Attention, Bank, Chooser, Compressor, Latent, Rope, Router, Step, Tensor};

/// Elements of `x`.
fn n(x: &Tensor) -> usize {
    x.rows() * x.cols()
}

#[track_caller]
fn check(right: bool, what: &str, tensors: &[&Tensor]) {
    assert!(right, "{what} cannot be of {tensors:?}");
}

/// A cache: `[n_slot, n_row, width]`.
fn is_cache(x: &Tensor, width: usize) -> bool {
    x.shape().len() == 3 && x.cols() == width && x.shape()[1] > 0
}

/// See [`Device::embed`].
pub fn embed(y: &Tensor, table: &Tensor, step: &Step) {
    check(y.rows() == step.len() && y.cols().is_multiple_of(table.cols()), "embed", &[y, table, &step.id]);
}

/// See [`Device::rms_norm`].
pub fn rms_norm(y: &Tensor, x: &Tensor, w: Option<&Tensor>) {
    check(n(y) == n(x) && w.is_none_or(|w| n(w) == x.cols()), "rms_norm", &[y, x, w.unwrap_or(x)]);
    check(!y.overlaps(x) || y.byte_range() == x.byte_range(), "rms_norm half in place", &[y, x]);
}

/// See [`Device::matmul_grouped`].
pub fn matmul_grouped(y: &Tensor, w: &Tensor, x: &Tensor, n_group: usize) {
    let right = (x.cols(), y.cols(), y.rows()) == (w.cols() * n_group, w.rows(), x.rows());
    check(right && w.rows().is_multiple_of(n_group), "matmul", &[y, w, x]);
}

/// See [`Device::add`].
pub fn add(x: &Tensor, b: &Tensor) {
    check(n(b) == n(x) || n(b) == x.cols(), "add", &[x, b]);
}

/// See [`Device::swiglu`].
pub fn swiglu(y: &Tensor, gate: &Tensor, up: &Tensor) {
    check(n(y) == n(gate) && n(y) == n(up), "swiglu", &[y, gate, up]);
}

/// See [`Device::gated`].
pub fn gated(y: &Tensor, [(gate, w_gate), (up, w_up)]: [(&Tensor, &Tensor); 2], x: &Tensor) {
    matmul_grouped(gate, w_gate, x, 1);
    matmul_grouped(up, w_up, x, 1);
    swiglu(y, gate, up);
}

/// See [`Device::rope`].
pub fn rope(x: &Tensor, r: &Rope, step: &Step) {
    let heads = x.shape().len() == 3 && x.shape()[0] == step.len();
    check(heads && 2 * n(&r.freq) <= x.cols(), "rope", &[x, &r.freq, &step.pos]);
}

/// See [`Device::store`].
pub fn store(cache: &Tensor, x: &Tensor, step: &Step) {
    check(is_cache(cache, cache.cols()) && n(x) == step.len() * cache.cols(), "store", &[cache, x, &step.pos]);
}

/// See [`Device::attention`].
pub fn attention(y: &Tensor, q: &Tensor, k: &Tensor, v: &Tensor, a: &Attention, step: &Step) {
    let heads = a.n_head.is_multiple_of(a.n_head_kv) && q.cols().is_multiple_of(a.n_head);
    let width = q.cols() / a.n_head * a.n_head_kv;
    let right = heads && q.shape() == y.shape() && q.rows() == step.len();
    check(right && is_cache(k, width) && is_cache(v, width), "attention", &[y, q, k, v, &step.pos]);
}

/// See [`Device::latent_attention`].
pub fn latent_attention(y: &Tensor, q: &Tensor, a: &Latent, step: &Step) {
    let width = a.ring.cols();
    let right = q.rows() == step.len() && n(y) == n(q) && q.cols() == n(&a.sinks) * width;
    check(right && is_cache(&a.ring, width), "latent_attention", &[y, q, &a.ring, &a.sinks, &step.pos]);
    check(a.ring.shape()[1] >= a.window && a.window > 0, "a window", &[&a.ring]);
    if let Some(c) = &a.compressed {
        check(is_cache(&c.rows, width), "compressed rows", &[&a.ring, &c.rows]);
        c.chosen.iter().for_each(|chosen| check(chosen.rows() == step.len(), "chosen rows", &[chosen, &step.pos]));
    }
}

/// See [`Device::compress`].
pub fn compress(kv: &Tensor, gate: &Tensor, c: &Compressor, step: &Step) {
    let (head_dim, width) = (c.rows.cols(), c.ape.cols());
    let halves = if c.overlap { 2 } else { 1 };
    let right = width == halves * head_dim && n(&c.ape) == c.ratio * width && n(&c.norm) == head_dim;
    let batch = n(kv) == step.len() * width && n(gate) == n(kv);
    check(right && batch && is_cache(&c.rows, head_dim), "compress", &[kv, gate, &c.ape, &c.norm, &c.rows, &step.pos]);
    check(is_cache(&c.frontier_kv, width) && is_cache(&c.frontier_gate, width), "a frontier", &[&c.frontier_kv]);
    let enough = |ring: &Tensor| ring.shape()[1] >= halves * c.ratio;
    check(enough(&c.frontier_kv) && enough(&c.frontier_gate), "a frontier", &[&c.frontier_kv, &c.frontier_gate]);
}

/// See [`Device::choose`].
pub fn choose(chosen: &Tensor, q: &Tensor, weight: &Tensor, c: &Chooser, step: &Step) {
    let right = [chosen.rows(), q.rows(), weight.rows()] == [step.len(); 3];
    let heads = q.cols() == weight.cols() * c.rows.cols() && is_cache(&c.rows, c.rows.cols());
    check(right && heads, "choose", &[chosen, q, weight, &c.rows, &step.pos]);
}

/// See [`Device::hyper_pre`].
pub fn hyper_pre([y, post, comb]: [&Tensor; 3], [x, mixes, scale, base]: [&Tensor; 4]) {
    let (t, s) = (y.rows(), post.cols());
    let outs = n(post) == t * s && n(comb) == t * s * s;
    let ins = n(x) == s * n(y) && n(mixes) == t * (2 + s) * s && n(scale) == 3 && n(base) == (2 + s) * s;
    check(outs && ins, "hyper_pre", &[y, post, comb, x, mixes, scale, base]);
}

/// See [`Device::hyper_post`].
pub fn hyper_post(x: &Tensor, f: &Tensor, post: &Tensor, comb: &Tensor) {
    let (t, s) = (post.rows(), post.cols());
    let right = n(f).is_multiple_of(t) && n(x) == s * n(f) && n(comb) == t * s * s;
    check(right, "hyper_post", &[x, f, post, comb]);
}

/// See [`Device::hyper_head`].
pub fn hyper_head(y: &Tensor, [x, mixes, scale, base]: [&Tensor; 4]) {
    let (t, s) = (y.rows(), mixes.cols());
    let right = n(x) == s * n(y) && n(mixes) == t * s && n(scale) == 1 && n(base) == s;
    check(right, "hyper_head", &[y, x, mixes, scale, base]);
}

/// See [`Device::route`].
pub fn route(experts: &Tensor, weights: &Tensor, logits: &Tensor, r: &Router, step: &Step) {
    let (k, n_expert) = (experts.cols(), logits.cols());
    let rows = [experts.rows(), weights.rows(), logits.rows()] == [step.len(); 3];
    let right = rows && weights.cols() == k && k <= n_expert;
    check(right, "route", &[experts, weights, logits, &step.id]);
    r.bias.iter().for_each(|bias| check(n(bias) == n_expert, "a router's bias", &[bias, logits]));
    r.table.iter().for_each(|table| check(table.cols() == k, "a router's table", &[table, experts]));
}

/// See [`Device::moe`].
pub fn moe(y: &Tensor, x: &Tensor, bank: &Bank, experts: &Tensor, weights: &Tensor) {
    let right = n(y) == n(x) && [experts.rows(), weights.rows()] == [x.rows(); 2] && experts.cols() == weights.cols();
    check(right, "moe", &[y, x, experts, weights]);
    if let Some(expert) = bank.any() {
        check(x.cols() == expert.gate.cols(), "a bank", &[x, &expert.gate]);
    }
}
