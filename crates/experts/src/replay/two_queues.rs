//! 2Q (Johnson & Shasha 1994, the full version): who is new waits in a short queue, and is kept longer only when it comes
//! again after it has left that one.
//!
//! ```text
//! new   first in, first out; a quarter of the slots      -> gone: only the names of the last ones, half as many as slots
//! hot   least recently used goes                          <- who is chosen while its name is among the gone
//! ```

use super::{Policy, queue::Queue};

pub(super) struct TwoQueues {
    new: Queue,
    hot: Queue,
    gone: Queue,
    n_new: usize,
    n_gone: usize,
}

impl TwoQueues {
    pub(super) fn new(n_keys: usize, n_slots: usize) -> TwoQueues {
        let queue = || Queue::new(n_keys);
        TwoQueues { new: queue(), hot: queue(), gone: queue(), n_new: n_slots / 4, n_gone: n_slots / 2 }
    }
}

impl Policy for TwoQueues {
    fn choose(&mut self, key: usize, _: usize, _: usize) {
        if self.hot.contains(key) {
            self.hot.push(key);
        }
    }

    fn enter(&mut self, key: usize) {
        match self.gone.remove(key) {
            true => self.hot.push(key),
            false => self.new.push(key),
        }
    }

    fn leave(&mut self, key: usize) {
        if self.new.remove(key) {
            self.gone.push_within(key, self.n_gone);
        }
        self.hot.remove(key);
    }

    fn victim(&mut self, kept: &dyn Fn(usize) -> bool) -> Option<usize> {
        let (first, second) = if self.new.len() > self.n_new { (&self.new, &self.hot) } else { (&self.hot, &self.new) };
        first.first(kept).or_else(|| second.first(kept))
    }
}
