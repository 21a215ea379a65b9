//! How large an arena should be that may grow: by what running tokens say, not by a formula.
//!
//! It grows by a step while tokens wait for reads and get faster by it, up to the most that was planned. When they have not
//! become faster, in two windows in a row so that chance decides little, that step was the last. It is kept: the kernel
//! holds memory that was registered with it, so there would be nothing to give back.

use crate::trial::median;

/// Tokens between steps: half of them guess, and half do not, while that is tried out.
const WINDOW: usize = 16;

/// The part of a token's time that has to be spent waiting for more memory to be of use.
const STALLED: f64 = 0.02;

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
    /// Whether it was no faster in the last window.
    was_no_faster: bool,
}

impl Growth {
    /// By `n_step` slots at a time, `n_left` at most.
    pub(crate) fn new(n_left: usize, n_step: usize) -> Growth {
        Growth { n_left, n_step: n_step.max(1), seconds: Vec::new(), stalled: 0.0, before: None, was_no_faster: false }
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
        let is_no_faster = self.before.is_some_and(|before| now >= before);
        if std::mem::replace(&mut self.was_no_faster, is_no_faster) && is_no_faster {
            self.n_left = 0;
        }
        if is_no_faster || share <= STALLED {
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

    /// Slots that are added within 1000 tokens, of 100, by steps of 30, if a window's tokens take `seconds` with so many of
    /// them and wait for a part of that.
    fn grown(seconds: impl Fn(usize, usize) -> f64, stalled: f64) -> usize {
        let mut growth = Growth::new(100, 30);
        let mut n = 0;
        for i in 0..1000 {
            let seconds = if i % 5 == 0 { 900.0 } else { seconds(i / WINDOW, n) };
            n += growth.token(seconds, seconds * stalled).unwrap_or(0);
        }
        n
    }

    #[test]
    fn it_grows_while_that_helps() {
        let faster = |n: usize| 20.0 - n as f64 / 10.0;
        assert_eq!(grown(|_, n| faster(n), 0.5), 100);
        assert_eq!(grown(|_, n| faster(n), 0.01), 0, "nobody waits");
        assert_eq!(grown(|window, n| if window == 1 { 30.0 } else { faster(n) }, 0.5), 100, "that may be chance");
        assert_eq!(grown(|_, n| faster(n.min(30)), 0.5), 60, "the second step brought nothing");
        assert_eq!(grown(|_, _| 20.0, 0.5), 30, "nor did the first");
    }
}
