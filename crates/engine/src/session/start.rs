//! Where a session can start from, to hold other tokens than it does: the ways, in the order in which they are preferred
//! where they save as much.
//!
//! ```text
//! live      drop what differs, and go on: what came before is still in the caches
//! stored    put back what was kept of a longer beginning, by this session, another one, or in another run
//! afresh    from nothing
//! ```

use kv::{BLOCK, Found, Name};
use tokenizer::TokenId;

use super::Session;
use crate::pieces::Pieces;

/// Tokens that a session need not compute, and where they come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// How many of the tokens to be.
    pub(crate) n_tokens: usize,
    pub(crate) from: From,
}

/// Where tokens come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum From {
    Live,
    /// Rows of whole blocks, in order, and the tail behind them.
    Stored {
        blocks: Vec<Name>,
        tail: Option<Name>,
    },
    Nothing,
}

/// A way to start with some of these tokens, if it can be gone.
type Way = fn(&Session, &[TokenId]) -> Option<Start>;

const WAYS: [Way; 3] = [live, stored, afresh];

/// The start that leaves the least to compute.
pub(crate) fn start(session: &Session, ids: &[TokenId]) -> Start {
    let starts = WAYS.iter().filter_map(|way| way(session, ids));
    let best = starts.reduce(|best, other| if other.n_tokens > best.n_tokens { other } else { best });
    best.expect("one can always start afresh")
}

/// Drops what differs. The last token is computed again: its logits are those of what followed.
fn live(session: &Session, ids: &[TokenId]) -> Option<Start> {
    let n_tokens = session.n_alike(ids).min(ids.len().saturating_sub(1));
    session.can_keep(n_tokens).then_some(Start { n_tokens, from: From::Live })
}

/// Puts back what was kept.
fn stored(session: &Session, ids: &[TokenId]) -> Option<Start> {
    let pieces = session.engine.pieces.as_ref()?;
    from_found(pieces, pieces.store.find(ids), ids.len())
}

/// What is best put back of what was found of `n` tokens.
fn from_found(pieces: &Pieces, found: Found, n: usize) -> Option<Start> {
    let useful = |tail: &&kv::Tail| tail.n_tokens < n || tail.has_logits;
    let tail = found.tails.iter().find(useful);
    let mut blocks = found.blocks;
    // Without a frontier, rows are all there is to a beginning, and may be used in part.
    let n_rows = if pieces.layout.has_frontier { 0 } else { (blocks.len() * BLOCK).min(n.saturating_sub(1)) };
    match tail.filter(|tail| tail.n_tokens >= n_rows) {
        Some(tail) => {
            blocks.truncate(tail.n_tokens / BLOCK);
            Some(Start { n_tokens: tail.n_tokens, from: From::Stored { blocks, tail: Some(tail.name) } })
        }
        None if n_rows > 0 => Some(Start { n_tokens: n_rows, from: From::Stored { blocks, tail: None } }),
        None => None,
    }
}

/// Forgets everything.
fn afresh(_: &Session, _: &[TokenId]) -> Option<Start> {
    Some(Start { n_tokens: 0, from: From::Nothing })
}
