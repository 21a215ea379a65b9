//! `Q4_K`: 256 weights of four bits in 8 groups, each with a scale and a minimum of six bits; 144 bytes, 4.5 bits per
//! weight.
//!
//! ```text
//! byte  0..2    d     f16  scale of the scales
//! byte  2..4    dmin  f16  scale of the minima
//! byte  4..16   s          scales and minima of the groups, g = i / 32:
//!               0..4       low six bits: scale g in 0..4        high two bits: of scale g + 4
//!               4..8       low six bits: minimum g in 0..4      high two bits: of minimum g + 4
//!               8..12      low half: scale g in 4..8            high half: minimum g in 4..8
//! byte 16..144  q     u4   32 bytes hold 64 weights: low halves first
//!                          w[i] = d * scale[g] * q[i] - dmin * min[g]
//! ```
//!
//! Error: decoding is exact up to two roundings to f32; files are packed elsewhere.
//! Source: `block_q4_K` in ggml's `ggml-common.h`, `get_scale_min_k4`, `dequantize_row_q4_K` in `ggml-quants.c`.

use crate::bits::{codes, decode_blocks, half_at};
use crate::format::Info;

pub(crate) const INFO: Info =
    Info { id: 12, block_len: 256, block_bytes: 144, decode: |b, y| decode_blocks(b, y, decode), encode: None };

fn decode(b: &[u8; 144], y: &mut [f32; 256]) {
    *y = codes::<4, 32, 256>(&b[16..]).map(f32::from);
    scale_groups(&b[..16], y);
}

/// Turns the codes in `y` into weights, by the first 16 bytes of the block.
pub(crate) fn scale_groups(b: &[u8], y: &mut [f32; 256]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for (g, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min(&b[4..], g);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        *y = y.map(|q| scale * q - min);
    }
}

/// Scale and minimum of group `g`.
fn scale_min(s: &[u8], g: usize) -> (u8, u8) {
    if g < 4 {
        (s[g] & 63, s[g + 4] & 63)
    } else {
        (s[g + 4] & 15 | s[g - 4] >> 6 << 4, s[g + 4] >> 4 | s[g] >> 6 << 4)
    }
}
