//! Angles per position: `theta^(-2i / n_rot)` (Su et al. 2021), and the ways to stretch them over longer contexts.
//! Computed in f64, stored in f32.

use std::f64::consts::PI;

/// How a model's angles were stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scaling {
    /// Not at all.
    None,
    /// All angles divided by `factor`.
    Linear { factor: f64 },
    /// Slow angles divided by `factor`, fast ones kept, a ramp between (Peng et al. 2023, eq. 17 to 23).
    Yarn { factor: f64, n_ctx_original: f64, beta_fast: f64, beta_slow: f64 },
}

/// Angle per position of each of the `n_rot / 2` pairs.
pub(crate) fn frequencies(n_rot: usize, theta: f64, scaling: Scaling) -> Vec<f32> {
    let plain = |i: usize| theta.powf(-2.0 * i as f64 / n_rot as f64);
    let scaled = |i: usize| match scaling {
        Scaling::None => plain(i),
        Scaling::Linear { factor } => plain(i) / factor,
        Scaling::Yarn { factor, .. } => {
            let ramp = ramp(i, n_rot, theta, scaling);
            plain(i) * (1.0 - ramp + ramp / factor)
        }
    };
    (0..n_rot / 2).map(|i| scaled(i) as f32).collect()
}

/// 0 where pair `i` turns `beta_fast` times or more within the original context, 1 where `beta_slow` times or less.
fn ramp(i: usize, n_rot: usize, theta: f64, scaling: Scaling) -> f64 {
    let Scaling::Yarn { n_ctx_original, beta_fast, beta_slow, .. } = scaling else { return 0.0 };
    let pair = |turns: f64| n_rot as f64 * (n_ctx_original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let low = pair(beta_fast).floor().max(0.0);
    let high = pair(beta_slow).ceil().min(n_rot as f64 - 1.0);
    ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: &[f32], golden: &[(usize, f64)]) {
        for &(i, golden) in golden {
            let error = (f64::from(found[i]) - golden).abs() / golden;
            assert!(error < 1e-7, "pair {i}: {} is not {golden}", found[i]);
        }
    }

    #[test]
    fn plain_angles_are_powers_of_the_base() {
        let golden = [(0, 1.0), (1, 0.749894209), (15, 0.0133352143), (16, 0.01), (31, 0.000133352143)];
        check(&frequencies(64, 10000.0, Scaling::None), &golden);
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_stretches_slow_ones() {
        let scaling = Scaling::Yarn { factor: 16.0, n_ctx_original: 65536.0, beta_fast: 32.0, beta_slow: 1.0 };
        let golden = [
            (1, 0.687656022),
            (14, 0.00528685632),
            (15, 0.00363553858),
            (16, 0.002265625),
            (20, 0.000296977778),
            (24, 1.953125e-05),
            (25, 5.37231267e-06),
            (31, 5.68052904e-07),
        ];
        check(&frequencies(64, 160000.0, scaling), &golden);
    }

    #[test]
    fn linear_scaling_divides() {
        check(&frequencies(8, 10000.0, Scaling::Linear { factor: 4.0 }), &[(0, 0.25), (1, 0.025)]);
    }
}
