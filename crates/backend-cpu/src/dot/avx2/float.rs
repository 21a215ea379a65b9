//! Weights that are floats: f32 products, nothing rounded.

use std::arch::x86_64::*;

use super::{load_16, pad, reduce};

/// Registers of partial sums per column, which hide the latency of additions; of four columns they fit the registers.
const SUMS: usize = 2;
/// Bytes of a register.
const REGISTER: usize = 32;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f32<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 32>(w, x, |w| load(w))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f16<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 16>(w, x, |w| _mm256_cvtph_ps(load_16(w, 0)))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn bf16<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 16>(w, x, |w| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(load_16(w, 0)))))
}

/// The dot products of a row of weights, `BYTES` per register, with the rows `x`.
///
/// Register `i` of a row is added to sum `i % SUMS`; one that the row does not fill ends in zeros.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn dot<const N: usize, const BYTES: usize>(
    w: &[u8],
    x: [&[u8]; N],
    decode: impl Fn(&[u8; BYTES]) -> __m256,
) -> [f32; N] {
    let (whole, rest) = w.as_chunks::<BYTES>();
    let rest_x = rest.len() * REGISTER / BYTES;
    let mut sums = [[_mm256_setzero_ps(); SUMS]; N];
    let mut columns: [&[[u8; REGISTER]]; N] = [&[]; N];
    for c in 0..N {
        columns[c] = &x[c][..whole.len() * REGISTER].as_chunks().0[..whole.len()];
    }
    let (steps, remainder) = whole.as_chunks::<SUMS>();
    for (s, step) in steps.iter().enumerate() {
        for i in 0..SUMS {
            let w = decode(&step[i]);
            for c in 0..N {
                sums[c][i] = _mm256_fmadd_ps(w, load(&columns[c][s * SUMS + i]), sums[c][i]);
            }
        }
    }
    for (i, w) in remainder.iter().enumerate() {
        let w = decode(w);
        for c in 0..N {
            sums[c][i] = _mm256_fmadd_ps(w, load(&columns[c][steps.len() * SUMS + i]), sums[c][i]);
        }
    }
    if !rest.is_empty() {
        let w = decode(&pad(rest));
        for c in 0..N {
            let x = pad(&x[c][whole.len() * REGISTER..][..rest_x]);
            sums[c][remainder.len()] = _mm256_fmadd_ps(w, load(&x), sums[c][remainder.len()]);
        }
    }
    sums.map(|[a, b]| reduce(_mm256_add_ps(a, b)))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load(bytes: &[u8; REGISTER]) -> __m256 {
    // SAFETY: a register of readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm256_loadu_ps(bytes.as_ptr().cast()) }
}
