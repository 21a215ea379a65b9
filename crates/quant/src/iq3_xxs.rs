//! `IQ3_XXS`: rows of four weights out of 256, with even signs; 98 bytes for 256 weights, 3.0625 bits per weight.
//!
//! ```text
//! byte  0..2   d   f16
//! byte  2..66  k   u8   numbers of the 64 grid rows
//! byte 66..98  u   u32  group g of 32 weights:  bits 7p .. 7p + 7: signs of row pair p in 0..4;  bits 28..32: scale s
//!                       w[4r + j] = d * (s[r / 8] + 1/2) / 2 * sign[4 * (r % 2) + j] * grid[k[r]][j]
//! ```
//!
//! Error: decoding is exact up to one rounding to f32; files are packed elsewhere.
//! Source: `block_iq3_xxs` in ggml's `ggml-common.h`, `dequantize_row_iq3_xxs` in `ggml-quants.c`.

use crate::bits::{decode_blocks, half_at, u32_at};
use crate::codebook::{rows, sign_byte, signed_row, words_of_4};
use crate::format::Info;

/// The magnitudes of each row.
pub static IQ3_XXS_ROWS: [[u8; 4]; 256] = rows(include_bytes!("grids/iq3_xxs.hex"), [4, 12, 20, 28, 36, 44, 52, 62]);

/// [`IQ3_XXS_ROWS`] as words, first value lowest.
pub static IQ3_XXS_GRID: [u32; 256] = words_of_4(&IQ3_XXS_ROWS);

pub(crate) const INFO: Info =
    Info { id: 18, block_len: 256, block_bytes: 98, decode: |b, y| decode_blocks(b, y, decode), encode: None };

fn decode(b: &[u8; 98], y: &mut [f32; 256]) {
    let d = half_at(b, 0);
    for (g, y) in y.chunks_exact_mut(32).enumerate() {
        let u = u32_at(b, 66 + 4 * g);
        let scale = d * (0.5 + (u >> 28) as f32) * 0.5;
        for (r, y) in y.chunks_exact_mut(4).enumerate() {
            let row = &IQ3_XXS_ROWS[usize::from(b[2 + 8 * g + r])];
            let signs = sign_byte((u >> (7 * (r / 2))) as u8);
            signed_row(y, scale, row, signs >> (4 * (r % 2)));
        }
    }
}
