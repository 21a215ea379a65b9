//! `IQ4_NL`: 32 weights of four bits, with levels that lie closer near zero, share one scale; 18 bytes, 4.5 bits per
//! weight.
//!
//! ```text
//! byte  0..2   d    f16  scale
//! byte  2..18  q    u4   w[i] = d * LEVELS[q[i]]      low halves: i in 0..16, high halves: i in 16..32
//! ```
//!
//! The encoder minimises `sum I sqrt(2 mean w^2 + w^2) error^2`, where `I` is the importance, or else
//! `sum (1.3 mean w^2 + w^2) error^2`: it searches the scale, of either sign, and takes the nearest levels: see `search`.
//! Error: `max|w| / 4 + 2^-21` if all weights are alike in importance, measured on blocks made to be hard.
//! Source: `block_iq4_nl`, `kvalues_iq4nl` in ggml's `ggml-common.h`, `quantize_row_iq4_nl_impl` in `ggml-quants.c`.

use crate::bits::{HALF_MAX, codes, decode_blocks, extreme, half_at, pack, weighted};
use crate::format::{Encoder, Info};
use crate::search::{Codes, half_above_0, nearest, scale, to_codes, weights_or_squares};

/// The sixteen levels of `IQ4_NL` and `IQ4_XS`.
pub const IQ4_NL_LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(crate) const INFO: Info = Info {
    id: 20,
    block_len: 32,
    block_bytes: 18,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: weighted!(encode), error, largest: 56.0 * HALF_MAX }),
};

fn decode(b: &[u8; 18], y: &mut [f32; 32]) {
    *y = levels(half_at(b, 0), &b[2..]);
}

/// The 32 weights of the codes in 16 bytes.
pub(crate) fn levels(d: f32, q: &[u8]) -> [f32; 32] {
    codes::<4, 16, 32>(q).map(|q| d * f32::from(IQ4_NL_LEVELS[usize::from(q)]))
}

fn error(x: &[f32]) -> f32 {
    0.25 * extreme(x).abs() + 2f32.powi(-21)
}

#[inline(always)]
fn encode(x: &[f32; 32], importance: Option<&[f32; 32]>) -> [u8; 18] {
    let w = weights_or_squares(x, importance);
    let d = half_above_0(scale(x, &w, Uneven, 2).scale);
    let q = to_codes(&nearest(x, d.to_f32(), 0.0, Uneven), Uneven);
    let mut b = [0; 18];
    b[..2].copy_from_slice(&d.to_le_bytes());
    b[2..].copy_from_slice(&pack::<4, 16, 16>(&q));
    b
}

/// [`IQ4_NL_LEVELS`], as what a scale is searched for.
#[derive(Clone, Copy)]
pub(crate) struct Uneven;

impl Codes for Uneven {
    #[inline(always)]
    fn ends(self) -> (f32, f32, f32) {
        (-127.0, 113.0, 36.0)
    }

    #[inline(always)]
    fn nearest(self, v: f32) -> f32 {
        let mut level = f32::from(IQ4_NL_LEVELS[0]);
        for l in IQ4_NL_LEVELS.windows(2) {
            let (low, high) = (f32::from(l[0]), f32::from(l[1]));
            level += if v > 0.5 * (low + high) { high - low } else { 0.0 };
        }
        level
    }

    #[inline(always)]
    fn code(self, level: f32) -> u8 {
        IQ4_NL_LEVELS[1..].iter().map(|&l| u8::from(level >= f32::from(l))).sum()
    }
}
