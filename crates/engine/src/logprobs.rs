//! How likely the model itself found a token: logits before bias, penalties, temperature and grammar.
//!
//! ```text
//! logprob(id) = l[id] - ln sum_i exp(l[i])      over the tokens of the vocabulary, padding left out
//! ```
//!
//! NaN counts as minus infinity. Of equals the lower id comes first.

use std::cmp::Ordering;

use models::Section;
use tokenizer::TokenId;

/// A token of an answer, as it is picked: its text comes after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token<'a> {
    /// What was picked.
    pub id: TokenId,
    /// What it belongs to, as far as is known before it is read.
    pub section: Section,
    /// The natural logarithm of the probability that the model gave it.
    pub logprob: f32,
    /// The tokens that the model found likeliest, with theirs, likeliest first.
    pub top: &'a [(TokenId, f32)],
}

/// Who hears of each token by itself.
#[derive(Clone, Copy)]
pub struct Logprobs<'a> {
    /// How many of the likeliest tokens are told with it.
    pub n_top: usize,
    /// Hears of all that become part of [`Answer::ids`](crate::Answer::ids), each before the events that it leads to.
    pub each: &'a dyn Fn(Token<'_>),
}

/// Room for the work, kept from token to token.
#[derive(Default)]
pub(crate) struct Scratch {
    logits: Vec<(TokenId, f32)>,
}

impl Scratch {
    /// What is to be told of `id`, picked by `logits` in `section`, with `n_top` others; `is_word` tells padding apart.
    pub(crate) fn token(
        &mut self,
        n_top: usize,
        logits: &[f32],
        (id, section): (TokenId, Section),
        is_word: impl Fn(TokenId) -> bool,
    ) -> Token<'_> {
        let known = (0..).zip(logits.iter().copied()).filter(|&(id, logit)| !logit.is_nan() && is_word(id));
        self.logits.clear();
        self.logits.extend(known);
        let logit = logits[id as usize];
        let ln_sum = ln_sum_exp(&self.logits);
        let n_top = n_top.min(self.logits.len());
        if 0 < n_top && n_top < self.logits.len() {
            self.logits.select_nth_unstable_by(n_top - 1, likelier);
        }
        let top = &mut self.logits[..n_top];
        top.sort_unstable_by(likelier);
        top.iter_mut().for_each(|(_, logit)| *logit = logprob(*logit, ln_sum));
        Token { id, section, logprob: logprob(logit, ln_sum), top }
    }
}

fn likelier(a: &(TokenId, f32), b: &(TokenId, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// A logit of plus infinity is certain.
fn logprob(logit: f32, ln_sum: f64) -> f32 {
    if logit == f32::INFINITY { 0.0 } else { (f64::from(logit) - ln_sum) as f32 }
}

fn ln_sum_exp(logits: &[(TokenId, f32)]) -> f64 {
    let max = logits.iter().map(|&(_, logit)| f64::from(logit)).fold(f64::NEG_INFINITY, f64::max);
    if max.is_infinite() {
        return max;
    }
    let sum: f64 = logits.iter().map(|&(_, logit)| (f64::from(logit) - max).exp()).sum();
    max + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of `id`: its probability, and the likeliest tokens.
    fn told(logits: &[f32], id: TokenId, n_top: usize) -> (f32, Vec<(TokenId, f32)>) {
        let mut scratch = Scratch::default();
        let token = scratch.token(n_top, logits, (id, Section::Answering), |id| id != 9);
        (token.logprob.exp(), token.top.iter().map(|&(id, logprob)| (id, logprob.exp())).collect())
    }

    fn near(a: f32, b: f32) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn probabilities_are_the_softmax_and_the_likeliest_come_first() {
        let logits = [1_f32, 3.0, 4.0, 2.0].map(f32::ln);
        let (p, top) = told(&logits, 0, 2);
        assert!(near(p, 0.1) && top.iter().map(|t| t.0).eq([2, 1]), "{p} {top:?}");
        assert!(near(top[0].1, 0.4) && near(top[1].1, 0.3), "{top:?}");
        assert_eq!(told(&logits, 2, 0), (told(&logits, 2, 9).0, vec![]));
        assert!(told(&logits, 1, 9).1.iter().map(|t| t.0).eq([2, 1, 3, 0]));
        // Large logits do not overflow, and shifting all changes nothing.
        let far = logits.map(|l| l + 500.0);
        assert!((told(&far, 0, 1).0 - 0.1).abs() < 1e-4);
    }

    #[test]
    fn of_equals_the_lower_ids_come_first() {
        assert!(told(&[0.5; 6], 3, 3).1.iter().map(|t| t.0).eq([0, 1, 2]));
    }

    #[test]
    fn padding_and_what_is_no_number_have_no_share() {
        let mut logits = [0.0; 12];
        logits[9] = 50.0;
        logits[10] = f32::NAN;
        logits[11] = f32::NEG_INFINITY;
        let (p, top) = told(&logits, 4, 99);
        assert!(near(p, 1.0 / 9.0), "{p}");
        assert!(top.iter().map(|t| t.0).eq([0, 1, 2, 3, 4, 5, 6, 7, 8, 11]), "{top:?}");
        let (certain, _) = told(&[0.0, f32::INFINITY], 1, 1);
        assert_eq!(certain, 1.0);
    }
}
