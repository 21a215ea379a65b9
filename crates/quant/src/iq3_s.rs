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
//! The encoder minimises `sum I sqrt(2 mean w^2 + w^2) error^2`, where `I` is the importance, or else
//! `sum (1.3 mean w^2 + w^2) error^2`, over rows, signs and scales together: see `grid`.
//! Error: `max|w| + 2^-23`, the most in a small value beside large ones. Measured, on blocks made to be hard.
//! Source: `block_iq3_s` in ggml's `ggml-common.h`, `dequantize_row_iq3_s` and `quantize_row_iq3_s_impl` in
//! `ggml-quants.c`.

use std::sync::LazyLock;

use crate::bits::{HALF_MAX, codes, decode_blocks, extreme, half_at, pack, weighted};
use crate::codebook::{rows, signed_row, words_of_4};
use crate::format::{Encoder, Info};
use crate::grid::{Fours, search};
use crate::search::weights_or_squares;

/// The magnitudes of each row.
pub static IQ3_S_ROWS: [[u8; 4]; 512] = rows(include_bytes!("grids/iq3_s.hex"), [1, 3, 5, 7, 9, 11, 13, 15]);

/// [`IQ3_S_ROWS`] as words, first value lowest.
pub static IQ3_S_GRID: [u32; 512] = words_of_4(&IQ3_S_ROWS);

static GRID: LazyLock<Fours<512, 1, false>> = LazyLock::new(|| Fours::new(&IQ3_S_ROWS));

pub(crate) const INFO: Info = Info {
    id: 21,
    block_len: 256,
    block_bytes: 110,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: 15.0 * HALF_MAX }),
};

fn decode(b: &[u8; 110], y: &mut [f32; 256]) {
    let d = half_at(b, 0);
    let (high, scales) = (codes::<1, 1, 64>(&b[66..74]), codes::<4, 1, 8>(&b[106..]));
    for (r, y) in y.chunks_exact_mut(4).enumerate() {
        let scale = d * f32::from(1 + 2 * scales[r / 8]);
        let row = &IQ3_S_ROWS[usize::from(b[2 + r]) | usize::from(high[r]) << 8];
        signed_row(y, scale, row, b[74 + r / 2] >> (4 * (r % 2)));
    }
}

fn error(x: &[f32]) -> f32 {
    extreme(x).abs() + 2f32.powi(-23)
}

#[inline(always)]
fn encode(x: &[f32; 256], importance: Option<&[f32; 256]>) -> [u8; 110] {
    let mut b = [0; 110];
    let Some(found) = search::<2, 4, _>(&*GRID, x, &weights_or_squares(x, importance)) else { return b };
    b[..2].copy_from_slice(&found.d.to_le_bytes());
    let rows: [u16; 64] = std::array::from_fn(|r| found.rows[r / 2][r % 2]);
    b[2..66].copy_from_slice(&rows.map(|k| k as u8));
    b[66..74].copy_from_slice(&pack::<1, 1, 8>(&rows.map(|k| (k >> 8) as u8)));
    b[74..106].copy_from_slice(&found.signs);
    let scales: [u8; 8] = std::array::from_fn(|g| found.scales[4 * g]);
    b[106..].copy_from_slice(&pack::<4, 1, 4>(&scales));
    b
}
