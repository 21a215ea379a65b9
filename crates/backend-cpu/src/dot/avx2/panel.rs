//! Panels for AVX2: sixteen columns are the lanes of two registers, and each four levels of a row meet all of them.
//!
//! Products of bytes come in pairs of 16 bits; as many as `MAX` allows are added before they need 32. See
//! [`super::products`].

use std::arch::x86_64::*;

use super::{MINS, SIGNED, Weights, column_blocks, interleave, transpose, wide};
use crate::{
    activation::Group,
    dot::{
        LANES, Square, padded,
        panel::{self, A, A_2, B, B_2, ColumnBlock, Lanes, Panels, SIDE, WeightBlock, prefetch_next_panel},
    },
};

/// Rows whose sums and products have registers.
const ROWS: usize = 2;

/// Columns from which [`wide`] is faster than four at a time: a panel's price is that of sixteen, however few there are.
const FROM_SIGNED: usize = SIDE;

/// Panels, given what unpacks weights.
pub(super) fn panels<const MAX: usize, const FORM: u8>(unpack: fn(&[u8], usize, &mut [WeightBlock])) -> Panels {
    Panels::Lanes(Lanes {
        unpack,
        // SAFETY: `dot::kernel` refuses instruction sets that this machine lacks.
        gather: |x, out| unsafe { gather(x, out) },
        // SAFETY: as above.
        chain: |w, x, out| unsafe {
            match MAX {
                SIGNED => wide::chain(w, [x], [out]),
                _ => chain::<MAX, FORM>(w, x, out),
            }
        },
        // SAFETY: as above.
        chain2: |w, [x, y], [out, out_y]| unsafe {
            if MAX == SIGNED {
                return wide::chain(w, [x, y], [out, out_y]);
            }
            chain::<MAX, FORM>(w, x, out);
            chain::<MAX, FORM>(w, y, out_y);
        },
        sum: panel::sum,
        enter: || (),
        leave: || (),
        from: if MAX == SIGNED { FROM_SIGNED } else { 8 },
    })
}

/// See [`Lanes::unpack`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn unpack<const BYTES: usize>(
    w: &[u8],
    row_bytes: usize,
    out: &mut [WeightBlock],
    first: impl Fn(&[u8; BYTES]) -> Weights,
    second: impl Fn(&[u8; BYTES]) -> Weights,
) {
    let n_groups = out.len() / LANES;
    assert!(n_groups == row_bytes.div_ceil(BYTES), "rows of a panel");
    for g in 0..n_groups {
        for (r, row) in w.chunks_exact(row_bytes).take(SIDE).enumerate() {
            prefetch_next_panel::<BYTES>(w, row_bytes, r * row_bytes + g * BYTES);
            let mut room = None;
            let bytes = padded(row, g * BYTES, &mut room);
            for half in 0..2 {
                let w = if half == 0 { first(bytes) } else { second(bytes) };
                let (mut a, mut b) = ([0.0; 8], [0.0; 8]);
                // SAFETY: 32 writable bytes each; `storeu` has no alignment requirement.
                unsafe {
                    _mm256_storeu_ps(a.as_mut_ptr(), w.a);
                    _mm256_storeu_ps(b.as_mut_ptr(), w.b);
                }
                // Pieces to blocks as blocks to pieces: rows to columns.
                for (i, levels) in interleave(w.q).into_iter().enumerate() {
                    let out = &mut out[(4 * half + i) * n_groups + g];
                    // SAFETY: as above.
                    unsafe { _mm256_storeu_si256(out.q[r].as_mut_ptr().cast(), levels) };
                    let factors = [(A, a[2 * i]), (B, b[2 * i]), (A_2, a[2 * i + 1]), (B_2, b[2 * i + 1])];
                    factors.into_iter().for_each(|(at, factor)| out.factors[at][r] = factor);
                }
            }
        }
    }
}

/// See [`Lanes::gather`].
#[target_feature(enable = "avx2,fma,f16c")]
fn gather(x: &[&[Group]], out: &mut [ColumnBlock]) {
    let n_groups = out.len() / LANES;
    for (i, out) in out.iter_mut().enumerate() {
        let (lane, g) = (i / n_groups, i % n_groups);
        for first in [0, 8] {
            let fours = transpose(column_blocks(x, first, g, lane));
            for (fours, out) in fours.into_iter().zip(&mut out.x) {
                let out = &mut out[4 * first..4 * first + 32];
                // SAFETY: 32 writable bytes; `storeu` has no alignment requirement.
                unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), fours) };
            }
        }
        for c in 0..SIDE {
            let group = x.get(c).map_or(&Group::ZERO, |x| &x[g]);
            out.scale[c] = group.scale[2 * lane];
            (0..2).for_each(|half| out.sums[half][c] = group.sums[2 * lane + half]);
        }
    }
}

