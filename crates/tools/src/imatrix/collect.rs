//! Sums of squares while a model runs.
//!
//! Sums are f64, over the rows in their order: batches and threads change no bit of them, nor does where experts are. What
//! meets several matrices (gate and up, or queries, keys and values) is summed once. A mixture takes eight bytes for
//! each column of each expert, about 0.5 GiB for V4 Flash.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use compute::{Device, Seen, Watched, Watcher};
use engine::Session;
use tokenizer::TokenId;

use super::{Entry, Error, Imatrix, Rows};

/// What is collected, and how.
#[derive(Clone, Copy, Debug)]
pub struct Collect {
    /// How rows of experts' `down` count.
    pub down: Rows,
    /// Whether the matrix that makes logits counts as well. Mostly it is kept so precise that its importance does not matter.
    pub output: bool,
}

/// The matrices that make logits; the embedding where it does both.
const OUTPUT: [&str; 2] = ["output.weight", "token_embd.weight"];

/// Sums what a model's matrices meet.
pub struct Collector {
    how: Collect,
    sums: Mutex<BTreeMap<Vec<Arc<str>>, Sums>>,
}

/// What the same matrices met.
struct Sums {
    squares: Vec<f64>, // [counts.len(), columns]
    counts: Vec<u64>,  // of each expert
}

impl Collector {
    /// One that has seen nothing.
    pub fn new(how: Collect) -> Arc<Collector> {
        Arc::new(Collector { how, sums: Mutex::default() })
    }

    /// A device that does as `dev` does, and is watched.
    pub fn watch(self: &Arc<Self>, dev: Arc<dyn Device>) -> Arc<dyn Device> {
        Arc::new(Watched::new(dev, self.clone()))
    }

    /// Runs a chunk of a text, from its beginning, through a model on a watched device.
    ///
    /// # Errors
    /// As [`Session::sync`].
    pub fn run(&self, session: &mut Session, ids: &[TokenId]) -> Result<(), engine::Error> {
        session.rewind(0)?;
        match self.how.output {
            true => session.score(ids, usize::MAX, &mut |_| ControlFlow::Continue(())),
            false => session.sync(ids).map(|_| ()),
        }
    }

    /// What was seen so far, in `chunk_count` chunks of `chunk_size` tokens.
    ///
    /// # Errors
    /// [`Error::NoNumbers`], if a row held something else.
    ///
    /// # Panics
    /// If chunks have no tokens.
    pub fn imatrix(&self, chunk_count: u32, chunk_size: u32) -> Result<Imatrix, Error> {
        let mut all = Imatrix::new(chunk_size);
        for (names, sums) in &*self.sums() {
            for name in names {
                let part = Entry::new(sums.squares.iter().map(|&sum| sum as f32).collect(), sums.counts.clone());
                let mut part = part.map_err(|why| Error::NoNumbers { entry: (**name).into(), why })?;
                if let Some(other) = all.entries.remove(&**name) {
                    part.add(other).expect("one tensor has one size");
                }
                all.entries.insert((**name).into(), part);
            }
        }
        (all.chunk_count, all.down) = (chunk_count, Some(self.how.down));
        Ok(all)
    }

    fn sums(&self) -> MutexGuard<'_, BTreeMap<Vec<Arc<str>>, Sums>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher for Collector {
    fn wants(&self, weight: &str) -> bool {
        weight.starts_with("blk.") || self.how.output && OUTPUT.contains(&weight)
    }

    fn see(&self, seen: Seen<'_>) {
        let (expert, n_expert) = seen.expert.unwrap_or((0, 1));
        let mut all = self.sums();
        if !all.contains_key(seen.weights) {
            let sums = Sums { squares: vec![0.0; n_expert * seen.cols], counts: vec![0; n_expert] };
            all.insert(seen.weights.to_vec(), sums);
        }
        let sums = all.get_mut(seen.weights).expect("just made, if it was not there");
        let squares = &mut sums.squares[expert * seen.cols..][..seen.cols];
        let factors = seen.factors.filter(|_| self.how.down == Rows::Weighted);
        for (t, row) in seen.rows.chunks_exact(seen.cols).enumerate() {
            let factor = factors.map_or(1.0, |factors| factors[t]);
            for (sum, x) in squares.iter_mut().zip(row) {
                let x = f64::from(factor * x);
                *sum += x * x;
            }
        }
        sums.counts[expert] += (seen.rows.len() / seen.cols) as u64;
    }
}
