//! The routed experts of a batch, as far as they are here: rows are grouped by expert, so that each expert's weights are
//! read once.
//!
//! Two regions. The first computes `w_k * swiglu(gate, up)` for every (row, choice) into one buffer; the second
//! multiplies with `down` and adds, expert by expert in ascending order, which is also the order of a row's choices: a
//! row's sum does not depend on the rest of the batch. Experts that enough rows chose are multiplied with panels of
//! these rows, which regions of their own gather.

use std::ops::Range;

use compute::{Bank, Expert, Tensor, shapes};

use crate::{
    Cpu,
    dot::panel::SIDE,
    matmul::{Scratch, Weights, copy},
    memory::{Access, Workspace, borrow},
    pool::Shares,
    rows::{Columns, Packed, Rows},
};

/// Experts that threads are expected to share, at least.
const EXPERTS_SHARED: usize = 4;

/// What a batch chose: `order` holds the choices `t * k + i`, those of an expert side by side, experts ascending. A
/// choice's place in it is its row of what `down` is multiplied with.
#[derive(Default)]
pub(crate) struct Choices {
    order: Vec<usize>,
    experts: Vec<Chosen>,
}

/// An expert, the places of those that chose it, and the panels of those rows.
struct Chosen {
    expert: usize,
    places: Range<usize>,
    panels: Range<usize>,
}

impl Choices {
    /// Experts that are not in the bank are left out; those that at least `from` rows chose get panels.
    fn set(&mut self, experts: &[i32], bank: &Bank, from: usize) {
        self.order.clear();
        self.order.extend((0..experts.len()).filter(|&i| bank.get(experts[i] as usize).is_some()));
        self.order.sort_unstable_by_key(|&i| (experts[i], i));
        self.experts.clear();
        let (mut start, mut panel) = (0, 0);
        for part in self.order.chunk_by(|&a, &b| experts[a] == experts[b]) {
            let n_panels = if part.len() < from { 0 } else { part.len().div_ceil(SIDE) };
            let (end, last) = (start + part.len(), panel + n_panels);
            let expert = experts[part[0]] as usize;
            self.experts.push(Chosen { expert, places: start..end, panels: panel..last });
            (start, panel) = (end, last);
        }
    }

    /// The place that column `c` of panel `i` has.
    fn at(&self, i: usize, c: usize) -> Option<usize> {
        let chosen = &self.experts[self.experts.partition_point(|e| e.panels.end <= i)];
        let place = chosen.places.start + (i - chosen.panels.start) * SIDE + c;
        (place < chosen.places.end).then_some(place)
    }

    fn n_panels(&self) -> usize {
        self.experts.last().map_or(0, |e| e.panels.end)
    }
}

/// One matrix of every expert.
struct Matrix<'a> {
    cpu: &'a Cpu,
    access: &'a Access<'a>,
    bank: &'a Bank,
    of: fn(&Expert) -> &Tensor,
}

impl<'a> Matrix<'a> {
    fn weights(&self, e: usize) -> Weights<'a> {
        let w = (self.of)(self.bank.get(e).expect("chosen among those that are here"));
        Weights::new(self.cpu, w, self.access.weights(w))
    }

    /// Panels of the rows that chose each expert, where enough did; `row` says which packed row a place is.
    fn columns(
        &self,
        packed: &Packed,
        choices: &Choices,
        row: impl Fn(usize) -> usize + Sync,
        workspace: &'a mut Workspace,
    ) -> Option<Columns<'a>> {
        let weights = self.weights(choices.experts.first()?.expert);
        let panels = weights.panels(choices.experts.iter().map(|e| e.places.len()).max()?)?;
        let row = |i: usize, c: usize| choices.at(i, c).map(&row);
        Some(Columns::new(&self.cpu.pool, panels, packed, weights.n_in(), choices.n_panels(), row, workspace))
    }
}

/// One matrix of every expert, and the rows that it meets.
struct Side<'a> {
    matrix: Matrix<'a>,
    packed: &'a Packed<'a>,
    columns: Option<&'a Columns<'a>>,
}

