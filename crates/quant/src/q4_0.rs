//! `Q4_0`: 32 weights of four bits share one scale; 18 bytes, 4.5 bits per weight.
//!
//! ```text
//! byte  0..2   d    f16  scale
//! byte  2..18  q    u4   w[i] = d * (q[i] - 8)     low halves: i in 0..16, high halves: i in 16..32
//! ```
//!
//! The weight of largest magnitude becomes -8, so that the other end of the scale, 7, may fall short.
//! Error: one step, `d = max|w| / 8`, plus 8 times the rounding of `d`.
//! Source: `block_q4_0` in ggml's `ggml-common.h`, `quantize_row_q4_0_ref` in `ggml-quants.c`.

use crate::bits::{codes, decode_blocks, encode_blocks, extreme, half_at, half_bytes, half_error, inverse, pack};
use crate::format::{Encoder, Info};

pub(crate) const INFO: Info = Info {
    id: 2,
    block_len: 32,
    block_bytes: 18,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: |x, _, b| encode_blocks(x, b, encode), error }),
};

fn decode(b: &[u8; 18], y: &mut [f32; 32]) {
    let d = half_at(b, 0);
    *y = codes::<4, 16, 32>(&b[2..]).map(|q| d * f32::from(q as i8 - 8));
}

fn error(x: &[f32]) -> f32 {
    let d = extreme(x).abs() / 8.0;
    d + 8.0 * half_error(d)
}

fn encode(x: &[f32; 32]) -> [u8; 18] {
    let d = extreme(x) / -8.0;
    let inverse = inverse(d);
    let q = x.map(|v| ((v * inverse + 8.5) as u8).min(15));
    let mut b = [0; 18];
    b[..2].copy_from_slice(&half_bytes(d));
    b[2..].copy_from_slice(&pack::<4, 16, 16>(&q));
    b
}
