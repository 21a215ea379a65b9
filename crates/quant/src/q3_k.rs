//! `Q3_K`: 256 weights of three bits in 16 groups, each with a signed scale of six bits; 110 bytes, 3.4375 bits per
//! weight.
//!
//! ```text
//! byte   0..32   h   u1   third bits: bit i / 32 of byte i % 32
//! byte  32..96   l   u2   32 bytes hold 128 weights: bits 0..2 of all of them first, then bits 2..4, ...
//! byte  96..104  sl  u4   low four bits of the scales: low halves g in 0..8, high halves g in 8..16
//! byte 104..108  sh  u2   high two bits of the scales: byte g % 4, bits 2 * (g / 4) ..
//! byte 108..110  d   f16
//!                         w[i] = d * (sl[g] + 16 * sh[g] - 32) * (l[i] + 4 * h[i] - 4),  g = i / 16
//! ```
//!
//! Error: decoding is exact up to one rounding to f32; files are packed elsewhere.
//! Source: `block_q3_K` in ggml's `ggml-common.h`, `dequantize_row_q3_K` in `ggml-quants.c`.

use crate::bits::{codes, decode_blocks, half_at};
use crate::format::Info;

pub(crate) const INFO: Info =
    Info { id: 11, block_len: 256, block_bytes: 110, decode: |b, y| decode_blocks(b, y, decode), encode: None };

fn decode(b: &[u8; 110], y: &mut [f32; 256]) {
    let d = half_at(b, 108);
    let (high, low) = (codes::<1, 32, 256>(&b[..32]), codes::<2, 32, 256>(&b[32..96]));
    let scales = scales(&b[96..108]);
    for (i, y) in y.iter_mut().enumerate() {
        *y = d * scales[i / 16] * f32::from((low[i] | high[i] << 2) as i8 - 4);
    }
}

fn scales(b: &[u8]) -> [f32; 16] {
    let (low, high) = (codes::<4, 8, 16>(&b[..8]), codes::<2, 4, 16>(&b[8..]));
    std::array::from_fn(|g| f32::from((low[g] | high[g] << 4) as i8 - 32))
}
