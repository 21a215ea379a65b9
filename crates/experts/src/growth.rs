//! How large an arena should be that may grow: by what running tokens say, not by a formula.
//!
//! It grows by a step while tokens wait for reads, up to the most that was planned. When tokens have become much slower by
//! a step, twice in a row, the memory is missing elsewhere, and that step was the last. Less than that is chance: more
//! memory for experts makes no token slower by itself.

use crate::trial::median;

/// Tokens between steps: half of them guess, and half do not, while that is tried out.
const WINDOW: usize = 16;

/// The part of a token's time that has to be spent waiting for more memory to be of use.
const STALLED: f64 = 0.02;

/// How much slower tokens may be after a step, by chance.
const SLOWER: f64 = 1.25;

/// Watches tokens, and says when to grow.
pub(crate) struct Growth {
    /// Slots that may still be added.
    n_left: usize,
    /// Slots of one step.
    n_step: usize,
    /// Seconds of each token of this window, and those waited in all of them.
    seconds: Vec<f64>,
    stalled: f64,
    /// What a token took before the last step.
    before: Option<f64>,
    /// Whether it was much slower in the last window.
    was_slower: bool,
}

impl Growth {
    /// By `n_step` slots at a time, `n_left` at most.
    pub(crate) fn new(n_left: usize, n_step: usize) -> Growth {
        Growth { n_left, n_step: n_step.max(1), seconds: Vec::new(), stalled: 0.0, before: None, was_slower: false }
    }

    /// A token took so many seconds, of which it waited `stalled`; how many slots to add now.
    pub(crate) fn token(&mut self, seconds: f64, stalled: f64) -> Option<usize> {
        if self.n_left == 0 {
            return None;
        }
        self.seconds.push(seconds);
        self.stalled += stalled;
        if self.seconds.len() < WINDOW {
            return None;
        }
        let share = std::mem::take(&mut self.stalled) / self.seconds.iter().sum::<f64>();
        let now = median(&mut self.seconds);
        self.seconds.clear();
        let is_slower = self.before.is_some_and(|before| now > before * SLOWER);
        if std::mem::replace(&mut self.was_slower, is_slower) && is_slower {
            self.n_left = 0;
        }
        if is_slower || share <= STALLED {
            return None;
        }
        self.before = Some(now);
        let n = self.n_step.min(self.n_left);
        self.n_left -= n;
        Some(n)
    }

    /// The system has no more memory to give.
    pub(crate) fn end(&mut self) {
        self.n_left = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots that are added within 1000 tokens, of 100, by steps of 30, if a token takes `seconds` with so many of them and
    /// waits for a part of that.
    fn grown(seconds: impl Fn(usize) -> f64, stalled: f64) -> usize {
        let mut growth = Growth::new(100, 30);
        let mut n = 0;
        for i in 0..1000 {
            let seconds = if i % 5 == 0 { 9.0 } else { seconds(n) };
            n += growth.token(seconds, seconds * stalled).unwrap_or(0);
        }
        n
    }

    #[test]
    fn it_grows_while_that_helps() {
        assert_eq!(grown(|n| 1.0 - n as f64 / 200.0, 0.5), 100);
        assert_eq!(grown(|_| 1.0, 0.5), 100, "chance decides nothing");
        assert_eq!(grown(|_| 1.0, 0.01), 0, "nobody waits");
        assert_eq!(grown(|n| if n > 30 { 1.2 } else { 1.0 }, 0.5), 100, "that may be chance");
        assert_eq!(grown(|n| if n > 30 { 1.3 } else { 1.0 }, 0.5), 60, "the second step was one too many");
    }
}
