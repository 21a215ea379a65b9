//! Weights that are floats: f32 products, nothing rounded.

use std::arch::x86_64::*;

use quant::Format;

use super::{load_16, pad, reduce};
use crate::{
    activation::Activation,
    dot::{Kernel, Tile, scalar, simd},
};

/// Registers of partial sums per column, which hide the latency of additions; of four columns they fit the registers.
const SUMS: usize = 2;
/// Bytes of a register.
const REGISTER: usize = 32;
/// Values that all sums take in turn.
type Block = [u8; SUMS * REGISTER];

/// The kernel for floats, given the bytes per register and what makes singles of them.
macro_rules! float {
    ($bytes:literal, $decode:path) => {{
        use $decode as decode;
        #[target_feature(enable = "avx2,fma,f16c")]
        fn dot<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
            super::float::dot::<N, $bytes>(w, x, |w| decode(w))
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        fn unpack(w: &[u8], out: &mut [u8]) {
            super::float::unpack::<$bytes>(w, out, |w| decode(w));
        }
        // SAFETY: `dot::kernel` refuses instruction sets that this machine lacks.
        Kernel { tile: Some(tile(|w, out| unsafe { unpack(w, out) })), ..simd!(F32, dot) }
    }};
}

pub(super) fn f32() -> Kernel {
    float!(32, load)
}

pub(super) fn f16() -> Kernel {
    float!(16, halves)
}

pub(super) fn bf16() -> Kernel {
    float!(16, upper_halves)
}

/// The kernel for a format that `quant` has to decode: slow, but for batches as fast as singles.
macro_rules! decoded {
    ($format:path) => {{
        #[target_feature(enable = "avx2,fma,f16c")]
        fn dot<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
            by_decoding($format, w, x)
        }
        Kernel { tile: Some(tile(|w, out| scalar::decode($format, w, out))), ..simd!(F32, dot) }
    }};
}

pub(super) fn decoded(format: Format) -> Option<Kernel> {
    Some(match format {
        Format::IQ1_S => decoded!(Format::IQ1_S),
        Format::IQ1_M => decoded!(Format::IQ1_M),
        Format::TQ1_0 => decoded!(Format::TQ1_0),
        Format::TQ2_0 => decoded!(Format::TQ2_0),
        _ => return None,
    })
}

/// Products of singles, four rows by four columns, in blocks of as many registers as there are sums.
fn tile(unpack: fn(&[u8], &mut [u8])) -> Tile {
    Tile {
        unpack,
        // SAFETY: `dot::kernel` refuses instruction sets that this machine lacks.
        dot: |w, x| unsafe { four_by_four(w, x) },
        // SAFETY: as above.
        add: |w, x, sums| unsafe { add(w, x, sums) },
        // SAFETY: as above.
        sum: |sums| unsafe { sum(sums) },
        block: (SUMS * REGISTER / 4, SUMS * REGISTER),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn halves(w: &[u8; 16]) -> __m256 {
    _mm256_cvtph_ps(load_16(w, 0))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn upper_halves(w: &[u8; 16]) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(load_16(w, 0))))
}

/// Writes the singles of a row, and zeros up to a whole block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn unpack<const BYTES: usize>(w: &[u8], out: &mut [u8], decode: impl Fn(&[u8; BYTES]) -> __m256) {
    let (whole, rest) = w.as_chunks::<BYTES>();
    let (out, _) = out.as_chunks_mut::<REGISTER>();
    assert_eq!(out.len(), w.len().div_ceil(SUMS * BYTES) * SUMS, "an unpacked row");
    for (i, out) in out.iter_mut().enumerate() {
        let values = match whole.get(i) {
            Some(w) => decode(w),
            None if i == whole.len() => decode(&pad(rest)),
            None => _mm256_setzero_ps(),
        };
        // SAFETY: a register of writable bytes; `storeu` has no alignment requirement.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr().cast(), values) };
    }
}

/// [`dot`] of unpacked rows and columns, bit for bit. Columns end in zeros up to a whole block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn four_by_four(w: [&[u8]; 4], x: [&[u8]; 4]) -> [[f32; 4]; 4] {
    let mut sums = [[[0.0; 16]; 4]; 4];
    add(w, x, &mut sums);
    let mut y = [[0.0; 4]; 4];
    for r in 0..4 {
        for c in 0..4 {
            y[r][c] = sum(&sums[r][c]);
        }
    }
    y
}

/// See [`Tile::add`]: one of the sums of three rows at a time, then both of the last row, so that eight chains of
/// additions or twelve are under way and fit the registers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add(w: [&[u8]; 4], x: [&[u8]; 4], out: &mut [[[f32; 16]; 4]; 4]) {
    let [first @ .., last] = w;
    let [first_out @ .., last_out] = out;
    add_part::<3, 1>(first, x, first_out, 0);
    add_part::<3, 1>(first, x, first_out, 1);
    add_part::<1, 2>([last], x, std::array::from_mut(last_out), 0);
}

