//! Whose turn it is: sessions share one memory and one device, and a forward pass is for one prompt, or for the next token
//! of every session that wants one.
//!
//! ```text
//! decode     what wants a token now goes in one batch; weights are read once for all of them
//! alone      a chunk of a prompt, or anything else that needs the runner for itself, in the order of asking
//! ```
//!
//! Where both wait they take turns, so a long prompt costs those who decode one chunk per token, and chunks are cut so that
//! this is bearable ([`Turns::n_rows`]). There is no thread: whoever comes first computes for all that have come, and a
//! session that is alone computes as if there were no others.
//!
//! Those who decoded last are expected back: they sample meanwhile. The next batch waits for them a moment, because a token
//! that misses it costs a pass over all weights.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use compute::Row;

use crate::{
    Error,
    engine::Inner,
    runner::{Logits, Runner},
};

/// How long those who decode wait for a chunk of somebody's prompt, about.
const CHUNK_TIME: Duration = Duration::from_millis(400);

/// Rows of a chunk, at least: fewer would read all weights for little.
const CHUNK_ROWS: usize = 32;

/// Of the time of the last batch, the part that the next waits for those who are expected.
const WAIT_PART: u32 = 8;

/// The longest such wait.
const WAIT_MAX: Duration = Duration::from_millis(10);

/// How long after its last token a session counts as one that decodes.
const DECODING: Duration = Duration::from_secs(1);

/// The runner, and the line before it.
pub(crate) struct Turns {
    engine: Arc<Inner>,
    line: Mutex<Line>,
    changed: Condvar,
    n_batch: usize,
}

struct Line {
    /// Whoever computes has it.
    runner: Option<Runner>,
    /// Tokens to be decoded.
    wanted: Vec<Wanted>,
    /// Slots of those that were decoded, with what became of them.
    decoded: Vec<(u32, Decoded)>,
    /// Tickets of those who want the runner for themselves.
    alone: VecDeque<u64>,
    n_tickets: u64,
    /// Whether the last turn was for tokens that were decoded.
    was_decode: bool,
    /// Slots that the last batch of tokens was for.
    expected: Vec<u32>,
    /// When that ended, and how long it took.
    ended: Instant,
    took: Duration,
    /// Rows of prompts per second, of the last chunk.
    rows_per_second: f64,
    load: Load,
}

/// What was computed for all sessions together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Tokens that were decoded.
    pub n_decoded: u64,
    /// In so many forward passes.
    pub n_batches: u64,
    /// How long these took together, in seconds.
    pub decode_seconds: f64,
    /// Tokens of prompts.
    pub n_prefilled: u64,
    /// How long these took, in seconds.
    pub prefill_seconds: f64,
}

/// A token to be decoded, and where its logits go.
struct Wanted {
    row: Row,
    logits: Vec<f32>,
}

/// What became of a token.
enum Decoded {
    Logits(Vec<f32>),
    Failed(Error),
    /// Something went wrong for one of several: each has to try alone.
    Again,
}

/// The runner while somebody computes; it goes back whatever happens.
struct Borrowed<'a> {
    turns: &'a Turns,
    runner: Option<Runner>,
}

impl Turns {
    pub(crate) fn new(engine: Arc<Inner>, runner: Runner, n_batch: usize) -> Turns {
        let line = Line {
            runner: Some(runner),
            wanted: Vec::new(),
            decoded: Vec::new(),
            alone: VecDeque::new(),
            n_tickets: 0,
            was_decode: false,
            expected: Vec::new(),
            ended: Instant::now(),
            took: Duration::ZERO,
            rows_per_second: 0.0,
            load: Load::default(),
        };
        Turns { engine, line: Mutex::new(line), changed: Condvar::new(), n_batch }
    }

    /// What was computed so far.
    pub(crate) fn load(&self) -> Load {
        self.line().load
    }

    /// Rows that the next chunk of a session's prompt should have at most.
    pub(crate) fn n_rows(&self, slot: u32) -> usize {
        let line = self.line();
        let waits = line.wanted.iter().any(|w| w.row.slot != slot);
        let decoded = line.expected.iter().any(|&s| s != slot) && line.ended.elapsed() < DECODING;
        if !waits && !decoded {
            return self.n_batch;
        }
        let n_rows = (line.rows_per_second * CHUNK_TIME.as_secs_f64()).min(self.n_batch as f64) as usize;
        n_rows.next_multiple_of(16).clamp(CHUNK_ROWS.min(self.n_batch), self.n_batch)
    }

    /// Has the runner compute rows of a prompt for the session of a slot; how many it was.
    ///
    /// # Errors
    /// What `work` returns.
    pub(crate) fn prefill(
        &self,
        slot: u32,
        work: impl FnOnce(&mut Runner) -> Result<usize, Error>,
    ) -> Result<usize, Error> {
        let (n_rows, took) = self.alone(slot, |runner| {
            let began = Instant::now();
            work(runner).map(|n_rows| (n_rows, began.elapsed()))
        })?;
        if n_rows > 0 {
            self.line().prefilled(n_rows, took);
        }
        Ok(n_rows)
    }

