//! `MXFP4`: 32 E2M1 numbers share a power of two; 17 bytes, 4.25 bits per weight.
//!
//! ```text
//! byte 0      e   u8  exponent of the scale, E8M0
//! byte 1..17  q   u4  w[i] = 2^(e - 127) * E2M1[q[i]]     low halves: i in 0..16, high halves: i in 16..32
//! ```
//!
//! The scale puts the largest weight between 4 and 8, of which 6 to 8 becomes 6; a weight half-way between two numbers
//! becomes the smaller one.
//! Error: `max|w| / 4`, or 2^-128 where that is more.
//! As in ggml, `e = 255` is no NaN but the next power of two: twice the numbers times half the scale, which is a
//! subnormal for `e < 2`. There is one zero: code 8 is not negative.
//! Source: OCP Microscaling Formats 1.0; `block_mxfp4` in ggml's `ggml-common.h`, `ggml_e8m0_to_fp32_half` in
//! `ggml-impl.h`, `quantize_row_mxfp4_ref` in `ggml-quants.c`.

use crate::bits::{codes, decode_blocks, encode_blocks, extreme, pack};
use crate::format::{Encoder, Info};
use crate::{fp4, scale};

pub(crate) const INFO: Info = Info {
    id: 39,
    block_len: 32,
    block_bytes: 17,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: |x, _, b| encode_blocks(x, b, encode), error }),
};

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

fn encode(x: &[f32; 32]) -> [u8; 17] {
    let e = ((extreme(x).abs().to_bits() >> 23) as u8).saturating_sub(2);
    let inverse = scale::inverse(e);
    let mut b = [0; 17];
    b[0] = e;
    b[1..].copy_from_slice(&pack::<4, 16, 16>(&x.map(|v| nearest(v * inverse))));
    b
}

/// The code nearest to `v`: as many as there are midpoints between numbers below its magnitude.
fn nearest(v: f32) -> u8 {
    let midpoints = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
    let code = midpoints.iter().map(|&m| u8::from(v.abs() > m)).sum();
    if v < 0.0 && code > 0 { code | 8 } else { code }
}
