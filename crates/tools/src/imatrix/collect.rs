//! Sums of squares while a model runs.
//!
//! Sums are f64, over the rows in their order: batches and threads change no bit of them, nor does where experts are. What
//! meets several matrices (gate and up, or queries, keys and values) is summed once. A mixture takes eight bytes for
//! each column of each expert, about 0.5 GiB for V4 Flash.
//!
//! Rows that hold something else than numbers are told as soon as they are seen, and are in no sum: what was summed before them stays
//! of use.

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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sums: BTreeMap<Vec<Arc<str>>, Sums>,
    /// Whether there were rows that a router weighs.
    has_factors: bool,
    /// The first row that holds something else than numbers.
    broken: Option<Broken>,
}

/// What a matrix met that is no number.
#[derive(Clone)]
struct Broken {
    name: Arc<str>,
    column: usize,
    found: f32,
}

/// What the same matrices met.
struct Sums {
    squares: Vec<f64>, // [counts.len(), columns]
    counts: Vec<u64>,  // of each expert
}

impl Collector {
    /// One that has seen nothing.
    pub fn new(how: Collect) -> Arc<Collector> {
        Arc::new(Collector { how, state: Mutex::default() })
    }

    /// A device that does as `dev` does, and is watched.
    pub fn watch(self: &Arc<Self>, dev: Arc<dyn Device>) -> Arc<dyn Device> {
        Arc::new(Watched::new(dev, self.clone()))
    }

    /// Runs a chunk of a text, from its beginning, through a model on a watched device. Where that fails, what was seen of the chunk
    /// is counted.
    ///
    /// # Errors
    /// As [`Session::sync`]; [`Error::NoNumbers`], if a row holds something else.
    pub fn run(&self, session: &mut Session, ids: &[TokenId]) -> Result<(), Error> {
        session.rewind(0)?;
        let ran = match self.how.output {
            true => session.score(ids, usize::MAX, &mut |_| ControlFlow::Continue(())),
            false => session.sync(ids).map(|_| ()),
        };
        // Where that failed as well, it did because of this.
        match self.state().broken.clone() {
            Some(Broken { name, column, found }) => Err(Error::NoNumbers { entry: (*name).into(), column, found }),
            None => Ok(ran?),
        }
    }

    /// What was seen so far, in `chunk_count` chunks of `chunk_size` tokens.
    ///
    /// # Panics
    /// If chunks have no tokens.
    pub fn imatrix(&self, chunk_count: u32, chunk_size: u32) -> Imatrix {
        let mut all = Imatrix::new(chunk_size);
        let state = self.state();
        for (names, sums) in &state.sums {
            for name in names {
                let part = Entry::new(sums.squares.iter().map(|&sum| single(sum)).collect(), sums.counts.clone());
                let mut part = part.expect("sums of squares of numbers, one row at least");
                if let Some(other) = all.entries.remove(&**name) {
                    part.add(other).expect("one tensor has one size");
                }
                all.entries.insert((**name).into(), part);
            }
        }
        // Without experts, all rows count alike whatever was asked for.
        (all.chunk_count, all.down) = (chunk_count, state.has_factors.then_some(self.how.down));
        all
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher for Collector {
    fn wants(&self, weight: &str) -> bool {
        weight.starts_with("blk.") || self.how.output && OUTPUT.contains(&weight)
    }

    fn see(&self, seen: Seen<'_>) {
        let mut state = self.state();
        state.has_factors |= seen.factors.is_some();
        if let Some(broken) = broken(&seen) {
            state.broken.get_or_insert(broken);
            return;
        }
        let (expert, n_expert) = seen.expert.unwrap_or((0, 1));
        if !state.sums.contains_key(seen.weights) {
            let sums = Sums { squares: vec![0.0; n_expert * seen.cols], counts: vec![0; n_expert] };
            state.sums.insert(seen.weights.to_vec(), sums);
        }
        let sums = state.sums.get_mut(seen.weights).expect("just made, if it was not there");
        let squares = &mut sums.squares[expert * seen.cols..][..seen.cols];
        let factors = seen.factors.filter(|_| self.how.down == Rows::Weighted);
        for (t, row) in seen.rows.chunks_exact(seen.cols).enumerate() {
            let factor = factors.map_or(1.0, |factors| factors[t]);
            for (sum, x) in squares.iter_mut().zip(row) {
                let x = f64::from(factor) * f64::from(*x);
                *sum += x * x;
            }
        }
        sums.counts[expert] += (seen.rows.len() / seen.cols) as u64;
    }
}

/// The first of what is seen that is no number.
fn broken(seen: &Seen<'_>) -> Option<Broken> {
    let of = |values: &[f32]| values.iter().position(|x| !x.is_finite()).map(|i| (i, values[i]));
    let row = of(seen.rows).map(|(i, found)| (i % seen.cols, found));
    let (column, found) = row.or_else(|| Some((0, of(seen.factors?)?.1)))?;
    Some(Broken { name: seen.weights[0].clone(), column, found })
}

/// A sum as files have it; what is beyond them is the largest that they hold.
fn single(sum: f64) -> f32 {
    (sum as f32).min(f32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(collector: &Collector, weight: &str, rows: &[f32], factors: Option<&[f32]>) {
        let expert = factors.map(|_| (1, 2));
        collector.see(Seen { weights: &[weight.into()], expert, rows, cols: 2, factors });
    }

    #[test]
    fn rows_that_are_no_numbers_are_in_no_sum_and_told() {
        let collector = Collector::new(Collect { down: Rows::Weighted, output: false });
        see(&collector, "x", &[1.0, 2.0, 3.0, 4.0], None);
        see(&collector, "x", &[1.0, 1.0, 1.0, f32::NAN], None);
        see(&collector, "y", &[f32::INFINITY, 1.0], None);
        see(&collector, "z", &[1.0, 1.0], Some(&[f32::NAN]));
        let all = collector.imatrix(1, 2);
        assert_eq!(all.entries.keys().collect::<Vec<_>>(), ["x"]);
        assert_eq!((&*all.entries["x"].sums(), all.entries["x"].counts()), (&[10.0, 20.0][..], &[2][..]));
        let broken = collector.state().broken.clone().map(|broken| (broken.name, broken.column));
        assert_eq!(broken, Some(("x".into(), 1)));
    }

    #[test]
    fn sums_beyond_what_files_hold_are_the_largest_that_they_hold() {
        let collector = Collector::new(Collect { down: Rows::Weighted, output: false });
        see(&collector, "x", &[1e30, 1.0], None);
        see(&collector, "y", &[1e30, 1.0], Some(&[1e10]));
        let all = collector.imatrix(1, 2);
        assert_eq!(*all.entries["x"].sums(), [f32::MAX, 1.0]);
        assert_eq!(*all.entries["y"].sums(), [0.0, 0.0, f32::MAX, 1e20]);
    }

    #[test]
    fn how_rows_count_is_said_where_a_router_weighs_them() {
        for down in [Rows::Weighted, Rows::Alike] {
            let collector = Collector::new(Collect { down, output: false });
            see(&collector, "x", &[1.0, 1.0], None);
            assert_eq!(collector.imatrix(1, 2).down, None);
            see(&collector, "y", &[1.0, 1.0], Some(&[0.5]));
            assert_eq!(collector.imatrix(1, 2).down, Some(down));
        }
    }
}