    /// Has the runner work for the session of a slot, and nobody else meanwhile.
    pub(crate) fn alone<R>(&self, slot: u32, work: impl FnOnce(&mut Runner) -> R) -> R {
        let mut line = self.line();
        let ticket = line.n_tickets;
        line.n_tickets += 1;
        line.alone.push_back(ticket);
        line.expected.retain(|&s| s != slot);
        let mut borrowed = loop {
            if line.may_go_alone(ticket)
                && let Some(runner) = line.runner.take()
            {
                line.alone.pop_front();
                line.was_decode = false;
                break Borrowed { turns: self, runner: Some(runner) };
            }
            line = self.wait(line, None);
        };
        drop(line);
        work(borrowed.runner())
    }

    /// Runs the next token of a session through all layers, with those of others; its logits go to `logits`.
    ///
    /// # Errors
    /// As [`Runner::run`] and [`Runner::logits`].
    pub(crate) fn decode(&self, row: Row, logits: &mut Vec<f32>) -> Result<(), Error> {
        let mut line = self.line();
        line.forget(row.slot);
        line.wanted.push(Wanted { row, logits: std::mem::take(logits) });
        self.changed.notify_all();
        let decoded = loop {
            if let Some(decoded) = line.take(row.slot) {
                break decoded;
            }
            let rest = line.to_wait();
            if rest == Some(Duration::ZERO)
                && let Some(runner) = line.runner.take()
            {
                line.was_decode = true;
                let wanted = std::mem::take(&mut line.wanted);
                drop(line);
                self.decode_all(Borrowed { turns: self, runner: Some(runner) }, wanted);
                line = self.line();
            } else {
                line = self.wait(line, rest);
            }
        };
        drop(line);
        match decoded {
            Decoded::Logits(found) => *logits = found,
            Decoded::Failed(e) => return Err(e),
            Decoded::Again => self.alone(row.slot, |runner| {
                let mut copy = |_, found: &Logits, i, pos| found.copy(&self.engine, i, pos, logits);
                runner.forward(&self.engine, &[row], 0..1, &mut copy)
            })?,
        }
        Ok(())
    }

    /// Runs tokens of several sessions in one batch.
    fn decode_all(&self, mut borrowed: Borrowed, mut wanted: Vec<Wanted>) {
        let (began, engine) = (Instant::now(), &*self.engine);
        wanted.sort_by_key(|w| w.row.slot);
        let rows: Vec<Row> = wanted.iter().map(|w| w.row).collect();
        let mut answers = Answers { turns: self, rows: &rows, decoded: Vec::new() };
        let mut each = |k: usize, found: &Logits, i: usize, pos| found.copy(engine, i, pos, &mut wanted[k].logits);
        let done = borrowed.runner().forward(engine, &rows, 0..rows.len(), &mut each);
        self.line().batch(&rows, began.elapsed());
        answers.decoded = match done {
            Ok(()) => wanted.into_iter().map(|w| Decoded::Logits(w.logits)).collect(),
            Err(e) if rows.len() == 1 => vec![Decoded::Failed(e)],
            Err(_) => Vec::new(),
        };
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, line: MutexGuard<'a, Line>, at_most: Option<Duration>) -> MutexGuard<'a, Line> {
        match at_most {
            None => self.changed.wait(line).unwrap_or_else(PoisonError::into_inner),
            Some(time) => self.changed.wait_timeout(line, time).unwrap_or_else(PoisonError::into_inner).0,
        }
    }
}

/// What became of the rows of a batch; it is told whatever happens, so that nobody waits for ever.
struct Answers<'a> {
    turns: &'a Turns,
    rows: &'a [Row],
    /// In their order; where there is none, each tries alone.
    decoded: Vec<Decoded>,
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        let answers = self.decoded.drain(..).chain(std::iter::repeat_with(|| Decoded::Again));
        self.turns.line().decoded.extend(self.rows.iter().map(|row| row.slot).zip(answers));
    }
}

impl Borrowed<'_> {
    fn runner(&mut self) -> &mut Runner {
        self.runner.as_mut().expect("it goes back at the end")
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        self.turns.line().runner = self.runner.take();
        self.turns.changed.notify_all();
    }
}

impl Line {
    /// Whether it is the turn of the one with this ticket.
    fn may_go_alone(&self, ticket: u64) -> bool {
        self.runner.is_some() && self.alone.front() == Some(&ticket) && (self.was_decode || self.wanted.is_empty())
    }

