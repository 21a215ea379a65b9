//! How likely a model finds a text, and how far it is from another model on it.
//!
//! ```text
//! text -> tokens, BOS before them if the model has one there -> chunks of n_ctx tokens, what is left over is not read
//! chunk -> its first token is replaced by BOS, if the model has one -> logits after tokens n_ctx/2 .. n_ctx-2
//!       -> -ln p of the token that follows each of them, n_ctx-1 - n_ctx/2 positions
//! ```
//!
//! So every position has at least half a chunk before it. This is what llama.cpp's `llama-perplexity` does (`perplexity` in
//! `perplexity.cpp`), so that figures can be compared. Chunks know nothing of each other.
//!
//! | file | holds |
//! |---|---|
//! | `row.rs` | a row of logits as a distribution |
//! | `figures.rs` | what all positions come to |
//! | `base.rs` | files of distributions, to be compared with |
//! | `foreign.rs` | llama.cpp's files of that kind |

mod base;
mod figures;
mod foreign;
mod row;

use std::{io::Write, ops::ControlFlow};

use engine::Session;
use tokenizer::{Special, TokenId, Tokenizer};

use self::row::Row;
pub use self::{
    base::{BaseError, Head, Reader, Writer},
    figures::{Distance, Figures, Mean, PARTS},
};

/// The shortest chunk, which has one position that counts.
pub const N_CTX_MIN: usize = 4;

/// Positions of a chunk that count.
fn n_scored(n_ctx: usize) -> usize {
    n_ctx - 1 - n_ctx / 2
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text has not one chunk.
    #[error("the text has {n_tokens} tokens, and a chunk has {n_ctx}")]
    TooShort {
        /// Tokens of the text.
        n_tokens: usize,
        /// Tokens of a chunk.
        n_ctx: usize,
    },
    /// The model.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// What is compared with.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// What is compared with is about something else.
    #[error(transparent)]
    Other(#[from] Mismatch),
    /// The base cannot be written.
    #[error("{}", .0.to_string().to_lowercase())]
    Write(std::io::Error),
}

/// What a base has in common with neither the model nor the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Another vocabulary.
    #[error("is of a vocabulary of {base} words, and the model has {model}")]
    Vocabulary {
        /// Words of the base.
        base: usize,
        /// Words of the model.
        model: usize,
    },
    /// Other chunks.
    #[error("has chunks of {base} tokens, and not of {asked}")]
    Context {
        /// Tokens of the base's chunks.
        base: usize,
        /// Tokens of ours.
        asked: usize,
    },
    /// Not enough of them.
    #[error("has {base} chunks, and not {asked}")]
    Chunks {
        /// Chunks of the base.
        base: usize,
        /// Chunks of ours.
        asked: usize,
    },
    /// Another text, or another vocabulary of the same size.
    #[error("is of another text: its token {at} is {base}, and here it is {ours}")]
    Text {
        /// Place in the text.
        at: usize,
        /// The token of the base.
        base: TokenId,
        /// The token of the text.
        ours: TokenId,
    },
}

/// A text as a model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passages {
    tokens: Vec<TokenId>,
    n_ctx: usize,
    bos: Option<TokenId>,
}

impl Passages {
    /// Cuts a text into chunks of `n_ctx` tokens, as many as there are, or the first `n_chunks` of them. A newline at its end is
    /// not read.
    ///
    /// # Errors
    /// [`Error::TooShort`].
    ///
    /// # Panics
    /// If `n_ctx` is below [`N_CTX_MIN`].
    pub fn new(tokenizer: &Tokenizer, text: &str, n_ctx: usize, n_chunks: Option<usize>) -> Result<Passages, Error> {
        assert!(n_ctx >= N_CTX_MIN, "a chunk of {n_ctx} tokens");
        let text = text.strip_suffix('\n').unwrap_or(text);
        let mut tokens: Vec<_> = tokenizer.bos().into_iter().collect();
        tokens.extend(tokenizer.encode(text, Special::Plain));
        let n_there = tokens.len() / n_ctx;
        if n_there == 0 {
            return Err(Error::TooShort { n_tokens: tokens.len(), n_ctx });
        }
        tokens.truncate(n_ctx * n_chunks.map_or(n_there, |n| n.min(n_there)));
        Ok(Passages { tokens, n_ctx, bos: tokenizer.bos() })
    }

    /// Tokens of a chunk.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Chunks.
    pub fn n_chunks(&self) -> usize {
        self.tokens.len() / self.n_ctx
    }

