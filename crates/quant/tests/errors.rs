//! No encoder errs more than that of llama.cpp, by its own measure or by ours, with an importance or without.
//!
//! `testdata/quant/errors.py` wrote what llama.cpp's encoders err, and describes the values, importances and measures
//! that this file makes again. Where a block has a few distinct values its error is that of rounding a scale to f16,
//! which is luck: errors below [`ROUNDING`] of the values' own squares count as none.

use std::{collections::BTreeMap, ops::RangeInclusive};

use quant::{FORMATS, Format};

const ROWS: usize = 32;
const COLUMNS: usize = 512;
const RATIO_MAX: f64 = 1.01;
/// What `docs/quantization.md` states of plain errors in the mean, with an importance and without.
const MEAN_RATIOS: RangeInclusive<f64> = 0.45..=0.94;
/// Twice the square of the most that rounding a factor to 11 bits changes.
const ROUNDING: f64 = 1.0 / (1 << 21) as f64;

/// What a format errs, beside llama.cpp's encoder: by the plain error and by that of its objective.
struct Case {
    name: &'static str,
    kind: &'static str,
    importance_kind: &'static str,
    ours: [(f64, f64); 2],
    theirs: [f64; 2],
}

/// All that was recorded of formats that have an encoder here.
fn cases() -> impl Iterator<Item = Case> {
    include_str!("../../../testdata/quant/errors.txt").lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [name, kind, importance_kind, plain, own] = fields[..] else { panic!("five fields in {line}") };
        let format = *FORMATS.iter().find(|f| f.name() == name).expect("a format of ours");
        let (x, importance) = (values(kind), importances(importance_kind));
        let y = packed(format, &x, importance.as_deref())?;
        let ours = errors(format, &x, &y, importance.as_deref());
        Some(Case { name, kind, importance_kind, ours, theirs: [plain, own].map(|e| e.parse().expect("a number")) })
    })
}

#[test]
fn encoders_err_no_more_than_those_of_llama_cpp() {
    let (mut worse, mut ratios) = (String::new(), BTreeMap::<_, Vec<f64>>::new());
    for Case { name, kind, importance_kind, ours, theirs } in cases() {
        for ((ours, floor), theirs) in ours.into_iter().zip(theirs) {
            if ours > (RATIO_MAX * theirs).max(floor) {
                worse += &format!("{name} {kind} {importance_kind}: {ours:e} is {:.4} of {theirs:e}\n", ours / theirs);
            }
        }
        let (plain, floor) = ours[0];
        let ratio = if plain.max(theirs[0]) <= floor { 1.0 } else { plain / theirs[0] };
        ratios.entry((name, importance_kind == "-")).or_default().push(ratio);
    }
    assert!(worse.is_empty(), "\n{worse}");
    for ((name, is_plain), ratios) in ratios {
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        let stated = if name == "Q8_0" { 0.999..=1.001 } else { MEAN_RATIOS };
        assert!(stated.contains(&mean), "{name}, {}: {mean}", if is_plain { "plain" } else { "with importance" });
    }
}

fn packed(format: Format, x: &[f32], importance: Option<&[f32]>) -> Option<Vec<f32>> {
    let mut bytes = vec![0; format.row_bytes(x.len()).expect("whole blocks")];
    format.encoder()?(x, importance, &mut bytes);
    let mut y = vec![0.0; x.len()];
    format.decode(&bytes, &mut y);
    Some(y)
}

/// The plain error and that of llama.cpp's objective, each with what counts as none.
fn errors(format: Format, x: &[f32], y: &[f32], importance: Option<&[f32]>) -> [(f64, f64); 2] {
    let (mut plain, mut own) = ((0.0, 0.0), (0.0, 0.0));
    let (weights, power) = objective(format, x, importance);
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        let (x, e) = (f64::from(*x), (f64::from(*x) - f64::from(*y)).abs());
        let w = importance.map_or(1.0, |w| f64::from(w[i]));
        plain = (plain.0 + w * e * e, plain.1 + w * x * x * ROUNDING);
        own =
            (own.0 + weights[i] * e.powi(power), own.1 + weights[i] * (x * x * ROUNDING).powf(f64::from(power) / 2.0));
    }
    [plain, own]
}

