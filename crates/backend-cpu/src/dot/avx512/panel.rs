//! Panels with vectors: sixteen columns are the lanes of a register, and each four levels of a row meet all of them.
//!
//! Per block of 32, a row and sixteen columns, that is eight products of bytes and three operations of floats for the
//! scales, so at best 8/11 of what the machine can multiply.

use std::arch::x86_64::*;

use super::{BY_16, MINS, MINS_16, SIGNED, Weights, load_64, load_f32, load_i8, pairs};
use crate::{
    activation::Group,
    dot::{
        LANES, Square, padded,
        panel::{A, A_2, B, B_2, ColumnBlock, Lanes, Panels, SIDE, WeightBlock, prefetch_next_panel},
    },
};

/// Panels whose products are made here, given what unpacks weights.
pub(super) fn panels<const FORM: u8>(unpack: fn(&[u8], usize, &mut [WeightBlock])) -> Panels {
    Panels::Lanes(Lanes {
        unpack,
        // SAFETY: `dot::kernel` refuses instruction sets that this machine lacks.
        gather: |x, out| unsafe { gather::<128>(x, out) },
        // SAFETY: as above.
        chain: |w, x, out| unsafe { chain::<FORM, 8, 1>(w, [x], [out]) },
        // SAFETY: as above.
        chain2: |w, x, out| unsafe { chain::<FORM, 4, 2>(w, x, out) },
        // SAFETY: as above.
        sum: |lanes| unsafe { sum(lanes) },
        enter: || (),
        leave: || (),
        from: 8,
    })
}

/// See [`Lanes::unpack`]; `START` says whether [`WeightBlock::start`] is wanted.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn unpack<const BYTES: usize, const FORM: u8, const START: bool>(
    w: &[u8],
    row_bytes: usize,
    out: &mut [WeightBlock],
    decode: impl Fn(&[u8; BYTES]) -> Weights,
) {
    let n_groups = out.len() / LANES;
    let n_rows = (w.len() / row_bytes).min(SIDE);
    assert!(out.len() == LANES * n_groups && n_groups == row_bytes.div_ceil(BYTES), "rows of a panel");
    let zero = _mm512_setzero_ps();
    let [mut a, mut b, mut start] = [[zero; SIDE]; 3];
    for g in 0..n_groups {
        for r in 0..n_rows {
            let row = &w[r * row_bytes..][..row_bytes];
            let mut room = None;
            let bytes = padded(row, g * BYTES, &mut room);
            prefetch_next_panel::<BYTES>(w, row_bytes, r * row_bytes + g * BYTES);
            let w = decode(bytes);
            (a[r], b[r]) = (w.a, w.b);
            let q = match FORM {
                SIGNED | BY_16 => w.q.map(|q| _mm512_xor_si512(q, _mm512_set1_epi8(-128))),
                _ => w.q,
            };
            if START {
                start[r] = _mm512_castsi512_ps(starts::<FORM>(&q));
            }
            for (lane, block) in blocks(q).into_iter().enumerate() {
                // SAFETY: there are as many lanes of groups, and 32 writable bytes; `storeu` has no alignment
                // requirement.
                unsafe {
                    let out = &mut out.get_unchecked_mut(lane * n_groups + g).q[r];
                    _mm256_storeu_si256(out.as_mut_ptr().cast(), block);
                }
            }
        }
        let (a, b) = (transpose(a), transpose(b));
        let start = if START { transpose(start) } else { start };
        for lane in 0..LANES {
            let out = &mut out[lane * n_groups + g];
            let (first, second) = (2 * lane, 2 * lane + 1);
            store(&mut out.factors[A], a[first]);
            match FORM {
                BY_16 => store(&mut out.factors[A_2], a[second]),
                MINS => store(&mut out.factors[B], b[first]),
                MINS_16 => {
                    store(&mut out.factors[B], b[first]);
                    store(&mut out.factors[B_2], b[second]);
                }
                _ => {}
            }
            if START {
                store_i32(&mut out.start[0], start[first]);
                store_i32(&mut out.start[1], start[second]);
            }
        }
    }
}

