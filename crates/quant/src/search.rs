//! How scales are found: what the encoders of formats with one level for each code share.
//!
//! A group of values `x` with weights `w` becomes levels `q`, whole numbers within bounds. Given the levels, the best
//! scale is a quotient of sums, and given the scale, the best levels are the nearest ones:
//!
//! ```text
//! x ~ s q        sum w (x - s q)^2   is least at    s = sum w x q / sum w q^2,
//!                where it is   sum w x^2 - gain,    gain = (sum w x q)^2 / sum w q^2
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
//! Source: alternating minimisation as in Lloyd, "Least squares quantization in PCM", 1982. What to weigh errors by,
//! and which starts are worth trying, comes from `make_qx_quants`, `make_qkx3_quants` in ggml's `ggml-quants.c`.

#![allow(clippy::needless_range_loop, reason = "the same lane of several arrays")]

use half::f16;

use crate::bits::{HALF_MAX, inverse};

/// Candidates that a search follows at once: two registers of AVX2, so that one fills the other's waits.
const LANES: usize = 16;

type Lanes = [f32; LANES];

/// Stored scales that a group chooses among.
const NEAR: usize = 8;

/// How much more than by plain rounding a single value of 32 may err. The search starts from plain rounding, so it only
/// lowers `sum w e^2`, where `w` is 1 to `sqrt(2)` on average: `e^2 <= 32 sqrt(2) * error^2`.
pub(crate) const SEARCHED: f32 = 6.8;

/// What codes of a group stand for, in units of their scale.
pub(crate) trait Codes: Copy {
    /// The lowest level, the highest one, and the unit of how far around them the largest value starts.
    fn ends(self) -> (f32, f32, f32);
    /// The level nearest to `v`; any of them if `v` is NaN.
    fn nearest(self, v: f32) -> f32;
    /// The code of a level.
    fn code(self, level: f32) -> u8;
}

/// Whole numbers from `low` to `high`.
#[derive(Clone, Copy)]
pub(crate) struct Levels {
    pub(crate) low: f32,
    pub(crate) high: f32,
}

impl Codes for Levels {
    #[inline(always)]
    fn ends(self) -> (f32, f32, f32) {
        (self.low, self.high, 1.0)
    }

    #[inline(always)]
    fn nearest(self, v: f32) -> f32 {
        let v = v.round_ties_even();
        let v = if v > self.low { v } else { self.low };
        if v < self.high { v } else { self.high }
    }

    #[inline(always)]
    fn code(self, level: f32) -> u8 {
        (level - self.low) as i32 as u8
    }
}

/// `w = I * sqrt(c * mean x^2 + x^2)` up to a factor: what an error in a value costs, given its importance.
#[inline(always)]
pub(crate) fn weights<const N: usize>(x: &[f32; N], importance: Option<&[f32; N]>, c: f32) -> [f32; N] {
    let mut w = weights_by(
        x,
        #[inline(always)]
        |square| (c + square).sqrt(),
    );
    if let Some(importance) = importance {
        let top = importance.iter().fold(0f32, |m, &v| if v > m { v } else { m });
        if top > f32::MIN_POSITIVE {
            for (w, i) in w.iter_mut().zip(importance) {
                *w *= i * (1.0 / top) + 1e-6; // where a group has no importance, its values still count alike
            }
        }
    }
    w
}

/// As [`weights`] with `c = 2`; but where no value is more important, `w = 1.3 mean x^2 + x^2`, between what makes the
/// plain error least and what ggml's encoders then minimise, `x^2`.
#[inline(always)]
pub(crate) fn weights_or_squares<const N: usize>(x: &[f32; N], importance: Option<&[f32; N]>) -> [f32; N] {
    if importance.is_some() {
        return weights(x, importance, 2.0);
    }
    weights_by(
        x,
        #[inline(always)]
        |square| 1.3 + square,
    )
}

