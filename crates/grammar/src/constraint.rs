//! A compiled grammar, and one answer that is held to it.

use llguidance::{Matcher, api::StopReason};
use tokenizer::TokenId;

use crate::{Error, TokenSet, error::line};

/// What answers have to look like, compiled for the tokens of one model. Answers do not share anything that they change.
pub struct Grammar(pub(crate) Matcher);

impl Grammar {
    /// For an answer that begins now.
    pub fn start(&self) -> Constraint {
        let mut parser = self.0.deep_clone();
        // Looks whether there is anything to say at all.
        let _ = parser.consume_tokens(&[]);
        Constraint { parser }
    }
}

/// How far an answer has come in its grammar. A clone goes its own way.
pub struct Constraint {
    parser: Matcher,
}

impl Clone for Constraint {
    fn clone(&self) -> Constraint {
        Constraint { parser: self.parser.deep_clone() }
    }
}

impl Constraint {
    /// The tokens that may come next; those that end the turn are among them exactly if the answer may end.
    ///
    /// # Errors
    /// [`Error::DeadEnd`] if there are none, [`Error::Complex`] if it takes too much to find out.
    pub fn mask(&mut self) -> Result<TokenSet, Error> {
        self.parser.compute_mask_or_eos().map(TokenSet).map_err(|e| {
            let line = line(&e);
            // The library has no other sign of it: `StopReason::NoExtensionBias` by its name.
            let dead = format!("{:?}", StopReason::NoExtensionBias);
            if line.starts_with(&dead) { Error::DeadEnd } else { Error::Complex(line) }
        })
    }

    /// Goes on by `id`, one of the tokens of the [`mask`](Constraint::mask).
    ///
    /// # Errors
    /// [`Error::Complex`]: it is none of them, or takes too much.
    pub fn accept(&mut self, id: TokenId) -> Result<(), Error> {
        self.parser.consume_token(id).map_err(|e| Error::Complex(line(&e)))
    }

    /// Whether what has come is complete.
    pub fn may_end(&mut self) -> bool {
        self.must_end() || self.parser.is_accepting().unwrap_or(false)
    }

    /// Whether it is complete, and nothing can follow.
    pub fn must_end(&self) -> bool {
        !self.parser.is_error() && self.parser.is_stopped()
    }
}
