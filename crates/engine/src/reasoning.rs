//! A bound on reasoning: behind so many tokens it is ended as the model's format ends it, and the model goes on with the answer.
//!
//! ```text
//! <think> n_max tokens \n</think>\n\n the answer
//!                      '-- forced --'
//! ```
//!
//! What is forced is format: neither the sampler nor a grammar of the answer is asked, and the sampler's random numbers stay where
//! they are. It is told and counted as any other token. Where a grammar is of the reasoning, too, it has to let it end there.
//!
//! Reasoning does not end within a character, nor where later prompts would not show it as it was, such as behind newlines that
//! belong to the format: so that they find all that was computed. It has some tokens more to get out of there.

use std::collections::VecDeque;

use models::Section;
use tokenizer::{TokenId, Tokenizer};

use crate::{Error, engine::encode, reader::Reader};

/// How many tokens it is waited for a good place.
const N_WAIT: usize = 16;

/// Counts an answer's reasoning.
#[derive(Clone)]
pub(crate) struct Bound<'a> {
    tokenizer: &'a Tokenizer,
    n_max: Option<usize>,
    /// Tokens of reasoning.
    n: usize,
    /// What comes next, whatever the model says.
    forced: VecDeque<TokenId>,
    has_cut: bool,
}

impl<'a> Bound<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer, n_max: Option<usize>) -> Bound<'a> {
        Bound { tokenizer, n_max, n: 0, forced: VecDeque::new(), has_cut: false }
    }

    /// The token that must come next, if one must.
    ///
    /// # Errors
    /// The vocabulary has no token for what ends reasoning.
    pub(crate) fn forces(&mut self, reader: &Reader<'_>) -> Result<Option<TokenId>, Error> {
        let n_over = self.n_max.and_then(|n_max| self.n.checked_sub(n_max));
        if let Some(n_over) = n_over.filter(|_| !self.has_cut && reader.section() == Section::Thinking) {
            self.forced = encode(self.tokenizer, &reader.end_of_reasoning(n_over >= N_WAIT))?.into();
            self.has_cut = !self.forced.is_empty();
        }
        Ok(self.forced.pop_front())
    }

    /// A grammar forbids it: the reasoning goes on.
    pub(crate) fn give_up(&mut self) {
        (self.n_max, self.has_cut) = (None, false);
        self.forced.clear();
    }

    /// A token of this section has come.
    pub(crate) fn count(&mut self, section: Section) {
        self.n += usize::from(section == Section::Thinking);
    }

    /// Whether it has ended the reasoning.
    pub(crate) fn has_cut(&self) -> bool {
        self.has_cut
    }
}
