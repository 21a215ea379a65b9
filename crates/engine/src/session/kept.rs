//! What of a session is kept in the store of pieces, and when; and how it comes back.

use std::time::{Duration, Instant};

use kv::{BLOCK, Lasting, Name};
use tokenizer::TokenId;

use super::Session;
use crate::{
    Error,
    pieces::{Layout, Place},
    runner::Runner,
};

/// What reading a prompt again may cost where its rows alone are not enough.
const TAIL_TIME: Duration = Duration::from_secs(60);

/// Blocks that are in memory at once while they are put back.
const BLOCKS_AT_ONCE: usize = 4;

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
        if !pieces.layout.has_frontier || n % BLOCK > 0 {
            return Ok(());
        }
        // Others may have the beginning in common, so there is always a tail near; few of them are written.
        let (n_kept, kept) = self.tail_kept;
        if n - n_kept < pieces.layout.n_between && kept.elapsed() < TAIL_TIME {
            return self.keep_tail(Lasting::AtEnd);
        }
        self.tail_kept = (n, Instant::now());
        self.keep_tail(Lasting::Soon)
    }

    /// Keeps what is needed to go on behind a prompt, `n_computed` tokens of which were new: on disk if that takes little beside
    /// them, as the same may be asked again in another run, or if it is asked again now; else where it cannot be had by dropping the
    /// answer.
    pub(super) fn keep_turn(&self, n_computed: usize) -> Result<(), Error> {
        let is_worth = |layout: &Layout| n_computed == 0 || layout.is_little(self.tokens.len(), n_computed);
        match &self.engine.pieces {
            Some(pieces) if is_worth(&pieces.layout) => self.keep_tail(Lasting::Soon),
            Some(pieces) if pieces.layout.has_frontier => self.keep_tail(Lasting::AtEnd),
            _ => Ok(()),
        }
    }

    /// Keeps what is needed to go on behind the last token.
    pub(super) fn keep_tail(&self, lasting: Lasting) -> Result<(), Error> {
        let engine = self.engine.clone();
        let Some(pieces) = &engine.pieces else { return Ok(()) };
        let n_whole = self.tokens.len() / BLOCK * BLOCK;
        let is_worth = pieces.layout.has_frontier || n_whole < self.tokens.len() || !self.logits.is_empty();
        if self.tokens.is_empty() || !is_worth || !self.can_keep(self.tokens.len()) {
            return Ok(());
        }
        let parent = self.names.last().copied().unwrap_or(pieces.store.root());
        let there = pieces.store.promote(&parent.tail(&self.tokens[n_whole..]), lasting);
        if there.is_some_and(|has_logits| has_logits || self.logits.is_empty()) {
            return Ok(());
        }
        self.keep_blocks(0)?;
        let at = Place { engine: &engine, slot: self.slot };
        let cut = |runner: &mut Runner| at.cut_tail(runner, parent, &self.tokens, &self.logits);
        pieces.keep(self.turns.alone(self.slot, cut)?, lasting);
        Ok(())
    }

    /// Keeps the rows of the blocks from `first` on, as far as the store does not have them.
    fn keep_blocks(&self, first: usize) -> Result<(), Error> {
        let engine = &*self.engine;
        let Some(pieces) = &engine.pieces else { return Ok(()) };
        for (k, name) in self.names.iter().enumerate().skip(first).filter(|(_, name)| !pieces.store.has(name)) {
            let parent = if k == 0 { pieces.store.root() } else { self.names[k - 1] };
            let ids = &self.tokens[..(k + 1) * BLOCK];
            let at = Place { engine, slot: self.slot };
            pieces.keep(self.turns.alone(self.slot, |runner| at.cut_rows(runner, parent, ids))?, Lasting::Soon);
            if !pieces.store.has(name) {
                return Ok(()); // there is no room for it, nor for what hangs from it
            }
        }
        Ok(())
    }

    /// Puts back what was kept of `ids`; false if it cannot be loaded, or is not what this memory holds. Then there are the
    /// tokens that there were, or none.
    pub(super) fn put_back(&mut self, ids: &[TokenId], blocks: &[Name], tail: Option<Name>) -> bool {
        let engine = self.engine.clone();
        let Some(pieces) = &engine.pieces else { return false };
        let tail = match tail.map(|name| pieces.store.load(&name)) {
            Some(None) => return false,
            loaded => loaded.flatten(),
        };
        // Rows of tokens that are ours, too, are where they belong; others are not ours any more.
        let n_here = (self.n_alike(ids) / BLOCK).min(blocks.len());
        self.clear();
        let at = Place { engine: &engine, slot: self.slot };
        let starts = blocks.iter().enumerate().skip(n_here).collect::<Vec<_>>();
        for some in starts.chunks(BLOCKS_AT_ONCE) {
            let load = |&(k, name): &(usize, &Name)| Some((k * BLOCK, pieces.store.load(name)?));
            let Some(rows) = some.iter().map(load).collect::<Option<Vec<_>>>() else { return false };
            let put = |runner: &mut Runner| rows.iter().all(|(first, piece)| at.put_rows(runner, *first, piece));
            if !self.turns.alone(self.slot, put) {
                return false;
            }
        }
        let mut logits = std::mem::take(&mut self.logits);
        if let Some(tail) = tail
            && !self.turns.alone(self.slot, |runner| at.put_tail(runner, ids.len(), &tail, &mut logits))
        {
            return false;
        }
        self.logits = logits;
        self.tokens.extend_from_slice(ids);
        self.names.extend_from_slice(&blocks[..ids.len() / BLOCK]);
        self.n_written = ids.len();
        self.n_fixed = if pieces.layout.has_frontier { ids.len() } else { 0 };
        self.tail_kept.0 = ids.len();
        true
    }
}
