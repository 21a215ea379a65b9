//! How the codebook formats are packed: the search for rows, signs and scales of a block of 256 values.
//!
//! An octet is eight values: one row of eight, or two of four. Its magnitudes `a` become `s g`, where `g` are those of
//! the rows, and `s` is the scale of the octet's group:
//!
//! ```text
//! s = d / unit * c,   c = 1, 3, .. 31 of each group,   d of the block, a half
//! E = sum w (a - s g)^2 = sum w a^2 - s p + s^2 q      p = 2 sum w a g,   q = sum w g^2
//! ```
//!
//! So `p` and `q` say all about a choice of rows, at any scale; a group adds those of its octets up, and its best scale
//! is `p / 2q`. Where signs must be even and are not, one value of the octet takes the wrong sign: `p` loses
//! `4 w a g` there, and the value that loses least is the one. Rows are compared with that loss in `p`, so that both
//! are chosen at once.
//!
//! 1. Per group, the scale that is best if levels are free, of 16 ([`Start`]); then the rows at six scales around it and
//!    around what they give, and, where magnitudes are nearly alike, at two more. An octet keeps those choices.
//! 2. Per block, several `d`: each group takes the `c` above or below its scale, and each octet the choice that is best
//!    there; then `d` is fitted, and all choose again. The last rounds do so with `d` as it is stored.
//!
//! Rows of eight are all compared, by tables of `p` and `q` for the octet. Of rows of four, those are compared that are
//! nearest to the octet's levels if these were free: a table for each of the 8^4 combinations holds 16 of them.
//!
//! Numbers in lanes of 8 to 32 become vectors, in which sums have one order on every processor. To find a least cost
//! and where it was, the low bits of each cost are replaced by its place.
//! Source: the weights and the idea of neighbours are those of `quantize_row_iq2_xxs_impl`, `iq3xs_init_impl` and their
//! siblings in ggml's `ggml-quants.c`; those search with the levels 1, 3, 5 where decoding has 8, 25, 43, and choose
//! the sign to give up first, rows next, and the codes of scales last.

use std::array::from_fn;

use half::f16;

use crate::bits::extreme;
use crate::search::half_above_0;

/// What a block becomes, for each of its 32 octets; `R` rows each.
pub(crate) struct Found<const R: usize> {
    pub(crate) d: f16,
    /// `(c - 1) / 2`, alike within a group
    pub(crate) scales: [u8; 32],
    /// Numbers of grid rows
    pub(crate) rows: [[u16; R]; 32],
    /// Bit `j`: value `j` is negative.
    pub(crate) signs: [u8; 32],
}

/// A grid, and how octets are looked up in it.
pub(crate) trait Codebook<const R: usize> {
    /// What is known of an octet before the scale is.
    type Octet;
    const EMPTY: Self::Octet;
    /// Levels of a value, near 1, 3, 5 and so on times `UNIT`.
    const LEVELS: f32;
    const UNIT: f32;
    /// Whether the number of minus signs in an octet is even.
    const EVEN: bool;

    /// Makes `octet` that of magnitudes `a` with weights `w`; `odd` if one of them has to take the wrong sign.
    fn fill(&self, octet: &mut Self::Octet, a: &[f32; 8], w: &[f32; 8], odd: bool);
    /// The best rows at a scale.
    fn pick(&self, octet: &Self::Octet, scale: f32) -> Pick<R>;
    /// What `rows` have for value `j`.
    fn magnitude(&self, rows: [u16; R], j: usize) -> f32;
}

/// A choice of rows for an octet, and its `p` and `q`.
#[derive(Clone, Copy)]
pub(crate) struct Pick<const R: usize> {
    p: f32,
    q: f32,
    rows: [u16; R],
}

