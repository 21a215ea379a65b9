//! Products with weights.
//!
//! The batch's rows are packed once for the weights' dot product. A thread then takes some rows of the weights and
//! multiplies them with all packed rows:
//!
//! ```text
//! 1 or 2 columns          one dot product after another
//! from 3                  four columns at a time: weights are unpacked once for four, some rows before the next four
//! from `TILE_FROM`        floats: 4 x 4 products at a time, of rows unpacked into the second-level cache
//! from `Panels::from`     where the kernel has panels: 16 rows and 16 columns at a time, weights unpacked once for all
//! ```
//!
//! Each output element is the same to the bit in all of them.

use std::{cell::RefCell, ops::Range};

use compute::{Tensor, shapes};

use crate::{
    Cpu,
    dot::{
        Kernel, Tile, TileSums,
        panel::{COLUMN_PANELS, Panels, SIDE, Sums, parts},
    },
    memory::{MOST_OUTPUTS, Workspace},
    moe::Choices,
    pool::Shares,
    rows::{Columns, Packed, RowSpace, Rows},
};

/// Bytes of packed rows that a task's weights meet before the next packed rows: part of the second-level cache.
const BLOCK_BYTES: usize = 256 << 10;
/// Bytes of weights that meet four packed rows before the next four: the first-level cache holds both.
const NEAR_BYTES: usize = 8 << 10;
/// Bytes of weights in a task without panels.
const TILE_BYTES: usize = 64 << 10;
/// Columns from which tiles are worth unpacking weights to memory.
const TILE_FROM: usize = 8;
/// Columns whose parts of so many bytes the first-level cache holds, and four rows of weights.
const TILE_COLUMNS: usize = 16;
const TILE_PART: usize = 2 << 10;
/// Bytes of unpacked weights: part of the second-level cache.
const UNPACKED_BYTES: usize = 512 << 10;
/// The same of floats: rather all rows of a narrow matrix at once, as columns are longer than these.
const TILE_UNPACKED_BYTES: usize = 1536 << 10;
/// Columns in a task with tiles.
const TILE_TASK: usize = 64;
/// Tasks per thread, if there are enough rows: so that threads end together.
const TASKS: usize = 8;

thread_local! {
    /// Where a thread unpacks weights, and adds up what they make.
    static OWN: RefCell<[Workspace; 2]> = RefCell::default();
}

/// What operations need between inputs and outputs, kept from call to call.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) rows: RowSpace,
    pub(crate) columns: Workspace,
    /// Experts': the columns of `up` where they are not those of `gate`; what `down` is multiplied with; who chose whom.
    pub(crate) up_columns: Workspace,
    pub(crate) hidden: Workspace,
    pub(crate) choices: Choices,
}

/// Rows of weights and how to multiply them.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) bytes: &'a [u8],
    row_bytes: usize,
    n_in: usize,
}

