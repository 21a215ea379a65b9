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
    matmul::{Scratch, Weights, copy},
    memory::{Workspace, borrow},
    pool::Shares,
    rows::{Columns, Packed, Rows},
};

/// Experts that threads are expected to share, at least.
const EXPERTS_SHARED: usize = 4;

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

/// Panels of the rows that chose each expert, where enough did; `row` says which packed row a choice is.
fn columns<'a>(
    cpu: &Cpu,
    weights: &Weights,
    packed: &Packed,
    choices: &Choices,
    row: impl Fn(usize) -> usize + Sync,
    workspace: &'a mut Workspace,
) -> Option<Columns<'a>> {
    let most = choices.experts.iter().map(|e| e.range.len()).max().unwrap_or(0);
    let row = |i: usize, c: usize| choices.at(i, c).map(&row);
    let panels = weights.panels(most)?;
    Some(Columns::new(&cpu.pool, panels, packed, weights.n_in(), choices.n_panels(), row, workspace))
}

/// One matrix of every expert, and the rows that it meets.
struct Side<'a> {
    weights: Weights<'a>,
    packed: &'a Packed<'a>,
    columns: Option<&'a Columns<'a>>,
}

impl Side<'_> {
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
        match (self.columns, self.weights.panels(choices.len())) {
            (Some(columns), Some(panels)) => {
                let columns = columns.panels(chosen.panels.clone());
                self.weights.multiply_panels(panels, rows, choices.len(), columns, next, emit);
            }
            _ => self.weights.multiply(rows, choices.len(), |i| self.packed.row(row(choices[i])), emit),
        }
    }

    /// Rows per task, of the `n_rows` of each expert.
    fn grain(&self, n_rows: usize, n_threads: usize) -> usize {
        match (self.columns, &self.weights.kernel.panels) {
            (Some(_), Some(panels)) => self.weights.panel_grain(panels, n_rows * EXPERTS_SHARED, n_threads),
            _ => self.weights.grain(),
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
    let (outs, ins) = ([y], [x, &bank.gate, &bank.up, &bank.down, experts, weights]);
    let access = cpu.access(&outs, &ins);
    let mut scratch = cpu.scratch.lock().unwrap_or_else(|e| e.into_inner());
    let Scratch { rows: space, columns: room, up_columns: up_room, hidden, choices } = &mut *scratch;
    let [gate, up, down] = [1, 2, 3].map(|i| Weights::new(cpu, ins[i], access.input(i)));
    let from = [gate, up, down].iter().filter_map(|w| w.kernel.panels).map(|panels| panels.from()).min();
    choices.set(access.input(4), from.unwrap_or(usize::MAX));
    let k = experts.cols();
    let hidden = hidden.get(x.rows() * k * down.n_in());
    {
        let rows = Rows::new(cpu, &[&bank.gate, &bank.up], access.input(0), space);
        let row = |choice: usize| choice / k;
        let gate_columns = columns(cpu, &gate, rows.of(&gate), choices, row, room);
        let own = bank.gate.kind() != bank.up.kind();
        let up_columns = if own { columns(cpu, &up, rows.of(&up), choices, row, up_room) } else { None };
        let gate = Side { weights: gate, packed: rows.of(&gate), columns: gate_columns.as_ref() };
        let up =
            Side { weights: up, packed: rows.of(&up), columns: if own { &up_columns } else { &gate_columns }.as_ref() };
        fill_hidden(cpu, hidden, [gate, up], choices, (k, access.input(5)), limit.unwrap_or(f32::INFINITY));
    }
    let rows = Rows::new(cpu, &[&bank.down], hidden, space);
    let columns = columns(cpu, &down, rows.of(&down), choices, |choice| choice, room);
    let down = Side { weights: down, packed: rows.of(&down), columns: columns.as_ref() };
    add_down(cpu, access.out(0), y.cols(), down, choices, k);
}

/// `hidden[choice] = w * swiglu(gate x, up x)` with the choice's weight, of `k` per row.
fn fill_hidden(
    cpu: &Cpu,
    hidden: &mut [f32],
    [gate, up]: [Side; 2],
    choices: &Choices,
    (k, router_weights): (usize, &[f32]),
    limit: f32,
) {
    let n_ff = hidden.len() / router_weights.len().max(1);
    let hidden = Shares::new(hidden);
    let grain = gate.grain(n_ff, cpu.n_threads());
    let tiles = n_ff.div_ceil(grain);
    let rows_of = |task: usize| {
        let first = task % tiles * grain;
        let chosen = choices.experts.get(task / tiles)?;
        Some(chosen.expert * n_ff + first..chosen.expert * n_ff + (first + grain).min(n_ff))
    };
    cpu.pool.split(choices.experts.len() * tiles, 1, &|tasks| {
        for task in tasks {
            let (chosen, rows) = (&choices.experts[task / tiles], rows_of(task).expect("a task"));
            let (of_it, n) = (choices.of(chosen), rows.len());
            let first = rows.start - chosen.expert * n_ff;
            let later = rows_of(task + 1).map_or(&[][..], |rows| gate.weights.rows(rows));
            borrow(2 * of_it.len() * n, |tile| {
                let (gates, ups) = tile.split_at_mut(of_it.len() * n);
                let sides = [(&gate, &mut *gates, up.weights.rows(rows.clone())), (&up, &mut *ups, later)];
                for (side, tile, next) in sides {
                    side.multiply(rows.clone(), (chosen, of_it), |choice| choice / k, next, &mut |o, i, v| {
                        copy(&mut tile[i * n + o - rows.start..][..v.len()], v);
                    });
                }
                for ((&choice, gate), up) in of_it.iter().zip(gates.chunks_exact_mut(n)).zip(ups.chunks_exact(n)) {
                    (cpu.vector.swiglu)(gate, up, limit, router_weights[choice]);
                    // SAFETY: this choice and these columns belong to this task alone.
                    unsafe { hidden.get(choice * n_ff + first..choice * n_ff + first + n) }.copy_from_slice(gate);
                }
            });
        }
    });
}

/// `y[t] = sum_k down_e hidden[t, k]`, rows of `n_embd`.
fn add_down(cpu: &Cpu, y: &mut [f32], n_embd: usize, down: Side, choices: &Choices, k: usize) {
    y.fill(0.0);
    let y = Shares::new(y);
    cpu.pool.split(n_embd, down.grain(n_embd, cpu.n_threads()), &|rows| {
        let rows_of = |e: &Chosen| e.expert * n_embd + rows.start..e.expert * n_embd + rows.end;
        for (i, chosen) in choices.experts.iter().enumerate() {
            let (of_it, first) = (choices.of(chosen), chosen.expert * n_embd);
            let next = choices.experts.get(i + 1).map_or(&[][..], |e| down.weights.rows(rows_of(e)));
            down.multiply(rows_of(chosen), (chosen, of_it), |choice| choice, next, &mut |o, i, v| {
                let at = of_it[i] / k * n_embd + o - first;
                // SAFETY: these columns of the output belong to this task alone.
                let y = unsafe { y.get(at..at + v.len()) };
                y.iter_mut().zip(v).for_each(|(y, v)| *y += v);
            });
        }
    });
}