/// The best that was found for a block of values with weights, if it is not to be all zeros. `GROUP` octets share a
/// scale.
#[inline(always)]
pub(crate) fn search<const R: usize, const GROUP: usize, C: Codebook<R>>(
    codebook: &C,
    x: &[f32; 256],
    w: &[f32; 256],
) -> Option<Found<R>> {
    let (unit, x) = relative(x)?;
    let (mut signs, mut a) = ([0u8; 32], x);
    for (sign, x) in signs.iter_mut().zip(x.as_chunks::<8>().0) {
        *sign = (0..8).map(|j| u8::from(x[j] < 0.0) << j).sum();
    }
    for a in &mut a {
        *a = a.abs();
    }
    let (a, w) = (a.as_chunks::<8>().0, w.as_chunks::<8>().0);
    let odd = |o: usize| C::EVEN && signs[o].count_ones() % 2 == 1;

    let mut choices =
        Choices { p: [[f32::NEG_INFINITY; 32]; 8], q: [[0.0; 32]; 8], rows: [[[0; R]; 32]; 8], scales: [0.0; 32] };
    let mut octets = [C::EMPTY; GROUP];
    let s_min = f16::MIN_POSITIVE_SUBNORMAL.to_f32() / (unit * C::UNIT);
    for g in (0..32).step_by(GROUP) {
        for (o, octet) in (g..).zip(&mut octets) {
            codebook.fill(octet, &a[o], &w[o], odd(o));
        }
        let start = Start::new::<R, C>(&a[g..g + GROUP], &w[g..g + GROUP]);
        let s = start.scale.max(s_min);
        let (gain, mut s) = choices.add(codebook, &octets, g, 0, [0.88 * s, s, 1.13 * s]);
        if start.alike {
            let ends = start.ends.map(|s| s.max(s_min));
            let (other, scale) = choices.add(codebook, &octets, g, 6, ends);
            s = if other > gain { scale } else { s };
        }
        s = s.max(s_min);
        let (_, s) = choices.add(codebook, &octets, g, 3, [0.94 * s, s, 1.07 * s]);
        choices.scales[g..g + GROUP].fill(s.max(s_min));
    }

    let (d, fit) = choices.block_scale::<GROUP>(unit * C::UNIT);
    let mut found = Found { d, scales: [0; 32], rows: [[0; R]; 32], signs };
    for o in 0..32 {
        found.scales[o] = fit.codes[o] as u8 / 2;
        found.rows[o] = choices.rows[fit.places[o]][o];
        if odd(o) {
            found.signs[o] ^= 1 << cheapest(codebook, found.rows[o], &a[o], &w[o]);
        }
    }
    Some(found)
}

/// The value whose sign costs least if it is wrong.
#[inline(always)]
fn cheapest<const R: usize, C: Codebook<R>>(codebook: &C, rows: [u16; R], a: &[f32; 8], w: &[f32; 8]) -> usize {
    let (mut cost, mut at) = (f32::INFINITY, 0);
    for j in 0..8 {
        let product = w[j] * a[j] * codebook.magnitude(rows, j);
        if product < cost {
            (cost, at) = (product, j);
        }
    }
    at
}

/// Where the search of a group begins.
struct Start {
    /// The scale that is best if each value could have any level
    scale: f32,
    /// Whether magnitudes are so much alike that rows of one level may be best, of which grids have those of the lowest
    /// and of the highest only
    alike: bool,
    /// The scales at which those are best
    ends: [f32; 2],
}

impl Start {
    /// Tries 16 scales, from the one that takes a lone large value among 31 zeros to the highest level to the one that
    /// takes alike values to it.
    #[inline(always)]
    fn new<const R: usize, C: Codebook<R>>(a: &[[f32; 8]], w: &[[f32; 8]]) -> Start {
        let (mut weight, mut sum, mut squares) = ([0f32; 8], [0f32; 8], [0f32; 8]);
        for (a, w) in a.iter().zip(w) {
            weight = from_fn(|j| weight[j] + w[j]);
            sum = from_fn(|j| sum[j] + w[j] * a[j]);
            squares = from_fn(|j| squares[j] + w[j] * a[j] * a[j]);
        }
        let [weight, sum, squares] = [weight, sum, squares].map(|s| s.iter().sum::<f32>());
        let highest = 2.0 * C::LEVELS - 1.0;
        let mut scale = 6.0 * (squares / weight).sqrt() / highest;
        let (mut gain, mut best) = (0.0, scale);
        for _ in 0..16 {
            let inverse = 0.5 / scale;
            let (mut p, mut q) = ([0f32; 8], [0f32; 8]);
            for (a, w) in a.iter().zip(w) {
                let g: [f32; 8] = from_fn(|j| 2.0 * (least(a[j] * inverse, C::LEVELS - 0.5) as i32 as f32) + 1.0);
                p = from_fn(|j| p[j] + w[j] * a[j] * g[j]);
                q = from_fn(|j| q[j] + w[j] * g[j] * g[j]);
            }
            let (p, q): (f32, f32) = (p.iter().sum(), q.iter().sum());
            if p * p > gain * q {
                (gain, best) = (p * p / q, p / q);
            }
            scale /= 1.13;
        }
        let mean = sum / weight / C::UNIT;
        Start { scale: best / C::UNIT, alike: sum * sum > 0.85 * weight * squares, ends: [mean, mean / highest] }
    }
}

