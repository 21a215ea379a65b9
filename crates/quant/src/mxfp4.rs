//! `MXFP4`: 32 E2M1 numbers share a power of two; 17 bytes, 4.25 bits per weight.
//!
//! ```text
//! byte 0      e   u8  exponent of the scale, E8M0
//! byte 1..17  q   u4  w[i] = 2^(e - 127) * E2M1[q[i]]     low halves: i in 0..16, high halves: i in 16..32
//! ```
//!
//! The encoder takes the smallest scale that clips nothing.
//! Error: half a step of the top of E2M1, at worst `max|w| / 5`, where 5 becomes 4.
//! As in ggml, `e = 255` is no NaN but the next power of two: twice the numbers times half the scale, which is a
//! subnormal for `e < 2`.
//! Source: OCP Microscaling Formats 1.0; `block_mxfp4` in ggml's `ggml-common.h`, `ggml_e8m0_to_fp32_half` in
//! `ggml-impl.h`.

use crate::bits::{codes, decode_blocks, encode_blocks, pack};
use crate::format::Info;
use crate::{fp4, scale};

pub(crate) const INFO: Info = Info {
    id: 39,
    block_len: 32,
    block_bytes: 17,
    decode: |b, y| decode_blocks(b, y, decode),
    encode: Some(|x, b| encode_blocks(x, b, encode)),
};

fn decode(b: &[u8; 17], y: &mut [f32; 32]) {
    let half = half_scale(b[0]);
    *y = codes::<4, 16, 32>(&b[1..]).map(|q| half * (2.0 * fp4::decode(q)));
}

fn half_scale(e: u8) -> f32 {
    f32::from_bits(match e {
        0 | 1 => 0x0020_0000 << e,
        _ => u32::from(e - 1) << 23,
    })
}

fn encode(x: &[f32; 32]) -> [u8; 17] {
    let e = fp4::scale_exponent(x);
    let inverse = scale::inverse(e);
    let mut b = [0; 17];
    b[0] = e;
    b[1..].copy_from_slice(&pack::<4, 16, 16>(&x.map(|v| fp4::encode(v * inverse))));
    b
}
