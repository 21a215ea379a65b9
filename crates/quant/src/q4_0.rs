//! `Q4_0`: 32 weights of four bits share one scale; 18 bytes, 4.5 bits per weight.
//!
//! ```text
//! byte  0..2   d    f16  scale
//! byte  2..18  q    u4   w[i] = d * (q[i] - 8)     low halves: i in 0..16, high halves: i in 16..32
//! ```
//!
//! Objective: squared errors, weighed by `I * sqrt(mean x^2 + x^2)`.
//! Search: `scale` in `search.rs`.
//! Error: the root mean square, weighted so, is at most one step, `d = max|w| / 8`, plus 8 times the rounding of `d`;
//! that of a single value `SEARCHED` times as much.
//! Source: `block_q4_0` in ggml's `ggml-common.h`, `quantize_row_q4_0_ref` in `ggml-quants.c`.

use crate::bits::{HALF_MAX, codes, decode_blocks, extreme, half_at, half_error, pack, weighted};
use crate::format::{Encoder, Info};
use crate::search::{Levels, SEARCHED, half, nearest, scale, to_codes, weights};

const LEVELS: Levels = Levels { low: -8.0, high: 7.0 };

pub(crate) const INFO: Info = Info {
    id: 2,
    block_len: 32,
    block_bytes: 18,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: 4.0 * HALF_MAX }),
};

fn decode(b: &[u8; 18], y: &mut [f32; 32]) {
    let d = half_at(b, 0);
    *y = codes::<4, 16, 32>(&b[2..]).map(|q| d * f32::from(q as i8 - 8));
}

fn error(x: &[f32]) -> f32 {
    let d = extreme(x).abs() / 8.0;
    SEARCHED * (d + 8.0 * half_error(d))
}

#[inline(always)]
fn encode(x: &[f32; 32], importance: Option<&[f32; 32]>) -> [u8; 18] {
    let w = weights(x, importance, 1.0);
    let d = half(scale(x, &w, LEVELS, 1).scale);
    let q = to_codes(&nearest(x, d.to_f32(), 0.0, LEVELS), LEVELS);
    let mut b = [0; 18];
    b[..2].copy_from_slice(&d.to_le_bytes());
    b[2..].copy_from_slice(&pack::<4, 16, 16>(&q));
    b
}
