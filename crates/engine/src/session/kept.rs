//! What of a session is kept in the store of pieces, and when; and how it comes back.

use std::time::{Duration, Instant};

use kv::{BLOCK, Lasting, Name};
use tokenizer::TokenId;

use super::Session;
use crate::{Error, runner::Runner};

/// What reading a prompt again may cost where its rows alone are not enough.
const TAIL_TIME: Duration = Duration::from_secs(60);

/// Blocks that are in memory at once while they are put back.
const BLOCKS_AT_ONCE: usize = 16;

impl Session {
    /// Keeps the rows of blocks that have become complete, and a tail behind them.
    pub(super) fn keep_rows(&mut self) -> Result<(), Error> {
        let engine = self.engine.clone();
        let Some(pieces) = &engine.pieces else { return Ok(()) };
        let (n, known) = (self.tokens.len(), self.names.len());
        if known == n / BLOCK {
            return Ok(());
        }
        for block in self.tokens.chunks_exact(BLOCK).skip(known) {
            self.names.push(self.names.last().copied().unwrap_or(pieces.store.root()).then(block));
        }
        self.keep_blocks(known)?;
        if !pieces.has_frontier || n % BLOCK > 0 {
            return Ok(());
        }
        // Others may have the beginning in common, so there is always a tail near; few of them are written.
        let (n_kept, kept) = self.tail_kept;
        if n - n_kept < pieces.n_between && kept.elapsed() < TAIL_TIME {
            return self.keep_tail(Lasting::AtEnd);
        }
        self.tail_kept = (n, Instant::now());
        self.keep_tail(Lasting::Soon)
    }

    /// Keeps what is needed to go on behind a prompt, where that cannot be had by dropping the answer.
    pub(super) fn keep_turn(&mut self) -> Result<(), Error> {
        match &self.engine.pieces {
            Some(pieces) if pieces.has_frontier => self.keep_tail(Lasting::AtEnd),
            _ => Ok(()),
        }
    }

    /// Keeps what is needed to go on behind the last token.
    pub(super) fn keep_tail(&mut self, lasting: Lasting) -> Result<(), Error> {
        let engine = self.engine.clone();
        let Some(pieces) = &engine.pieces else { return Ok(()) };
        let n_whole = self.tokens.len() / BLOCK * BLOCK;
        let is_worth = pieces.has_frontier || n_whole < self.tokens.len() || !self.logits.is_empty();
        if self.tokens.is_empty() || !is_worth || !self.can_keep(self.tokens.len()) {
            return Ok(());
        }
        let parent = self.names.last().copied().unwrap_or(pieces.store.root());
        if pieces.store.has(&parent.tail(&self.tokens[n_whole..])) {
            return Ok(());
        }
        self.keep_blocks(0)?;
        let (ids, logits, slot) = (&self.tokens, &self.logits, self.slot);
        let cut = |runner: &mut Runner| pieces.cut_tail(&engine, runner, slot, parent, ids, logits);
        pieces.keep(self.turns.alone(slot, 0, cut)?, lasting);
        Ok(())
    }

    /// Keeps the rows of the blocks from `first` on, as far as the store does not have them.
    fn keep_blocks(&self, first: usize) -> Result<(), Error> {
        let engine = &*self.engine;
        let Some(pieces) = &engine.pieces else { return Ok(()) };
        for (k, name) in self.names.iter().enumerate().skip(first).filter(|(_, name)| !pieces.store.has(name)) {
            let parent = if k == 0 { pieces.store.root() } else { self.names[k - 1] };
            let ids = &self.tokens[..(k + 1) * BLOCK];
            let cut = |runner: &mut Runner| pieces.cut_rows(engine, runner, self.slot, parent, ids);
            debug_assert_eq!(parent.then(&ids[k * BLOCK..]), *name);
            pieces.keep(self.turns.alone(self.slot, 0, cut)?, Lasting::Soon);
        }
        Ok(())
    }

    /// Puts back what was kept of `ids`; false if it cannot be loaded, or is not what this memory holds.
    pub(super) fn put_back(&mut self, ids: &[TokenId], blocks: &[Name], tail: Option<Name>) -> Result<bool, Error> {
        let engine = self.engine.clone();
        let Some(pieces) = &engine.pieces else { return Ok(false) };
        let slot = self.slot;
        // Rows of tokens that are ours, too, are where they belong.
        let n_here = self.n_alike(ids) / BLOCK;
        for names in blocks.get(n_here..).unwrap_or_default().chunks(BLOCKS_AT_ONCE) {
            let Some(rows) = names.iter().map(|name| pieces.store.load(name)).collect::<Option<Vec<_>>>() else {
                return Ok(false);
            };
            let put = |runner: &mut Runner| rows.iter().all(|piece| pieces.put_rows(&engine, runner, slot, piece));
            if !self.turns.alone(slot, 0, put) {
                return Ok(false);
            }
        }
        self.truncate(0);
        if let Some(tail) = tail {
            let Some(tail) = pieces.store.load(&tail) else { return Ok(false) };
            let logits = &mut self.logits;
            if !self.turns.alone(slot, 0, |runner| pieces.put_tail(&engine, runner, slot, &tail, logits)) {
                return Ok(false);
            }
        }
        self.tokens.extend_from_slice(ids);
        self.names.extend_from_slice(&blocks[..ids.len() / BLOCK]);
        self.n_written = ids.len();
        self.n_fixed = if pieces.has_frontier { ids.len() } else { 0 };
        self.tail_kept.0 = ids.len();
        Ok(true)
    }
}