/// The choices that octets keep, by place, and the scales of their groups. A place without one has the worst `p`.
struct Choices<const R: usize> {
    p: [[f32; 32]; 8],
    q: [[f32; 32]; 8],
    rows: [[[u16; R]; 32]; 8],
    scales: [f32; 32],
}

/// What becomes of a block at a scale `d`.
struct Fit {
    /// The error, but for `sum w a^2`
    cost: f32,
    /// The best `d` for the same choices
    next: f32,
    /// `c` of each octet
    codes: [f32; 32],
    /// The places of the octets' choices
    places: [usize; 32],
}

impl<const R: usize> Choices<R> {
    /// Adds the picks at `scales` for the octets from `g` on, and says which scale is best for the best of them, and how good.
    #[inline(always)]
    fn add<C: Codebook<R>, const S: usize>(
        &mut self,
        codebook: &C,
        octets: &[C::Octet],
        g: usize,
        at: usize,
        scales: [f32; S],
    ) -> (f32, f32) {
        let (mut gain, mut best) = (0.0, scales[S / 2]);
        for (place, scale) in (at..).zip(scales) {
            let (mut p, mut q) = (0.0, 0.0);
            for (o, octet) in (g..).zip(octets) {
                let pick = codebook.pick(octet, scale);
                self.p[place][o] = pick.p;
                self.q[place][o] = pick.q;
                self.rows[place][o] = pick.rows;
                p += pick.p;
                q += pick.q;
            }
            if p > 0.0 && p * p > gain * q {
                (gain, best) = (p * p / q, 0.5 * p / q);
            }
        }
        (gain, best)
    }

    /// The best `d`, of those that take the largest scale to a code from 18 to 39, and what becomes of the block there.
    #[inline(always)]
    fn block_scale<const GROUP: usize>(&self, unit: f32) -> (f16, Fit) {
        let largest = self.scales.iter().fold(0f32, |m, &s| if s > m { s } else { m });
        let mut best = self.fit::<GROUP>(largest / 31.0);
        for i in 0..15 {
            let start = self.fit::<GROUP>(largest / (18.0 + 1.5 * i as f32));
            let fit = self.fit::<GROUP>(start.next);
            if fit.cost < best.cost {
                best = fit;
            }
        }
        let stored = |next: f32| {
            let d = half_above_0(next * unit);
            (d, self.fit::<GROUP>(d.to_f32() / unit))
        };
        let mut last = stored(best.next);
        for _ in 0..2 {
            let again = stored(last.1.next);
            if again.1.cost < last.1.cost {
                last = again;
            }
        }
        last
    }

    #[inline(always)]
    fn fit<const GROUP: usize>(&self, d: f32) -> Fit {
        let inverse = 1.0 / d;
        let (mut low, mut high) = ([0f32; 32], [0f32; 32]);
        for o in 0..32 {
            let below = ((self.scales[o] * inverse - 1.0) * 0.5).clamp(0.0, 15.0) as i32 as f32;
            low[o] = 2.0 * below + 1.0;
            high[o] = least(low[o] + 2.0, 31.0);
        }
        let (low_costs, high_costs) = (self.costs(&low, d), self.costs(&high, d));
        let mut fit = Fit { cost: 0.0, next: 0.0, codes: [0.0; 32], places: [0; 32] };
        let (mut p, mut q) = (0.0, 0.0);
        for g in (0..32).step_by(GROUP) {
            let sum = |costs: &[f32; 32]| costs[g..g + GROUP].iter().sum::<f32>();
            let sums = (sum(&low_costs), sum(&high_costs));
            let (sum, code, costs) =
                if sums.1 < sums.0 { (sums.1, high[g], &high_costs) } else { (sums.0, low[g], &low_costs) };
            fit.cost += sum;
            for (o, &cost) in (g..).zip(&costs[g..g + GROUP]) {
                let place = place::<8>(cost);
                fit.codes[o] = code;
                fit.places[o] = place;
                p += code * self.p[place][o];
                q += code * code * self.q[place][o];
            }
        }
        fit.next = 0.5 * p / q;
        fit
    }

