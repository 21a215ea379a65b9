//! `Q2_K`: 256 weights of two bits in 16 groups, each with a scale and a minimum of four bits; 84 bytes, 2.625 bits per
//! weight.
//!
//! ```text
//! byte  0..16   s     low half: scale, high half: minimum of group g = i / 16
//! byte 16..80   q     u2   32 bytes hold 128 weights: bits 0..2 of all of them first, then bits 2..4, ...
//! byte 80..82   d     f16  scale of the scales
//! byte 82..84   dmin  f16  scale of the minima
//!                          w[i] = d * scale[g] * q[i] - dmin * min[g]
//! ```
//!
//! Objective: squared errors, weighed by `I * sqrt(mean x^2 + x^2)`; without an importance by the
//! magnitude of the values, as llama.cpp weighs absolute errors.
//! Search: `affine_block` in `search.rs`.
//! Error: decoding is exact up to two roundings to f32. Packing values that count alike changes none by more than the
//! largest magnitude of the block, or the root mean square weighted by the importance, plus `15 x 3` times the
//! rounding of a scale. What is usual is in `testdata/quant/errors.txt`.
//! Source: `block_q2_K` in ggml's `ggml-common.h`, `dequantize_row_q2_K` in `ggml-quants.c`.

use crate::bits::{HALF_MAX, codes, decode_blocks, extreme, half_at, half_error, pack, weighted};
use crate::format::{Encoder, Info};
use crate::search::{ENDS, Levels, affine_block, affine_codes, weights, weights_by};

const LEVELS: Levels = Levels { low: 0.0, high: 3.0 };
const STORED: Levels = Levels { low: 0.0, high: 15.0 };

pub(crate) const INFO: Info = Info {
    id: 10,
    block_len: 256,
    block_bytes: 84,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: 7.0 * HALF_MAX }),
};

fn decode(b: &[u8; 84], y: &mut [f32; 256]) {
    let (d, dmin) = (half_at(b, 80), half_at(b, 82));
    *y = codes::<2, 32, 256>(&b[16..80]).map(f32::from);
    for (y, s) in y.as_chunks_mut::<16>().0.iter_mut().zip(&b[..16]) {
        let (scale, min) = (d * f32::from(s & 15), dmin * f32::from(s >> 4));
        *y = y.map(|q| scale * q - min);
    }
}

#[inline(always)]
fn encode(x: &[f32; 256], importance: Option<&[f32; 256]>) -> [u8; 84] {
    let w = match importance {
        Some(_) => weights(x, importance, 1.0),
        None => weights_by(
            x,
            #[inline(always)]
            |square| magnitude(square),
        ),
    };
    let block = affine_block::<16, 16>(x, &w, LEVELS, STORED, &[ENDS]);
    let q = affine_codes::<16, 16>(x, &block, LEVELS);
    let mut b = [0; 84];
    for (g, s) in b[..16].iter_mut().enumerate() {
        *s = block.scales[g] as u8 | (block.mins[g] as u8) << 4;
    }
    b[16..80].copy_from_slice(&pack::<2, 32, 64>(&q));
    b[80..82].copy_from_slice(&block.d.to_le_bytes());
    b[82..].copy_from_slice(&block.dmin.to_le_bytes());
    b
}

fn error(x: &[f32]) -> f32 {
    extreme(x).abs() + 15.0 * 3.0 * half_error(0.0)
}

/// About the magnitude, of a value whose square is `square` mean squares: a little more, but hardly anything for 0.
#[inline(always)]
fn magnitude(square: f32) -> f32 {
    (square + if square > 0.0 { 0.05 } else { 0.001 }).sqrt()
}
