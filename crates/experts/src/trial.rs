//! Whether reading ahead on a guess pays: tried out while tokens are decoded, not assumed.
//!
//! ```text
//! guess | do not | guess | do not | ... | the faster of the two, for long | again from the start
//!   8       8        8       8       64               512                       tokens
//! ```
//!
//! Medians are compared, so that a token during which something else happened counts no more than another.

/// Tokens of one turn of a trial.
const TURN: usize = 8;
/// Turns, guessing in every second one.
const TURNS: usize = 8;
/// Tokens for which its outcome holds.
const HOLDS: usize = 512;

/// A trial, or its outcome.
pub(crate) struct Trial {
    /// Seconds per token, without guesses and with them.
    seconds: [Vec<f64>; 2],
    n_tokens: usize,
    pays: bool,
}

impl Trial {
    pub(crate) fn new() -> Trial {
        Trial { seconds: Default::default(), n_tokens: 0, pays: true }
    }

    /// Whether to guess for the token that is computed now.
    pub(crate) fn guesses(&self) -> bool {
        if self.n_tokens < TURN * TURNS { (self.n_tokens / TURN).is_multiple_of(2) } else { self.pays }
    }

    /// A token took so long.
    pub(crate) fn token(&mut self, seconds: f64) {
        self.seconds[usize::from(self.guesses())].push(seconds);
        self.n_tokens += 1;
        if self.n_tokens == TURN * TURNS {
            let [without, with] = &mut self.seconds;
            self.pays = median(with) < median(without);
        }
        if self.n_tokens >= TURN * TURNS {
            self.seconds.iter_mut().for_each(Vec::clear);
        }
        if self.n_tokens == TURN * TURNS + HOLDS {
            self.n_tokens = 0;
        }
    }
}

/// The middle one, or the upper of the middle two; the order of the others changes.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
impl Trial {
    /// Tokens of this trial so far.
    pub(crate) fn n_tokens(&self) -> usize {
        self.n_tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether tokens were computed with guesses, if these take as long as that.
    fn run(trial: &mut Trial, n: usize, with: f64, without: f64) -> Vec<bool> {
        let token = |i: usize| {
            let guesses = trial.guesses();
            let seconds = if guesses { with } else { without };
            trial.token(if i.is_multiple_of(5) { 100.0 } else { seconds });
            guesses
        };
        (0..n).map(token).collect()
    }

    #[test]
    fn the_faster_way_is_kept_and_tried_again() {
        let mut trial = Trial::new();
        for (with, without) in [(1.0, 1.1), (1.1, 1.0), (1.0, 1.0), (0.9, 1.0)] {
            let guessed = run(&mut trial, TURN * TURNS + HOLDS, with, without);
            let (tried, held) = guessed.split_at(TURN * TURNS);
            assert_eq!(tried.iter().filter(|&&g| g).count(), TURN * TURNS / 2);
            assert!(held.iter().all(|&g| g == (with < without)), "{with} with guesses, {without} without");
        }
    }
}
