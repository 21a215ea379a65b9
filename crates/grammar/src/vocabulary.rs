//! The tokens of a model as grammars see them, and compiling.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    earley::SlicedBiasComputer,
    panic_utils::catch_unwind,
    toktrie::{ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie},
};
use tokenizer::{TokenId, TokenType, Tokenizer};

use crate::{
    Error, Grammar,
    error::line,
    schema::{self, PATTERN_BYTES_MAX, limit},
};

/// How long compiling may take.
pub const COMPILE_SECONDS: u64 = 5;

/// How long [`Vocabulary::compile`] waits at most until it can begin: those before it are bounded, too.
pub const TURN_SECONDS: u64 = 30;

/// The longest grammar: what compiling takes grows with the square of its names.
const LARK_BYTES_MAX: usize = 64 << 10;

/// The stack of what compiles: chains of rules and references are followed by recursion, and the longest that the limits
/// let pass needs a third of this.
const STACK_BYTES: usize = 256 << 20;

/// The most ways to go on that are followed side by side: objects of as many optional properties as there may be take three each.
const ITEMS_MAX: usize = 10_000;

/// Longer tokens are never allowed: the trie cannot hold them.
const TOKEN_BYTES_MAX: usize = 1000;

/// What answers are to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// Any JSON object.
    JsonObject,
    /// JSON that is valid by this JSON schema.
    JsonSchema(&'a str),
    /// A text that this regular expression matches as a whole: the syntax of Rust's `regex`.
    Regex(&'a str),
    /// A sentence of this grammar: `llguidance`'s variant of Lark, from the rule `start` on.
    Lark(&'a str),
    /// A sentence of a grammar in Lark, in which `@name` is what this name's source asks for. It is our own, and has no bound for
    /// its length; its parts are bounded as they would be by themselves.
    Composed(&'a str, &'a [(&'a str, Source<'a>)]),
}

/// The tokens of a model, as a trie of their bytes. Built once; grammars share it.
#[derive(Clone)]
pub struct Vocabulary(Arc<Inner>);

struct Inner {
    factory: ParserFactory,
    /// Who compiles: one at a time, so that what was given up does not take all processors.
    turn: Mutex<()>,
}

impl Vocabulary {
    /// The tokens of `tokenizer`, of which `ends` end a turn.
    ///
    /// # Errors
    /// [`Error::Vocabulary`], if no trie can be made of them.
    pub fn new(tokenizer: &Tokenizer, ends: &[TokenId]) -> Result<Vocabulary, Error> {
        let n_vocab = tokenizer.n_vocab() as u32;
        let words: Vec<Vec<u8>> = (0..n_vocab).map(|id| word(tokenizer, id, ends.contains(&id))).collect();
        // The trie asserts what it needs, such as ids of 24 bits; what a model file holds is a stranger's.
        let factory = catch_unwind(AssertUnwindSafe(|| {
            let mut trie = TokTrie::from(&TokRxInfo::new(n_vocab, INVALID_TOKEN), &words);
            if !ends.is_empty() {
                trie = trie.with_eos_tokens(ends);
            }
            // Not a canonical tokenizer: where only some bytes can follow, all tokens with them may.
            let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            ParserFactory::new(&tokens, InferenceCapabilities::default(), &SlicedBiasComputer::general_slices())
        }));
        let mut factory = factory.map_err(|e| Error::Vocabulary(line(&e)))?;
        let limits = factory.quiet().limits_mut();
        limits.verbose_errors = false;
        limits.max_items_in_row = ITEMS_MAX;
        Ok(Vocabulary(Arc::new(Inner { factory, turn: Mutex::new(()) })))
    }

    /// A grammar for answers in these tokens.
    ///
    /// # Errors
    /// All but [`Error::Vocabulary`], by what is wrong with `source`; [`Error::DeadEnd`] if it allows no first token, and
    /// [`Error::Busy`] if others' are being compiled all the time.
    pub fn compile(&self, source: Source<'_>) -> Result<Grammar, Error> {
        self.0.clone().build(library_grammar(source)?)
    }
}

impl Inner {
    /// Compiles on a thread with a stack for it. The time is that of the grammar by itself: who comes behind one that is hard is not
    /// refused for it.
    fn build(self: Arc<Inner>, grammar: TopLevelGrammar) -> Result<Grammar, Error> {
        let (begun, begins) = mpsc::sync_channel(0);
        let (sender, receiver) = mpsc::sync_channel(1);
        let compile = move || {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody waits any more if that took too long, or if what follows does.
            if begun.send(()).is_ok() {
                let _ = sender.send(first(Matcher::new(self.factory.create_parser(grammar))));
            }
        };
        let thread = thread::Builder::new().name("grammar".into()).stack_size(STACK_BYTES).spawn(compile);
        thread.map_err(|e| Error::Complex(format!("there is no stack for it: {e}")))?;
        begins.recv_timeout(Duration::from_secs(TURN_SECONDS)).map_err(|_| Error::Busy)?;
        drop(begins);
        receiver
            .recv_timeout(Duration::from_secs(COMPILE_SECONDS))
            .map_err(|_| Error::Slow { seconds: COMPILE_SECONDS })?
    }
}

/// What the library compiles.
fn library_grammar(source: Source<'_>) -> Result<TopLevelGrammar, Error> {
    Ok(match source {
        Source::JsonObject => TopLevelGrammar::from_json_schema(schema::read(r#"{"type": "object"}"#)?),
        Source::JsonSchema(text) => TopLevelGrammar::from_json_schema(schema::read(text)?),
        Source::Regex(pattern) => {
            limit("bytes of the regular expression", pattern.len(), PATTERN_BYTES_MAX)?;
            TopLevelGrammar::from_regex(pattern)
        }
        Source::Lark(text) => {
            limit("bytes of the grammar", text.len(), LARK_BYTES_MAX)?;
            TopLevelGrammar::from_lark(text.to_owned())
        }
        Source::Composed(text, parts) => {
            let mut all = TopLevelGrammar::from_lark(text.to_owned());
            for &(name, part) in parts {
                let mut part = library_grammar(part)?.grammars;
                part.truncate(1); // parts that are composed themselves would share names
                part.iter_mut().for_each(|grammar| grammar.name = Some(name.to_owned()));
                all.grammars.extend(part);
            }
            all
        }
    })
}

/// The grammar, if something can begin by it.
fn first(parser: Matcher) -> Result<Grammar, Error> {
    if let Some(error) = parser.get_error() {
        return Err(refused(&error));
    }
    let grammar = Grammar(parser);
    let mut constraint = grammar.start();
    if !constraint.must_end() {
        constraint.mask()?;
    }
    Ok(grammar)
}

fn refused(error: &str) -> Error {
    if ["fuel", "Unable to determine if regex is empty", "lexer precomputation"].iter().any(|sign| error.contains(sign))
    {
        return Error::Complex("compiling it takes more steps than are allowed".to_owned());
    }
    if error.contains("oneOf constraints are not supported") {
        return Error::Unsupported {
            keyword: "oneOf".into(),
            at: "#".into(),
            why: " where two of its schemas may hold at once, as `anyOf` is",
        };
    }
    Error::Refused(line(&error))
}

/// What the library takes `id` for: nothing, bytes of text, or behind a byte that is in no text, a name.
fn word(tokenizer: &Tokenizer, id: TokenId, ends_turn: bool) -> Vec<u8> {
    let bytes = tokenizer.bytes_of(id);
    match tokenizer.type_of(id) {
        _ if bytes.len() > TOKEN_BYTES_MAX => Vec::new(),
        Some(TokenType::Normal | TokenType::Byte) if !ends_turn => match bytes.first() {
            Some(&TokTrie::SPECIAL_TOKEN_MARKER) => Vec::new(),
            _ => bytes.to_vec(),
        },
        Some(TokenType::Unused) | None => Vec::new(),
        Some(_) => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
    }
}