    /// Positions that count.
    pub fn n_scored(&self) -> usize {
        self.n_chunks() * n_scored(self.n_ctx)
    }

    /// The head of a base that a model of so many words makes of them.
    pub fn head(&self, model: &str, n_vocab: usize) -> Head {
        Head { model: model.into(), n_vocab, n_ctx: self.n_ctx, tokens: self.tokens.clone() }
    }

    /// Refuses a base that is about something else than these and a model of so many words.
    ///
    /// # Errors
    /// What it is about.
    pub fn check(&self, base: &Head, n_vocab: usize) -> Result<(), Mismatch> {
        if base.n_vocab != n_vocab {
            return Err(Mismatch::Vocabulary { base: base.n_vocab, model: n_vocab });
        }
        if base.n_ctx != self.n_ctx {
            return Err(Mismatch::Context { base: base.n_ctx, asked: self.n_ctx });
        }
        let pairs = self.tokens.iter().zip(&base.tokens);
        if let Some((at, (&ours, &base))) = pairs.enumerate().find(|(_, (ours, base))| ours != base) {
            return Err(Mismatch::Text { at, base, ours });
        }
        match self.n_chunks() > base.n_chunks() {
            true => Err(Mismatch::Chunks { base: base.n_chunks(), asked: self.n_chunks() }),
            false => Ok(()),
        }
    }
}

/// What a model makes of one position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// Where the token is in the text, counted in tokens.
    pub pos: usize,
    /// The token.
    pub id: TokenId,
    /// `-ln p` of it.
    pub nll: f64,
    /// The same position of a base, if there is one.
    pub base: Option<Beside>,
}

/// A position of a base, and how far the model is from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beside {
    /// `-ln p` of the token.
    pub nll: f64,
    /// The divergence of the model from the base, `sum p_base (ln p_base - ln p)`, in nats.
    pub divergence: f64,
    /// The word that the base finds likeliest.
    pub top: TokenId,
    /// Its place among the words by the model's likelihood, from 1 on.
    pub rank: usize,
}

/// What is done beside scoring.
pub struct Files<'a, W> {
    /// What to compare with, read from its beginning on.
    pub base: Option<&'a mut Reader>,
    /// Where to write what others are to be compared with.
    pub save: Option<&'a mut Writer<W>>,
}

/// Scores all positions one by one and gives them to `each`, until that breaks off.
///
/// # Errors
/// Whatever fails.
pub fn score<W: Write>(
    session: &mut Session,
    passages: &Passages,
    mut files: Files<W>,
    each: &mut dyn FnMut(Position) -> ControlFlow<()>,
) -> Result<(), Error> {
    let n_ctx = passages.n_ctx;
    for (first, chunk) in (0..).step_by(n_ctx).zip(passages.tokens.chunks(n_ctx)) {
        // The last token has nothing behind it that is to be foretold.
        let mut ids = chunk[..n_ctx - 1].to_vec();
        passages.bos.iter().for_each(|&bos| ids[0] = bos);
        session.rewind(0)?;
        let mut following = (first..).zip(chunk).skip(n_ctx / 2 + 1);
        let mut done = Ok(());
        let mut flow = ControlFlow::Continue(());
        session.score_from(n_ctx / 2, &ids, n_ctx, &mut |logits| {
            let (pos, &id) = following.next().expect("a token follows each of those that are asked for");
            match position(&Row::new(logits), pos, id, &mut files) {
                Ok(position) => flow = each(position),
                Err(e) => (done, flow) = (Err(e), ControlFlow::Break(())),
            }
            flow
        })?;
        done?;
        if flow.is_break() {
            break;
        }
    }
    Ok(())
}

fn position<W: Write>(row: &Row, pos: usize, id: TokenId, files: &mut Files<W>) -> Result<Position, Error> {
    if let Some(save) = &mut files.save {
        save.write(row, id).map_err(Error::Write)?;
    }
    let base = files.base.as_mut().map(|base| beside(row, base, id)).transpose()?;
    Ok(Position { pos, id, nll: row.nll(id), base })
}

fn beside(row: &Row, base: &mut Reader, id: TokenId) -> Result<Beside, BaseError> {
    let expected = base.read(id)?;
    let divergence = row.divergence_from(expected.ln_p);
    Ok(Beside { nll: expected.nll, divergence, top: expected.top, rank: row.rank(expected.top) })
}

#[cfg(test)]
mod tests;
