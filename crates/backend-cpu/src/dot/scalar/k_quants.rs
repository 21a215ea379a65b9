//! Blocks of 256 weights with scales of scales. See `quant` for the layouts.

use super::{Levels, dot, half_at};

pub(in crate::dot) fn q2_k<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 84>(w, x, |w| {
        let (d, min) = (half_at(w, 80), half_at(w, 82));
        Levels {
            q: std::array::from_fn(|j| two_bits(&w[16..80], j) as i8),
            a: std::array::from_fn(|i| d * f32::from(w[i] & 15)),
            b: std::array::from_fn(|i| min * f32::from(w[i] >> 4)),
        }
    })
}

pub(in crate::dot) fn q3_k<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 110>(w, x, |w| {
        let d = half_at(w, 108);
        Levels {
            q: std::array::from_fn(|j| {
                let high = w[j % 32] >> (j / 32) & 1;
                (two_bits(&w[32..96], j) | high << 2) as i8 - 4
            }),
            a: std::array::from_fn(|i| {
                let low = w[96 + i % 8] >> (i / 8 * 4) & 15;
                let high = w[104 + i % 4] >> (i / 4 * 2) & 3;
                d * ((low | high << 4) as i8 - 32) as f32
            }),
            b: [0.0; 16],
        }
    })
}

pub(in crate::dot) fn q4_k<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 144>(w, x, |w| with_mins(w, |j| nibble(&w[16..], j)))
}

pub(in crate::dot) fn q5_k<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 176>(w, x, |w| with_mins(w, |j| nibble(&w[48..], j) | (w[16 + j % 32] >> (j / 32) & 1) << 4))
}

pub(in crate::dot) fn q6_k<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 210>(w, x, |w| {
        let d = half_at(w, 208);
        Levels {
            q: std::array::from_fn(|j| {
                let (half, j) = (j / 128, j % 128);
                let low = w[64 * half + j % 64] >> (j / 64 * 4) & 15;
                let high = w[128 + 32 * half + j % 32] >> (j / 32 * 2) & 3;
                (low | high << 4) as i8 - 32
            }),
            a: std::array::from_fn(|i| d * f32::from(w[192 + i] as i8)),
            b: [0.0; 16],
        }
    })
}

/// `Q4_K` and `Q5_K`: eight six-bit scales and minima, packed into the twelve bytes behind `d` and `dmin`.
fn with_mins(w: &[u8], q: impl Fn(usize) -> u8) -> Levels {
    let (d, min, s) = (half_at(w, 0), half_at(w, 2), &w[4..16]);
    Levels {
        q: std::array::from_fn(|j| q(j) as i8),
        a: std::array::from_fn(|i| match i / 2 {
            j @ 0..4 => d * f32::from(s[j] & 63),
            j => d * f32::from(s[j + 4] & 15 | s[j - 4] >> 6 << 4),
        }),
        b: std::array::from_fn(|i| match i / 2 {
            j @ 0..4 => min * f32::from(s[j + 4] & 63),
            j => min * f32::from(s[j + 4] >> 4 | s[j] >> 6 << 4),
        }),
    }
}

/// Weight `j` of 64 bytes that hold four blocks of 32 each half, two bits apart.
fn two_bits(bytes: &[u8], j: usize) -> u8 {
    bytes[j / 128 * 32 + j % 32] >> (j / 32 % 4 * 2) & 3
}

/// Weight `j` of 128 bytes in which each 32 hold one block in the low nibbles and the next in the high ones.
fn nibble(bytes: &[u8], j: usize) -> u8 {
    bytes[j / 64 * 32 + j % 32] >> (j / 32 % 2 * 4) & 15
}
