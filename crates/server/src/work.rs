//! Threads that compute answers, one for every session. Requests wait in a line; who hears the answer is a channel, and closing
//! that is all it takes to be left alone.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use engine::{AnswerOptions, Engine, Prefill, Sampler, SamplerOptions, Seat, Seats, Session, Stop, Synced};
use models::{Event, Part};
use tokenizer::{Special, TokenId};
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

use crate::{
    ask::{Ask, Prompt},
    dialect::new_id,
    error::Refusal,
    metrics::Metrics,
    replay::{Replays, Turn, parts},
    reply::Partial,
};

/// Parts of an answer that nobody has read yet: more than any client is behind that reads at all.
const N_UNREAD_MAX: usize = 8192;
/// How long an answer waits for a client that does not read.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often progress of a prompt is told.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// What is heard of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    /// A session has taken it up.
    Begun,
    /// So much of the prompt has been read.
    Prefill(Prefill),
    /// More of the reasoning.
    Thinking(String),
    /// More of the answer.
    Text(String),
    /// A call begins.
    Call(Call),
    /// More of the arguments of the call with this number, as JSON text.
    Arguments(usize, String),
    /// The call with this number is complete. One that has no end is not to be made.
    Called(usize),
    /// All of it was said.
    End(Finish),
    /// It ends here, without having been said.
    Failed(Refusal),
}

/// The head of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Which of an answer's, counted from 0.
    pub(crate) index: usize,
    /// What its result will be matched by; nobody can guess it.
    pub(crate) id: String,
    pub(crate) name: String,
}

/// How an answer came about.
#[derive(Clone, Debug)]
pub(crate) struct Finish {
    pub(crate) stop: Stop,
    /// The text that ended it, if one did.
    pub(crate) stop_text: Option<String>,
    /// How many calls it makes, complete ones.
    pub(crate) n_calls: usize,
    pub(crate) usage: Usage,
    pub(crate) timings: Timings,
}

/// Tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) n_prompt: usize,
    /// Of the prompt, those that were known.
    pub(crate) n_cached: usize,
    pub(crate) n_answer: usize,
    /// Of the answer, those of the reasoning.
    pub(crate) n_reasoning: usize,
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timings {
    pub(crate) queued: Duration,
    pub(crate) prefill: Duration,
    pub(crate) decode: Duration,
}

impl Said {
    fn of(event: Event) -> Said {
        match event {
            Event::Thinking(text) => Said::Thinking(text),
            Event::Text(text) => Said::Text(text),
            Event::ToolStart { index, name } => Said::Call(Call { index, id: new_id("call_"), name }),
            Event::ToolArguments { index, json } => Said::Arguments(index, json),
            Event::ToolEnd { index } => Said::Called(index),
        }
    }
}

/// A part of one of the answers to a request.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// Which of them.
    pub(crate) choice: usize,
    pub(crate) said: Said,
}

/// The threads, and the line before them.
pub(crate) struct Work {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    engine: Arc<Engine>,
    seats: Seats,
    n_ctx: usize,
    line: Mutex<Line>,
    changed: Condvar,
    metrics: Arc<Metrics>,
    replays: Replays,
}

struct Line {
    jobs: VecDeque<Job>,
    n_max: usize,
    /// No more are taken, and those that wait are told so.
    ending: bool,
    /// Those that are being answered are to stop.
    stopping: bool,
}

/// One answer that is wanted.
struct Job {
    /// The prompt by itself.
    ids: Arc<[TokenId]>,
    /// What it is made of, where tokens of ours may stand for texts of it.
    parts: Option<Arc<[Part]>>,
    ask: Arc<Ask>,
    sampling: SamplerOptions,
    choice: usize,
    to: Sender<Heard>,
    since: Instant,
}

impl Work {
    /// Answers in these sessions, and lets `n_waiting_max` requests wait for them.
    pub(crate) fn start(
        engine: Arc<Engine>,
        sessions: Vec<Session>,
        n_waiting_max: usize,
        metrics: Arc<Metrics>,
    ) -> Work {
        let (n, n_ctx) = (sessions.len(), sessions[0].n_ctx());
        let line = Line { jobs: VecDeque::new(), n_max: n_waiting_max, ending: false, stopping: false };
        let shared = Shared {
            engine,
            seats: Seats::new(sessions),
            n_ctx,
            line: Mutex::new(line),
            changed: Condvar::new(),
            metrics,
            replays: Replays::default(),
        };
        let shared = Arc::new(shared);
        let thread = |i| {
            let shared = shared.clone();
            let thread = thread::Builder::new().name(format!("session {i}"));
            thread.spawn(move || shared.run()).expect("the system has threads at the start")
        };
        let threads = (0..n).map(thread).collect();
        Work { shared, threads: Mutex::new(threads) }
    }

    /// Positions in a session.
    pub(crate) fn n_ctx(&self) -> usize {
        self.shared.n_ctx
    }

