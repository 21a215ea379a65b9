//! Products of many rows of weights with many columns, as matrix kernels want their operands.
//!
//! Sixteen rows of weights, unpacked, make a *panel*, and sixteen columns another. There are two kinds.
//!
//! [`Lanes`], where scales belong to blocks of 32: both are cut into such blocks, and blocks that have the same place
//! in their group of 256 stand together, in a *lane*:
//!
//! ```text
//! panel of n values   lane 0: block 0 of every group | lane 1: block 1 of every group | ... | lane 7
//! WeightBlock         32 levels of row 0, of row 1, ... of row 15; factors of each row
//! ColumnBlock         4 values of column 0, of column 1, ... of column 15; the next 4; ... ; scales of each column
//! ```
//!
//! A kernel runs along a lane and keeps 16 x 16 sums in registers. Its lanes are those of [`super::Kernel::dot`], which
//! has a group in registers and so a sum per place in the group; the sums of lanes are added in the same order
//! ([`Lanes::sum`]). So a product is the same to the bit either way. Going lane by lane, all columns of a task times
//! one lane of its weights fit the first-level cache.
//!
//! [`Groups`], where a whole group is a sum of integers: it is the same in any order, and groups are added one after
//! another. Some groups of some columns are multiplied with those of all the task's weights before the next.

use std::ops::Range;

use super::{LANES, Square};
use crate::{
    activation::{GROUP, Group},
    memory::{Record, Workspace, prefetch_early, records, records_mut},
};

/// Rows in a panel of weights, columns in a panel of activations.
pub(crate) const SIDE: usize = 16;
/// Panels of columns that, with a lane of a panel of weights, or some groups, fit the first-level cache.
pub(crate) const COLUMN_PANELS: usize = 2;
/// Groups that do.
const GROUPS: usize = 2;
/// Room for the unfinished products of a panel of weights: for each panel of columns, those of each lane.
pub(crate) type Sums = [Square; COLUMN_PANELS * LANES];

/// 32 neighbours of 16 rows of weights.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct WeightBlock {
    /// Levels; with their offsets taken off, where there are any, so that they are signed.
    pub(crate) q: [[i8; 32]; SIDE],
    /// Factors of each row, [`A`] and so on; those that the kernel's form leaves out are undefined.
    pub(crate) factors: [[f32; SIDE]; 4],
    /// -128 times the sum of the levels of each row, or of its halves, for kernels that add 128 to activations.
    pub(crate) start: [[i32; SIDE]; 2],
}

/// The places of the factors of `w = a * q - b` in [`WeightBlock::factors`]: of a block, or of its first half, then of
/// the second.
pub(super) const A: usize = 0;
pub(super) const B: usize = 1;
pub(super) const A_2: usize = 2;
pub(super) const B_2: usize = 3;

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

// SAFETY: integers and floats; their sizes add up to the struct's.
unsafe impl Record for WeightBlock {}
// SAFETY: as above.
unsafe impl Record for ColumnBlock {}

/// How to make panels of either kind, and to multiply them.
#[derive(Clone, Copy)]
pub(crate) enum Panels {
    Lanes(Lanes),
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "so far only x86 has them"))]
    Groups(Groups),
}

/// Panels of blocks.
#[derive(Clone, Copy)]
pub(crate) struct Lanes {
    /// Unpacks the first 16 rows of `w`, or all, `row_bytes` each; what is missing of 16 is left as it was. Meanwhile
    /// memory gets the next 16 ready.
    pub(crate) unpack: fn(w: &[u8], row_bytes: usize, out: &mut [WeightBlock]),
    /// Turns up to 16 packed rows into columns; what is missing of 16 is zeros.
    pub(crate) gather: fn(x: &[&[Group]], out: &mut [ColumnBlock]),
    /// Sums along a lane, `out[r][c]` for row `r` and column `c`.
    pub(crate) chain: fn(w: &[WeightBlock], x: &[ColumnBlock], out: &mut Square),
    /// The same for two panels of columns.
    pub(crate) chain2: fn(w: &[WeightBlock], x: [&[ColumnBlock]; 2], out: [&mut Square; 2]),
    /// Adds up the lanes; in their first, `[c][r]` is then the product of row `r` and column `c`.
    pub(crate) sum: fn(lanes: &mut [Square; LANES]),
    /// What a thread does before its first product, and after its last.
    pub(crate) enter: fn(),
    pub(crate) leave: fn(),
    /// Columns from which panels are faster than [`super::Kernel::dot4`].
    pub(crate) from: usize,
}

