//! Grouped-query attention over cached keys and values.
//!
//! A task is a key-value head and a few neighbouring rows of the batch, with all query heads that read it. Keys, then
//! values, are unpacked block by block for all of them. Blocks are cut at absolute positions and a query's softmax
//! covers exactly the positions it sees, so a query's result does not depend on its neighbours.

use compute::{Attention, Kind, Step, Tensor};
use quant::{Format, RowFormat};

use crate::{Cpu, dot::Kernel, memory::bytes_of, pool::Shares};

/// Positions unpacked at a time.
const BLOCK: usize = 64;
/// Rows of the batch in a task.
const TILE: usize = 8;

/// One cache: `[n_slot, n_row, n_head_kv * head_dim]`.
struct Cache<'a> {
    bytes: &'a [u8],
    format: RowFormat,
    n_row: usize,
    row_bytes: usize,
    head_bytes: usize,
}

impl<'a> Cache<'a> {
    fn new(t: &Tensor, bytes: &'a [u8], head_dim: usize) -> Cache<'a> {
        let Kind::Cached(format @ (RowFormat::F32 | RowFormat::F16)) = t.kind() else {
            panic!("heads of a cache of kind {:?} cannot be read apart", t.kind());
        };
        Cache { bytes, format, n_row: t.shape()[1], row_bytes: t.row_bytes(), head_bytes: format.row_bytes(head_dim) }
    }

    /// Head `g` of positions `first..first + out.len() / head_dim`.
    fn unpack(&self, out: &mut [f32], head_dim: usize, slot: usize, g: usize, first: usize) {
        for (i, out) in out.chunks_exact_mut(head_dim).enumerate() {
            let row = slot * self.n_row + (first + i) % self.n_row;
            self.format.decode_row(&self.bytes[row * self.row_bytes + g * self.head_bytes..][..self.head_bytes], out);
        }
    }
}

/// See [`compute::Device::attention`].
pub(crate) fn attention(cpu: &Cpu, y: &Tensor, q: &Tensor, k: &Tensor, v: &Tensor, a: &Attention, step: &Step) {
    let (outs, ins) = ([y], [q, k, v, &step.pos, &step.slot]);
    let access = cpu.access(&outs, &ins);
    let head_dim = q.cols() / a.n_head;
    let (q, pos, slot) = (access.input::<f32>(0), access.input::<i32>(3), access.input::<i32>(4));
    let keys = Cache::new(k, access.input(1), head_dim);
    let values = Cache::new(v, access.input(2), head_dim);
    let tiles = tiles(pos, slot);
    let y = Shares::new(access.out::<f32>(0));
    let group = a.n_head / a.n_head_kv;
    cpu.pool.split(tiles.len() * a.n_head_kv, 1, &|tasks| {
        for task in tasks {
            let (rows, g) = (&tiles[task / a.n_head_kv], task % a.n_head_kv);
            // Where each query of the task lies in `q` and `y`, and how many positions it sees.
            let queries: Vec<(usize, usize)> = rows
                .clone()
                .flat_map(|t| (0..group).map(move |h| ((t * a.n_head + g * group + h) * head_dim, pos[t] as usize + 1)))
                .collect();
            let q: Vec<&[f32]> = queries.iter().map(|&(at, _)| &q[at..][..head_dim]).collect();
            let seen: Vec<usize> = queries.iter().map(|&(_, seen)| seen).collect();
            // SAFETY: a query belongs to one task, and its part of the output with it.
            let mut y: Vec<&mut [f32]> = queries.iter().map(|&(at, _)| unsafe { y.get(at..at + head_dim) }).collect();
            attend(cpu, &mut y, &q, &seen, [&keys, &values], (slot[rows.start] as usize, g), a.scale);
        }
    });
}

/// Rows of one slot, at most [`TILE`] of them.
fn tiles(pos: &[i32], slot: &[i32]) -> Vec<std::ops::Range<usize>> {
    let mut tiles: Vec<std::ops::Range<usize>> = vec![];
    for t in 0..pos.len() {
        match tiles.last_mut() {
            Some(tile) if tile.len() < TILE && slot[tile.start] == slot[t] => tile.end = t + 1,
            _ => tiles.push(t..t + 1),
        }
    }
    tiles
}

/// Attention of queries that read the same head of the same sequence.
fn attend(
    cpu: &Cpu,
    y: &mut [&mut [f32]],
    q: &[&[f32]],
    seen: &[usize],
    [keys, values]: [&Cache; 2],
    (slot, g): (usize, usize),
    scale: f32,
) {
    let (head_dim, n) = (q[0].len(), *seen.iter().max().expect("a task has queries"));
    let mut p = vec![0.0f32; q.len() * n];
    let mut block = vec![0.0f32; BLOCK * head_dim];
    let dot = cpu.kernel(Format::F32);
    for first in (0..n).step_by(BLOCK) {
        let rows = &mut block[..BLOCK.min(n - first) * head_dim];
        keys.unpack(rows, head_dim, slot, g, first);
        scores(dot, &mut p[first..], n, q, rows, scale);
    }
    for ((p, &seen), y) in p.chunks_exact_mut(n).zip(seen).zip(&mut *y) {
        softmax(cpu, &mut p[..seen], f32::NEG_INFINITY);
        p[seen..].fill(0.0);
        y.fill(0.0);
    }
    let mut part = vec![0.0f32; 4 * head_dim];
    for first in (0..n).step_by(BLOCK) {
        let len = BLOCK.min(n - first);
        values.unpack(&mut block[..len * head_dim], head_dim, slot, g, first);
        for (quad, y) in y.chunks_mut(4).enumerate() {
            let weights = |i: usize| &p[(4 * quad + i.min(y.len() - 1)) * n + first..][..len];
            let weights = [weights(0), weights(1), weights(2), weights(3)];
            let [a, b, c, d] = quarters(&mut part);
            (cpu.vector.mix4)([a, b, c, d], weights, &block, head_dim);
            for (y, part) in y.iter_mut().zip(part.chunks_exact(head_dim)) {
                y.iter_mut().zip(part).for_each(|(y, part)| *y += part);
            }
        }
    }
}

/// `p[i * stride + j] = scale * q[i] . rows[j]`, the same for a query alone as among others.
pub(crate) fn scores(dot: &Kernel, p: &mut [f32], stride: usize, q: &[&[f32]], rows: &[f32], scale: f32) {
    for (j, row) in rows.chunks_exact(q[0].len()).enumerate() {
        let row = bytes_of(row);
        for (quad, q) in q.chunks(4).enumerate() {
            match q {
                [a, b, c, d] => {
                    let s = (dot.dot4)(row, [bytes_of(a), bytes_of(b), bytes_of(c), bytes_of(d)]);
                    (0..4).for_each(|i| p[(4 * quad + i) * stride + j] = s[i] * scale);
                }
                _ => q.iter().enumerate().for_each(|(i, q)| {
                    p[(4 * quad + i) * stride + j] = (dot.dot)(row, bytes_of(q)) * scale;
                }),
            }
        }
    }
}

/// `p = e^p / (sum e^p + e^sink)`
pub(crate) fn softmax(cpu: &Cpu, p: &mut [f32], sink: f32) {
    let max = p.iter().copied().fold(sink, f32::max);
    let sum = (cpu.vector.exp_sum)(p, max) + (sink - max).exp();
    p.iter_mut().for_each(|p| *p /= sum);
}

/// Four equal parts.
pub(crate) fn quarters(x: &mut [f32]) -> [&mut [f32]; 4] {
    let n = x.len() / 4;
    let (ab, cd) = x.split_at_mut(2 * n);
    let ((a, b), (c, d)) = (ab.split_at_mut(n), cd.split_at_mut(n));
    [a, b, c, d]
}