/// `w = f(x^2 / mean x^2)`
#[inline(always)]
pub(crate) fn weights_by<const N: usize>(x: &[f32; N], f: impl Fn(f32) -> f32) -> [f32; N] {
    let relative = per_mean_square(x);
    let mut w = *x;
    for w in &mut w {
        *w = f(*w * *w * relative);
    }
    w
}

/// `1 / mean x^2`, or 0 where that is no number.
#[inline(always)]
fn per_mean_square<const N: usize>(x: &[f32; N]) -> f32 {
    let mut sums = [0.0; 8];
    for x in x.as_chunks::<8>().0 {
        for (sum, v) in sums.iter_mut().zip(x) {
            *sum += v * v;
        }
    }
    let mean = sums.iter().sum::<f32>() / N as f32;
    if mean > f32::MIN_POSITIVE { 1.0 / mean } else { 0.0 }
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

/// The best scale found for `x ~ scale * q`, its starts fitted to their levels and rounded anew `refits` times.
#[inline(always)]
pub(crate) fn scale<const N: usize>(x: &[f32; N], w: &[f32; N], levels: impl Codes, refits: usize) -> Fit {
    let (low, high) = bounds(x);
    let top = if -low > high { low } else { high };
    let (lowest, highest, unit) = levels.ends();
    let start = if lowest < 0.0 { SIGNED } else { POSITIVE };
    let mut inverse = [0.0; LANES];
    for j in 0..LANES {
        let (end, shift) = start[j];
        inverse[j] = (if end < 0.0 { lowest } else { highest } + unit * shift * end) / top;
    }
    let (mut xq, mut qq) = scale_sums(x, w, &inverse, levels);
    for _ in 0..refits {
        for j in 0..LANES {
            inverse[j] = qq[j] / xq[j];
        }
        (xq, qq) = scale_sums(x, w, &inverse, levels);
    }
    let (mut gain, mut scales) = ([0.0; LANES], [0.0; LANES]);
    for j in 0..LANES {
        gain[j] = xq[j] * xq[j] / qq[j];
        scales[j] = xq[j] / qq[j];
    }
    let j = largest(&gain);
    if gain[j] > 0.0 { Fit { scale: scales[j], stiffness: qq[j] } } else { Fit::default() }
}

/// The lane of the largest number, the first if there are several.
#[inline(always)]
fn largest<const L: usize>(lanes: &[f32; L]) -> usize {
    let (mut top, mut at) = (f32::NEG_INFINITY, 0);
    for (j, &v) in lanes.iter().enumerate() {
        (top, at) = if v > top { (v, j) } else { (top, at) };
    }
    at
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
        starts[j].1 = -0.84 + 0.12 * j as f32;
        j += 1;
    }
    starts
};

/// `sum w x q` and `sum w q^2` for each scale.
#[inline(always)]
fn scale_sums<const N: usize, const L: usize>(
    x: &[f32; N],
    w: &[f32; N],
    inverse: &[f32; L],
    levels: impl Codes,
) -> ([f32; L], [f32; L]) {
    let (mut xq, mut qq) = ([0.0; L], [0.0; L]);
    for (&x, &w) in x.iter().zip(w) {
        for j in 0..L {
            let q = levels.nearest(x * inverse[j]);
            let wq = w * q;
            xq[j] += wq * x;
            qq[j] += wq * q;
        }
    }
    (xq, qq)
}

/// A scale and a minimum, with what an error of either costs: with the minimum fitted again `stiffness` for the scale,
/// and `weight` for the minimum.
#[derive(Clone, Copy, Default)]
pub(crate) struct AffineFit {
    pub(crate) scale: f32,
    pub(crate) min: f32,
    stiffness: f32,
    weight: f32,
    mean_x: f32,
    mean_q: f32,
}

