//! `IQ2_XS`: rows of eight weights out of 512, with even signs; 74 bytes for 256 weights, 2.3125 bits per weight.
//!
//! ```text
//! byte  0..2   d   f16
//! byte  2..66  k   u16  row r in 0..32:  bits 0..9: number of the grid row;  bits 9..16: signs
//! byte 66..74  s   u4   scales of 16 weights: byte r / 4, low half for its rows 0 and 1, high half for 2 and 3
//!                       w[8r + j] = d * (s[r / 2] + 1/2) / 4 * sign[j] * grid[k[r]][j]
//! ```
//!
//! The encoder minimises `sum I sqrt(mean w^2 + w^2) error^2`, where `I` is the importance, over rows, signs and scales
//! together: see `grid`.
//! Error: `2.5 * max|w| + 2^-23`, the most where a value has to take the wrong sign. Measured, on blocks made to be hard.
//! Source: `block_iq2_xs` in ggml's `ggml-common.h`, `dequantize_row_iq2_xs` and `quantize_row_iq2_xs_impl` in
//! `ggml-quants.c`.

use crate::bits::{HALF_MAX, codes, decode_blocks, extreme, half_at, pack, u16_at, weighted};
use crate::codebook::{rows, sign_byte, signed_row, words_of_8};
use crate::format::{Encoder, Info};
use crate::grid::{Eights, search};
use crate::search::weights;

/// The magnitudes of each row.
pub static IQ2_XS_ROWS: [[u8; 8]; 512] = rows(include_bytes!("grids/iq2_xs.hex"), [8, 25, 43]);

/// [`IQ2_XS_ROWS`] as words, first value lowest.
pub static IQ2_XS_GRID: [u64; 512] = words_of_8(&IQ2_XS_ROWS);

static GRID: Eights<512, true> = Eights::new(&IQ2_XS_ROWS);

pub(crate) const INFO: Info = Info {
    id: 17,
    block_len: 256,
    block_bytes: 74,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: 15.0 * HALF_MAX }),
};

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

fn error(x: &[f32]) -> f32 {
    2.5 * extreme(x).abs() + 2f32.powi(-23)
}

#[inline(always)]
fn encode(x: &[f32; 256], importance: Option<&[f32; 256]>) -> [u8; 74] {
    let mut b = [0; 74];
    let Some(found) = search::<1, 2, _>(&GRID, x, &weights(x, importance, 1.0)) else { return b };
    b[..2].copy_from_slice(&found.d.to_le_bytes());
    for (r, b) in b[2..66].chunks_exact_mut(2).enumerate() {
        let k = found.rows[r][0] | u16::from(found.signs[r] & 127) << 9;
        b.copy_from_slice(&k.to_le_bytes());
    }
    b[66..].copy_from_slice(&pack_scales(&found.scales));
    b
}

/// The four bits of each scale of the octets, of which two share one.
pub(crate) fn pack_scales(scales: &[u8; 32]) -> [u8; 8] {
    let halves: [u8; 16] = std::array::from_fn(|g| scales[2 * g]);
    pack::<4, 1, 8>(&halves)
}