/// Panels of groups, in bytes: how they are laid out is the kernel's business.
#[derive(Clone, Copy)]
pub(crate) struct Groups {
    /// Bytes of a group of 16 rows, and of 16 columns.
    pub(crate) weight_bytes: usize,
    pub(crate) column_bytes: usize,
    /// As of [`Lanes`], but of as many groups as `out` has room for; so `w` may start within its first row.
    pub(crate) unpack: fn(w: &[u8], row_bytes: usize, out: &mut [u8]),
    /// As of [`Lanes`].
    pub(crate) gather: fn(x: &[&[Group]], out: &mut [u8]),
    /// Adds the products of some groups, `out[r][c]` for row `r` and column `c`.
    pub(crate) add: fn(w: &[u8], x: &[u8], out: &mut Square),
    /// The same for two panels of columns.
    pub(crate) add2: fn(w: &[u8], x: [&[u8]; 2], out: [&mut Square; 2]),
    /// Rows to columns.
    pub(crate) transpose: fn(sums: &mut Square),
    /// As of [`Lanes`].
    pub(crate) enter: fn(),
    pub(crate) leave: fn(),
    pub(crate) from: usize,
}

impl Panels {
    /// Columns from which panels are faster than [`super::Kernel::dot4`].
    pub(crate) fn from(&self) -> usize {
        match self {
            Panels::Lanes(lanes) => lanes.from,
            Panels::Groups(groups) => groups.from,
        }
    }

    /// Bytes of a panel of weights, of `n` values a row.
    pub(crate) fn weight_bytes(&self, n: usize) -> usize {
        match self {
            Panels::Lanes(_) => n_blocks(n) * size_of::<WeightBlock>(),
            Panels::Groups(groups) => n.div_ceil(GROUP) * groups.weight_bytes,
        }
    }

    /// Bytes of a panel of columns, of `n` values each.
    pub(crate) fn column_bytes(&self, n: usize) -> usize {
        match self {
            Panels::Lanes(_) => n_blocks(n) * size_of::<ColumnBlock>(),
            Panels::Groups(groups) => n.div_ceil(GROUP) * groups.column_bytes,
        }
    }

    /// Unpacks the rows `w`, `row_bytes` each, of `n` values; see [`Lanes::unpack`].
    pub(crate) fn unpack(&self, n: usize, w: &[u8], row_bytes: usize, out: &mut [u8]) {
        for (w, out) in tails(w, row_bytes).zip(out.chunks_exact_mut(self.weight_bytes(n))) {
            match self {
                Panels::Lanes(lanes) => (lanes.unpack)(w, row_bytes, records_mut(out)),
                Panels::Groups(groups) => (groups.unpack)(w, row_bytes, out),
            }
        }
    }

    /// See [`Lanes::gather`].
    pub(crate) fn gather(&self, x: &[&[Group]], out: &mut [u8]) {
        match self {
            Panels::Lanes(lanes) => (lanes.gather)(x, records_mut(out)),
            Panels::Groups(groups) => (groups.gather)(x, out),
        }
    }

    /// [`Self::unpack`] and [`Self::multiply`], for weights that meet no more columns. Where groups are independent,
    /// some at a time are unpacked and multiplied, and never leave the first-level cache; `room` is where.
    #[allow(clippy::too_many_arguments, reason = "two operands, a result, and two things on the side")]
    pub(crate) fn unpack_and_multiply(
        &self,
        n: usize,
        w: &[u8],
        row_bytes: usize,
        x: &[u8],
        room: &mut Workspace,
        sums: &mut [Sums],
        next: &[u8],
        emit: impl FnMut(usize, usize, usize, &[f32; SIDE]),
    ) {
        match self {
            Panels::Lanes(lanes) => {
                let unpacked = room.get(sums.len() * self.weight_bytes(n));
                self.unpack(n, w, row_bytes, unpacked);
                lanes.multiply(n, records(unpacked), records(x), sums, next);
            }
            Panels::Groups(groups) => groups.unpack_and_multiply(n, w, row_bytes, x, room, sums, next),
        }
        self.finish(sums, x.len() / self.column_bytes(n), emit);
    }