/// Pieces of eight blocks to the blocks.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn blocks(q: [__m512i; 4]) -> [__m256i; 8] {
    let (low, high) = (_mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15));
    let even = [_mm512_unpacklo_epi64(q[0], q[1]), _mm512_unpacklo_epi64(q[2], q[3])];
    let odd = [_mm512_unpackhi_epi64(q[0], q[1]), _mm512_unpackhi_epi64(q[2], q[3])];
    let [b02, b46] = [low, high].map(|index| _mm512_permutex2var_epi64(even[0], index, even[1]));
    let [b13, b57] = [low, high].map(|index| _mm512_permutex2var_epi64(odd[0], index, odd[1]));
    let first = |two| _mm512_castsi512_si256(two);
    let second = |two| _mm512_extracti64x4_epi64::<1>(two);
    [first(b02), first(b13), second(b02), second(b13), first(b46), first(b57), second(b46), second(b57)]
}

/// -128 times the sum of a block's levels, in both lanes, or of its halves.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn starts<const FORM: u8>(q: &[__m512i; 4]) -> __m512i {
    let mut sums = [_mm512_setzero_si512(); 2];
    for p in 0..4 {
        sums[p / 2] = _mm512_dpbusd_epi32(sums[p / 2], _mm512_set1_epi8(-128), q[p]);
    }
    let sums = match FORM {
        BY_16 => _mm512_mask_mov_epi32(pairs(sums[0]), 0xaaaa, pairs(sums[1])),
        _ => pairs(_mm512_add_epi32(sums[0], sums[1])),
    };
    _mm512_sub_epi32(_mm512_setzero_si512(), sums)
}

/// See [`Lanes::gather`]; `OFFSET` is added to the values.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
pub(super) fn gather<const OFFSET: u8>(x: &[&[Group]], out: &mut [ColumnBlock]) {
    let n_groups = out.len() / LANES;
    let offset = _mm512_set1_epi8(OFFSET as i8);
    for g in 0..n_groups {
        let columns = |part: &dyn Fn(&Group) -> __m512| {
            let mut columns = [part(&Group::ZERO); SIDE];
            x.iter().zip(&mut columns).for_each(|(x, column)| *column = part(&x[g]));
            transpose(columns)
        };
        for p in 0..4 {
            let values = columns(&|x| _mm512_castsi512_ps(_mm512_xor_si512(load_i8(&x.q[p]), offset)));
            for (i, four) in values.into_iter().enumerate() {
                let out = &mut out[i / 2 * n_groups + g].x[2 * p + i % 2];
                // SAFETY: 64 writable bytes; `storeu` has no alignment requirement.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr().cast(), four) };
            }
        }
        let scales = columns(&|x| load_f32(&x.scale));
        let sums = columns(&|x| load_f32(&x.sums));
        for lane in 0..LANES {
            let out = &mut out[lane * n_groups + g];
            store(&mut out.scale, scales[2 * lane]);
            store(&mut out.sums[0], sums[2 * lane]);
            store(&mut out.sums[1], sums[2 * lane + 1]);
        }
    }
}

