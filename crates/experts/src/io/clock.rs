//! Time that counts against a read: while somebody is awake to look at the clock.
//!
//! A program that is stopped, or a machine that sleeps, misses the time until it goes on, and so do its reads.

use std::time::{Duration, Instant};

/// How often somebody who waits looks at the clock. More than that between two looks is time that he has missed.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// Time that somebody was awake.
pub(super) struct Clock {
    awake: Duration,
    seen: Instant,
}

impl Clock {
    pub(super) fn new(now: Instant) -> Clock {
        Clock { awake: Duration::ZERO, seen: now }
    }

    /// Somebody looks. All time so far.
    pub(super) fn tick(&mut self, now: Instant) -> Duration {
        let since = now.saturating_duration_since(std::mem::replace(&mut self.seen, now));
        self.awake += since.min(TICK);
        self.awake
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_nobody_was_awake_does_not_count() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        let ticks = [500, 1500, 3_600_000, 3_600_900].map(|ms| clock.tick(start + Duration::from_millis(ms)));
        assert_eq!(ticks.map(|t| t.as_millis()), [500, 1500, 2500, 3400]);
    }
}
