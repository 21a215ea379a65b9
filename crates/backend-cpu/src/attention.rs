//! Grouped-query attention over cached keys and values.
//!
//! The positions are cut into chunks, at multiples of [`CHUNK`] whatever the batch. For a chunk, a query has a maximum, a
//! sum and a mixture of values, which are merged chunk by chunk in ascending order (Milakov & Gimelshein 2018). A task
//! is a few neighbouring rows of the batch and a key-value head, with all query heads that read it; or, where these
//! are too few for the threads, one chunk of that. A query's arithmetic is the same either way and does not depend on
//! its neighbours.

use std::{cell::RefCell, ops::Range};

use compute::{Attention, Kind, Step, Tensor, shapes};
use quant::{Format, RowFormat};

use crate::{
    Cpu,
    dot::{Kernel, Tile},
    memory::{bytes_of, prefetch},
    pool::Shares,
};

/// Positions unpacked at a time: keys of 128 elements fit the first-level cache.
const BLOCK: usize = 64;
/// Positions in a chunk.
const CHUNK: usize = 8 * BLOCK;
/// Positions that are asked for ahead of the arithmetic: a head's part of a row is too short for the processor to see
/// where the next one lies.
const AHEAD: usize = 16;
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
    fn unpack(&self, cpu: &Cpu, out: &mut [f32], head_dim: usize, (slot, g): (usize, usize), first: usize) {
        let bytes = |pos: usize| {
            let row = slot * self.n_row + pos % self.n_row;
            &self.bytes[row * self.row_bytes + g * self.head_bytes..][..self.head_bytes]
        };
        for (i, out) in out.chunks_exact_mut(head_dim).enumerate() {
            prefetch(bytes(first + i + AHEAD));
            (cpu.vector.unpack)(self.format, bytes(first + i), out);
        }
    }
}

/// Some rows of the batch and a key-value head: queries that read the same keys.
struct Task<'a> {
    q: Vec<&'a [f32]>,
    /// Where each query's output lies.
    at: Vec<usize>,
    /// How many positions each query sees.
    seen: Vec<usize>,
    slot: usize,
    g: usize,
}

impl Task<'_> {
    fn n_seen(&self) -> usize {
        *self.seen.iter().max().expect("a task has queries")
    }

    fn chunks(&self) -> impl Iterator<Item = Range<usize>> {
        let n = self.n_seen();
        (0..n).step_by(CHUNK).map(move |start| start..(start + CHUNK).min(n))
    }
}

/// See [`compute::Device::attention`].
pub(crate) fn attention(cpu: &Cpu, y: &Tensor, q: &Tensor, k: &Tensor, v: &Tensor, a: &Attention, step: &Step) {
    shapes::attention(y, q, k, v, a, step);
    let (outs, ins) = ([y], [q, k, v, &step.pos, &step.slot]);
    let access = cpu.access(&outs, &ins);
    let head_dim = q.cols() / a.n_head;
    let (q, pos, slot) = (access.input::<f32>(0), access.input::<i32>(3), access.input::<i32>(4));
    let caches = [Cache::new(k, access.input(1), head_dim), Cache::new(v, access.input(2), head_dim)];
    let tiles = tiles(pos, slot);
    let group = a.n_head / a.n_head_kv;
    let task = |i: usize| {
        let (rows, g) = (tiles[i / a.n_head_kv].clone(), i % a.n_head_kv);
        let slot = slot[rows.start] as usize;
        let queries = rows.flat_map(|t| (0..group).map(move |h| (t, t * a.n_head + g * group + h)));
        let (seen, at): (Vec<usize>, Vec<usize>) =
            queries.map(|(t, query)| (pos[t] as usize + 1, query * head_dim)).unzip();
        Task { q: at.iter().map(|&at| &q[at..][..head_dim]).collect(), at, seen, slot, g }
    };
    let y = Shares::new(access.out::<f32>(0));
    let finish = |task: &Task, states: &[f32]| {
        for (state, &at) in states.chunks_exact(head_dim + 2).zip(&task.at) {
            // SAFETY: a query belongs to one task, and its part of the output with it.
            let y = unsafe { y.get(at..at + head_dim) };
            y.iter_mut().zip(state).for_each(|(y, mixed)| *y = mixed / state[head_dim + 1]);
        }
    };
    let n_tasks = tiles.len() * a.n_head_kv;
    let n_chunks = pos.iter().map(|&p| (p as usize + 1).div_ceil(CHUNK)).max().unwrap_or(0);
    if n_chunks == 1 || pos.len() > TILE && n_tasks >= 4 * cpu.n_threads() {
        cpu.pool.split(n_tasks, 1, &|tasks| {
            for task in tasks.map(task) {
                let mut states = start(task.q.len(), head_dim);
                let mut part = states.clone();
                for chunk in task.chunks() {
                    attend(cpu, &mut part, &task, &caches, a.scale, chunk);
                    merge(&mut states, &part, head_dim);
                }
                finish(&task, &states);
            }
        });
        return;
    }
    let tasks: Vec<Task> = (0..n_tasks).map(task).collect();
    let mut pieces: Vec<(usize, Range<usize>)> =
        tasks.iter().enumerate().flat_map(|(i, task)| task.chunks().map(move |chunk| (i, chunk))).collect();
    // The heads of a chunk one after another: they share pages.
    pieces.sort_by_key(|(_, chunk)| chunk.start);
    let mut parts: Vec<Vec<f32>> = pieces.iter().map(|(i, _)| start(tasks[*i].q.len(), head_dim)).collect();
    cpu.pool.rows(&mut parts, 1, 1, &|i, part| {
        let (task, chunk) = &pieces[i];
        attend(cpu, &mut part[0], &tasks[*task], &caches, a.scale, chunk.clone());
    });
    let mut states: Vec<Vec<f32>> = tasks.iter().map(|task| start(task.q.len(), head_dim)).collect();
    pieces.iter().zip(&parts).for_each(|((task, _), part)| merge(&mut states[*task], part, head_dim));
    tasks.iter().zip(&states).for_each(|(task, states)| finish(task, states));
}

