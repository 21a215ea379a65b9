//! `--sweep`: the lengths at which a growing context is measured.
//!
//! ```text
//! 2048..32768           2048, 4096, 8192, 16384, 32768: doubling
//! 2048..32768:x4        2048, 8192, 32768
//! 2048..10000:4096      2048, 6144, 10000: the last one is always measured
//! ```

use std::str::FromStr;

use crate::args::TOKENS_MAX;

/// From where, to where, in which steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sweep {
    start: usize,
    pub(crate) max: usize,
    grow: Grow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grow {
    By(usize),
    Times(usize),
}

impl Sweep {
    /// The lengths, ascending.
    pub(crate) fn points(self) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(self.start), move |&n| {
            let next = match self.grow {
                Grow::By(step) => n + step,
                Grow::Times(factor) => n * factor,
            };
            (n < self.max).then_some(next.min(self.max))
        })
    }

    /// Whether the lengths multiply, so that their logarithms are evenly apart.
    pub(crate) fn multiplies(self) -> bool {
        matches!(self.grow, Grow::Times(_))
    }
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Sweep, String> {
        parse(text).ok_or_else(|| {
            format!(
                "must be START..MAX, START..MAX:STEP or START..MAX:xFACTOR, \
                 with 1 <= START <= MAX <= {TOKENS_MAX}, a step of at least 1, a factor of at least 2"
            )
        })
    }
}

fn parse(text: &str) -> Option<Sweep> {
    let number = |text: &str, min: usize| text.parse().ok().filter(|n| (min..=TOKENS_MAX).contains(n));
    let (range, grow) = text.split_once(':').unwrap_or((text, "x2"));
    let (start, max) = range.split_once("..")?;
    let grow = match grow.strip_prefix('x') {
        Some(factor) => Grow::Times(number(factor, 2)?),
        None => Grow::By(number(grow, 1)?),
    };
    let (start, max) = (number(start, 1)?, number(max, 1)?);
    (start <= max).then_some(Sweep { start, max, grow })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_grows_to_its_last_length() {
        for (text, points) in [
            ("2048..32768", &[2048, 4096, 8192, 16384, 32768][..]),
            ("2048..32768:x4", &[2048, 8192, 32768]),
            ("2048..10000:4096", &[2048, 6144, 10000]),
            ("7..7", &[7]),
            ("1..4:x1073741824", &[1, 4]),
        ] {
            let sweep: Sweep = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(sweep.points().collect::<Vec<_>>(), points, "{text}");
        }
    }

    #[test]
    fn what_is_no_sweep_is_refused() {
        for text in
            ["", "5", "5..", "..5", "0..5", "6..5", "1..5:0", "1..5:x1", "1..5:", "1..5:x", "1..2000000000", "a..b"]
        {
            assert!(text.parse::<Sweep>().is_err(), "{text}");
        }
    }
}
