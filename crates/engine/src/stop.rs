//! Stop strings: where a text ends because of what it says.
//!
//! Text is let through as far as it cannot be the beginning of a stop string. Of several, the one that is complete
//! first counts, and of those the longest, so that it does not matter in which pieces the text came.

/// Looks for stop strings in a text that comes in pieces.
pub(crate) struct StopFinder {
    /// The strings, and what each is called.
    strings: Vec<(String, usize)>,
    /// The end of the text so far: the shortest that may begin a stop string.
    held: String,
}

impl StopFinder {
    /// Finds `strings`, called by their index. Empty ones occur nowhere.
    pub(crate) fn new<'a>(strings: impl IntoIterator<Item = &'a str>) -> StopFinder {
        let strings = strings.into_iter().zip(0..).map(|(s, i)| (s.to_owned(), i));
        StopFinder { strings: strings.filter(|(s, _)| !s.is_empty()).collect(), held: String::new() }
    }

    /// The text that `more` makes certain, and which string has been found behind it.
    pub(crate) fn push(&mut self, more: &str) -> (String, Option<usize>) {
        self.held.push_str(more);
        let found =
            self.strings.iter().filter_map(|(s, i)| self.held.find(s).map(|start| (start + s.len(), start, *i)));
        match found.min() {
            Some((_, start, i)) => {
                self.held.truncate(start);
                (self.finish(), Some(i))
            }
            None => {
                let rest = self.held.split_off(self.begun_at());
                (std::mem::replace(&mut self.held, rest), None)
            }
        }
    }

    /// What is held back, when no more text comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the first incomplete stop string in `held` begins; its end if nowhere.
    fn begun_at(&self) -> usize {
        let longest = self.strings.iter().map(|(s, _)| s.len()).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        let begins = |&at: &usize| {
            self.held.is_char_boundary(at) && self.strings.iter().any(|(s, _)| s.starts_with(&self.held[at..]))
        };
        (from..self.held.len()).find(begins).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is let through by each push, and the string found.
    fn check(strings: &[&str], pushes: &[(&str, &str)], end: Result<&str, usize>) {
        let mut finder = StopFinder::new(strings.iter().copied());
        for (i, (text, through)) in pushes.iter().enumerate() {
            let last = i + 1 == pushes.len();
            assert_eq!(finder.push(text), ((*through).to_owned(), end.err().filter(|_| last)), "{strings:?} {text:?}");
        }
        if let Ok(rest) = end {
            assert_eq!(finder.finish(), rest);
        }
    }

    #[test]
    fn nothing_is_held_back_that_cannot_become_a_stop_string() {
        check(&[], &[("a", "a"), ("\n", "\n")], Ok(""));
        check(&[""], &[("a", "a")], Ok(""));
        check(&["END"], &[("the E", "the "), ("N", ""), ("d", "ENd"), ("E", "")], Ok("E"));
        check(&["aab"], &[("aaa", "a"), ("a", "a"), ("b", "")], Err(0));
        check(&["日本"], &[("今日", "今"), ("は日", "日は")], Ok("日"));
    }

    #[test]
    fn nothing_of_a_stop_string_is_shown() {
        check(&["\n\n"], &[("a\n", "a"), ("\nb", "")], Err(0));
        check(&["User:", "\n"], &[("Hi Us", "Hi "), ("er: no\n", "")], Err(0));
        check(&["x", "日本"], &[("日", ""), ("本x", "")], Err(1));
    }

    #[test]
    fn the_first_to_be_complete_counts_and_of_those_the_longest() {
        check(&["b", "ab", "abc"], &[("xabc", "x")], Err(1));
        check(&["abcd", "bc"], &[("abcd", "a")], Err(1));
    }

    proptest! {
        #[test]
        fn what_is_found_does_not_depend_on_where_the_text_is_cut(
            text in "[abé]{0,12}",
            strings in prop::collection::vec("[abé]{0,4}", 0..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let read = |pieces: &mut dyn Iterator<Item = &str>| {
                let mut finder = StopFinder::new(strings.iter().map(String::as_str));
                let mut out = String::new();
                for piece in pieces {
                    let (text, found) = finder.push(piece);
                    out += &text;
                    if found.is_some() {
                        return (out, found);
                    }
                }
                (out + &finder.finish(), None)
            };
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.retain(|&cut| text.is_char_boundary(cut));
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let whole = read(&mut [text.as_str()].into_iter());
            prop_assert_eq!(&whole, &read(&mut cuts.windows(2).map(|cut| &text[cut[0]..cut[1]])));
            prop_assert!(strings.iter().all(|s| s.is_empty() || !whole.0.contains(s.as_str())));
        }
    }
}
