//! Weights that are floats: f32 products, nothing rounded.

use std::arch::aarch64::*;

use super::{pad, reduce};

/// Registers of partial sums per column, which hide the latency of additions; of four columns they fit the registers.
const SUMS: usize = 4;
/// Bytes of a register.
const REGISTER: usize = 16;

#[target_feature(enable = "neon,dotprod")]
pub(super) fn f32<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 16>(w, x, |w| load(w))
}

#[target_feature(enable = "neon,dotprod")]
pub(super) fn f16<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 8>(w, x, |w| vcvt_f32_f16(vreinterpret_f16_u16(load_u16(w))))
}

#[target_feature(enable = "neon,dotprod")]
pub(super) fn bf16<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 8>(w, x, |w| vreinterpretq_f32_u32(vshll_n_u16::<16>(load_u16(w))))
}

/// The dot products of a row of weights, `BYTES` per register, with the rows `x`.
///
/// Register `i` of a row is added to sum `i % SUMS`; one that the row does not fill ends in zeros.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn dot<const N: usize, const BYTES: usize>(
    w: &[u8],
    x: [&[u8]; N],
    decode: impl Fn(&[u8; BYTES]) -> float32x4_t,
) -> [f32; N] {
    let (whole, rest) = w.as_chunks::<BYTES>();
    let rest_x = rest.len() * REGISTER / BYTES;
    let mut sums = [[vdupq_n_f32(0.0); SUMS]; N];
    let mut columns: [&[[u8; REGISTER]]; N] = [&[]; N];
    for c in 0..N {
        columns[c] = &x[c][..whole.len() * REGISTER].as_chunks().0[..whole.len()];
    }
    let (steps, remainder) = whole.as_chunks::<SUMS>();
    for (s, step) in steps.iter().enumerate() {
        for i in 0..SUMS {
            let w = decode(&step[i]);
            for c in 0..N {
                sums[c][i] = vfmaq_f32(sums[c][i], w, load(&columns[c][s * SUMS + i]));
            }
        }
    }
    for (i, w) in remainder.iter().enumerate() {
        let w = decode(w);
        for c in 0..N {
            sums[c][i] = vfmaq_f32(sums[c][i], w, load(&columns[c][steps.len() * SUMS + i]));
        }
    }
    if !rest.is_empty() {
        let w = decode(&pad(rest));
        for c in 0..N {
            let x = pad(&x[c][whole.len() * REGISTER..][..rest_x]);
            sums[c][remainder.len()] = vfmaq_f32(sums[c][remainder.len()], w, load(&x));
        }
    }
    sums.map(|[a, b, c, d]| reduce(vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d))))
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
fn load(bytes: &[u8; REGISTER]) -> float32x4_t {
    vreinterpretq_f32_u8(super::load(bytes, 0))
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
fn load_u16(bytes: &[u8; 8]) -> uint16x4_t {
    vreinterpret_u16_u8(super::load_8(bytes, 0))
}
