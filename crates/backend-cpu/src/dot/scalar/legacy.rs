//! Blocks of 32 weights. See `quant` for the layouts.

use super::{Block, dot_32, half_at, word};
use crate::dot::tables::{E2M1, IQ4, e8m0_half};

pub(in crate::dot) fn q8_0<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot_32::<N, 34>(w, x, |w| Block { q: std::array::from_fn(|j| w[2 + j] as i8), a: half_at(w, 0), b: 0.0 })
}

pub(in crate::dot) fn q4_0<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot_32::<N, 18>(w, x, |w| Block { q: nibbles(&w[2..]).map(|q| q as i8 - 8), a: half_at(w, 0), b: 0.0 })
}

pub(in crate::dot) fn q4_1<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot_32::<N, 20>(w, x, |w| Block { q: nibbles(&w[4..]).map(|q| q as i8), a: half_at(w, 0), b: -half_at(w, 2) })
}

pub(in crate::dot) fn q5_0<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot_32::<N, 22>(w, x, |w| Block { q: five_bits(w, 2).map(|q| q - 16), a: half_at(w, 0), b: 0.0 })
}

pub(in crate::dot) fn q5_1<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot_32::<N, 24>(w, x, |w| Block { q: five_bits(w, 4), a: half_at(w, 0), b: -half_at(w, 2) })
}

pub(in crate::dot) fn iq4_nl<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot_32::<N, 18>(w, x, |w| Block { q: nibbles(&w[2..]).map(|q| IQ4[q as usize]), a: half_at(w, 0), b: 0.0 })
}

pub(in crate::dot) fn mxfp4<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot_32::<N, 17>(w, x, |w| Block { q: nibbles(&w[1..]).map(|q| E2M1[q as usize]), a: e8m0_half(w[0]), b: 0.0 })
}

/// 16 bytes as 32 nibbles: the low ones, then the high ones.
pub(super) fn nibbles(bytes: &[u8]) -> [u8; 32] {
    std::array::from_fn(|j| bytes[j % 16] >> (j / 16 * 4) & 15)
}

/// The word of high bits at byte `at`, and the nibbles behind it.
fn five_bits(w: &[u8], at: usize) -> [i8; 32] {
    let (high, low) = (word(w, at, 0), nibbles(&w[at + 4..]));
    std::array::from_fn(|j| (low[j] | ((high >> j & 1) as u8) << 4) as i8)
}
