//! `Q5_K`: 256 weights of five bits in 8 groups, each with a scale and a minimum of six bits; 176 bytes, 5.5 bits per
//! weight.
//!
//! ```text
//! byte  0..16   d, dmin, s   as in `Q4_K`
//! byte 16..48   h       u1   fifth bits: bit i / 32 of byte i % 32
//! byte 48..176  l       u4   32 bytes hold 64 weights: low halves first
//!                            w[i] = d * scale[g] * (l[i] + 16 * h[i]) - dmin * min[g],  g = i / 32
//! ```
//!
//! Objective: squared errors, weighed by `I * sqrt(2 mean x^2 + x^2)`.
//! Search: `affine_block` in `search.rs`.
//! Error: decoding is exact up to two roundings to f32. Packing values that count alike changes none by more than a
//! quarter of the largest magnitude of the block, or the root mean square weighted by the importance, plus `63 x 31`
//! times the rounding of a scale. What is usual is in `testdata/quant/errors.txt`.
//! Source: `block_q5_K` in ggml's `ggml-common.h`, `dequantize_row_q5_K` in `ggml-quants.c`.

use crate::bits::{HALF_MAX, codes, decode_blocks, extreme, half_error, pack, weighted};
use crate::format::{Encoder, Info};
use crate::q4_k::{scale_bytes, scale_groups};
use crate::search::{ENDS, Levels, affine_block, affine_codes, weights};

const LEVELS: Levels = Levels { low: 0.0, high: 31.0 };
const STORED: Levels = Levels { low: 0.0, high: 63.0 };

pub(crate) const INFO: Info = Info {
    id: 13,
    block_len: 256,
    block_bytes: 176,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: 31.0 * HALF_MAX }),
};

fn decode(b: &[u8; 176], y: &mut [f32; 256]) {
    let (high, low) = (codes::<1, 32, 256>(&b[16..48]), codes::<4, 32, 256>(&b[48..]));
    *y = std::array::from_fn(|i| f32::from(low[i] | high[i] << 4));
    scale_groups(&b[..16], y);
}

#[inline(always)]
fn encode(x: &[f32; 256], importance: Option<&[f32; 256]>) -> [u8; 176] {
    let w = weights(x, importance, 2.0);
    let block = affine_block::<8, 32>(x, &w, LEVELS, STORED, &[ENDS]);
    let q = affine_codes::<8, 32>(x, &block, LEVELS);
    let mut b = [0; 176];
    b[..16].copy_from_slice(&scale_bytes(&block));
    b[16..48].copy_from_slice(&pack::<1, 32, 32>(&q.map(|q| q >> 4)));
    b[48..].copy_from_slice(&pack::<4, 32, 128>(&q));
    b
}

fn error(x: &[f32]) -> f32 {
    0.25 * extreme(x).abs() + 63.0 * 31.0 * half_error(0.0)
}
