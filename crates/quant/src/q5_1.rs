//! `Q5_1`: 32 weights of five bits share a scale and a minimum; 24 bytes, 6 bits per weight.
//!
//! ```text
//! byte  0..2   d    f16  scale
//! byte  2..4   m    f16  minimum
//! byte  4..8   h    u1   fifth bits, in order
//! byte  8..24  l    u4   low halves: i in 0..16, high halves: i in 16..32
//!                        w[i] = d * (l[i] + 16 * h[i]) + m
//! ```
//!
//! Objective: squared errors, weighed by `I * sqrt(mean x^2 + x^2)`.
//! Search: `affine` in `search.rs`.
//! Error: the root mean square, weighted so, is at most half a step, where `d = (max w - min w) / 31`, plus 31 times
//! the rounding of `d`, plus that of `m`; that of a single value `SEARCHED` times as much.
//! Source: `block_q5_1` in ggml's `ggml-common.h`, `quantize_row_q5_1_ref` in `ggml-quants.c`.

use crate::bits::{HALF_MAX, decode_blocks, half_at, half_error, range, weighted};
use crate::format::{Encoder, Info};
use crate::q5_0::{five_bits, pack_five_bits};
use crate::search::{ENDS, LAST, Levels, SEARCHED, affine, half, nearest, to_codes, weights};

const LEVELS: Levels = Levels { low: 0.0, high: 31.0 };

pub(crate) const INFO: Info = Info {
    id: 7,
    block_len: 32,
    block_bytes: 24,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: 0.5 * HALF_MAX }),
};

fn decode(b: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    *y = five_bits(&b[4..]).map(|q| d * f32::from(q) + m);
}

fn error(x: &[f32]) -> f32 {
    let (low, high) = range(x);
    let d = (high - low) / 31.0;
    SEARCHED * (0.5 * d + 31.0 * half_error(d) + half_error(low))
}

#[inline(always)]
fn encode(x: &[f32; 32], importance: Option<&[f32; 32]>) -> [u8; 24] {
    let w = weights(x, importance, 1.0);
    let fit = affine(x, &w, LEVELS, f32::INFINITY, &[ENDS, LAST]);
    let (d, m) = (half(fit.scale), half(fit.min));
    let q = to_codes(&nearest(x, d.to_f32(), m.to_f32(), LEVELS), LEVELS);
    let mut b = [0; 24];
    b[..2].copy_from_slice(&d.to_le_bytes());
    b[2..4].copy_from_slice(&m.to_le_bytes());
    b[4..].copy_from_slice(&pack_five_bits(&q));
    b
}
