//! `IQ4_XS`: 256 weights with the levels of `IQ4_NL` in 8 groups, each with a signed scale of six bits; 136 bytes, 4.25
//! bits per weight.
//!
//! ```text
//! byte 0..2    d   f16
//! byte 2..4    sh  u2   high two bits of the scales of the groups, in order
//! byte 4..8    sl  u4   low four bits, in order
//! byte 8..136  q   u4   16 bytes hold the 32 weights of group g: low halves first
//!                       w[i] = d * (sl[g] + 16 * sh[g] - 32) * LEVELS[q[i]],  g = i / 32
//! ```
//!
//! The encoder minimises `sum I sqrt(2 mean w^2 + w^2) error^2`, where `I` is the importance, or else
//! `sum (1.3 mean w^2 + w^2) error^2`: see `search`.
//! Error: `max|w| / 4 + 2^-21` if all weights are alike in importance, measured on blocks made to be hard.
//! Source: `block_iq4_xs` in ggml's `ggml-common.h`, `dequantize_row_iq4_xs` in `ggml-quants.c`.

use crate::bits::{HALF_MAX, codes, decode_blocks, extreme, half_at, pack, weighted};
use crate::format::{Encoder, Info};
use crate::iq4_nl::{Uneven, levels};
use crate::search::{Levels, scale_block, scale_codes, to_codes, weights_or_squares};

const SCALES: Levels = Levels { low: -32.0, high: 31.0 };

pub(crate) const INFO: Info = Info {
    id: 23,
    block_len: 256,
    block_bytes: 136,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: 16.0 * 113.0 * HALF_MAX }),
};

fn decode(b: &[u8; 136], y: &mut [f32; 256]) {
    let d = half_at(b, 0);
    let (high, low) = (codes::<2, 1, 8>(&b[2..4]), codes::<4, 1, 8>(&b[4..8]));
    for (g, (y, q)) in y.as_chunks_mut().0.iter_mut().zip(b[8..].chunks_exact(16)).enumerate() {
        *y = levels(d * f32::from((low[g] | high[g] << 4) as i8 - 32), q);
    }
}

fn error(x: &[f32]) -> f32 {
    0.25 * extreme(x).abs() + 2f32.powi(-21)
}

#[inline(always)]
fn encode(x: &[f32; 256], importance: Option<&[f32; 256]>) -> [u8; 136] {
    let w = weights_or_squares(x, importance);
    let block = scale_block::<8, 32>(x, &w, Uneven, SCALES, 2);
    let scales = to_codes(&block.scales, SCALES);
    let mut b = [0; 136];
    b[..2].copy_from_slice(&block.d.to_le_bytes());
    b[2..4].copy_from_slice(&pack::<2, 1, 2>(&scales.map(|s| s >> 4)));
    b[4..8].copy_from_slice(&pack::<4, 1, 4>(&scales));
    b[8..].copy_from_slice(&pack::<4, 16, 128>(&scale_codes::<8, 32>(x, &block, Uneven)));
    b
}
