//! `Q3_K`: 256 weights of three bits in 16 groups, each with a signed scale of six bits; 110 bytes, 3.4375 bits per
//! weight.
//!
//! ```text
//! byte   0..32   h   u1   third bits: bit i / 32 of byte i % 32
//! byte  32..96   l   u2   32 bytes hold 128 weights: bits 0..2 of all of them first, then bits 2..4, ...
//! byte  96..104  sl  u4   low four bits of the scales: low halves g in 0..8, high halves g in 8..16
//! byte 104..108  sh  u2   high two bits of the scales: byte g % 4, bits 2 * (g / 4) ..
//! byte 108..110  d   f16
//!                         w[i] = d * (sl[g] + 16 * sh[g] - 32) * (l[i] + 4 * h[i] - 4),  g = i / 16
//! ```
//!
//! Objective: squared errors, weighed by `I * sqrt(2 mean x^2 + x^2)`; without an importance by
//! `sqrt(mean x^2 + x^2) + 0.15 x^2` in units of the root mean square, between equal weights and llama.cpp's `x^2`.
//! Search: `scale_block` in `search.rs`.
//! Error: decoding is exact up to one rounding to f32. Packing values that count alike changes none by more than
//! three quarters of the largest magnitude of the block, or the root mean square weighted by the importance, plus `32
//! x 4` times the rounding of a scale. What is usual is in `testdata/quant/errors.txt`.
//! Source: `block_q3_K` in ggml's `ggml-common.h`, `dequantize_row_q3_K` in `ggml-quants.c`.

use crate::bits::{HALF_MAX, codes, decode_blocks, extreme, half_at, half_error, pack, weighted};
use crate::format::{Encoder, Info};
use crate::search::{Levels, scale_block, scale_codes, to_codes, weights, weights_by};

const LEVELS: Levels = Levels { low: -4.0, high: 3.0 };
const STORED: Levels = Levels { low: -32.0, high: 31.0 };

pub(crate) const INFO: Info = Info {
    id: 11,
    block_len: 256,
    block_bytes: 110,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: 16.0 * 4.0 * HALF_MAX }),
};

fn decode(b: &[u8; 110], y: &mut [f32; 256]) {
    let d = half_at(b, 108);
    let (high, low) = (codes::<1, 32, 256>(&b[..32]), codes::<2, 32, 256>(&b[32..96]));
    let scales = scales(&b[96..108]);
    for (i, y) in y.iter_mut().enumerate() {
        *y = d * scales[i / 16] * f32::from((low[i] | high[i] << 2) as i8 - 4);
    }
}

#[inline(always)]
fn encode(x: &[f32; 256], importance: Option<&[f32; 256]>) -> [u8; 110] {
    let w = match importance {
        Some(_) => weights(x, importance, 2.0),
        None => weights_by(
            x,
            #[inline(always)]
            |square| between(square),
        ),
    };
    let block = scale_block::<16, 16>(x, &w, LEVELS, STORED, 0);
    let q = scale_codes::<16, 16>(x, &block, LEVELS);
    let mut b = [0; 110];
    b[..32].copy_from_slice(&pack::<1, 32, 32>(&q.map(|q| q >> 2)));
    b[32..96].copy_from_slice(&pack::<2, 32, 64>(&q));
    let scales = to_codes(&block.scales, STORED);
    b[96..104].copy_from_slice(&pack::<4, 8, 8>(&scales));
    b[104..108].copy_from_slice(&pack::<2, 4, 4>(&scales.map(|s| s >> 4)));
    b[108..].copy_from_slice(&block.d.to_le_bytes());
    b
}

/// Weight of a value whose square is `square` mean squares.
#[inline(always)]
fn between(square: f32) -> f32 {
    (1.0 + square).sqrt() + 0.15 * square
}

fn error(x: &[f32]) -> f32 {
    0.75 * extreme(x).abs() + 32.0 * 4.0 * half_error(0.0)
}

fn scales(b: &[u8]) -> [f32; 16] {
    let (low, high) = (codes::<4, 8, 16>(&b[..8]), codes::<2, 4, 16>(&b[8..]));
    std::array::from_fn(|g| f32::from((low[g] | high[g] << 4) as i8 - 32))
}
