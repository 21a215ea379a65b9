//! Blocks of 32 weights as 16 bytes: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `IQ4_NL`, `MXFP4`.

use std::arch::x86_64::*;

use super::{Picks, Weights, eight, halves, load_16, load_64, transpose_bits};
use crate::dot::tables::{E2M1, IQ4};

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn q4_0(w: &[u8; 8 * 18]) -> Weights {
    Weights::signed(plus(120, nibbles::<18>(w, 2)), halves::<18, 0>(w))
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn q4_1(w: &[u8; 8 * 20]) -> Weights {
    Weights { q: nibbles::<20>(w, 4), a: halves::<20, 0>(w), b: negative(halves::<20, 2>(w)) }
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn q5_0(w: &[u8; 8 * 22]) -> Weights {
    Weights::signed(plus(112, five_bits::<22, 2>(w)), halves::<22, 0>(w))
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn q5_1(w: &[u8; 8 * 24]) -> Weights {
    Weights { q: five_bits::<24, 4>(w), a: halves::<24, 0>(w), b: negative(halves::<24, 2>(w)) }
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn iq4_nl(w: &[u8; 8 * 18]) -> Weights {
    Weights::signed(look_up(&IQ4, nibbles::<18>(w, 2)), halves::<18, 0>(w))
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn mxfp4(w: &[u8; 8 * 17]) -> Weights {
    // Each block's exponent into two lanes.
    let e = eight(|b| 17 * b * 0x1_0000_0001);
    let e = _mm512_maskz_permutex2var_epi8(0x1111_1111_1111_1111, load_64(w, 0), e, load_64(w, 64));
    Weights::signed(look_up(&E2M1, nibbles::<17>(w, 1)), e8m0_half(e))
}

/// The nibbles of eight blocks' 16 bytes, which lie `STRIDE` apart from byte `at` on.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn nibbles<const STRIDE: usize>(w: &[u8], at: usize) -> [__m512i; 4] {
    let block = |b: usize| load_16(w, at + STRIDE * b);
    // Every other block from `b` on.
    let four = |b: usize| {
        let two = |b: usize| _mm256_set_m128i(block(b + 2), block(b));
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(two(b)), two(b + 4))
    };
    let (even, odd) = (four(0), four(1));
    split(_mm512_unpacklo_epi64(even, odd), _mm512_unpackhi_epi64(even, odd))
}

/// Bytes 0..8 and 8..16 of eight blocks, to their low and high nibbles.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn split(first: __m512i, second: __m512i) -> [__m512i; 4] {
    let low = _mm512_set1_epi8(15);
    [
        _mm512_and_si512(first, low),
        _mm512_and_si512(second, low),
        _mm512_and_si512(_mm512_srli_epi16::<4>(first), low),
        _mm512_and_si512(_mm512_srli_epi16::<4>(second), low),
    ]
}

/// Eight blocks' nibbles from byte `AT + 4` on, and their fifth bits in the words from `AT` on.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn five_bits<const STRIDE: usize, const AT: usize>(w: &[u8]) -> [__m512i; 4] {
    // A block's word in the low half of each eight bytes.
    let high = const { &Picks::new(STRIDE, AT, 2) }.pick(w);
    let low = nibbles::<STRIDE>(w, AT + 4);
    std::array::from_fn(|p| {
        // Byte p of each word to byte 3 of its eight, whose bits become bit 4 of the eight.
        let lane = _mm_set_epi64x(
            0x8080_8080_0880_8080_u64 as i64 + ((p as i64) << 24),
            0x8080_8080_0080_8080_u64 as i64 + ((p as i64) << 24),
        );
        let high = _mm512_shuffle_epi8(high, _mm512_broadcast_i32x4(lane));
        _mm512_or_si512(low[p], transpose_bits(high))
    })
}

/// `q + offset`
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn plus(offset: i8, q: [__m512i; 4]) -> [__m512i; 4] {
    q.map(|q| _mm512_add_epi8(q, _mm512_set1_epi8(offset)))
}

/// `table[q] + 128`
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn look_up(table: &[i8; 16], q: [__m512i; 4]) -> [__m512i; 4] {
    let table = table.map(|level| level as u8 ^ 128);
    // SAFETY: 16 readable bytes; `loadu` has no alignment requirement.
    let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    q.map(|q| _mm512_shuffle_epi8(table, q))
}

/// `2^(e - 128)`; see [`crate::dot::tables::e8m0_half`].
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn e8m0_half(e: __m512i) -> __m512 {
    let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
    let small = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), e);
    let is_small = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, is_small, small))
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn negative(x: __m512) -> __m512 {
    _mm512_xor_ps(x, _mm512_set1_ps(-0.0))
}
