//! Grammars over real vocabularies, from `testdata/tokenizer`.

#[path = "../../../tokenizer/tests/tokenizer/data.rs"]
#[allow(dead_code)] // of what it reads, these tests need the vocabularies
mod data;
mod limits;
mod speed;
mod tokens;
mod valid;

use std::sync::LazyLock;

use grammar::{Constraint, Grammar, Source, Vocabulary};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};
use tokenizer::{TokenId, Tokenizer};

/// A vocabulary, and what grammars make of it.
struct Words {
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
}

impl Words {
    fn new(name: &str) -> Words {
        let tokenizer = data::tokenizer(name);
        let vocabulary = Vocabulary::new(&tokenizer, tokenizer.eog()).unwrap();
        Words { tokenizer, vocabulary }
    }

    fn compile(&self, source: Source<'_>) -> Grammar {
        self.vocabulary.compile(source).unwrap_or_else(|e| panic!("{source:?}: {e}"))
    }

    /// A constraint after `text`, token by token as the vocabulary cuts it.
    fn after(&self, grammar: &Grammar, text: &str) -> Constraint {
        let mut constraint = grammar.start();
        for id in self.tokenizer.encode(text, tokenizer::Special::Plain) {
            assert!(constraint.mask().unwrap().contains(id), "{text:?}: {:?}", self.tokenizer.text_of(id));
            constraint.accept(id).unwrap();
        }
        constraint
    }
}

/// 49,152 tokens.
static SMOLLM2: LazyLock<Words> = LazyLock::new(|| Words::new("smollm2"));
/// 129,280 tokens.
static DEEPSEEK: LazyLock<Words> = LazyLock::new(|| Words::new("deepseek-v4"));

/// A model that says anything: picks among what is allowed by chance, and the closing of something rather than more of
/// it, so that it comes to an end. What it wrote, if it did.
fn babble(words: &Words, grammar: &Grammar, seed: u64, n_max: usize) -> Option<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut constraint = grammar.start();
    let mut ids: Vec<TokenId> = Vec::new();
    while !constraint.must_end() {
        if ids.len() == n_max {
            return None;
        }
        let mask = constraint.mask().unwrap_or_else(|e| panic!("{e} after {:?}", words.tokenizer.decode(&ids)));
        let may_end = constraint.may_end();
        let ends = words.tokenizer.eog().iter().any(|&id| mask.contains(id));
        assert_eq!(ends, may_end, "after {:?}", words.tokenizer.decode(&ids));
        let text = |id: &TokenId| !words.tokenizer.eog().contains(id);
        let all: Vec<TokenId> = mask.iter().filter(text).collect();
        let closing = |id: &&TokenId| words.tokenizer.bytes_of(**id).iter().any(|b| br#""}]"#.contains(b));
        let closing: Vec<TokenId> = all.iter().filter(closing).copied().collect();
        if all.is_empty() || may_end && rng.next_u32() % 3 == 0 {
            assert!(may_end);
            break;
        }
        let from = if closing.is_empty() || rng.next_u32() % 3 == 0 { &all } else { &closing };
        let id = from[rng.next_u32() as usize % from.len()];
        constraint.accept(id).unwrap();
        ids.push(id);
    }
    assert!(constraint.may_end());
    Some(words.tokenizer.decode(&ids))
}
