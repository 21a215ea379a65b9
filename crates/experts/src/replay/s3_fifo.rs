//! S3-FIFO (Yang et al. 2023, algorithm 1): three queues, first in, first out, and a count of up to three uses for each.
//!
//! ```text
//! small  a tenth of the slots    first: used twice or more -> main, else out, and its name -> ghost
//! main   the rest                first: used -> again to the end with a use less, else out
//! ghost  names only, as many as main holds; who is chosen while its name is there enters main, others small
//! ```

use super::{Policy, queue::Queue};

/// The most uses that count.
const USES_MAX: u8 = 3;

pub(super) struct S3Fifo {
    small: Queue,
    main: Queue,
    ghost: Queue,
    uses: Vec<u8>,
    n_small: usize,
    n_main: usize,
}

impl S3Fifo {
    pub(super) fn new(n_keys: usize, n_slots: usize) -> S3Fifo {
        let n_small = (n_slots / 10).max(1);
        let queue = || Queue::new(n_keys);
        let (small, main, ghost) = (queue(), queue(), queue());
        S3Fifo { small, main, ghost, uses: vec![0; n_keys], n_small, n_main: n_slots - n_small }
    }

    /// The first of the small queue that goes; those before it are moved.
    fn of_small(&mut self, kept: &dyn Fn(usize) -> bool) -> Option<usize> {
        loop {
            let key = self.small.first(kept)?;
            if self.uses[key] < 2 {
                return Some(key);
            }
            self.small.remove(key);
            self.uses[key] = 0;
            self.main.push(key);
        }
    }

    /// The first of the main queue that goes; those before it are put back.
    fn of_main(&mut self, kept: &dyn Fn(usize) -> bool) -> Option<usize> {
        loop {
            let key = self.main.first(kept)?;
            if self.uses[key] == 0 {
                return Some(key);
            }
            self.uses[key] -= 1;
            self.main.push(key);
        }
    }
}

impl Policy for S3Fifo {
    fn choose(&mut self, key: usize, _: usize, _: usize) {
        if self.small.contains(key) || self.main.contains(key) {
            self.uses[key] = (self.uses[key] + 1).min(USES_MAX);
        }
    }

    fn enter(&mut self, key: usize) {
        self.uses[key] = 0;
        match self.ghost.remove(key) {
            true => self.main.push(key),
            false => self.small.push(key),
        }
    }

    fn leave(&mut self, key: usize) {
        if self.small.remove(key) {
            self.ghost.push_within(key, self.n_main);
        }
        self.main.remove(key);
    }

    fn victim(&mut self, kept: &dyn Fn(usize) -> bool) -> Option<usize> {
        let small = if self.small.len() >= self.n_small { self.of_small(kept) } else { None };
        small.or_else(|| self.of_main(kept)).or_else(|| self.of_small(kept))
    }
}
