//! Panels: sixteen columns are the lanes of four registers, and four levels of a row, a lane of a register, meet all
//! of them.

use std::arch::aarch64::*;

use super::{Factors, Weights, finish, has_halves, load_i8, sdot_lane};
use crate::dot::{
    LANES, Square, padded,
    panel::{self, A, A_2, B, B_2, ColumnBlock, Lanes, Panels, SIDE, WeightBlock, prefetch_next_panel},
};

/// Rows, and registers of columns, whose sums and products have registers.
const ROWS: usize = 4;
const COLUMNS: usize = 2;

/// Panels, given what unpacks weights.
pub(super) fn panels<const FORM: u8>(unpack: fn(&[u8], usize, &mut [WeightBlock])) -> Panels {
    Panels::Lanes(Lanes {
        unpack,
        gather: panel::gather,
        // SAFETY: `dot::kernel` refuses instruction sets that this machine lacks.
        chain: |w, x, out| unsafe { chain::<FORM>(w, x, out) },
        // SAFETY: as above.
        chain2: |w, x, out| x.into_iter().zip(out).for_each(|(x, out)| unsafe { chain::<FORM>(w, x, out) }),
        sum: panel::sum,
        enter: || (),
        leave: || (),
        from: 8,
    })
}

/// See [`Lanes::unpack`].
#[target_feature(enable = "neon,dotprod")]
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
                let mut factors = [[0.0; 4]; 4];
                for (at, factor) in [(A, w.a[0]), (B, w.b[0]), (A_2, w.a[1]), (B_2, w.b[1])] {
                    // SAFETY: 16 writable bytes.
                    unsafe { vst1q_f32(factors[at].as_mut_ptr(), factor) };
                }
                for b in 0..4 {
                    let out = &mut out[(4 * half + b) * n_groups + g];
                    let (q, _) = out.q[r].as_chunks_mut::<16>();
                    for i in 0..2 {
                        // SAFETY: 16 writable bytes.
                        unsafe { vst1q_s8(q[i].as_mut_ptr(), w.q[b][i]) };
                    }
                    (0..4).for_each(|i| out.factors[i][r] = factors[i][b]);
                }
            }
        }
    }
}

/// See [`Lanes::chain`].
#[target_feature(enable = "neon,dotprod")]
fn chain<const FORM: u8>(w: &[WeightBlock], x: &[ColumnBlock], out: &mut Square) {
    for row in (0..SIDE).step_by(ROWS) {
        for column in (0..SIDE).step_by(4 * COLUMNS) {
            let mut sums = [[vdupq_n_f32(0.0); COLUMNS]; ROWS];
            for (w, x) in w.iter().zip(x) {
                add_block::<FORM>(&mut sums, w, row, x, column);
            }
            for r in 0..ROWS {
                for c in 0..COLUMNS {
                    let out = &mut out.0[row + r][column + 4 * c..][..4];
                    // SAFETY: 16 writable bytes.
                    unsafe { vst1q_f32(out.as_mut_ptr(), sums[r][c]) };
                }
            }
        }
    }
}

/// Sums or products of some rows and columns.
type Tile<T> = [[T; COLUMNS]; ROWS];

/// Adds a block's products of the rows and columns from `row` and `column` on.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn add_block<const FORM: u8>(
    sums: &mut Tile<float32x4_t>,
    w: &WeightBlock,
    row: usize,
    x: &ColumnBlock,
    column: usize,
) {
    let zero: Tile<int32x4_t> = [[vdupq_n_s32(0); COLUMNS]; ROWS];
    let mut products = [zero; 2];
    for half in 0..2 {
        let out = &mut products[if has_halves(FORM) { half } else { 0 }];
        let mut q = [vdupq_n_s8(0); ROWS];
        for r in 0..ROWS {
            q[r] = load_i8(&w.q[row + r], 16 * half);
        }
        let x = &x.x[4 * half..4 * half + 4];
        add_four::<0>(out, &q, &x[0], column);
        add_four::<1>(out, &q, &x[1], column);
        add_four::<2>(out, &q, &x[2], column);
        add_four::<3>(out, &q, &x[3], column);
    }
    for r in 0..ROWS {
        let factors = |halves: [usize; 2]| -> Factors { halves.map(|i| vdupq_n_f32(w.factors[i][row + r])) };
        let (a, b) = (factors([A, A_2]), factors([B, B_2]));
        for c in 0..COLUMNS {
            let at = column + 4 * c;
            let products = [vcvtq_f32_s32(products[0][r][c]), vcvtq_f32_s32(products[1][r][c])];
            let sums_of_x = [load_f32(&x.sums[0], at), load_f32(&x.sums[1], at)];
            sums[r][c] = finish::<FORM>(sums[r][c], products, a, b, load_f32(&x.scale, at), sums_of_x);
        }
    }
}

/// Adds the products of four levels of each row, lane `J`, and the columns' four values.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn add_four<const J: u32>(out: &mut Tile<int32x4_t>, q: &[int8x16_t; ROWS], x: &[u8; 4 * SIDE], column: usize) {
    for c in 0..COLUMNS {
        let x = vreinterpretq_s8_u8(super::load(x, 4 * column + 16 * c));
        for r in 0..ROWS {
            out[r][c] = sdot_lane::<J>(out[r][c], x, q[r]);
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
fn load_f32(values: &[f32; SIDE], at: usize) -> float32x4_t {
    let values = &values[at..at + 4];
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_f32(values.as_ptr()) }
}
