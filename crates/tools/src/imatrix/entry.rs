//! What is known of one matrix, or of the experts of a layer.

use std::borrow::Cow;

use super::sums::{BLOCK, Sums};

/// The most rows that are told apart from more: what a file holds of them is read again.
const COUNT_MAX: u64 = 1 << 62;

/// Sums of squares, expert after expert, and how many rows each is of.
#[derive(Clone, Debug)]
pub struct Entry {
    sums: Sums,       // [counts.len(), columns], finite, none negative; zero where the count is
    counts: Vec<u64>, // one per expert; a single one for a plain matrix, or where experts were not told apart
}

/// The importance of columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    /// `E[x[i]^2]`; all 1 where nothing was counted, for whoever has no better guess.
    pub columns: Vec<f32>,
    /// Rows that these are the mean of; none, if nothing is known.
    pub count: u64,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.counts == other.counts && self.sums() == other.sums()
    }
}

impl Entry {
    /// An entry of what was summed and counted.
    ///
    /// # Errors
    /// Why it cannot be one, in words.
    pub fn new(sums: Vec<f32>, counts: Vec<u64>) -> Result<Entry, String> {
        Entry::of(Sums::Here(sums), counts)
    }

    pub(super) fn of(sums: Sums, counts: Vec<u64>) -> Result<Entry, String> {
        let n = sums.len();
        if n == 0 || counts.is_empty() || !n.is_multiple_of(counts.len()) {
            return Err(format!("{n} sums for {} counts; allowed: a multiple, and one at least", counts.len()));
        }
        if counts.iter().all(|&count| count == 0) {
            return Err("no row was counted".into());
        }
        let entry = Entry { sums, counts };
        for first in (0..n).step_by(BLOCK) {
            let block = entry.sums.get(first..n.min(first + BLOCK));
            (first..).zip(&*block).try_for_each(|(i, &sum)| entry.check(i, sum))?;
        }
        Ok(entry)
    }

    fn check(&self, i: usize, sum: f32) -> Result<(), String> {
        if !(sum.is_finite() && sum >= 0.0) {
            return Err(format!("sum {i} is {sum}; allowed: 0 and more, and finite"));
        }
        let expert = i / self.n_cols();
        match self.counts[expert] == 0 && sum != 0.0 {
            true => Err(format!("sum {i} is {sum}, but no row of expert {expert} was counted")),
            false => Ok(()),
        }
    }

    /// Sums of squares by column, expert after expert; of an entry that was read, copied from its file.
    pub fn sums(&self) -> Cow<'_, [f32]> {
        self.sums.all()
    }

    /// How many there are.
    pub fn n_sums(&self) -> usize {
        self.sums.len()
    }

    /// Columns of each expert's matrix; of all together, where experts were not told apart.
    pub fn n_cols(&self) -> usize {
        self.sums.len() / self.counts.len()
    }

    /// Rows of each expert; a single number for a plain matrix, or where experts were not told apart.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Whether `n` parts were told apart, or none were.
    pub(super) fn has_parts(&self, n: usize) -> bool {
        self.counts.len() == n || self.counts.len() == 1
    }

    /// Checks that its file, if its sums are still there, is what it was when it was read.
    pub(super) fn check_unchanged(&self) -> Result<(), gguf::Error> {
        self.sums.check_unchanged()
    }

    /// The mean of part `i` of `n`.
    pub(super) fn part(&self, i: usize, n: usize) -> Importance {
        let n_cols = self.sums.len() / n;
        let sums = self.sums.get(i * n_cols..(i + 1) * n_cols);
        let count = if self.counts.len() == n { self.counts[i] } else { told_apart(&sums, self.counts[0]) };
        let mean = |&sum: &f32| (f64::from(sum) / count as f64) as f32;
        let columns = if count == 0 { vec![1.0; n_cols] } else { sums.iter().map(mean).collect() };
        Importance { columns, count }
    }

    /// Of a matrix that is cut into groups of `n_cols` columns: the sum of all groups, as they count for the same columns. The entry
    /// itself, if it has another length.
    pub(super) fn fold(&self, n_cols: usize) -> Entry {
        let n = self.sums.len() / n_cols;
        if n < 2 || n * n_cols != self.sums.len() || !self.has_parts(n) {
            return self.clone();
        }
        let mut sums = vec![0f64; n_cols];
        for group in self.sums().chunks(n_cols) {
            sums.iter_mut().zip(group).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let sums = sums.into_iter().map(|sum| (sum as f32).min(f32::MAX)).collect();
        let count = self.counts.iter().fold(0u64, |all, &count| all.saturating_add(count));
        let times = (n / self.counts.len()) as u64;
        Entry { sums: Sums::Here(sums), counts: vec![count.saturating_mul(times).min(COUNT_MAX)] }
    }

    /// Adds what else was counted for the same tensor. Where only one of both tells experts apart, so does the sum.
    pub(super) fn add(&mut self, mut other: Entry) -> Result<(), String> {
        let n = self.counts.len().max(other.counts.len());
        if self.n_sums() != other.n_sums() || !(self.tell_apart(n) && other.tell_apart(n)) {
            let [a, b] = [&*self, &other].map(|e| format!("{} sums and {} counts", e.n_sums(), e.counts.len()));
            return Err(format!("{a} do not go with {b}"));
        }
        for (sum, more) in self.sums.to_mut().iter_mut().zip(&*other.sums()) {
            *sum = (*sum + more).min(f32::MAX);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more).min(COUNT_MAX);
        }
        Ok(())
    }

    /// Gives each of `n` experts the count that they have together; whether it now has `n` counts.
    fn tell_apart(&mut self, n: usize) -> bool {
        if self.counts.len() == 1 && n > 1 && self.sums.len().is_multiple_of(n) {
            let n_cols = self.sums.len() / n;
            let (all, sums) = (self.counts[0], self.sums.to_mut());
            self.counts = sums.chunks(n_cols).map(|sums| told_apart(sums, all)).collect();
            for (sums, &count) in sums.chunks_mut(n_cols).zip(&self.counts) {
                sums.iter_mut().filter(|_| count == 0).for_each(|sum| *sum = 0.0);
            }
        }
        self.counts.len() == n
    }
}

/// The rows of an expert, of which a file says only how many `all` were taken for: none if each mean is exactly 1, which is
/// what such files hold for experts that no row met.
fn told_apart(sums: &[f32], all: u64) -> u64 {
    if sums.iter().all(|&sum| f64::from(sum) == all as f64) { 0 } else { all }
}
