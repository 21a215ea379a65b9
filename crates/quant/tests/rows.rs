//! A cached row comes back as what the roundings in `fp8` and `fp4` make of it, whatever it holds.

use proptest::prelude::*;
use quant::{RowFormat, fp4, fp8};

fn formats() -> impl Strategy<Value = RowFormat> {
    prop_oneof![
        Just(RowFormat::F32),
        Just(RowFormat::F16),
        (0..=64usize).prop_map(|n_rope| RowFormat::Fp8 { n_rope }),
        Just(RowFormat::Fp4),
    ]
}

/// Rows of at least 64 values, of all sizes or of one.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        prop::collection::vec(prop::num::f32::ANY, 64..300),
        (prop::collection::vec(-1f32..1.0, 64..300), -140..128i32)
            .prop_map(|(x, exponent)| x.into_iter().map(|v| v * 2f32.powi(exponent)).collect()),
    ]
}

fn packed(format: RowFormat, x: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0; format.row_bytes(x.len())];
    format.encode_row(x, &mut bytes);
    let mut y = vec![0.0; x.len()];
    format.decode_row(&bytes, &mut y);
    y
}

/// What a row should become.
fn rounded(format: RowFormat, x: &[f32]) -> Vec<f32> {
    let mut y = x.to_vec();
    match format {
        RowFormat::F32 => {}
        RowFormat::F16 => y.iter_mut().for_each(round_half),
        RowFormat::Fp8 { n_rope } => {
            y[..x.len() - n_rope].chunks_mut(fp8::BLOCK_LEN).for_each(fp8::round_block);
        }
        RowFormat::Fp4 => y.chunks_mut(fp4::BLOCK_LEN).for_each(fp4::round_block),
    }
    y
}

fn round_half(v: &mut f32) {
    let largest = if v.is_infinite() { f32::INFINITY } else { 65504.0 };
    *v = half::f16::from_f32(v.clamp(-largest, largest)).to_f32();
}

/// The bits of each number; of NaNs, the same ones.
fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
}

proptest! {
    #[test]
    fn a_row_comes_back_as_its_blocks_are_rounded(format in formats(), x in rows()) {
        prop_assert_eq!(bits(&packed(format, &x)), bits(&rounded(format, &x)));
    }

    #[test]
    fn packing_again_changes_nothing(format in formats(), x in rows()) {
        let once = packed(format, &x);
        prop_assert_eq!(bits(&packed(format, &once)), bits(&once));
    }

    #[test]
    fn finite_blocks_stay_within_the_stated_error(
        x in prop::collection::vec(-1f32..1.0, 64),
        exponent in -100..120i32,
    ) {
        let x: Vec<f32> = x.into_iter().map(|v| v.powi(3) * 2f32.powi(exponent)).collect();
        let scale = 2f32.powi(i32::from(fp8::scale_exponent(&x)) - 127);
        for (x, y) in x.iter().zip(packed(RowFormat::Fp8 { n_rope: 0 }, &x)) {
            prop_assert!((x - y).abs() <= (x.abs() / 16.0).max(scale / 1024.0), "{x} became {y} in FP8");
        }
        let scale = 2f32.powi(i32::from(fp4::scale_exponent(&x[..32])) - 127);
        for (x, y) in x.iter().zip(packed(RowFormat::Fp4, &x[..32])) {
            let error_max = if x.abs() < 2.0 * scale { scale / 4.0 } else { x.abs() / 5.0 };
            prop_assert!((x - y).abs() <= error_max, "{x} became {y} in FP4");
        }
    }

    #[test]
    fn any_bytes_can_be_unpacked(
        format in formats(),
        n in 64..300usize,
        bytes in prop::collection::vec(any::<u8>(), 2400),
    ) {
        format.decode_row(&bytes[..format.row_bytes(n)], &mut vec![0.0; n]);
    }
}

fn check(format: RowFormat, x: [f32; 3], y: [f32; 3]) {
    assert_eq!(bits(&packed(format, &x)), bits(&y), "{x:?} in {format:?}");
}

#[test]
fn numbers_that_are_none_end_as_stated() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    check(RowFormat::F32, [nan, inf, 1.0], [nan, inf, 1.0]);
    check(RowFormat::F16, [nan, inf, -1e9], [nan, inf, -65504.0]);
    check(RowFormat::Fp8 { n_rope: 0 }, [nan, 1.0, -1.0], [nan, 0.0, -0.0]);
    check(RowFormat::Fp8 { n_rope: 0 }, [-inf, 1.0, f32::MAX], [-inf, 0.0, inf]);
    check(RowFormat::Fp8 { n_rope: 1 }, [1.0, 1.1, inf], [1.0, 1.125, inf]);
    check(RowFormat::Fp4, [nan, 1.0, -1.0], [0.0, 0.0, -0.0]);
    check(RowFormat::Fp4, [-inf, 1.0, f32::MAX], [-inf, 0.0, inf]);
}

#[test]
fn rows_take_the_bytes_of_the_layout() {
    assert_eq!(RowFormat::Fp8 { n_rope: 64 }.row_bytes(512), 448 + 7 + 4 * 64);
    assert_eq!(RowFormat::Fp4.row_bytes(128), 64 + 4);
    assert_eq!(RowFormat::Fp4.row_bytes(33), 17 + 2);
}

#[test]
#[should_panic(expected = "n_rope")]
fn a_row_shorter_than_its_positional_part_is_our_mistake() {
    RowFormat::Fp8 { n_rope: 64 }.row_bytes(63);
}
