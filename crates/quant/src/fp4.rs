//! FP4: E2M1 numbers, and blocks of them that share a power of two.
//!
//! ```text
//! s ee m         (1 + m/2) * 2^(e - 1),  e > 0        m/2,  e = 0
//! 0 .. 7         0, 0.5, 1, 1.5, 2, 3, 4, 6;  8 .. 15 their negatives; no infinity, no NaN
//!
//! FP4sim(x) = s * E2M1(x / s),  s = 2^ceil(log2(max(max|x|, 6 * 2^-126) / 6))
//! ```
//!
//! Error: half a step, of a number up to 0.25, or `|x| / 5` from 2 on; of a block up to `s / 4`, or `|x| / 5` from `2s`
//! on. NaN becomes 0; in a block it counts as the largest number, so that the rest of the block becomes 0 with it. What
//! is rounded to 2^128 becomes infinite, and infinity stays.
//! Source: OCP Microscaling Formats 1.0, section 5.3.3; the scale is that of DeepSeek V4's reference code
//! (`fp4_act_quant`).

use crate::scale;

/// Values that share a scale in cached rows.
pub const BLOCK_LEN: usize = 32;

/// The number of each code.
pub const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

const LARGEST: f32 = 6.0;
const SHIFT: f32 = 4194304.0;

/// The code nearest to `x`, ties to the even code; what lies beyond 6 becomes 6.
pub fn encode(x: f32) -> u8 {
    let magnitude = x.abs().min(LARGEST);
    // Adding 2^22 leaves a multiple of 0.5, the step up to 1, in the lowest bits.
    let small = (magnitude + SHIFT).to_bits() - SHIFT.to_bits();
    let bits = magnitude.to_bits();
    let rounded = (bits + 0x1f_ffff + (bits >> 22 & 1)) >> 22; // 1 of the 23 bits of mantissa stays
    let large = rounded.wrapping_sub((127 - 1) << 1);
    let code = if magnitude < 1.0 { small } else { large };
    let code = if x.is_nan() { 0 } else { code };
    code as u8 | (x.is_sign_negative() as u8) << 3
}

/// The number that the low four bits of `code` stand for.
pub fn decode(code: u8) -> f32 {
    E2M1[usize::from(code & 15)]
}

/// The exponent, biased by 127, of the scale of a block.
pub fn scale_exponent(x: &[f32]) -> u8 {
    scale::exponent(x, LARGEST * f32::MIN_POSITIVE, LARGEST)
}

/// Packs one block of up to [`BLOCK_LEN`] values, two codes to a byte, and returns the exponent of its scale.
pub(crate) fn encode_block(x: &[f32], codes: &mut [u8]) -> u8 {
    let e = scale_exponent(x);
    let inverse = scale::inverse(e);
    let mut single = [0; BLOCK_LEN]; // first a loop that vectorises, then the packing
    for (code, v) in single.iter_mut().zip(x) {
        *code = encode(v * inverse);
    }
    for (byte, [low, high]) in codes.iter_mut().zip(single.as_chunks().0) {
        *byte = low | high << 4;
    }
    e
}

/// Unpacks one block.
pub(crate) fn decode_block(codes: &[u8], e: u8, out: &mut [f32]) {
    let scale = scale::value(e);
    for (pair, &byte) in out.chunks_mut(2).zip(codes) {
        for (v, code) in pair.iter_mut().zip([byte, byte >> 4]) {
            *v = decode(code) * scale;
        }
    }
}

/// Replaces one block, of any length, by what is left after packing: FP4sim.
pub fn round_block(x: &mut [f32]) {
    let e = scale_exponent(x);
    scale::round(x, e, |v| decode(encode(v)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back() {
        for code in 0..16 {
            assert_eq!(encode(decode(code)), code);
        }
    }

    fn check(cases: &[(f32, f32)]) {
        for &(x, rounded) in cases {
            assert_eq!(decode(encode(x)), rounded, "{x}");
            assert_eq!(decode(encode(-x)), -rounded, "-{x}");
        }
    }

    #[test]
    fn ties_go_to_the_even_code() {
        check(&[(0.25, 0.0), (0.75, 1.0), (1.25, 1.0), (1.75, 2.0), (2.5, 2.0), (3.5, 4.0), (5.0, 4.0)]);
    }

    #[test]
    fn the_nearest_code_is_taken() {
        for code in 0..7 {
            let (low, high) = (decode(code), decode(code + 1));
            let half = 0.5 * (low + high);
            check(&[(half.next_down(), low), (half.next_up(), high)]);
        }
        check(&[(7.5, 6.0), (f32::INFINITY, 6.0)]);
    }

    #[test]
    fn a_block_of_sines_is_rounded_as_in_the_reference() {
        let mut x: [f32; 32] = std::array::from_fn(|i| (3.0 * (i as f64).sin()) as f32);
        assert_eq!(scale_exponent(&x), 127 - 1);
        round_block(&mut x);
        assert_eq!([x[1], x[2], x[3], x[5]], [3.0, 3.0, 0.5, -3.0]);
    }

    #[test]
    fn the_scale_is_the_smallest_that_does_not_clip() {
        for (x, e) in [(6f32, 127), (6f32.next_up(), 128), (3.0, 126), (0.0, 1), (f32::MAX, 253)] {
            assert_eq!(scale_exponent(&[x, -x]), e, "{x}");
        }
    }
}
