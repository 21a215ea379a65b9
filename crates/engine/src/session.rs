//! One timeline of tokens. [`Session::sync`] makes it equal to a list of tokens by the least work: what matches stays,
//! the rest is dropped where the model's memory allows it, else computed again from the start.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::{ControlFlow, Range},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use compute::{Row, Step};
use models::{N_LOGITS_MAX, State};
use tokenizer::TokenId;

use crate::{Error, engine::Inner};

/// A conversation's state.
pub struct Session {
    engine: Arc<Inner>,
    state: Box<dyn State>,
    step: Step,
    /// Distinguishes this session's recordings from others'.
    number: u64,
    n_ctx: usize,
    tokens: Vec<TokenId>,
    /// Positions below this were written since the state was last started afresh.
    n_written: usize,
    /// Rows of the last forward pass.
    n_rows: usize,
    logits: Vec<f32>, // of the last token; empty if they are not known
    bytes: Vec<u8>,   // logits as they come from the device
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

static N_SESSIONS: AtomicU64 = AtomicU64::new(0);

impl Session {
    pub(crate) fn new(engine: Arc<Inner>, n_ctx: usize) -> Result<Session, Error> {
        let options = engine.state_options(n_ctx);
        let n_vocab = engine.model.shape().n_vocab;
        Ok(Session {
            state: engine.model.state(&*engine.dev, &options, &engine.routing)?,
            step: Step::new(&*engine.dev, options.n_batch)?,
            number: N_SESSIONS.fetch_add(1, Ordering::Relaxed),
            n_ctx,
            tokens: Vec::with_capacity(n_ctx),
            n_written: 0,
            n_rows: 0,
            logits: Vec::with_capacity(n_vocab),
            bytes: vec![0; N_LOGITS_MAX.min(options.n_batch) * n_vocab * size_of::<f32>()],
            engine,
        })
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

    /// Makes `ids` the tokens of this session.
    ///
    /// # Errors
    /// [`Error::ContextFull`] and [`Error::Token`], before anything changes; [`Error::Device`].
    pub fn sync(&mut self, ids: &[TokenId]) -> Result<Synced, Error> {
        self.sync_with(ids, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Session::sync`], telling `progress` after every layer how far it is. Breaking off keeps the batches that are
    /// complete; where the model's memory could not drop the one that is not, it is completed first.
    ///
    /// # Errors
    /// As [`Session::sync`].
    pub fn sync_with(
        &mut self,
        ids: &[TokenId],
        progress: &mut dyn FnMut(Prefill) -> ControlFlow<()>,
    ) -> Result<Synced, Error> {
        self.check(ids, 0)?;
        let same = self.tokens.iter().zip(ids).take_while(|(a, b)| a == b).count();
        if same == ids.len() && same == self.tokens.len() && (same == 0 || !self.logits.is_empty()) {
            return Ok(Synced { reused: same, computed: 0, complete: true });
        }
        // The last token is computed again if need be: its logits are not kept.
        self.drop_to(same.min(ids.len().saturating_sub(1)));
        let reused = self.tokens.len();
        let total = ids.len() - reused;
        for chunk in ids[reused..].chunks(self.step.len()) {
            let before = self.tokens.len() - reused;
            let more = self.prefill(chunk, &mut |n| progress(Prefill { done: before + n, total }))?;
            let computed = self.tokens.len() - reused;
            if more.is_break() && computed < total {
                return Ok(Synced { reused, computed, complete: false });
            }
        }
        self.read_last()?;
        Ok(Synced { reused, computed: total, complete: true })
    }

    /// Appends a token.
    ///
    /// # Errors
    /// As [`Session::sync`].
    pub fn push(&mut self, id: TokenId) -> Result<(), Error> {
        self.check(&[id], self.tokens.len())?;
        self.restore()?;
        self.forward(&[id])?;
        self.read_last()
    }

    /// Of `n` tokens to come, how many [`Session::rewind`] will be able to drop at the cost of one.
    pub fn n_rewind(&self, n: usize) -> usize {
        let n_drop = self.state.n_rewind(self.tokens.len() + n);
        n.min(n_drop.saturating_sub(1)) // the one before them is computed again, for its logits
    }

    /// Keeps the first `n_keep` tokens. Costs a token's work where the model's memory still holds what came before,
    /// and a prefill otherwise.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn rewind(&mut self, n_keep: usize) -> Result<(), Error> {
        let kept = self.tokens[..n_keep.min(self.tokens.len())].to_vec();
        self.sync(&kept).map(|_| ())
    }

    /// Appends tokens, at most `n_chunk` in a forward pass, and tells `each` the logits after every one, until that
    /// breaks off.
    ///
    /// # Errors
    /// As [`Session::sync`].
    pub fn score(
        &mut self,
        ids: &[TokenId],
        n_chunk: usize,
        each: &mut dyn FnMut(&[f32]) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.check(ids, self.tokens.len())?;
        self.restore()?;
        for chunk in ids.chunks(n_chunk.clamp(1, self.step.len())) {
            self.forward(chunk)?;
            for first in (0..chunk.len()).step_by(N_LOGITS_MAX) {
                let rows = first..(first + N_LOGITS_MAX).min(chunk.len());
                self.read(rows.clone())?;
                for i in 0..rows.len() {
                    self.take(i, self.tokens.len() - chunk.len() + first + i)?;
                    if each(&self.logits).is_break() {
                        self.logits.clear(); // they may be those of an earlier token than the last
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
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

    /// Drops tokens from position `n_keep` on, or all of them if the state cannot go back that far.
    fn drop_to(&mut self, n_keep: usize) {
        let back = self.n_written - n_keep;
        if back > self.state.n_rewind(self.n_written) {
            self.tokens.clear();
            self.n_written = 0;
        } else {
            self.tokens.truncate(n_keep);
        }
        self.logits.clear();
    }

    /// After a step that failed: computes again what it may have overwritten. If that fails too, the session is shorter.
    fn restore(&mut self) -> Result<(), Error> {
        if self.n_written - self.tokens.len() <= self.state.n_rewind(self.n_written) {
            return Ok(());
        }
        let kept = std::mem::take(&mut self.tokens);
        self.n_written = 0;
        self.sync(&kept).map(|_| ())
    }

    /// Runs tokens, not more than a batch, layer by layer, telling `progress` how many of them that makes. Breaking off
    /// gives them up where that loses nothing else.
    fn prefill(
        &mut self,
        ids: &[TokenId],
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let (step, n_layer) = (self.place(ids), self.engine.model.shape().n_layer);
        let mut more = ControlFlow::Continue(());
        for layer in 0..n_layer {
            self.run(&step, layer..layer + 1)?;
            more = progress(ids.len() * (layer + 1) / n_layer);
            if more.is_break() && layer + 1 < n_layer && self.may_drop(ids.len()) {
                return Ok(more);
            }
        }
        self.keep(ids);
        Ok(more)
    }

    /// Whether `n` rows that are computed in part can be given up: the state can drop them, or starting afresh costs no
    /// more than they did.
    fn may_drop(&self, n: usize) -> bool {
        n <= self.state.n_rewind(self.n_written) || self.tokens.len() <= n
    }

    /// Runs tokens, not more than a batch, through all layers.
    fn forward(&mut self, ids: &[TokenId]) -> Result<(), Error> {
        let step = self.place(ids);
        self.run(&step, 0..self.engine.model.shape().n_layer)?;
        self.keep(ids);
        Ok(())
    }

    /// The step block of tokens that follow those we have.
    fn place(&self, ids: &[TokenId]) -> Step {
        let first = self.tokens.len();
        let row = |(i, &id): (usize, &TokenId)| Row { id, pos: (first + i) as u32, slot: 0 };
        self.step.set(&*self.engine.dev, &ids.iter().enumerate().map(row).collect::<Vec<Row>>())
    }

    /// Runs a step through some layers.
    fn run(&mut self, step: &Step, layers: Range<usize>) -> Result<(), Error> {
        let dev = &*self.engine.dev;
        let mut key = DefaultHasher::new();
        (self.number, step.len(), &layers).hash(&mut key);
        let mut done = Ok(());
        let mut forward = || done = self.state.forward(dev, step, layers.clone());
        match self.engine.routing.reads_choices() {
            // What is queued depends on what is read back, and cannot be replayed.
            true => forward(),
            false => dev.step(key.finish(), &mut forward),
        }
        self.n_written = self.n_written.max(self.tokens.len() + step.len());
        self.logits.clear();
        Ok(done?)
    }

    /// Tokens that went through all layers are the session's.
    fn keep(&mut self, ids: &[TokenId]) {
        self.n_rows = ids.len();
        self.tokens.extend_from_slice(ids);
    }

    fn read_last(&mut self) -> Result<(), Error> {
        if !self.tokens.is_empty() {
            self.read(self.n_rows - 1..self.n_rows)?;
            self.take(0, self.tokens.len() - 1)?;
        }
        Ok(())
    }

    /// Computes the logits of some rows of the last forward pass, at most [`N_LOGITS_MAX`].
    fn read(&mut self, rows: Range<usize>) -> Result<(), Error> {
        let dev = &*self.engine.dev;
        let logits = self.state.logits(dev, rows);
        dev.read(&logits, &mut self.bytes[..logits.byte_range().len()])?;
        Ok(())
    }

    /// Row `i` of what was read, the logits of position `pos`, becomes the logits.
    fn take(&mut self, i: usize, pos: usize) -> Result<(), Error> {
        let row_bytes = self.engine.model.shape().n_vocab * size_of::<f32>();
        let row = self.bytes[i * row_bytes..][..row_bytes].as_chunks().0;
        self.logits.clear();
        self.logits.extend(row.iter().map(|b| f32::from_le_bytes(*b)));
        if self.logits.iter().any(|&v| v.is_nan() || v == f32::INFINITY) {
            self.logits.clear();
            return Err(Error::NoNumbers { path: self.engine.path().to_path_buf(), pos });
        }
        Ok(())
    }
}