    /// The tokens of a prompt. Takes as long as there is text.
    ///
    /// # Errors
    /// The model cannot be asked this, or there is no room for it and an answer.
    pub(crate) fn tokens(&self, prompt: &Prompt) -> Result<(Vec<TokenId>, Option<Vec<Part>>), Refusal> {
        let engine = &self.shared.engine;
        let (ids, parts) = match prompt {
            Prompt::Ids(ids) => (ids.clone(), None),
            Prompt::Text(text) => {
                let tokenizer = engine.tokenizer().ok_or_else(no_vocabulary)?;
                let mut ids = Vec::from_iter(tokenizer.bos());
                ids.extend(tokenizer.encode(text, Special::Plain));
                (ids, None)
            }
            Prompt::Chat(messages, options) => {
                let chat = engine.chat().map_err(refuse_chat)?;
                let mut messages = messages.clone();
                self.shared.replays.restore(&mut messages);
                let parts = chat.render(&messages, options).map_err(|error| refuse_chat(&error))?;
                (engine.encode(&parts).map_err(|error| Refusal::failed(&error))?, Some(parts))
            }
        };
        if ids.is_empty() {
            return Err(Refusal::body("the prompt is empty"));
        }
        if ids.len() >= self.n_ctx() {
            return Err(Refusal::context(ids.len(), self.n_ctx()));
        }
        Ok((ids, parts))
    }

    /// Queues a request; what is said comes through the channel.
    ///
    /// # Errors
    /// As [`Work::tokens`]; the line is full, or the server ends.
    pub(crate) fn submit(&self, ask: Ask) -> Result<Receiver<Heard>, Refusal> {
        let (ids, parts) = self.tokens(&ask.prompt)?;
        let (to, from) = channel(N_UNREAD_MAX);
        let (ids, parts, ask) = (Arc::<[_]>::from(ids), parts.map(Arc::<[_]>::from), Arc::new(ask));
        let mut line = self.shared.line();
        if line.ending {
            return Err(Refusal::ending());
        }
        if line.jobs.len() + ask.n_choices > line.n_max.max(ask.n_choices) {
            return Err(Refusal::busy(format!("{} requests wait already", line.jobs.len())));
        }
        for choice in 0..ask.n_choices {
            let seed = ask.sampling.seed.wrapping_add(choice as u64);
            line.jobs.push_back(Job {
                ids: ids.clone(),
                parts: parts.clone(),
                sampling: SamplerOptions { seed, ..ask.sampling.clone() },
                ask: ask.clone(),
                choice,
                to: to.clone(),
                since: Instant::now(),
            });
        }
        self.shared.metrics.waiting(line.jobs.len());
        drop(line);
        self.shared.changed.notify_all();
        Ok(from)
    }

    /// Takes no more requests.
    pub(crate) fn end(&self) {
        self.shared.line().ending = true;
        self.shared.changed.notify_all();
    }

    /// Stops the answers that are under way.
    pub(crate) fn stop(&self) {
        self.shared.line().stopping = true;
    }

    /// Waits for the threads of a server that has ended.
    pub(crate) fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join(); // its panics were told and caught
        }
    }
}

fn no_vocabulary() -> Refusal {
    Refusal::body("the model file has no vocabulary, so it can only be asked with token ids")
}

