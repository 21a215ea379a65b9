//! `Q8_0`: blocks of 32 bytes.

use std::arch::x86_64::*;

use super::{Weights, halves, load_32};

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn q8_0(w: &[u8; 8 * 34]) -> Weights {
    // Blocks b and b + 2 in a register.
    let pair = |b: usize| {
        let (low, high) = (load_32(w, 34 * b + 2), load_32(w, 34 * (b + 2) + 2));
        let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
        _mm512_xor_si512(both, _mm512_set1_epi8(-128))
    };
    Weights::signed(interleave([pair(0), pair(1), pair(4), pair(5)]), halves::<34, 0>(w))
}

/// Blocks 0 and 2, 1 and 3, 4 and 6, 5 and 7 to eight bytes of each.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn interleave(blocks: [__m512i; 4]) -> [__m512i; 4] {
    let [b02, b13, b46, b57] = blocks;
    let even = (_mm512_unpacklo_epi64(b02, b13), _mm512_unpacklo_epi64(b46, b57));
    let odd = (_mm512_unpackhi_epi64(b02, b13), _mm512_unpackhi_epi64(b46, b57));
    [
        _mm512_shuffle_i64x2::<0x88>(even.0, even.1),
        _mm512_shuffle_i64x2::<0x88>(odd.0, odd.1),
        _mm512_shuffle_i64x2::<0xdd>(even.0, even.1),
        _mm512_shuffle_i64x2::<0xdd>(odd.0, odd.1),
    ]
}
