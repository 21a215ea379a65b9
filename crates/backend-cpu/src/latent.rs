//! DeepSeek V4's attention: rows that are key and value at once, compressed rows, and the indexer that picks them.
//!
//! A query's rows are gathered and unpacked first, recent ones before compressed ones, each in ascending order; 64
//! or more heads share that work. Then four heads at a time run over the gathered rows. A batch of one spreads rows,
//! then heads, over the threads; a larger one spreads queries. The arithmetic of a query is the same either way.

use compute::{Chooser, Compressed, Compressor, Kind, Latent, Step, Tensor, reference::row, shapes};
use quant::{Format, RowFormat};

use crate::{
    Cpu,
    attention::{scores, softmax},
    memory::borrow,
    pool::Shares,
    simple,
};

/// Heads handled together.
const HEADS: usize = 4;
/// Rows mixed at a time: of 512 elements, what the first-level cache holds.
const BLOCK: usize = 16;
/// Rows that a thread unpacks or scores at a time when a single query is spread over the threads.
const ROWS: usize = 64;

/// A cache `[n_slot, n_row, width]` as bytes.
#[derive(Clone, Copy)]
struct Rows<'a> {
    bytes: &'a [u8],
    format: RowFormat,
    n_row: usize,
    row_bytes: usize,
}

impl<'a> Rows<'a> {
    fn new(t: &Tensor, bytes: &'a [u8]) -> Rows<'a> {
        let Kind::Cached(format) = t.kind() else { panic!("a cache of kind {:?}", t.kind()) };
        Rows { bytes, format, n_row: t.shape()[1], row_bytes: t.row_bytes() }
    }

    fn unpack(&self, cpu: &Cpu, out: &mut [f32], slot: usize, row: usize) {
        let row = slot * self.n_row + row % self.n_row;
        (cpu.vector.unpack)(self.format, &self.bytes[row * self.row_bytes..][..self.row_bytes], out);
    }
}

/// What a query attends to.
struct Sight<'a> {
    ring: Rows<'a>,
    window: usize,
    older: Option<(Rows<'a>, &'a Compressed, Option<&'a [i32]>)>,
}

impl Sight<'_> {
    /// How many recent and how many compressed rows row `t` of the batch, at `pos`, attends to.
    fn count(&self, t: usize, pos: usize) -> (usize, usize) {
        let older = match &self.older {
            None => 0,
            Some((_, c, None)) => (pos + 1) / c.ratio,
            Some((.., Some(chosen))) => {
                let k = chosen.len() / self.n_batch(chosen);
                chosen[t * k..][..k].iter().take_while(|&&w| w >= 0).count()
            }
        };
        (self.window.min(pos + 1), older)
    }

    fn n_batch(&self, chosen: &[i32]) -> usize {
        let Some((_, Compressed { chosen: Some(t), .. }, _)) = &self.older else { return chosen.len() };
        t.rows()
    }

    /// Unpacks row `j` of those that row `t` of the batch attends to.
    fn unpack(&self, cpu: &Cpu, out: &mut [f32], t: usize, pos: usize, slot: usize, j: usize) {
        let n_recent = self.window.min(pos + 1);
        match &self.older {
            Some((rows, _, None)) if j >= n_recent => rows.unpack(cpu, out, slot, j - n_recent),
            Some((rows, _, Some(chosen))) if j >= n_recent => {
                let k = chosen.len() / self.n_batch(chosen);
                rows.unpack(cpu, out, slot, chosen[t * k + j - n_recent] as usize);
            }
            _ => self.ring.unpack(cpu, out, slot, pos + 1 - n_recent + j),
        }
    }
}

