//! What the integer kernels compute, written to be read.
//!
//! In every format with an integer kernel a weight is `a * q - b`, where `q` is a small whole number and `a` and `b`
//! are the same for 16 neighbours at least. With activations `scale * x`, see [`crate::activation`], a dot product is
//!
//! ```text
//! sum_i scale[i] * (a[i] * sum_k q[16 i + k] * x[16 i + k]  -  b[i] * sum_k x[16 i + k])
//! ```
//!
//! Both inner sums are whole numbers and exact; the packed row brings the second. The rest is f32, as in ggml's
//! `ggml_vec_dot_*`, up to the order of the sum over `i`.
//!
//! | file | formats |
//! |---|---|
//! | `legacy.rs` | blocks of 32: `Q4_0` to `Q8_0`, `IQ4_NL`, `MXFP4` |
//! | `k_quants.rs` | `Q2_K` to `Q6_K` |
//! | `iq.rs` | the formats with a codebook: `IQ2_*`, `IQ3_*`, `IQ4_XS` |
//! | `float.rs` | `F32`, `F16`, `BF16`, and every other format by `quant`'s decoding |

mod float;
mod iq;
mod k_quants;
mod legacy;

pub(super) use float::*;
pub(super) use iq::*;
pub(super) use k_quants::*;
pub(super) use legacy::*;

use half::f16;

use crate::activation::{GROUP, groups};

/// 256 weights: `w[j] = a[j / 16] * q[j] - b[j / 16]`.
pub(super) struct Levels {
    q: [i8; GROUP],
    a: [f32; 16],
    b: [f32; 16],
}

/// A block of 32 weights: `w[j] = a * q[j] - b`.
struct Block {
    q: [i8; 32],
    a: f32,
    b: f32,
}

/// The dot products of the rows `x` with a row of blocks of 256.
fn dot<const N: usize, const BYTES: usize>(
    w: &[u8],
    x: [&[u8]; N],
    decode: impl Fn(&[u8; BYTES]) -> Levels,
) -> [f32; N] {
    let x = x.map(|x| groups(x, w.len() / BYTES));
    let mut sums = [0.0; N];
    for (g, w) in w.as_chunks().0.iter().enumerate() {
        let w = decode(w);
        for (sum, x) in sums.iter_mut().zip(x) {
            for i in 0..16 {
                let products = (16 * i..16 * i + 16).map(|j| i32::from(w.q[j]) * i32::from(x[g].value(j)));
                *sum += x[g].scale[i] * (w.a[i] * products.sum::<i32>() as f32 - w.b[i] * x[g].sums[i]);
            }
        }
    }
    sums
}

/// As [`dot`], for blocks of 32.
fn dot_32<const N: usize, const BYTES: usize>(
    w: &[u8],
    x: [&[u8]; N],
    decode: impl Fn(&[u8; BYTES]) -> Block,
) -> [f32; N] {
    let x = x.map(|x| groups(x, (w.len() / BYTES).div_ceil(8)));
    let mut sums = [0.0; N];
    for (b, w) in w.as_chunks().0.iter().enumerate() {
        let w = decode(w);
        for (sum, x) in sums.iter_mut().zip(x) {
            let (x, b) = (&x[b / 8], b % 8);
            let products: i32 = (0..32).map(|j| i32::from(w.q[j]) * i32::from(x.value(32 * b + j))).sum();
            let total = x.sums[2 * b] + x.sums[2 * b + 1];
            *sum += x.scale[2 * b] * (w.a * products as f32 - w.b * total);
        }
    }
    sums
}

/// The f16 at byte `at`.
fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The `i`th little-endian u32 from byte `at` on.
fn word(bytes: &[u8], at: usize, i: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|k| bytes[at + 4 * i + k]))
}
