//! Formats whose weights are entries of a codebook: `IQ2_*`, `IQ3_*`, `IQ4_XS`.
//!
//! Rows of eight magnitudes come from memory, one load each; each has a byte of signs, of which a bit test makes masks.

use std::arch::aarch64::*;

use super::{Blocks, Factors, Weights, by_halves, floats, half, half_at, load, look_up, nibbles, word};
use crate::dot::tables::{IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID, IQ4, even_signs};

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn iq2_xxs<const HALF: usize>(w: &[u8; 66]) -> Weights {
    let signs = [0, 1, 2, 3].map(|b| word(w, 6 + 32 * HALF + 8 * b));
    let q = rows(|b, p| {
        let index = w[2 + 32 * HALF + 8 * b + p];
        (IQ2_XXS_GRID[usize::from(index)], EVEN_SIGNS[(signs[b] >> (7 * p) & 127) as usize])
    });
    Weights::plain(q, odd_multiples(floats(signs.map(|signs| signs >> 28)), half_at(w, 0), 0.125))
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn iq2_xs<const HALF: usize>(w: &[u8; 74]) -> Weights {
    let q = rows(|b, p| {
        let row = half(w, 2 + 32 * HALF + 8 * b + 2 * p);
        (IQ2_XS_GRID[usize::from(row & 511)], EVEN_SIGNS[usize::from(row >> 9)])
    });
    Weights::by_16(q, nibble_scales(w, 66 + 4 * HALF))
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn iq2_s<const HALF: usize>(w: &[u8; 82]) -> Weights {
    let q = rows(|b, p| {
        let r = 16 * HALF + 4 * b + p;
        let high = usize::from(w[66 + r / 4]) >> (2 * p) & 3;
        (IQ2_S_GRID[usize::from(w[2 + r]) | high << 8], w[34 + r])
    });
    Weights::by_16(q, nibble_scales(w, 74 + 4 * HALF))
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn iq3_xxs<const HALF: usize>(w: &[u8; 98]) -> Weights {
    let signs = [0, 1, 2, 3].map(|b| word(w, 66 + 16 * HALF + 4 * b));
    let row = |r: usize| u64::from(IQ3_XXS_GRID[usize::from(w[2 + 32 * HALF + r])]);
    let q = rows(|b, p| {
        let r = 8 * b + 2 * p;
        (row(r) | row(r + 1) << 32, EVEN_SIGNS[(signs[b] >> (7 * p) & 127) as usize])
    });
    Weights::plain(q, odd_multiples(floats(signs.map(|signs| signs >> 28)), half_at(w, 0), 0.25))
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn iq3_s<const HALF: usize>(w: &[u8; 110]) -> Weights {
    let row = |r: usize| {
        let high = usize::from(w[66 + r / 8]) >> (r % 8) & 1;
        u64::from(IQ3_S_GRID[usize::from(w[2 + r]) | high << 8])
    };
    let q = rows(|b, p| {
        let r = 16 * HALF + 4 * b + p;
        (row(2 * r) | row(2 * r + 1) << 32, w[74 + r])
    });
    let scales = [0, 1, 2, 3].map(|b| u32::from(w[106 + 2 * HALF + b / 2] >> (b % 2 * 4) & 15));
    Weights::plain(q, odd_multiples(floats(scales), half_at(w, 0), 1.0))
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn iq4_xs<const HALF: usize>(w: &[u8; 136]) -> Weights {
    let q = [0, 1, 2, 3].map(|b| nibbles(load(w, 8 + 64 * HALF + 16 * b)).map(|q| look_up(&IQ4, q)));
    // Six bits per block: four in a field of the half word, two more in a field of the one before it.
    let (low, high) = (u32::from(half(w, 4 + 2 * HALF)), u32::from(w[2 + HALF]));
    let scales = floats([0, 1, 2, 3].map(|b| low >> (4 * b) & 15 | (high >> (2 * b) & 3) << 4));
    Weights::plain(q, vmulq_f32(vsubq_f32(scales, vdupq_n_f32(32.0)), half_at(w, 0)))
}

/// [`even_signs`] of every code.
static EVEN_SIGNS: [u8; 128] = {
    let (mut signs, mut code) = ([0; 128], 0);
    while code < 128 {
        signs[code] = even_signs(code as u32);
        code += 1;
    }
    signs
};

/// Four blocks of four rows: eight magnitudes and their signs, a set bit for a minus, for block `b` and row `p` of it.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn rows(row: impl Fn(usize, usize) -> (u64, u8)) -> Blocks {
    let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    let two = |b: usize, i: usize| {
        let [(first, first_signs), (second, second_signs)] = [row(b, 2 * i), row(b, 2 * i + 1)];
        let magnitudes = vcombine_s8(vcreate_s8(first), vcreate_s8(second));
        let signs = vcombine_u8(vdup_n_u8(first_signs), vdup_n_u8(second_signs));
        let negative = vreinterpretq_s8_u8(vtstq_u8(signs, bit));
        // -x is !x + 1.
        vsubq_s8(veorq_s8(magnitudes, negative), negative)
    };
    let block = |b| [two(b, 0), two(b, 1)];
    [block(0), block(1), block(2), block(3)]
}

/// `(2 * scales + 1) * unit * d`
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn odd_multiples(scales: float32x4_t, d: float32x4_t, unit: f32) -> float32x4_t {
    let one = vmulq_n_f32(d, unit);
    vfmaq_f32(one, scales, vaddq_f32(one, one))
}

/// `IQ2_XS` and `IQ2_S`: a nibble per 16 weights from byte `at` on, the low one of a byte first, that scale eighths of
/// `d`.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn nibble_scales(w: &[u8], at: usize) -> Factors {
    let bytes = vcreate_u8(u64::from(word(w, at)));
    let (low, high) = (vand_u8(bytes, vdup_n_u8(15)), vshr_n_u8::<4>(bytes));
    let scales = by_halves(vreinterpret_s8_u8(vzip1_u8(low, high)));
    scales.map(|scales| odd_multiples(scales, half_at(w, 0), 0.125))
}