    /// The least cost of each octet at the scale `codes * d`, with its place.
    #[inline(always)]
    fn costs(&self, codes: &[f32; 32], d: f32) -> [f32; 32] {
        let mut costs = [f32::INFINITY; 32];
        for (at, (p, q)) in self.p.iter().zip(&self.q).enumerate() {
            for (o, cost) in costs.iter_mut().enumerate() {
                let s = codes[o] * d;
                *cost = least(placed::<8>(s * (s * q[o] - p[o]), at), *cost);
            }
        }
        costs
    }
}

/// A grid of rows of eight, by columns.
pub(crate) struct Eights<const N: usize, const EVEN: bool> {
    columns: [[f32; N]; 8],
}

impl<const N: usize, const EVEN: bool> Eights<N, EVEN> {
    pub(crate) const fn new(rows: &[[u8; 8]; N]) -> Self {
        let mut columns = [[0.0; N]; 8];
        let mut i = 0;
        while i < 8 * N {
            columns[i % 8][i / 8] = rows[i / 8][i % 8] as f32;
            i += 1;
        }
        Eights { columns }
    }
}

/// `p` and `q` of every row.
pub(crate) struct Sums<const N: usize> {
    p: [f32; N],
    q: [f32; N],
}

impl<const N: usize, const EVEN: bool> Codebook<1> for Eights<N, EVEN> {
    type Octet = Sums<N>;
    const EMPTY: Sums<N> = Sums { p: [0.0; N], q: [0.0; N] };
    const LEVELS: f32 = 3.0;
    const UNIT: f32 = 8.0;
    const EVEN: bool = EVEN;

    #[inline(always)]
    fn fill(&self, octet: &mut Sums<N>, a: &[f32; 8], w: &[f32; 8], odd: bool) {
        for k in (0..N).step_by(8) {
            let (mut p, mut q, mut cheapest) = ([0f32; 8], [0f32; 8], [f32::INFINITY; 8]);
            for j in 0..8 {
                let wa = 2.0 * w[j] * a[j];
                let column = &self.columns[j][k..k + 8];
                for l in 0..8 {
                    let product = wa * column[l];
                    p[l] += product;
                    q[l] += w[j] * column[l] * column[l];
                    cheapest[l] = least(product, cheapest[l]);
                }
            }
            if odd {
                p = from_fn(|l| p[l] - 2.0 * cheapest[l]);
            }
            octet.p[k..k + 8].copy_from_slice(&p);
            octet.q[k..k + 8].copy_from_slice(&q);
        }
    }

    #[inline(always)]
    fn pick(&self, octet: &Sums<N>, scale: f32) -> Pick<1> {
        let mut costs = [f32::INFINITY; 32];
        for (i, (p, q)) in octet.p.as_chunks::<32>().0.iter().zip(octet.q.as_chunks::<32>().0).enumerate() {
            for l in 0..32 {
                costs[l] = least(placed::<N>(scale * q[l] - p[l], 32 * i + l), costs[l]);
            }
        }
        let k = place::<N>(least_of_16(from_fn(|l| least(costs[l], costs[l + 16]))));
        Pick { p: octet.p[k], q: octet.q[k], rows: [k as u16] }
    }

    #[inline(always)]
    fn magnitude(&self, rows: [u16; 1], j: usize) -> f32 {
        self.columns[j][usize::from(rows[0])]
    }
}

/// A grid of rows of four, with the rows near each combination of levels.
pub(crate) struct Fours<const N: usize, const UNIT: u8, const EVEN: bool> {
    rows: &'static [[u8; 4]; N],
    near: Vec<Near>, // by levels, three bits each, the first lowest
}

/// Some rows, by columns.
struct Near {
    magnitudes: [[u8; NEAR]; 4],
    rows: [u16; NEAR],
}

const NEAR: usize = 16;

impl<const N: usize, const UNIT: u8, const EVEN: bool> Fours<N, UNIT, EVEN> {
    pub(crate) fn new(rows: &'static [[u8; 4]; N]) -> Self {
        Fours { rows, near: (0..1 << 12).map(|levels| Self::near(rows, levels)).collect() }
    }

