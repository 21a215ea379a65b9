//! Formats whose weights are entries of a codebook. See `quant` for the layouts.
//!
//! The rows of the codebooks hold magnitudes; signs are a byte per eight weights, of which the `*_XXS` and `IQ2_XS`
//! store seven bits: the number of minus signs is even.

use super::{Levels, dot, half_at, legacy::nibbles, word};
use crate::dot::tables::{IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID, IQ4, even_signs};

pub(in crate::dot) fn iq2_xxs<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 66>(w, x, |w| {
        let d = half_at(w, 0);
        let signs = |b| word(w, 2, 2 * b + 1);
        Levels {
            q: rows_of_8(|r| {
                (IQ2_XXS_GRID[w[2 + r / 4 * 8 + r % 4] as usize], even_signs(signs(r / 4) >> (r % 4 * 7)))
            }),
            a: std::array::from_fn(|i| d * (0.5 + (signs(i / 2) >> 28) as f32) * 0.25),
            b: [0.0; 16],
        }
    })
}

pub(in crate::dot) fn iq2_xs<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 74>(w, x, |w| {
        let row = |r| u16::from_le_bytes([w[2 + 2 * r], w[3 + 2 * r]]);
        Levels {
            q: rows_of_8(|r| (IQ2_XS_GRID[(row(r) & 511) as usize], even_signs(u32::from(row(r) >> 9)))),
            a: nibble_scales(half_at(w, 0), &w[66..]),
            b: [0.0; 16],
        }
    })
}

pub(in crate::dot) fn iq2_s<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 82>(w, x, |w| {
        let high = |r| usize::from(w[66 + r / 4]) >> (r % 4 * 2) & 3;
        Levels {
            q: rows_of_8(|r| (IQ2_S_GRID[usize::from(w[2 + r]) | high(r) << 8], w[34 + r])),
            a: nibble_scales(half_at(w, 0), &w[74..]),
            b: [0.0; 16],
        }
    })
}

pub(in crate::dot) fn iq3_xxs<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 98>(w, x, |w| {
        let d = half_at(w, 0);
        let row = |r| u64::from(IQ3_XXS_GRID[w[2 + r] as usize]);
        let signs = |b| word(w, 66, b);
        Levels {
            q: rows_of_8(|r| (row(2 * r) | row(2 * r + 1) << 32, even_signs(signs(r / 4) >> (r % 4 * 7)))),
            a: std::array::from_fn(|i| d * (0.5 + (signs(i / 2) >> 28) as f32) * 0.5),
            b: [0.0; 16],
        }
    })
}

pub(in crate::dot) fn iq3_s<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 110>(w, x, |w| {
        let d = half_at(w, 0);
        let high = |r| usize::from(w[66 + r / 8]) >> (r % 8) & 1;
        let row = |r| u64::from(IQ3_S_GRID[usize::from(w[2 + r]) | high(r) << 8]);
        Levels {
            q: rows_of_8(|r| (row(2 * r) | row(2 * r + 1) << 32, w[74 + r])),
            a: std::array::from_fn(|i| d * f32::from(1 + 2 * (w[106 + i / 4] >> (i / 2 % 2 * 4) & 15))),
            b: [0.0; 16],
        }
    })
}

pub(in crate::dot) fn iq4_xs<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 136>(w, x, |w| {
        let (d, high) = (half_at(w, 0), u16::from_le_bytes([w[2], w[3]]));
        let blocks: [_; 8] = std::array::from_fn(|b| nibbles(&w[8 + 16 * b..]));
        Levels {
            q: std::array::from_fn(|j| IQ4[blocks[j / 32][j % 32] as usize]),
            a: std::array::from_fn(|i| {
                let b = i / 2;
                let scale = w[4 + b / 2] >> (b % 2 * 4) & 15 | ((high >> (2 * b) & 3) << 4) as u8;
                d * (scale as i8 - 32) as f32
            }),
            b: [0.0; 16],
        }
    })
}

/// 32 times eight magnitudes, the first in the lowest byte, and their signs.
fn rows_of_8(row: impl Fn(usize) -> (u64, u8)) -> [i8; 256] {
    let mut q = [0; 256];
    for (r, q) in q.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let (magnitudes, signs) = row(r);
        for (k, magnitude) in magnitudes.to_le_bytes().into_iter().enumerate() {
            q[k] = if signs >> k & 1 == 1 { -(magnitude as i8) } else { magnitude as i8 };
        }
    }
    q
}

/// `IQ2_XS` and `IQ2_S`: a nibble per 16 weights.
fn nibble_scales(d: f32, scales: &[u8]) -> [f32; 16] {
    std::array::from_fn(|i| d * (0.5 + f32::from(scales[i / 2] >> (i % 2 * 4) & 15)) * 0.25)
}
