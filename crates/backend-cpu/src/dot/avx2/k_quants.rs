//! `Q2_K` to `Q6_K`: 256 weights in bit fields, with scales of scales.

use std::arch::x86_64::*;

use super::{PIECES, Parts, bytes_at, interleave, load_32};
use crate::dot::Factors;

pub(super) const Q2_K: Factors = Factors::at(80, 82);
pub(super) const Q3_K: Factors = Factors::of(108);
/// Of `Q5_K` as well.
pub(super) const Q4_K: Factors = Factors::at(0, 2);
pub(super) const Q6_K: Factors = Factors::of(208);

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q2_k<const HALF: usize, const ORDER: u8>(w: &[u8; 84]) -> Parts {
    let both = _mm256_cvtepu8_epi32(load_8(w, 8 * HALF));
    let q = two_bits::<ORDER>(w, 16 + 32 * HALF);
    unsigned(q, _mm256_and_si256(both, _mm256_set1_epi32(15)), _mm256_srli_epi32::<4>(both))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q3_k<const HALF: usize, const ORDER: u8>(w: &[u8; 110]) -> Parts {
    // Block b's high bits are bits b.
    let (low, high) = (two_bits::<ORDER>(w, 32 + 32 * HALF), load_32(w, 0));
    let all = [1, 2, 4, 8].map(|bit| (0x0101_0101_0101_0101_u64 * (bit << (4 * HALF))) as i64);
    let mut q = low;
    for i in 0..4 {
        let (high, bits) = match ORDER {
            PIECES => {
                let eight = _mm256_set1_epi64x(i64::from_le_bytes(bytes_at(w, 8 * i)));
                (eight, _mm256_setr_epi64x(all[0], all[1], all[2], all[3]))
            }
            _ => (high, _mm256_set1_epi64x(all[i])),
        };
        let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(high, bits), bits);
        q[i] = _mm256_or_si256(low[i], _mm256_and_si256(is_set, _mm256_set1_epi8(4)));
    }
    // Low nibbles of eight bytes for the first half, high ones for the second; then two bits of each of four bytes,
    // for four scales at a time.
    let low = u64::from_le_bytes(bytes_at(w, 96)) >> (4 * HALF) & 0x0f0f_0f0f_0f0f_0f0f;
    let high = u64::from(u32::from_le_bytes(bytes_at(w, 104))) >> (4 * HALF);
    let high = (high & 0x0303_0303) << 4 | (high >> 2 & 0x0303_0303) << 36;
    let scales = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((low | high) as i64));
    unsigned(q, _mm256_sub_epi32(scales, _mm256_set1_epi32(32)), _mm256_setzero_si256())
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q4_k<const HALF: usize, const ORDER: u8>(w: &[u8; 144]) -> Parts {
    with_mins::<HALF, ORDER>(w, nibbles(w, 16 + 64 * HALF))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q5_k<const HALF: usize, const ORDER: u8>(w: &[u8; 176]) -> Parts {
    let (low, high) = (nibbles(w, 48 + 64 * HALF), load_32(w, 16));
    let q = [0, 1, 2, 3].map(|b| {
        let bit = _mm256_set1_epi8((1u8 << (4 * HALF + b)) as i8);
        let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit);
        _mm256_or_si256(low[b], _mm256_and_si256(is_set, _mm256_set1_epi8(16)))
    });
    with_mins::<HALF, ORDER>(w, q)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q6_k<const HALF: usize, const ORDER: u8>(w: &[u8; 210]) -> Parts {
    let (low, high) = ([load_32(w, 64 * HALF), load_32(w, 64 * HALF + 32)], load_32(w, 128 + 32 * HALF));
    let (nibble, pair) = (_mm256_set1_epi8(15), _mm256_set1_epi8(48));
    let q = [
        (low[0], _mm256_slli_epi16::<4>(high)),
        (low[1], _mm256_slli_epi16::<2>(high)),
        (_mm256_srli_epi16::<4>(low[0]), high),
        (_mm256_srli_epi16::<4>(low[1]), _mm256_srli_epi16::<2>(high)),
    ];
    let q = q.map(|(low, high)| _mm256_or_si256(_mm256_and_si256(low, nibble), _mm256_and_si256(high, pair)));
    let scales = _mm256_cvtepi8_epi32(load_8(w, 192 + 8 * HALF));
    unsigned(ordered::<ORDER>(q), scales, _mm256_setzero_si256())
}

/// Levels without signs.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn unsigned(q: [__m256i; 4], scales: __m256i, mins: __m256i) -> Parts {
    Parts { q, negative: [_mm256_setzero_si256(); 4], scales, mins }
}

/// Blocks in either order.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn ordered<const ORDER: u8>(blocks: [__m256i; 4]) -> [__m256i; 4] {
    if ORDER == PIECES { interleave(blocks) } else { blocks }
}

/// 32 bytes, of which each two bits belong to a block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn two_bits<const ORDER: u8>(w: &[u8], at: usize) -> [__m256i; 4] {
    let all = load_32(w, at);
    let shifted = match ORDER {
        PIECES => [0, 1, 2, 3].map(|p| {
            let eight = _mm256_set1_epi64x(i64::from_le_bytes(bytes_at(w, at + 8 * p)));
            _mm256_srlv_epi64(eight, _mm256_setr_epi64x(0, 2, 4, 6))
        }),
        _ => [all, _mm256_srli_epi16::<2>(all), _mm256_srli_epi16::<4>(all), _mm256_srli_epi16::<6>(all)],
    };
    shifted.map(|bits| _mm256_and_si256(bits, _mm256_set1_epi8(3)))
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

/// `Q4_K` and `Q5_K`: levels, with those of eight six-bit pairs in twelve bytes that belong to them.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn with_mins<const HALF: usize, const ORDER: u8>(w: &[u8], blocks: [__m256i; 4]) -> Parts {
    let s = [4, 8, 12].map(|at| u32::from_le_bytes(bytes_at(w, at)));
    let (scales, mins) = match HALF {
        0 => (s[0] & 0x3f3f_3f3f, s[1] & 0x3f3f_3f3f),
        _ => (s[2] & 0x0f0f_0f0f | s[0] >> 2 & 0x3030_3030, s[2] >> 4 & 0x0f0f_0f0f | s[1] >> 2 & 0x3030_3030),
    };
    let all = |each: u32| {
        let each = _mm_cvtsi32_si128(each as i32);
        _mm256_cvtepu8_epi32(_mm_unpacklo_epi8(each, each))
    };
    unsigned(ordered::<ORDER>(blocks), all(scales), all(mins))
}

/// The eight bytes from `at` on.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_8(w: &[u8], at: usize) -> __m128i {
    _mm_cvtsi64_si128(i64::from_le_bytes(bytes_at(w, at)))
}
