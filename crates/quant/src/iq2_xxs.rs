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
//! The encoder minimises `sum I sqrt(mean w^2 + w^2) error^2`, where `I` is the importance, over rows, signs and scales
//! together: see `grid`.
//! Error: `2.5 * max|w| + 2^-23`, the most where a value has to take the wrong sign. Measured, on blocks made to be hard.
//! Source: `block_iq2_xxs` in ggml's `ggml-common.h`, `dequantize_row_iq2_xxs` and `quantize_row_iq2_xxs_impl` in
//! `ggml-quants.c`.

use crate::bits::{HALF_MAX, decode_blocks, extreme, half_at, u32_at, weighted};
use crate::codebook::{rows, sign_byte, signed_row, words_of_8};
use crate::format::{Encoder, Info};
use crate::grid::{Eights, search};
use crate::search::weights;

/// The magnitudes of each row.
pub static IQ2_XXS_ROWS: [[u8; 8]; 256] = rows(include_bytes!("grids/iq2_xxs.hex"), [8, 25, 43]);

/// [`IQ2_XXS_ROWS`] as words, first value lowest.
pub static IQ2_XXS_GRID: [u64; 256] = words_of_8(&IQ2_XXS_ROWS);

static GRID: Eights<256, true> = Eights::new(&IQ2_XXS_ROWS);

pub(crate) const INFO: Info = Info {
    id: 16,
    block_len: 256,
    block_bytes: 66,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: 15.0 * HALF_MAX }),
};

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

fn error(x: &[f32]) -> f32 {
    2.5 * extreme(x).abs() + 2f32.powi(-23)
}

#[inline(always)]
fn encode(x: &[f32; 256], importance: Option<&[f32; 256]>) -> [u8; 66] {
    let mut b = [0; 66];
    let Some(found) = search::<1, 4, _>(&GRID, x, &weights(x, importance, 1.0)) else { return b };
    b[..2].copy_from_slice(&found.d.to_le_bytes());
    for (g, b) in b[2..].chunks_exact_mut(8).enumerate() {
        let octets = 4 * g..4 * g + 4;
        for (b, [k]) in b.iter_mut().zip(&found.rows[octets.clone()]) {
            *b = *k as u8;
        }
        b[4..].copy_from_slice(&scale_and_signs(found.scales[4 * g], &found.signs[octets]));
    }
    b
}

/// Bits `7r .. 7r + 7`: signs of octet `r` of four, but for the last one;  bits 28..32: the scale
pub(crate) fn scale_and_signs(scale: u8, signs: &[u8]) -> [u8; 4] {
    signs.iter().rev().fold(u32::from(scale), |u, signs| u << 7 | u32::from(signs & 127)).to_le_bytes()
}
