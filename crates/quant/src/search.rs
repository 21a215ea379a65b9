//! How scales are found: what the encoders of formats with even levels share.
//!
//! A group of values `x` with weights `w` becomes levels `q`, whole numbers within bounds. Given the levels, the best scale
//! is a quotient of sums, and given the scale, the best levels are the nearest ones:
//!
//! ```text
//! x ~ s q        error  E = sum w (x - s q)^2        s = sum w x q / sum w q^2      E = sum w x^2 - (sum w x q)^2 / sum w q^2
//! x ~ s q + m    with the weighted means taken off x and q the same, and  m = mean x - s mean q
//! ```
//!
//! So a search starts from several scales, around the one that takes the largest value to the last level, goes from
//! scale to levels to scale for some rounds, and keeps the scale of least error. It follows all of them at once, one to
//! a lane of `LANES`: sums then have one order on every processor, and nothing is added across a register.
//!
//! Formats of 256 values store the scales of their groups as whole numbers, too. There, once a scale of scales is
//! found, each group chooses among the stored numbers nearby by the error that they really cause; the scale of
//! scales is then fitted to the levels, and the groups choose again.
//!
//! Weights are relative: the largest of a block is near 1, so that neither sums nor their squares overflow.
//! Source: alternating minimisation as in Lloyd, "Least squares quantization in PCM", 1982. What to weigh errors by, and
//! which starts are worth trying, comes from `make_qx_quants`, `make_qkx3_quants` in ggml's `ggml-quants.c`.

use half::f16;

/// Candidates that a search follows at once: two registers of AVX2, so that one fills the other's waits.
const LANES: usize = 16;

type Lanes = [f32; LANES];

/// What codes of a group are: whole numbers from `low` to `high`.
#[derive(Clone, Copy)]
pub(crate) struct Levels {
    pub(crate) low: f32,
    pub(crate) high: f32,
}

impl Levels {
    /// The level nearest to `v`; NaN becomes `low`.
    #[inline(always)]
    fn nearest(self, v: f32) -> f32 {
        let v = v.round_ties_even();
        let v = if v > self.low { v } else { self.low };
        if v < self.high { v } else { self.high }
    }
}

/// `w = I * sqrt(c * mean x^2 + x^2)` up to a factor: what an error in a value costs, given its importance.
///
/// A millionth of the largest importance is added to each: where a group has none, its values still count alike.
#[inline(always)]
pub(crate) fn weights<const N: usize>(x: &[f32; N], importance: Option<&[f32; N]>, c: f32) -> [f32; N] {
    let mean = lanes_sum(x, |v| v * v) / N as f32;
    let relative = if mean > 0.0 { 1.0 / mean } else { 0.0 };
    let mut w = *x;
    for w in &mut w {
        *w = (c + *w * *w * relative).sqrt();
    }
    if let Some(importance) = importance {
        let top = importance.iter().fold(0f32, |m, &v| if v > m { v } else { m });
        let relative = if top > f32::MIN_POSITIVE { 1.0 / top } else { 0.0 };
        for (w, i) in w.iter_mut().zip(importance) {
            *w *= i * relative + 1e-6;
        }
    }
    w
}

#[inline(always)]
fn lanes_sum<const N: usize>(x: &[f32; N], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; 8];
    for x in x.as_chunks::<8>().0 {
        for (sum, v) in sums.iter_mut().zip(x) {
            *sum += f(*v);
        }
    }
    sums.iter().sum()
}

/// The smallest and the largest value.
#[inline(always)]
fn bounds<const N: usize>(x: &[f32; N]) -> (f32, f32) {
    let (mut low, mut high) = ([f32::INFINITY; 8], [f32::NEG_INFINITY; 8]);
    for x in x.as_chunks::<8>().0 {
        for j in 0..8 {
            low[j] = if x[j] < low[j] { x[j] } else { low[j] };
            high[j] = if x[j] > high[j] { x[j] } else { high[j] };
        }
    }
    let low = low.into_iter().fold(f32::INFINITY, |m, v| if v < m { v } else { m });
    (low, high.into_iter().fold(f32::NEG_INFINITY, |m, v| if v > m { v } else { m }))
}

/// A scale, and `sum w q^2`, by which an error of the scale costs.
#[derive(Clone, Copy, Default)]
pub(crate) struct Fit {
    pub(crate) scale: f32,
    pub(crate) stiffness: f32,
}

/// The best scale found for `x ~ scale * q`.
#[inline(always)]
pub(crate) fn scale<const N: usize>(x: &[f32; N], w: &[f32; N], levels: Levels, rounds: usize) -> Fit {
    let (low, high) = bounds(x);
    let top = if -low > high { low } else { high };
    let start = if levels.low < 0.0 { SIGNED } else { POSITIVE };
    let mut inverse = [0.0; LANES];
    for j in 0..LANES {
        let (end, shift) = start[j];
        inverse[j] = (if end < 0.0 { levels.low } else { levels.high } + shift * end) / top;
    }
    let (mut xq, mut qq) = scale_sums(x, w, &inverse, levels);
    for _ in 1..rounds {
        for j in 0..LANES {
            inverse[j] = qq[j] / xq[j];
        }
        (xq, qq) = scale_sums(x, w, &inverse, levels);
    }
    let (mut best, mut fit) = (0.0, Fit::default());
    for j in 0..LANES {
        let gain = xq[j] * xq[j] / qq[j];
        if gain > best {
            (best, fit) = (gain, Fit { scale: xq[j] / qq[j], stiffness: qq[j] });
        }
    }
    fit
}

/// Starts: which end the largest value goes to, and how far beyond.
const SIGNED: [(f32, f32); LANES] = {
    let mut starts = [(-1.0, 0.0); LANES];
    let mut j = 0;
    while j < LANES {
        starts[j] = if j < 11 { (-1.0, -0.9 + 0.18 * j as f32) } else { (1.0, -0.6 + 0.3 * (j - 11) as f32) };
        j += 1;
    }
    starts
};
const POSITIVE: [(f32, f32); LANES] = {
    let mut starts = [(1.0, 0.0); LANES];
    let mut j = 0;
    while j < LANES {
        starts[j].1 = -0.9 + 0.12 * j as f32;
        j += 1;
    }
    starts
};

/// `sum w x q` and `sum w q^2` for each scale.
#[inline(always)]
fn scale_sums<const N: usize>(x: &[f32; N], w: &[f32; N], inverse: &Lanes, levels: Levels) -> (Lanes, Lanes) {
    let (mut xq, mut qq) = ([0.0; LANES], [0.0; LANES]);
    for (&x, &w) in x.iter().zip(w) {
        for j in 0..LANES {
            let q = levels.nearest(x * inverse[j]);
            let wq = w * q;
            xq[j] += wq * x;
            qq[j] += wq * q;
        }
    }
    (xq, qq)
}

/// The levels nearest to `x / scale`.
#[inline(always)]
pub(crate) fn nearest<const N: usize>(x: &[f32; N], scale: f32, min: f32, levels: Levels) -> [f32; N] {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut q = *x;
    for q in &mut q {
        *q = levels.nearest((*q - min) * inverse);
    }
    q
}

/// `x` as a half that is finite, if `x` is a number.
pub(crate) fn half(x: f32) -> f16 {
    f16::from_f32(x.clamp(-65504.0, 65504.0))
}
