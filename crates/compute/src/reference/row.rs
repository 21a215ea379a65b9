//! The arithmetic of a single row: the parts of the definition that backends may call as they are, because they cost
//! little beside the matrix products.

use crate::{Gating, Hyper, Pairs};

/// `1 / sqrt(mean(x^2) + eps)`
pub fn rms(x: &[f32], eps: f32) -> f32 {
    let sum: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    (1.0 / (sum / x.len() as f64 + f64::from(eps)).sqrt()) as f32
}

/// `x / (1 + e^-x)`
pub fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// `1 / (1 + e^-x)`
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `silu(min(gate, limit)) * clamp(up, -limit, limit)`
pub fn swiglu(gate: f32, up: f32, limit: Option<f32>) -> f32 {
    match limit {
        // Limits must not make numbers of what is none.
        Some(_) if !(gate.is_finite() && up.is_finite()) => f32::NAN,
        Some(limit) => silu(if gate > limit { limit } else { gate }) * up.clamp(-limit, limit),
        None => silu(gate) * up,
    }
}

/// Cosine and sine of `pos * freq[i]`, times `scale`. Angles are taken in f64: at position 1,000,000 an f32 angle is
/// off by a thirtieth of a radian.
pub fn angles(freq: &[f32], pos: u32, scale: f32, inverse: bool) -> Vec<(f32, f32)> {
    let sign = if inverse { -1.0 } else { 1.0 };
    let turn = |&f: &f32| {
        let (sin, cos) = (f64::from(pos) * f64::from(f) * sign).sin_cos();
        (cos as f32 * scale, sin as f32 * scale)
    };
    freq.iter().map(turn).collect()
}

/// Turns one head by `angles`.
pub fn rope(head: &mut [f32], angles: &[(f32, f32)], pairs: Pairs, tail: bool) {
    let n_rot = 2 * angles.len();
    let at = if tail { head.len() - n_rot } else { 0 };
    let part = &mut head[at..at + n_rot];
    for (i, &(cos, sin)) in angles.iter().enumerate() {
        let (a, b) = match pairs {
            Pairs::Adjacent => (2 * i, 2 * i + 1),
            Pairs::Halves => (i, i + n_rot / 2),
        };
        let (x, y) = (part[a], part[b]);
        part[a] = x * cos - y * sin;
        part[b] = x * sin + y * cos;
    }
}

/// Equations H3 to H8 for one row and `n` streams: `mixes`, `(2 + n) * n` long, become the weights of the streams in
/// the layer's input, those of its output, and the mixing matrix, in this order. `rho` is H1.
pub fn hyper_mix(mixes: &mut [f32], n: usize, rho: f32, scale: &[f32], base: &[f32], h: &Hyper) {
    for (i, (m, b)) in mixes.iter_mut().zip(base).enumerate() {
        *m = *m * rho * scale[(i / n).min(2)] + b;
    }
    let (weights, comb) = mixes.split_at_mut(2 * n);
    weights[..n].iter_mut().for_each(|m| *m = sigmoid(*m) + h.eps);
    weights[n..].iter_mut().for_each(|m| *m = 2.0 * sigmoid(*m));
    sinkhorn(comb, n, h);
}

/// H6 to H8: softmax over the destinations, then columns and rows normalised in turn, columns first and last.
fn sinkhorn(c: &mut [f32], n: usize, h: &Hyper) {
    for row in c.chunks_exact_mut(n) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|v| *v = (*v - max).exp());
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|v| *v = *v / sum + h.eps);
    }
    for i in 0..h.n_iter {
        if i > 0 {
            for row in c.chunks_exact_mut(n) {
                let sum = row.iter().sum::<f32>() + h.eps;
                row.iter_mut().for_each(|v| *v /= sum);
            }
        }
        for k in 0..n {
            let sum = (0..n).map(|j| c[j * n + k]).sum::<f32>() + h.eps;
            (0..n).for_each(|j| c[j * n + k] /= sum);
        }
    }
}

/// The streams' weights in the output: `sigmoid(mixes * rho * scale + base) + eps`
pub fn hyper_head(mixes: &[f32], rho: f32, scale: f32, base: &[f32], h: &Hyper) -> Vec<f32> {
    mixes.iter().zip(base).map(|(m, b)| sigmoid(m * rho * scale + b) + h.eps).collect()
}

/// `y = sum_k w[k] * x[k]` over the streams of `x`
pub fn mix_streams(y: &mut [f32], x: &[f32], w: &[f32]) {
    y.fill(0.0);
    for (x, &w) in x.chunks_exact(y.len()).zip(w) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += w * x);
    }
}

/// `x[k] = post[k] * f + sum_j comb[j, k] * x[j]`
pub fn hyper_post(x: &mut [f32], f: &[f32], post: &[f32], comb: &[f32]) {
    let (n, d) = (post.len(), f.len());
    let old = x.to_vec();
    for k in 0..n {
        for i in 0..d {
            let mixed: f32 = (0..n).map(|j| comb[j * n + k] * old[j * d + i]).sum();
            x[k * d + i] = post[k] * f[i] + mixed;
        }
    }
}

/// Probabilities from logits, in place.
pub fn gate(x: &mut [f32], gating: Gating) {
    match gating {
        Gating::Softmax => {
            let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            x.iter_mut().for_each(|v| *v = (*v - max).exp());
            let sum: f32 = x.iter().sum();
            x.iter_mut().for_each(|v| *v /= sum);
        }
        Gating::SqrtSoftplus => x.iter_mut().for_each(|v| *v = softplus(*v).sqrt()),
    }
}

/// `ln(1 + e^x)`
fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// The smallest sum that chosen probabilities are divided by: a router that gives nothing to anyone stays finite.
const SUM_MIN: f32 = 6.103_515_6e-5; // 2^-14

/// Weights of the chosen experts, from all probabilities.
pub fn route_weights(weights: &mut [f32], chosen: &[i32], p: &[f32], normalize: bool, scale: f32) {
    for (w, &e) in weights.iter_mut().zip(chosen) {
        *w = p[e as usize];
    }
    let sum = if normalize { weights.iter().sum::<f32>().max(SUM_MIN) } else { 1.0 };
    weights.iter_mut().for_each(|w| *w = *w / sum * scale);
}

/// The indices of the `chosen.len()` largest scores, ascending, then -1 where there are fewer scores. Of equal scores
/// the lower index wins; NaN counts as least. Returns whether all scores are numbers.
pub fn top(chosen: &mut [i32], scores: &[f32]) -> bool {
    let k = chosen.len().min(scores.len());
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let key = |i: &usize| if scores[*i].is_nan() { f32::NEG_INFINITY } else { scores[*i] };
    if k > 0 && k < order.len() {
        order.select_nth_unstable_by(k - 1, |a, b| key(b).total_cmp(&key(a)).then(a.cmp(b)));
    }
    order.truncate(k);
    order.sort_unstable();
    chosen.fill(-1);
    chosen.iter_mut().zip(order).for_each(|(c, i)| *c = i as i32);
    !scores.iter().any(|s| s.is_nan())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clamps_let_nan_through() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(swiglu(odd, 1.0, Some(10.0)).is_nan());
            assert!(swiglu(1.0, odd, Some(10.0)).is_nan());
        }
    }
}