/// The same for some rows, and `P` of the sums from `part` on.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_part<const R: usize, const P: usize>(w: [&[u8]; R], x: [&[u8]; 4], out: &mut [[[f32; 16]; 4]; R], part: usize) {
    let n = w[0].len() / (SUMS * REGISTER);
    let (mut rows, mut columns): ([&[Block]; R], [&[Block]; 4]) = ([&[]; R], [&[]; 4]);
    for r in 0..R {
        rows[r] = &w[r].as_chunks().0[..n];
    }
    for c in 0..4 {
        columns[c] = &x[c].as_chunks().0[..n];
    }
    let mut sums = [[[_mm256_setzero_ps(); P]; 4]; R];
    for r in 0..R {
        for c in 0..4 {
            for p in 0..P {
                sums[r][c][p] = load_sums(&out[r][c], part + p);
            }
        }
    }
    for i in 0..n {
        let mut values = [[_mm256_setzero_ps(); P]; R];
        for r in 0..R {
            for p in 0..P {
                values[r][p] = load_part(&rows[r][i], part + p);
            }
        }
        for c in 0..4 {
            for p in 0..P {
                let x = load_part(&columns[c][i], part + p);
                for r in 0..R {
                    sums[r][c][p] = _mm256_fmadd_ps(values[r][p], x, sums[r][c][p]);
                }
            }
        }
    }
    for r in 0..R {
        for c in 0..4 {
            for p in 0..P {
                let out = &mut out[r][c][8 * (part + p)..8 * (part + p) + 8];
                // SAFETY: 32 writable bytes; `storeu` has no alignment requirement.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sums[r][c][p]) };
            }
        }
    }
}

/// All lanes of both sums.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sum(sums: &[f32; 16]) -> f32 {
    reduce(_mm256_add_ps(load_sums(sums, 0), load_sums(sums, 1)))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_sums(sums: &[f32; 16], part: usize) -> __m256 {
    let sums = &sums[8 * part..8 * part + 8];
    // SAFETY: 32 readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm256_loadu_ps(sums.as_ptr()) }
}

/// A register of a block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_part(block: &Block, part: usize) -> __m256 {
    load(&block.as_chunks().0[part])
}

/// The dot products of a row of weights, `BYTES` per register, with the rows `x`.
///
/// Register `i` of a row is added to sum `i % SUMS`; one that the row does not fill ends in zeros.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn dot<const N: usize, const BYTES: usize>(
    w: &[u8],
    x: [&[u8]; N],
    decode: impl Fn(&[u8; BYTES]) -> __m256,
) -> [f32; N] {
    let (whole, rest) = w.as_chunks::<BYTES>();
    let rest_x = rest.len() * REGISTER / BYTES;
    let mut sums = [[_mm256_setzero_ps(); SUMS]; N];
    let mut columns: [&[[u8; REGISTER]]; N] = [&[]; N];
    for c in 0..N {
        columns[c] = &x[c][..whole.len() * REGISTER].as_chunks().0[..whole.len()];
    }
    let (steps, remainder) = whole.as_chunks::<SUMS>();
    for (s, step) in steps.iter().enumerate() {
        for i in 0..SUMS {
            let w = decode(&step[i]);
            for c in 0..N {
                sums[c][i] = _mm256_fmadd_ps(w, load(&columns[c][s * SUMS + i]), sums[c][i]);
            }
        }
    }
    for (i, w) in remainder.iter().enumerate() {
        let w = decode(w);
        for c in 0..N {
            sums[c][i] = _mm256_fmadd_ps(w, load(&columns[c][steps.len() * SUMS + i]), sums[c][i]);
        }
    }
    if !rest.is_empty() {
        let w = decode(&pad(rest));
        for c in 0..N {
            let x = pad(&x[c][whole.len() * REGISTER..][..rest_x]);
            sums[c][remainder.len()] = _mm256_fmadd_ps(w, load(&x), sums[c][remainder.len()]);
        }
    }
    sums.map(|[a, b]| reduce(_mm256_add_ps(a, b)))
}

/// [`dot`] of what `quant` decodes, to the bit: sums run on from block to block, and take whole ones.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn by_decoding<const N: usize>(format: Format, w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    let mut values = [0; 4 * scalar::LONGEST];
    let (values, _) = values[..4 * format.block_len()].as_chunks_mut::<{ SUMS * REGISTER }>();
    let mut sums = [[_mm256_setzero_ps(); SUMS]; N];
    for (b, w) in w.chunks_exact(format.block_bytes()).enumerate() {
        scalar::decode(format, w, values.as_flattened_mut());
        for (i, w) in values.iter().enumerate() {
            for c in 0..N {
                let x: &Block = &x[c].as_chunks().0[b * values.len() + i];
                for part in 0..SUMS {
                    sums[c][part] = _mm256_fmadd_ps(load_part(w, part), load_part(x, part), sums[c][part]);
                }
            }
        }
    }
    sums.map(|[a, b]| reduce(_mm256_add_ps(a, b)))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load(bytes: &[u8; REGISTER]) -> __m256 {
    // SAFETY: a register of readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm256_loadu_ps(bytes.as_ptr().cast()) }
}
