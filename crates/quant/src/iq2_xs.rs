//! `IQ2_XS`: rows of eight weights out of 512, with even signs; 74 bytes for 256 weights, 2.3125 bits per weight.
//!
//! ```text
//! byte  0..2   d   f16
//! byte  2..66  k   u16  row r in 0..32:  bits 0..9: number of the grid row;  bits 9..16: signs
//! byte 66..74  s   u4   scales of 16 weights: byte r / 4, low half for its rows 0 and 1, high half for 2 and 3
//!                       w[8r + j] = d * (s[r / 2] + 1/2) / 4 * sign[j] * grid[k[r]][j]
//! ```
//!
//! Error: decoding is exact up to one rounding to f32; files are packed elsewhere.
//! Source: `block_iq2_xs` in ggml's `ggml-common.h`, `dequantize_row_iq2_xs` in `ggml-quants.c`.

use crate::bits::{codes, decode_blocks, half_at, u16_at};
use crate::codebook::{rows, sign_byte, signed_row, words_of_8};
use crate::format::Info;

/// The magnitudes of each row.
pub static IQ2_XS_ROWS: [[u8; 8]; 512] = rows(include_bytes!("grids/iq2_xs.hex"), [8, 25, 43]);

/// [`IQ2_XS_ROWS`] as words, first value lowest.
pub static IQ2_XS_GRID: [u64; 512] = words_of_8(&IQ2_XS_ROWS);

pub(crate) const INFO: Info =
    Info { id: 17, block_len: 256, block_bytes: 74, decode: |b, y| decode_blocks(b, y, decode), encode: None };

fn decode(b: &[u8; 74], y: &mut [f32; 256]) {
    let scales = quarter_scales(half_at(b, 0), &b[66..]);
    for (r, y) in y.chunks_exact_mut(8).enumerate() {
        let k = u16_at(b, 2 + 2 * r);
        let row = &IQ2_XS_ROWS[usize::from(k & 511)];
        signed_row(y, scales[r / 2], row, sign_byte((k >> 9) as u8));
    }
}

/// `d * (s + 1/2) / 4` for each half byte `s`, low halves first.
pub(crate) fn quarter_scales(d: f32, s: &[u8]) -> [f32; 16] {
    codes::<4, 1, 16>(s).map(|s| d * (0.5 + f32::from(s)) * 0.25)
}
