//! Products with weights, tile by tile.
//!
//! The batch's rows are packed once for the weights' dot product. A thread then takes some rows of the weights and
//! runs them against a block of packed rows that stays in its cache, four at a time, so that weights are unpacked once
//! for four tokens. Each output element is one call's result, the same whether it came alone or with three others.

use std::ops::Range;

use compute::{Kind, Tensor};

use crate::{
    Cpu,
    activation::Activation,
    dot::Kernel,
    memory::Workspace,
    pool::{Pool, Shares},
};

/// Packed rows that a tile of weights meets before the next tile of packed rows: they fit the second-level cache.
const BLOCK: usize = 64;
/// Bytes of weights in a tile.
const TILE_BYTES: usize = 64 << 10;

/// What operations need between inputs and outputs, kept from call to call.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) packed: Workspace,
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
        pool.rows(bytes, stride, 4, &|i, out| activation.pack(&x[i * n..][..n], &mut out[..row_bytes]));
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
    pub(crate) row_bytes: usize,
}

impl<'a> Weights<'a> {
    pub(crate) fn new(cpu: &'a Cpu, w: &Tensor, bytes: &'a [u8]) -> Weights<'a> {
        let Kind::Packed(format) = w.kind() else { panic!("weights of kind {:?}", w.kind()) };
        Weights { kernel: cpu.kernel(format), bytes, row_bytes: w.row_bytes() }
    }

    /// Rows per tile.
    pub(crate) fn grain(&self) -> usize {
        (TILE_BYTES / self.row_bytes).clamp(4, 64)
    }

    /// `emit(o, t, w[o] . x[t])` for the rows `rows` of the weights and `n` packed rows given by `x`.
    pub(crate) fn multiply<'x>(
        &self,
        rows: Range<usize>,
        n: usize,
        x: impl Fn(usize, usize) -> &'x [u8],
        mut emit: impl FnMut(usize, usize, f32),
    ) {
        for block in (0..n).step_by(BLOCK) {
            let end = (block + BLOCK).min(n);
            for o in rows.clone() {
                let w = &self.bytes[o * self.row_bytes..][..self.row_bytes];
                let mut t = block;
                while t + 4 <= end {
                    let y = (self.kernel.dot4)(w, [x(o, t), x(o, t + 1), x(o, t + 2), x(o, t + 3)]);
                    y.into_iter().enumerate().for_each(|(i, y)| emit(o, t + i, y));
                    t += 4;
                }
                (t..end).for_each(|t| emit(o, t, (self.kernel.dot)(w, x(o, t))));
            }
        }
    }
}

/// See [`compute::Device::matmul_grouped`].
pub(crate) fn matmul_grouped(cpu: &Cpu, y: &Tensor, w: &Tensor, x: &Tensor, n_group: usize) {
    let (n_out, n_in, n) = (w.rows(), w.cols(), x.rows());
    assert_eq!((x.cols(), y.cols(), y.rows()), (n_in * n_group, n_out, n), "{y:?} = {w:?} {x:?}");
    let (outs, ins) = ([y], [w, x]);
    let access = cpu.access(&outs, &ins);
    let mut scratch = cpu.scratch.lock().unwrap_or_else(|e| e.into_inner());
    let weights = Weights::new(cpu, w, access.input(0));
    let packed = Packed::new(&cpu.pool, weights.kernel.activation, access.input(1), n_in, &mut scratch.packed);
    let y = Shares::new(access.out::<f32>(0));
    let rows_per_group = n_out / n_group;
    cpu.pool.split(n_out, weights.grain(), &|rows| {
        let column = |o: usize, t: usize| packed.row(t * n_group + o / rows_per_group);
        // SAFETY: a row of weights belongs to one tile, so its outputs are written once.
        weights.multiply(rows, n, column, |o, t, v| unsafe { y.set(t * n_out + o, v) });
    });
}