/// The best scale and minimum found for `x ~ scale * q + min`; no minimum above `min_max`.
#[inline(always)]
pub(crate) fn affine<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    levels: Levels,
    min_max: f32,
    starts: &[Starts],
) -> AffineFit {
    let (low, high) = bounds(x);
    let constant = low == high;
    let low = if low < min_max { low } else { min_max };
    let (weight, mean) = mean(x, w);
    let min = if mean < min_max { mean } else { min_max };
    let mut fit = AffineFit { min, weight, mean_x: mean, ..AffineFit::default() }; // all levels 0
    let mut best = -(mean - min) * (mean - min) * weight;
    let tie = if constant { 1e-6 * mean * mean * weight } else { 0.0 }; // so that constant groups agree on a level
    for starts in starts {
        let (mut inverse, mut base) = ([0.0; LANES], [0.0; LANES]);
        for j in 0..LANES {
            let (below, above) = starts[j];
            inverse[j] = (levels.high + below + above) / (high - low);
            base[j] = low - below / inverse[j];
        }
        let first = affine_sums(x, w, mean, &inverse, &base, levels).fit(weight, mean, min_max);
        for j in 0..LANES {
            inverse[j] = 1.0 / first.scale[j];
        }
        let sums = affine_sums(x, w, mean, &inverse, &first.min, levels);
        let fits = sums.fit(weight, mean, min_max);
        for j in 0..LANES {
            if fits.gain[j] - best > tie {
                best = fits.gain[j];
                let mean_q = sums.q[j] / weight;
                let bend = if fits.min[j] < min_max { sums.q[j] * mean_q } else { 0.0 };
                let (scale, min, stiffness) = (fits.scale[j], fits.min[j], sums.qq[j] - bend);
                fit = AffineFit { scale, min, stiffness, weight, mean_x: mean, mean_q };
            }
        }
    }
    fit
}

/// By how many levels the first and the last one lie outside of the range of values, or inside if negative.
type Starts = [(f32, f32); LANES];

/// Both ends move.
pub(crate) const ENDS: Starts = {
    let mut starts = [(0.0, 0.0); LANES];
    let mut j = 0;
    while j < LANES {
        starts[j] = (0.35 * (j / 4) as f32 - 0.7, 0.35 * (j % 4) as f32 - 0.7);
        j += 1;
    }
    starts
};

/// The last level moves.
pub(crate) const LAST: Starts = {
    let mut starts = [(0.0, 0.0); LANES];
    let mut j = 0;
    while j < LANES {
        starts[j].1 = 0.125 * j as f32 - 1.0;
        j += 1;
    }
    starts
};

/// Sum of the weights, and the weighted mean.
#[inline(always)]
fn mean<const N: usize>(x: &[f32; N], w: &[f32; N]) -> (f32, f32) {
    let (mut weights, mut products) = ([0.0; 8], [0.0; 8]);
    for (x, w) in x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0) {
        for j in 0..8 {
            weights[j] += w[j];
            products[j] += w[j] * x[j];
        }
    }
    let weight: f32 = weights.iter().sum();
    (weight, products.iter().sum::<f32>() / weight)
}

/// For each lane `sum w q`, `sum w q^2`, `sum w (x - mean) q`.
struct AffineSums {
    q: Lanes,
    qq: Lanes,
    xq: Lanes,
}

struct AffineFits {
    scale: Lanes,
    min: Lanes,
    gain: Lanes,
}

#[inline(always)]
fn affine_sums<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    mean: f32,
    inverse: &Lanes,
    base: &Lanes,
    levels: Levels,
) -> AffineSums {
    let (mut q, mut qq, mut xq) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for (&x, &w) in x.iter().zip(w) {
        let centred = x - mean;
        for j in 0..LANES {
            let level = levels.nearest((x - base[j]) * inverse[j]);
            let wq = w * level;
            q[j] += wq;
            qq[j] += wq * level;
            xq[j] += wq * centred;
        }
    }
    AffineSums { q, qq, xq }
}

