//! The experts of a layer that are in memory: all of them, or those that were read from the SSD for what comes next.

use crate::{Kind, Tensor};

/// One expert's weights.
#[derive(Clone, Debug)]
pub struct Expert {
    /// `[n_ff, n_embd]`
    pub gate: Tensor,
    /// `[n_ff, n_embd]`
    pub up: Tensor,
    /// `[n_embd, n_ff]`
    pub down: Tensor,
}

impl Expert {
    fn form(&self) -> [(Kind, &[usize]); 3] {
        [&self.gate, &self.up, &self.down].map(|w| (w.kind(), w.shape()))
    }
}

/// Experts by number, alike in kinds and shapes; others of the layer may be elsewhere.
#[derive(Clone, Debug)]
pub struct Bank {
    n_expert: usize,
    experts: Vec<(usize, Expert)>, // ascending
}

impl Bank {
    /// Some of `n_expert` experts, by number in ascending order.
    ///
    /// # Panics
    /// If they are not in order, one differs from the others, or its matrices do not fit together.
    pub fn new(n_expert: usize, experts: Vec<(usize, Expert)>) -> Bank {
        assert!(experts.is_sorted_by(|a, b| a.0 < b.0) && experts.last().is_none_or(|last| last.0 < n_expert));
        if let Some((_, first)) = experts.first() {
            let (form, fits) = (first.form(), [first.gate.cols(), first.gate.rows()]);
            let right = first.gate.shape().len() == 2 && first.up.shape() == first.gate.shape();
            assert!(right && *first.down.shape() == fits, "an expert cannot be of {first:?}");
            assert!(experts.iter().all(|(_, e)| e.form() == form), "experts of one layer are alike");
        }
        Bank { n_expert, experts }
    }

    /// All experts of a layer, given their matrices `[n_expert, rows, cols]` one after another.
    ///
    /// # Panics
    /// If they are not as many of each, or do not fit together.
    pub fn resident(gate: &Tensor, up: &Tensor, down: &Tensor) -> Bank {
        let n = gate.shape()[0];
        assert_eq!([up.shape()[0], down.shape()[0]], [n; 2], "experts have three matrices");
        let of = |w: &Tensor, e: usize| w.slice(e..e + 1).reshape(&w.shape()[1..]);
        Bank::new(n, (0..n).map(|e| (e, Expert { gate: of(gate, e), up: of(up, e), down: of(down, e) })).collect())
    }

    /// Experts of the layer, wherever they are.
    pub fn n_expert(&self) -> usize {
        self.n_expert
    }

    /// Expert `e`, if it is here.
    ///
    /// # Panics
    /// If the layer has no such expert.
    pub fn get(&self, e: usize) -> Option<&Expert> {
        assert!(e < self.n_expert, "expert {e} of {}", self.n_expert);
        let here =
            if self.experts.len() == self.n_expert { Ok(e) } else { self.experts.binary_search_by_key(&e, |x| x.0) };
        here.ok().map(|i| &self.experts[i].1)
    }

    /// One of those that are here: all others are like it.
    pub fn any(&self) -> Option<&Expert> {
        self.experts.first().map(|(_, expert)| expert)
    }
}
