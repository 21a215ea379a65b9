//! Out of loops: an answer that says the same again and again goes back to where that began to show, and on by another token.
//!
//! ```text
//! some text abc abc ... abc abc abc ... abc          one block, 3 to 64 tokens
//!           '--- told ---' '-- held back --'
//!             8 times,       64 times, 2048 tokens: dropped; the first of these tokens is forbidden there, and the next
//!             256 tokens     ones are drawn hotter
//! ```
//!
//! Text that is wanted repeats itself, too, if less: what may be a loop is held back, and told at once when it turns out to be
//! none. In 13 million tokens of books, pages, code and data two places are held back, for 31 tokens each.
//!
//! Whoever came out of a loop may fall into it again. So what comes next is held back until it has been as long as it takes to see
//! that; then it goes back to the same place at once. The third time is the last: the answer ends there, without what was held back.
//!
//! Where a grammar leaves no other way, the place moves on along the loop to where there is one. If there is none in as many tokens as
//! a block may have, the grammar wants it all: then it is no loop.
//!
//! Random numbers are drawn on from the same stream, so one seed gives one answer.

use std::collections::VecDeque;

use tokenizer::TokenId;

use crate::{
    held::Held,
    reasoning::Bound,
    repeats::{N_BLOCK_MAX, Repeats, Seen},
};

/// How often an answer may go back.
const N_BACK_MAX: usize = 3;
/// How many tokens are held back behind where it went back to: as many as the longest block needs to be suspected.
const N_WATCHED: usize = 512;

/// Follows an answer.
pub(crate) struct Loops<'a> {
    repeats: Repeats,
    place: Option<Place<'a>>,
    n_back: usize,
    n_dropped: usize,
    /// Whether the answer has to say the same.
    given_up: bool,
}

/// Where an answer can go back to, with what it needs there.
pub(crate) struct Place<'a> {
    /// Tokens of the answer before it.
    pub(crate) n_ids: usize,
    pub(crate) held: Option<Held>,
    pub(crate) bound: Bound<'a>,
    /// Tokens that led into a loop there.
    pub(crate) tried: Vec<TokenId>,
    /// What was said there the last time, at most a block of it.
    path: VecDeque<TokenId>,
    /// The answer might have been complete somewhere along it.
    may_end: bool,
    /// Up to how many tokens of the answer are held back, whatever they are.
    watched_to: usize,
}

/// What is to be done after a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// Go on.
    On,
    /// Hold back what comes from here on.
    Hold,
    /// Tell what is held back.
    Release,
    /// Go back to the place.
    Back,
    /// End there.
    End,
}

/// Where an answer can go from a place with one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Along it, and then by another token than this.
    On(TokenId),
    /// Along it: the grammar wants all of the loop.
    Wanted,
    /// Nowhere but round and round, though nobody wants it to.
    None,
}

impl<'a> Loops<'a> {
    pub(crate) fn new() -> Loops<'a> {
        Loops { repeats: Repeats::new(), place: None, n_back: 0, n_dropped: 0, given_up: false }
    }

    /// Takes note of the last of `ids`.
    pub(crate) fn follow(&mut self, ids: &[TokenId]) -> Course {
        if self.given_up {
            return Course::On;
        }
        let seen = self.repeats.push(ids);
        let Some(place) = &self.place else {
            return if seen == Seen::Nothing { Course::On } else { Course::Hold };
        };
        let is_watched = ids.len() < place.watched_to;
        match seen {
            Seen::Nothing if is_watched => Course::On,
            Seen::Nothing => Course::Release,
            Seen::Suspect if !is_watched => Course::On,
            Seen::Suspect | Seen::Endless if self.n_back < N_BACK_MAX => Course::Back,
            Seen::Suspect | Seen::Endless => Course::End,
        }
    }

    /// From here on it can go back to where `n_ids` tokens were.
    pub(crate) fn hold(&mut self, n_ids: usize, held: Option<Held>, bound: Bound<'a>) {
        self.place =
            Some(Place { n_ids, held, bound, tried: Vec::new(), path: VecDeque::new(), may_end: false, watched_to: 0 });
    }

    /// It need not go back any more.
    pub(crate) fn release(&mut self) {
        self.place = None;
    }

    /// Where what is held back begins.
    pub(crate) fn place(&self) -> Option<&Place<'a>> {
        self.place.as_ref()
    }

    /// Goes back, by dropping tokens of `ids`.
    pub(crate) fn go_back(&mut self, ids: &mut Vec<TokenId>) {
        let Some(place) = &mut self.place else { return };
        place.tried.push(ids[place.n_ids]);
        place.path = ids[place.n_ids..].iter().copied().take(N_BLOCK_MAX).collect();
        place.watched_to = place.n_ids + N_WATCHED;
        self.n_back += 1;
        self.n_dropped += ids.len() - place.n_ids;
        ids.truncate(place.n_ids);
        self.repeats = Repeats::new();
        for n in 1..=ids.len() {
            self.repeats.push(&ids[..n]);
        }
    }

    /// There was one way only from the place, which is now behind the last of `ids`.
    pub(crate) fn move_on(&mut self, ids: &[TokenId], mut held: Option<Held>, bound: Bound<'a>) -> Way {
        self.repeats.push(ids);
        let Some(place) = &mut self.place else { return Way::Wanted };
        place.may_end |= held.as_mut().is_some_and(Held::may_end);
        place.path.pop_front();
        let Some(&next) = place.path.front() else {
            let may_end = place.may_end;
            (self.given_up, self.place) = (true, None);
            return if may_end { Way::None } else { Way::Wanted };
        };
        (place.n_ids, place.held, place.bound, place.tried) = (ids.len(), held, bound, vec![next]);
        Way::On(next)
    }

    /// How many times it went back.
    pub(crate) fn n_back(&self) -> usize {
        self.n_back
    }

    /// How many tokens were dropped.
    pub(crate) fn n_dropped(&self) -> usize {
        self.n_dropped
    }
}
