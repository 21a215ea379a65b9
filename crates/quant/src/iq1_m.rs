//! `IQ1_M`: as `IQ1_S`, with a scale per 16 and a delta per 8 weights; 56 bytes for 256 weights, 1.75 bits per weight.
//!
//! ```text
//! byte  0..32  k   u8   row r in 0..32: low eight bits of the number of the grid row
//! byte 32..48  h   u4   row r, in order:  bits 0..3: high three bits of the number;  bit 3: delta is -1/8, else 1/8
//! byte 48..56  s   u16  64 weights each:  bits 3t .. 3t + 3: scale of 16 weights, t in 0..4;
//!                       bits 12..16: a quarter of d, an f16, lowest quarter first
//!                       w[8r + j] = d * (2 * s[r / 2] + 1) * (grid[number][j] + delta[r])
//! ```
//!
//! Error: decoding is exact up to one rounding to f32; files are packed elsewhere.
//! Source: `block_iq1_m`, `iq1m_scale_t` in ggml's `ggml-common.h`, `dequantize_row_iq1_m` in `ggml-quants.c`.

use half::f16;

use crate::bits::{codes, decode_blocks, u16_at};
use crate::format::Info;
use crate::iq1_s::shifted_row;

pub(crate) const INFO: Info =
    Info { id: 29, block_len: 256, block_bytes: 56, decode: |b, y| decode_blocks(b, y, decode), encode: None };

fn decode(b: &[u8; 56], y: &mut [f32; 256]) {
    let s: [u16; 4] = std::array::from_fn(|i| u16_at(b, 48 + 2 * i));
    let quarters = s[0] >> 12 | s[1] >> 12 << 4 | s[2] >> 12 << 8 | s[3] >> 12 << 12;
    let d = f16::from_bits(quarters).to_f32();
    let high = codes::<4, 1, 32>(&b[32..48]);
    for (r, y) in y.chunks_exact_mut(8).enumerate() {
        let scale = d * f32::from(2 * (s[r / 8] >> (3 * (r / 2 % 4)) & 7) + 1);
        let number = usize::from(b[r]) | usize::from(high[r] & 7) << 8;
        shifted_row(y, scale, number, high[r] & 8 != 0);
    }
}
