//! Traces that nobody recorded, to measure with. The same recipe gives the same trace.
//!
//! | name | a row chooses |
//! |---|---|
//! | `uniform` | any experts, all equally likely |
//! | `zipf:S` | by popularity: the r-th of a layer's experts has weight `r^-S`; each layer has its own order |
//! | `drift:S` | the same, but with every token two experts of each layer change places in that order |
//! | `cycle` | those that were not chosen longest: row `t` takes `n_used` in turn from `t * n_used` on |
//!
//! Rows can also keep experts of the row before, and answers have topics, each with orders of its own.

use std::str::FromStr;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};

use super::{Batch, Head, Layer};

/// How rows choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// All experts are equally likely.
    Uniform,
    /// The r-th has weight `r^-S`.
    Zipf(f64),
    /// The same, in an order that changes.
    Drift(f64),
    /// One after another.
    Cycle,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Choice, String> {
        let skew = |s: &str| s.parse().ok().filter(|s| (0.0..=10.0).contains(s));
        let choice = match text.split_once(':') {
            None if text == "uniform" => Some(Choice::Uniform),
            None if text == "cycle" => Some(Choice::Cycle),
            Some(("zipf", s)) => skew(s).map(Choice::Zipf),
            Some(("drift", s)) => skew(s).map(Choice::Drift),
            _ => None,
        };
        choice.ok_or_else(|| "must be uniform, cycle, zipf:S or drift:S, with S from 0 to 10 as in zipf:1.0".into())
    }
}

/// What a trace is made by.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The model.
    pub head: Head,
    /// How rows choose.
    pub choice: Choice,
    /// Tokens that are decoded, one by one.
    pub n_decode: usize,
    /// Tokens of the prompt before every answer, in one batch; 0 for none.
    pub n_prompt: usize,
    /// Tokens of an answer.
    pub n_answer: usize,
    /// Chance of each expert of the row before to be chosen again; the others are drawn. Not for a cycle.
    pub keep: f64,
    /// Topics, at least one: a prompt and its answer have one, and the next the next.
    pub n_topic: usize,
    /// Of the random numbers.
    pub seed: u64,
}

impl Recipe {
    /// The batches, one after another.
    pub fn batches(self) -> impl Iterator<Item = Batch> {
        let mut router = Router::new(&self);
        let answers = (0..self.n_decode).step_by(self.n_answer.max(1)).enumerate();
        let batches = move |(i, first): (usize, usize)| {
            let n_answer = self.n_answer.max(1).min(self.n_decode - first);
            let prompt = (self.n_prompt > 0).then_some(self.n_prompt);
            prompt.into_iter().chain(std::iter::repeat_n(1, n_answer)).map(move |n_rows| (i, n_rows))
        };
        answers.flat_map(batches).map(move |(i, n_rows)| router.batch(i % self.n_topic.max(1), n_rows))
    }
}

struct Router {
    head: Head,
    choice: Choice,
    keep: f64,
    rng: ChaCha8Rng,
    weights: Vec<f64>, // by rank
    /// Of each layer of each topic, experts by rank.
    orders: Vec<Vec<i32>>,
    /// What the last row chose in each layer.
    last: Vec<Vec<i32>>,
    /// Rows so far.
    n_rows: usize,
}

impl Router {
    fn new(recipe: &Recipe) -> Router {
        let Recipe { head, choice, keep, .. } = *recipe;
        let skew = match choice {
            Choice::Zipf(s) | Choice::Drift(s) => s,
            Choice::Uniform | Choice::Cycle => 0.0,
        };
        let weights = (1..=head.n_expert).map(|rank| (rank as f64).powf(-skew)).collect();
        let orders = vec![(0..head.n_expert as i32).collect(); head.n_layer * recipe.n_topic.max(1)];
        let (rng, last) = (ChaCha8Rng::seed_from_u64(recipe.seed), vec![Vec::new(); head.n_layer]);
        let mut router = Router { head, choice, keep, rng, weights, orders, last, n_rows: 0 };
        (0..router.orders.len()).for_each(|order| router.shuffle(order));
        router
    }

