//! Blocks of 32 weights: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, `IQ4_NL`, `MXFP4`.

use std::arch::x86_64::*;

use super::{Weights, bytes_at, interleave, load_16, load_32, twice};
use crate::dot::tables::{E2M1, IQ4, e8m0_half};

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q8_0<const HALF: usize>(w: &[u8; 8 * 34]) -> Weights {
    let w = &w[HALF * 4 * 34..];
    Weights { q: interleave([0, 1, 2, 3].map(|b| load_32(w, 34 * b + 2))), ..scaled(halves::<34>(w, 0), 0.0) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q4_0<const HALF: usize>(w: &[u8; 8 * 18]) -> Weights {
    let w = &w[HALF * 4 * 18..];
    Weights { q: interleave([0, 1, 2, 3].map(|b| nibbles(w, 18 * b + 2))), ..scaled(halves::<18>(w, 0), 8.0) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q4_1<const HALF: usize>(w: &[u8; 8 * 20]) -> Weights {
    let w = &w[HALF * 4 * 20..];
    let q = interleave([0, 1, 2, 3].map(|b| nibbles(w, 20 * b + 4)));
    Weights { q, a: halves::<20>(w, 0), b: negative(halves::<20>(w, 2)) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q5_0<const HALF: usize>(w: &[u8; 8 * 22]) -> Weights {
    let w = &w[HALF * 4 * 22..];
    Weights { q: interleave([0, 1, 2, 3].map(|b| five_bits(w, 22 * b + 2))), ..scaled(halves::<22>(w, 0), 16.0) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q5_1<const HALF: usize>(w: &[u8; 8 * 24]) -> Weights {
    let w = &w[HALF * 4 * 24..];
    let q = interleave([0, 1, 2, 3].map(|b| five_bits(w, 24 * b + 4)));
    Weights { q, a: halves::<24>(w, 0), b: negative(halves::<24>(w, 2)) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn iq4_nl<const HALF: usize>(w: &[u8; 8 * 18]) -> Weights {
    let w = &w[HALF * 4 * 18..];
    let q = [0, 1, 2, 3].map(|b| look_up(&IQ4, nibbles(w, 18 * b + 2)));
    Weights { q: interleave(q), ..scaled(halves::<18>(w, 0), 0.0) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn mxfp4<const HALF: usize>(w: &[u8; 8 * 17]) -> Weights {
    const UNSIGNED: [i8; 16] = add(E2M1, 12);
    let w = &w[HALF * 4 * 17..];
    let q = [0, 1, 2, 3].map(|b| look_up(&UNSIGNED, nibbles(w, 17 * b + 1)));
    let scale = |b: usize| e8m0_half(w[17 * b]);
    let a = twice(_mm_setr_ps(scale(0), scale(1), scale(2), scale(3)));
    Weights { q: interleave(q), ..scaled(a, 12.0) }
}

/// Factors of levels that had `offset` added to them.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scaled(a: __m256, offset: f32) -> Weights {
    Weights { q: [_mm256_setzero_si256(); 4], a, b: _mm256_mul_ps(a, _mm256_set1_ps(offset)) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn negative(x: __m256) -> __m256 {
    _mm256_xor_ps(x, _mm256_set1_ps(-0.0))
}

/// The 32 nibbles of 16 bytes: the low ones, then the high ones.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn nibbles(w: &[u8], at: usize) -> __m256i {
    let bytes = load_16(w, at);
    _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes), _mm256_set1_epi8(15))
}

/// Nibbles from byte `at + 4` on, and their fifth bits in the word at `at`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn five_bits(w: &[u8], at: usize) -> __m256i {
    let bytes = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let high = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(bytes_at(w, at))), bytes);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit);
    _mm256_or_si256(nibbles(w, at + 4), _mm256_and_si256(is_set, _mm256_set1_epi8(16)))
}

/// `table[q]`
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn look_up(table: &[i8; 16], q: __m256i) -> __m256i {
    // SAFETY: 16 readable bytes; `loadu` has no alignment requirement.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), q)
}

/// Four f16, `STRIDE` bytes apart from byte `at` on, each in two lanes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn halves<const STRIDE: usize>(w: &[u8], at: usize) -> __m256 {
    let half = |b: usize| i16::from_le_bytes(bytes_at(w, at + b * STRIDE));
    twice(_mm_cvtph_ps(_mm_setr_epi16(half(0), half(1), half(2), half(3), 0, 0, 0, 0)))
}

const fn add(mut table: [i8; 16], offset: i8) -> [i8; 16] {
    let mut i = 0;
    while i < 16 {
        table[i] += offset;
        i += 1;
    }
    table
}