/// See [`compute::Device::latent_attention`].
pub(crate) fn latent_attention(cpu: &Cpu, y: &Tensor, q: &Tensor, a: &Latent, step: &Step) {
    shapes::latent_attention(y, q, a, step);
    let (outs, mut ins) = ([y], vec![q, &a.ring, &a.sinks, &step.pos, &step.slot]);
    if let Some(c) = &a.compressed {
        ins.push(&c.rows);
        ins.extend(&c.chosen);
    }
    let access = cpu.access(&outs, &ins);
    let older = a
        .compressed
        .as_ref()
        .map(|c| (Rows::new(&c.rows, access.input(5)), c, c.chosen.as_ref().map(|_| access.input::<i32>(6))));
    let sight = Sight { ring: Rows::new(&a.ring, access.input(1)), window: a.window, older };
    let (q_rows, sinks) = (access.input::<f32>(0), access.input::<f32>(2));
    let (pos, slot) = (access.input::<i32>(3), access.input::<i32>(4));
    let (n_q, width) = (q.cols(), a.ring.cols());
    let n_head = (1..=HEADS).rev().find(|n| sinks.len() % n == 0).expect("1 divides all");
    let y = access.out::<f32>(0);
    if let ([pos], [slot]) = (pos, slot) {
        let (pos, slot) = (*pos as usize, *slot as usize);
        let (recent, older) = sight.count(0, pos);
        let mut scratch = cpu.scratch.lock().unwrap_or_else(|e| e.into_inner());
        let rows = scratch.hidden.get::<f32>((recent + older) * width);
        cpu.pool.rows(rows, width, ROWS, &|j, out| sight.unpack(cpu, out, 0, pos, slot, j));
        let rows: &[f32] = rows;
        cpu.pool.rows(y, n_head * width, 1, &|i, y| {
            let first = i * n_head;
            heads(cpu, y, &q_rows[first * width..][..y.len()], rows, &sinks[first..][..n_head], a.scale);
        });
    } else {
        cpu.pool.rows(y, n_q, 1, &|t, y| {
            let (pos, slot) = (pos[t] as usize, slot[t] as usize);
            let (recent, older) = sight.count(t, pos);
            let mut rows = vec![0.0; (recent + older) * width];
            rows.chunks_exact_mut(width).enumerate().for_each(|(j, out)| sight.unpack(cpu, out, t, pos, slot, j));
            let n = n_head * width;
            for ((y, q), sinks) in y.chunks_mut(n).zip(q_rows[t * n_q..].chunks(n)).zip(sinks.chunks(n_head)) {
                heads(cpu, y, q, &rows, sinks, a.scale);
            }
        });
    }
}

/// Attention of 4, 2 or 1 heads over gathered rows.
fn heads(cpu: &Cpu, y: &mut [f32], q: &[f32], rows: &[f32], sinks: &[f32], scale: f32) {
    let n_head = sinks.len();
    let width = y.len() / n_head;
    let n = rows.len() / width;
    let q: Vec<&[f32]> = q.chunks_exact(width).take(n_head).collect();
    borrow(n_head * n, |p| {
        scores(cpu.kernel(Format::F32), p, n, &q, rows, scale);
        p.chunks_exact_mut(n).zip(sinks).for_each(|(p, &sink)| softmax(cpu, p, sink));
        y.fill(0.0);
        for (i, block) in rows.chunks(BLOCK * width).enumerate() {
            (cpu.vector.mix)(y, width, &p[i * BLOCK..], n, block, width);
        }
    });
}

/// See [`compute::Device::compress`].
pub(crate) fn compress(cpu: &Cpu, kv: &Tensor, gate: &Tensor, c: &Compressor, step: &Step) {
    shapes::compress(kv, gate, c, step);
    add_ape(cpu, gate, c, step);
    emit(cpu, kv, gate, c, step);
    simple::store(cpu, &c.frontier_kv, kv, step);
    simple::store(cpu, &c.frontier_gate, gate, step);
}

fn add_ape(cpu: &Cpu, gate: &Tensor, c: &Compressor, step: &Step) {
    let (outs, ins) = ([gate], [&c.ape, &step.pos]);
    let access = cpu.access(&outs, &ins);
    let (ape, pos, width) = (access.input::<f32>(0), access.input::<i32>(1), gate.cols());
    cpu.pool.rows(access.out::<f32>(0), width, ROWS, &|t, gate| {
        (cpu.vector.axpy)(gate, 1.0, &ape[pos[t] as usize % c.ratio * width..][..width]);
    });
}

