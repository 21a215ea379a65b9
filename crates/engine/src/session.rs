//! One timeline of tokens. [`Session::sync`] makes it equal to a list of tokens by the least work: it starts from the
//! longest beginning of the list that can be had (`session/start.rs`), and computes the rest.
//!
//! Where there is a store of pieces, what is computed is kept there as it comes (`session/kept.rs`): rows block by block, a tail
//! where one may want to go on.

use std::{ops::ControlFlow, sync::Arc, time::Instant};

use compute::Row;
use kv::{BLOCK, Lasting, Name};
use tokenizer::TokenId;

use self::start::{From, start};
use crate::{Error, Load, engine::Inner, turns::Turns};

mod kept;
mod start;

/// How often something else is put back where a part of what was found is broken.
const TRIES: usize = 8;

/// A conversation's state.
pub struct Session {
    pub(crate) engine: Arc<Inner>,
    turns: Arc<Turns>,
    slot: u32,
    n_ctx: usize,
    tokens: Vec<TokenId>,
    /// Positions below this were written since the slot was last started afresh.
    n_written: usize,
    /// How many of those can be dropped, so that others follow in their place.
    n_rewind: usize,
    /// Tokens that cannot: they were put back without what came before them.
    n_fixed: usize,
    logits: Vec<f32>, // of the last token; empty if they are not known
    /// The names of the blocks that the tokens fill, where there is a store.
    names: Vec<Name>,
    /// Where the last tail on the way was kept, and when; or when reading a prompt began.
    tail_kept: (usize, Instant),
}

/// How far a prompt has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefill {
    /// Tokens computed so far.
    pub done: usize,
    /// Tokens to compute.
    pub total: usize,
}

/// What a sync did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Tokens that were there already.
    pub reused: usize,
    /// Tokens that were computed.
    pub computed: usize,
    /// Whether the session now holds all tokens; false if it was stopped before.
    pub complete: bool,
}

impl Session {
    /// The session of a slot of what `turns` are about.
    pub(crate) fn new(engine: Arc<Inner>, turns: Arc<Turns>, slot: u32, n_ctx: usize, n_rewind: usize) -> Session {
        Session {
            slot,
            n_ctx,
            tokens: Vec::with_capacity(n_ctx),
            n_written: 0,
            n_rewind,
            n_fixed: 0,
            logits: Vec::with_capacity(engine.model.shape().n_vocab),
            names: Vec::new(),
            tail_kept: (0, Instant::now()),
            engine,
            turns,
        }
    }

    /// The tokens so far.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Positions that there is room for.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// The logits after the last token; empty before the first, and after a stopped [`Session::sync_with`].
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// What was computed for this session and those opened with it.
    pub fn load(&self) -> Load {
        self.turns.load()
    }