impl<'a> Weights<'a> {
    pub(crate) fn new(cpu: &'a Cpu, w: &Tensor, bytes: &'a [u8]) -> Weights<'a> {
        Weights { kernel: cpu.kernel_of(w), bytes, row_bytes: w.row_bytes(), n_in: w.cols() }
    }

    /// Weights in a row.
    pub(crate) fn n_in(&self) -> usize {
        self.n_in
    }

    /// Rows per task without panels: some microseconds of work.
    pub(crate) fn grain(&self) -> usize {
        (TILE_BYTES / self.row_bytes).clamp(4, 64).next_multiple_of(4)
    }

    /// Rows per task with panels, of `n_rows` that some threads share.
    pub(crate) fn panel_grain(&self, panels: &Panels, n_rows: usize, n_threads: usize) -> usize {
        let n_fair = n_rows / (SIDE * TASKS * n_threads) * SIDE;
        self.n_unpacked(panels).min(n_fair.max(SIDE))
    }

    /// Rows that are unpacked at a time for panels.
    fn n_unpacked(&self, panels: &Panels) -> usize {
        (UNPACKED_BYTES / panels.weight_bytes(self.n_in)).max(1) * SIDE
    }

    /// Rows per task with tiles, of `n_rows` that some threads share, each for [`TILE_TASK`] of `n` columns.
    fn tile_grain(&self, tile: Tile, n_rows: usize, n: usize, n_threads: usize) -> usize {
        let n_fit = TILE_UNPACKED_BYTES / tile.row_bytes(self.n_in);
        let n_fair = n_rows * n.div_ceil(TILE_TASK) / (TASKS * n_threads);
        n_fit.min(n_fair).max(4).next_multiple_of(4)
    }

    /// How to multiply with `n` columns, if that is better done with panels.
    pub(crate) fn panels(&self, n: usize) -> Option<&'a Panels> {
        self.kernel.panels.as_ref().filter(|panels| n >= panels.from())
    }

    /// `emit(o, t, y)` with `y[i] = w[o + i] . x(t)`, for the rows `rows` of the weights and `n` packed rows.
    pub(crate) fn multiply<'x>(
        &self,
        rows: Range<usize>,
        n: usize,
        x: impl Fn(usize) -> &'x [u8],
        emit: &mut dyn FnMut(usize, usize, &[f32]),
    ) {
        if let (Some(tile), TILE_FROM..) = (self.kernel.tile, n) {
            return self.multiply_tiles(tile, rows, n, x, emit);
        }
        if n == 1 {
            return self.multiply_one(rows, x(0), emit);
        }
        let size = (BLOCK_BYTES / self.kernel.activation.row_bytes(self.n_in) / 4 * 4).max(4);
        let n_near = (NEAR_BYTES / self.row_bytes).max(1);
        for block in (0..n).step_by(size) {
            let end = (block + size).min(n);
            for first in rows.clone().step_by(n_near) {
                for t in (block..end).step_by(4) {
                    for o in first..(first + n_near).min(rows.end) {
                        self.multiply_four(o, t..(t + 4).min(end), &x, emit);
                    }
                }
            }
        }
    }

    /// One row and up to four columns.
    fn multiply_four<'x>(
        &self,
        o: usize,
        columns: Range<usize>,
        x: impl Fn(usize) -> &'x [u8],
        emit: &mut dyn FnMut(usize, usize, &[f32]),
    ) {
        let w = self.row(o);
        if columns.len() < 3 {
            return columns.for_each(|t| emit(o, t, &[(self.kernel.dot)(w, x(t))]));
        }
        // A fourth that is missing is the third again: that costs less than to unpack the weights three times.
        let y = (self.kernel.dot4)(w, [0, 1, 2, 3].map(|i| x((columns.start + i).min(columns.end - 1))));
        columns.zip(y).for_each(|(t, y)| emit(o, t, &[y]));
    }

    /// Some rows at a time: calls would cost as much as short rows.
    fn multiply_one(&self, rows: Range<usize>, x: &[u8], emit: &mut dyn FnMut(usize, usize, &[f32])) {
        let mut y = [0.0; 64];
        for first in rows.clone().step_by(y.len()) {
            let part = first..(first + y.len()).min(rows.end);
            let y = &mut y[..part.len()];
            (self.kernel.rows)(self.rows(part), self.row_bytes, x, y);
            emit(first, 0, y);
        }
    }

    fn multiply_tiles<'x>(
        &self,
        tile: Tile,
        rows: Range<usize>,
        n: usize,
        x: impl Fn(usize) -> &'x [u8],
        emit: &mut dyn FnMut(usize, usize, &[f32]),
    ) {
        let row_bytes = tile.row_bytes(self.n_in);
        let n_unpacked = (TILE_UNPACKED_BYTES / row_bytes / 4 * 4).clamp(4, rows.len().next_multiple_of(4));
        OWN.with_borrow_mut(|[workspace, sums]| {
            let unpacked = workspace.get::<u8>(n_unpacked * row_bytes);
            for first in rows.clone().step_by(n_unpacked) {
                let n_rows = n_unpacked.min(rows.end - first);
                for (i, out) in unpacked.chunks_exact_mut(row_bytes).take(n_rows).enumerate() {
                    (tile.unpack)(self.row(first + i), out);
                }
                // What is missing from the last four is computed of the last one again, and left out.
                let row = |i: usize| &unpacked[i.min(n_rows - 1) * row_bytes..][..row_bytes];
                for t in (0..n).step_by(TILE_COLUMNS) {
                    let columns: [&[u8]; TILE_COLUMNS] = std::array::from_fn(|c| x((t + c).min(n - 1)));
                    let sums = sums.get::<TileSums>(n_rows.div_ceil(4) * TILE_COLUMNS / 4);
                    sums.fill([[[0.0; 16]; 4]; 4]);
                    for start in (0..row_bytes).step_by(TILE_PART) {
                        let part = start..(start + TILE_PART).min(row_bytes);
                        let columns = columns.map(|column| &column[part.clone()]);
                        for (i, sums) in sums.chunks_exact_mut(TILE_COLUMNS / 4).enumerate() {
                            let rows = [0, 1, 2, 3].map(|r| &row(4 * i + r)[part.clone()]);
                            let fours = columns.as_chunks().0.iter().zip(sums);
                            fours.for_each(|(columns, sums)| (tile.add)(rows, *columns, sums));
                        }
                    }
                    for i in 0..n_rows {
                        for c in 0..TILE_COLUMNS.min(n - t) {
                            let sums = &sums[i / 4 * (TILE_COLUMNS / 4) + c / 4];
                            emit(first + i, t + c, &[(tile.sum)(&sums[i % 4][c % 4])]);
                        }
                    }
                }
            }
        });
    }

    /// The packed bytes of some rows; none of rows that there are not.
    pub(crate) fn rows(&self, rows: Range<usize>) -> &'a [u8] {
        self.bytes.get(rows.start * self.row_bytes..rows.end * self.row_bytes).unwrap_or_default()
    }

    /// `emit(o, t, y)` with `y[i] = w[o + i] . x[t]`, for the rows `rows` of the weights and `n` columns in panels.
    /// `next` are weights that this thread is expected to need next.
    pub(crate) fn multiply_panels(
        &self,
        panels: &Panels,
        rows: Range<usize>,
        n: usize,
        columns: &[u8],
        next: &[u8],
        emit: &mut dyn FnMut(usize, usize, &[f32]),
    ) {
        let size = self.n_unpacked(panels);
        for first in rows.clone().step_by(size) {
            let end = (first + size).min(rows.end);
            let next = if end == rows.end { next } else { self.rows(end..(end + SIDE).min(rows.end)) };
            self.unpack_and_multiply(panels, first..end, n, columns, next, emit);
        }
    }

    /// The same for no more rows than are unpacked at a time.
    fn unpack_and_multiply(
        &self,
        panels: &Panels,
        rows: Range<usize>,
        n: usize,
        columns: &[u8],
        next: &[u8],
        emit: &mut dyn FnMut(usize, usize, &[f32]),
    ) {
        let (w, n_in, row_bytes) = (self.rows(rows.clone()), self.n_in, self.row_bytes);
        let n_panels = rows.len().div_ceil(SIDE);
        let next = &next[..next.len().min(SIDE * row_bytes)];
        let pairs = columns.chunks(COLUMN_PANELS * panels.column_bytes(n_in));
        let mut emit_panel = |pair: usize, i: usize, k: usize, c: usize, y: &[f32; SIDE]| {
            let (o, t) = (rows.start + i * SIDE, (pair * COLUMN_PANELS + k) * SIDE + c);
            if t < n {
                emit(o, t, &y[..SIDE.min(rows.end - o)]);
            }
        };
        OWN.with_borrow_mut(|[room, sums]| {
            let sums = sums.get::<Sums>(n_panels);
            if pairs.len() == 1 {
                let emit = |i, k, c, y: &_| emit_panel(0, i, k, c, y);
                return panels.unpack_and_multiply(n_in, w, row_bytes, columns, room, sums, next, emit);
            }
            let unpacked = room.get::<u8>(n_panels * panels.weight_bytes(n_in));
            panels.unpack(n_in, w, row_bytes, unpacked);
            let mut next = parts(next, pairs.len());
            for (j, columns) in pairs.enumerate() {
                let next = next.next().unwrap_or_default();
                panels.multiply(n_in, unpacked, columns, sums, next, |i, k, c, y| emit_panel(j, i, k, c, y));
            }
        });
    }

    fn row(&self, o: usize) -> &'a [u8] {
        &self.bytes[o * self.row_bytes..][..self.row_bytes]
    }
}

