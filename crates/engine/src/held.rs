//! An answer that is held to a grammar, from where its reasoning is over.
//!
//! ```text
//! reasoning ... </think>   anything but the end of the turn, unless nothing is an answer, too
//! the next token           the grammar's first, and so on to the end of the turn
//! ```
//!
//! A grammar may also be of all that is generated, reasoning and the mark of its end included: then it holds from the first token.
//!
//! A model that opens its reasoning by itself may do so by the marker for it, in place of the first token; not if it was
//! told not to think. What ends reasoning that was spelled out by ordinary tokens may bring the first characters of the
//! answer in the same token: those are not held to anything.

use grammar::{Constraint, Grammar, TokenSet};
use models::Section;
use tokenizer::{TokenId, Tokenizer};

use crate::Error;

#[derive(Clone)]
pub(crate) struct Held {
    constraint: Constraint,
    /// What may come while it reasons.
    thoughts: TokenSet,
    /// The grammar is of the reasoning, too.
    is_raw: bool,
    /// Whether a token that the grammar is about has come, or must. From then on nothing else can.
    begun: bool,
}

impl Held {
    /// Holds an answer to a grammar; from the first token if it `is_raw`: of the reasoning, too.
    pub(crate) fn new(grammar: &Grammar, is_raw: bool, tokenizer: &Tokenizer, ends: &[TokenId]) -> Held {
        let mut constraint = grammar.start();
        let may_be_nothing = constraint.may_end();
        let mut thoughts = TokenSet::new(tokenizer.n_vocab());
        let may_come = |id: &TokenId| may_be_nothing || !ends.contains(id);
        (0..tokenizer.n_vocab() as TokenId).filter(may_come).for_each(|id| thoughts.insert(id));
        Held { constraint, thoughts, is_raw, begun: is_raw }
    }

    fn is_active(&self, section: Section) -> bool {
        self.begun || section != Section::Thinking
    }

    /// Whether the answer is complete and cannot go on.
    pub(crate) fn is_complete(&self, section: Section) -> bool {
        self.is_active(section) && self.constraint.must_end()
    }

    /// Whether the answer may be complete, if not its reasoning.
    pub(crate) fn may_end(&mut self) -> bool {
        self.begun && self.constraint.may_end()
    }

    /// The tokens that may come next in `section`.
    pub(crate) fn allowed(&mut self, section: Section, tokenizer: &Tokenizer) -> Result<TokenSet, Error> {
        if !self.is_active(section) {
            return Ok(self.thoughts.clone());
        }
        let mut allowed = self.constraint.mask()?;
        if let Some(id) = self.opening(section, tokenizer) {
            allowed.insert(id);
        }
        Ok(allowed)
    }

    /// Goes on by `id`, which was picked in `section`.
    pub(crate) fn accept(&mut self, id: TokenId, section: Section, tokenizer: &Tokenizer) -> Result<(), Error> {
        if !self.is_active(section) || self.opening(section, tokenizer) == Some(id) {
            return Ok(());
        }
        self.begun = true;
        Ok(self.constraint.accept(id)?)
    }

    /// Goes on by `id`, which belongs to the end of reasoning and was not picked. False if the grammar is of the reasoning, and has
    /// something else there.
    pub(crate) fn force(&mut self, id: TokenId) -> Result<bool, Error> {
        let is_allowed = !self.is_raw || self.constraint.mask()?.contains(id);
        if self.is_raw && is_allowed {
            self.constraint.accept(id)?;
        }
        Ok(is_allowed)
    }

    /// The token that may open reasoning in place of an answer.
    fn opening(&self, section: Section, tokenizer: &Tokenizer) -> Option<TokenId> {
        match section {
            Section::Opening(marker) if !self.begun => tokenizer.id_of(marker),
            _ => None,
        }
    }
}
