//! A batch's rows as the products want them: packed for a kernel, each kind of packing once, and side by side as
//! columns of panels.

use std::{array, ops::Range};

use compute::Tensor;

use crate::{
    Cpu,
    activation::{Activation, GROUP, groups},
    dot::{
        Kernel,
        panel::{Panels, SIDE},
    },
    memory::{Workspace, bytes_of},
    pool::Pool,
};

/// Rows packed for a dot product.
pub(crate) struct Packed<'a> {
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> Packed<'a> {
    /// Packs `x`, rows of `n` elements, into `workspace`, unless they can be read where they are.
    fn new(pool: &Pool, activation: Activation, x: &'a [f32], n: usize, workspace: &'a mut Workspace) -> Packed<'a> {
        let row_bytes = activation.row_bytes(n);
        let stride = row_bytes.next_multiple_of(64);
        if activation == Activation::F32 && stride == row_bytes {
            return Packed { bytes: bytes_of(x), stride };
        }
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

/// Packed rows as panels of columns.
pub(crate) struct Columns<'a> {
    bytes: &'a [u8],
    panel_bytes: usize,
}

impl<'a> Columns<'a> {
    /// `n_panels` panels of rows of `n` elements; `row(i, c)` says which packed row column `c` of panel `i` is.
    pub(crate) fn new(
        pool: &Pool,
        panels: &Panels,
        packed: &Packed,
        n: usize,
        n_panels: usize,
        row: impl Fn(usize, usize) -> Option<usize> + Sync,
        workspace: &'a mut Workspace,
    ) -> Columns<'a> {
        let panel_bytes = panels.column_bytes(n);
        let bytes = workspace.get::<u8>(n_panels * panel_bytes);
        pool.rows(bytes, panel_bytes, 1, &|i, out| {
            let rows: [_; SIDE] = array::from_fn(|c| row(i, c).map(|row| groups(packed.row(row), n.div_ceil(GROUP))));
            let n_rows = rows.iter().flatten().count();
            panels.gather(&rows.map(Option::unwrap_or_default)[..n_rows], out);
        });
        Columns { bytes, panel_bytes }
    }

    /// Some panels.
    pub(crate) fn panels(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range.start * self.panel_bytes..range.end * self.panel_bytes]
    }
}

/// Where rows are packed, kept from call to call: one place for each kind of packing.
#[derive(Default)]
pub(crate) struct RowSpace([Workspace; Activation::ALL.len()]);

/// Rows packed for every kernel that will meet them.
pub(crate) struct Rows<'a>([Option<Packed<'a>>; Activation::ALL.len()]);

impl<'a> Rows<'a> {
    /// Packs `x`, as many whole rows of what `weights` have columns, for each of them.
    pub(crate) fn new(cpu: &Cpu, weights: &[&Tensor], x: &'a [f32], space: &'a mut RowSpace) -> Rows<'a> {
        let mut rows = Rows([const { None }; Activation::ALL.len()]);
        for ((activation, workspace), packed) in Activation::ALL.into_iter().zip(&mut space.0).zip(&mut rows.0) {
            if weights.iter().any(|w| cpu.kernel_of(w).activation == activation) {
                *packed = Some(Packed::new(&cpu.pool, activation, x, weights[0].cols(), workspace));
            }
        }
        rows
    }

    /// As `kernel` wants them.
    pub(crate) fn of(&self, kernel: &Kernel) -> &Packed<'a> {
        self.0[kernel.activation as usize].as_ref().expect("packed for these weights, too")
    }
}