/// See [`Lanes::chain`] and [`Lanes::chain2`]: `R` rows and `C` panels of columns at a time, whose sums and products
/// have registers.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
fn chain<const FORM: u8, const R: usize, const C: usize>(
    w: &[WeightBlock],
    x: [&[ColumnBlock]; C],
    out: [&mut Square; C],
) {
    let x = x.map(|x| &x[..w.len()]);
    for first in (0..SIDE).step_by(R) {
        let mut sums = [[_mm512_setzero_ps(); C]; R];
        for (g, w) in w.iter().enumerate() {
            // SAFETY: as many as of weights.
            let x = x.map(|x| unsafe { x.get_unchecked(g) });
            let mut products = [[[_mm512_setzero_si512(); 2]; C]; R];
            for r in 0..R {
                for c in 0..C {
                    products[r][c][0] = _mm512_set1_epi32(w.start[0][first + r]);
                    if FORM == BY_16 {
                        products[r][c][1] = _mm512_set1_epi32(w.start[1][first + r]);
                    }
                }
            }
            for j in 0..8 {
                let x = x.map(|x| load_64(&x.x[j], 0));
                let half = if FORM == BY_16 { j / 4 } else { 0 };
                for r in 0..R {
                    let four = w.q[first + r].as_chunks::<4>().0[j].map(|q| q as u8);
                    let four = _mm512_set1_epi32(i32::from_ne_bytes(four));
                    for c in 0..C {
                        products[r][c][half] = _mm512_dpbusd_epi32(products[r][c][half], x[c], four);
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    sums[r][c] = finish::<FORM>(sums[r][c], products[r][c], w, first + r, x[c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                store(&mut out[c].0[first + r], sums[r][c]);
            }
        }
    }
}

/// `sum + scale * (a * (q . x) - b * (1 . x))` for a row and sixteen columns, rounded as in [`super::add_group`].
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn finish<const FORM: u8>(
    sum: __m512,
    products: [__m512i; 2],
    w: &WeightBlock,
    row: usize,
    x: &ColumnBlock,
) -> __m512 {
    let factor = |i: usize| _mm512_set1_ps(w.factors[i][row]);
    let [first, second] = products.map(|products| _mm512_cvtepi32_ps(products));
    let sums = [load_f32(&x.sums[0]), load_f32(&x.sums[1])];
    let total = match FORM {
        SIGNED => _mm512_mul_ps(first, factor(A)),
        BY_16 => _mm512_fmadd_ps(first, factor(A), _mm512_mul_ps(second, factor(A_2))),
        MINS => _mm512_fnmadd_ps(_mm512_add_ps(sums[0], sums[1]), factor(B), _mm512_mul_ps(first, factor(A))),
        _ => {
            let halves = _mm512_add_ps(_mm512_mul_ps(sums[0], factor(B)), _mm512_mul_ps(sums[1], factor(B_2)));
            _mm512_fmsub_ps(first, factor(A), halves)
        }
    };
    _mm512_fmadd_ps(total, load_f32(&x.scale), sum)
}

/// See [`Lanes::sum`]; the order is that of [`super::reduce`].
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
pub(super) fn sum(lanes: &mut [Square; LANES]) {
    let mut rows = [_mm512_setzero_ps(); SIDE];
    for (r, row) in rows.iter_mut().enumerate() {
        let lane = |i: usize| load_f32(&lanes[i].0[r]);
        let two = |i: usize| _mm512_add_ps(lane(i), lane(i + 4));
        let four = |i: usize| _mm512_add_ps(two(i), two(i + 2));
        *row = _mm512_add_ps(four(0), four(1));
    }
    transpose(rows).into_iter().zip(&mut lanes[0].0).for_each(|(column, out)| store(out, column));
}

/// A square of 32-bit numbers, its rows to columns.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn transpose(rows: [__m512; SIDE]) -> [__m512; SIDE] {
    let mut x = rows;
    // Squares of 2 x 2, then of 4 x 4 within lanes of four numbers: x[4 i + j] has column j of rows 4 i .. in lane j.
    for i in (0..SIDE).step_by(4) {
        let [a, b, c, d] = [x[i], x[i + 1], x[i + 2], x[i + 3]];
        let (ab, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let (cd, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        let pair = |a, b| (_mm512_castps_pd(a), _mm512_castps_pd(b));
        let (low, high) = (pair(ab, cd), pair(ab_high, cd_high));
        x[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low.0, low.1));
        x[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low.0, low.1));
        x[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high.0, high.1));
        x[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high.0, high.1));
    }
    // Then a square of 4 x 4 such lanes for each j.
    let mut y = x;
    for j in 0..4 {
        let [a, b, c, d] = [x[j], x[4 + j], x[8 + j], x[12 + j]];
        let (ab, cd) = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d));
        let (ab_high, cd_high) = (_mm512_shuffle_f32x4::<0xee>(a, b), _mm512_shuffle_f32x4::<0xee>(c, d));
        y[j] = _mm512_shuffle_f32x4::<0x88>(ab, cd);
        y[4 + j] = _mm512_shuffle_f32x4::<0xdd>(ab, cd);
        y[8 + j] = _mm512_shuffle_f32x4::<0x88>(ab_high, cd_high);
        y[12 + j] = _mm512_shuffle_f32x4::<0xdd>(ab_high, cd_high);
    }
    y
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn store(out: &mut [f32; SIDE], values: __m512) {
    // SAFETY: 64 writable bytes; `storeu` has no alignment requirement.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) };
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn store_i32(out: &mut [i32; SIDE], values: __m512) {
    // SAFETY: as above.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr().cast(), values) };
}
