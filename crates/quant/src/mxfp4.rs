//! `MXFP4`: 32 E2M1 numbers share a power of two; 17 bytes, 4.25 bits per weight.
//!
//! ```text
//! byte 0      e   u8  exponent of the scale, E8M0
//! byte 1..17  q   u4  w[i] = 2^(e - 127) * E2M1[q[i]]     low halves: i in 0..16, high halves: i in 16..32
//! ```
//!
//! The encoder tries the scale that puts the largest weight between 4 and 8, of which 6 to 8 becomes 6, and those twice
//! and half as large; it minimises `sum I sqrt(4 mean w^2 + w^2) error^2`, where `I` is the importance. A weight half-way
//! between two numbers becomes the smaller one. What has an exact form, as a checkpoint in FP4 does, keeps it.
//! Error: `max|w| / 4`, or 2^-128 where that is more, if all weights are alike in importance.
//! As in ggml, `e = 255` is no NaN but the next power of two: twice the numbers times half the scale, which is a
//! subnormal for `e < 2`. There is one zero: code 8 is not negative.
//! Source: OCP Microscaling Formats 1.0; `block_mxfp4` in ggml's `ggml-common.h`, `ggml_e8m0_to_fp32_half` in
//! `ggml-impl.h`, `quantize_row_mxfp4_ref` in `ggml-quants.c`.

use crate::bits::{codes, decode_blocks, extreme, pack, weighted};
use crate::format::{Encoder, Info};
use crate::search::weights;
use crate::{fp4, scale};

pub(crate) const INFO: Info = Info {
    id: 39,
    block_len: 32,
    block_bytes: 17,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: LARGEST }),
};

/// From twice of this on, a scale that is tried has codes that stand for no finite number.
const LARGEST: f32 = f32::from_bits((126 + 127) << 23);

fn decode(b: &[u8; 17], y: &mut [f32; 32]) {
    let half = half_scale(b[0]);
    *y = codes::<4, 16, 32>(&b[1..]).map(|q| half * (2.0 * fp4::decode(q) + 0.0));
}

fn half_scale(e: u8) -> f32 {
    f32::from_bits(match e {
        0 | 1 => 0x0020_0000 << e,
        _ => u32::from(e - 1) << 23,
    })
}

fn error(x: &[f32]) -> f32 {
    (0.25 * extreme(x).abs()).max(2f32.powi(-128))
}

#[inline(always)]
fn encode(x: &[f32; 32], importance: Option<&[f32; 32]>) -> [u8; 17] {
    let middle = ((extreme(x).abs().to_bits() >> 23) as u8).saturating_sub(2);
    let mut v = *x;
    for v in &mut v {
        *v *= scale::inverse(middle);
    }
    let w = weights(&v, importance, 4.0);
    let (mut least, mut e) = (loss(&v, &w, 1.0), middle);
    for (other, factor) in [(middle + 1, 2.0), (middle.saturating_sub(1), 0.5)] {
        let loss = loss(&v, &w, factor);
        if other != middle && loss < least {
            (least, e) = (loss, other);
        }
    }
    let mut codes = [0; 32];
    for (code, v) in codes.iter_mut().zip(x) {
        *code = nearest(v * scale::inverse(e));
    }
    let mut b = [0; 17];
    b[0] = e;
    b[1..].copy_from_slice(&pack::<4, 16, 16>(&codes));
    b
}

/// The weighted error at a scale.
#[inline(always)]
fn loss(x: &[f32; 32], w: &[f32; 32], scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    let mut sums = [0f32; 8];
    for (x, w) in x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0) {
        for (sum, (x, w)) in sums.iter_mut().zip(x.iter().zip(w)) {
            let error = x.abs() - scale * rounded(x.abs() * inverse);
            *sum += w * error * error;
        }
    }
    sums.iter().sum()
}

/// The number nearest to a magnitude; which one, if it lies half-way, is no matter to the error.
#[inline(always)]
fn rounded(magnitude: f32) -> f32 {
    let magnitude = if magnitude < 6.0 { magnitude } else { 6.0 };
    let multiple_of_half = (magnitude + HALVES) - HALVES;
    let two_bits = f32::from_bits((magnitude.to_bits() + (1 << 21)) & !((1 << 22) - 1));
    if magnitude < 1.0 { multiple_of_half } else { two_bits }
}

const HALVES: f32 = (1 << 22) as f32; // numbers from here on are multiples of 1/2

/// The code nearest to `v`: as many as there are midpoints between numbers below its magnitude.
#[inline(always)]
fn nearest(v: f32) -> u8 {
    let midpoints = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
    let code = midpoints.iter().map(|&m| u8::from(v.abs() > m)).sum();
    if v < 0.0 && code > 0 { code | 8 } else { code }
}