    fn batch(&mut self, topic: usize, n_rows: usize) -> Batch {
        let layer = |layer| Layer { layer, n_rows, choices: Vec::new() };
        let mut batch = Batch { layers: (0..self.head.n_layer).map(layer).collect() };
        for _ in 0..n_rows {
            for l in &mut batch.layers {
                let row = self.row(topic, l.layer);
                l.choices.extend(&row);
                self.last[l.layer] = row;
            }
            self.n_rows += 1;
        }
        batch
    }

    fn row(&mut self, topic: usize, layer: usize) -> Vec<i32> {
        let Head { n_layer, n_expert, n_used, .. } = self.head;
        let order = topic * n_layer + layer;
        if self.choice == Choice::Cycle {
            let first = self.n_rows % n_expert * n_used;
            return (first..first + n_used).map(|e| (e % n_expert) as i32).collect();
        }
        if let Choice::Drift(_) = self.choice {
            let (a, b) = (self.below(n_expert), self.below(n_expert));
            self.orders[order].swap(a, b);
        }
        let mut row = std::mem::take(&mut self.last[layer]);
        row.retain(|_| self.keep > 0.0 && self.unit() <= self.keep);
        for rank in self.draw() {
            let e = self.orders[order][rank];
            if row.len() < n_used && !row.contains(&e) {
                row.push(e);
            }
        }
        row
    }

    /// Ranks by weight, none twice: those of the least waiting times, whose rates are the weights.
    fn draw(&mut self) -> impl Iterator<Item = usize> + use<> {
        let Head { n_expert, n_used, .. } = self.head;
        let wait = |rank| (-self.unit().ln() / self.weights[rank], rank);
        let mut waits: Vec<(f64, usize)> = (0..n_expert).map(wait).collect();
        if n_used < n_expert {
            waits.select_nth_unstable_by(n_used, |a, b| a.0.total_cmp(&b.0));
            waits.truncate(n_used);
        }
        waits.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        waits.into_iter().map(|(_, rank)| rank)
    }

    fn shuffle(&mut self, order: usize) {
        for i in (1..self.head.n_expert).rev() {
            let j = self.below(i + 1);
            self.orders[order].swap(i, j);
        }
    }

