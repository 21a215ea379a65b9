//! All figures against what the textbook's formulas give in doubles.

use proptest::prelude::*;

use super::*;

/// Logits of a position, those of the base, by how much the latter's logarithms are off together, and the word that follows.
type Example = (Vec<f32>, Vec<f32>, f32, usize);

fn examples() -> impl Strategy<Value = Vec<Example>> {
    let logit = || prop_oneof![4 => -30f32..30.0, 1 => Just(1.5f32)]; // some are equal
    (2usize..1200).prop_flat_map(move |n| {
        let row = move || prop::collection::vec(logit(), n);
        prop::collection::vec((row(), row(), -10f32..0.0, 0..n), 1..12)
    })
}

/// `ln p` of every word.
fn ln_p(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    logits.iter().map(|&l| f64::from(l) - f64::from(max) - sum.ln()).collect()
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// The standard error of a mean: the root of the sample's variance over their number.
fn error(x: &[f64]) -> f64 {
    let m = mean(x);
    (x.iter().map(|x| (x - m).powi(2)).sum::<f64>() / (x.len() as f64 - 1.0) / x.len() as f64).sqrt()
}

fn near(found: f64, expected: f64, tolerance: f64) -> bool {
    found == expected
        || found.is_nan() && expected.is_nan()
        || (found - expected).abs() <= tolerance * (1.0 + expected.abs())
}

fn is_mean_of(found: Mean, values: &[f64]) -> bool {
    near(found.value, mean(values), 1e-11) && near(found.error, error(values), 1e-7)
}

/// Of ascending values, with `part` of the way from the first to the last behind it.
fn quantile(values: &[f64], part: f64) -> f64 {
    let way = part * (values.len() - 1) as f64;
    let i = (way as usize).min(values.len().saturating_sub(2));
    let after = values[(i + 1).min(values.len() - 1)];
    values[i] * (1.0 - (way - i as f64)) + after * (way - i as f64)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn positions_and_figures_are_those_of_plain_formulas(examples in examples()) {
        let mut positions = Vec::new();
        for (logits, base, off, id) in &examples {
            let (q, p) = (ln_p(logits), ln_p(base));
            let row = Row::new(logits);
            let top = (0..p.len()).fold(0, |top, i| if base[i] > base[top] { i } else { top });
            let of_base: Vec<f32> = p.iter().map(|p| *p as f32 + off).collect();
            let (nll, divergence) = (row.nll(*id as TokenId), row.divergence_from(&of_base));
            let rank = row.rank(top as TokenId);
            prop_assert!(near(nll, -q[*id], 1e-6), "{nll}, not {}", -q[*id]);
            let expected: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
            prop_assert!(near(divergence, expected, 1e-5), "{divergence}, not {expected}");
            let above = (0..q.len()).filter(|&i| logits[i] > logits[top] || logits[i] == logits[top] && i < top);
            prop_assert_eq!(rank, 1 + above.count());
            let beside = Beside { nll: -p[*id], divergence, top: top as TokenId, rank };
            positions.push(Position { pos: 0, id: *id as TokenId, nll, base: Some(beside) });
        }
        let figures = Figures::of(&positions).expect("there are positions");
        let distance = figures.distance.clone().expect("all have a base");
        let of = |f: &dyn Fn(&Position, Beside) -> f64| {
            positions.iter().map(|p| f(p, p.base.expect("given"))).collect::<Vec<_>>()
        };
        prop_assert_eq!(figures.n, positions.len());
        prop_assert!(is_mean_of(figures.nll, &of(&|p, _| p.nll)));
        prop_assert!(is_mean_of(distance.base_nll, &of(&|_, base| base.nll)));
        prop_assert!(is_mean_of(distance.more, &of(&|p, base| p.nll - base.nll)));
        prop_assert!(is_mean_of(distance.divergence, &of(&|_, base| base.divergence)));
        let same_top = of(&|_, base| f64::from(u8::from(base.rank == 1)));
        prop_assert!(is_mean_of(distance.same_top, &same_top));
        let squares = of(&|p, base| ((-p.nll).exp() - (-base.nll).exp()).powi(2));
        prop_assert!(near(distance.rms, mean(&squares).sqrt(), 1e-12));
        let mut sorted = of(&|_, base| base.divergence);
        sorted.sort_by(f64::total_cmp);
        for (found, part) in distance.divergences.iter().zip(PARTS) {
            prop_assert!(near(*found, quantile(&sorted, part), 1e-12), "{found} at {part} of {sorted:?}");
        }
    }
}
