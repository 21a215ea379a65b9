//! FP8: E4M3 numbers, and blocks of them that share a power of two.
//!
//! ```text
//! s eeee mmm     (1 + m/8) * 2^(e - 7),  e > 0        m/8 * 2^-6,  e = 0
//! s 1111 111     NaN; there is no infinity, the largest number is 448
//!
//! FP8sim(x) = s * E4M3(x / s),  s = 2^ceil(log2(max(max|x|, 1e-4) / 448))
//! ```
//!
//! Error: half a step, of a number up to `|x| / 16`, or 2^-10 below 2^-6; of a block up to `|x| / 16` or `s * 2^-10`.
//! NaN stays NaN; in a block it counts as the largest number, so that the rest of the block is rounded to steps of
//! 2^112, to 0 as a rule. What is rounded to 2^128 becomes infinite, and infinity stays.
//! Source: OCP 8-bit Floating Point Specification 1.0, section 3; the scale is that of DeepSeek V4's reference code
//! (`act_quant`).

use crate::scale;

/// Values that share a scale in cached rows.
pub const BLOCK_LEN: usize = 64;

const LARGEST: f32 = 448.0;
const NAN: u8 = 0x7f;
const NORMAL_MIN: f32 = 1.0 / 64.0;

/// The code nearest to `x`, ties to the even code; what lies beyond 448 becomes 448.
pub fn encode(x: f32) -> u8 {
    let magnitude = x.abs().min(LARGEST);
    // Adding 2^14 leaves a multiple of 2^-9, the step of subnormals, in the lowest bits.
    let small = (magnitude + 16384.0).to_bits() - 16384f32.to_bits();
    let bits = magnitude.to_bits();
    let rounded = (bits + 0x7ffff + (bits >> 20 & 1)) >> 20; // 3 of the 23 bits of mantissa stay
    let large = rounded.wrapping_sub((127 - 7) << 3);
    let code = if magnitude < NORMAL_MIN { small } else { large };
    let code = if x.is_nan() { NAN } else { code as u8 };
    code | (x.is_sign_negative() as u8) << 7
}

/// The number that `code` stands for.
pub fn decode(code: u8) -> f32 {
    DECODED[usize::from(code)]
}

static DECODED: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = compute(code as u8);
        code += 1;
    }
    table
};

const fn compute(code: u8) -> f32 {
    let (e, m) = ((code >> 3 & 15) as u32, (code & 7) as u32);
    let magnitude = match (e, m) {
        (15, 7) => f32::NAN,
        (0, _) => m as f32 / 512.0,
        _ => f32::from_bits((e + 127 - 7) << 23 | m << 20),
    };
    if code < 128 { magnitude } else { -magnitude }
}

/// The exponent, biased by 127, of the scale of a block.
pub fn scale_exponent(x: &[f32]) -> u8 {
    scale::exponent(x, 1e-4, LARGEST)
}

/// Packs one block: a code per value, and returns the exponent of its scale.
pub(crate) fn encode_block(x: &[f32], codes: &mut [u8]) -> u8 {
    let e = scale_exponent(x);
    let inverse = scale::inverse(e);
    for (code, v) in codes.iter_mut().zip(x) {
        *code = encode(v * inverse);
    }
    e
}

/// Unpacks one block.
pub(crate) fn decode_block(codes: &[u8], e: u8, out: &mut [f32]) {
    let scale = scale::value(e);
    for (v, &code) in out.iter_mut().zip(codes) {
        *v = decode(code) * scale;
    }
}

/// Replaces one block, of any length, by what is left after packing: FP8sim.
pub fn round_block(x: &mut [f32]) {
    let e = scale_exponent(x);
    scale::round(x, e, |v| decode(encode(v)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back() {
        for code in (0..=255).filter(|code| code & 127 != NAN) {
            assert_eq!(encode(decode(code)), code);
        }
        assert!(decode(0x7f).is_nan() && decode(0xff).is_nan());
        assert_eq!(encode(f32::NAN) & 127, NAN);
    }

    /// Every f32 near a code or half-way between two, rounded by search.
    #[test]
    fn the_nearest_code_is_taken_and_the_even_one_of_two() {
        for code in 0..126 {
            let (low, high) = (decode(code), decode(code + 1));
            let half = 0.5 * (low + high);
            let even = if code % 2 == 0 { low } else { high };
            check(&[(half, even), (half.next_down(), low), (half.next_up(), high)]);
            check(&[(low.next_up(), low), (high.next_down(), high)]);
        }
    }

    fn check(cases: &[(f32, f32)]) {
        for &(x, rounded) in cases {
            assert_eq!(decode(encode(x)), rounded, "{x}");
            assert_eq!(decode(encode(-x)), -rounded, "-{x}");
        }
    }

    #[test]
    fn ties_clamping_and_subnormals_are_those_of_the_specification() {
        check(&[(17.0, 16.0), (19.0, 20.0), (21.0, 20.0), (464.0, 448.0), (f32::INFINITY, 448.0)]);
        check(&[(2f32.powi(-10), 0.0), (1.5 * 2f32.powi(-9), 2f32.powi(-8)), (0.0, 0.0)]);
    }

    #[test]
    fn a_block_of_sines_is_rounded_as_in_the_reference() {
        let mut x: [f32; 64] = std::array::from_fn(|i| (3.0 * (i as f64).sin()) as f32);
        assert_eq!(scale_exponent(&x), 127 - 7);
        round_block(&mut x);
        assert_eq!([x[1], x[2], x[3], x[5], x[14]], [2.5, 2.75, 0.4375, -3.0, 3.0]);
    }

    #[test]
    fn the_scale_is_the_smallest_that_does_not_clip() {
        for (x, e) in [(448f32, 127), (448f32.next_up(), 128), (224.0, 126), (0.0, 105), (1e-4, 105)] {
            assert_eq!(scale_exponent(&[x, -x]), e, "{x}");
        }
    }
}