    /// How long until the tokens that are wanted can be decoded, if nobody else comes; `None` if somebody computes or goes
    /// first, who will tell.
    fn to_wait(&self) -> Option<Duration> {
        if self.runner.is_none() || self.was_decode && !self.alone.is_empty() {
            return None;
        }
        let is_here = |slot: &u32| self.wanted.iter().any(|w| w.row.slot == *slot);
        match self.expected.iter().all(is_here) {
            true => Some(Duration::ZERO),
            false => Some((self.took / WAIT_PART).min(WAIT_MAX).saturating_sub(self.ended.elapsed())),
        }
    }

    /// Drops what a panic has left of a slot's last token.
    fn forget(&mut self, slot: u32) {
        self.wanted.retain(|wanted| wanted.row.slot != slot);
        self.decoded.retain(|decoded| decoded.0 != slot);
    }

    /// What became of a slot's token, if it was decoded.
    fn take(&mut self, slot: u32) -> Option<Decoded> {
        let i = self.decoded.iter().position(|d| d.0 == slot)?;
        Some(self.decoded.swap_remove(i).1)
    }

    /// Tokens were decoded.
    fn batch(&mut self, rows: &[Row], took: Duration) {
        self.expected = rows.iter().map(|row| row.slot).collect();
        (self.ended, self.took) = (Instant::now(), took);
        self.load.n_decoded += rows.len() as u64;
        self.load.n_batches += 1;
        self.load.decode_seconds += took.as_secs_f64();
    }

    /// Rows of a prompt were computed.
    fn prefilled(&mut self, n_rows: usize, took: Duration) {
        self.rows_per_second = n_rows as f64 / took.as_secs_f64();
        self.load.n_prefilled += n_rows as u64;
        self.load.prefill_seconds += took.as_secs_f64();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        ops::Range,
        panic::{AssertUnwindSafe, catch_unwind},
        path::PathBuf,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use compute::{Device, DeviceError, Step, Tensor};
    use models::{CachePart, State};

    use super::*;
    use crate::{Engine, Options};

    /// A model's state that panics, or fails, in the step of more than one row that comes after so many.
    struct Faulty {
        state: Box<dyn State>,
        n_left: AtomicUsize,
        panics: bool,
    }

    impl State for Faulty {
        fn forward(&self, dev: &dyn Device, step: &Step, layers: Range<usize>) -> Result<(), models::Error> {
            assert!(!step.is_empty());
            if step.len() > 1 && self.n_left.fetch_sub(1, Ordering::Relaxed) == 0 {
                assert!(!self.panics, "as it was to");
                return Err(DeviceError::OutOfMemory { device: "test".into(), bytes: 1 }.into());
            }
            self.state.forward(dev, step, layers)
        }

        fn logits(&self, dev: &dyn Device, rows: Range<usize>) -> Tensor {
            self.state.logits(dev, rows)
        }

        fn n_rewind(&self, n: usize) -> usize {
            self.state.n_rewind(n)
        }

        fn rows(&self, slot: usize, tokens: Range<usize>) -> Vec<CachePart> {
            self.state.rows(slot, tokens)
        }

        fn frontier(&self, slot: usize, n: usize) -> Vec<CachePart> {
            self.state.frontier(slot, n)
        }
    }

    /// The logits of twelve tokens of each of three sequences at once, where one step goes wrong.
    fn logits(panics: Option<bool>) -> Vec<Vec<f32>> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/llama/micro.gguf");
        let engine = Engine::open(&Options::new(path)).unwrap_or_else(|e| panic!("{e}"));
        let options = engine.0.state_options(3, 32);
        let mut runner = Runner::new(&engine.0, &options).unwrap_or_else(|e| panic!("{e}"));
        if let Some(panics) = panics {
            runner.state = Box::new(Faulty { state: runner.state, n_left: AtomicUsize::new(3), panics });
        }
        let turns = Turns::new(engine.0.clone(), runner, options.n_batch);
        let sequence = |slot: u32| {
            let mut logits = Vec::new();
            for pos in 0..12 {
                let row = Row { id: slot * 50 + pos, pos, slot };
                // Who led the batch hears of the panic; the token can be tried again.
                let decode = |logits: &mut Vec<f32>| turns.decode(row, logits).unwrap_or_else(|e| panic!("{e}"));
                if catch_unwind(AssertUnwindSafe(|| decode(&mut logits))).is_err() {
                    decode(&mut logits);
                }
            }
            logits
        };
        std::thread::scope(|scope| {
            let sequence = &sequence;
            let all: Vec<_> = (0..3).map(|slot| scope.spawn(move || sequence(slot))).collect();
            all.into_iter().map(|one| one.join().expect("it ends")).collect()
        })
    }

    #[test]
    fn what_goes_wrong_in_a_batch_is_tried_again_by_each_alone() {
        let expected = logits(None);
        assert!(logits(Some(false)) == expected, "an error");
        assert!(logits(Some(true)) == expected, "a panic");
    }
}
