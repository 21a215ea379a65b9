//! What a token costs. Decoding reads every byte of it, so that memory bounds it; prefill shares the weights among the
//! rows of a batch, so that multiplying bounds it.

use std::{iter::Sum, ops::Add};

use compute::Tensor;

/// Bytes read, and multiply-adds done with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes, as they are stored.
    pub n_bytes: u64,
    /// Multiply-adds.
    pub n_mac: u64,
}

/// The work for one token. Vectors, and the row of its embedding, are too small to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Weights of all layers; of experts, those that are used.
    pub layers: Work,
    /// Weights that make the logits: a prompt needs them for its last token only.
    pub logits: Work,
    /// Cached rows that the token looks at.
    pub attention: Work,
}

impl Work {
    /// The product with a matrix.
    pub(crate) fn of(w: &Tensor) -> Work {
        Work { n_bytes: w.byte_range().len() as u64, n_mac: (w.rows() * w.cols()) as u64 }
    }

    /// The same `n` times.
    pub(crate) fn times(self, n: usize) -> Work {
        Work { n_bytes: self.n_bytes * n as u64, n_mac: self.n_mac * n as u64 }
    }
}

impl Add for Work {
    type Output = Work;

    fn add(self, other: Work) -> Work {
        Work { n_bytes: self.n_bytes + other.n_bytes, n_mac: self.n_mac + other.n_mac }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Work>>(works: I) -> Work {
        works.fold(Work::default(), Work::add)
    }
}
