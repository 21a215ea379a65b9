//! `IQ2_XXS`: rows of eight weights out of 256, with even signs; 66 bytes for 256 weights, 2.0625 bits per weight.
//!
//! ```text
//! byte 0..2    d   f16
//! byte 2..66       8 groups of 32 weights, 8 bytes each:
//!              0..4  k  u8   numbers of four grid rows
//!              4..8  u  u32  bits 7r .. 7r + 7: signs of row r;  bits 28..32: scale s
//!                            w[8r + j] = d * (s + 1/2) / 4 * sign[j] * grid[k[r]][j]
//! ```
//!
//! Error: decoding is exact up to one rounding to f32; files are packed elsewhere.
//! Source: `block_iq2_xxs` in ggml's `ggml-common.h`, `dequantize_row_iq2_xxs` in `ggml-quants.c`.

use crate::bits::{decode_blocks, half_at, u32_at};
use crate::codebook::{rows, sign_byte, signed_row, words_of_8};
use crate::format::Info;

/// The magnitudes of each row.
pub static IQ2_XXS_ROWS: [[u8; 8]; 256] = rows(include_bytes!("grids/iq2_xxs.hex"), [8, 25, 43]);

/// [`IQ2_XXS_ROWS`] as words, first value lowest.
pub static IQ2_XXS_GRID: [u64; 256] = words_of_8(&IQ2_XXS_ROWS);

pub(crate) const INFO: Info =
    Info { id: 16, block_len: 256, block_bytes: 66, decode: |b, y| decode_blocks(b, y, decode), encode: None };

fn decode(b: &[u8; 66], y: &mut [f32; 256]) {
    let d = half_at(b, 0);
    for (b, y) in b[2..].chunks_exact(8).zip(y.chunks_exact_mut(32)) {
        let u = u32_at(b, 4);
        let scale = d * (0.5 + (u >> 28) as f32) * 0.25;
        for (r, y) in y.chunks_exact_mut(8).enumerate() {
            let row = &IQ2_XXS_ROWS[usize::from(b[r])];
            signed_row(y, scale, row, sign_byte((u >> (7 * r)) as u8));
        }
    }
}
