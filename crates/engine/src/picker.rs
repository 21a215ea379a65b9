//! The choice of each token of an answer, with everything beside the sampler that has a say in it or hears of it.

use models::Section;
use tokenizer::{TokenId, Tokenizer};

use crate::{AnswerOptions, Error, Logprobs, Sampler, held::Held, logprobs::Scratch};

pub(crate) struct Picker<'a> {
    tokenizer: &'a Tokenizer,
    sampler: &'a mut Sampler,
    held: Option<Held>,
    is_biased: bool,
    logprobs: Option<Logprobs<'a>>,
    scratch: Scratch,
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
        sampler.forbid((0..n_logits as TokenId).filter(|&id| tokenizer.is_unused(id)));
        sampler.bias(options.logit_bias);
        Picker {
            held: options.grammar.map(|grammar| Held::new(grammar, options.grammar_is_raw, tokenizer, ends)),
            is_biased: !options.logit_bias.is_empty(),
            logprobs: options.logprobs,
            scratch: Scratch::default(),
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
    pub(crate) fn tell(&mut self, id: TokenId, logits: &[f32], section: Section) {
        if let Some(logprobs) = &self.logprobs {
            self.scratch.tell(logprobs, logits, (id, section), |id| !self.tokenizer.is_unused(id));
        }
    }
}
