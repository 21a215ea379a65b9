//! `IQ3_XXS`: rows of four weights out of 256, with even signs; 98 bytes for 256 weights, 3.0625 bits per weight.
//!
//! ```text
//! byte  0..2   d   f16
//! byte  2..66  k   u8   numbers of the 64 grid rows
//! byte 66..98  u   u32  group g of 32 weights:  bits 7p .. 7p + 7: signs of row pair p in 0..4;  bits 28..32: scale s
//!                       w[4r + j] = d * (s[r / 8] + 1/2) / 2 * sign[4 * (r % 2) + j] * grid[k[r]][j]
//! ```
//!
//! The encoder minimises `sum I sqrt(2 mean w^2 + w^2) error^2`, where `I` is the importance, or else
//! `sum (1.3 mean w^2 + w^2) error^2`, over rows, signs and scales together: see `grid`.
//! Error: `2.5 * max|w| + 2^-23`, the most where a value has to take the wrong sign. Measured, on blocks made to be hard.
//! Source: `block_iq3_xxs` in ggml's `ggml-common.h`, `dequantize_row_iq3_xxs` and `quantize_row_iq3_xxs_impl` in
//! `ggml-quants.c`.

use std::sync::LazyLock;

use crate::bits::{HALF_MAX, decode_blocks, extreme, half_at, u32_at, weighted};
use crate::codebook::{rows, sign_byte, signed_row, words_of_4};
use crate::format::{Encoder, Info};
use crate::grid::{Fours, search};
use crate::iq2_xxs::scale_and_signs;
use crate::search::weights_or_squares;

/// The magnitudes of each row.
pub static IQ3_XXS_ROWS: [[u8; 4]; 256] = rows(include_bytes!("grids/iq3_xxs.hex"), [4, 12, 20, 28, 36, 44, 52, 62]);

/// [`IQ3_XXS_ROWS`] as words, first value lowest.
pub static IQ3_XXS_GRID: [u32; 256] = words_of_4(&IQ3_XXS_ROWS);

static GRID: LazyLock<Fours<256, 4, true>> = LazyLock::new(|| Fours::new(&IQ3_XXS_ROWS));

pub(crate) const INFO: Info = Info {
    id: 18,
    block_len: 256,
    block_bytes: 98,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: 15.0 * HALF_MAX }),
};

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

fn error(x: &[f32]) -> f32 {
    2.5 * extreme(x).abs() + 2f32.powi(-23)
}

#[inline(always)]
fn encode(x: &[f32; 256], importance: Option<&[f32; 256]>) -> [u8; 98] {
    let mut b = [0; 98];
    let Some(found) = search::<2, 4, _>(&*GRID, x, &weights_or_squares(x, importance)) else { return b };
    b[..2].copy_from_slice(&found.d.to_le_bytes());
    for (b, k) in b[2..66].iter_mut().zip(found.rows.as_flattened()) {
        *b = *k as u8;
    }
    for (g, b) in b[66..].chunks_exact_mut(4).enumerate() {
        b.copy_from_slice(&scale_and_signs(found.scales[4 * g], &found.signs[4 * g..4 * g + 4]));
    }
    b
}
