//! `IQ4_NL`: 32 weights of four bits, with levels that lie closer near zero, share one scale; 18 bytes, 4.5 bits per
//! weight.
//!
//! ```text
//! byte  0..2   d    f16  scale
//! byte  2..18  q    u4   w[i] = d * LEVELS[q[i]]      low halves: i in 0..16, high halves: i in 16..32
//! ```
//!
//! The weight of largest magnitude becomes -127, so that the other end of the scale, 113, may fall short. The encoder
//! takes the nearest level and searches no better scale.
//! Error: `14 * d`, where `d = max|w| / 127`, plus 127 times the rounding of `d`.
//! Source: `block_iq4_nl`, `kvalues_iq4nl` in ggml's `ggml-common.h`.

use crate::bits::{codes, decode_blocks, encode_blocks, extreme, half_at, half_bytes, half_error, inverse, pack};
use crate::format::{Encoder, Info};

/// The sixteen levels of `IQ4_NL` and `IQ4_XS`.
pub const IQ4_NL_LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(crate) const INFO: Info = Info {
    id: 20,
    block_len: 32,
    block_bytes: 18,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: |x, _, b| encode_blocks(x, b, encode), error }),
};

fn decode(b: &[u8; 18], y: &mut [f32; 32]) {
    *y = levels(half_at(b, 0), &b[2..]);
}

/// The 32 weights of the codes in 16 bytes.
pub(crate) fn levels(d: f32, q: &[u8]) -> [f32; 32] {
    codes::<4, 16, 32>(q).map(|q| d * f32::from(IQ4_NL_LEVELS[usize::from(q)]))
}

fn error(x: &[f32]) -> f32 {
    let d = extreme(x).abs() / 127.0;
    14.0 * d + 127.0 * half_error(d)
}

fn encode(x: &[f32; 32]) -> [u8; 18] {
    let d = extreme(x) / -127.0;
    let inverse = inverse(d);
    let mut b = [0; 18];
    b[..2].copy_from_slice(&half_bytes(d));
    b[2..].copy_from_slice(&pack::<4, 16, 16>(&x.map(|v| nearest(v * inverse))));
    b
}

/// The code of the level nearest to `v`: as many as there are midpoints between levels below it.
fn nearest(v: f32) -> u8 {
    let midpoints = IQ4_NL_LEVELS.windows(2).map(|l| 0.5 * (f32::from(l[0]) + f32::from(l[1])));
    midpoints.map(|m| u8::from(v > m)).sum()
}