/// A conversation that the model's chat format has no words for.
pub(crate) fn refuse_chat(error: &models::ChatError) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "invalid_conversation", format!("{error}; {}", error.hint()))
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers what comes, until the server ends.
    fn run(&self) {
        while let Some(job) = self.next() {
            if catch_unwind(AssertUnwindSafe(|| self.answer(&job))).is_err() {
                let bug =
                    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "a bug: see the server's log");
                job.say(Said::Failed(bug));
            }
        }
    }

    /// The next job, when there is one; `None` when there will be none. At the end, those that wait are sent away.
    fn next(&self) -> Option<Job> {
        let mut line = self.line();
        loop {
            if line.ending {
                let left = std::mem::take(&mut line.jobs);
                drop(line);
                left.iter().for_each(|job| _ = job.say(Said::Failed(Refusal::ending())));
                return None;
            }
            line.jobs.retain(|job| !job.to.is_closed());
            self.metrics.waiting(line.jobs.len());
            if let Some(job) = line.jobs.pop_front() {
                self.metrics.waiting(line.jobs.len());
                return Some(job);
            }
            line = self.changed.wait_timeout(line, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn answer(&self, job: &Job) {
        let said = match self.try_answer(job) {
            Ok(Some(finish)) => {
                self.metrics.answered(&finish);
                Said::End(finish)
            }
            Ok(None) => {
                self.metrics.abandoned();
                Said::Failed(Refusal::ending())
            }
            Err(error) => {
                self.metrics.failed();
                Said::Failed(Refusal::failed(&error))
            }
        };
        job.say(said);
    }

    /// The whole answer; `None` if nobody wants to hear it any longer.
    fn try_answer(&self, job: &Job) -> Result<Option<Finish>, engine::Error> {
        let given_up = || job.to.is_closed() || self.line().stopping;
        let Some(mut seat) = self.seats.take(&job.ids, &given_up) else { return Ok(None) };
        let _busy = self.metrics.busy();
        let mut timings = Timings { queued: job.since.elapsed(), ..Timings::default() };
        job.say(Said::Begun);
        let start = Instant::now();
        let ids = match &job.parts {
            Some(parts) => self.engine.encode_after(seat.tokens(), parts)?,
            None => job.ids.to_vec(),
        };
        let Some(n_cached) = self.prefill(job, &mut seat, &ids, &given_up)? else { return Ok(None) };
        timings.prefill = start.elapsed();
        self.metrics.prefilled(n_cached, ids.len() - n_cached);
        let n_max = job.ask.n_max.unwrap_or(usize::MAX);
        let mut sampler = Sampler::new(job.sampling.clone());
        let chat = match &job.ask.prompt {
            Prompt::Chat(_, options) => self.engine.chat().ok().map(|chat| (chat, options)),
            Prompt::Text(_) | Prompt::Ids(_) => None,
        };
        let options = AnswerOptions { n_max, chat, stop: &job.ask.stop };
        let start = Instant::now();
        let (mut n_reasoning, mut so_far) = (0, Partial::default());
        let answer = engine::answer(&self.engine, &mut seat, &mut sampler, &options, &mut |event| {
            n_reasoning += usize::from(matches!(event, Event::Thinking(_)));
            let said = Said::of(event);
            so_far.hear(&said);
            match job.say(said) {
                true if !given_up() => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })?;
        timings.decode = start.elapsed();
        let usage = Usage { n_prompt: ids.len(), n_cached, n_answer: answer.ids.len(), n_reasoning };
        let stop_text = match answer.stop {
            Stop::StopString(i) => job.ask.stop.get(i).cloned(),
            Stop::Cancelled => return Ok(None),
            _ => None,
        };
        let n_calls = self.remember(job, so_far, &answer.ids);
        Ok(Some(Finish { stop: answer.stop, stop_text, n_calls, usage, timings }))
    }

    /// Remembers an answer that calls tools, to show it again as it was written. How many calls it makes.
    fn remember(&self, job: &Job, mut heard: Partial, ids: &[TokenId]) -> usize {
        let text = std::mem::take(&mut heard.text);
        let calls = heard.into_calls();
        let n_calls = calls.len();
        if let Prompt::Chat(_, options) = &job.ask.prompt
            && let (Ok(chat), Some(tokenizer)) = (self.engine.chat(), self.engine.tokenizer())
        {
            let mut written = chat.opening(options);
            written.extend(parts(tokenizer, ids));
            self.replays.remember(Turn { text, calls, written });
        }
        n_calls
    }

    /// Has the session hold the prompt, and returns how much of it it held; `None` if it was stopped.
    fn prefill(
        &self,
        job: &Job,
        seat: &mut Seat<'_>,
        ids: &[TokenId],
        given_up: &dyn Fn() -> bool,
    ) -> Result<Option<usize>, engine::Error> {
        // Later turns do not show the reasoning: they go on from before the marker that opens it, so what is needed there is kept.
        let stops = [job.reasons().then_some(ids.len() - 1), Some(ids.len())];
        let mut n_computed = 0;
        for n in stops.into_iter().flatten() {
            let synced = self.sync(job, seat, &ids[..n], given_up)?;
            n_computed += synced.computed;
            if !synced.complete {
                return Ok(None);
            }
        }
        Ok(Some(ids.len() - n_computed))
    }

    /// Has the session hold tokens, and tells how far it is.
    fn sync(
        &self,
        job: &Job,
        seat: &mut Seat<'_>,
        ids: &[TokenId],
        given_up: &dyn Fn() -> bool,
    ) -> Result<Synced, engine::Error> {
        let mut told = Instant::now();
        let synced = seat.sync_with(ids, &mut |prefill| {
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                let _ = job.to.try_send(Heard { choice: job.choice, said: Said::Prefill(prefill) });
            }
            if given_up() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(synced)
    }
}

impl Job {
    /// Whether the prompt ends with the marker that opens a reasoning which later prompts leave out.
    fn reasons(&self) -> bool {
        let opens = self.parts.as_ref().is_some_and(|parts| matches!(parts.last(), Some(Part::Marker(_))));
        matches!(&self.ask.prompt, Prompt::Chat(_, options) if opens && options.thinking && options.tools.is_empty())
    }

    /// Tells whoever listens; false if nobody does, or has not for a long time.
    fn say(&self, said: Said) -> bool {
        let mut heard = Heard { choice: self.choice, said };
        let since = Instant::now();
        loop {
            match self.to.try_send(heard) {
                Ok(()) => return true,
                Err(TrySendError::Full(unheard)) if since.elapsed() < PATIENCE => heard = unheard,
                Err(_) => return false,
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}
