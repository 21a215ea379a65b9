//! What packing costs is what each format's file says.

use proptest::prelude::*;
use quant::{E2M1, FORMATS, Format};

/// Room for the roundings of f32 that the stated errors leave out.
const SLACK: f64 = 1.001;

/// 256 values of one size, as far as scales are within f16, some of them much smaller or 0.
fn values() -> impl Strategy<Value = Vec<f32>> {
    let value = (-1f32..=1.0, 0..4i32).prop_map(|(v, power)| if power == 3 { 0.0 } else { v.powi(2 * power + 1) });
    (prop::collection::vec(value, 256), -150..16i32).prop_map(|(values, exponent)| {
        values.into_iter().map(|v| (f64::from(v) * 2f64.powi(exponent)) as f32).collect()
    })
}

/// Importances of several decades, some of them 0.
fn importances() -> impl Strategy<Value = Vec<f32>> {
    let importance =
        (0..8i32, 0f32..1.0).prop_map(|(decade, v)| if decade == 0 { 0.0 } else { v * 10f32.powi(-decade) });
    prop::collection::vec(importance, 256)
}

fn packed(format: Format, x: &[f32], importance: Option<&[f32]>) -> Option<Vec<f32>> {
    let mut bytes = vec![0; format.row_bytes(x.len()).expect("whole blocks")];
    format.encoder()?(x, importance, &mut bytes);
    let mut y = vec![0.0; x.len()];
    format.decode(&bytes, &mut y);
    Some(y)
}

proptest! {
    #[test]
    fn packing_stays_within_the_stated_error(x in values()) {
        for &format in FORMATS {
            let Some(y) = packed(format, &x, None) else { continue };
            for (x, y) in x.chunks(format.block_len()).zip(y.chunks(format.block_len())) {
                let error_max = format.error_max(x).expect("formats with an encoder state their error");
                for (x, y) in x.iter().zip(y) {
                    let error = (f64::from(*x) - f64::from(*y)).abs();
                    prop_assert!(error <= SLACK * f64::from(error_max), "{format:?}: {x} became {y}");
                }
            }
        }
    }

    #[test]
    fn importance_weighs_the_stated_error(x in values(), importance in importances()) {
        for &format in FORMATS {
            let Some(y) = packed(format, &x, Some(&importance)) else { continue };
            let n = format.block_len();
            for ((x, y), importance) in x.chunks(n).zip(y.chunks(n)).zip(importance.chunks(n)) {
                let error_max = f64::from(format.error_max(x).expect("formats with an encoder state their error"));
                let squares = x.iter().zip(y).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2));
                let sum: f64 = squares.zip(importance).map(|(e, i)| e * f64::from(*i)).sum();
                let weight: f64 = importance.iter().map(|i| f64::from(*i)).sum();
                prop_assert!(sum.sqrt() <= SLACK * error_max * weight.sqrt(), "{format:?}");
            }
        }
    }

    #[test]
    fn no_importance_anywhere_is_as_if_none_were_given(x in values()) {
        for format in [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q4_K, Format::Q5_K] {
            prop_assert_eq!(packed(format, &x, Some(&[0.0; 256])), packed(format, &x, None), "{:?}", format);
        }
    }

    #[test]
    fn any_number_can_be_packed(
        x in prop::collection::vec(prop::num::f32::ANY, 256),
        importance in prop::collection::vec(prop::num::f32::ANY, 256),
    ) {
        for &format in FORMATS {
            packed(format, &x, None);
            packed(format, &x, Some(&importance));
            packed(format, &x, Some(&[0.0; 256]));
        }
    }

    #[test]
    fn numbers_of_fp4_checkpoints_come_back(
        codes in prop::collection::vec(0..16usize, 32),
        exponent in 0..=254i32,
        importance in prop::collection::vec(0f32..9.0, 32),
    ) {
        let x: Vec<f32> = codes.iter().map(|&c| (f64::from(E2M1[c]) * 2f64.powi(exponent - 127)) as f32).collect();
        prop_assume!(x.iter().all(|v| v.is_finite()));
        prop_assert_eq!(packed(Format::MXFP4, &x, None), Some(x.clone()));
        prop_assert_eq!(packed(Format::MXFP4, &x, Some(&importance)), Some(x));
    }

    #[test]
    fn any_bytes_can_be_unpacked(bytes in prop::collection::vec(any::<u8>(), 256)) {
        for &format in FORMATS {
            let blocks = bytes.len() / format.block_bytes();
            format.decode(&bytes[..blocks * format.block_bytes()], &mut vec![0.0; blocks * format.block_len()]);
        }
    }
}

