//! Which expert is worth its slot: how often it was chosen, with old choices counting less.
//!
//! A choice adds the share of the batch's rows that made it, so that a prompt of hundreds of tokens, which brings nearly
//! every expert once, does not push out what decoding lives on. Every [`HALF_LIFE`] batches halve what was. Until its
//! layer chooses again, a choice ranks as if it were [`LATEST`] more: what one token needed, the next often needs, too.
//!
//! ```text
//! heat(now) = heat(seen) * 2^-((now - seen) / HALF_LIFE)
//! score     = log2(heat) + now / HALF_LIFE               the same at any time until the next choice
//! ```
//!
//! All cool alike, so scores put experts in the order of their heat for good: the coldest one is the first of an ordered
//! set, however many there are.

use std::cmp::Ordering;

use crate::ranked::Ranked;

/// Batches of a layer after which a choice counts half.
const HALF_LIFE: f64 = 32.0;

/// How much more a layer's last choices count than others.
const LATEST: f64 = 4.0;

/// No choices make an expert hotter: `1 / (1 - 2^-(1 / HALF_LIFE))` is below 47.
pub(crate) const HEAT_MAX: f32 = 50.0;

/// Heat of every expert of every layer, and the order of those in memory.
pub(crate) struct Heat {
    n_expert: usize,
    scores: Vec<Score>, // layer * n_expert + expert
    /// What of that was given, not earned by choices.
    given: Vec<Score>,
    /// Those in memory, by the same with what the last choices count more.
    here: Ranked<Score>,
    /// What each layer chose last.
    latest: Vec<Vec<usize>>,
    /// Batches that each layer has seen.
    n_batches: Vec<u32>,
}

/// A place in the order of heat.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Score(f64);

impl Score {
    /// Above every expert's.
    pub(crate) const HOTTEST: Score = Score(f64::INFINITY);
}

impl Eq for Score {}

