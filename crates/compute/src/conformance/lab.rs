//! Where a case finds its inputs: random tensors, batches, and the cuts they are computed in.

use std::{ops::Range, sync::Arc};

use quant::{Format, RowFormat};

use super::{Bound, Promise, data, data::Random};
use crate::{Device, F32, Kind, Row, Step, Tensor};

/// What a case computed, and how far it may be from the reference.
pub(super) type Outcome = Vec<(Bound, Tensor)>;

pub(super) struct Lab<'a> {
    pub(super) dev: &'a dyn Device,
    pub(super) random: Random,
    /// What a case itself found wrong.
    pub(super) claims: Vec<String>,
    /// What the device promises.
    pub(super) promise: Promise,
    cut: usize,
}

impl<'a> Lab<'a> {
    /// Inputs follow from `seed` and `name`, whatever the device and the cut.
    pub(super) fn new(dev: &'a dyn Device, cut: usize, promise: Promise, seed: u64, name: &str) -> Lab<'a> {
        Lab { dev, random: Random::new(seed, name), claims: vec![], promise, cut }
    }

    /// The ranges in which `n` rows are computed: of none, one that is empty.
    pub(super) fn cuts(&self, n: usize) -> Vec<Range<usize>> {
        let size = self.cut.min(n).max(1);
        (0..n.max(1)).step_by(size).map(|start| start..(start + size).min(n)).collect()
    }

    /// The ranges in which a batch is computed, each with its step block.
    pub(super) fn steps(&self, rows: &[Row]) -> Vec<(Range<usize>, Step)> {
        let step = |range: Range<usize>| {
            let step = Step::new(self.dev, range.len()).expect("memory for a step");
            (range.clone(), step.set(self.dev, &rows[range]))
        };
        self.cuts(rows.len()).into_iter().map(step).collect()
    }

    /// Memory for a result, filled with what is no result.
    pub(super) fn out(&self, shape: &[usize]) -> Tensor {
        self.filled(F32, shape)
    }

    /// The same for row numbers.
    pub(super) fn out_i32(&self, shape: &[usize]) -> Tensor {
        self.filled(Kind::I32, shape)
    }

    fn filled(&self, kind: Kind, shape: &[usize]) -> Tensor {
        let y = self.dev.alloc(kind, shape).expect("memory for a case");
        self.dev.write(&y, &vec![0xff; y.byte_range().len()]);
        y
    }

    /// Numbers, one by one from `value`.
    pub(super) fn f32s(&mut self, shape: &[usize], mut value: impl FnMut(&mut Random) -> f32) -> Tensor {
        let n: usize = shape.iter().product();
        let bytes: Vec<u8> = (0..n).flat_map(|_| value(&mut self.random).to_le_bytes()).collect();
        let x = self.dev.alloc(F32, shape).expect("memory for a case");
        self.dev.write(&x, &bytes);
        x
    }

    /// Numbers in `-scale..scale`.
    pub(super) fn even(&mut self, shape: &[usize], scale: f32) -> Tensor {
        self.f32s(shape, |random| random.unit() * scale)
    }

    pub(super) fn i32s(&mut self, shape: &[usize], values: &[i32]) -> Tensor {
        let x = self.dev.alloc(Kind::I32, shape).expect("memory for a case");
        self.dev.write(&x, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        x
    }

    /// Weights, loaded as a file's are.
    pub(super) fn weights(&mut self, format: Format, shape: &[usize]) -> Tensor {
        let bytes = data::weights(format, shape.iter().product(), &mut self.random);
        let w = self.dev.load(Kind::Packed(format), shape, Arc::new(bytes)).expect("memory for weights");
        self.dev.label(&w, "weights");
        w
    }

    /// A cache `[n_slot, n_row, width]` full of numbers in `-scale..scale`.
    pub(super) fn cache(&mut self, format: RowFormat, shape: [usize; 3], scale: f32) -> Tensor {
        let width = shape[2];
        let mut bytes = vec![0; shape[0] * shape[1] * format.row_bytes(width)];
        for row in bytes.chunks_exact_mut(format.row_bytes(width)) {
            let x: Vec<f32> = (0..width).map(|_| self.random.unit() * scale).collect();
            format.encode_row(&x, row);
        }
        let cache = self.dev.alloc(Kind::Cached(format), &shape).expect("memory for a cache");
        self.dev.write(&cache, &bytes);
        cache
    }

    pub(super) fn claim(&mut self, holds: bool, what: &str) {
        if !holds {
            self.claims.push(format!("not so: {what}"));
        }
    }
}

/// Batches as sessions make them: `(name, rows)`. Rows of a slot stand together; there are [`N_SLOT`] slots.
pub(super) fn batches() -> Vec<(&'static str, Vec<Row>)> {
    vec![
        ("first token", rows(&[(0, 0..1)])),
        ("token 100", rows(&[(1, 100..101)])),
        ("prompt of 70", rows(&[(2, 0..70)])),
        ("9 more at 61", rows(&[(0, 61..70)])),
        ("three sessions", rows(&[(2, 0..5), (0, 126..133), (1, 63..64)])),
        ("three decode", rows(&[(2, 7..8), (1, 47..48), (0, 87..88)])),
    ]
}

/// Slots that the batches use.
pub(super) const N_SLOT: usize = 3;
/// One more than the largest position in the batches.
pub(super) const N_POS: usize = 133;

/// Rows of the given slots at the given positions.
pub(super) fn rows(parts: &[(u32, Range<u32>)]) -> Vec<Row> {
    let part = |(slot, positions): &(u32, Range<u32>)| {
        let slot = *slot;
        positions.clone().map(move |pos| Row { id: (pos * 7 + slot * 3) % 11, pos, slot })
    };
    parts.iter().flat_map(part).collect()
}
