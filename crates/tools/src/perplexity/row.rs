//! What a row of logits says of each word, and how far one row is from another.
//!
//! ```text
//! ln p[i]  = l[i] - max - ln sum_j exp(l[j] - max)
//! KL(P, Q) = sum_i P[i] (ln P[i] - ln Q[i])
//! ```
//!
//! A row has 50,000 to 250,000 words, and there is one for every second token of a text: the loops are compiled for the widest
//! registers there are. Their sums run in sixteen lanes of singles, and in doubles from block to block, so they are the same for
//! all registers.

use pulp::Arch;
use tokenizer::TokenId;

const LANES: usize = 16;

/// Words whose sum is taken in singles.
const BLOCK: usize = 1024;

/// The distribution that a row of logits stands for.
pub(crate) struct Row<'a> {
    logits: &'a [f32],
    max: f32,
    /// The logarithm of the sum, in which the largest logit counts as 0.
    ln_sum: f64,
    top: usize,
}

impl<'a> Row<'a> {
    /// The distribution of logits that are numbers, or minus infinity.
    pub(crate) fn new(logits: &'a [f32]) -> Row<'a> {
        let max = Arch::new().dispatch(|| logits.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a }));
        let ln_sum = Arch::new().dispatch(|| sum(logits, logits, |l, _| exp(l - max))).ln();
        let top = logits.iter().position(|&l| l == max).unwrap_or_default();
        Row { logits, max, ln_sum, top }
    }

    /// `-ln p` of a word.
    pub(crate) fn nll(&self, id: TokenId) -> f64 {
        self.ln_sum + f64::from(self.max) - f64::from(self.logits[id as usize])
    }

    /// `f` of `-ln p` of every word, in singles.
    pub(crate) fn of_each<T>(&self, out: &mut [T], f: impl Fn(f32) -> T) {
        let (max, ln_sum) = (self.max, self.ln_sum as f32);
        Arch::new().dispatch(|| out.iter_mut().zip(self.logits).for_each(|(out, &l)| *out = f(max - l + ln_sum)));
    }

    /// Words that there are.
    pub(crate) fn n_vocab(&self) -> usize {
        self.logits.len()
    }

    /// The likeliest word; of equals, the first.
    pub(crate) fn top(&self) -> TokenId {
        self.top as TokenId
    }

    /// A word's place by likelihood, from 1 on; of equals, the first comes first.
    pub(crate) fn rank(&self, id: TokenId) -> usize {
        let id = id as usize;
        let own = self.logits[id];
        let above = Arch::new().dispatch(|| self.logits.iter().map(|&l| u32::from(l > own)).sum::<u32>());
        let equals = self.logits[..id].iter().filter(|&&l| l == own).count();
        1 + above as usize + equals
    }

    /// How far this distribution is from that of `ln_p`, the logarithms of its words, each up to a common summand.
    pub(crate) fn divergence_from(&self, ln_p: &[f32]) -> f64 {
        // Taken off in every summand, so that the sum is about as small as what it is for.
        let ln_sum = self.ln_sum as f32;
        let (norm, distance) = Arch::new().dispatch(|| {
            let distance = |b: f32, l: f32| {
                let p = exp(b);
                if p > 0.0 { p * (b - (l - self.max) + ln_sum) } else { 0.0 }
            };
            (sum(ln_p, ln_p, |b, _| exp(b)), sum(ln_p, self.logits, distance))
        });
        let divergence = distance / norm - norm.ln() + (self.ln_sum - f64::from(ln_sum));
        // What is below 0 is rounding. What is no number, as of words that all cannot be, stays none.
        if divergence < 0.0 { 0.0 } else { divergence }
    }
}

/// The sum of `f` over two rows of one length.
#[inline(always)]
fn sum(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f64 {
    let of_block = |(a, b): (&[f32], &[f32])| {
        let mut lanes = [0f32; LANES];
        let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            (0..LANES).for_each(|i| lanes[i] += f(a[i], b[i]));
        }
        rest_a.iter().zip(rest_b).enumerate().for_each(|(i, (a, b))| lanes[i] += f(*a, *b));
        lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>()
    };
    a.chunks(BLOCK).zip(b.chunks(BLOCK)).map(of_block).sum()
}

