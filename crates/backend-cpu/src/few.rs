//! Products of few rows: decoding.
//!
//! All there is to do is to read weights, so everything else stays out of the way. Products with the same rows are one
//! region: rows are packed once for all of them, and every weight is asked for as soon as a thread is free. Its work is
//! counted in units of some kilobytes of weights, of which threads take many at a time first and few at last, so that
//! they finish together.
//!
//! ```text
//! matmuls     | w of y0, unit by unit | w of y1 ... | w of y2 ... |      each product on its own
//! gated       | gate and up, the same rows of both | ...          |      and y = swiglu of what has just been computed
//! ```

use std::ops::Range;

use compute::{Tensor, shapes};

use crate::{Cpu, matmul::Weights, memory::borrow, pool::Shares, rows::Rows};

/// The most rows of a batch for which products are taken together; beyond, arithmetic costs more than reading, and
/// panels may be faster.
pub(crate) const FEW: usize = 4;
/// The most products in a region; more are more regions.
const PRODUCTS: usize = 8;
/// Bytes of weights in a unit.
const UNIT_BYTES: usize = 4 << 10;
/// Units that a thread takes at a time, at least: a microsecond of reading.
const UNITS: usize = 2;

/// A product and its place among the units of a region.
struct Product<'a> {
    weights: Weights<'a>,
    y: Shares<'a, f32>,
    n_group: usize,
    per_group: usize, // rows of weights
    unit: usize,      // rows of weights
    units: Range<usize>,
}

impl Product<'_> {
    /// Computes the outputs of some units of the region, as far as they are this product's.
    fn run(&self, units: Range<usize>, rows: &Rows, n: usize) {
        let own = units.start.max(self.units.start)..units.end.min(self.units.end);
        let (packed, per_group) = (rows.of(self.weights.kernel), self.per_group.div_ceil(self.unit));
        let mut first = own.start;
        while first < own.end {
            // As many units of one group as there are.
            let (g, i) = ((first - self.units.start) / per_group, (first - self.units.start) % per_group);
            let n_units = (per_group - i).min(own.end - first);
            let start = g * self.per_group;
            let part = start + i * self.unit..start + ((i + n_units) * self.unit).min(self.per_group);
            let n_out = self.n_group * self.per_group;
            let column = |t: usize| packed.row(t * self.n_group + g);
            self.weights.multiply(part, n, column, &mut |o, t, v| {
                let at = t * n_out + o;
                // SAFETY: a unit belongs to one task, so its outputs are written once.
                unsafe { self.y.get(at..at + v.len()) }.copy_from_slice(v);
            });
            first += n_units;
        }
    }
}

/// Rows of weights in a unit, `row_bytes` each.
fn unit(row_bytes: usize) -> usize {
    (UNIT_BYTES / row_bytes).max(1)
}

/// See [`compute::Device::matmuls`]; with groups, [`compute::Device::matmul_grouped`].
pub(crate) fn matmuls(cpu: &Cpu, products: &[(&Tensor, &Tensor)], x: &Tensor, n_group: usize) {
    products.chunks(PRODUCTS).for_each(|products| region(cpu, products, x, n_group));
}

fn region(cpu: &Cpu, products: &[(&Tensor, &Tensor)], x: &Tensor, n_group: usize) {
    let k = products.len();
    let (mut outs, mut ins) = ([x; PRODUCTS], [x; PRODUCTS + 1]); // the last of `ins` stays `x`
    for (i, (y, w)) in products.iter().enumerate() {
        shapes::matmul_grouped(y, w, x, n_group);
        (outs[i], ins[PRODUCTS - k + i]) = (y, w);
    }
    let (outs, ins) = (&outs[..k], &ins[PRODUCTS - k..]);
    let access = cpu.access(outs, ins);
    let mut scratch = cpu.scratch.lock().unwrap_or_else(|e| e.into_inner());
    let rows = Rows::new(cpu, &ins[..k], access.input(k), &mut scratch.rows);
    let mut n_units = 0;
    let mut parts = [const { None }; PRODUCTS];
    for (i, part) in parts.iter_mut().take(k).enumerate() {
        let (weights, per_group) = (Weights::new(cpu, ins[i], access.input(i)), ins[i].rows() / n_group);
        let unit = unit(ins[i].row_bytes());
        let units = n_units..n_units + n_group * per_group.div_ceil(unit);
        n_units = units.end;
        *part = Some(Product { weights, y: Shares::new(access.out(i)), n_group, per_group, unit, units });
    }
    cpu.pool.split(n_units, UNITS, &|units| {
        parts.iter().flatten().for_each(|p| p.run(units.clone(), &rows, x.rows()));
    });
}

/// See [`compute::Device::gated`].
pub(crate) fn gated(cpu: &Cpu, y: &Tensor, [gate, up]: [&Tensor; 2], x: &Tensor, limit: Option<f32>) {
    let (n, n_ff) = (x.rows(), gate.rows());
    if n == 0 {
        return;
    }
    let (outs, ins) = ([y], [gate, up, x]);
    let access = cpu.access(&outs, &ins);
    let mut scratch = cpu.scratch.lock().unwrap_or_else(|e| e.into_inner());
    let rows = Rows::new(cpu, &ins[..2], access.input(2), &mut scratch.rows);
    let sides = [0, 1].map(|i| Weights::new(cpu, ins[i], access.input(i)));
    let y = Shares::new(access.out::<f32>(0));
    let unit = unit(gate.row_bytes() + up.row_bytes());
    cpu.pool.split(n_ff.div_ceil(unit), UNITS, &|units| {
        let part = units.start * unit..(units.end * unit).min(n_ff);
        let len = part.len();
        borrow(2 * n * len, |both: &mut [f32]| {
            for (side, out) in sides.iter().zip(both.chunks_exact_mut(n * len)) {
                let packed = rows.of(side.kernel);
                side.multiply(part.clone(), n, |t| packed.row(t), &mut |o, t, v| {
                    out[t * len + o - part.start..][..v.len()].copy_from_slice(v);
                });
            }
            let (gate, up) = both.split_at_mut(n * len);
            (cpu.vector.swiglu)(gate, up, limit.unwrap_or(f32::INFINITY), 1.0);
            for (t, gate) in gate.chunks_exact(len).enumerate() {
                // SAFETY: these columns of the output belong to this task alone.
                unsafe { y.get(t * n_ff + part.start..t * n_ff + part.end) }.copy_from_slice(gate);
            }
        });
    });
}
