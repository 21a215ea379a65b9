//! Lanes of signed bytes for AVX2, which has no product of two of them: both are widened to 16 bits.
//!
//! `vpmaddwd` multiplies 16 pairs and adds neighbours in 32 bits; per 256 MAC that is 16 products and 15 sums, against
//! 28 and 7 with bytes whose signs are moved to the activations. What is widened stays in the first-level cache: panels
//! twice as long would not fit the second level, and 16 rows and 16 columns share the work. A pair is two bytes of four
//! that have one between them, so that shifts make it.

use std::{arch::x86_64::*, mem::MaybeUninit};

use crate::dot::{
    Square,
    panel::{A, ColumnBlock, SIDE, WeightBlock},
};

/// Rows whose sums and products have registers.
const ROWS: usize = 2;
/// Blocks that are widened at a time.
const BLOCKS: usize = 8;

/// Some blocks of 16 rows or columns: a register of pairs for each of them, or for each pair.
type Wide = [[[__m256i; 2]; SIDE]; BLOCKS];

/// See [`crate::dot::panel::Lanes::chain`] and `chain2`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn chain<const C: usize>(w: &[WeightBlock], x: [&[ColumnBlock]; C], mut out: [&mut Square; C]) {
    let mut rooms = [const { MaybeUninit::<Wide>::uninit() }; 2];
    let [w_room, x_room] = &mut rooms;
    out.iter_mut().for_each(|out| **out = Square::ZERO);
    for (i, w) in w.chunks(BLOCKS).enumerate() {
        let wide_w = widen(w_room, w.iter().map(|w| w.q.as_flattened()));
        for c in 0..C {
            let x = &x[c][BLOCKS * i..][..w.len()];
            let wide_x = widen(x_room, x.iter().map(|x| x.x.as_flattened()));
            add(w, wide_w, x, wide_x, out[c]);
        }
    }
}

/// Each 32 bytes as even and odd ones.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn widen<'a, T: 'a>(
    room: &'a mut MaybeUninit<Wide>,
    blocks: impl Iterator<Item = &'a [T]>,
) -> &'a [[[__m256i; 2]; SIDE]] {
    let out: *mut [[__m256i; 2]; SIDE] = room.as_mut_ptr().cast();
    let mut n = 0;
    for bytes in blocks.take(BLOCKS) {
        assert!(size_of_val(bytes) == 32 * SIDE, "a block");
        for r in 0..SIDE {
            // SAFETY: 32 readable bytes; there is room for as many blocks and registers, on a boundary of registers.
            unsafe {
                let bytes = _mm256_loadu_si256(bytes.as_ptr().cast::<__m256i>().add(r));
                let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes));
                (&raw mut (*out.add(n))[r]).write([even, _mm256_srai_epi16::<8>(bytes)]);
            }
        }
        n += 1;
    }
    // SAFETY: so many have been written.
    unsafe { std::slice::from_raw_parts(out, n) }
}

/// Adds the products of some blocks.
#[target_feature(enable = "avx2,fma,f16c")]
fn add(
    w: &[WeightBlock],
    wide_w: &[[[__m256i; 2]; SIDE]],
    x: &[ColumnBlock],
    wide_x: &[[[__m256i; 2]; SIDE]],
    out: &mut Square,
) {
    for first in (0..SIDE).step_by(ROWS) {
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        for r in 0..ROWS {
            for c in 0..2 {
                sums[r][c] = load_f32(&out.0[first + r], c);
            }
        }
        for ((w, x), (wide_w, wide_x)) in w.iter().zip(x).zip(wide_w.iter().zip(wide_x)) {
            let mut products = [[_mm256_setzero_si256(); 2]; ROWS];
            for j in 0..8 {
                for parity in 0..2 {
                    for r in 0..ROWS {
                        let pair = pair(&wide_w[first + r][parity], j);
                        for c in 0..2 {
                            let x = wide_x[2 * j + c][parity];
                            products[r][c] = _mm256_add_epi32(products[r][c], _mm256_madd_epi16(pair, x));
                        }
                    }
                }
            }
            for r in 0..ROWS {
                for c in 0..2 {
                    let a = _mm256_set1_ps(w.factors[A][first + r]);
                    let total = _mm256_mul_ps(_mm256_cvtepi32_ps(products[r][c]), a);
                    sums[r][c] = _mm256_fmadd_ps(total, load_f32(&x.scale, c), sums[r][c]);
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

/// One of eight pairs, in all lanes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pair(pairs: &__m256i, j: usize) -> __m256i {
    assert!(j < 8, "a register of pairs");
    // SAFETY: it is eight numbers.
    _mm256_set1_epi32(unsafe { std::ptr::from_ref(pairs).cast::<i32>().add(j).read() })
}

/// Eight columns of sixteen.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_f32(values: &[f32; SIDE], c: usize) -> __m256 {
    let values = &values[8 * c..8 * c + 8];
    // SAFETY: 32 readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}
