//! Cached rows: how one position's values lie in a KV cache. The formats cost, of a row of `n` values:
//!
//! ```text
//! F32   4n bytes                                        exact
//! F16   2n bytes                                        beyond 65504 becomes 65504
//!
//! Fp8 { n_rope }    m = n - n_rope values without a position, then n_rope with one
//!       | q[0] ... q[m-1] | e[0] ... e[ceil(m/64)-1] | p[0] ... p[n_rope-1] |
//!         E4M3, 1 byte      E8M0, 1 byte               f32, 4 bytes
//!       x[i] = 2^(e[i / 64] - 127) * q[i],  i < m       x[m + i] = p[i]
//!
//! Fp4   | q[1] q[0] | q[3] q[2] | ...  | e[0] ... e[ceil(n/32)-1] |
//!         E2M1, 4 bits, high | low       E8M0, 1 byte
//!       x[i] = 2^(e[i / 32] - 127) * q[i]
//! ```
//!
//! What comes back is what [`fp8::round_block`] and [`fp4::round_block`] make of each block. Positional values stay
//! singles: halves would save an eighth of a row of 512 values, 64 of them positional, but move logits by a hundredth.
//! Error: of `Fp8` and `Fp4` see `fp8` and `fp4`; of f16 `|x| / 2048`, or 2^-25 below 2^-14. NaN stays NaN,
//! but in `Fp4`; infinity stays infinite in `F32` and `F16`, so that damaged weights are noticed.
//! Source: the roundings are those of DeepSeek V4's reference code, the layout is ours.

use crate::{bits::HALF_MAX, float, fp4, fp8};

/// How a cached row is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowFormat {
    /// Singles.
    F32,
    /// Halves.
    F16,
    /// E4M3 in blocks of 64, but for positional values, which are singles.
    Fp8 {
        /// How many values, the last ones, are positional.
        n_rope: usize,
    },
    /// E2M1 in blocks of 32.
    Fp4,
}

impl RowFormat {
    /// Bytes of a row of `n` values.
    ///
    /// # Panics
    /// If `n` is less than `n_rope`.
    pub fn row_bytes(self, n: usize) -> usize {
        match self {
            RowFormat::F32 => 4 * n,
            RowFormat::F16 => 2 * n,
            RowFormat::Fp8 { n_rope } => {
                let m = n.checked_sub(n_rope).expect("a row has no less than n_rope values");
                m + m.div_ceil(fp8::BLOCK_LEN) + 4 * n_rope
            }
            RowFormat::Fp4 => n.div_ceil(2) + n.div_ceil(fp4::BLOCK_LEN),
        }
    }

    /// Packs a row.
    ///
    /// # Panics
    /// If `out` is not as long as [`RowFormat::row_bytes`] says.
    pub fn encode_row(self, x: &[f32], out: &mut [u8]) {
        assert_eq!(out.len(), self.row_bytes(x.len()), "a row of {} values", x.len());
        match self {
            RowFormat::F32 => float::encode_f32(x, out),
            RowFormat::F16 => encode_halves(x, out),
            RowFormat::Fp8 { n_rope } => {
                let (x, positional) = x.split_at(x.len() - n_rope);
                let (out, singles) = out.split_at_mut(out.len() - 4 * n_rope);
                let (codes, exponents) = out.split_at_mut(x.len());
                let blocks = x.chunks(fp8::BLOCK_LEN).zip(codes.chunks_mut(fp8::BLOCK_LEN));
                for ((x, codes), e) in blocks.zip(exponents) {
                    *e = fp8::encode_block(x, codes);
                }
                float::encode_f32(positional, singles);
            }
            RowFormat::Fp4 => {
                let (codes, exponents) = out.split_at_mut(x.len().div_ceil(2));
                let blocks = x.chunks(fp4::BLOCK_LEN).zip(codes.chunks_mut(fp4::BLOCK_LEN / 2));
                for ((x, codes), e) in blocks.zip(exponents) {
                    *e = fp4::encode_block(x, codes);
                }
            }
        }
    }

    /// Unpacks a row, whatever its bytes.
    ///
    /// # Panics
    /// If `bytes` is not as long as [`RowFormat::row_bytes`] says.
    pub fn decode_row(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), self.row_bytes(out.len()), "a row of {} values", out.len());
        match self {
            RowFormat::F32 => float::decode_f32(bytes, out),
            RowFormat::F16 => float::decode_f16(bytes, out),
            RowFormat::Fp8 { n_rope } => {
                let (out, positional) = out.split_at_mut(out.len() - n_rope);
                let (bytes, singles) = bytes.split_at(bytes.len() - 4 * n_rope);
                let (codes, exponents) = bytes.split_at(out.len());
                let blocks = codes.chunks(fp8::BLOCK_LEN).zip(out.chunks_mut(fp8::BLOCK_LEN));
                for ((codes, out), &e) in blocks.zip(exponents) {
                    fp8::decode_block(codes, e, out);
                }
                float::decode_f32(singles, positional);
            }
            RowFormat::Fp4 => {
                let (codes, exponents) = bytes.split_at(out.len().div_ceil(2));
                let blocks = codes.chunks(fp4::BLOCK_LEN / 2).zip(out.chunks_mut(fp4::BLOCK_LEN));
                for ((codes, out), &e) in blocks.zip(exponents) {
                    fp4::decode_block(codes, e, out);
                }
            }
        }
    }
}

/// Packs halves, of which none becomes infinite that was not.
fn encode_halves(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.chunks(BATCH).zip(out.chunks_mut(2 * BATCH)) {
        let mut finite = [0.0; BATCH];
        for (finite, v) in finite.iter_mut().zip(x) {
            *finite = if v.is_infinite() { *v } else { v.clamp(-HALF_MAX, HALF_MAX) };
        }
        float::encode_f16(&finite[..x.len()], out);
    }
}

const BATCH: usize = 64;
