//! Formats whose weights are entries of a codebook: `IQ2_*`, `IQ3_*`, `IQ4_XS`.
//!
//! Rows of eight magnitudes come from memory, one load each, and land where they are wanted. Their signs come from a
//! table of masks, and an offset makes the result unsigned; signs of `IQ2_XXS` are spread in registers, and the activations
//! take them.

use std::arch::{asm, x86_64::*};

use super::{PIECES, Parts, Weights, bytes_at, half_at, interleave, legacy::look_up, legacy::nibbles, load_32, twice};
use crate::dot::{
    Factors,
    tables::{self, IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID, IQ4},
};

/// Scales count eighths of `d`.
pub(super) const IQ2_XXS: Factors = Factors { d: 0, dmin: 0, unit: 0.125 };
/// Makes signed levels unsigned.
const OFFSET: i8 = 64;
/// What the levels are at most, the offset included.
pub(super) const MAX: usize = 64 + 62;

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn iq2_xxs<const HALF: usize, const ORDER: u8>(w: &[u8; 66]) -> Parts {
    // Of each block: an index per eight weights, then four times seven signs and a scale, of which this makes the words
    // of blocks 0, 1, 4, 5 and 2, 3, 6, 7. Both halves do, and who unpacks both has it once.
    let words = odd_words(w);
    let (signs, scales) = (even_signs(words), _mm256_srli_epi32::<27>(words));
    let at = 2 + 32 * HALF;
    let (mut q, mut negative) = ([_mm256_setzero_si256(); 4], [_mm256_setzero_si256(); 4]);
    for i in 0..4 {
        q[i] = match ORDER {
            PIECES => look_up_rows::<8>(&IQ2_XXS_GRID, &w[at + i..]),
            _ => look_up_rows::<1>(&IQ2_XXS_GRID, &w[at + 8 * i..]),
        };
        // The byte of signs of each eight weights, once per weight.
        let byte = |i: usize| i as i64 * 0x0101_0101_0101_0101;
        let signs = match (ORDER, HALF) {
            (PIECES, _) => {
                let [even, odd] = [8 * HALF + i, 8 * HALF + 4 + i].map(byte);
                _mm256_shuffle_epi8(signs, _mm256_setr_epi64x(even, odd, even, odd))
            }
            _ => {
                let pair = match (HALF, i / 2) {
                    (0, 0) => _mm256_permute4x64_epi64::<0x00>(signs),
                    (0, _) => _mm256_permute4x64_epi64::<0xaa>(signs),
                    (_, 0) => _mm256_permute4x64_epi64::<0x55>(signs),
                    (_, _) => _mm256_permute4x64_epi64::<0xff>(signs),
                };
                let [a, b, c, d] = [0, 1, 2, 3].map(|p| byte(i % 2 * 4 + p));
                _mm256_shuffle_epi8(pair, _mm256_setr_epi64x(a, b, c, d))
            }
        };
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        negative[i] = _mm256_cmpeq_epi8(_mm256_and_si256(signs, bit), bit);
    }
    let scales = _mm256_or_si256(scales, _mm256_set1_epi32(1));
    let scales = match HALF {
        0 => _mm256_shuffle_epi32::<0x50>(scales),
        _ => _mm256_shuffle_epi32::<0xfa>(scales),
    };
    Parts { q, negative, scales, mins: _mm256_setzero_si256() }
}

/// Four rows of a codebook, their numbers `STEP` bytes apart.
///
/// The compiler would take the numbers one by one out of registers that hold them as well, all of a group's before the
/// first row, which costs more than the rest of a product.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn look_up_rows<const STEP: usize>(grid: &[u64; 256], numbers: &[u8]) -> __m256i {
    let numbers = &numbers[..3 * STEP + 1];
    let (first, second): (__m128i, __m128i);
    // SAFETY: reads the numbers and, as every byte is one of 256, rows of the codebook.
    unsafe {
        asm!(
            "movzx {i:e}, byte ptr [{numbers}]",
            "movzx {j:e}, byte ptr [{numbers} + {step}]",
            "vmovq {first}, qword ptr [{grid} + 8 * {i}]",
            "vmovhps {first}, {first}, qword ptr [{grid} + 8 * {j}]",
            "movzx {i:e}, byte ptr [{numbers} + 2 * {step}]",
            "movzx {j:e}, byte ptr [{numbers} + 3 * {step}]",
            "vmovq {second}, qword ptr [{grid} + 8 * {i}]",
            "vmovhps {second}, {second}, qword ptr [{grid} + 8 * {j}]",
            numbers = in(reg) numbers.as_ptr(),
            grid = in(reg) grid.as_ptr(),
            step = const STEP,
            i = out(reg) _,
            j = out(reg) _,
            first = out(xmm_reg) first,
            second = out(xmm_reg) second,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    _mm256_set_m128i(second, first)
}

/// Every second of the 16 words behind `d`: in the lower half numbers 1, 3, 9, 11, in the upper one 5, 7, 13, 15.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn odd_words(w: &[u8; 66]) -> __m256i {
    let [first, second] = [2, 34].map(|at| _mm256_castsi256_ps(load_32(w, at)));
    _mm256_castps_si256(_mm256_shuffle_ps::<0xdd>(first, second))
}

/// Four times seven signs, from the lowest bits of each lane on, to bytes with an even number of ones.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn even_signs(words: __m256i) -> __m256i {
    let part = |words, p: i32| _mm256_and_si256(words, _mm256_set1_epi32(0x7f << (8 * p)));
    let low = _mm256_or_si256(part(words, 0), part(_mm256_slli_epi32::<1>(words), 1));
    let high = _mm256_or_si256(part(_mm256_slli_epi32::<2>(words), 2), part(_mm256_slli_epi32::<3>(words), 3));
    let seven = _mm256_or_si256(low, high);
    let nibbles = _mm256_and_si256(_mm256_xor_si256(seven, _mm256_srli_epi16::<4>(seven)), _mm256_set1_epi8(15));
    // 128 for what has an odd number of ones.
    let odd = _mm_set_epi64x(0x0080_8000_8000_0080_u64 as i64, 0x8000_0080_0080_8000_u64 as i64);
    _mm256_or_si256(seven, _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(odd), nibbles))
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
fn rows(row: impl Fn(usize, usize) -> (u64, u64)) -> [__m256i; 4] {
    let (mut magnitudes, mut negative) = ([[0; 4]; 4], [[0; 4]; 4]);
    for p in 0..4 {
        for b in 0..4 {
            let (row, signs) = row(p, b);
            (magnitudes[p][b], negative[p][b]) = (row as i64, signs as i64);
        }
    }
    let mut q = [_mm256_set1_epi8(OFFSET); 4];
    for p in 0..4 {
        let ([a, b, c, d], [e, f, g, h]) = (magnitudes[p], negative[p]);
        let (magnitudes, negative) = (_mm256_setr_epi64x(a, b, c, d), _mm256_setr_epi64x(e, f, g, h));
        // -x is !x + 1.
        let signed = _mm256_sub_epi8(_mm256_xor_si256(magnitudes, negative), negative);
        q[p] = _mm256_add_epi8(signed, q[p]);
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
        even[i] = masks[tables::even_signs(i as u32) as usize];
        i += 1;
    }
    even
}
