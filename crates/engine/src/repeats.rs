//! Answers that say the same again and again, and would until there is no room; and those that may be about to.
//!
//! A block of 3 to 64 tokens, so often in a row that nobody wanted it: at least 64 times, and over at least 2048 tokens. Tables, code
//! and lists differ from line to line, or end before that. Runs of one or two tokens, as of dashes or zeros, are no blocks, however
//! long.
//!
//! For each length, `runs` counts the tokens in a row that are what stood so many tokens before them: 64 comparisons a token.

use tokenizer::TokenId;

/// The longest block.
pub(crate) const N_BLOCK_MAX: usize = 64;
/// Shorter ones are runs of a sign.
const N_BLOCK_MIN: usize = 3;
/// How often it is said, and in how many tokens.
const N_TIMES: usize = 64;
const N_TOKENS: usize = 2048;
/// From when on it may be so.
const N_TIMES_SUSPECT: usize = 8;
const N_TOKENS_SUSPECT: usize = 256;

/// What an answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It says something new.
    Nothing,
    /// It has said the same a few times.
    Suspect,
    /// It says the same without end.
    Endless,
}

/// Follows an answer.
pub(crate) struct Repeats {
    /// By the length of the block, from 1.
    runs: [usize; N_BLOCK_MAX],
}

impl Repeats {
    pub(crate) fn new() -> Repeats {
        Repeats { runs: [0; N_BLOCK_MAX] }
    }

    /// Takes note of the last of `ids`.
    pub(crate) fn push(&mut self, ids: &[TokenId]) -> Seen {
        let Some((last, before)) = ids.split_last() else { return Seen::Nothing };
        for (n_block, run) in (1..).zip(&mut self.runs) {
            let same = before.len().checked_sub(n_block).is_some_and(|at| before[at] == *last);
            *run = if same { *run + 1 } else { 0 };
        }
        // Signs in a row make blocks of every length; within a block they are shorter than it.
        let is_run = self.runs[..N_BLOCK_MIN - 1].iter().any(|&run| run >= N_BLOCK_MAX);
        let said = |n_tokens: usize, n_times: usize| {
            let blocks = (1..).zip(&self.runs).skip(N_BLOCK_MIN - 1);
            blocks.into_iter().any(|(n_block, run)| n_block + run >= n_tokens.max(n_times * n_block))
        };
        match is_run {
            false if said(N_TOKENS, N_TIMES) => Seen::Endless,
            false if said(N_TOKENS_SUSPECT, N_TIMES_SUSPECT) => Seen::Suspect,
            _ => Seen::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many tokens it is said that there is no end.
    fn found(ids: impl IntoIterator<Item = TokenId>) -> Option<usize> {
        let (mut repeats, mut all) = (Repeats::new(), Vec::new());
        for id in ids {
            all.push(id);
            if repeats.push(&all) == Seen::Endless {
                return Some(all.len());
            }
        }
        None
    }

    /// Where suspicions began and ended.
    fn suspected(ids: impl IntoIterator<Item = TokenId>) -> Vec<usize> {
        let (mut repeats, mut all, mut changes) = (Repeats::new(), Vec::new(), Vec::new());
        for id in ids {
            all.push(id);
            let is_suspect = repeats.push(&all) != Seen::Nothing;
            if is_suspect != (changes.len() % 2 == 1) {
                changes.push(all.len());
            }
        }
        changes
    }

    fn block(n: usize) -> impl Iterator<Item = TokenId> + Clone {
        (0..n as TokenId).cycle()
    }

    #[test]
    fn a_block_without_end_is_found() {
        for n_block in [3, 4, 17, 32, 33, 64] {
            let n = N_TOKENS.max(N_TIMES * n_block);
            assert_eq!(found(block(n_block).take(2 * n)), Some(n), "{n_block}");
            let begins_late = (1000..1777).chain(block(n_block));
            assert_eq!(found(begins_late.take(3 * n)), Some(777 + n), "{n_block}");
        }
        // A row of dashes may be part of it.
        let rule = [1, 2].into_iter().chain([9; 40]).cycle();
        assert_eq!(found(rule.take(10_000)), Some(N_TIMES * 42));
    }

    #[test]
    fn a_few_blocks_are_suspect_as_long_as_they_go_on() {
        assert_eq!(suspected((100..150).chain(block(5).take(300)).chain(500..900)), [50 + 256, 50 + 301]);
        assert_eq!(suspected(block(64).take(1000)), [8 * 64]);
        assert_eq!(suspected(block(64).take(8 * 64 - 1)), [] as [usize; 0]);
        assert_eq!(suspected(block(2).take(9000)), [] as [usize; 0]);
    }

    #[test]
    fn what_ends_or_differs_is_let_alone() {
        assert_eq!(found(block(8).take(N_TOKENS - 1)), None, "a table of 255 rows that are the same");
        assert_eq!(found(block(64).take(N_TIMES * 64 - 1)), None);
        assert_eq!(found(block(65).take(100_000)), None, "longer than a block");
        for n in [1, 2] {
            assert_eq!(found(block(n).take(100_000)), None, "dashes, or zeros with commas");
        }
        // Rows with a number: one token in thirty is another one, now and then.
        let rows = (0..100_000).map(|i| if i % 30 == 7 { 1000 + i / 30 } else { i % 30 });
        assert_eq!(found(rows), None);
        // Numbers that count in digits.
        let digits = (0..20_000_u32).flat_map(|i| [i / 1000 % 10, i / 100 % 10, i / 10 % 10, i % 10, 77]);
        assert_eq!(found(digits), None);
        // Code whose lines are alike, with another name every twenty lines.
        let lines = (0..100_000_u32).map(|i| if i % 240 == 5 { 500 + i / 240 } else { i % 12 });
        assert_eq!(found(lines), None);
    }
}
