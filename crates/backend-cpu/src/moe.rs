//! The routed experts of a batch: rows are grouped by expert, so that each expert's weights are read once.
//!
//! Two regions. The first computes `w_k * swiglu(gate, up)` for every (row, choice) into one buffer; the second
//! multiplies with `down` and adds, expert by expert in ascending order, which is also the order of a row's choices: a
//! row's sum does not depend on the rest of the batch. Experts that enough rows chose are multiplied with panels of
//! these rows, which regions of their own gather.

use std::ops::Range;

use compute::{Bank, Tensor, shapes};

use crate::{
    Cpu,
    dot::panel::SIDE,
    matmul::{Columns, Packed, Scratch, Weights, copy},
    memory::{Workspace, borrow},
    pool::Shares,
};

/// What a batch chose: `order` holds the choices `t * k + i`, those of an expert side by side, experts ascending.
#[derive(Default)]
pub(crate) struct Choices {
    order: Vec<usize>,
    experts: Vec<Chosen>,
}

/// An expert, the part of [`Choices::order`] that chose it, and the panels of those rows.
struct Chosen {
    expert: usize,
    range: Range<usize>,
    panels: Range<usize>,
}

impl Choices {
    /// Experts that at least `from` rows chose get panels.
    fn set(&mut self, experts: &[i32], from: usize) {
        self.order.clear();
        self.order.extend(0..experts.len());
        self.order.sort_unstable_by_key(|&i| (experts[i], i));
        self.experts.clear();
        let (mut start, mut panel) = (0, 0);
        for part in self.order.chunk_by(|&a, &b| experts[a] == experts[b]) {
            let n_panels = if part.len() < from { 0 } else { part.len().div_ceil(SIDE) };
            let (end, last) = (start + part.len(), panel + n_panels);
            let expert = experts[part[0]] as usize;
            self.experts.push(Chosen { expert, range: start..end, panels: panel..last });
            (start, panel) = (end, last);
        }
    }

    fn of(&self, chosen: &Chosen) -> &[usize] {
        &self.order[chosen.range.clone()]
    }

    /// The choice that column `c` of panel `i` is.
    fn at(&self, i: usize, c: usize) -> Option<usize> {
        let chosen = &self.experts[self.experts.partition_point(|e| e.panels.end <= i)];
        self.of(chosen).get((i - chosen.panels.start) * SIDE + c).copied()
    }

    fn n_panels(&self) -> usize {
        self.experts.last().map_or(0, |e| e.panels.end)
    }
}

/// One matrix of every expert, and the packed rows that it meets.
struct Side<'a> {
    weights: Weights<'a>,
    packed: &'a Packed<'a>,
    columns: Option<Columns<'a>>,
}

impl<'a> Side<'a> {
    /// `row` says which packed row a choice is.
    fn new(
        cpu: &Cpu,
        weights: Weights<'a>,
        packed: &'a Packed<'a>,
        choices: &Choices,
        row: impl Fn(usize) -> usize + Sync,
        workspace: &'a mut Workspace,
    ) -> Side<'a> {
        let most = choices.experts.iter().map(|e| e.range.len()).max().unwrap_or(0);
        let columns = weights.panels(most).map(|panels| {
            let row = |i: usize, c: usize| choices.at(i, c).map(&row);
            Columns::new(&cpu.pool, panels, packed, weights.n_in(), choices.n_panels(), row, workspace)
        });
        Side { weights, packed, columns }
    }

    /// `emit(o, i, y)` as in [`Weights::multiply_panels`], for rows of the weights and the `i`-th row that chose an
    /// expert; `next` as there.
    fn multiply(
        &self,
        rows: Range<usize>,
        (chosen, choices): (&Chosen, &[usize]),
        row: impl Fn(usize) -> usize,
        next: &[u8],
        emit: &mut dyn FnMut(usize, usize, &[f32]),
    ) {
        match (&self.columns, self.weights.panels(choices.len())) {
            (Some(columns), Some(panels)) => {
                let columns = columns.panels(chosen.panels.clone());
                self.weights.multiply_panels(panels, rows, choices.len(), columns, next, emit);
            }
            _ => self.weights.multiply(rows, choices.len(), |i| self.packed.row(row(choices[i])), emit),
        }
    }

    /// Rows per task, of the `n_rows` of each expert.
    fn grain(&self, n_rows: usize, n_threads: usize) -> usize {
        match (&self.columns, &self.weights.kernel.panels) {
            (Some(_), Some(panels)) => self.weights.panel_grain(panels, n_rows * TASKS, n_threads),
            _ => self.weights.grain(),
        }
    }
}

/// Experts that threads are expected to share, at least.
const TASKS: usize = 4;

