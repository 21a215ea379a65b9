//! Blocks of 32 weights: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, `IQ4_NL`, `MXFP4`.

use std::arch::aarch64::*;

use super::{Weights, half, load, look_up, nibbles, signed, word};
use crate::dot::tables::{E2M1, IQ4, e8m0_half};

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn q8_0<const HALF: usize>(w: &[u8; 8 * 34]) -> Weights {
    let w = &w[HALF * 4 * 34..];
    let q = [0, 1, 2, 3].map(|b| [load(w, 34 * b + 2), load(w, 34 * b + 18)].map(|q| vreinterpretq_s8_u8(q)));
    Weights::plain(q, halves::<34>(w, 0))
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn q4_0<const HALF: usize>(w: &[u8; 8 * 18]) -> Weights {
    let w = &w[HALF * 4 * 18..];
    Weights::plain([0, 1, 2, 3].map(|b| signed(nibbles(load(w, 18 * b + 2)), 8)), halves::<18>(w, 0))
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn q4_1<const HALF: usize>(w: &[u8; 8 * 20]) -> Weights {
    let w = &w[HALF * 4 * 20..];
    let q = [0, 1, 2, 3].map(|b| signed(nibbles(load(w, 20 * b + 4)), 0));
    Weights::mins(q, halves::<20>(w, 0), vnegq_f32(halves::<20>(w, 2)))
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn q5_0<const HALF: usize>(w: &[u8; 8 * 22]) -> Weights {
    let w = &w[HALF * 4 * 22..];
    Weights::plain([0, 1, 2, 3].map(|b| signed(five_bits(w, 22 * b + 2), 16)), halves::<22>(w, 0))
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn q5_1<const HALF: usize>(w: &[u8; 8 * 24]) -> Weights {
    let w = &w[HALF * 4 * 24..];
    let q = [0, 1, 2, 3].map(|b| signed(five_bits(w, 24 * b + 4), 0));
    Weights::mins(q, halves::<24>(w, 0), vnegq_f32(halves::<24>(w, 2)))
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn iq4_nl<const HALF: usize>(w: &[u8; 8 * 18]) -> Weights {
    let w = &w[HALF * 4 * 18..];
    let q = [0, 1, 2, 3].map(|b| nibbles(load(w, 18 * b + 2)).map(|q| look_up(&IQ4, q)));
    Weights::plain(q, halves::<18>(w, 0))
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn mxfp4<const HALF: usize>(w: &[u8; 8 * 17]) -> Weights {
    let w = &w[HALF * 4 * 17..];
    let q = [0, 1, 2, 3].map(|b| nibbles(load(w, 17 * b + 1)).map(|q| look_up(&E2M1, q)));
    let scales = [0, 1, 2, 3].map(|b| e8m0_half(w[17 * b]));
    // SAFETY: 16 readable bytes.
    Weights::plain(q, unsafe { vld1q_f32(scales.as_ptr()) })
}

/// Nibbles from byte `at + 4` on, and their fifth bits in the word at `at`.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn five_bits(w: &[u8], at: usize) -> [uint8x16_t; 2] {
    let bytes = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
    let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    let high = vreinterpretq_u8_u32(vdupq_n_u32(word(w, at)));
    let fifth = |first| {
        let is_set = vtstq_u8(vqtbl1q_u8(high, vaddq_u8(bytes, vdupq_n_u8(first))), bit);
        vandq_u8(is_set, vdupq_n_u8(16))
    };
    let [low, high] = nibbles(load(w, at + 4));
    [vorrq_u8(low, fifth(0)), vorrq_u8(high, fifth(2))]
}

/// Four f16, `STRIDE` bytes apart from byte `at` on.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn halves<const STRIDE: usize>(w: &[u8], at: usize) -> float32x4_t {
    let halves = [0, 1, 2, 3].map(|b| half(w, at + b * STRIDE));
    // SAFETY: eight readable bytes.
    vcvt_f32_f16(vreinterpret_f16_u16(unsafe { vld1_u16(halves.as_ptr()) }))
}