    fn near(rows: &[[u8; 4]; N], levels: usize) -> Near {
        let point: [i32; 4] = from_fn(|j| i32::from(UNIT) * (2 * (levels >> (3 * j) & 7) as i32 + 1));
        let distance = |k: u16| (0..4).map(|j| (i32::from(rows[usize::from(k)][j]) - point[j]).pow(2)).sum::<i32>();
        let mut order: [u16; N] = from_fn(|k| k as u16);
        order.select_nth_unstable_by_key(NEAR, |&k| (distance(k), k));
        order[..NEAR].sort_unstable();
        Near { magnitudes: from_fn(|j| from_fn(|i| rows[usize::from(order[i])][j])), rows: from_fn(|i| order[i]) }
    }
}

/// Magnitudes, their weights, and whether one has to take the wrong sign.
pub(crate) struct Values {
    a: [f32; 8],
    w: [f32; 8],
    odd: bool,
}

impl<const N: usize, const UNIT: u8, const EVEN: bool> Codebook<2> for Fours<N, UNIT, EVEN> {
    type Octet = Values;
    const EMPTY: Values = Values { a: [0.0; 8], w: [0.0; 8], odd: false };
    const LEVELS: f32 = 8.0;
    const UNIT: f32 = UNIT as f32;
    const EVEN: bool = EVEN;

    #[inline(always)]
    fn fill(&self, octet: &mut Values, a: &[f32; 8], w: &[f32; 8], odd: bool) {
        *octet = Values { a: *a, w: *w, odd };
    }

    #[inline(always)]
    fn pick(&self, octet: &Values, scale: f32) -> Pick<2> {
        let inverse = 0.5 / (scale * f32::from(UNIT));
        let levels = octet.a.map(|a| ((a * inverse) as i32).clamp(0, 7) as usize);
        let (a, w) = (octet.a.as_chunks::<4>().0, octet.w.as_chunks::<4>().0);
        let near: [&Near; 2] = from_fn(|h| {
            let l = &levels[4 * h..];
            &self.near[l[0] | l[1] << 3 | l[2] << 6 | l[3] << 9]
        });
        // The least cost of each row, with all signs right, and with the cheapest of them wrong.
        let (mut right, mut wrong) = ([0f32; 2], [0f32; 2]);
        for h in 0..2 {
            let (mut costs, mut cheapest) = ([0f32; NEAR], [f32::INFINITY; NEAR]);
            for j in 0..4 {
                let wa = w[h][j] * a[h][j];
                for i in 0..NEAR {
                    let g = f32::from(near[h].magnitudes[j][i]);
                    let error = a[h][j] - scale * g;
                    costs[i] += w[h][j] * error * error;
                    cheapest[i] = least(wa * g, cheapest[i]);
                }
            }
            right[h] = least_of_16(from_fn(|i| placed::<NEAR>(costs[i], i)));
            if octet.odd {
                wrong[h] = least_of_16(from_fn(|i| placed::<NEAR>(costs[i] + 4.0 * scale * cheapest[i], i)));
            }
        }
        let mut costs = right;
        if octet.odd {
            let h = usize::from(wrong[1] + right[0] < wrong[0] + right[1]);
            costs[h] = wrong[h];
        }
        let rows: [u16; 2] = from_fn(|h| near[h].rows[place::<NEAR>(costs[h])]);
        let g: [f32; 8] = from_fn(|j| self.magnitude(rows, j));
        let products: [f32; 8] = from_fn(|j| 2.0 * octet.w[j] * octet.a[j] * g[j]);
        let lost = if octet.odd { 2.0 * products.into_iter().fold(f32::INFINITY, least) } else { 0.0 };
        let q = (0..8).map(|j| octet.w[j] * g[j] * g[j]).sum();
        Pick { p: products.iter().sum::<f32>() - lost, q, rows }
    }

    #[inline(always)]
    fn magnitude(&self, rows: [u16; 2], j: usize) -> f32 {
        f32::from(self.rows[usize::from(rows[j / 4])][j % 4])
    }
}

/// `cost` with `place`, below the power of two `N`, in the low bits of its mantissa.
#[inline(always)]
fn placed<const N: usize>(cost: f32, place: usize) -> f32 {
    f32::from_bits(cost.to_bits() & !(N as u32 - 1) | place as u32)
}