impl AffineSums {
    /// The best scale and minimum of each lane, and by how much they lower the error.
    #[inline(always)]
    fn fit(&self, weight: f32, mean: f32, min_max: f32) -> AffineFits {
        let (mut scale, mut min, mut gain) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for j in 0..LANES {
            let mean_q = self.q[j] / weight;
            let spread = self.qq[j] - self.q[j] * mean_q;
            let s = if spread > 1e-5 * self.qq[j] { self.xq[j] / spread } else { 0.0 };
            let m = mean - s * mean_q;
            let held = (self.xq[j] + (mean - min_max) * self.q[j]) / self.qq[j];
            let off = mean - min_max;
            let above = m > min_max;
            scale[j] = if above { held } else { s };
            min[j] = if above { min_max } else { m };
            gain[j] = if above { held * held * self.qq[j] - off * off * weight } else { s * self.xq[j] };
        }
        AffineFits { scale, min, gain }
    }
}

/// What a block of `G` groups of `N` values stores, `G * N = 256`: of group `g`,
/// `x ~ d * scales[g] * q - dmin * mins[g]`.
pub(crate) struct AffineBlock<const G: usize> {
    pub(crate) d: f16,
    pub(crate) dmin: f16,
    pub(crate) scales: [f32; G],
    pub(crate) mins: [f32; G],
}

/// Scales and minima of a block, whole numbers up to those of `stored`.
#[inline(always)]
pub(crate) fn affine_block<const G: usize, const N: usize>(
    x: &[f32; 256],
    w: &[f32; 256],
    levels: Levels,
    stored: Levels,
    starts: &[Starts],
) -> AffineBlock<G> {
    let (groups, weights) = (x.as_chunks::<N>().0, w.as_chunks::<N>().0);
    let mut fits = [AffineFit::default(); G];
    for g in 0..G {
        fits[g] = affine(&groups[g], &weights[g], levels, 0.0, starts);
    }
    let mut block = store(&fits, stored);
    for g in 0..G {
        choose(&mut block, g, &groups[g], &weights[g], &fits[g], levels, stored);
    }
    refit(&mut block, groups, weights, levels);
    for g in 0..G {
        choose(&mut block, g, &groups[g], &weights[g], &fits[g], levels, stored);
    }
    block
}

/// Whole numbers near to the scales and minima of the groups, if each group bends to those of its scale.
#[inline(always)]
fn store<const G: usize>(fits: &[AffineFit; G], stored: Levels) -> AffineBlock<G> {
    let (mut scales, mut stiffness, mut mins, mut weight) = ([0.0; G], [0.0; G], [0.0; G], [0.0; G]);
    for g in 0..G {
        (scales[g], stiffness[g], weight[g]) = (fits[g].scale, fits[g].stiffness, fits[g].weight);
    }
    let d = half(scale(&scales, &stiffness, stored, 1).scale);
    let scales = nearest(&scales, d.to_f32(), 0.0, stored);
    for g in 0..G {
        let min = scales[g] * d.to_f32() * fits[g].mean_q - fits[g].mean_x;
        mins[g] = if min > 0.0 { min } else { 0.0 };
    }
    let dmin = half(scale(&mins, &weight, stored, 1).scale);
    AffineBlock { d, dmin, scales, mins: nearest(&mins, dmin.to_f32(), 0.0, stored) }
}

