//! `TQ2_0`: 256 weights of -1, 0 or 1 share one scale, in two bits each; 66 bytes, 2.0625 bits per weight.
//!
//! ```text
//! byte  0..64  q   u2   w[i] = d * (q[i] - 1)   32 bytes hold 128 weights: bits 0..2 of all of them first, ...
//! byte 64..66  d   f16
//! ```
//!
//! The scale is the largest magnitude: the encoder is for weights that are ternary already.
//! Error: half a step, where `d = max|w|`, plus the rounding of `d`.
//! Source: `block_tq2_0` in ggml's `ggml-common.h`, `quantize_row_tq2_0_ref` in `ggml-quants.c`.

use crate::bits::{
    HALF_MAX, codes, decode_blocks, encode_blocks, extreme, half_at, half_bytes, half_error, inverse, pack,
};
use crate::format::{Encoder, Info};

pub(crate) const INFO: Info = Info {
    id: 35,
    block_len: 256,
    block_bytes: 66,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: |x, _, b| encode_blocks(x, b, encode), error, largest: HALF_MAX }),
};

fn decode(b: &[u8; 66], y: &mut [f32; 256]) {
    let d = half_at(b, 64);
    *y = codes::<2, 32, 256>(&b[..64]).map(|q| d * f32::from(q as i8 - 1));
}

pub(crate) fn error(x: &[f32]) -> f32 {
    let d = extreme(x).abs();
    0.5 * d + half_error(d)
}

fn encode(x: &[f32; 256]) -> [u8; 66] {
    let (d, trits) = to_trits(x);
    let mut b = [0; 66];
    b[..64].copy_from_slice(&pack::<2, 32, 64>(&trits));
    b[64..].copy_from_slice(&half_bytes(d));
    b
}

/// Scale and codes: 0, 1, 2 for -1, 0, 1.
pub(crate) fn to_trits(x: &[f32; 256]) -> (f32, [u8; 256]) {
    let d = extreme(x).abs();
    let inverse = inverse(d);
    (d, x.map(|v| ((v * inverse).clamp(-1.0, 1.0).round() as i8 + 1) as u8))
}
