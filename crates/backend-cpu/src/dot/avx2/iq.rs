//! Formats whose weights are entries of a codebook: `IQ2_*`, `IQ3_*`, `IQ4_XS`.
//!
//! Rows of eight magnitudes come from memory, one load each, and land where the interleaved order wants them. Their
//! signs come from a table of masks; an offset makes the result unsigned.

use std::arch::x86_64::*;

use super::{Parts, Weights, groups::Factors, bytes_at, half_at, interleave, legacy::look_up, legacy::nibbles, twice};
use crate::dot::tables::{IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID, IQ4, even_signs};

/// Scales count eighths of `d`.
pub(super) const IQ2_XXS: Factors = Factors { d: 0, dmin: 0, unit: 0.125 };
/// Makes signed levels unsigned.
const OFFSET: i8 = 64;
/// What the levels are at most, the offset included.
pub(super) const MAX: usize = 64 + 62;

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn iq2_xxs<const HALF: usize>(w: &[u8; 66]) -> Parts {
    let block = |b: usize| (bytes_at::<4>(w, 2 + 32 * HALF + 8 * b), word(w, 6 + 32 * HALF + 8 * b));
    let q = signed_rows(|p, b| {
        let (indices, signs) = block(b);
        (IQ2_XXS_GRID[usize::from(indices[p])], EVEN_MASKS[(signs >> (7 * p) & 127) as usize])
    });
    let scale = |b: usize| (block(b).1 >> 28 << 1 | 1) as i32;
    let (a, b, c, d) = (scale(0), scale(1), scale(2), scale(3));
    Parts { q, scales: _mm256_setr_epi32(a, a, b, b, c, c, d, d), mins: _mm256_setzero_si256() }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn iq2_xs<const HALF: usize>(w: &[u8; 74]) -> Weights {
    let q = rows(|p, b| {
        let row = u16::from_le_bytes(bytes_at(w, 2 + 32 * HALF + 8 * b + 2 * p));
        (IQ2_XS_GRID[usize::from(row & 511)], EVEN_MASKS[usize::from(row >> 9)])
    });
    Weights { q, ..scaled(odd_multiples(nibble_scales(w, 66 + 4 * HALF), half_at(w, 0), 0.125)) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn iq2_s<const HALF: usize>(w: &[u8; 82]) -> Weights {
    let q = rows(|p, b| {
        let r = 16 * HALF + 4 * b + p;
        let high = usize::from(w[66 + 4 * HALF + b]) >> (2 * p) & 3;
        (IQ2_S_GRID[usize::from(w[2 + r]) | high << 8], MASKS[usize::from(w[34 + r])])
    });
    Weights { q, ..scaled(odd_multiples(nibble_scales(w, 74 + 4 * HALF), half_at(w, 0), 0.125)) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn iq3_xxs<const HALF: usize>(w: &[u8; 98]) -> Weights {
    let signs = |b: usize| word(w, 66 + 16 * HALF + 4 * b);
    let row = |r: usize| u64::from(IQ3_XXS_GRID[usize::from(w[2 + 32 * HALF + r])]);
    let q = rows(|p, b| {
        let r = 8 * b + 2 * p;
        (row(r) | row(r + 1) << 32, EVEN_MASKS[(signs(b) >> (7 * p) & 127) as usize])
    });
    let scale = |b: usize| (signs(b) >> 28) as i32;
    let scales = _mm_setr_epi32(scale(0), scale(1), scale(2), scale(3));
    Weights { q, ..scaled(odd_multiples(twice(_mm_cvtepi32_ps(scales)), half_at(w, 0), 0.25)) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn iq3_s<const HALF: usize>(w: &[u8; 110]) -> Weights {
    let row = |r: usize| {
        let high = usize::from(w[66 + r / 8]) >> (r % 8) & 1;
        u64::from(IQ3_S_GRID[usize::from(w[2 + r]) | high << 8])
    };
    let q = rows(|p, b| {
        let r = 16 * HALF + 4 * b + p;
        (row(2 * r) | row(2 * r + 1) << 32, MASKS[usize::from(w[74 + r])])
    });
    let scale = |b: usize| i32::from(w[106 + 2 * HALF + b / 2] >> (b % 2 * 4) & 15);
    let scales = _mm_setr_epi32(scale(0), scale(1), scale(2), scale(3));
    Weights { q, ..scaled(odd_multiples(twice(_mm_cvtepi32_ps(scales)), half_at(w, 0), 1.0)) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn iq4_xs<const HALF: usize>(w: &[u8; 136]) -> Weights {
    let q = interleave([0, 1, 2, 3].map(|b| look_up(&IQ4, nibbles(w, 8 + 64 * HALF + 16 * b))));
    // Six bits per block: four in a field of the half word, two more in a field of the one before it.
    let low = i32::from(u16::from_le_bytes(bytes_at(w, 4 + 2 * HALF)));
    let low = _mm_srlv_epi32(_mm_set1_epi32(low), _mm_setr_epi32(0, 4, 8, 12));
    let high = i32::from(w[2 + HALF]) << 4;
    let high = _mm_srlv_epi32(_mm_set1_epi32(high), _mm_setr_epi32(0, 2, 4, 6));
    let low = _mm_and_si128(low, _mm_set1_epi32(15));
    let scales = _mm_or_si128(low, _mm_and_si128(high, _mm_set1_epi32(48)));
    let scales = _mm_cvtepi32_ps(_mm_sub_epi32(scales, _mm_set1_epi32(32)));
    Weights { q, a: _mm256_mul_ps(twice(scales), half_at(w, 0)), b: _mm256_setzero_ps() }
}

/// For each bit of the index, 255 in the byte of a negative weight.
static MASKS: [u64; 256] = masks();
/// The same for seven signs, the eighth of which makes their number even.
static EVEN_MASKS: [u64; 128] = even_masks();

/// Eight weights of each of four blocks: eight magnitudes and the mask of their signs, for piece `p` and block `b`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn signed_rows(row: impl Fn(usize, usize) -> (u64, u64)) -> [__m256i; 4] {
    let (mut magnitudes, mut negative) = ([[0; 4]; 4], [[0; 4]; 4]);
    for p in 0..4 {
        for b in 0..4 {
            let (row, signs) = row(p, b);
            (magnitudes[p][b], negative[p][b]) = (row as i64, signs as i64);
        }
    }
    let mut q = [_mm256_setzero_si256(); 4];
    for p in 0..4 {
        let ([a, b, c, d], [e, f, g, h]) = (magnitudes[p], negative[p]);
        let (magnitudes, negative) = (_mm256_setr_epi64x(a, b, c, d), _mm256_setr_epi64x(e, f, g, h));
        // -x is !x + 1.
        q[p] = _mm256_sub_epi8(_mm256_xor_si256(magnitudes, negative), negative);
    }
    q
}

/// The same with [`OFFSET`] added.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn rows(row: impl Fn(usize, usize) -> (u64, u64)) -> [__m256i; 4] {
    let mut q = signed_rows(row);
    for p in 0..4 {
        q[p] = _mm256_add_epi8(q[p], _mm256_set1_epi8(OFFSET));
    }
    q
}

/// The factors of levels that had [`OFFSET`] added to them.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scaled(a: __m256) -> Weights {
    Weights { q: [_mm256_setzero_si256(); 4], a, b: _mm256_mul_ps(a, _mm256_set1_ps(f32::from(OFFSET))) }
}

/// `(2 * scales + 1) * unit * d`
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn odd_multiples(scales: __m256, d: __m256, unit: f32) -> __m256 {
    let one = _mm256_mul_ps(d, _mm256_set1_ps(unit));
    _mm256_fmadd_ps(scales, _mm256_add_ps(one, one), one)
}

/// Eight nibbles, the low one of a byte first.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn nibble_scales(w: &[u8], at: usize) -> __m256 {
    let nibbles =
        _mm256_srlv_epi32(_mm256_set1_epi32(word(w, at) as i32), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    _mm256_cvtepi32_ps(_mm256_and_si256(nibbles, _mm256_set1_epi32(15)))
}

/// The four bytes at `at`.
fn word(w: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(w, at))
}

const fn masks() -> [u64; 256] {
    let mut masks = [0; 256];
    let mut i = 0;
    while i < 256 * 8 {
        let negative = (i as u64 / 8) >> (i % 8) & 1;
        masks[i / 8] |= (negative * 0xff) << (i % 8 * 8);
        i += 1;
    }
    masks
}

const fn even_masks() -> [u64; 128] {
    let (masks, mut even) = (masks(), [0; 128]);
    let mut i = 0;
    while i < 128 {
        even[i] = masks[even_signs(i as u32) as usize];
        i += 1;
    }
    even
}
