//! What many positions come to.
//!
//! ```text
//! mean m = sum x / n          error of it = sqrt((sum x^2 / n - m^2) / (n - 1))
//! perplexity = exp(mean nll)  error of it = perplexity * error of the mean
//! ```
//!
//! The error takes positions for independent, as llama.cpp's `llama-perplexity` does. How a model differs from a base is a mean
//! of differences, position by position, which is far more certain than the difference of two means.

use super::Position;

/// A mean, and by how much it may be off: the standard deviation that such means have. There is none of a single value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

impl Mean {
    fn of(values: impl ExactSizeIterator<Item = f64> + Clone) -> Mean {
        let n = values.len() as f64;
        let value = values.clone().sum::<f64>() / n;
        let variance = values.map(|x| (x - value) * (x - value)).sum::<f64>() / n;
        Mean { value, error: (variance / (n - 1.0)).sqrt() }
    }

    /// `e` to it.
    pub fn exp(self) -> Mean {
        let value = self.value.exp();
        Mean { value, error: value * self.error }
    }
}

/// What a model makes of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Positions that count.
    pub n: usize,
    /// Nats per token; its [`Mean::exp`] is the perplexity.
    pub nll: Mean,
    /// How far it is from a base, if there is one.
    pub distance: Option<Distance>,
}

/// How far a model is from a base.
#[derive(Clone, Debug, PartialEq)]
pub struct Distance {
    /// Nats per token of the base.
    pub base_nll: Mean,
    /// Nats per token more than those of the base; its [`Mean::exp`] is the ratio of perplexities.
    pub more: Mean,
    /// The divergence of the model from the base, in nats.
    pub divergence: Mean,
    /// Divergences that half, 90 %, 95 % and 99 % of positions do not exceed, and the largest.
    pub divergences: [f64; 5],
    /// The part of positions where both find the same word likeliest.
    pub same_top: Mean,
    /// The root of the mean square by which the probability of the text's word differs.
    pub rms: f64,
}

/// The parts of all positions that [`Distance::divergences`] are of.
pub const PARTS: [f64; 5] = [0.5, 0.9, 0.95, 0.99, 1.0];

impl Figures {
    /// The figures of some positions; nothing of none.
    pub fn of(positions: &[Position]) -> Option<Figures> {
        let nll = Mean::of(positions.iter().map(|p| p.nll));
        (!positions.is_empty()).then(|| Figures { n: positions.len(), nll, distance: Distance::of(positions) })
    }
}

impl Distance {
    fn of(positions: &[Position]) -> Option<Distance> {
        let pairs = positions.iter().map(|p| p.base.map(|base| (p.nll, base))).collect::<Option<Vec<_>>>()?;
        let pairs = pairs.iter();
        let mut sorted: Vec<f64> = pairs.clone().map(|(_, base)| base.divergence).collect();
        sorted.sort_by(f64::total_cmp);
        Some(Distance {
            base_nll: Mean::of(pairs.clone().map(|(_, base)| base.nll)),
            more: Mean::of(pairs.clone().map(|(nll, base)| nll - base.nll)),
            divergence: Mean::of(pairs.clone().map(|(_, base)| base.divergence)),
            divergences: PARTS.map(|part| quantile(&sorted, part)),
            same_top: Mean::of(pairs.clone().map(|(_, base)| f64::from(u8::from(base.rank == 1)))),
            rms: Mean::of(pairs.map(|(nll, base)| ((-nll).exp() - (-base.nll).exp()).powi(2))).value.sqrt(),
        })
    }
}

/// What so large a part of ascending values does not exceed; between two of them, on the line from one to the other.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    if low == high { low } else { low + (high - low) * place.fract() }
}

#[cfg(test)]
mod tests {
    use super::{super::Beside, *};

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
    }

    fn position(nll: f64, base: Option<Beside>) -> Position {
        Position { pos: 0, id: 0, nll, base }
    }

    #[test]
    fn means_have_errors() {
        // Squares of 1, 2, 3, 6 are 50 in sum: the variance is 50/4 - 9 = 3.5, and a third of it is of the mean.
        let figures = Figures::of(&[1.0, 2.0, 3.0, 6.0].map(|nll| position(nll, None))).unwrap();
        near(figures.nll.value, 3.0);
        near(figures.nll.error, (3.5f64 / 3.0).sqrt());
        near(figures.nll.exp().value, 3f64.exp());
        near(figures.nll.exp().error, 3f64.exp() * (3.5f64 / 3.0).sqrt());
        assert_eq!((figures.n, figures.distance), (4, None));
    }

    #[test]
    fn one_position_has_no_error_and_none_no_figures() {
        assert!(Figures::of(&[position(1.0, None)]).unwrap().nll.error.is_nan());
        assert_eq!(Figures::of(&[]), None);
    }

    #[test]
    fn distances_are_of_pairs() {
        let base = |nll, divergence, rank| Some(Beside { nll, divergence, top: 0, rank });
        let positions =
            [position(1.0, base(0.5, 0.4, 1)), position(2.0, base(2.5, 0.1, 3)), position(4.0, base(3.0, 0.2, 1))];
        let found = Figures::of(&positions).unwrap().distance.unwrap();
        near(found.base_nll.value, 2.0);
        near(found.more.value, 1.0 / 3.0);
        // 0.5, -0.5, 1: 1.5/3 - 1/9 = 7/18, half of it.
        near(found.more.error, (7f64 / 36.0).sqrt());
        near(found.divergence.value, 0.7 / 3.0);
        near(found.divergences[0], 0.2);
        near(found.divergences[1], 0.2 + 0.8 * 0.2);
        near(found.divergences[4], 0.4);
        near(found.same_top.value, 2.0 / 3.0);
        near(found.same_top.error, (2f64 / 9.0 / 2.0).sqrt());
        let off = [(1.0f64, 0.5f64), (2.0, 2.5), (4.0, 3.0)].map(|(a, b)| ((-a).exp() - (-b).exp()).powi(2));
        near(found.rms, (off.iter().sum::<f64>() / 3.0).sqrt());
    }
}