/// Rows of one slot, at most [`TILE`] of them.
fn tiles(pos: &[i32], slot: &[i32]) -> Vec<Range<usize>> {
    let mut tiles: Vec<Range<usize>> = vec![];
    for t in 0..pos.len() {
        match tiles.last_mut() {
            Some(tile) if tile.len() < TILE && slot[tile.start] == slot[t] => tile.end = t + 1,
            _ => tiles.push(t..t + 1),
        }
    }
    tiles
}

/// What queries know before the first chunk: for each, a mixture `sum_j e^(s_j - max) v_j`, `max`, `sum_j e^(s_j - max)`.
fn start(n_queries: usize, head_dim: usize) -> Vec<f32> {
    let mut states = vec![0.0; n_queries * (head_dim + 2)];
    states.chunks_exact_mut(head_dim + 2).for_each(|state| state[head_dim] = f32::NEG_INFINITY);
    states
}

/// Adds what queries know of the next chunk.
fn merge(states: &mut [f32], parts: &[f32], head_dim: usize) {
    let n = head_dim + 2;
    for (state, part) in states.chunks_exact_mut(n).zip(parts.chunks_exact(n)) {
        if part[head_dim] == f32::NEG_INFINITY {
            continue; // the query does not see this far
        }
        let max = state[head_dim].max(part[head_dim]);
        let (old, new) = ((state[head_dim] - max).exp(), (part[head_dim] - max).exp());
        state.iter_mut().zip(part).for_each(|(s, p)| *s = *s * old + p * new);
        state[head_dim] = max;
    }
}

thread_local! {
    /// A thread's scores and unpacked rows.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([vec![], vec![]]) };
}

/// What the queries of a task know of one chunk.
fn attend(cpu: &Cpu, parts: &mut [f32], task: &Task, caches: &[Cache; 2], scale: f32, chunk: Range<usize>) {
    let (head_dim, n) = (task.q[0].len(), chunk.len());
    let [keys, values] = caches;
    SCRATCH.with_borrow_mut(|[p, block]| {
        p.resize(task.q.len() * n, 0.0);
        block.resize(BLOCK * head_dim, 0.0);
        for first in (0..n).step_by(BLOCK) {
            let rows = &mut block[..BLOCK.min(n - first) * head_dim];
            keys.unpack(cpu, rows, head_dim, (task.slot, task.g), chunk.start + first);
            scores(cpu.kernel(Format::F32), &mut p[first..], n, &task.q, rows, scale);
        }
        for ((p, part), seen) in p.chunks_exact_mut(n).zip(parts.chunks_exact_mut(head_dim + 2)).zip(&task.seen) {
            let (p, unseen) = p.split_at_mut(seen.saturating_sub(chunk.start).min(n));
            let max = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            part.fill(0.0);
            part[head_dim] = max;
            part[head_dim + 1] = (cpu.vector.exp_sum)(p, max);
            unseen.fill(0.0);
        }
        for first in (0..n).step_by(BLOCK) {
            let rows = &mut block[..BLOCK.min(n - first) * head_dim];
            values.unpack(cpu, rows, head_dim, (task.slot, task.g), chunk.start + first);
            for (quad, parts) in parts.chunks_mut(4 * (head_dim + 2)).enumerate() {
                (cpu.vector.mix)(parts, head_dim + 2, &p[4 * quad * n + first..], n, rows, head_dim);
            }
        }
    });
}

/// `p[i * stride + j] = scale * q[i] . rows[j]`, the same for a query alone as among others.
pub(crate) fn scores(dot: &Kernel, p: &mut [f32], stride: usize, q: &[&[f32]], rows: &[f32], scale: f32) {
    let width = q[0].len();
    let (quads, rest) = q.as_chunks::<4>();
    let whole = |tile: &Tile| tile.row_bytes(width) == 4 * width;
    let tile = dot.tile.filter(whole);
    for (i, rows) in rows.chunks(4 * width).enumerate() {
        let n = rows.len() / width;
        let row = |r: usize| bytes_of(&rows[r * width..][..width]);
        for (quad, q) in quads.iter().enumerate() {
            let q = q.map(bytes_of);
            let mut emit = |r: usize, y: [f32; 4]| {
                (0..4).for_each(|h| p[(4 * quad + h) * stride + 4 * i + r] = y[h] * scale);
            };
            match tile {
                Some(tile) if n == 4 => {
                    let y = (tile.dot)([row(0), row(1), row(2), row(3)], q);
                    y.into_iter().enumerate().for_each(|(r, y)| emit(r, y));
                }
                _ => (0..n).for_each(|r| emit(r, (dot.dot4)(row(r), q))),
            }
        }
        for (h, q) in rest.iter().enumerate() {
            let p = &mut p[(4 * quads.len() + h) * stride + 4 * i..];
            (0..n).for_each(|r| p[r] = (dot.dot)(row(r), bytes_of(q)) * scale);
        }
    }
}

/// `p = e^p / (sum e^p + e^sink)`
pub(crate) fn softmax(cpu: &Cpu, p: &mut [f32], sink: f32) {
    let max = p.iter().copied().fold(sink, f32::max);
    let sum = (cpu.vector.exp_sum)(p, max) + (sink - max).exp();
    p.iter_mut().for_each(|p| *p /= sum);
}