impl Ord for Score {
    fn cmp(&self, other: &Score) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Score) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Heat {
    pub(crate) fn new(n_layer: usize, n_expert: usize) -> Heat {
        let (n, never) = (n_layer * n_expert, Score(f64::NEG_INFINITY));
        let (here, latest) = (Ranked::new(n, never), vec![Vec::new(); n_layer]);
        Heat { n_expert, scores: vec![never; n], given: vec![never; n], here, latest, n_batches: vec![0; n_layer] }
    }

    /// A batch begins in a layer.
    pub(crate) fn tick(&mut self, layer: usize) {
        while let Some(key) = self.latest[layer].pop() {
            self.here.set(key, self.scores[key]);
        }
        self.n_batches[layer] += 1;
    }

    /// Expert `e` was chosen by this share of the batch's rows.
    pub(crate) fn add(&mut self, layer: usize, e: usize, share: f32) {
        let key = layer * self.n_expert + e;
        let heat = self.of(key) + f64::from(share);
        self.scores[key] = self.score(key, heat);
        self.here.set(key, self.score(key, heat + LATEST * f64::from(share)));
        self.latest[layer].push(key);
    }

    /// An expert is as hot as that, now, by what is known of earlier runs.
    pub(crate) fn give(&mut self, key: usize, heat: f64) {
        self.scores[key] = self.score(key, heat);
        self.given[key] = self.scores[key];
        self.here.set(key, self.scores[key]);
    }

    fn score(&self, key: usize, heat: f64) -> Score {
        Score(heat.log2() + self.age(key / self.n_expert))
    }

    /// An expert is in memory from now on.
    pub(crate) fn enter(&mut self, key: usize) {
        self.here.insert(key);
    }

    /// No longer.
    pub(crate) fn leave(&mut self, key: usize) {
        self.here.remove(key);
    }

    /// Those in memory, coldest first.
    pub(crate) fn coldest(&self) -> impl Iterator<Item = usize> {
        self.here.iter()
    }

    /// What decides when an expert would go, whether it is in memory or not.
    pub(crate) fn rank(&self, key: usize) -> Score {
        self.here.rank(key)
    }

    /// The rank that an expert would have if its layer's next batch chose it by this share of its rows.
    pub(crate) fn rank_if_chosen(&self, key: usize, share: f64) -> Score {
        let then = self.age(key / self.n_expert) + 1.0 / HALF_LIFE;
        let heat = (self.scores[key].0 - then).exp2() + share;
        Score((heat + LATEST * share).log2() + then)
    }

    /// How hot an expert is now.
    pub(crate) fn of(&self, key: usize) -> f64 {
        self.now(key, self.scores[key])
    }

    /// How much of that is due to choices.
    pub(crate) fn earned(&self, key: usize) -> f64 {
        self.of(key) - self.now(key, self.given[key])
    }

    fn now(&self, key: usize, score: Score) -> f64 {
        (score.0 - self.age(key / self.n_expert)).exp2()
    }

    fn age(&self, layer: usize) -> f64 {
        f64::from(self.n_batches[layer]) / HALF_LIFE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_choices_count_less_and_prompts_little() {
        let mut heat = Heat::new(2, 4);
        heat.tick(0);
        heat.add(0, 1, 1.0);
        heat.add(0, 2, 6.0 / 512.0);
        assert!(heat.of(1) > heat.of(2) && heat.of(2) > heat.of(3) && heat.of(3) == 0.0);
        (0..HALF_LIFE as u32).for_each(|_| heat.tick(0));
        assert!((heat.of(1) - 0.5).abs() < 1e-9);
        heat.tick(1);
        heat.add(1, 1, 1.0);
        assert!(heat.of(5) > heat.of(1), "other layers' time does not pass");
    }

    #[test]
    fn the_coldest_comes_first_of_those_that_are_here() {
        let mut heat = Heat::new(1, 5);
        for (key, n) in [(0, 3), (1, 1), (2, 2), (3, 5)] {
            (0..n).for_each(|_| heat.add(0, key, 1.0));
            heat.enter(key);
        }
        assert_eq!(heat.coldest().collect::<Vec<_>>(), [1, 2, 0, 3]);
        (0..4).for_each(|_| heat.add(0, 1, 1.0));
        heat.tick(0);
        heat.leave(0);
        heat.enter(4);
        assert_eq!(heat.coldest().collect::<Vec<_>>(), [4, 2, 1, 3], "4 was never chosen");
        (0..200_000).for_each(|_| heat.tick(0));
        heat.add(0, 4, 1.0);
        assert_eq!(heat.coldest().collect::<Vec<_>>(), [2, 1, 3, 4], "after a long time");
    }

    #[test]
    fn what_is_given_is_not_earned() {
        let mut heat = Heat::new(1, 2);
        heat.give(0, 8.0);
        (0..40).for_each(|_| heat.tick(0));
        assert!(heat.of(0) > 3.0 && heat.earned(0) == 0.0);
        heat.add(0, 0, 0.5);
        assert!((heat.earned(0) - 0.5).abs() < 1e-9 && heat.earned(1) == 0.0);
    }

    #[test]
    fn nothing_gets_hotter_than_the_most() {
        let mut heat = Heat::new(1, 1);
        (0..10_000).for_each(|_| {
            heat.tick(0);
            heat.add(0, 0, 1.0);
        });
        assert!((0.9 * HEAT_MAX..HEAT_MAX).contains(&(heat.of(0) as f32)));
    }

    #[test]
    fn what_will_be_chosen_ranks_as_if_it_had_been() {
        let mut heat = Heat::new(2, 2);
        heat.give(2, 2.0);
        let ranks = [0.4, 0.7, 1.0].map(|share| heat.rank_if_chosen(2, share));
        heat.tick(0);
        heat.add(0, 0, 1.0);
        assert!(ranks[0] < heat.rank(0) && heat.rank(0) < ranks[1], "what was chosen last counts more in both");
        heat.tick(1);
        heat.add(1, 0, 1.0);
        assert!(heat.rank(2) == ranks[2]);
    }

    #[test]
    fn what_a_layer_chose_last_stays_until_it_chooses_again() {
        let mut heat = Heat::new(2, 2);
        for key in [0, 0, 0, 1] {
            heat.tick(0);
            heat.add(0, key, 1.0);
        }
        (0..2).for_each(|key| heat.enter(key));
        assert_eq!(heat.coldest().collect::<Vec<_>>(), [0, 1]);
        heat.tick(1);
        assert_eq!(heat.coldest().collect::<Vec<_>>(), [0, 1], "of another layer");
        heat.tick(0);
        assert_eq!(heat.coldest().collect::<Vec<_>>(), [1, 0]);
        assert!(heat.of(0) > heat.of(1));
    }
}
