//! `F32`, `F16`, `BF16`: blocks of one number.
//!
//! ```text
//! F32   IEEE single                    exact
//! F16   IEEE half, 11 bits             error up to |w| / 2048, below 2^-14 up to 2^-25; infinite from 65520
//! BF16  the upper half of a single     error up to |w| / 256, below 2^-126 up to 2^-134
//! ```
//!
//! Both roundings are to the nearest, ties to even.
//! Source: `ggml_fp32_to_fp16_row`, `ggml_compute_fp32_to_bf16` in ggml's `ggml.c`, `ggml-impl.h`.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::bits::{HALF_MAX, decode_blocks, encode_blocks, half_error};
use crate::format::{Encoder, Info};

pub(crate) const F32: Info = Info {
    id: 0,
    block_len: 1,
    block_bytes: 4,
    decode: decode_f32,
    encode: Some(Encoder { run: |x, _, b| encode_f32(x, b), error: |_| 0.0, largest: f32::MAX }),
};

pub(crate) const F16: Info = Info {
    id: 1,
    block_len: 1,
    block_bytes: 2,
    decode: decode_f16,
    encode: Some(Encoder { run: |x, _, b| encode_f16(x, b), error: |x| half_error(x[0]), largest: HALF_MAX }),
};

pub(crate) const BF16: Info = Info {
    id: 30,
    block_len: 1,
    block_bytes: 2,
    decode: |b, y| decode_blocks(b, y, |b, y| *y = [bf16::from_le_bytes(*b).to_f32()]),
    encode: Some(Encoder {
        run: |x, _, b| encode_blocks(x, b, |[x]| bf16::from_f32(*x).to_le_bytes()),
        error: |x| (x[0].abs() / 256.0).max(f32::from_bits(1 << 15)),
        largest: f32::from_bits(0x7f7f_0000),
    }),
};

/// Unpacks little-endian singles.
pub(crate) fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b, y| *y = [f32::from_le_bytes(*b)]);
}

/// Packs little-endian singles.
pub(crate) fn encode_f32(x: &[f32], out: &mut [u8]) {
    encode_blocks(x, out, |[x]| x.to_le_bytes());
}

const BATCH: usize = 64; // the processor's conversions want several numbers at once

/// Unpacks little-endian halves.
pub(crate) fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), 2 * out.len(), "not whole blocks");
    for (bytes, out) in bytes.chunks(2 * BATCH).zip(out.chunks_mut(BATCH)) {
        let mut halves = [f16::ZERO; BATCH];
        for (h, b) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *h = f16::from_le_bytes(*b);
        }
        halves[..out.len()].convert_to_f32_slice(out);
    }
}

/// Packs little-endian halves.
pub(crate) fn encode_f16(x: &[f32], out: &mut [u8]) {
    assert_eq!(out.len(), 2 * x.len(), "not whole blocks");
    for (x, out) in x.chunks(BATCH).zip(out.chunks_mut(2 * BATCH)) {
        let mut halves = [f16::ZERO; BATCH];
        halves[..x.len()].convert_from_f32_slice(x);
        for (h, b) in halves.iter().zip(out.as_chunks_mut().0) {
            *b = h.to_le_bytes();
        }
    }
}
