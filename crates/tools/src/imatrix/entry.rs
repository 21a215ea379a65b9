//! What is known of one matrix, or of the experts of a layer.

/// Sums of squares, expert after expert, and how many rows each is of.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    sums: Vec<f32>,   // [counts.len(), columns], finite, none negative; zero where the count is
    counts: Vec<u64>, // one per expert; a single one for a plain matrix, or where experts were not told apart
}

/// The importance of columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    /// `E[x[i]^2]`; all 1 where nothing was counted.
    pub columns: Vec<f32>,
    /// Rows that these are the mean of.
    pub count: u64,
}

impl Entry {
    /// An entry of what was summed and counted.
    ///
    /// # Errors
    /// Why it cannot be one, in words.
    pub fn new(sums: Vec<f32>, counts: Vec<u64>) -> Result<Entry, String> {
        if sums.is_empty() || counts.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            return Err(format!(
                "{} sums for {} counts; allowed: a multiple, and one at least",
                sums.len(),
                counts.len()
            ));
        }
        if counts.iter().all(|&count| count == 0) {
            return Err("no row was counted".into());
        }
        let n_cols = sums.len() / counts.len();
        for (i, &sum) in sums.iter().enumerate() {
            let count = counts[i / n_cols];
            if !(sum.is_finite() && sum >= 0.0) {
                return Err(format!("sum {i} is {sum}; allowed: 0 and more, and finite"));
            }
            if count == 0 && sum != 0.0 {
                return Err(format!("sum {i} is {sum}, but no row of expert {} was counted", i / n_cols));
            }
        }
        Ok(Entry { sums, counts })
    }

    /// Sums of squares by column, expert after expert.
    pub fn sums(&self) -> &[f32] {
        &self.sums
    }

    /// Rows of each expert; a single number for a plain matrix, or where experts were not told apart.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The mean of part `i` of `n`, if so many were told apart, or none were.
    pub(super) fn part(&self, i: usize, n: usize) -> Option<Importance> {
        let n_cols = self.sums.len() / n;
        let sums = &self.sums[i * n_cols..][..n_cols];
        let count = match self.counts.len() {
            n_counts if n_counts == n => self.counts[i],
            1 => told_apart(sums, self.counts[0]),
            _ => return None,
        };
        let mean = |&sum: &f32| (f64::from(sum) / count as f64) as f32;
        let columns = if count == 0 { vec![1.0; n_cols] } else { sums.iter().map(mean).collect() };
        Some(Importance { columns, count })
    }

    /// Adds what else was counted for the same tensor. Where only one of both tells experts apart, so does the sum.
    pub(super) fn add(&mut self, mut other: Entry) -> Result<(), String> {
        let n = self.counts.len().max(other.counts.len());
        if self.sums.len() != other.sums.len() || !(self.tell_apart(n) && other.tell_apart(n)) {
            let [a, b] = [&*self, &other].map(|e| format!("{} sums and {} counts", e.sums.len(), e.counts.len()));
            return Err(format!("{a} do not go with {b}"));
        }
        for (sum, more) in self.sums.iter_mut().zip(&other.sums) {
            *sum = (*sum + more).min(f32::MAX);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
        Ok(())
    }

    /// Gives each of `n` experts the count that they have together; whether it now has `n` counts.
    fn tell_apart(&mut self, n: usize) -> bool {
        if self.counts.len() == 1 && n > 1 && self.sums.len().is_multiple_of(n) {
            let n_cols = self.sums.len() / n;
            let all = self.counts[0];
            self.counts = self.sums.chunks(n_cols).map(|sums| told_apart(sums, all)).collect();
            for (sums, &count) in self.sums.chunks_mut(n_cols).zip(&self.counts) {
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