    /// Products of some panels of weights with up to [`COLUMN_PANELS`] of columns, of `n` values each, by columns:
    /// `emit(i, j, c, y)` with `y[r]` the product of row `r` of panel `i` and column `c` of panel `j`. `sums` has an
    /// element per panel of weights. Meanwhile memory gets the bytes `next` ready.
    pub(crate) fn multiply(
        &self,
        n: usize,
        w: &[u8],
        x: &[u8],
        sums: &mut [Sums],
        next: &[u8],
        emit: impl FnMut(usize, usize, usize, &[f32; SIDE]),
    ) {
        match self {
            Panels::Lanes(lanes) => lanes.multiply(n, records(w), records(x), sums, next),
            Panels::Groups(groups) => groups.multiply(n, w, x, sums, next),
        }
        self.finish(sums, x.len() / self.column_bytes(n), emit);
    }

    /// Adds up what `n` panels of columns made, and hands it out.
    fn finish(&self, sums: &mut [Sums], n: usize, mut emit: impl FnMut(usize, usize, usize, &[f32; SIDE])) {
        let n_panels = sums.len();
        let sums = sums.as_flattened_mut();
        for j in 0..n {
            for i in 0..n_panels {
                let at = self.place(i, j);
                match self {
                    Panels::Lanes(lanes) => (lanes.sum)(sums[at..].first_chunk_mut().expect("all lanes")),
                    Panels::Groups(groups) => (groups.transpose)(&mut sums[at]),
                }
            }
            for c in 0..SIDE {
                (0..n_panels).for_each(|i| emit(i, j, c, &sums[self.place(i, j)].0[c]));
            }
        }
    }

    /// Where the products of panels `i` and `j` are.
    fn place(&self, i: usize, j: usize) -> usize {
        let place = i * COLUMN_PANELS + j;
        match self {
            Panels::Lanes(_) => place * LANES,
            Panels::Groups(_) => place,
        }
    }
}

/// Blocks of a panel of `n` values.
fn n_blocks(n: usize) -> usize {
    n.div_ceil(GROUP) * LANES
}

impl Lanes {
    fn multiply(&self, n: usize, w: &[WeightBlock], x: &[ColumnBlock], sums: &mut [Sums], next: &[u8]) {
        (self.enter)();
        let (n_blocks, n_groups) = (n_blocks(n), n.div_ceil(GROUP));
        let mut next = parts(next, LANES * sums.len());
        for lane in 0..LANES {
            // The last group may end before this lane.
            let n_used = n.div_ceil(GROUP / LANES).saturating_sub(lane).div_ceil(LANES);
            let part = lane * n_groups..lane * n_groups + n_used;
            for (w, sums) in w.chunks_exact(n_blocks).zip(&mut *sums) {
                next.next().into_iter().for_each(prefetch_early);
                let (first, second) = sums.split_at_mut(LANES);
                let (w, out) = (&w[part.clone()], [&mut first[lane], &mut second[lane]]);
                match x.split_at(n_blocks) {
                    (x, []) => (self.chain)(w, &x[part.clone()], out[0]),
                    (x, y) => (self.chain2)(w, [&x[part.clone()], &y[part.clone()]], out),
                }
            }
        }
        (self.leave)();
    }
}

impl Groups {
    fn multiply(&self, n: usize, w: &[u8], x: &[u8], sums: &mut [Sums], next: &[u8]) {
        (self.enter)();
        let n_groups = n.div_ceil(GROUP);
        let mut next = parts(next, n_groups.div_ceil(GROUPS) * sums.len());
        let sums = squares(sums);
        for first in (0..n_groups).step_by(GROUPS) {
            let part = first..(first + GROUPS).min(n_groups);
            for (w, sums) in w.chunks_exact(n_groups * self.weight_bytes).zip(sums.chunks_exact_mut(COLUMN_PANELS)) {
                next.next().into_iter().for_each(prefetch_early);
                self.add(n_groups, part.clone(), &w[bytes(&part, self.weight_bytes)], x, sums);
            }
        }
        (self.leave)();
    }

