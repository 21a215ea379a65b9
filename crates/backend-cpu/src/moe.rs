//! The routed experts of a batch: rows are grouped by expert, so that each expert's weights are read once.
//!
//! Two regions. The first computes `w_k * swiglu(gate, up)` for every (row, choice) into one buffer; the second
//! multiplies with `down` and adds, expert by expert in ascending order, which is also the order of a row's choices: a
//! row's sum does not depend on the rest of the batch.

use compute::{Bank, Tensor, shapes};

use crate::{
    Cpu,
    matmul::{Packed, Scratch, Weights},
    memory::borrow,
    pool::Shares,
};

/// The rows that chose an expert: `(expert, [t * k + choice])`, experts ascending.
type Groups = Vec<(usize, Vec<usize>)>;

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
    let Scratch { packed: workspace, packed_too, hidden } = &mut *scratch;
    let (k, n_embd, n_ff) = (experts.cols(), x.cols(), bank.gate.shape()[1]);
    let groups = group(access.input(4));
    let router_weights = access.input::<f32>(5);
    let gate = Weights::new(cpu, &bank.gate, access.input(1));
    let up = Weights::new(cpu, &bank.up, access.input(2));
    let down = Weights::new(cpu, &bank.down, access.input(3));

    let hidden = hidden.get::<f32>(x.rows() * k * n_ff);
    {
        let packed = Packed::new(&cpu.pool, gate.kernel.activation, access.input(0), n_embd, workspace);
        let packed_up = if up.kernel.activation == gate.kernel.activation {
            None
        } else {
            Some(Packed::new(&cpu.pool, up.kernel.activation, access.input(0), n_embd, packed_too))
        };
        let sides = [(gate, &packed), (up, packed_up.as_ref().unwrap_or(&packed))];
        let shares = Shares::new(&mut *hidden);
        let grain = gate.grain(x.rows());
        let tiles = n_ff.div_ceil(grain);
        cpu.pool.split(groups.len() * tiles, 1, &|tasks| {
            for task in tasks {
                let (expert, choices) = &groups[task / tiles];
                let first = task % tiles * grain;
                let n = grain.min(n_ff - first);
                let rows = expert * n_ff + first..expert * n_ff + first + n;
                borrow(2 * choices.len() * n, |tile| {
                    for ((side, packed), tile) in sides.iter().zip(tile.chunks_exact_mut(choices.len() * n)) {
                        let column = |i: usize| packed.row(choices[i] / k);
                        side.multiply(rows.clone(), choices.len(), column, |o, i, v| tile[i * n + o - rows.start] = v);
                    }
                    let (gate, up) = tile.split_at_mut(choices.len() * n);
                    for ((&choice, gate), up) in choices.iter().zip(gate.chunks_exact_mut(n)).zip(up.chunks_exact(n)) {
                        (cpu.vector.swiglu)(gate, up, limit.unwrap_or(f32::INFINITY), router_weights[choice]);
                        // SAFETY: this choice and these columns belong to this task alone.
                        unsafe { shares.get(choice * n_ff + first..choice * n_ff + first + n) }.copy_from_slice(gate);
                    }
                });
            }
        });
    }

    let packed = Packed::new(&cpu.pool, down.kernel.activation, hidden, n_ff, workspace);
    let y_rows = access.out::<f32>(0);
    y_rows.fill(0.0);
    let y_rows = Shares::new(y_rows);
    cpu.pool.split(n_embd, down.grain(x.rows()), &|rows| {
        for (expert, choices) in &groups {
            let expert_rows = expert * n_embd + rows.start..expert * n_embd + rows.end;
            let column = |i: usize| packed.row(choices[i]);
            down.multiply(expert_rows, choices.len(), column, |o, i, v| {
                let at = choices[i] / k * n_embd + o - expert * n_embd;
                // SAFETY: these columns of the output belong to this task alone.
                unsafe { y_rows.get(at..at + 1)[0] += v };
            });
        }
    });
}

fn group(experts: &[i32]) -> Groups {
    let mut order: Vec<usize> = (0..experts.len()).collect();
    order.sort_by_key(|&i| experts[i]);
    order.chunk_by(|&a, &b| experts[a] == experts[b]).map(|c| (experts[c[0]] as usize, c.to_vec())).collect()
}