/// `e^x` for x up to 0, within 2e-7 of it, and 0 for what is below -87. `e^x = 2^n e^r`, with `|r| <= ln 2 / 2` and the series of
/// `e^r` up to its seventh power.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// A number whose last digit is 1, so that adding it rounds to whole ones, which are then its lowest bits.
    const ROUNDING: f32 = 12_582_912.0;
    /// `ln 2` in two parts, the first with few enough digits that its products are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let least = if x > -87.0 { x } else { -87.0 };
    let shifted = least * std::f32::consts::LOG2_E + ROUNDING;
    let n = shifted - ROUNDING;
    let r = (least - n * LN_2[0]) - n * LN_2[1];
    let series = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let e_r = series.iter().fold(1.0 / 5040.0, |sum: f32, c| sum * r + c);
    let two_n = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { e_r * two_n }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_doubles() {
        for i in 0..=870_000 {
            let x = -(i as f32) * 1e-4;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2e-7, "{x}: {error:e}");
        }
        assert_eq!([exp(0.0), exp(-87.1), exp(f32::NEG_INFINITY)], [1.0, 0.0, 0.0]);
    }

    #[test]
    fn four_words_by_hand() {
        // Weights 1, 2, 4, 1 of 8.
        let logits = [1f32, 2.0, 4.0, 1.0].map(f32::ln);
        let row = Row::new(&logits);
        for (id, nll) in [(0, 3.0), (1, 2.0), (2, 1.0), (3, 3.0)] {
            assert!((row.nll(id) - nll * std::f64::consts::LN_2).abs() < 1e-6, "{id}");
        }
        assert_eq!(row.top(), 2);
        assert_eq!([2, 1, 0, 3].map(|id| row.rank(id)), [1, 2, 3, 4]);
        // A quarter each of ln 2, 0, -ln 2 and ln 2.
        let even = [0.25f32.ln(); 4];
        assert!((row.divergence_from(&even) - 0.25 * std::f64::consts::LN_2).abs() < 1e-7);
        // Half and half of the first two: 1/2 ln 4 + 1/2 ln 2, whatever their common factor.
        let half = [-20.0, -20.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
        assert!((row.divergence_from(&half) - 1.5 * std::f64::consts::LN_2).abs() < 1e-5);
    }

    #[test]
    fn words_that_cannot_be_have_no_likelihood() {
        let row = Row::new(&[0.0, f32::NEG_INFINITY, 0.0]);
        assert!((row.nll(0) - std::f64::consts::LN_2).abs() < 1e-12);
        assert_eq!(row.nll(1), f64::INFINITY);
        assert_eq!((row.top(), row.rank(2), row.rank(1)), (0, 2, 3));
        assert_eq!(row.divergence_from(&[0.0, f32::NEG_INFINITY, 0.0]), 0.0);
        assert_eq!(row.divergence_from(&[0.0, 0.0, 0.0]), f64::INFINITY);
        assert!(row.divergence_from(&[f32::NEG_INFINITY; 3]).is_nan(), "no word can be");
    }

    #[test]
    fn long_rows_are_summed_as_doubles_are() {
        let logits: Vec<f32> = (0..5001).map(|i| ((i * 7919) % 1000) as f32 / 50.0 - 40.0).collect();
        let ln_p: Vec<f32> = logits.iter().rev().copied().collect();
        let p = |x: &[f32]| {
            let max = x.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = x.iter().map(|l| f64::from(l - max).exp()).sum();
            x.iter().map(move |&l| f64::from(l - max) - sum.ln()).collect::<Vec<_>>()
        };
        let (q, p) = (p(&logits), p(&ln_p));
        let row = Row::new(&logits);
        (0..5001).for_each(|i| assert!((row.nll(i as u32) + q[i]).abs() < 1e-5, "{i}"));
        let expected: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
        assert!((row.divergence_from(&ln_p) / expected - 1.0).abs() < 1e-6);
        let own: Vec<f32> = q.iter().map(|q| *q as f32).collect();
        assert!(row.divergence_from(&own) < 1e-6);
    }
}
