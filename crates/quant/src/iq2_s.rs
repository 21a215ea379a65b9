//! `IQ2_S`: rows of eight weights out of 1024, with free signs; 82 bytes for 256 weights, 2.5625 bits per weight.
//!
//! ```text
//! byte  0..2   d   f16
//! byte  2..34  k   u8   row r in 0..32: low eight bits of the number of the grid row
//! byte 34..66  g   u8   signs of row r
//! byte 66..74  h   u2   high two bits of the number, in order
//! byte 74..82  s   u4   scales of 16 weights, in order
//!                       w[8r + j] = d * (s[r / 2] + 1/2) / 4 * sign[j] * grid[k[r] + 256 * h[r]][j]
//! ```
//!
//! The encoder minimises `sum I sqrt(2 mean w^2 + w^2) error^2`, where `I` is the importance, over rows, signs and scales
//! together: see `grid`.
//! Error: `1.25 * max|w| + 2^-23`, the most in a small value beside large ones. Measured, on blocks made to be hard.
//! Source: `block_iq2_s` in ggml's `ggml-common.h`, `dequantize_row_iq2_s` and `quantize_row_iq2_s_impl` in
//! `ggml-quants.c`.

use crate::bits::{HALF_MAX, codes, decode_blocks, extreme, half_at, pack, weighted};
use crate::codebook::{rows, signed_row, words_of_8};
use crate::format::{Encoder, Info};
use crate::grid::{Eights, search};
use crate::iq2_xs::{pack_scales, quarter_scales};
use crate::search::weights;

/// The magnitudes of each row.
pub static IQ2_S_ROWS: [[u8; 8]; 1024] = rows(include_bytes!("grids/iq2_s.hex"), [8, 25, 43]);

/// [`IQ2_S_ROWS`] as words, first value lowest.
pub static IQ2_S_GRID: [u64; 1024] = words_of_8(&IQ2_S_ROWS);

static GRID: Eights<1024, false> = Eights::new(&IQ2_S_ROWS);

pub(crate) const INFO: Info = Info {
    id: 22,
    block_len: 256,
    block_bytes: 82,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: 15.0 * HALF_MAX }),
};

fn decode(b: &[u8; 82], y: &mut [f32; 256]) {
    let scales = quarter_scales(half_at(b, 0), &b[74..]);
    let high = codes::<2, 1, 32>(&b[66..74]);
    for (r, y) in y.chunks_exact_mut(8).enumerate() {
        let row = &IQ2_S_ROWS[usize::from(b[2 + r]) | usize::from(high[r]) << 8];
        signed_row(y, scales[r / 2], row, b[34 + r]);
    }
}

fn error(x: &[f32]) -> f32 {
    1.25 * extreme(x).abs() + 2f32.powi(-23)
}

#[inline(always)]
fn encode(x: &[f32; 256], importance: Option<&[f32; 256]>) -> [u8; 82] {
    let mut b = [0; 82];
    let Some(found) = search::<1, 2, _>(&GRID, x, &weights(x, importance, 2.0)) else { return b };
    b[..2].copy_from_slice(&found.d.to_le_bytes());
    let rows = found.rows.map(|[k]| k);
    b[2..34].copy_from_slice(&rows.map(|k| k as u8));
    b[34..66].copy_from_slice(&found.signs);
    b[66..74].copy_from_slice(&pack::<2, 1, 8>(&rows.map(|k| (k >> 8) as u8)));
    b[74..].copy_from_slice(&pack_scales(&found.scales));
    b
}
