//! Products with weights, tile by tile.
//!
//! The batch's rows are packed once for the weights' dot product. A thread then takes some rows of the weights and
//! multiplies them with all packed rows:
//!
//! ```text
//! 1 to 3 columns    one dot product after another
//! from 4            four columns at a time, so that weights are unpacked once for four
//! from TILE_FROM    where the kernel has tiles: unpack some rows of weights into the second-level cache, then
//!                   4 x 4 products at a time, every four columns meeting all unpacked rows
//! ```
//!
//! Each output element is the same to the bit in all three.

use std::{cell::RefCell, ops::Range};

use compute::{Kind, Tensor, shapes};

use crate::{
    Cpu,
    activation::Activation,
    dot::{Kernel, Tile},
    memory::Workspace,
    pool::{Pool, Shares},
};

/// Bytes of packed rows that a task's weights meet before the next packed rows: part of the second-level cache.
const BLOCK_BYTES: usize = 256 << 10;
/// Bytes of weights in a tile.
const TILE_BYTES: usize = 64 << 10;
/// Columns from which tiles are worth unpacking weights to memory.
const TILE_FROM: usize = 8;
/// Bytes of unpacked weights: part of the second-level cache.
const UNPACKED_BYTES: usize = 384 << 10;

thread_local! {
    /// Where a thread unpacks weights.
    static UNPACKED: RefCell<Workspace> = RefCell::default();
}

/// What operations need between inputs and outputs, kept from call to call.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) packed: Workspace,
    /// The same rows, packed for other weights.
    pub(crate) packed_too: Workspace,
    pub(crate) hidden: Workspace,
}

/// Rows packed for a dot product.
pub(crate) struct Packed<'a> {
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> Packed<'a> {
    /// Packs `x`, rows of `n` elements, into `workspace`.
    pub(crate) fn new(
        pool: &Pool,
        activation: Activation,
        x: &[f32],
        n: usize,
        workspace: &'a mut Workspace,
    ) -> Packed<'a> {
        let row_bytes = activation.row_bytes(n);
        let stride = row_bytes.next_multiple_of(64);
        let bytes = workspace.get::<u8>(x.len() / n * stride);
        pool.rows(bytes, stride, 4, &|i, out| {
            let (row, rest) = out.split_at_mut(row_bytes);
            activation.pack(&x[i * n..][..n], row);
            rest.fill(0);
        });
        Packed { bytes, stride }
    }

    pub(crate) fn row(&self, i: usize) -> &[u8] {
        &self.bytes[i * self.stride..][..self.stride]
    }
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
        let Kind::Packed(format) = w.kind() else { panic!("weights of kind {:?}", w.kind()) };
        Weights { kernel: cpu.kernel(format), bytes, row_bytes: w.row_bytes(), n_in: w.cols() }
    }

    /// Rows per task when there are `n` columns: some microseconds of work.
    pub(crate) fn grain(&self, n: usize) -> usize {
        (TILE_BYTES / self.row_bytes).clamp(4, if n < TILE_FROM { 64 } else { 32 }).next_multiple_of(4)
    }

    /// `emit(o, t, w[o] . x(t))` for the rows `rows` of the weights and `n` packed rows.
    pub(crate) fn multiply<'x>(
        &self,
        rows: Range<usize>,
        n: usize,
        x: impl Fn(usize) -> &'x [u8],
        mut emit: impl FnMut(usize, usize, f32),
    ) {
        if let (Some(tile), TILE_FROM..) = (self.kernel.tile, n) {
            return self.multiply_tiles(tile, rows, n, x, emit);
        }
        let size = (BLOCK_BYTES / self.kernel.activation.row_bytes(self.n_in) / 4 * 4).max(4);
        for block in (0..n).step_by(size) {
            let end = (block + size).min(n);
            for o in rows.clone() {
                let w = self.row(o);
                let mut t = block;
                while t + 4 <= end {
                    let y = (self.kernel.dot4)(w, [x(t), x(t + 1), x(t + 2), x(t + 3)]);
                    y.into_iter().enumerate().for_each(|(i, y)| emit(o, t + i, y));
                    t += 4;
                }
                (t..end).for_each(|t| emit(o, t, (self.kernel.dot)(w, x(t))));
            }
        }
    }

    fn multiply_tiles<'x>(
        &self,
        tile: Tile,
        rows: Range<usize>,
        n: usize,
        x: impl Fn(usize) -> &'x [u8],
        mut emit: impl FnMut(usize, usize, f32),
    ) {
        let row_bytes = tile.row_bytes(self.n_in);
        let n_unpacked = (UNPACKED_BYTES / row_bytes / 4 * 4).clamp(4, rows.len().next_multiple_of(4));
        UNPACKED.with_borrow_mut(|workspace| {
            let unpacked = workspace.get::<u8>(n_unpacked * row_bytes);
            for first in rows.clone().step_by(n_unpacked) {
                let n_rows = n_unpacked.min(rows.end - first);
                for (i, out) in unpacked.chunks_exact_mut(row_bytes).take(n_rows).enumerate() {
                    (tile.unpack)(self.row(first + i), out);
                }
                // What is missing from the last four is computed of the last one again, and left out.
                let row = |i: usize| &unpacked[i.min(n_rows - 1) * row_bytes..][..row_bytes];
                let column = |t: usize| x(t.min(n - 1));
                for t in (0..n).step_by(4) {
                    let columns = [column(t), column(t + 1), column(t + 2), column(t + 3)];
                    for i in (0..n_rows).step_by(4) {
                        let y = (tile.dot)([row(i), row(i + 1), row(i + 2), row(i + 3)], columns);
                        for (i, y) in (i..n_rows).zip(y) {
                            (t..n).zip(y).for_each(|(t, y)| emit(first + i, t, y));
                        }
                    }
                }
            }
        });
    }

    fn row(&self, o: usize) -> &'a [u8] {
        &self.bytes[o * self.row_bytes..][..self.row_bytes]
    }
}

/// See [`compute::Device::matmul_grouped`].
pub(crate) fn matmul_grouped(cpu: &Cpu, y: &Tensor, w: &Tensor, x: &Tensor, n_group: usize) {
    shapes::matmul_grouped(y, w, x, n_group);
    let (n_out, n_in, n) = (w.rows(), w.cols(), x.rows());
    let (outs, ins) = ([y], [w, x]);
    let access = cpu.access(&outs, &ins);
    let mut scratch = cpu.scratch.lock().unwrap_or_else(|e| e.into_inner());
    let weights = Weights::new(cpu, w, access.input(0));
    let packed = Packed::new(&cpu.pool, weights.kernel.activation, access.input(1), n_in, &mut scratch.packed);
    let y = Shares::new(access.out::<f32>(0));
    let (per_group, grain) = (n_out / n_group, weights.grain(n));
    let n_tiles = per_group.div_ceil(grain);
    cpu.pool.split(n_group * n_tiles, 1, &|tasks| {
        for task in tasks {
            let (g, first) = (task / n_tiles, task % n_tiles * grain);
            let rows = g * per_group + first..g * per_group + (first + grain).min(per_group);
            // SAFETY: a row of weights belongs to one tile, so its outputs are written once.
            weights.multiply(rows, n, |t| packed.row(t * n_group + g), |o, t, v| unsafe { y.set(t * n_out + o, v) });
        }
    });
}