/// Copies what is mostly 16 products, in registers then.
pub(crate) fn copy(out: &mut [f32], v: &[f32]) {
    match (<&mut [f32; SIDE]>::try_from(&mut *out), <&[f32; SIDE]>::try_from(v)) {
        (Ok(out), Ok(v)) => *out = *v,
        _ => out.copy_from_slice(v),
    }
}

/// See [`compute::Device::matmuls`]; with groups, [`compute::Device::matmul_grouped`]. Neighbours of one format share the
/// packed rows.
pub(crate) fn matmuls(cpu: &Cpu, products: &[(&Tensor, &Tensor)], x: &Tensor, n_group: usize) {
    let alike = products.chunk_by(|a, b| a.1.kind() == b.1.kind());
    alike.flat_map(|p| p.chunks(MOST_OUTPUTS)).for_each(|p| multiply_all(cpu, p, x, n_group));
}

/// Products with weights of one format.
fn multiply_all(cpu: &Cpu, products: &[(&Tensor, &Tensor)], x: &Tensor, n_group: usize) {
    products.iter().for_each(|(y, w)| shapes::matmul_grouped(y, w, x, n_group));
    let (outs, mut ins): (Vec<&Tensor>, Vec<&Tensor>) = products.iter().copied().unzip();
    ins.push(x);
    let access = cpu.access(&outs, &ins);
    let mut scratch = cpu.scratch.lock().unwrap_or_else(|e| e.into_inner());
    let scratch = &mut *scratch;
    let (n, n_in, first) = (x.rows(), ins[0].cols(), Weights::new(cpu, ins[0], access.input(0)));
    let rows = Rows::new(cpu, &ins[..1], access.input(products.len()), &mut scratch.rows);
    let packed = rows.of(first.kernel);
    let columns = first.panels(n).map(|panels| {
        let n_panels = n.div_ceil(SIDE);
        let row = |i: usize, c: usize| {
            let t = i % n_panels * SIDE + c;
            (t < n).then_some(t * n_group + i / n_panels)
        };
        let n_all = n_group * n_panels;
        (panels, Columns::new(&cpu.pool, panels, packed, n_in, n_all, row, &mut scratch.columns))
    });
    for (i, (_, w)) in products.iter().enumerate() {
        let weights = Weights::new(cpu, w, access.input(i));
        let y = Shares::new(access.out::<f32>(i));
        multiply(cpu, y, weights, w.rows(), n, n_group, packed, columns.as_ref().map(|(panels, c)| (*panels, c)));
    }
}

