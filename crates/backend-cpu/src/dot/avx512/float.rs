//! Weights that are floats: f32 products, nothing rounded.

use std::arch::x86_64::*;

use super::{load_32, load_64};

/// Registers of partial sums per column, to hide the latency of the additions.
const SUMS: usize = 4;

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
pub(super) fn f32<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 64>(w, x, |w| _mm512_castsi512_ps(load_64(w, 0)))
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
pub(super) fn f16<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 32>(w, x, |w| _mm512_cvtph_ps(load_32(w, 0)))
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
pub(super) fn bf16<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 32>(w, x, |w| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(load_32(w, 0)))))
}

/// `BYTES` hold 16 weights; element `i` of a row is added to lane `i % 16` of sum `i / 16 % SUMS`.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn dot<const N: usize, const BYTES: usize>(
    w: &[u8],
    x: [&[u8]; N],
    decode: impl Fn(&[u8; BYTES]) -> __m512,
) -> [f32; N] {
    let (whole, rest) = w.as_chunks::<BYTES>();
    let x_bytes = w.len() / BYTES * 64 + rest.len() * 64 / BYTES;
    let (whole_x, rest_x) = (x.map(|x| x[..x_bytes].as_chunks::<64>().0), x.map(|x| x[..x_bytes].as_chunks::<64>().1));
    let mut sums = [[_mm512_setzero_ps(); SUMS]; N];
    let (fours, _) = whole.as_chunks::<SUMS>();
    let fours_x = whole_x.map(|x| &x.as_chunks::<SUMS>().0[..fours.len()]);
    for (g, w) in fours.iter().enumerate() {
        for i in 0..SUMS {
            let w = decode(&w[i]);
            for c in 0..N {
                sums[c][i] = _mm512_fmadd_ps(w, _mm512_castsi512_ps(load_64(&fours_x[c][g][i], 0)), sums[c][i]);
            }
        }
    }
    let mut add = |i: usize, w: &[u8; BYTES], x: [&[u8; 64]; N]| {
        let w = decode(w);
        for c in 0..N {
            sums[c][i] = _mm512_fmadd_ps(w, _mm512_castsi512_ps(load_64(x[c], 0)), sums[c][i]);
        }
    };
    for i in fours.len() * SUMS..whole.len() {
        add(i % SUMS, &whole[i], whole_x.map(|x| &x[i]));
    }
    if !rest.is_empty() {
        let mut last = [0; BYTES];
        last[..rest.len()].copy_from_slice(rest);
        let last_x = rest_x.map(|rest| {
            let mut last = [0; 64];
            last[..rest.len()].copy_from_slice(rest);
            last
        });
        add(whole.len() % SUMS, &last, last_x.each_ref());
    }
    sums.map(|[a, b, c, d]| _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d))))
}
