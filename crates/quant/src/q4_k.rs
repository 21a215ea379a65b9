//! `Q4_K`: 256 weights of four bits in 8 groups, each with a scale and a minimum of six bits; 144 bytes, 4.5 bits per
//! weight.
//!
//! ```text
//! byte  0..2    d     f16  scale of the scales
//! byte  2..4    dmin  f16  scale of the minima
//! byte  4..16   s          scales and minima of the groups, g = i / 32:
//!               0..4       low six bits: scale g in 0..4        high two bits: of scale g + 4
//!               4..8       low six bits: minimum g in 0..4      high two bits: of minimum g + 4
//!               8..12      low half: scale g in 4..8            high half: minimum g in 4..8
//! byte 16..144  q     u4   32 bytes hold 64 weights: low halves first
//!                          w[i] = d * scale[g] * q[i] - dmin * min[g]
//! ```
//!
//! Objective: squared errors, weighed by `I * sqrt(2 mean x^2 + x^2)`.
//! Search: `affine_block` in `search.rs`.
//! Error: decoding is exact up to two roundings to f32. Packing values that count alike changes none by more than
//! half of the largest magnitude of the block, or the root mean square weighted by the importance, plus `63 x 15`
//! times the rounding of a scale. What is usual is in `testdata/quant/errors.txt`.
//! Source: `block_q4_K` in ggml's `ggml-common.h`, `get_scale_min_k4`, `dequantize_row_q4_K` in `ggml-quants.c`.

use crate::bits::{HALF_MAX, codes, decode_blocks, extreme, half_at, half_error, pack, weighted};
use crate::format::{Encoder, Info};
use crate::search::{AffineBlock, ENDS, Levels, affine_block, affine_codes, weights};

const LEVELS: Levels = Levels { low: 0.0, high: 15.0 };
const STORED: Levels = Levels { low: 0.0, high: 63.0 };

pub(crate) const INFO: Info = Info {
    id: 12,
    block_len: 256,
    block_bytes: 144,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: 31.0 * HALF_MAX }),
};

fn decode(b: &[u8; 144], y: &mut [f32; 256]) {
    *y = codes::<4, 32, 256>(&b[16..]).map(f32::from);
    scale_groups(&b[..16], y);
}

#[inline(always)]
fn encode(x: &[f32; 256], importance: Option<&[f32; 256]>) -> [u8; 144] {
    let w = weights(x, importance, 2.0);
    let block = affine_block::<8, 32>(x, &w, LEVELS, STORED, &[ENDS]);
    let q = affine_codes::<8, 32>(x, &block, LEVELS);
    let mut b = [0; 144];
    b[..16].copy_from_slice(&scale_bytes(&block));
    b[16..].copy_from_slice(&pack::<4, 32, 128>(&q));
    b
}

fn error(x: &[f32]) -> f32 {
    0.5 * extreme(x).abs() + 63.0 * 15.0 * half_error(0.0)
}

/// Turns the codes in `y` into weights, by the first 16 bytes of the block.
pub(crate) fn scale_groups(b: &[u8], y: &mut [f32; 256]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for (g, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_min(&b[4..], g);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        *y = y.map(|q| scale * q - min);
    }
}

/// Scale and minimum of group `g`.
fn scale_min(s: &[u8], g: usize) -> (u8, u8) {
    if g < 4 {
        (s[g] & 63, s[g + 4] & 63)
    } else {
        (s[g + 4] & 15 | s[g - 4] >> 6 << 4, s[g + 4] >> 4 | s[g] >> 6 << 4)
    }
}

/// The first 16 bytes of a block.
pub(crate) fn scale_bytes(block: &AffineBlock<8>) -> [u8; 16] {
    let (scales, mins) = (block.scales.map(|s| s as u8), block.mins.map(|m| m as u8));
    let mut b = [0; 16];
    b[..2].copy_from_slice(&block.d.to_le_bytes());
    b[2..4].copy_from_slice(&block.dmin.to_le_bytes());
    for g in 0..4 {
        b[4 + g] = scales[g] | scales[g + 4] >> 4 << 6;
        b[8 + g] = mins[g] | mins[g + 4] >> 4 << 6;
        b[12 + g] = scales[g + 4] & 15 | mins[g + 4] << 4;
    }
    b
}