/// One product, of packed rows or of columns in panels.
#[allow(clippy::too_many_arguments, reason = "sizes, and two forms of the same rows")]
fn multiply(
    cpu: &Cpu,
    y: Shares<f32>,
    weights: Weights,
    n_out: usize,
    n: usize,
    n_group: usize,
    packed: &Packed,
    columns: Option<(&Panels, &Columns)>,
) {
    let per_group = n_out / n_group;
    // Rows of weights in a task, and columns.
    let (grain, n_columns) = match (columns, weights.kernel.tile) {
        (Some((panels, _)), _) => (weights.panel_grain(panels, n_out, cpu.n_threads()), n),
        (None, Some(tile)) if n >= TILE_FROM => (weights.tile_grain(tile, n_out, n, cpu.n_threads()), TILE_TASK),
        (None, _) => (weights.grain(), n),
    };
    let grain = grain.min(per_group.max(1));
    let (n_tasks, n_panels) = (per_group.div_ceil(grain), n.div_ceil(SIDE));
    cpu.pool.split(n.div_ceil(n_columns) * n_group * n_tasks, 1, &|tasks| {
        for task in tasks {
            let (start, task) = (task / (n_group * n_tasks) * n_columns, task % (n_group * n_tasks));
            let end = (start + n_columns).min(n);
            let (g, first) = (task / n_tasks, task % n_tasks * grain);
            let rows = g * per_group + first..g * per_group + (first + grain).min(per_group);
            let emit = &mut |o: usize, t: usize, v: &[f32]| {
                let at = (start + t) * n_out + o;
                // SAFETY: a row of weights belongs, with some columns, to one task, so outputs are written once.
                copy(unsafe { y.get(at..at + v.len()) }, v);
            };
            match columns {
                Some((panels, columns)) => {
                    let columns = columns.panels(g * n_panels..(g + 1) * n_panels);
                    let next = weights.rows(rows.end..rows.end + rows.len());
                    weights.multiply_panels(panels, rows, n, columns, next, emit);
                }
                None => weights.multiply(rows, end - start, |t| packed.row((start + t) * n_group + g), emit),
            }
        }
    });
}
