//! Products of many rows of weights with many columns, as matrix kernels want their operands.
//!
//! Sixteen rows of weights, unpacked, make a *panel*, and sixteen columns another. Both are cut into blocks of 32
//! neighbours, because scales belong to these; a block's levels are bytes. Blocks that have the same place in their
//! group of 256 stand together, in a *lane*:
//!
//! ```text
//! panel of n values   lane 0: block 0 of every group | lane 1: block 1 of every group | ... | lane 7
//! WeightBlock         32 levels of row 0, of row 1, ... of row 15; factors of each row
//! ColumnBlock         4 values of column 0, of column 1, ... of column 15; the next 4; ... ; scales of each column
//! ```
//!
//! A kernel runs along a lane and keeps 16 x 16 sums in registers. Its lanes are those of [`super::Kernel::dot`], which
//! has a group in registers and so a sum per place in the group; the sums of lanes are added in the same order
//! ([`Panels::sum`]). So a product is the same to the bit either way.
//!
//! Going lane by lane, all columns of a task times one lane of its weights fit the first-level cache.

use compute::Kind;

use super::{LANES, Square, TileSums};
use crate::{
    activation::{GROUP, Group},
    memory::{Pod, prefetch_early},
};

/// Rows in a panel of weights, columns in a panel of activations.
pub(crate) const SIDE: usize = 16;
/// Panels of columns that meet one lane of a panel of weights: with it, they fit the first-level cache.
pub(crate) const COLUMN_PANELS: usize = 2;

/// 32 neighbours of 16 rows of weights.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct WeightBlock {
    /// Levels; with their offsets taken off, where there are any, so that they are signed.
    pub(crate) q: [[i8; 32]; SIDE],
    /// What the kernel's form says, of each row.
    pub(crate) factors: [[f32; SIDE]; 3],
    /// -128 times the sum of the levels of each row, or of its halves, for kernels that add 128 to activations.
    pub(crate) start: [[i32; SIDE]; 2],
}

impl WeightBlock {
    #[cfg(test)]
    pub(crate) const ZERO: WeightBlock =
        WeightBlock { q: [[0; 32]; SIDE], factors: [[0.0; SIDE]; 3], start: [[0; SIDE]; 2] };
}

/// 32 neighbours of 16 columns.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct ColumnBlock {
    /// `x[j][4 c + k]` is value `4 j + k` of column `c`; with 128 added for kernels that want it unsigned.
    pub(crate) x: [[u8; 4 * SIDE]; 8],
    pub(crate) scale: [f32; SIDE],
    /// Sums of the first and the second 16 values.
    pub(crate) sums: [[f32; SIDE]; 2],
}

/// How to make panels and to multiply them.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    /// Unpacks the first 16 rows of `w`, or all, `row_bytes` each; what is missing of 16 is left as it was. Meanwhile memory
    /// gets the next 16 ready.
    pub(crate) unpack: fn(w: &[u8], row_bytes: usize, out: &mut [WeightBlock]),
    /// Turns up to 16 packed rows into columns; what is missing of 16 is zeros.
    pub(crate) gather: fn(x: &[&[Group]], out: &mut [ColumnBlock]),
    /// Sums along a lane, `out[r][c]` for row `r` and column `c`.
    pub(crate) chain: fn(w: &[WeightBlock], x: &[ColumnBlock], out: &mut Square),
    /// The same for two panels of columns.
    pub(crate) chain2: fn(w: &[WeightBlock], x: [&[ColumnBlock]; 2], out: [&mut Square; 2]),
    /// Adds up the lanes: `out[c][r]` is the product of row `r` and column `c`.
    pub(crate) sum: fn(lanes: &[Square; LANES], out: &mut Square),
    /// What a thread does before its first product, and after its last.
    pub(crate) enter: fn(),
    pub(crate) leave: fn(),
    /// Columns from which panels are faster than [`super::Kernel::dot4`].
    pub(crate) from: usize,
}

impl ColumnBlock {
    #[cfg(test)]
    pub(crate) const ZERO: ColumnBlock =
        ColumnBlock { x: [[0; 4 * SIDE]; 8], scale: [0.0; SIDE], sums: [[0.0; SIDE]; 2] };
}

impl Pod for WeightBlock {
    fn suits(_: Kind) -> bool {
        false
    }
}

impl Pod for ColumnBlock {
    fn suits(_: Kind) -> bool {
        false
    }
}

impl Pod for TileSums {
    fn suits(_: Kind) -> bool {
        false
    }
}

impl Pod for [[Square; LANES]; COLUMN_PANELS] {
    fn suits(_: Kind) -> bool {
        false
    }
}

/// Blocks of a panel of `n` values.
pub(crate) fn n_blocks(n: usize) -> usize {
    n.div_ceil(GROUP) * LANES
}

impl Panels {
    /// Products of some panels of weights with one or two of columns, of `n` values each: `emit(i, j, y)` with `y[c][r]`
    /// the product of row `r` of panel `i` and column `c` of panel `j`. Meanwhile memory gets the bytes `next` ready.
    pub(crate) fn multiply(
        &self,
        n: usize,
        w: &[WeightBlock],
        x: &[ColumnBlock],
        sums: &mut [[[Square; LANES]; COLUMN_PANELS]],
        next: &[u8],
        mut emit: impl FnMut(usize, usize, &Square),
    ) {
        let (n_blocks, n_groups) = (n_blocks(n), n.div_ceil(GROUP));
        let mut next = next.chunks(next.len().div_ceil(LANES * sums.len()).max(1));
        for lane in 0..LANES {
            // The last group may end before this lane.
            let n_used = n.div_ceil(GROUP / LANES).saturating_sub(lane).div_ceil(LANES);
            let part = lane * n_groups..lane * n_groups + n_used;
            for (w, [first, second]) in w.chunks_exact(n_blocks).zip(&mut *sums) {
                next.next().into_iter().for_each(prefetch_early);
                let (w, out) = (&w[part.clone()], [&mut first[lane], &mut second[lane]]);
                match x.split_at(n_blocks) {
                    (x, []) => (self.chain)(w, &x[part.clone()], out[0]),
                    (x, y) => (self.chain2)(w, [&x[part.clone()], &y[part.clone()]], out),
                }
            }
        }
        let mut y = Square::ZERO;
        for (i, sums) in sums.iter().enumerate() {
            for (j, lanes) in sums.iter().take(x.len() / n_blocks).enumerate() {
                (self.sum)(lanes, &mut y);
                emit(i, j, &y);
            }
        }
    }
}