impl Side<'_> {
    /// `emit(o, i, y)` as in [`Weights::multiply_panels`], for rows of the expert's weights and the `i`-th row that chose
    /// it; `row` says which packed row a place is, `next` as there.
    fn multiply(
        &self,
        rows: Range<usize>,
        chosen: &Chosen,
        row: impl Fn(usize) -> usize,
        next: &[u8],
        emit: &mut dyn FnMut(usize, usize, &[f32]),
    ) {
        let (weights, n) = (self.matrix.weights(chosen.expert), chosen.places.len());
        match (self.columns, weights.panels(n)) {
            (Some(columns), Some(panels)) => {
                let columns = columns.panels(chosen.panels.clone());
                weights.multiply_panels(panels, rows, n, columns, next, emit);
            }
            _ => weights.multiply(rows, n, |i| self.packed.row(row(chosen.places.start + i)), emit),
        }
    }

    /// Rows per task, of the `n_rows` of each expert, all of which are like `first`.
    fn grain(&self, first: &Chosen, n_rows: usize, n_threads: usize) -> usize {
        let weights = self.matrix.weights(first.expert);
        match (self.columns, &weights.kernel.panels) {
            (Some(_), Some(panels)) => weights.panel_grain(panels, n_rows * EXPERTS_SHARED, n_threads),
            _ => weights.grain(),
        }
    }
}

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
    let Some(Expert { gate, up, down }) = bank.any() else { return };
    let (outs, ins) = ([y], [x, experts, weights]);
    let access = &cpu.access(&outs, &ins);
    let mut scratch = cpu.scratch.lock().unwrap_or_else(|e| e.into_inner());
    let Scratch { rows: space, columns: room, up_columns: up_room, hidden, choices } = &mut *scratch;
    let kernels = [gate, up, down].map(|w| cpu.kernel_of(w));
    let from = kernels.iter().filter_map(|k| k.panels).map(|panels| panels.from()).min();
    choices.set(access.input(1), bank, from.unwrap_or(usize::MAX));
    let choices = &*choices;
    let k = experts.cols();
    let matrix = |of| Matrix { cpu, access, bank, of };
    let hidden = hidden.get(choices.order.len() * down.cols());
    {
        let rows = Rows::new(cpu, &[gate, up], access.input(0), space);
        let row = |place: usize| choices.order[place] / k;
        let [packed, packed_up] = [kernels[0], kernels[1]].map(|kernel| rows.of(kernel));
        let [gate_matrix, up_matrix] = [matrix(|e| &e.gate), matrix(|e| &e.up)];
        let columns = gate_matrix.columns(packed, choices, row, room);
        let own = gate.kind() != up.kind();
        let up_columns = if own { up_matrix.columns(packed_up, choices, row, up_room) } else { None };
        let up_columns = if own { &up_columns } else { &columns }.as_ref();
        let gate = Side { matrix: gate_matrix, packed, columns: columns.as_ref() };
        let up = Side { matrix: up_matrix, packed: packed_up, columns: up_columns };
        fill_hidden(cpu, hidden, [gate, up], choices, (k, access.input(2)), limit.unwrap_or(f32::INFINITY));
    }
    let rows = Rows::new(cpu, &[down], hidden, space);
    let (matrix, packed) = (matrix(|e| &e.down), rows.of(kernels[2]));
    let columns = matrix.columns(packed, choices, |place| place, room);
    add_down(cpu, access.out(0), y.cols(), Side { matrix, packed, columns: columns.as_ref() }, choices, k);
}

/// `hidden[place] = w * swiglu(gate x, up x)` with the choice's weight, of `k` per row.
fn fill_hidden(
    cpu: &Cpu,
    hidden: &mut [f32],
    [gate, up]: [Side; 2],
    choices: &Choices,
    (k, router_weights): (usize, &[f32]),
    limit: f32,
) {
    let Some(chosen) = choices.experts.first() else { return };
    let n_ff = hidden.len() / choices.order.len();
    let hidden = Shares::new(hidden);
    let grain = gate.grain(chosen, n_ff, cpu.n_threads());
    let tiles = n_ff.div_ceil(grain);
    let rows_of = |task: usize| task % tiles * grain..(task % tiles * grain + grain).min(n_ff);
    cpu.pool.split(choices.experts.len() * tiles, 1, &|tasks| {
        for task in tasks {
            let (chosen, rows) = (&choices.experts[task / tiles], rows_of(task));
            let n = rows.len();
            let next = choices.experts.get((task + 1) / tiles);
            let next = next.map_or(&[][..], |e| gate.matrix.weights(e.expert).rows(rows_of(task + 1)));
            borrow(2 * chosen.places.len() * n, |tile| {
                let (gates, ups) = tile.split_at_mut(chosen.places.len() * n);
                let row = |place: usize| choices.order[place] / k;
                let up_rows = up.matrix.weights(chosen.expert).rows(rows.clone());
                for (side, tile, next) in [(&gate, &mut *gates, up_rows), (&up, &mut *ups, next)] {
                    side.multiply(rows.clone(), chosen, row, next, &mut |o, i, v| {
                        copy(&mut tile[i * n + o - rows.start..][..v.len()], v);
                    });
                }
                let tiles = gates.chunks_exact_mut(n).zip(ups.chunks_exact(n));
                for (place, (gate, up)) in chosen.places.clone().zip(tiles) {
                    (cpu.vector.swiglu)(gate, up, limit, router_weights[choices.order[place]]);
                    // SAFETY: this place and these columns belong to this task alone.
                    unsafe { hidden.get(place * n_ff + rows.start..place * n_ff + rows.end) }.copy_from_slice(gate);
                }
            });
        }
    });
}

/// `y[t] += down_e hidden[place]` for the places of row `t`, rows of `n_embd`.
fn add_down(cpu: &Cpu, y: &mut [f32], n_embd: usize, down: Side, choices: &Choices, k: usize) {
    let Some(first) = choices.experts.first() else { return };
    let y = Shares::new(y);
    cpu.pool.split(n_embd, down.grain(first, n_embd, cpu.n_threads()), &|rows| {
        for (i, chosen) in choices.experts.iter().enumerate() {
            let next = choices.experts.get(i + 1);
            let next = next.map_or(&[][..], |e| down.matrix.weights(e.expert).rows(rows.clone()));
            down.multiply(rows.clone(), chosen, |place| place, next, &mut |o, i, v| {
                let at = choices.order[chosen.places.start + i] / k * n_embd + o;
                // SAFETY: these columns of the output belong to this task alone.
                let y = unsafe { y.get(at..at + v.len()) };
                y.iter_mut().zip(v).for_each(|(y, v)| *y += v);
            });
        }
    });
}