    /// See [`Panels::unpack_and_multiply`].
    #[allow(clippy::too_many_arguments, reason = "as of the method of panels")]
    fn unpack_and_multiply(
        &self,
        n: usize,
        w: &[u8],
        row_bytes: usize,
        x: &[u8],
        room: &mut Workspace,
        sums: &mut [Sums],
        next: &[u8],
    ) {
        (self.enter)();
        let n_groups = n.div_ceil(GROUP);
        let mut next = parts(next, n_groups.div_ceil(GROUPS) * sums.len());
        let unpacked = room.get::<u8>(GROUPS * self.weight_bytes);
        let sums = squares(sums);
        for (w, sums) in tails(w, row_bytes).zip(sums.chunks_exact_mut(COLUMN_PANELS)) {
            for first in (0..n_groups).step_by(GROUPS) {
                next.next().into_iter().for_each(prefetch_early);
                let part = first..(first + GROUPS).min(n_groups);
                let unpacked = &mut unpacked[..part.len() * self.weight_bytes];
                (self.unpack)(&w[first * (row_bytes / n_groups)..], row_bytes, unpacked);
                self.add(n_groups, part, unpacked, x, sums);
            }
        }
        (self.leave)();
    }

    /// Adds the products of the groups `part`, `w`, to the sums of each panel of columns.
    fn add(&self, n_groups: usize, part: Range<usize>, w: &[u8], x: &[u8], sums: &mut [Square]) {
        let part = bytes(&part, self.column_bytes);
        let (first, second) = sums.split_at_mut(1);
        match x.split_at(n_groups * self.column_bytes) {
            (x, []) => (self.add)(w, &x[part], &mut first[0]),
            (x, y) => (self.add2)(w, [&x[part.clone()], &y[part]], [&mut first[0], &mut second[0]]),
        }
    }
}

/// The sums of groups, of each panel of weights and each of columns: zeros.
fn squares(sums: &mut [Sums]) -> &mut [Square] {
    let n_panels = sums.len();
    let sums = &mut sums.as_flattened_mut()[..n_panels * COLUMN_PANELS];
    sums.fill(Square::ZERO);
    sums
}

/// Asks for the `BYTES` bytes that stand, in the next panel of these rows, where byte `at` is in this one.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
pub(super) fn prefetch_next_panel<const BYTES: usize>(w: &[u8], row_bytes: usize, at: usize) {
    if let Some(later) = w.get(SIDE * row_bytes + at..) {
        prefetch_early(&later[..BYTES.min(later.len())]);
    }
}

/// Rows from every sixteenth on, to the last.
fn tails(w: &[u8], row_bytes: usize) -> impl Iterator<Item = &[u8]> {
    (0..w.len()).step_by((SIDE * row_bytes).max(1)).map(|start| &w[start..])
}

/// Where some of what is `each` bytes long are.
fn bytes(range: &Range<usize>, each: usize) -> Range<usize> {
    range.start * each..range.end * each
}

/// `bytes` in at most `n` parts.
pub(crate) fn parts(bytes: &[u8], n: usize) -> std::slice::Chunks<'_, u8> {
    bytes.chunks(bytes.len().div_ceil(n.max(1)).max(1))
}

/// [`Lanes::gather`] in plain code, of values as they are.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn gather(x: &[&[Group]], out: &mut [ColumnBlock]) {
    let n_groups = out.len() / LANES;
    for (i, out) in out.iter_mut().enumerate() {
        let (lane, g) = (i / n_groups, i % n_groups);
        for c in 0..SIDE {
            let group = x.get(c).map_or(&Group::ZERO, |x| &x[g]);
            for (j, four) in out.x.iter_mut().enumerate() {
                let at = 8 * lane + 4 * (j % 2);
                let values = group.q[j / 2][at..at + 4].iter().map(|&q| q as u8);
                four[4 * c..4 * c + 4].iter_mut().zip(values).for_each(|(out, q)| *out = q);
            }
            out.scale[c] = group.scale[2 * lane];
            (0..2).for_each(|half| out.sums[half][c] = group.sums[2 * lane + half]);
        }
    }
}

/// [`Lanes::sum`] in plain code.
pub(super) fn sum(lanes: &mut [Square; LANES]) {
    let mut y = Square::ZERO;
    for r in 0..SIDE {
        for c in 0..SIDE {
            let two = |i: usize| lanes[i].0[r][c] + lanes[i + 4].0[r][c];
            y.0[c][r] = (two(0) + two(2)) + (two(1) + two(3));
        }
    }
    lanes[0] = y;
}