#[test]
fn scales_end_within_f16() {
    let x: Vec<f32> = (0..256).map(|i| if i % 3 == 0 { -65504.0 } else { 65504.0 * (i % 7) as f32 / 6.0 }).collect();
    for &format in FORMATS {
        let Some(y) = packed(format, &x, None) else { continue };
        assert!(y.iter().all(|v| v.is_finite()), "{format:?}");
    }
}

/// Blocks of values up to 1, in which the largest ones lie beside other kinds of neighbours.
fn patterns() -> Vec<Vec<f32>> {
    let of = |f: &dyn Fn(usize) -> f32| (0..256).map(f).collect::<Vec<f32>>();
    let shapes = [
        of(&|i| if i == 37 { 1.0 } else { 0.0 }),
        of(&|i| if i == 37 { 1.0 } else { 0.01 * ((i * 7 % 19) as f32 - 9.0) / 9.0 }),
        of(&|_| 1.0),
        of(&|i| if i % 2 == 0 { 1.0 } else { -1.0 }),
        of(&|i| if i < 128 { 1.0 } else { -1.0 }),
        of(&|i| if i == 37 || i == 202 { 1.0 } else { -(i as f32) / 300.0 }),
        of(&|i| (i as f32 - 127.5) / 127.5),
        of(&|i| ((i * 151 + 7) % 256) as f32 / 255.0),
    ];
    shapes.iter().flat_map(|x| [x.clone(), x.iter().map(|v| -v).collect()]).collect()
}

/// How much less than a pattern of the size that is asked for becomes, than one of a sixteenth of that says.
fn lost(format: Format, pattern: &[f32], size: f32) -> f32 {
    let scaled = |size: f32| pattern.iter().map(|v| v * size).collect::<Vec<f32>>();
    let small = packed(format, &scaled(size / 16.0), None).expect("an encoder");
    let large = packed(format, &scaled(size), None).expect("an encoder");
    let lost = large.iter().zip(&small).map(|(y, z)| (y / size - 16.0 * (z / size)).abs());
    lost.map(|e| if e.is_nan() { f32::INFINITY } else { e }).fold(0.0, f32::max)
}

#[test]
fn up_to_the_largest_magnitude_size_does_not_matter() {
    for &format in FORMATS {
        let Some(largest) = format.largest() else { continue };
        for (i, pattern) in patterns().iter().enumerate() {
            assert!(
                lost(format, pattern, largest) < 1e-3,
                "{format:?}, pattern {i}: {}",
                lost(format, pattern, largest)
            );
        }
    }
}

#[test]
fn far_beyond_the_largest_magnitude_something_is_lost() {
    // Of what E8M0 and singles reach, four times as much is no number, or nearly so.
    let within_f16 = |format: &&Format| ![Format::F32, Format::BF16, Format::MXFP4].contains(format);
    for &format in FORMATS.iter().filter(within_f16) {
        let Some(largest) = format.largest() else { continue };
        let most = patterns().iter().map(|x| lost(format, x, 4.0 * largest)).fold(0.0, f32::max);
        assert!(most > 0.1, "{format:?}: {most}");
    }
}
