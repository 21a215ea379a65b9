//! Experts that the corpus rarely or never met. Their importance is a guess, or none at all, and so is what a quantiser
//! makes of it.

use super::Entry;

/// How often the experts of a layer were met.
#[derive(Clone, Debug, PartialEq)]
pub struct Coverage {
    /// Experts that were never met, ascending.
    pub never: Vec<usize>,
    /// Those met by less than a hundredth of the mean, the least first.
    pub rarely: Vec<usize>,
    /// Rows of the expert with the fewest, and with the most.
    pub range: [u64; 2],
    /// Rows per expert.
    pub mean: f64,
}

impl Coverage {
    /// Of an entry that counts experts apart.
    pub(super) fn of(entry: &Entry) -> Option<Coverage> {
        let counts = entry.counts();
        if counts.len() < 2 {
            return None;
        }
        let mean = counts.iter().map(|&count| count as f64).sum::<f64>() / counts.len() as f64;
        let experts = |of: &dyn Fn(u64) -> bool| Vec::from_iter((0..counts.len()).filter(|&e| of(counts[e])));
        let mut rarely = experts(&|count| count > 0 && (count as f64) < mean / 100.0);
        rarely.sort_by_key(|&e| counts[e]);
        let range = [counts.iter().min(), counts.iter().max()].map(|count| count.copied().unwrap_or(0));
        Some(Coverage { never: experts(&|count| count == 0), rarely, range, mean })
    }
}
