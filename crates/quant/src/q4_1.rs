//! `Q4_1`: 32 weights of four bits share a scale and a minimum; 20 bytes, 5 bits per weight.
//!
//! ```text
//! byte  0..2   d    f16  scale
//! byte  2..4   m    f16  minimum
//! byte  4..20  q    u4   w[i] = d * q[i] + m       low halves: i in 0..16, high halves: i in 16..32
//! ```
//!
//! Error: half a step, where `d = (max w - min w) / 15`, plus 15 times the rounding of `d`, plus that of `m`.
//! Source: `block_q4_1` in ggml's `ggml-common.h`, `quantize_row_q4_1_ref` in `ggml-quants.c`.

use crate::bits::{codes, decode_blocks, encode_blocks, half_at, half_bytes, half_error, inverse, pack, range};
use crate::format::{Encoder, Info};

pub(crate) const INFO: Info = Info {
    id: 3,
    block_len: 32,
    block_bytes: 20,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: |x, _, b| encode_blocks(x, b, encode), error }),
};

fn decode(b: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    *y = codes::<4, 16, 32>(&b[4..]).map(|q| d * f32::from(q) + m);
}

fn error(x: &[f32]) -> f32 {
    let (low, high) = range(x);
    let d = (high - low) / 15.0;
    0.5 * d + 15.0 * half_error(d) + half_error(low)
}

fn encode(x: &[f32; 32]) -> [u8; 20] {
    let (low, high) = range(x);
    let d = (high - low) / 15.0;
    let inverse = inverse(d);
    let q = x.map(|v| (((v - low) * inverse + 0.5) as u8).min(15));
    let mut b = [0; 20];
    b[..2].copy_from_slice(&half_bytes(d));
    b[2..4].copy_from_slice(&half_bytes(low));
    b[4..].copy_from_slice(&pack::<4, 16, 16>(&q));
    b
}