/// See [`compute::Device::moe`].
pub(crate) fn moe(
    cpu: &Cpu,
    y: &Tensor,
    x: &Tensor,
    bank: &Bank,
    experts: &Tensor,
    weights: &Tensor,
    limit: Option<f32>,
) {
    shapes::moe(y, x, bank, experts, weights);
    let (outs, ins) = ([y], [x, &bank.gate, &bank.up, &bank.down, experts, weights]);
    let access = cpu.access(&outs, &ins);
    let mut scratch = cpu.scratch.lock().unwrap_or_else(|e| e.into_inner());
    let Scratch { packed: workspace, packed_too, hidden, columns, columns_too, choices } = &mut *scratch;
    let (k, n_embd, n_ff) = (experts.cols(), x.cols(), bank.gate.shape()[1]);
    let router_weights = access.input::<f32>(5);
    let gate = Weights::new(cpu, &bank.gate, access.input(1));
    let up = Weights::new(cpu, &bank.up, access.input(2));
    let down = Weights::new(cpu, &bank.down, access.input(3));
    let from = [gate, up, down].iter().filter_map(|w| w.kernel.panels).map(|panels| panels.from()).min();
    choices.set(access.input(4), from.unwrap_or(usize::MAX));
    let choices = &*choices;

    let hidden = hidden.get::<f32>(x.rows() * k * n_ff);
    {
        let packed = Packed::new(&cpu.pool, gate.kernel.activation, access.input(0), n_embd, workspace);
        let packed_up = if up.kernel.activation == gate.kernel.activation {
            None
        } else {
            Some(Packed::new(&cpu.pool, up.kernel.activation, access.input(0), n_embd, packed_too))
        };
        let row = |choice: usize| choice / k;
        let packed_up = packed_up.as_ref().unwrap_or(&packed);
        let gate = Side::new(cpu, gate, &packed, choices, row, columns);
        let up = Side::new(cpu, up, packed_up, choices, row, columns_too);
        let shares = Shares::new(&mut *hidden);
        let grain = gate.grain(n_ff, cpu.n_threads());
        let tiles = n_ff.div_ceil(grain);
        cpu.pool.split(choices.experts.len() * tiles, 1, &|tasks| {
            for task in tasks {
                let chosen = &choices.experts[task / tiles];
                let of_it = choices.of(chosen);
                let first = task % tiles * grain;
                let n = grain.min(n_ff - first);
                let rows = chosen.expert * n_ff + first..chosen.expert * n_ff + first + n;
                let later = task + 1;
                let later = choices.experts.get(later / tiles).map(|e| e.expert * n_ff + later % tiles * grain);
                let next =
                    [up.weights.rows(rows.clone()), later.map_or(&[], |first| gate.weights.rows(first..first + n))];
                borrow(2 * of_it.len() * n, |tile| {
                    let (gates, ups) = tile.split_at_mut(of_it.len() * n);
                    for (side, tile, next) in [(&gate, &mut *gates, next[0]), (&up, &mut *ups, next[1])] {
                        side.multiply(rows.clone(), (chosen, of_it), row, next, &mut |o, i, v| {
                            copy(&mut tile[i * n + o - rows.start..][..v.len()], v);
                        });
                    }
                    for ((&choice, gate), up) in of_it.iter().zip(gates.chunks_exact_mut(n)).zip(ups.chunks_exact(n)) {
                        (cpu.vector.swiglu)(gate, up, limit.unwrap_or(f32::INFINITY), router_weights[choice]);
                        // SAFETY: this choice and these columns belong to this task alone.
                        unsafe { shares.get(choice * n_ff + first..choice * n_ff + first + n) }.copy_from_slice(gate);
                    }
                });
            }
        });
    }

    let packed = Packed::new(&cpu.pool, down.kernel.activation, hidden, n_ff, workspace);
    let down = Side::new(cpu, down, &packed, choices, |choice| choice, columns);
    let y_rows = access.out::<f32>(0);
    y_rows.fill(0.0);
    let y_rows = Shares::new(y_rows);
    cpu.pool.split(n_embd, down.grain(n_embd, cpu.n_threads()), &|rows| {
        for (i, chosen) in choices.experts.iter().enumerate() {
            let of_it = choices.of(chosen);
            let rows_of = |e: &Chosen| e.expert * n_embd + rows.start..e.expert * n_embd + rows.end;
            let first = chosen.expert * n_embd;
            let next = choices.experts.get(i + 1).map_or(&[][..], |e| down.weights.rows(rows_of(e)));
            down.multiply(rows_of(chosen), (chosen, of_it), |choice| choice, next, &mut |o, i, v| {
                let at = of_it[i] / k * n_embd + o - first;
                // SAFETY: these columns of the output belong to this task alone.
                let y = unsafe { y_rows.get(at..at + v.len()) };
                y.iter_mut().zip(v).for_each(|(y, v)| *y += v);
            });
        }
    });
}
