//! `IQ4_XS`: 256 weights with the levels of `IQ4_NL` in 8 groups, each with a signed scale of six bits; 136 bytes, 4.25
//! bits per weight.
//!
//! ```text
//! byte 0..2    d   f16
//! byte 2..4    sh  u2   high two bits of the scales of the groups, in order
//! byte 4..8    sl  u4   low four bits, in order
//! byte 8..136  q   u4   16 bytes hold the 32 weights of group g: low halves first
//!                       w[i] = d * (sl[g] + 16 * sh[g] - 32) * LEVELS[q[i]],  g = i / 32
//! ```
//!
//! Error: decoding is exact up to one rounding to f32; files are packed elsewhere.
//! Source: `block_iq4_xs` in ggml's `ggml-common.h`, `dequantize_row_iq4_xs` in `ggml-quants.c`.

use crate::bits::{codes, decode_blocks, half_at};
use crate::format::Info;
use crate::iq4_nl::levels;

pub(crate) const INFO: Info =
    Info { id: 23, block_len: 256, block_bytes: 136, decode: |b, y| decode_blocks(b, y, decode), encode: None };

fn decode(b: &[u8; 136], y: &mut [f32; 256]) {
    let d = half_at(b, 0);
    let (high, low) = (codes::<2, 1, 8>(&b[2..4]), codes::<4, 1, 8>(&b[4..8]));
    for (g, (y, q)) in y.as_chunks_mut().0.iter_mut().zip(b[8..].chunks_exact(16)).enumerate() {
        *y = levels(d * f32::from((low[g] | high[g] << 4) as i8 - 32), q);
    }
}
