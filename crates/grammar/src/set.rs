//! A set of tokens: one bit each.

use llguidance::toktrie::SimpleVob;
use tokenizer::TokenId;

/// Which tokens may come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSet(pub(crate) SimpleVob);

impl TokenSet {
    /// None of `n_vocab` tokens.
    pub fn new(n_vocab: usize) -> TokenSet {
        TokenSet(SimpleVob::alloc(n_vocab))
    }

    /// Whether `id` is among them.
    pub fn contains(&self, id: TokenId) -> bool {
        (id as usize) < self.0.len() && self.0.is_allowed(id)
    }

    /// Adds `id`, which must be one of the vocabulary.
    pub fn insert(&mut self, id: TokenId) {
        self.0.allow_token(id);
    }

    /// Bit `id % 32` of word `id / 32` tells of `id`; ids past the last word are not in the set.
    pub fn words(&self) -> &[u32] {
        self.0.as_slice()
    }

    /// The tokens, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = TokenId> + '_ {
        (0..self.0.len() as TokenId).filter(|&id| self.0.is_allowed(id))
    }
}
