//! `Q5_0`: 32 weights of five bits share one scale; 22 bytes, 5.5 bits per weight.
//!
//! ```text
//! byte  0..2   d    f16  scale
//! byte  2..6   h    u1   fifth bits, in order
//! byte  6..22  l    u4   low halves: i in 0..16, high halves: i in 16..32
//!                        w[i] = d * (l[i] + 16 * h[i] - 16)
//! ```
//!
//! Objective: squared errors, weighed by `I * sqrt(mean x^2 + x^2)`.
//! Search: `scale` in `search.rs`.
//! Error: the root mean square, weighted so, is at most one step, `d = max|w| / 16`, plus 16 times the rounding of
//! `d`; that of a single value `SEARCHED` times as much.
//! Source: `block_q5_0` in ggml's `ggml-common.h`, `quantize_row_q5_0_ref` in `ggml-quants.c`.

use crate::bits::{HALF_MAX, codes, decode_blocks, extreme, half_at, half_error, pack, weighted};
use crate::format::{Encoder, Info};
use crate::search::{Levels, SEARCHED, half, nearest, scale, to_codes, weights};

const LEVELS: Levels = Levels { low: -16.0, high: 15.0 };

pub(crate) const INFO: Info = Info {
    id: 6,
    block_len: 32,
    block_bytes: 22,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: 8.0 * HALF_MAX }),
};

fn decode(b: &[u8; 22], y: &mut [f32; 32]) {
    let d = half_at(b, 0);
    *y = five_bits(&b[2..]).map(|q| d * f32::from(q as i8 - 16));
}

fn error(x: &[f32]) -> f32 {
    let d = extreme(x).abs() / 16.0;
    SEARCHED * (d + 16.0 * half_error(d))
}

#[inline(always)]
fn encode(x: &[f32; 32], importance: Option<&[f32; 32]>) -> [u8; 22] {
    let w = weights(x, importance, 1.0);
    let d = half(scale(x, &w, LEVELS, 1).scale);
    let q = to_codes(&nearest(x, d.to_f32(), 0.0, LEVELS), LEVELS);
    let mut b = [0; 22];
    b[..2].copy_from_slice(&d.to_le_bytes());
    b[2..].copy_from_slice(&pack_five_bits(&q));
    b
}

/// The codes of fields `h` and `l`.
pub(crate) fn five_bits(b: &[u8]) -> [u8; 32] {
    let (high, low) = (codes::<1, 1, 32>(&b[..4]), codes::<4, 16, 32>(&b[4..]));
    std::array::from_fn(|i| low[i] | high[i] << 4)
}

/// The fields `h` and `l` of the codes `q`.
pub(crate) fn pack_five_bits(q: &[u8; 32]) -> [u8; 20] {
    let mut b = [0; 20];
    b[..4].copy_from_slice(&pack::<1, 1, 4>(&q.map(|q| q >> 4)));
    b[4..].copy_from_slice(&pack::<4, 16, 16>(q));
    b
}