/// Weights and power of what llama.cpp's encoder minimises.
fn objective(format: Format, x: &[f32], importance: Option<&[f32]>) -> (Vec<f64>, i32) {
    use Format::*;
    let Some(importance) = importance else {
        return match format {
            Q2_K => (x.iter().map(|v| f64::from(v.abs())).collect(), 1),
            Q3_K | Q6_K | IQ3_XXS | IQ3_S | IQ4_NL | IQ4_XS => (x.iter().map(|v| f64::from(*v).powi(2)).collect(), 2),
            Q4_K | Q5_K => (weighted(x, 32, |mean, v| mean.sqrt() + v.abs()), 2),
            _ => (vec![1.0; x.len()], 2),
        };
    };
    let factors = match format {
        Q6_K | Q8_0 | MXFP4 => vec![1.0; x.len()],
        Q4_0 | Q4_1 | Q5_0 | Q5_1 => weighted(x, COLUMNS, |mean, v| (mean + v * v).sqrt()),
        IQ4_NL => weighted(x, 32, |mean, v| (2.0 * mean + v * v).sqrt()),
        Q2_K | IQ2_XXS | IQ2_XS | IQ2_S => weighted(x, 256, |mean, v| (mean + v * v).sqrt()),
        _ => weighted(x, 256, |mean, v| (2.0 * mean + v * v).sqrt()),
    };
    (factors.iter().zip(importance).map(|(f, i)| f * f64::from(*i)).collect(), 2)
}

/// `f` of each value and of the mean square of the `n` values that it is among.
fn weighted(x: &[f32], n: usize, f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let groups = x.chunks(n).map(|x| (x, x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n as f64));
    groups.flat_map(|(x, mean)| x.iter().map(|v| f(mean, f64::from(*v))).collect::<Vec<_>>()).collect()
}

struct Random(u64);

impl Random {
    fn bits(&mut self) -> i32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as i32
    }

    fn uniform(&mut self) -> f32 {
        self.bits() as f32 / (1 << 24) as f32
    }

    fn bell(&mut self) -> f32 {
        let sum: i32 = (0..8).map(|_| self.bits()).sum();
        (sum - (4 << 24)) as f32 / (1 << 24) as f32
    }
}

fn values(kind: &str) -> Vec<f32> {
    let (mut random, mut constant) = (Random(0), 0.0);
    let value = |i: usize| {
        let (g, u) = (random.bell(), random.uniform());
        match kind {
            "bell" => g,
            "tailed" => g / (u + 0.03),
            "columns" => g * if i % COLUMNS % 37 == 5 { 12.0 } else { 1.0 },
            "shifted" => g + 1.0,
            "far" => 0.125 * g + 4.0,
            "sparse" => {
                if (i / 32).is_multiple_of(3) || u < 0.75 {
                    0.0
                } else {
                    g
                }
            }
            "constant" => {
                constant = if i.is_multiple_of(256) { g } else { constant };
                constant
            }
            "tiny" => g * 2f32.powi(-100),
            "small" => g * 2f32.powi(-20),
            "large" => g * 2f32.powi(14),
            _ => panic!("no values are {kind}"),
        }
    };
    (0..ROWS * COLUMNS).map(value).collect()
}

/// An importance for each value.
fn importances(kind: &str) -> Option<Vec<f32>> {
    let mut random = Random(0);
    let row: Vec<f32> = (0..COLUMNS)
        .map(|_| (random.uniform(), random.uniform()))
        .map(|(u, v)| match kind {
            "squares" => u * u + 2f32.powi(-10),
            "decades" => {
                if v < 0.125 {
                    0.0
                } else {
                    (1.0 + v) * 2f32.powi(-((u * 20.0) as i32))
                }
            }
            _ => 1.0,
        })
        .collect();
    (kind != "-").then(|| row.repeat(ROWS))
}
