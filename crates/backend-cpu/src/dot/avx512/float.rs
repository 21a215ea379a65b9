//! Weights that are floats: f32 products, nothing rounded.
//!
//! One register of sums per column: a chain of additions takes 64 bytes of singles or 32 of halves per four cycles,
//! more than memory gives a core, and 4 x 4 of them fit the registers when there are many columns.

use std::arch::x86_64::*;

use quant::Format;

use super::{load_32, pad};
use crate::{activation::Activation, dot::Kernel, dot::Tile, dot::scalar, dot::simd};

/// Bytes of a register.
const REGISTER: usize = 64;

/// The kernel for floats, given the bytes per register and what makes singles of them.
macro_rules! float {
    ($bytes:literal, $decode:path) => {{
        use $decode as decode;
        #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
        fn dot<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
            super::float::dot::<N, $bytes>(w, x, |w| decode(w))
        }
        #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
        fn unpack(w: &[u8], out: &mut [u8]) {
            super::float::unpack::<$bytes>(w, out, |w| decode(w));
        }
        // SAFETY: `dot::kernel` refuses instruction sets that this machine lacks.
        Kernel { tile: Some(tile(|w, out| unsafe { unpack(w, out) })), ..simd!(F32, dot) }
    }};
}

pub(super) fn f32() -> Kernel {
    float!(64, load)
}

pub(super) fn f16() -> Kernel {
    float!(32, halves)
}

pub(super) fn bf16() -> Kernel {
    float!(32, upper_halves)
}

/// The kernel for a format that `quant` has to decode: slow, but for batches as fast as singles.
macro_rules! decoded {
    ($format:path) => {{
        #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
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

/// Products of singles, four rows by four columns.
fn tile(unpack: fn(&[u8], &mut [u8])) -> Tile {
    Tile {
        unpack,
        // SAFETY: `dot::kernel` refuses instruction sets that this machine lacks.
        dot: |w, x| unsafe { four_by_four(w, x) },
        // SAFETY: as above.
        add: |w, x, sums| unsafe { add(w, x, sums) },
        // SAFETY: as above.
        sum: |sums| unsafe { _mm512_reduce_add_ps(load_sums(sums)) },
        block: (REGISTER / 4, REGISTER),
    }
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn halves(w: &[u8; 32]) -> __m512 {
    _mm512_cvtph_ps(load_32(w, 0))
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn upper_halves(w: &[u8; 32]) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(load_32(w, 0))))
}

/// Writes the singles of a row, and zeros up to a whole register.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn unpack<const BYTES: usize>(w: &[u8], out: &mut [u8], decode: impl Fn(&[u8; BYTES]) -> __m512) {
    let (whole, rest) = w.as_chunks::<BYTES>();
    let (out, _) = out.as_chunks_mut::<REGISTER>();
    assert_eq!(out.len(), w.len().div_ceil(BYTES), "an unpacked row");
    for (i, out) in out.iter_mut().enumerate() {
        let values = match whole.get(i) {
            Some(w) => decode(w),
            None => decode(&pad(rest)),
        };
        // SAFETY: a register of writable bytes; `storeu` has no alignment requirement.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr().cast(), values) };
    }
}

/// [`dot`] of unpacked rows and columns, bit for bit. Columns end in zeros up to a whole register.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn four_by_four(w: [&[u8]; 4], x: [&[u8]; 4]) -> [[f32; 4]; 4] {
    let mut sums = [[[0.0; 16]; 4]; 4];
    add(w, x, &mut sums);
    let mut y = [[0.0; 4]; 4];
    for r in 0..4 {
        for c in 0..4 {
            y[r][c] = _mm512_reduce_add_ps(load_sums(&sums[r][c]));
        }
    }
    y
}

/// See [`Tile::add`].
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn add(w: [&[u8]; 4], x: [&[u8]; 4], out: &mut [[[f32; 16]; 4]; 4]) {
    let n = w[0].len() / REGISTER;
    let (mut rows, mut columns): ([&[[u8; REGISTER]]; 4], [&[[u8; REGISTER]]; 4]) = ([&[]; 4], [&[]; 4]);
    for i in 0..4 {
        rows[i] = &w[i].as_chunks().0[..n];
        columns[i] = &x[i].as_chunks().0[..n];
    }
    let mut sums = [[_mm512_setzero_ps(); 4]; 4];
    for r in 0..4 {
        for c in 0..4 {
            sums[r][c] = load_sums(&out[r][c]);
        }
    }
    for i in 0..n {
        let mut values = [_mm512_setzero_ps(); 4];
        for c in 0..4 {
            values[c] = load(&columns[c][i]);
        }
        for r in 0..4 {
            let w = load(&rows[r][i]);
            for c in 0..4 {
                sums[r][c] = _mm512_fmadd_ps(w, values[c], sums[r][c]);
            }
        }
    }
    for r in 0..4 {
        for c in 0..4 {
            // SAFETY: 64 writable bytes; `storeu` has no alignment requirement.
            unsafe { _mm512_storeu_ps(out[r][c].as_mut_ptr(), sums[r][c]) };
        }
    }
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn load_sums(sums: &[f32; 16]) -> __m512 {
    // SAFETY: 64 readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm512_loadu_ps(sums.as_ptr()) }
}

/// The dot products of a row of weights, `BYTES` per register, with the rows `x`. A register that the row does not fill
/// ends in zeros.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn dot<const N: usize, const BYTES: usize>(
    w: &[u8],
    x: [&[u8]; N],
    decode: impl Fn(&[u8; BYTES]) -> __m512,
) -> [f32; N] {
    let (whole, rest) = w.as_chunks::<BYTES>();
    let rest_x = rest.len() * REGISTER / BYTES;
    let mut sums = [_mm512_setzero_ps(); N];
    let mut columns: [&[[u8; REGISTER]]; N] = [&[]; N];
    for c in 0..N {
        columns[c] = &x[c][..whole.len() * REGISTER].as_chunks().0[..whole.len()];
    }
    for (i, w) in whole.iter().enumerate() {
        let w = decode(w);
        for c in 0..N {
            sums[c] = _mm512_fmadd_ps(w, load(&columns[c][i]), sums[c]);
        }
    }
    if !rest.is_empty() {
        let w = decode(&pad(rest));
        for c in 0..N {
            let x = pad(&x[c][whole.len() * REGISTER..][..rest_x]);
            sums[c] = _mm512_fmadd_ps(w, load(&x), sums[c]);
        }
    }
    sums.map(|sum| _mm512_reduce_add_ps(sum))
}

/// [`dot`] of what `quant` decodes, to the bit: sums run on from block to block.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn by_decoding<const N: usize>(format: Format, w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    let mut values = [0; 4 * scalar::LONGEST];
    let (values, _) = values[..4 * format.block_len()].as_chunks_mut::<REGISTER>();
    let mut sums = [_mm512_setzero_ps(); N];
    for (b, w) in w.chunks_exact(format.block_bytes()).enumerate() {
        scalar::decode(format, w, values.as_flattened_mut());
        for (i, w) in values.iter().enumerate() {
            let w = load(w);
            for c in 0..N {
                let x = &x[c].as_chunks().0[b * values.len() + i];
                sums[c] = _mm512_fmadd_ps(w, load(x), sums[c]);
            }
        }
    }
    sums.map(|sum| _mm512_reduce_add_ps(sum))
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn load(bytes: &[u8; REGISTER]) -> __m512 {
    // SAFETY: a register of readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm512_loadu_ps(bytes.as_ptr().cast()) }
}
