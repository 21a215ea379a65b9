//! The choice of each token of an answer, with everything beside the sampler that has a say in it or hears of it.

use models::Section;
use tokenizer::{TokenId, Tokenizer};

use crate::{AnswerOptions, Error, Sampler, held::Held, logprobs::Scratch, teller::Teller};

/// How many tokens are drawn hotter to get away from somewhere, and how hot the first time, and the times after it.
const N_HOT: usize = 16;
const HEAT: f32 = 1.0;
const HEAT_MORE: f32 = 0.3;

pub(crate) struct Picker<'a> {
    tokenizer: &'a Tokenizer,
    sampler: &'a mut Sampler,
    held: Option<Held>,
    is_biased: bool,
    /// How many of the likeliest tokens are told with each, where they are told.
    n_top: Option<usize>,
    scratch: Scratch,
    /// What is never picked.
    unused: Vec<TokenId>,
    /// What is not picked next.
    avoided: Vec<TokenId>,
    /// So many tokens are drawn at this temperature.
    hot: (usize, f32),
}

impl<'a> Picker<'a> {
    /// For one answer, whose turn `ends` end.
    pub(crate) fn new(
        tokenizer: &'a Tokenizer,
        sampler: &'a mut Sampler,
        n_logits: usize,
        options: &AnswerOptions<'a>,
        ends: &[TokenId],
    ) -> Picker<'a> {
        // Rows of the output that pad it, and words that pad the vocabulary.
        let unused: Vec<_> = (0..n_logits as TokenId).filter(|&id| tokenizer.is_unused(id)).collect();
        sampler.forbid(unused.iter().copied());
        sampler.bias(options.logit_bias);
        sampler.heat(None);
        Picker {
            held: options.grammar.map(|grammar| Held::new(grammar, options.grammar_is_raw, tokenizer, ends)),
            is_biased: !options.logit_bias.is_empty(),
            n_top: options.logprobs.map(|logprobs| logprobs.n_top),
            scratch: Scratch::default(),
            unused,
            avoided: Vec::new(),
            hot: (0, 0.0),
            tokenizer,
            sampler,
        }
    }

    /// Whether the answer may say the same without end.
    pub(crate) fn may_repeat(&self) -> bool {
        self.sampler.options().may_repeat
    }

    /// Whether the answer is complete and cannot go on.
    pub(crate) fn is_complete(&self, section: Section) -> bool {
        self.held.as_ref().is_some_and(|held| held.is_complete(section))
    }

    /// The token after `tokens`, which belongs to `section`.
    pub(crate) fn pick(&mut self, logits: &[f32], tokens: &[TokenId], section: Section) -> Result<TokenId, Error> {
        let avoided = std::mem::take(&mut self.avoided);
        self.sampler.forbid(self.unused.iter().chain(&avoided).copied());
        let (n_hot, heat) = &mut self.hot;
        self.sampler.heat((*n_hot > 0).then_some(*heat));
        *n_hot = n_hot.saturating_sub(1);
        let picked = match &mut self.held {
            Some(held) => self.sampler.pick_among(logits, tokens, &held.allowed(section, self.tokenizer)?),
            None => self.sampler.pick(logits, tokens),
        };
        picked.ok_or_else(|| self.nothing(logits, tokens.len()))
    }

    /// Why there is no token at `pos`.
    fn nothing(&self, logits: &[f32], pos: usize) -> Error {
        let is_steered = self.held.is_some() || self.is_biased;
        match is_steered && logits.iter().any(|&logit| logit > f32::NEG_INFINITY) {
            true => Error::NothingAllowed { pos },
            false => Error::NoChoice { pos },
        }
    }

    /// `id` was picked, and becomes part of the answer.
    pub(crate) fn take(&mut self, id: TokenId, section: Section) -> Result<(), Error> {
        match &mut self.held {
            Some(held) => held.accept(id, section, self.tokenizer),
            None => Ok(()),
        }
    }

    /// `id`, which belongs to the end of reasoning, is to become part of the answer without having been picked. False if a grammar
    /// of the reasoning forbids it.
    pub(crate) fn force(&mut self, id: TokenId) -> Result<bool, Error> {
        match &mut self.held {
            Some(held) => held.force(id),
            None => Ok(true),
        }
    }

    /// Tells how likely `id` was by `logits`, if somebody wants to know.
    pub(crate) fn tell(&mut self, id: TokenId, logits: &[f32], section: Section, teller: &mut Teller<'_>) {
        if let Some(n_top) = self.n_top {
            teller.token(self.scratch.token(n_top, logits, (id, section), |id| !self.tokenizer.is_unused(id)));
        }
    }

    /// How far the answer has come in its grammar.
    pub(crate) fn held(&self) -> Option<Held> {
        self.held.clone()
    }

    /// Goes back to where the answer had come so far, for the `n`th time, and on by none of the tokens `avoided`.
    pub(crate) fn go_back(&mut self, held: Option<Held>, avoided: &[TokenId], n: usize) {
        self.held = held;
        self.avoided = avoided.to_vec();
        let heat = HEAT + HEAT_MORE * n.saturating_sub(1) as f32;
        self.hot = (N_HOT, heat.max(self.sampler.options().temperature));
    }

    /// The next token is not to be this one.
    pub(crate) fn avoid(&mut self, id: TokenId) {
        self.avoided = vec![id];
    }

    /// Draws as ever from here on.
    pub(crate) fn cool(&mut self) {
        self.hot.0 = 0;
    }

    /// Whether a grammar has a say.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Whether the next token is not to be one that could be.
    pub(crate) fn avoids(&self) -> bool {
        !self.avoided.is_empty()
    }
}
