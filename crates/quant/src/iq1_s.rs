//! `IQ1_S`: rows of eight weights near -1, 0 and 1 out of 2048; 50 bytes for 256 weights, 1.5625 bits per weight.
//!
//! ```text
//! byte  0..2   d   f16
//! byte  2..34  k   u8   row r in 0..32: low eight bits of the number of the grid row
//! byte 34..50  h   u16  group g of four rows:  bits 3r .. 3r + 3: high three bits of the number;
//!                       bits 12..15: scale s;  bit 15: delta is -1/8, else 1/8
//!                       w[8r + j] = d * (2 * s[g] + 1) * (grid[number][j] + delta[g])
//! ```
//!
//! Error: decoding is exact up to one rounding to f32; files are packed elsewhere.
//! Source: `block_iq1_s`, `IQ1S_DELTA` in ggml's `ggml-common.h`, `dequantize_row_iq1_s` in `ggml-quants.c`.

use crate::bits::{decode_blocks, half_at, u16_at};
use crate::codebook::rows;
use crate::format::Info;

/// The rows of `IQ1_S` and `IQ1_M`; 255 is -1.
pub(crate) static IQ1_ROWS: [[u8; 8]; 2048] = rows(include_bytes!("grids/iq1_s.hex"), [255, 0, 1]);

pub(crate) const INFO: Info =
    Info { id: 19, block_len: 256, block_bytes: 50, decode: |b, y| decode_blocks(b, y, decode), encode: None };

fn decode(b: &[u8; 50], y: &mut [f32; 256]) {
    let d = half_at(b, 0);
    for (g, y) in y.chunks_exact_mut(32).enumerate() {
        let h = u16_at(b, 34 + 2 * g);
        let scale = d * f32::from(2 * (h >> 12 & 7) + 1);
        for (r, y) in y.chunks_exact_mut(8).enumerate() {
            let number = usize::from(b[2 + 4 * g + r]) | usize::from(h >> (3 * r) & 7) << 8;
            shifted_row(y, scale, number, h >> 15 != 0);
        }
    }
}

/// `y[j] = scale * (grid[number][j] + delta)`, where delta is 1/8, or -1/8 if `down`.
pub(crate) fn shifted_row(y: &mut [f32], scale: f32, number: usize, down: bool) {
    let delta = if down { -0.125 } else { 0.125 };
    for (y, &level) in y.iter_mut().zip(&IQ1_ROWS[number]) {
        *y = scale * (f32::from(level as i8) + delta);
    }
}
