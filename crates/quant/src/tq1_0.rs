//! `TQ1_0`: 256 weights of -1, 0 or 1 share one scale, five to a byte; 54 bytes, 1.6875 bits per weight.
//!
//! ```text
//! byte  0..32  q   w[32p + l]       = d * (trit p of byte l - 1),  p in 0..5
//! byte 32..48  q   w[160 + 16p + l]                                p in 0..5
//! byte 48..52  q   w[240 + 4p + l]                                 p in 0..4
//! byte 52..54  d   f16
//! ```
//!
//! A byte is a fraction, `ceil(number * 256 / 243)` of a number of five base-3 digits: times 3, the digit before the
//! point is the first trit, and the rest goes on.
//! Error: that of `TQ2_0`.
//! Source: `block_tq1_0` in ggml's `ggml-common.h`, `quantize_row_tq1_0_ref` in `ggml-quants.c`.

use crate::bits::{HALF_MAX, decode_blocks, encode_blocks, half_at, half_bytes};
use crate::format::{Encoder, Info};
use crate::tq2_0::{error, to_trits};

pub(crate) const INFO: Info = Info {
    id: 34,
    block_len: 256,
    block_bytes: 54,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(Encoder { run: |x, _, b| encode_blocks(x, b, encode), error, largest: HALF_MAX }),
};

fn decode(b: &[u8; 54], y: &mut [f32; 256]) {
    let d = half_at(b, 52);
    trits(&b[..32], d, &mut y[..160]);
    trits(&b[32..48], d, &mut y[160..240]);
    trits(&b[48..52], d, &mut y[240..]);
}

/// The first trit of all bytes, then the second, and so on.
fn trits(bytes: &[u8], d: f32, y: &mut [f32]) {
    let powers = [1, 3, 9, 27, 81u8];
    for (y, power) in y.chunks_exact_mut(bytes.len()).zip(powers) {
        for (y, byte) in y.iter_mut().zip(bytes) {
            let rest = byte.wrapping_mul(power);
            *y = d * f32::from(((u16::from(rest) * 3) >> 8) as i8 - 1);
        }
    }
}

fn encode(x: &[f32; 256]) -> [u8; 54] {
    let (d, trits) = to_trits(x);
    let mut b = [0; 54];
    fractions(&trits[..160], &mut b[..32]);
    fractions(&trits[160..240], &mut b[32..48]);
    fractions(&trits[240..], &mut b[48..52]);
    b[52..].copy_from_slice(&half_bytes(d));
    b
}

/// Bytes of trits that lie as [`trits`] says.
fn fractions(trits: &[u8], bytes: &mut [u8]) {
    let n = bytes.len();
    for (l, byte) in bytes.iter_mut().enumerate() {
        let digits = trits[l..].iter().step_by(n).zip([81, 27, 9, 3, 1]);
        let number: u16 = digits.map(|(&trit, power)| u16::from(trit) * power).sum();
        *byte = (number * 256).div_ceil(243) as u8;
    }
}
