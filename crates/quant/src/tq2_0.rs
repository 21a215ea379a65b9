//! `TQ2_0`: 256 weights of -1, 0 or 1 share one scale, in two bits each; 66 bytes, 2.0625 bits per weight.
//!
//! ```text
//! byte  0..64  q   u2   w[i] = d * (q[i] - 1)   32 bytes hold 128 weights: bits 0..2 of all of them first, ...
//! byte 64..66  d   f16
//! ```
//!
//! Error: decoding is exact; files are packed elsewhere.
//! Source: `block_tq2_0` in ggml's `ggml-common.h`, `dequantize_row_tq2_0` in `ggml-quants.c`.

use crate::bits::{codes, decode_blocks, half_at};
use crate::format::Info;

pub(crate) const INFO: Info =
    Info { id: 35, block_len: 256, block_bytes: 66, decode: |b, y| decode_blocks(b, y, decode), encode: None };

fn decode(b: &[u8; 66], y: &mut [f32; 256]) {
    let d = half_at(b, 64);
    *y = codes::<2, 32, 256>(&b[..64]).map(|q| d * f32::from(q as i8 - 1));
}