    /// Makes `ids` the tokens of this session.
    ///
    /// # Errors
    /// [`Error::ContextFull`] and [`Error::Token`], before anything changes; [`Error::Device`].
    pub fn sync(&mut self, ids: &[TokenId]) -> Result<Synced, Error> {
        self.sync_with(ids, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Session::sync`], telling `progress` after every layer how far it is. Breaking off keeps the batches that are
    /// complete; where the model's memory could not drop the one that is not, it is completed first. Other sessions wait while
    /// `progress` runs, so it must not wait for anybody.
    ///
    /// # Errors
    /// As [`Session::sync`].
    pub fn sync_with(
        &mut self,
        ids: &[TokenId],
        progress: &mut dyn FnMut(Prefill) -> ControlFlow<()>,
    ) -> Result<Synced, Error> {
        self.check(ids, 0)?;
        if ids == self.tokens && (ids.is_empty() || !self.logits.is_empty()) {
            return Ok(Synced { reused: ids.len(), computed: 0, complete: true });
        }
        self.begin(ids)?;
        let reused = self.tokens.len();
        let total = ids.len() - reused;
        self.tail_kept.1 = Instant::now();
        while self.tokens.len() < ids.len() {
            let before = self.tokens.len() - reused;
            let chunk = &ids[self.tokens.len()..self.chunk_end(ids.len())];
            let last = self.tokens.len() + chunk.len() == ids.len();
            let more = self.prefill(chunk, last, &mut |n| progress(Prefill { done: before + n, total }))?;
            self.keep_rows()?;
            let computed = self.tokens.len() - reused;
            if more.is_break() && computed < total {
                return Ok(Synced { reused, computed, complete: false });
            }
        }
        self.keep_turn(total)?;
        Ok(Synced { reused, computed: total, complete: true })
    }

    /// Appends a token. Sessions that were opened together and append theirs at the same time share the work.
    ///
    /// # Errors
    /// As [`Session::sync`].
    pub fn push(&mut self, id: TokenId) -> Result<(), Error> {
        self.check(&[id], self.tokens.len())?;
        self.restore()?;
        let row = self.row(self.tokens.len(), id);
        self.wrote(1);
        self.turns.decode(row, &mut self.logits)?;
        self.append(&[id]);
        self.keep_rows()
    }

    /// Keeps what is needed to go on behind the last token, as dropping the session does, if anything is kept.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn keep(&self) -> Result<(), Error> {
        self.keep_tail(Lasting::AtEnd)
    }

    /// Of `n` tokens to come, how many [`Session::rewind`] will be able to drop at the cost of one.
    pub fn n_rewind(&self, n: usize) -> usize {
        let n_drop = self.n_rewind.min(self.tokens.len() + n - self.n_fixed);
        n.min(n_drop.saturating_sub(1)) // the one before them is computed again, for its logits
    }

    /// Keeps the first `n_keep` tokens. Costs a token's work where the model's memory still holds what came before,
    /// and a prefill otherwise.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn rewind(&mut self, n_keep: usize) -> Result<(), Error> {
        self.rewind_with(n_keep, &mut |_| ControlFlow::Continue(())).map(|_| ())
    }

    /// As [`Session::rewind`], telling `progress` how far it is, as [`Session::sync_with`] does.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn rewind_with(
        &mut self,
        n_keep: usize,
        progress: &mut dyn FnMut(Prefill) -> ControlFlow<()>,
    ) -> Result<Synced, Error> {
        let kept = self.tokens[..n_keep.min(self.tokens.len())].to_vec();
        let n_live = kept.len().saturating_sub(1); // the last is computed again, for its logits
        if self.can_keep(n_live) {
            self.truncate(n_live);
        }
        self.sync_with(&kept, progress)
    }

    /// Appends tokens, at most `n_chunk` in a forward pass, and tells `each` the logits after every one, until that
    /// breaks off. Other sessions wait while `each` runs.
    ///
    /// # Errors
    /// As [`Session::sync`].
    pub fn score(
        &mut self,
        ids: &[TokenId],
        n_chunk: usize,
        each: &mut dyn FnMut(&[f32]) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.score_from(0, ids, n_chunk, each)
    }

    /// As [`Session::score`], with the logits after `ids[first]` as the first ones that are computed.
    ///
    /// # Errors
    /// As [`Session::sync`].
    pub fn score_from(
        &mut self,
        mut first: usize,
        ids: &[TokenId],
        n_chunk: usize,
        each: &mut dyn FnMut(&[f32]) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.check(ids, self.tokens.len())?;
        self.restore()?;
        for chunk in ids.chunks(n_chunk.clamp(1, self.engine.n_batch.min(self.n_ctx))) {
            if self.score_chunk(first.min(chunk.len()), chunk, each)?.is_break() {
                self.logits.clear(); // they may be those of an earlier token than the last
                return Ok(());
            }
            first = first.saturating_sub(chunk.len());
        }
        Ok(())
    }

    fn score_chunk(
        &mut self,
        first: usize,
        ids: &[TokenId],
        each: &mut dyn FnMut(&[f32]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let (engine, turns, rows) = (self.engine.clone(), self.turns.clone(), self.rows(ids));
        self.wrote(ids.len());
        let (mut flow, mut own) = (ControlFlow::Continue(()), std::mem::take(&mut self.logits));
        turns.prefill(self.slot, |runner| {
            runner.forward(&engine, &rows, first..rows.len(), &mut |_, logits, i, pos| {
                if flow.is_continue() {
                    logits.copy(&engine, i, pos, &mut own)?;
                    flow = each(&own);
                }
                Ok(())
            })?;
            Ok(ids.len())
        })?;
        self.append(ids);
        self.logits = own;
        self.keep_rows()?;
        Ok(flow)
    }

    fn check(&self, ids: &[TokenId], first: usize) -> Result<(), Error> {
        let n_vocab = self.engine.model.shape().n_vocab;
        let n_tokens = first + ids.len();
        if n_tokens > self.n_ctx {
            return Err(Error::ContextFull { n_tokens, n_ctx: self.n_ctx });
        }
        match ids.iter().position(|&id| id as usize >= n_vocab) {
            Some(i) => Err(Error::Token { id: ids[i], pos: first + i, n_vocab }),
            None => Ok(()),
        }
    }

    /// How many tokens are those of `ids`.
    pub(crate) fn n_alike(&self, ids: &[TokenId]) -> usize {
        self.tokens.iter().zip(ids).take_while(|(a, b)| a == b).count()
    }

    /// Whether the tokens from position `n_keep` on can be dropped, and others follow in their place.
    pub(crate) fn can_keep(&self, n_keep: usize) -> bool {
        n_keep >= self.n_fixed && self.n_written - n_keep <= self.n_rewind
    }

    /// Holds as many of the first of `ids` as can be had.
    fn begin(&mut self, ids: &[TokenId]) -> Result<(), Error> {
        // Others will follow where tokens of ours did.
        if self.n_alike(ids) < self.tokens.len() {
            self.keep_tail(Lasting::AtEnd)?;
        }
        for _ in 0..TRIES {
            let start = start(self, ids);
            match start.from {
                From::Live => self.truncate(start.n_tokens),
                From::Nothing => self.clear(),
                From::Stored { blocks, tail } => {
                    if !self.put_back(&ids[..start.n_tokens], &blocks, tail) {
                        continue; // the store has dropped what it could not load
                    }
                }
            }
            return Ok(());
        }
        self.clear();
        Ok(())
    }

    /// Drops tokens.
    fn truncate(&mut self, n_keep: usize) {
        self.tokens.truncate(n_keep);
        self.names.truncate(n_keep / BLOCK);
        self.tail_kept.0 = self.tail_kept.0.min(n_keep);
        self.logits.clear();
    }

    /// Drops all tokens.
    fn clear(&mut self) {
        self.truncate(0);
        (self.n_written, self.n_fixed) = (0, 0);
    }

    /// After a step that failed: computes again what it may have overwritten. If that fails too, the session is shorter.
    fn restore(&mut self) -> Result<(), Error> {
        if self.can_keep(self.tokens.len()) {
            return Ok(());
        }
        let kept = std::mem::take(&mut self.tokens);
        self.clear();
        self.sync(&kept).map(|_| ())
    }

    /// Where the chunk of a prompt of `n` tokens ends that is computed next: with a block, if that is not too near.
    fn chunk_end(&self, n: usize) -> usize {
        let first = self.tokens.len();
        let end = first + self.turns.n_rows(self.slot).min(n - first);
        match end / BLOCK * BLOCK {
            whole if whole >= first + BLOCK || end < n && whole > first => whole,
            _ => end,
        }
    }

    /// Runs tokens, not more than a batch, layer by layer, telling `progress` how many of them that makes; the `last` ones
    /// have their logits computed. Breaking off gives them up where that loses nothing else.
    fn prefill(
        &mut self,
        ids: &[TokenId],
        last: bool,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let (engine, rows) = (self.engine.clone(), self.rows(ids));
        self.wrote(ids.len());
        let may_drop = self.may_drop(ids.len());
        let n_layer = engine.model.shape().n_layer;
        let (turns, logits) = (self.turns.clone(), &mut self.logits);
        let mut more = ControlFlow::Continue(());
        let n_done = turns.prefill(self.slot, |runner| {
            let step = runner.place(&engine, &rows);
            for layer in 0..n_layer {
                runner.run(&engine, &step, layer..layer + 1)?;
                more = progress(ids.len() * (layer + 1) / n_layer);
                if more.is_break() && layer + 1 < n_layer && may_drop {
                    return Ok(0);
                }
            }
            if let Some(row) = rows.last().filter(|_| last) {
                let of_last = runner.logits(&engine, rows.len() - 1..rows.len())?;
                of_last.copy(&engine, 0, row.pos as usize, logits)?;
            }
            Ok(rows.len())
        })?;
        self.append(&ids[..n_done]);
        Ok(more)
    }

    /// Whether `n` rows that are computed in part can be given up: the state can drop them, or starting afresh costs no
    /// more than they did.
    fn may_drop(&self, n: usize) -> bool {
        self.can_keep(self.tokens.len()) || self.tokens.len() <= n
    }

    /// The row of a token at a position.
    fn row(&self, pos: usize, id: TokenId) -> Row {
        Row { id, pos: pos as u32, slot: self.slot }
    }

    /// The rows of tokens that follow those we have.
    fn rows(&self, ids: &[TokenId]) -> Vec<Row> {
        ids.iter().enumerate().map(|(i, &id)| self.row(self.tokens.len() + i, id)).collect()
    }

    /// `n` more tokens are about to be computed.
    fn wrote(&mut self, n: usize) {
        self.n_written = self.n_written.max(self.tokens.len() + n);
        self.logits.clear();
    }

    /// Tokens that went through all layers are the session's.
    fn append(&mut self, ids: &[TokenId]) {
        self.tokens.extend_from_slice(ids);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Whoever could be told is gone; and after a panic, nobody knows what is in the caches.
        if !std::thread::panicking() {
            let _ = self.keep_tail(Lasting::AtEnd);
        }
    }
}
