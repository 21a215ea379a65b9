//! Panels of signed bytes for AVX2, which has no product of two of them: both are widened to 16 bits beforehand.
//!
//! `vpmaddwd` multiplies 16 pairs and adds neighbours in 32 bits; per 256 MAC that is 16 products and 15 sums, against
//! 28 and 7 with bytes whose signs are moved to the activations. Blocks hold 16 neighbours instead of 32; their order is
//! that of [`Panels::Wide`](crate::dot::panel::Panels::Wide), and scales stand in the first of two.

use std::arch::x86_64::*;

use super::{column_blocks, transpose};
use crate::{
    activation::Group,
    dot::{
        LANES, Square,
        panel::{self, ColumnBlock, Lanes, SIDE, WeightBlock},
    },
};

/// Rows whose sums and products have registers.
const ROWS: usize = 2;

/// Lanes, given what unpacks weights.
pub(super) fn lanes(unpack: fn(&[u8], usize, &mut [WeightBlock])) -> Lanes {
    Lanes {
        unpack,
        // SAFETY: `dot::kernel` refuses instruction sets that this machine lacks.
        gather: |x, out| unsafe { gather(x, out) },
        // SAFETY: as above.
        chain: |w, x, out| unsafe { chain(w, x, out) },
        // SAFETY: as above.
        chain2: |w, x, out| x.into_iter().zip(out).for_each(|(x, out)| unsafe { chain(w, x, out) }),
        sum: panel::sum,
        enter: || (),
        leave: || (),
        from: 8,
    }
}

/// Writes a block of a row, 32 levels and their factor, as two blocks of a panel.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn store(levels: __m256i, a: f32, row: usize, out: &mut [WeightBlock]) {
    let halves = [_mm256_castsi256_si128(levels), _mm256_extracti128_si256::<1>(levels)];
    for (half, out) in halves.into_iter().zip(&mut *out) {
        // SAFETY: 32 writable bytes; `storeu` has no alignment requirement.
        unsafe { _mm256_storeu_si256(out.q[row].as_mut_ptr().cast(), _mm256_cvtepi8_epi16(half)) };
    }
    out[0].factors[0][row] = a;
}

/// See [`Lanes::gather`].
#[target_feature(enable = "avx2,fma,f16c")]
fn gather(x: &[&[Group]], out: &mut [ColumnBlock]) {
    let n_groups = out.len() / (2 * LANES);
    for (i, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let (lane, g) = (i / n_groups, i % n_groups);
        for first in [0, 8] {
            let blocks = column_blocks(x, first, g, lane);
            let halves = [
                blocks.map(|block| _mm256_cvtepi8_epi16(_mm256_castsi256_si128(block))),
                blocks.map(|block| _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(block))),
            ];
            for (half, out) in halves.into_iter().zip(&mut *out) {
                for (pairs, out) in transpose(half).into_iter().zip(&mut out.x) {
                    let out = &mut out[4 * first..4 * first + 32];
                    // SAFETY: 32 writable bytes; `storeu` has no alignment requirement.
                    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), pairs) };
                }
            }
        }
        for (c, scale) in out[0].scale.iter_mut().enumerate() {
            *scale = x.get(c).map_or(0.0, |x| x[g].scale[2 * lane]);
        }
    }
}

/// See [`Lanes::chain`].
#[target_feature(enable = "avx2,fma,f16c")]
fn chain(w: &[WeightBlock], x: &[ColumnBlock], out: &mut Square) {
    for first in (0..SIDE).step_by(ROWS) {
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        for (w, x) in w.as_chunks::<2>().0.iter().zip(x.as_chunks::<2>().0) {
            let mut products = [[_mm256_setzero_si256(); 2]; ROWS];
            for half in 0..2 {
                for j in 0..8 {
                    let x = [0, 1].map(|c| load(&x[half].x[j], c));
                    for r in 0..ROWS {
                        let two = w[half].q[first + r].as_chunks::<4>().0[j].map(|q| q as u8);
                        let two = _mm256_set1_epi32(i32::from_ne_bytes(two));
                        for c in 0..2 {
                            products[r][c] = _mm256_add_epi32(products[r][c], _mm256_madd_epi16(two, x[c]));
                        }
                    }
                }
            }
            for r in 0..ROWS {
                for c in 0..2 {
                    let a = _mm256_set1_ps(w[0].factors[0][first + r]);
                    let total = _mm256_mul_ps(_mm256_cvtepi32_ps(products[r][c]), a);
                    // SAFETY: 32 readable bytes; `loadu` has no alignment requirement.
                    let scale = unsafe { _mm256_loadu_ps(x[0].scale[8 * c..8 * c + 8].as_ptr()) };
                    sums[r][c] = _mm256_fmadd_ps(total, scale, sums[r][c]);
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

/// Eight columns of sixteen.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load(x: &[u8; 4 * SIDE], c: usize) -> __m256i {
    let x = &x[32 * c..32 * c + 32];
    // SAFETY: 32 readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}
