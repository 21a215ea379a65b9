//! `Q2_K` to `Q6_K`: 256 weights in bit fields, with scales of scales.

use std::arch::aarch64::*;

use super::{Factors, Weights, by_halves, half_at, load, load_8, nibbles, signed, word};

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn q2_k<const HALF: usize>(w: &[u8; 84]) -> Weights {
    let fields = load_8(w, 8 * HALF);
    let scales = vreinterpret_s8_u8(vand_u8(fields, vdup_n_u8(15)));
    let mins = vreinterpret_s8_u8(vshr_n_u8::<4>(fields));
    let q = two_bits(w, 16 + 32 * HALF).map(|q| signed(q, 0));
    Weights { q, a: scaled(by_halves(scales), half_at(w, 80)), b: scaled(by_halves(mins), half_at(w, 82)) }
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn q3_k<const HALF: usize>(w: &[u8; 110]) -> Weights {
    let high = bits::<HALF>([load(w, 0), load(w, 16)], 4);
    let q = or(two_bits(w, 32 + 32 * HALF), high).map(|q| signed(q, 4));
    // Low nibbles of eight bytes for the first half, high ones for the second; then two bits of each of four bytes,
    // for four scales at a time.
    let low = vand_u8(vshl_u8(load_8(w, 96), vdup_n_s8(-4 * HALF as i8)), vdup_n_u8(15));
    let fields = vreinterpret_u8_u32(vdup_n_u32(word(w, 104)));
    let first = vcreate_s8(0xfefe_fefe_0000_0000); // by -2 from the fifth on
    let fields = vshl_u8(fields, vsub_s8(first, vdup_n_s8(4 * HALF as i8)));
    let high = vshl_n_u8::<4>(vand_u8(fields, vdup_n_u8(3)));
    let scales = vsub_s8(vreinterpret_s8_u8(vorr_u8(low, high)), vdup_n_s8(32));
    Weights::by_16(q, scaled(by_halves(scales), half_at(w, 108)))
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn q4_k<const HALF: usize>(w: &[u8; 144]) -> Weights {
    let (a, b) = scales_and_mins::<HALF>(w);
    Weights::mins(four_bits(w, 16 + 64 * HALF).map(|q| signed(q, 0)), a, b)
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn q5_k<const HALF: usize>(w: &[u8; 176]) -> Weights {
    let (a, b) = scales_and_mins::<HALF>(w);
    let fifth = bits::<HALF>([load(w, 16), load(w, 32)], 16);
    Weights::mins(or(four_bits(w, 48 + 64 * HALF), fifth).map(|q| signed(q, 0)), a, b)
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn q6_k<const HALF: usize>(w: &[u8; 210]) -> Weights {
    // Nibbles of 64 bytes: the low ones are the first two blocks, the high ones the others.
    let [a, b] = [0, 32].map(|at| [0, 16].map(|i| nibbles(load(w, 64 * HALF + at + i))));
    let low = [[a[0][0], a[1][0]], [b[0][0], b[1][0]], [a[0][1], a[1][1]], [b[0][1], b[1][1]]];
    let high = two_bits(w, 128 + 32 * HALF).map(|q| q.map(|q| vshlq_n_u8::<4>(q)));
    let scales = vreinterpret_s8_u8(load_8(w, 192 + 8 * HALF));
    Weights::by_16(or(low, high).map(|q| signed(q, 32)), scaled(by_halves(scales), half_at(w, 208)))
}

/// Levels without a sign.
type Fields = [[uint8x16_t; 2]; 4];

/// 32 bytes, of which each two bits belong to a block.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn two_bits(w: &[u8], at: usize) -> Fields {
    let bytes = [load(w, at), load(w, at + 16)];
    [0, -2, -4, -6].map(|by| bytes.map(|q| vandq_u8(vshlq_u8(q, vdupq_n_s8(by)), vdupq_n_u8(3))))
}

/// 64 bytes, of which each 32 hold one block in the low nibbles and the next in the high ones.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn four_bits(w: &[u8], at: usize) -> Fields {
    let [a, b, c, d] = [0, 16, 32, 48].map(|i| nibbles(load(w, at + i)));
    [[a[0], b[0]], [a[1], b[1]], [c[0], d[0]], [c[1], d[1]]]
}

/// `value` where a bit is set: 32 bytes, of which bit `b` belongs to block `b` of eight.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn bits<const HALF: usize>(bytes: [uint8x16_t; 2], value: u8) -> Fields {
    let block = |b: usize| bytes.map(|q| vandq_u8(vtstq_u8(q, vdupq_n_u8(1 << (4 * HALF + b))), vdupq_n_u8(value)));
    [block(0), block(1), block(2), block(3)]
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
fn or(mut low: Fields, high: Fields) -> Fields {
    for b in 0..4 {
        for i in 0..2 {
            low[b][i] = vorrq_u8(low[b][i], high[b][i]);
        }
    }
    low
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
fn scaled(factors: Factors, d: float32x4_t) -> Factors {
    factors.map(|f| vmulq_f32(f, d))
}

/// `Q4_K` and `Q5_K`: `d`, `dmin` and eight six-bit pairs in twelve bytes, to the factors of four blocks.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn scales_and_mins<const HALF: usize>(w: &[u8]) -> (float32x4_t, float32x4_t) {
    let s = [4, 8, 12].map(|at| word(w, at));
    let (scales, mins) = match HALF {
        0 => (s[0] & 0x3f3f_3f3f, s[1] & 0x3f3f_3f3f),
        _ => (s[2] & 0x0f0f_0f0f | s[0] >> 2 & 0x3030_3030, s[2] >> 4 & 0x0f0f_0f0f | s[1] >> 2 & 0x3030_3030),
    };
    let all = |each: u32| {
        let each = vmovl_u8(vcreate_u8(u64::from(each)));
        vcvtq_f32_u32(vmovl_u16(vget_low_u16(each)))
    };
    (vmulq_f32(all(scales), half_at(w, 0)), vmulq_f32(all(mins), half_at(w, 2)))
}