/// Gives group `g` the scale and minimum, of those near to the best ones, whose levels err least.
#[inline(always)]
fn choose<const G: usize, const N: usize>(
    block: &mut AffineBlock<G>,
    g: usize,
    x: &[f32; N],
    w: &[f32; N],
    fit: &AffineFit,
    levels: Levels,
    stored: Levels,
) {
    let (d, dmin) = (block.d.to_f32(), block.dmin.to_f32());
    let (per_d, per_dmin) = (inverse(d), inverse(dmin));
    let first = (fit.scale * per_d).floor() - 1.0;
    let (mut scales, mut mins) = ([0.0; LANES], [0.0; LANES]);
    for j in 0..LANES {
        scales[j] = stored.nearest(first + (j / 4) as f32);
        let min = scales[j] * d * fit.mean_q - fit.mean_x;
        mins[j] = stored.nearest((min * per_dmin).floor() - 1.0 + (j % 4) as f32);
    }
    let (mut step, mut per_step, mut min, mut gain) = ([0.0; LANES], [0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for j in 0..LANES {
        step[j] = scales[j] * d;
        min[j] = mins[j] * dmin;
        per_step[j] = if step[j] > 0.0 { 1.0 / step[j] } else { 0.0 };
    }
    for (&x, &w) in x.iter().zip(w) {
        for j in 0..LANES {
            let q = levels.nearest((x + min[j]) * per_step[j]);
            let off = x - (q * step[j] - min[j]);
            gain[j] -= w * off * off;
        }
    }
    let j = largest(&gain);
    (block.scales[g], block.mins[g]) = (scales[j], mins[j]);
}

/// Fits the scales of the scales and of the minima to the levels.
#[inline(always)]
fn refit<const G: usize, const N: usize>(block: &mut AffineBlock<G>, x: &[[f32; N]], w: &[[f32; N]], levels: Levels) {
    let (d, dmin) = (block.d.to_f32(), block.dmin.to_f32());
    let (mut ss, mut sm, mut mm, mut sx, mut mx) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for g in 0..G {
        let (scale, min) = (block.scales[g], block.mins[g]);
        let q = nearest(&x[g], d * scale, -dmin * min, levels);
        let [weight, wq, wqq, wx, wxq] = moments(&x[g], &w[g], &q);
        ss += scale * scale * wqq;
        sm += scale * min * wq;
        mm += min * min * weight;
        sx += scale * wxq;
        mx += min * wx;
    }
    let determinant = ss * mm - sm * sm;
    let (fit_d, fit_min) = if determinant > 1e-3 * ss * mm {
        ((sx * mm - sm * mx) / determinant, (sm * sx - ss * mx) / determinant)
    } else {
        ((sx + sm * dmin) / ss, dmin) // they do the same, or there is one of them
    };
    if fit_d > 0.0 && fit_min >= 0.0 {
        (block.d, block.dmin) = (half(fit_d), half(fit_min));
    }
}

/// `sum w`, `sum w q`, `sum w q^2`, `sum w x`, `sum w x q`
#[inline(always)]
fn moments<const N: usize>(x: &[f32; N], w: &[f32; N], q: &[f32; N]) -> [f32; 5] {
    let mut sums = [[0.0; 8]; 5];
    for i in (0..N).step_by(8) {
        for j in 0..8 {
            let (x, w, q) = (x[i + j], w[i + j], q[i + j]);
            sums[0][j] += w;
            sums[1][j] += w * q;
            sums[2][j] += w * q * q;
            sums[3][j] += w * x;
            sums[4][j] += w * q * x;
        }
    }
    sums.map(|s| s.iter().sum())
}

/// What a block of `G` groups of `N` values stores, `G * N = 256`: of group `g`, `x ~ d * scales[g] * q`.
pub(crate) struct ScaleBlock<const G: usize> {
    pub(crate) d: f16,
    pub(crate) scales: [f32; G],
}

/// Scales of a block, whole numbers as `stored` says, from those that [`scale`] finds for the groups.
#[inline(always)]
pub(crate) fn scale_block<const G: usize, const N: usize>(
    x: &[f32; 256],
    w: &[f32; 256],
    levels: impl Codes,
    stored: Levels,
    refits: usize,
) -> ScaleBlock<G> {
    let (groups, weights) = (x.as_chunks::<N>().0, w.as_chunks::<N>().0);
    let (mut scales, mut stiffness) = ([0.0; G], [0.0; G]);
    for g in 0..G {
        let fit = scale(&groups[g], &weights[g], levels, refits);
        (scales[g], stiffness[g]) = (fit.scale, fit.stiffness);
    }
    let d = half_above_0(scale(&scales, &stiffness, stored, 1).scale);
    let mut block = ScaleBlock { d, scales: nearest(&scales, d.to_f32(), 0.0, stored) };
    let (mut xs, mut ss) = (0.0, 0.0);
    for g in 0..G {
        let stored = block.scales[g];
        let q = nearest(&groups[g], d.to_f32() * stored, 0.0, levels);
        let [_, _, wqq, _, wxq] = moments(&groups[g], &weights[g], &q);
        xs += stored * wxq;
        ss += stored * stored * wqq;
    }
    if ss > 0.0 {
        block.d = half_above_0(xs / ss);
    }
    for g in 0..G {
        choose_scale(&mut block, g, scales[g], &groups[g], &weights[g], levels, stored);
    }
    block
}

/// Gives group `g` the scale near to `scale` whose levels err least.
#[inline(always)]
fn choose_scale<const G: usize, const N: usize>(
    block: &mut ScaleBlock<G>,
    g: usize,
    scale: f32,
    x: &[f32; N],
    w: &[f32; N],
    levels: impl Codes,
    stored: Levels,
) {
    let d = block.d.to_f32();
    let first = (scale * inverse(d)).floor() - 3.0;
    let (mut scales, mut per_step) = ([0.0; NEAR], [0.0; NEAR]);
    for j in 0..NEAR {
        scales[j] = stored.nearest(first + j as f32);
        per_step[j] = inverse(d * scales[j]);
    }
    let (xq, qq) = scale_sums(x, w, &per_step, levels);
    let mut gain = [0.0; NEAR];
    for j in 0..NEAR {
        let step = d * scales[j];
        gain[j] = step * (2.0 * xq[j] - step * qq[j]);
    }
    block.scales[g] = scales[largest(&gain)];
}

/// The levels nearest to `(x - min) / scale`.
#[inline(always)]
pub(crate) fn nearest<const N: usize>(x: &[f32; N], scale: f32, min: f32, levels: impl Codes) -> [f32; N] {
    let inverse = inverse(scale);
    let mut q = *x;
    for q in &mut q {
        *q = levels.nearest((*q - min) * inverse);
    }
    q
}

/// The codes of levels.
#[inline(always)]
pub(crate) fn to_codes<const N: usize>(q: &[f32; N], levels: impl Codes) -> [u8; N] {
    let mut codes = [0; N];
    for (code, q) in codes.iter_mut().zip(q) {
        *code = levels.code(*q);
    }
    codes
}

/// The codes of a block of affine groups.
#[inline(always)]
pub(crate) fn affine_codes<const G: usize, const N: usize>(
    x: &[f32; 256],
    block: &AffineBlock<G>,
    levels: Levels,
) -> [u8; 256] {
    let mut codes = [0; 256];
    let groups = x.as_chunks::<N>().0.iter().zip(codes.as_chunks_mut::<N>().0);
    for (g, (x, codes)) in groups.enumerate() {
        let (step, min) = (block.d.to_f32() * block.scales[g], block.dmin.to_f32() * block.mins[g]);
        *codes = to_codes(&nearest(x, step, -min, levels), levels);
    }
    codes
}

/// The codes of a block of scaled groups.
#[inline(always)]
pub(crate) fn scale_codes<const G: usize, const N: usize>(
    x: &[f32; 256],
    block: &ScaleBlock<G>,
    levels: impl Codes,
) -> [u8; 256] {
    let mut codes = [0; 256];
    let groups = x.as_chunks::<N>().0.iter().zip(codes.as_chunks_mut::<N>().0);
    for (g, (x, codes)) in groups.enumerate() {
        *codes = to_codes(&nearest(x, block.d.to_f32() * block.scales[g], 0.0, levels), levels);
    }
    codes
}

/// `x` as a half that is finite, if `x` is a number.
pub(crate) fn half(x: f32) -> f16 {
    f16::from_f32(x.clamp(-HALF_MAX, HALF_MAX))
}

/// As [`half`], but 0 only where a scale of it, times codes below 2^12, would be.
#[inline(always)]
pub(crate) fn half_above_0(x: f32) -> f16 {
    let least = f16::MIN_POSITIVE_SUBNORMAL.to_f32();
    half(if x.abs() < least / 8192.0 { 0.0 } else { x.abs().max(least).copysign(x) })
}
