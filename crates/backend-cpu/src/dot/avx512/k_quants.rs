//! `Q2_K` to `Q6_K`: 256 weights in bit fields, with scales of scales.
//!
//! Eight neighbours of every block of 32 are 64 bits of the packed levels: one permutation and one shift by a count of
//! their own bring eight such fields to the low bits of the eight parts of a register.

use std::arch::x86_64::*;

use super::{Parts, Weights, eight, half_at, load_16, load_32, load_64};

/// Scales are in the levels.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn q2_k_parts(w: &[u8; 84]) -> Parts {
    let scales = _mm512_cvtepu8_epi32(load_16(w, 0));
    // 0, 1, 2 and 3 times the scale of each 16 weights fit a byte and so are looked up: scale `i` in dword `i`, of
    // which a lane of 16 bytes holds those of the two blocks whose weights it has.
    let low = _mm512_and_si512(scales, _mm512_set1_epi32(15));
    let multiples = _mm512_mullo_epi32(low, _mm512_set1_epi32(0x0302_0100));
    let fields = eight(|b| b % 4 * 2);
    let qs = load_64(w, 16);
    let q = std::array::from_fn(|p| {
        let p = p as i64;
        let bits = _mm512_permutexvar_epi64(eight(|b| b / 4 * 4 + p), qs);
        let bits = _mm512_srlv_epi64(bits, fields);
        // Which of the four tables in a lane: that of the block, then of the half.
        let half = 0x0404_0404_0404_0404 * (p / 2);
        let table = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0808_0808_0808_0808 + half, half));
        _mm512_shuffle_epi8(multiples, and_or(bits, _mm512_set1_epi8(3), table))
    });
    let mins = _mm512_srli_epi32::<4>(scales);
    Parts { q, scales: _mm512_set1_epi32(1), mins, d: half_at(w, 80), dmin: half_at(w, 82) }
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn q3_k_parts(w: &[u8; 110]) -> Parts {
    let (qs, high) = (load_64(w, 32), _mm512_broadcast_i64x4(load_32(w, 0)));
    let fields = eight(|b| b % 4 * 2);
    // Block b's high bits are bits b; they go to bits 2.
    let highs = eight(|b| (b + 62) % 64);
    let q = std::array::from_fn(|p| {
        let p = p as i64;
        let bits = _mm512_permutexvar_epi64(eight(|b| b / 4 * 4 + p), qs);
        let low = _mm512_and_si512(_mm512_srlv_epi64(bits, fields), _mm512_set1_epi8(3));
        let high = _mm512_rorv_epi64(_mm512_permutexvar_epi64(_mm512_set1_epi64(p), high), highs);
        and_or(high, _mm512_set1_epi8(4), low)
    });
    // Twelve bytes: low nibbles of scales 0..8, high nibbles for 8..16, then two more bits of each.
    let packed = _mm_setr_epi32(word(w, 96), word(w, 100), word(w, 104), 0);
    let low = _mm_and_si128(_mm_unpacklo_epi64(packed, _mm_srli_epi16::<4>(packed)), _mm_set1_epi8(15));
    let high = _mm_srlv_epi32(_mm_shuffle_epi32::<0xaa>(packed), _mm_setr_epi32(0, 2, 4, 6));
    let high = _mm_slli_epi16::<4>(_mm_and_si128(high, _mm_set1_epi8(3)));
    let scales = _mm_sub_epi8(_mm_or_si128(low, high), _mm_set1_epi8(32));
    Parts::plain(q, _mm512_cvtepi8_epi32(scales), half_at(w, 108))
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn q4_k_parts(w: &[u8; 144]) -> Parts {
    let [scales, mins] = scales_and_mins(w);
    Parts { q: nibbles(w, 16), scales, mins, d: half_at(w, 0), dmin: half_at(w, 2) }
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn q5_k_parts(w: &[u8; 176]) -> Parts {
    let [scales, mins] = scales_and_mins(w);
    let (low, high) = (nibbles(w, 48), _mm512_broadcast_i64x4(load_32(w, 16)));
    // Block b's high bits are bits b; they go to bits 4.
    let highs = eight(|b| (b + 60) % 64);
    let q = std::array::from_fn(|p| {
        let high = _mm512_rorv_epi64(_mm512_permutexvar_epi64(_mm512_set1_epi64(p as i64), high), highs);
        and_or(high, _mm512_set1_epi8(16), low[p])
    });
    Parts { q, scales, mins, d: half_at(w, 0), dmin: half_at(w, 2) }
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn q6_k_parts(w: &[u8; 210]) -> Parts {
    let (low, high) = ([load_64(w, 0), load_64(w, 64)], load_64(w, 128));
    let nibbles = eight(|b| b % 4 / 2 * 4);
    // Two bits at 0, 2, 4 and 6; they go to bit 4.
    let highs = eight(|b| (b % 4 * 2 + 60) % 64);
    let q = std::array::from_fn(|p| {
        let p = p as i64;
        let bits = _mm512_permutex2var_epi64(low[0], eight(|b| b / 4 * 8 + b % 2 * 4 + p), low[1]);
        let low = _mm512_srlv_epi64(bits, nibbles);
        let bits = _mm512_permutexvar_epi64(eight(|b| b / 4 * 4 + p), high);
        let high = _mm512_rorv_epi64(bits, highs);
        and_or(low, _mm512_set1_epi8(15), _mm512_and_si512(high, _mm512_set1_epi8(48)))
    });
    Parts::plain(q, _mm512_cvtepi8_epi32(load_16(w, 192)), half_at(w, 208))
}

/// 128 bytes, of which each 32 hold one block in the low nibbles and the next in the high ones.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn nibbles(w: &[u8], at: usize) -> [__m512i; 4] {
    let qs = [load_64(w, at), load_64(w, at + 64)];
    std::array::from_fn(|p| {
        let p = p as i64;
        let bits = _mm512_permutex2var_epi64(qs[0], eight(|b| b / 2 * 4 + p), qs[1]);
        _mm512_and_si512(_mm512_srlv_epi64(bits, eight(|b| b % 2 * 4)), _mm512_set1_epi8(15))
    })
}

/// `Q4_K` and `Q5_K`: eight six-bit pairs in twelve bytes, to the scales and minima of each 16 weights.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn scales_and_mins(w: &[u8]) -> [__m512i; 2] {
    let s = [word(w, 4) as u32, word(w, 8) as u32, word(w, 12) as u32];
    let scales = [s[0] & 0x3f3f_3f3f, s[2] & 0x0f0f_0f0f | s[0] >> 2 & 0x3030_3030];
    let mins = [s[1] & 0x3f3f_3f3f, s[2] >> 4 & 0x0f0f_0f0f | s[1] >> 2 & 0x3030_3030];
    [scales, mins].map(|[low, high]| {
        let each = _mm_cvtsi64_si128((u64::from(low) | u64::from(high) << 32) as i64);
        _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(each, each))
    })
}

/// The four bytes at `at`.
fn word(w: &[u8], at: usize) -> i32 {
    i32::from_le_bytes([w[at], w[at + 1], w[at + 2], w[at + 3]])
}

/// `x & mask | y`
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn and_or(x: __m512i, mask: __m512i, y: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xea>(x, mask, y)
}

weights!(q2_k, 84, q2_k_parts => with_mins());
weights!(q3_k, 110, q3_k_parts => signed(4));
weights!(q4_k, 144, q4_k_parts => with_mins());
weights!(q5_k, 176, q5_k_parts => with_mins());
weights!(q6_k, 210, q6_k_parts => signed(32));
