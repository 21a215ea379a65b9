//! Choices that somebody wrote down, in the place of what routers choose: to measure reads and caches with them. What the
//! model then says is worth nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::trace::{Head, Trace};

/// A trace that is followed, row by row in every layer; after its end from the beginning.
pub struct Script {
    head: Head,
    layers: Vec<Rows>,
    /// How many of a hundred guesses are right; `None` if nobody guesses.
    n_right: Option<u8>,
}

/// What the rows of a layer choose, and the one that is next.
struct Rows {
    choices: Vec<i32>, // [rows, n_used]
    next: AtomicUsize,
}

impl Script {
    /// Follows `trace`. Of a hundred guesses about a layer, `n_right` are to be right.
    ///
    /// # Errors
    /// The first layer of which the trace has nothing.
    pub fn new(trace: Trace, n_right: Option<u8>) -> Result<Script, usize> {
        let head = trace.head;
        let mut layers = vec![Vec::new(); head.n_layer];
        for layer in trace.batches.into_iter().flat_map(|batch| batch.layers) {
            layers[layer.layer].extend(layer.choices);
        }
        let rows = |(i, choices): (usize, Vec<i32>)| match choices.is_empty() {
            true => Err(i),
            false => Ok(Rows { choices, next: AtomicUsize::new(0) }),
        };
        Ok(Script { head, layers: layers.into_iter().enumerate().map(rows).collect::<Result<_, _>>()?, n_right })
    }

    /// What it was made for.
    pub fn head(&self) -> Head {
        self.head
    }

    /// What the next `n_rows` rows choose in a layer.
    pub(crate) fn take(&self, layer: usize, n_rows: usize) -> Vec<i32> {
        let choices = self.peek(layer, n_rows);
        self.layers[layer].next.fetch_add(n_rows, Ordering::Relaxed);
        choices
    }

    /// The same, which stay the next ones.
    pub(crate) fn peek(&self, layer: usize, n_rows: usize) -> Vec<i32> {
        let (rows, n) = (&self.layers[layer], n_rows * self.head.n_used);
        let start = rows.next.load(Ordering::Relaxed) * self.head.n_used % rows.choices.len();
        rows.choices.iter().cycle().skip(start).take(n).copied().collect()
    }

    /// A guess at them, as good as was said.
    pub(crate) fn guess(&self, layer: usize, n_rows: usize) -> Vec<i32> {
        let n_right = u64::from(self.n_right.unwrap_or(0));
        let next = self.layers[layer].next.load(Ordering::Relaxed);
        let guess = |(i, e): (usize, i32)| {
            let random = random((next * self.head.n_used + i) as u64);
            if random % 100 < n_right { e } else { (random / 100 % self.head.n_expert as u64) as i32 }
        };
        self.peek(layer, n_rows).into_iter().enumerate().map(guess).collect()
    }

    pub(crate) fn guesses(&self) -> bool {
        self.n_right.is_some()
    }
}

/// A number of which every bit depends on all of `n` (Steele et al. 2014, `SplitMix64`).
fn random(n: u64) -> u64 {
    let n = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Batch, Layer};

    fn trace(n_rows: i32) -> Trace {
        let head = Head { n_layer: 2, n_expert: 100, n_used: 2, expert_bytes: 1 };
        let layer = |layer: usize, row: i32| Layer { layer, n_rows: 1, choices: vec![row % 100, (row + 50) % 100] };
        let batches = (0..n_rows).map(|row| Batch { layers: vec![layer(0, row), layer(1, row + 1)] });
        Trace { head, batches: batches.collect() }
    }

    #[test]
    fn rows_come_in_order_and_again_from_the_start() {
        let script = Script::new(trace(3), None).unwrap();
        assert_eq!(script.peek(0, 2), [0, 50, 1, 51]);
        assert_eq!(script.take(0, 2), [0, 50, 1, 51]);
        assert_eq!(script.take(0, 2), [2, 52, 0, 50]);
        assert_eq!(script.take(1, 1), [1, 51], "layers go on by themselves");
        assert!(Script::new(Trace { batches: Vec::new(), ..trace(1) }, None).is_err_and(|layer| layer == 0));
    }

    #[test]
    fn guesses_are_as_right_as_was_said() {
        for n_right in [0, 50, 80, 100] {
            let script = Script::new(trace(1000), Some(n_right)).unwrap();
            let right = |_| {
                let guess = script.guess(0, 1);
                let taken = script.take(0, 1);
                guess.iter().zip(&taken).filter(|(a, b)| a == b).count()
            };
            let n: usize = (0..1000).map(right).sum();
            assert!(n.abs_diff(n_right as usize * 20) < 100, "{n} of 2000 for {n_right} %");
        }
    }
}
