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

/// Experts by number, alike in kinds and shapes; some may be elsewhere.
#[derive(Clone, Debug)]
pub struct Bank(Vec<Option<Expert>>);

impl Bank {
    /// A bank of these experts.
    ///
    /// # Panics
    /// If one differs from the others, or its matrices do not fit together.
    pub fn new(experts: Vec<Option<Expert>>) -> Bank {
        if let Some(first) = experts.iter().flatten().next() {
            let (form, fits) = (first.form(), [first.gate.cols(), first.gate.rows()]);
            let right = first.gate.shape().len() == 2 && first.up.shape() == first.gate.shape();
            assert!(right && *first.down.shape() == fits, "an expert cannot be of {first:?}");
            assert!(experts.iter().flatten().all(|e| e.form() == form), "experts of one layer are alike");
        }
        Bank(experts)
    }

    /// All experts of a layer, given their matrices `[n_expert, rows, cols]` one after another.
    ///
    /// # Panics
    /// If they are not as many of each, or do not fit together.
    pub fn resident(gate: &Tensor, up: &Tensor, down: &Tensor) -> Bank {
        let n = gate.shape()[0];
        assert_eq!([up.shape()[0], down.shape()[0]], [n; 2], "experts have three matrices");
        let of = |w: &Tensor, e: usize| w.slice(e..e + 1).reshape(&w.shape()[1..]);
        Bank::new((0..n).map(|e| Some(Expert { gate: of(gate, e), up: of(up, e), down: of(down, e) })).collect())
    }

    /// Experts that the layer has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the layer has no experts.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Expert `e`, if it is here.
    ///
    /// # Panics
    /// If the layer has no such expert.
    pub fn get(&self, e: usize) -> Option<&Expert> {
        self.0[e].as_ref()
    }

    /// One of those that are here: all others are like it.
    pub fn any(&self) -> Option<&Expert> {
        self.0.iter().flatten().next()
    }
}