    /// Above 0, at most 1.
    fn unit(&mut self) -> f64 {
        ((self.rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.rng.next_u64()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn recipe(head: Head, choice: Choice) -> Recipe {
        Recipe { head, choice, n_decode: 0, n_prompt: 0, n_answer: 1, keep: 0.0, n_topic: 1, seed: 1 }
    }

    fn batches(choice: &str, n_expert: usize, n_used: usize, n_decode: usize) -> Vec<Batch> {
        let head = Head { n_layer: 2, n_expert, n_used, expert_bytes: 1 };
        let choice = choice.parse().unwrap();
        Recipe { n_decode, ..recipe(head, choice) }.batches().collect()
    }

    /// How often each expert of a layer was chosen, most often first.
    fn counts(batches: &[Batch], layer: usize, n_expert: usize) -> Vec<usize> {
        let mut counts = vec![0; n_expert];
        batches.iter().flat_map(|b| &b.layers[layer].choices).for_each(|&e| counts[e as usize] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
    }

    #[test]
    fn rows_choose_different_experts_that_exist() {
        for choice in ["uniform", "cycle", "zipf:1.2", "drift:10"] {
            for (n_expert, n_used) in [(1, 1), (5, 5), (7, 3)] {
                for l in batches(choice, n_expert, n_used, 40).iter().flat_map(|b| &b.layers) {
                    let all: HashSet<i32> = l.choices.iter().copied().filter(|&e| (e as usize) < n_expert).collect();
                    assert_eq!((all.len(), l.choices.len()), (n_used, n_used), "{choice}");
                }
            }
        }
    }

    #[test]
    fn popularity_falls_with_the_rank() {
        let flat = counts(&batches("uniform", 10, 1, 10_000), 0, 10);
        assert!(flat[0] < 1150 && flat[9] > 850, "{flat:?}");
        let steep = counts(&batches("zipf:1.0", 10, 1, 10_000), 1, 10);
        let sum: f64 = (1..=10).map(|r| 1.0 / f64::from(r)).sum();
        for (rank, &n) in (1..).zip(&steep) {
            let expected = 10_000.0 / f64::from(rank) / sum;
            assert!((n as f64 - expected).abs() < 5.0 * expected.sqrt(), "rank {rank}: {n} instead of {expected}");
        }
    }

    #[test]
    fn drift_moves_popularity_on() {
        let most = |batches: &[Batch]| {
            let mut counts = [0; 16];
            batches.iter().for_each(|b| counts[b.layers[0].choices[0] as usize] += 1);
            (0..16).max_by_key(|&e| counts[e]).unwrap()
        };
        let favourites = |choice| batches(choice, 16, 1, 4000).chunks(40).map(most).collect::<HashSet<_>>().len();
        assert!(favourites("zipf:2.0") == 1 && favourites("drift:2.0") > 8);
    }

    #[test]
    fn a_cycle_comes_back_to_an_expert_as_late_as_it_can() {
        let batches = batches("cycle", 8, 3, 4);
        let rows: Vec<&[i32]> = batches.iter().map(|b| &b.layers[1].choices[..]).collect();
        assert_eq!(rows, [[0, 1, 2], [3, 4, 5], [6, 7, 0], [1, 2, 3]]);
    }

    #[test]
    fn prompts_come_before_answers_and_seeds_count() {
        let head = Head { n_layer: 1, n_expert: 8, n_used: 2, expert_bytes: 1 };
        let recipe = Recipe { n_decode: 5, n_prompt: 4, n_answer: 3, ..recipe(head, Choice::Zipf(1.0)) };
        let rows: Vec<usize> = recipe.batches().map(|b| b.n_rows()).collect();
        assert_eq!(rows, [4, 1, 1, 1, 4, 1, 1]);
        assert!(recipe.batches().eq(recipe.batches()));
        assert!(!recipe.batches().eq(Recipe { seed: 8, ..recipe }.batches()));
    }

    #[test]
    fn rows_keep_experts_of_the_row_before() {
        let head = Head { n_layer: 1, n_expert: 1000, n_used: 4, expert_bytes: 1 };
        let kept = |keep| {
            let recipe = Recipe { n_decode: 1000, keep, ..recipe(head, Choice::Uniform) };
            let rows: Vec<Batch> = recipe.batches().collect();
            let again = |pair: &[Batch]| {
                let [a, b] = [&pair[0], &pair[1]].map(|b| &b.layers[0].choices);
                assert_eq!(b.iter().collect::<HashSet<_>>().len(), 4, "{b:?}");
                b.iter().filter(|e| a.contains(e)).count()
            };
            rows.windows(2).map(again).sum::<usize>()
        };
        assert!(kept(0.0) < 50 && kept(1.0) == 4 * 999, "{} and {}", kept(0.0), kept(1.0));
        assert!((1100..1300).contains(&kept(0.3)), "{}", kept(0.3));
    }

    #[test]
    fn answers_have_topics_in_turn() {
        let head = Head { n_layer: 1, n_expert: 64, n_used: 1, expert_bytes: 1 };
        let recipe = Recipe { n_decode: 400, n_answer: 100, n_topic: 2, ..recipe(head, Choice::Zipf(4.0)) };
        let rows: Vec<Batch> = recipe.batches().collect();
        let most = |answer: usize| {
            let mut counts = [0; 64];
            rows[100 * answer..][..100].iter().for_each(|b| counts[b.layers[0].choices[0] as usize] += 1);
            (0..64).max_by_key(|&e| counts[e])
        };
        assert!(most(0) == most(2) && most(1) == most(3) && most(0) != most(1));
    }

    #[test]
    fn names_are_understood_or_refused() {
        let choice = |text: &str| text.parse::<Choice>().ok();
        assert_eq!(choice("uniform"), Some(Choice::Uniform));
        assert_eq!(choice("drift:0.8"), Some(Choice::Drift(0.8)));
        for wrong in ["", "zipf", "zipf:", "zipf:-1", "zipf:nan", "zipf:11", "uniform:1", "cycle:", "Zipf:1", "hot:1"] {
            assert_eq!(choice(wrong), None, "{wrong}");
        }
    }
}
