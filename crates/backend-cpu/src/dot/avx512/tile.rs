//! Four rows of weights by four columns, for batches.
//!
//! To unpack weights costs about as much as to multiply them with four columns. A batch has more columns than that, so
//! it unpacks weights once, into memory that a cache holds. Each load then serves four products, and what limits the
//! speed is the two units that multiply: four byte products per 256 weights and column, and two or three of floats for
//! the scales, so at best 4/6 or 4/7 of what the machine can do.

use std::arch::x86_64::*;

use super::{BY_16, Weights, finish, load_64, load_f32, load_i8, pad, start};
use crate::activation::{Group, groups};

/// [`Weights`] in memory.
#[repr(C, align(64))]
pub(super) struct Unpacked {
    q: [[u8; 64]; 4],
    a: [f32; 16],
    b: [f32; 16],
}

/// Writes the `Unpacked` of a row.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn unpack<const BYTES: usize>(w: &[u8], out: &mut [u8], decode: impl Fn(&[u8; BYTES]) -> Weights) {
    // SAFETY: any bytes make an `Unpacked`, and any `Unpacked` is bytes.
    let (before, out, _) = unsafe { out.align_to_mut::<Unpacked>() };
    let (whole, rest) = w.as_chunks::<BYTES>();
    assert!(before.is_empty() && out.len() == w.len().div_ceil(BYTES), "an unpacked row");
    for (i, out) in out.iter_mut().enumerate() {
        let padded;
        let bytes = match whole.get(i) {
            Some(bytes) => bytes,
            None => {
                padded = pad(rest);
                &padded
            }
        };
        let w = decode(bytes);
        for p in 0..4 {
            // SAFETY: 64 writable bytes; `storeu` has no alignment requirement.
            unsafe { _mm512_storeu_si512(out.q[p].as_mut_ptr().cast(), w.q[p]) };
        }
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(out.a.as_mut_ptr(), w.a) };
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(out.b.as_mut_ptr(), w.b) };
    }
}

/// What [`super::dot`] computes of unpacked rows and columns, bit for bit.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn dot<const FORM: u8>(w: [&[u8]; 4], x: [&[u8]; 4]) -> [[f32; 4]; 4] {
    let n = w[0].len() / size_of::<Unpacked>();
    let w = [rows(w[0], n), rows(w[1], n), rows(w[2], n), rows(w[3], n)];
    let x = [groups(x[0], n), groups(x[1], n), groups(x[2], n), groups(x[3], n)];
    if FORM == BY_16 {
        // These have two sums each: two rows at a time fit the registers.
        let ([a, b], [c, d]) =
            (rows_by_columns::<FORM, 2>([w[0], w[1]], x), rows_by_columns::<FORM, 2>([w[2], w[3]], x));
        return [a, b, c, d];
    }
    rows_by_columns::<FORM, 4>(w, x)
}

/// The rows and columns are of the same length.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn rows_by_columns<const FORM: u8, const R: usize>(w: [&[Unpacked]; R], x: [&[Group]; 4]) -> [[f32; 4]; R] {
    let mut sums = [[_mm512_setzero_ps(); 4]; R];
    for g in 0..w[0].len() {
        // SAFETY: all have the length of the first, see `dot`.
        let w = w.each_ref().map(|w| unsafe { w.get_unchecked(g) });
        // SAFETY: as above.
        let x = x.each_ref().map(|x| unsafe { x.get_unchecked(g) });
        let mut products = [[[_mm512_setzero_si512(); 2]; 4]; R];
        for row in &mut products {
            (0..4).for_each(|c| row[c][0] = start::<FORM>(x[c]));
        }
        for p in 0..4 {
            let half = if FORM == BY_16 { p / 2 } else { 0 };
            for c in 0..4 {
                let q = load_i8(&x[c].q[p]);
                for r in 0..R {
                    products[r][c][half] = _mm512_dpbusd_epi32(products[r][c][half], load_64(&w[r].q[p], 0), q);
                }
            }
        }
        for r in 0..R {
            let (a, b) = (load_f32(&w[r].a), load_f32(&w[r].b));
            for c in 0..4 {
                sums[r][c] = finish::<FORM>(sums[r][c], products[r][c], a, b, x[c]);
            }
        }
    }
    let mut y = [[0.0; 4]; R];
    for r in 0..R {
        for c in 0..4 {
            y[r][c] = _mm512_reduce_add_ps(sums[r][c]);
        }
    }
    y
}

/// An unpacked row.
fn rows(row: &[u8], n: usize) -> &[Unpacked] {
    assert!(row.len() >= n * size_of::<Unpacked>() && row.as_ptr().cast::<Unpacked>().is_aligned(), "an unpacked row");
    // SAFETY: long enough and aligned; an `Unpacked` is integers and floats without padding, which any bytes make.
    unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), n) }
}