/// The place in `cost`.
#[inline(always)]
fn place<const N: usize>(cost: f32) -> usize {
    cost.to_bits() as usize % N
}

/// The smaller number, as one instruction has it.
#[inline(always)]
fn least(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[inline(always)]
fn least_of_16(x: [f32; 16]) -> f32 {
    let eight: [f32; 8] = from_fn(|l| least(x[l], x[l + 8]));
    let four: [f32; 4] = from_fn(|l| least(eight[l], eight[l + 4]));
    least(least(four[0], four[2]), least(four[1], four[3]))
}

/// The largest magnitude, and the values in units of it; nothing where all are below the halves.
#[inline(always)]
pub(crate) fn relative<const N: usize>(x: &[f32; N]) -> Option<(f32, [f32; N])> {
    let unit = extreme(x).abs();
    if unit <= 2f32.powi(-25) {
        return None;
    }
    let (mut x, inverse) = (*x, 1.0 / unit);
    for v in &mut x {
        *v *= inverse;
    }
    Some((unit, x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IQ2_S_ROWS, IQ2_XXS_ROWS, IQ3_S_ROWS, IQ3_XXS_ROWS};

    /// Numbers from 0 to 1.
    fn random() -> impl FnMut() -> f32 {
        let mut state = 1u64;
        move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 24) as f32
        }
    }

    /// `sum w (a - s g)^2`, where one value may have to take the wrong sign.
    fn cost(a: &[f32], w: &[f32], scale: f32, row: &[u8], wrong: Option<usize>) -> f32 {
        let sign = |j| if wrong == Some(j) { -1.0 } else { 1.0 };
        (0..a.len()).map(|j| w[j] * (a[j] - sign(j) * scale * f32::from(row[j])).powi(2)).sum()
    }

    /// The cost of the picks of many octets, relative to that of the best rows and signs.
    fn excess<const R: usize, const W: usize, C: Codebook<R>>(codebook: &C, rows: &[[u8; W]]) -> f32 {
        let (mut random, mut octet, mut picked, mut best) = (random(), C::EMPTY, 0.0, 0.0);
        for i in 0..200 {
            let (a, w): ([f32; 8], [f32; 8]) = (from_fn(|_| random()), from_fn(|_| random().powi(2)));
            let (scale, odd) = ((0.5 + random()) / (2.0 * C::LEVELS * C::UNIT), C::EVEN && i % 2 == 0);
            codebook.fill(&mut octet, &a, &w, odd);
            let pick = codebook.pick(&octet, scale);
            let squares: f32 = (0..8).map(|j| w[j] * a[j] * a[j]).sum();
            picked += squares - scale * pick.p + scale * scale * pick.q;

            let half = |h: usize, wrong: Option<usize>| {
                let at = h * W..h * W + W;
                let costs = rows.iter().map(|row| cost(&a[at.clone()], &w[at.clone()], scale, row, wrong));
                costs.fold(f32::INFINITY, f32::min)
            };
            let right: f32 = (0..R).map(|h| half(h, None)).sum();
            let wrong = (0..8).map(|j| right - half(j / W, None) + half(j / W, Some(j % W)));
            best += if odd { wrong.fold(f32::INFINITY, f32::min) } else { right };
        }
        picked / best
    }

    #[test]
    fn of_rows_of_eight_and_signs_the_best_are_picked() {
        let even = Eights::<256, true>::new(&IQ2_XXS_ROWS);
        let free = Eights::<1024, false>::new(&IQ2_S_ROWS);
        for excess in [excess(&even, &IQ2_XXS_ROWS), excess(&free, &IQ2_S_ROWS)] {
            assert!((0.9999..1.001).contains(&excess), "{excess}");
        }
    }

    #[test]
    fn of_rows_of_four_and_signs_nearly_the_best_are_picked() {
        let even = Fours::<256, 4, true>::new(&IQ3_XXS_ROWS);
        let free = Fours::<512, 1, false>::new(&IQ3_S_ROWS);
        for excess in [excess(&even, &IQ3_XXS_ROWS), excess(&free, &IQ3_S_ROWS)] {
            assert!((0.9999..1.05).contains(&excess), "{excess}");
        }
    }
}