/// Stores the rows of all windows that end in this batch. Tokens of the batch are read from `kv` and `gate`, earlier
/// ones from the frontier.
fn emit(cpu: &Cpu, kv: &Tensor, gate: &Tensor, c: &Compressor, step: &Step) {
    let (outs, ins) =
        ([&c.rows], [kv, gate, &c.frontier_kv, &c.frontier_gate, &c.norm, &c.rope.freq, &step.pos, &step.slot]);
    let access = cpu.access(&outs, &ins);
    let (pos, slot) = (access.input::<i32>(6), access.input::<i32>(7));
    let ends: Vec<usize> = (0..pos.len()).filter(|&t| (pos[t] as usize + 1).is_multiple_of(c.ratio)).collect();
    let rings = [(0, &c.frontier_kv, 2), (1, &c.frontier_gate, 3)];
    let head_dim = c.rows.cols();
    // The half of token `pos`'s entry that row `t`'s window reads.
    let part = |(batch, ring, input): (usize, &Tensor, usize), t: usize, p: usize, half: usize| {
        let width = ring.cols();
        let back = pos[t] as usize - p;
        let row = match t.checked_sub(back) {
            Some(t0) if slot[t0] == slot[t] && pos[t0] as usize == p => &access.input::<f32>(batch)[t0 * width..],
            _ => {
                let n_row = ring.shape()[1];
                &access.input::<f32>(input)[(slot[t] as usize * n_row + p % n_row) * width..]
            }
        };
        &row[half * head_dim..][..head_dim]
    };
    let Kind::Cached(format) = c.rows.kind() else { panic!("a cache of kind {:?}", c.rows.kind()) };
    let (n_row, row_bytes) = (c.rows.shape()[1], c.rows.row_bytes());
    let rows = Shares::new(access.out::<u8>(0));
    let (norm, freq) = (access.input::<f32>(4), access.input::<f32>(5));
    cpu.pool.split(ends.len(), 1, &|windows| {
        for &t in &ends[windows] {
            let (last, slot) = (pos[t] as usize, slot[t] as usize);
            let first = last + 1 - c.ratio;
            let before = first.checked_sub(c.ratio).filter(|_| c.overlap).into_iter().flat_map(|p| p..p + c.ratio);
            let tokens = before.map(|p| (p, 0)).chain((first..=last).map(|p| (p, usize::from(c.overlap))));
            let slots: Vec<(&[f32], &[f32])> =
                tokens.map(|(p, half)| (part(rings[0], t, p, half), part(rings[1], t, p, half))).collect();
            let mut row = vec![0.0; head_dim];
            (cpu.vector.pool)(&mut row, &slots);
            let rms = simple::rms(cpu, &row, c.eps);
            row.iter_mut().zip(norm).for_each(|(x, w)| *x *= rms * w);
            row::rope(&mut row, &row::angles(freq, first as u32, c.rope.scale, false), c.rope.pairs, c.rope.tail);
            if c.hadamard {
                quant::hadamard(&mut row);
            }
            let at = (slot * n_row + last / c.ratio) * row_bytes;
            // SAFETY: each window has a row of its own.
            format.encode_row(&row, unsafe { rows.get(at..at + row_bytes) });
        }
    });
}

/// See [`compute::Device::choose`].
pub(crate) fn choose(cpu: &Cpu, chosen: &Tensor, q: &Tensor, weight: &Tensor, c: &Chooser, step: &Step) {
    shapes::choose(chosen, q, weight, c, step);
    let (outs, ins) = ([chosen], [q, weight, &c.rows, &step.pos, &step.slot]);
    let access = cpu.access(&outs, &ins);
    let rows = Rows::new(&c.rows, access.input(2));
    let (q_rows, weights) = (access.input::<f32>(0), access.input::<f32>(1));
    let (pos, slot) = (access.input::<i32>(3), access.input::<i32>(4));
    let (n_q, n_head, width, k) = (q.cols(), weight.cols(), c.rows.cols(), chosen.cols());
    let n_seen = |t: usize| (pos[t] as usize + 1) / c.ratio;
    let score = |out: &mut [f32], t: usize, first: usize| {
        let q: Vec<&[f32]> = q_rows[t * n_q..][..n_q].chunks_exact(width).collect();
        borrow(BLOCK * (width + n_head), |workspace| {
            let (block, heads) = workspace.split_at_mut(BLOCK * width);
            for (i, out) in out.chunks_mut(BLOCK).enumerate() {
                let block = &mut block[..out.len() * width];
                for (j, row) in block.chunks_exact_mut(width).enumerate() {
                    rows.unpack(cpu, row, slot[t] as usize, first + i * BLOCK + j);
                }
                scores(cpu.kernel(Format::F32), heads, BLOCK, &q, block, 1.0);
                out.fill(0.0);
                for (heads, v) in heads.chunks_exact(BLOCK).zip(&weights[t * n_head..]) {
                    out.iter_mut().zip(heads).for_each(|(out, s)| *out += v * c.scale * s.max(0.0));
                }
            }
        });
    };
    let chosen = access.out::<i32>(0);
    if pos.len() == 1 {
        let mut scratch = cpu.scratch.lock().unwrap_or_else(|e| e.into_inner());
        let all = scratch.hidden.get::<f32>(n_seen(0));
        all.fill(0.0);
        if all.len() > k {
            let all = Shares::new(all);
            cpu.pool.split(n_seen(0), ROWS, &|rows| {
                // SAFETY: `split` hands out every index once.
                score(unsafe { all.get(rows.clone()) }, 0, rows.start);
            });
        }
        let _ = row::top(chosen, all);
    } else {
        cpu.pool.rows(chosen, k, 1, &|t, chosen| {
            let mut all = vec![0.0; n_seen(t)];
            if all.len() > k {
                score(&mut all, t, 0);
            }
            let _ = row::top(chosen, &all);
        });
    }
}
