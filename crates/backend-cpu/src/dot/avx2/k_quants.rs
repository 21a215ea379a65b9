//! `Q2_K` to `Q6_K`: 256 weights in bit fields, with scales of scales.

use std::arch::x86_64::*;

use super::{PIECES, Parts, Weights, bytes_at, half_at, interleave, load_32};
use crate::dot::Factors;

pub(super) const Q2_K: Factors = Factors::at(80, 82);

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q2_k<const HALF: usize, const ORDER: u8>(w: &[u8; 84]) -> Parts {
    let both = _mm256_cvtepu8_epi32(load_8(w, 8 * HALF));
    let q = match ORDER {
        PIECES => [0, 1, 2, 3].map(|p| two_bits(w, 16 + 32 * HALF + 8 * p)),
        _ => {
            let (all, three) = (load_32(w, 16 + 32 * HALF), _mm256_set1_epi8(3));
            let shifted = [all, _mm256_srli_epi16::<2>(all), _mm256_srli_epi16::<4>(all), _mm256_srli_epi16::<6>(all)];
            shifted.map(|block| _mm256_and_si256(block, three))
        }
    };
    Parts { q, scales: _mm256_and_si256(both, _mm256_set1_epi32(15)), mins: _mm256_srli_epi32::<4>(both) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q3_k<const HALF: usize>(w: &[u8; 110]) -> Weights {
    // Block b's high bits are bits b.
    let bits =
        _mm256_setr_epi64x(0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0404_0404_0404_0404, 0x0808_0808_0808_0808);
    let bits = if HALF == 0 { bits } else { _mm256_slli_epi16::<4>(bits) };
    let q = [0, 1, 2, 3].map(|p| {
        let high = _mm256_set1_epi64x(i64::from_le_bytes(bytes_at(w, 8 * p)));
        let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(high, bits), bits);
        _mm256_or_si256(two_bits(w, 32 + 32 * HALF + 8 * p), _mm256_and_si256(is_set, _mm256_set1_epi8(4)))
    });
    // Low nibbles of eight bytes for the first half, high ones for the second; then two bits of each of four bytes,
    // for four scales at a time.
    let low = u64::from_le_bytes(bytes_at(w, 96)) >> (4 * HALF) & 0x0f0f_0f0f_0f0f_0f0f;
    let high = u64::from(u32::from_le_bytes(bytes_at(w, 104))) >> (4 * HALF);
    let high = (high & 0x0303_0303) << 4 | (high >> 2 & 0x0303_0303) << 36;
    let scales = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((low | high) as i64));
    let scales = _mm256_cvtepi32_ps(_mm256_sub_epi32(scales, _mm256_set1_epi32(32)));
    let a = _mm256_mul_ps(scales, half_at(w, 108));
    Weights { q, a, b: _mm256_mul_ps(a, _mm256_set1_ps(4.0)) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q4_k<const HALF: usize>(w: &[u8; 144]) -> Weights {
    let (a, b) = scales_and_mins::<HALF>(w);
    Weights { q: interleave(nibbles(w, 16 + 64 * HALF)), a, b }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q5_k<const HALF: usize>(w: &[u8; 176]) -> Weights {
    let (a, b) = scales_and_mins::<HALF>(w);
    let (low, high) = (nibbles(w, 48 + 64 * HALF), load_32(w, 16));
    let q = [0, 1, 2, 3].map(|b| {
        let bit = _mm256_set1_epi8((1u8 << (4 * HALF + b)) as i8);
        let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit);
        _mm256_or_si256(low[b], _mm256_and_si256(is_set, _mm256_set1_epi8(16)))
    });
    Weights { q: interleave(q), a, b }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q6_k<const HALF: usize>(w: &[u8; 210]) -> Weights {
    let (low, high) = ([load_32(w, 64 * HALF), load_32(w, 64 * HALF + 32)], load_32(w, 128 + 32 * HALF));
    let (nibble, pair) = (_mm256_set1_epi8(15), _mm256_set1_epi8(48));
    let q = [
        (low[0], _mm256_slli_epi16::<4>(high)),
        (low[1], _mm256_slli_epi16::<2>(high)),
        (_mm256_srli_epi16::<4>(low[0]), high),
        (_mm256_srli_epi16::<4>(low[1]), _mm256_srli_epi16::<2>(high)),
    ];
    let q = q.map(|(low, high)| _mm256_or_si256(_mm256_and_si256(low, nibble), _mm256_and_si256(high, pair)));
    let scales = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_8(w, 192 + 8 * HALF)));
    let a = _mm256_mul_ps(scales, half_at(w, 208));
    Weights { q: interleave(q), a, b: _mm256_mul_ps(a, _mm256_set1_ps(32.0)) }
}

/// Eight bytes, of which each two bits belong to a block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn two_bits(w: &[u8], at: usize) -> __m256i {
    let eight = _mm256_set1_epi64x(i64::from_le_bytes(bytes_at(w, at)));
    _mm256_and_si256(_mm256_srlv_epi64(eight, _mm256_setr_epi64x(0, 2, 4, 6)), _mm256_set1_epi8(3))
}

/// 64 bytes, of which each 32 hold one block in the low nibbles and the next in the high ones.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn nibbles(w: &[u8], at: usize) -> [__m256i; 4] {
    let (first, second, low) = (load_32(w, at), load_32(w, at + 32), _mm256_set1_epi8(15));
    [
        _mm256_and_si256(first, low),
        _mm256_and_si256(_mm256_srli_epi16::<4>(first), low),
        _mm256_and_si256(second, low),
        _mm256_and_si256(_mm256_srli_epi16::<4>(second), low),
    ]
}

/// `Q4_K` and `Q5_K`: `d`, `dmin` and eight six-bit pairs in twelve bytes, to the factors of four blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales_and_mins<const HALF: usize>(w: &[u8]) -> (__m256, __m256) {
    let s = [4, 8, 12].map(|at| u32::from_le_bytes(bytes_at(w, at)));
    let (scales, mins) = match HALF {
        0 => (s[0] & 0x3f3f_3f3f, s[1] & 0x3f3f_3f3f),
        _ => (s[2] & 0x0f0f_0f0f | s[0] >> 2 & 0x3030_3030, s[2] >> 4 & 0x0f0f_0f0f | s[1] >> 2 & 0x3030_3030),
    };
    let all = |each: u32| {
        let each = _mm_cvtsi32_si128(each as i32);
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpacklo_epi8(each, each)))
    };
    (_mm256_mul_ps(all(scales), half_at(w, 0)), _mm256_mul_ps(all(mins), half_at(w, 2)))
}

/// The eight bytes from `at` on.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_8(w: &[u8], at: usize) -> __m128i {
    _mm_cvtsi64_si128(i64::from_le_bytes(bytes_at(w, at)))
}
