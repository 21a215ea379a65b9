//! `IQ3_S`: rows of four weights out of 512, with free signs; 110 bytes for 256 weights, 3.4375 bits per weight.
//!
//! ```text
//! byte   0..2    d   f16
//! byte   2..66   k   u8   row r in 0..64: low eight bits of the number of the grid row
//! byte  66..74   h   u1   ninth bit of the number, in order
//! byte  74..106  g   u8   signs of rows 2p (low half) and 2p + 1
//! byte 106..110  s   u4   scales of 32 weights, in order
//!                         w[4r + j] = d * (1 + 2 * s[r / 8]) * sign[4 * (r % 2) + j] * grid[k[r] + 256 * h[r]][j]
//! ```
//!
//! Error: decoding is exact up to one rounding to f32; files are packed elsewhere.
//! Source: `block_iq3_s` in ggml's `ggml-common.h`, `dequantize_row_iq3_s` in `ggml-quants.c`.

use crate::bits::{codes, decode_blocks, half_at};
use crate::codebook::{rows, signed_row, words_of_4};
use crate::format::Info;

/// The magnitudes of each row.
pub static IQ3_S_ROWS: [[u8; 4]; 512] = rows(include_bytes!("grids/iq3_s.hex"), [1, 3, 5, 7, 9, 11, 13, 15]);

/// [`IQ3_S_ROWS`] as words, first value lowest.
pub static IQ3_S_GRID: [u32; 512] = words_of_4(&IQ3_S_ROWS);

pub(crate) const INFO: Info =
    Info { id: 21, block_len: 256, block_bytes: 110, decode: |b, y| decode_blocks(b, y, decode), encode: None };

fn decode(b: &[u8; 110], y: &mut [f32; 256]) {
    let d = half_at(b, 0);
    let (high, scales) = (codes::<1, 1, 64>(&b[66..74]), codes::<4, 1, 8>(&b[106..]));
    for (r, y) in y.chunks_exact_mut(4).enumerate() {
        let scale = d * f32::from(1 + 2 * scales[r / 8]);
        let row = &IQ3_S_ROWS[usize::from(b[2 + r]) | usize::from(high[r]) << 8];
        signed_row(y, scale, row, b[74 + r / 2] >> (4 * (r % 2)));
    }
}
