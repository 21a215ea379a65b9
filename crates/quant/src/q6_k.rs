//! `Q6_K`: 256 weights of six bits in 16 groups, each with a scale of eight bits; 210 bytes, 6.5625 bits per weight.
//!
//! ```text
//! byte   0..128  l   u4   low four bits: 64 bytes hold 128 weights, low halves first
//! byte 128..192  h   u2   high two bits: 32 bytes hold 128 weights, bits 0..2 of all of them first, ...
//! byte 192..208  s   i8   scales of the groups, g = i / 16
//! byte 208..210  d   f16
//!                         w[i] = d * s[g] * (l[i] + 16 * h[i] - 32)
//! ```
//!
//! Objective: squared errors, weighed by almost `I` alone.
//! Search: `scale_block` in `search.rs`.
//! Error: decoding is exact up to one rounding to f32. Packing values that count alike changes none by more than a
//! quarter of the largest magnitude of the block, or the root mean square weighted by the importance, plus `128 x 32`
//! times the rounding of a scale. What is usual is in `testdata/quant/errors.txt`.
//! Source: `block_q6_K` in ggml's `ggml-common.h`, `dequantize_row_q6_K` in `ggml-quants.c`.

use crate::bits::{HALF_MAX, codes, decode_blocks, extreme, half_at, half_error, pack, weighted};
use crate::format::{Encoder, Info};
use crate::search::{Levels, scale_block, scale_codes, weights};

const LEVELS: Levels = Levels { low: -32.0, high: 31.0 };
const STORED: Levels = Levels { low: -128.0, high: 127.0 };

pub(crate) const INFO: Info = Info {
    id: 14,
    block_len: 256,
    block_bytes: 210,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: 64.0 * 32.0 * HALF_MAX }),
};

fn decode(b: &[u8; 210], y: &mut [f32; 256]) {
    let d = half_at(b, 208);
    let (low, high) = (codes::<4, 64, 256>(&b[..128]), codes::<2, 32, 256>(&b[128..192]));
    for (i, y) in y.iter_mut().enumerate() {
        let scale = d * f32::from(b[192 + i / 16] as i8);
        *y = scale * f32::from((low[i] | high[i] << 4) as i8 - 32);
    }
}

#[inline(always)]
fn encode(x: &[f32; 256], importance: Option<&[f32; 256]>) -> [u8; 210] {
    let w = weights(x, importance, if importance.is_some() { 8.0 } else { 0.5 });
    let block = scale_block::<16, 16>(x, &w, LEVELS, STORED, 0);
    let q = scale_codes::<16, 16>(x, &block, LEVELS);
    let mut b = [0; 210];
    b[..128].copy_from_slice(&pack::<4, 64, 128>(&q));
    b[128..192].copy_from_slice(&pack::<2, 32, 64>(&q.map(|q| q >> 4)));
    b[192..208].copy_from_slice(&block.scales.map(|s| s as i8 as u8));
    b[208..].copy_from_slice(&block.d.to_le_bytes());
    b
}

fn error(x: &[f32]) -> f32 {
    0.25 * extreme(x).abs() + 128.0 * 32.0 * half_error(0.0)
}
