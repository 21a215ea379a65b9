//! `Q8_0`: 32 weights share one scale; 34 bytes, 8.5 bits per weight.
//!
//! ```text
//! byte  0..2   d    f16  scale
//! byte  2..34  q    i8   w[i] = d * q[i],  i in 0..32
//! ```
//!
//! Error: half a step, where `d = max|w| / 127`, plus 127 times the rounding of `d`.
//! Source: `block_q8_0` in ggml's `ggml-common.h`, `quantize_row_q8_0_ref` in `ggml-quants.c`.

use crate::bits::{HALF_MAX, decode_blocks, encode_blocks, extreme, half_at, half_bytes, half_error, inverse};
use crate::format::{Encoder, Info};

pub(crate) const INFO: Info = Info {
    id: 8,
    block_len: 32,
    block_bytes: 34,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder {
        run: |x, _, b| {
            encode_blocks(
                x,
                b,
                #[inline(always)]
                |x| encode(x),
            )
        },
        error,
        largest: 127.0 * HALF_MAX,
    }),
};

fn decode(b: &[u8; 34], y: &mut [f32; 32]) {
    let d = half_at(b, 0);
    for (y, &q) in y.iter_mut().zip(&b[2..]) {
        *y = d * f32::from(q as i8);
    }
}

fn error(x: &[f32]) -> f32 {
    let d = extreme(x).abs() / 127.0;
    0.5 * d + 127.0 * half_error(d)
}

#[inline(always)]
fn encode(x: &[f32; 32]) -> [u8; 34] {
    let d = extreme(x).abs() / 127.0;
    let inverse = inverse(d);
    let mut b = [0; 34];
    b[..2].copy_from_slice(&half_bytes(d));
    for (q, v) in b[2..].iter_mut().zip(x) {
        *q = (v * inverse).round() as i8 as u8;
    }
    b
}