/// See [`Lanes::chain`].
#[target_feature(enable = "avx2,fma,f16c")]
fn chain<const MAX: usize, const FORM: u8>(w: &[WeightBlock], x: &[ColumnBlock], out: &mut Square) {
    for first in (0..SIDE).step_by(ROWS) {
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        for (w, x) in w.iter().zip(x) {
            let mut products = [[[_mm256_setzero_si256(); 2]; 2]; ROWS];
            for half in 0..2 {
                for r in 0..ROWS {
                    for c in 0..2 {
                        products[r][c][half] = half_block::<MAX>(&w.q[first + r], x, half, c);
                    }
                }
            }
            for r in 0..ROWS {
                for c in 0..2 {
                    sums[r][c] = finish::<FORM>(sums[r][c], products[r][c], w, first + r, x, c);
                }
            }
        }
        for r in 0..ROWS {
            for c in 0..2 {
                // SAFETY: 32 writable bytes; `storeu` has no alignment requirement.
                unsafe { _mm256_storeu_ps(out.0[first + r][8 * c..8 * c + 8].as_mut_ptr(), sums[r][c]) };
            }
        }
    }
}

/// The products of 16 levels of a row with eight columns.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn half_block<const MAX: usize>(q: &[i8; 32], x: &ColumnBlock, half: usize, c: usize) -> __m256i {
    let mut pairs = [_mm256_setzero_si256(); 4];
    for i in 0..4 {
        let four = q.as_chunks::<4>().0[4 * half + i].map(|q| q as u8);
        let four = _mm256_set1_epi32(i32::from_ne_bytes(four));
        // SAFETY: 32 readable bytes; `loadu` has no alignment requirement.
        let x = unsafe { _mm256_loadu_si256(x.x[4 * half + i][32 * c..32 * c + 32].as_ptr().cast()) };
        pairs[i] = _mm256_maddubs_epi16(four, x);
    }
    let widen = |pairs| _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    let two = [_mm256_add_epi16(pairs[0], pairs[1]), _mm256_add_epi16(pairs[2], pairs[3])];
    match MAX {
        ..=32 => widen(_mm256_add_epi16(two[0], two[1])),
        33..=64 => _mm256_add_epi32(widen(two[0]), widen(two[1])),
        _ => {
            let wide = pairs.map(widen);
            _mm256_add_epi32(_mm256_add_epi32(wide[0], wide[1]), _mm256_add_epi32(wide[2], wide[3]))
        }
    }
}

/// `sum + scale * (a * (q . x) - b * (1 . x))` for a row and eight columns, rounded as in [`super::add_half`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn finish<const FORM: u8>(
    sum: __m256,
    products: [__m256i; 2],
    w: &WeightBlock,
    row: usize,
    x: &ColumnBlock,
    c: usize,
) -> __m256 {
    let factor = |i: usize| _mm256_set1_ps(w.factors[i][row]);
    // SAFETY: 32 readable bytes; `loadu` has no alignment requirement.
    let load = |values: &[f32; SIDE]| unsafe { _mm256_loadu_ps(values[8 * c..8 * c + 8].as_ptr()) };
    let [first, second] = products;
    let mins = || {
        let halves = [_mm256_mul_ps(load(&x.sums[0]), factor(B)), _mm256_mul_ps(load(&x.sums[1]), factor(B_2))];
        _mm256_add_ps(halves[0], halves[1])
    };
    let total = match FORM {
        MINS => {
            let sums = _mm256_add_ps(load(&x.sums[0]), load(&x.sums[1]));
            let all = _mm256_cvtepi32_ps(_mm256_add_epi32(first, second));
            _mm256_fnmadd_ps(sums, factor(B), _mm256_mul_ps(all, factor(A)))
        }
        _ => {
            let [first, second] = [first, second].map(|products| _mm256_cvtepi32_ps(products));
            _mm256_sub_ps(_mm256_fmadd_ps(first, factor(A), _mm256_mul_ps(second, factor(A_2))), mins())
        }
    };
    _mm256_fmadd_ps(total, load(&x.scale), sum)
}
