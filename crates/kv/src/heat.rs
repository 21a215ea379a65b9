//! How much a piece is used: every use counts one, and half of that six hours later.
//!
//! ```text
//! heat(t) = sum over uses at u of 2^(-(t - u) / 6 h) = 2^((z - t) / 6 h)
//! ```
//!
//! All uses together are one number: the time `z` at which they have come down to one, or would have been one. It is what a
//! file's time of modification says, so that heat survives the process in a field that every file has anyway. Who sets the
//! clock makes pieces look colder or hotter for a while, within bounds.

/// Time in which a use loses half of its weight.
const HALF_LIFE_MS: f64 = 6.0 * 3_600_000.0;

/// More uses than these make no difference.
const HEAT_MAX: f64 = 1024.0;

/// The uses of a piece.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Heat(f64);

impl Heat {
    /// One use, now.
    pub(crate) fn once(now_ms: u64) -> Heat {
        Heat(now_ms as f64)
    }

    /// What a file's time of modification tells.
    pub(crate) fn of_file(modified_ms: u64) -> Heat {
        Heat(modified_ms as f64)
    }

    /// What a file's time of modification should be.
    pub(crate) fn modified_ms(self) -> u64 {
        self.0 as u64
    }

    /// Uses that are left by now, 0 to [`HEAT_MAX`].
    pub(crate) fn at(self, now_ms: u64) -> f64 {
        ((self.0 - now_ms as f64) / HALF_LIFE_MS).exp2().min(HEAT_MAX)
    }

    /// Counts one more.
    pub(crate) fn add(&mut self, now_ms: u64) {
        let more = (self.at(now_ms) + 1.0).min(HEAT_MAX);
        self.0 = now_ms as f64 + more.log2() * HALF_LIFE_MS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    const NOW_MS: u64 = 1_800_000_000_000;

    #[test]
    fn uses_add_up_and_fade() {
        let mut heat = Heat::once(NOW_MS);
        let near = |is: f64, should: f64| assert!((is - should).abs() < 1e-3, "{is} is not {should}");
        near(heat.at(NOW_MS), 1.0);
        near(heat.at(NOW_MS + 6 * HOUR_MS), 0.5);
        heat.add(NOW_MS + 6 * HOUR_MS);
        near(heat.at(NOW_MS + 6 * HOUR_MS), 1.5);
        near(Heat::of_file(heat.modified_ms()).at(NOW_MS + 12 * HOUR_MS), 0.75);
    }

    #[test]
    fn a_clock_that_is_set_does_no_lasting_harm() {
        for now_ms in [0, NOW_MS / 2, NOW_MS * 2, u64::MAX] {
            let mut heat = Heat::once(NOW_MS);
            assert!((0.0..=HEAT_MAX).contains(&heat.at(now_ms)));
            heat.add(now_ms);
            assert!((1.0..=HEAT_MAX + 1.0).contains(&heat.at(now_ms)), "{}", heat.at(now_ms));
        }
    }
}
