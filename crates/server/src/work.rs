//! Threads that compute answers, one for every session. Requests wait in a line; who hears the answer is a channel, and closing
//! that is all it takes to be left alone.

use std::{
    cell::Cell,
    collections::VecDeque,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use engine::{Answer, AnswerOptions, Engine, Logprobs, Sampler, SamplerOptions, Seat, Seats, Session, Stop, Synced};
use models::{ChatOptions, Part, ToolCall};
use tokenizer::{Special, TokenId, Tokenizer};
use tokio::sync::mpsc::{Sender, channel, error::TrySendError};

use crate::{
    ask::{Ask, Prompt},
    away::Client,
    error::Refusal,
    grammars::Grammars,
    hold::{Held, Wanted},
    likely::Tokens,
    log::{End, Record, Teller},
    metrics::Metrics,
    replay::{Replays, Turn, parts},
    reply::Partial,
    said::{Answers, Detail, Failure, Finish, Heard, Said, Timings, Usage},
    trace::Tracer,
};

/// Parts of an answer that nobody has read yet: more than any client is behind that reads at all.
const N_UNREAD_MAX: usize = 8192;
/// How long an answer waits for a client that does not read.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often progress of a prompt is told.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// A request that was read, and is not in the line yet.
pub(crate) struct Draft {
    job: Job,
    /// What the answer is to be held to, until that is compiled.
    wanted: Option<Wanted>,
    answers: Answers,
}

impl Draft {
    /// How much text there is to compile, if there is something.
    pub(crate) fn to_compile(&self) -> Option<usize> {
        self.wanted.as_ref().map(Wanted::n_bytes)
    }

    /// What is known of the request.
    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.job.record
    }
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
    /// Answers that are under way are to stop.
    stopping: AtomicBool,
    metrics: Arc<Metrics>,
    grammars: Grammars,
    replays: Replays,
    teller: Arc<Teller>,
}

struct Line {
    jobs: VecDeque<Job>,
    n_max: usize,
    /// Threads that have nothing to do.
    n_idle: usize,
    /// No more are taken.
    ending: bool,
}

/// One answer that is wanted.
#[derive(Clone)]
struct Job {
    /// The prompt by itself.
    ids: Arc<[TokenId]>,
    /// What it is made of, where tokens of ours may stand for texts of it.
    parts: Option<Arc<[Part]>>,
    /// How its format reads the answer; none for raw text.
    chat: Option<ChatOptions>,
    sampling: SamplerOptions,
    n_max: usize,
    n_reasoning_max: Option<usize>,
    stop: Vec<String>,
    held: Option<Arc<Held>>,
    logit_bias: Vec<(TokenId, f32)>,
    logprobs: Option<usize>,
    choice: usize,
    /// Other answers to the same prompt, which are begun when it has been read.
    others: usize,
    to: Sender<Heard>,
    failure: Failure,
    since: Instant,
    /// What is told of its request.
    record: Arc<Record>,
}

impl Work {
    /// Answers in these sessions, and lets `n_waiting_max` requests wait for them.
    pub(crate) fn start(
        engine: Arc<Engine>,
        sessions: Vec<Session>,
        n_waiting_max: usize,
        metrics: Arc<Metrics>,
        teller: Arc<Teller>,
    ) -> Work {
        let (n, n_ctx) = (sessions.len(), sessions[0].n_ctx());
        let line = Line { jobs: VecDeque::new(), n_max: n_waiting_max, n_idle: n, ending: false };
        let shared = Shared {
            engine,
            seats: Seats::new(sessions),
            n_ctx,
            line: Mutex::new(line),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            metrics,
            grammars: Grammars::default(),
            replays: Replays::default(),
            teller,
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
    /// The model cannot be asked this.
    pub(crate) fn tokens(
        &self,
        prompt: &mut Prompt,
        record: &Record,
    ) -> Result<(Vec<TokenId>, Option<Vec<Part>>), Refusal> {
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
                self.shared.replays.restore(messages);
                let parts = chat.render(messages, options).map_err(|error| refuse_chat(&error))?;
                (engine.encode(&parts).map_err(|error| self.shared.refusal(record, &error))?, Some(parts))
            }
        };
        if ids.is_empty() {
            return Err(Refusal::body("the prompt is empty"));
        }
        Ok((ids, parts))
    }

    /// Makes a request's prompt ready to be computed.
    ///
    /// # Errors
    /// As [`Work::tokens`]; there is no room for the prompt and an answer, or none in the line.
    pub(crate) fn read(&self, mut ask: Ask, record: &Arc<Record>) -> Result<Draft, Refusal> {
        let since = Instant::now();
        self.shared.line().check()?; // before there is work
        let (ids, parts) = self.tokens(&mut ask.prompt, record)?;
        if ids.len() >= self.n_ctx() {
            return Err(Refusal::context(ids.len(), self.n_ctx()));
        }
        let ((to, from), failure) = (channel(N_UNREAD_MAX), Failure::default());
        let chat = match ask.prompt {
            Prompt::Chat(_, options) => Some(options),
            Prompt::Text(_) | Prompt::Ids(_) => None,
        };
        let wanted = Wanted::of(&self.shared.engine, ask.form, chat.as_ref())?;
        let held = wanted.as_ref().and_then(|wanted| self.shared.grammars.find(wanted));
        let wanted = wanted.filter(|_| held.is_none());
        let job = Job {
            ids: ids.into(),
            parts: parts.map(Arc::from),
            chat,
            sampling: ask.sampling,
            n_max: ask.n_max.unwrap_or(usize::MAX),
            n_reasoning_max: ask.n_reasoning_max,
            stop: ask.stop,
            held,
            logit_bias: ask.logit_bias,
            logprobs: ask.logprobs,
            choice: 0,
            others: ask.n_choices - 1,
            to,
            failure: failure.clone(),
            since,
            record: record.clone(),
        };
        Ok(Draft { job, wanted, answers: Answers { from, failure, n: ask.n_choices } })
    }

    /// Compiles what the answer is to be held to, and keeps it for others.
    ///
    /// # Errors
    /// As [`Wanted::compile`].
    pub(crate) fn compile(&self, draft: &mut Draft, client: &Client<'_>) -> Result<(), Refusal> {
        let Some(wanted) = draft.wanted.take() else { return Ok(()) };
        // Whoever came before may have wanted the same.
        let held = match self.shared.grammars.find(&wanted) {
            Some(held) => held,
            None => Arc::new(wanted.compile(&self.shared.engine, draft.job.chat.as_ref(), client)?),
        };
        self.shared.grammars.keep(wanted, held.clone());
        draft.job.held = Some(held);
        Ok(())
    }

    /// Queues a request; what is said comes through the channel.
    ///
    /// # Errors
    /// The line is full, or the server ends.
    pub(crate) fn queue(&self, Draft { job, answers, .. }: Draft) -> Result<Answers, Refusal> {
        let mut line = self.shared.line();
        line.check()?;
        line.jobs.push_back(job);
        self.shared.metrics.waiting(line.jobs.len());
        drop(line);
        self.shared.changed.notify_one();
        Ok(answers)
    }

    /// Takes no more requests, and sends away those that wait.
    pub(crate) fn end(&self) {
        let mut line = self.shared.line();
        line.ending = true;
        let left = std::mem::take(&mut line.jobs);
        drop(line);
        self.shared.changed.notify_all();
        left.iter().for_each(|job| job.fail(End::ShuttingDown, Refusal::ending()));
    }

    /// Stops the answers that are under way.
    pub(crate) fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
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

/// The client does not read its answer.
fn unread() -> Refusal {
    Refusal::too_slow("the client takes too long to read the answer")
}

/// Why an answer has no end.
enum Abandoned {
    /// Nobody listens, or has not for a long time.
    Unheard,
    /// The server ends.
    Ending,
    /// The engine failed.
    Failed(engine::Error),
}

impl From<engine::Error> for Abandoned {
    fn from(error: engine::Error) -> Abandoned {
        Abandoned::Failed(error)
    }
}

impl Line {
    /// Whether there is room for one more request, of however many answers.
    fn check(&mut self) -> Result<(), Refusal> {
        self.jobs.retain(|job| !job.to.is_closed());
        match self.n_answers() {
            _ if self.ending => Err(Refusal::ending()),
            n if n >= self.n_max + self.n_idle => Err(Refusal::busy(format!("{n} answers are waited for already"))),
            _ => Ok(()),
        }
    }

    /// How many answers are to be begun.
    fn n_answers(&self) -> usize {
        self.jobs.iter().map(|job| 1 + job.others).sum()
    }
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers what comes, until the server ends.
    fn run(&self) {
        while let Some(job) = self.next() {
            if catch_unwind(AssertUnwindSafe(|| self.answer(&job))).is_err() {
                self.metrics.failed();
                self.teller.warn_of(&job.record, "a bug ended this answer");
                job.fail(End::Failed, Refusal::bug());
            }
            self.line().n_idle += 1;
        }
    }

    /// The next job, when there is one; `None` when there will be none.
    fn next(&self) -> Option<Job> {
        let mut line = self.line();
        while !line.ending {
            line.jobs.retain(|job| !job.to.is_closed());
            let job = line.jobs.pop_front();
            self.metrics.waiting(line.jobs.len());
            if job.is_some() {
                line.n_idle -= 1;
                return job;
            }
            line = self.changed.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    fn answer(&self, job: &Job) {
        match self.try_answer(job) {
            Ok(finish) => {
                self.metrics.answered(&finish);
                job.record.ended(End::of(&finish));
                if !job.say(Said::End(finish), &|| self.is_stopping()) {
                    job.failure.set(if self.is_stopping() { Refusal::ending() } else { unread() });
                }
            }
            Err(Abandoned::Unheard) => {
                self.metrics.abandoned();
                job.record.ended(End::ClientGone);
                job.failure.set(unread());
            }
            Err(Abandoned::Ending) => job.fail(End::ShuttingDown, Refusal::ending()),
            Err(Abandoned::Failed(error)) => {
                self.metrics.failed();
                job.fail(End::Failed, self.refusal(&job.record, &error));
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// What a client is told of a failure; what names files of this machine is for whoever runs the server.
    fn refusal(&self, record: &Record, error: &engine::Error) -> Refusal {
        if let engine::Error::Grammar(of_request) = error {
            return Refusal::body(format!("{of_request}; {}", of_request.hint()));
        }
        self.teller.warn_of(record, &format!("{error}; {}", error.hint()));
        match error {
            engine::Error::ContextFull { n_tokens, n_ctx } => Refusal::context(*n_tokens, *n_ctx),
            engine::Error::Token { .. } | engine::Error::NothingAllowed { .. } => Refusal::body(error.to_string()),
            _ => Refusal::failed(),
        }
    }

    /// The whole answer.
    fn try_answer(&self, job: &Job) -> Result<Finish, Abandoned> {
        let given_up = || job.to.is_closed() || self.is_stopping();
        let abandoned = || if self.is_stopping() { Abandoned::Ending } else { Abandoned::Unheard };
        let mut seat = self.seats.take(&job.ids, &given_up).ok_or_else(abandoned)?;
        let _busy = self.metrics.busy();
        let mut timings = Timings { queued: job.since.elapsed(), ..Timings::default() };
        job.record.begun(timings.queued);
        job.say(Said::Begun, &given_up);
        let start = Instant::now();
        let ids = match &job.parts {
            Some(parts) => self.engine.encode_after(seat.tokens(), parts)?,
            None => job.ids.to_vec(),
        };
        let n_cached = self.prefill(job, &mut seat, &ids, &given_up);
        self.trace(|tracer, tokenizer| {
            let n_cached = n_cached.as_ref().ok().copied().flatten();
            tracer.prompt(&job.record, job.choice, &parts(tokenizer, &ids), ids.len(), n_cached);
        });
        let n_cached = n_cached?.ok_or_else(abandoned)?;
        self.begin_others(job);
        timings.prefill = start.elapsed();
        self.metrics.prefilled(n_cached, ids.len() - n_cached);
        job.record.prefilled(ids.len(), n_cached, timings.prefill);
        let start = Instant::now();
        let (answer, heard) = self.decode(job, &mut seat, &given_up)?;
        timings.decode = start.elapsed();
        let n_reasoning = answer.n_reasoning;
        let usage = Usage { n_prompt: ids.len(), n_cached, n_answer: answer.ids.len(), n_reasoning };
        let stop_text = match answer.stop {
            Stop::StopString(i) => job.stop.get(i).cloned(),
            _ => None,
        };
        let calls = self.remember(job, heard, &answer);
        let (stop, detail, n_dropped) = (answer.stop, Detail::of(&answer), answer.n_dropped);
        let finish = Finish { stop, stop_text, detail, n_dropped, n_calls: calls.len(), usage, timings };
        self.trace(|tracer, tokenizer| {
            tracer.answer(&job.record, job.choice, &parts(tokenizer, &answer.ids), &calls, &finish)
        });
        if answer.stop == Stop::Cancelled { Err(abandoned()) } else { Ok(finish) }
    }

    /// Adds to the trace, if there is one.
    fn trace(&self, add: impl FnOnce(&Tracer, &Tokenizer)) {
        if let (Some(tracer), Some(tokenizer)) = (&self.teller.tracer, self.engine.tokenizer()) {
            add(tracer, tokenizer);
        }
    }

    /// Generates, and says it. Returns what was said, too.
    fn decode(
        &self,
        job: &Job,
        seat: &mut Seat<'_>,
        given_up: &dyn Fn() -> bool,
    ) -> Result<(Answer, Partial), engine::Error> {
        let mut sampler = Sampler::new(job.sampling.clone());
        let chat = job.chat.as_ref().and_then(|options| Some((self.engine.chat().ok()?, options)));
        let n_sampled = Cell::new(0);
        let given_up = || {
            n_sampled.set(n_sampled.get() + 1);
            job.record.sampled(1);
            given_up()
        };
        let tokenizer = self.engine.tokenizer().filter(|_| job.logprobs.is_some());
        let tokens = tokenizer.map(|tokenizer| Tokens::new(tokenizer, seat.tokens().last().copied()));
        let each = |token: engine::Token<'_>| tokens.iter().for_each(|tokens| tokens.push(token));
        let options = AnswerOptions {
            n_max: job.n_max,
            n_reasoning_max: job.n_reasoning_max,
            chat,
            stop: &job.stop,
            grammar: job.held.as_deref().map(|held| &held.grammar),
            grammar_is_raw: job.held.as_deref().is_some_and(|held| held.is_raw),
            logit_bias: &job.logit_bias,
            logprobs: job.logprobs.map(|n_top| Logprobs { n_top, each: &each }),
            given_up: Some(&given_up),
        };
        let say = |said| job.say(said, &|| self.is_stopping());
        let mut heard = Partial::default();
        let answer = engine::answer(&self.engine, seat, &mut sampler, &options, &mut |event| {
            let of_text = tokens.as_ref().and_then(|tokens| tokens.of(&event));
            let said = Said::of(event);
            heard.hear(&said);
            let is_heard = of_text.is_none_or(|tokens| say(Said::Tokens(tokens))) && say(said);
            if is_heard { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        job.record.has(answer.ids.len(), n_sampled.get());
        if let Some(rest) = tokens.filter(|_| chat.is_none() && !matches!(answer.stop, Stop::StopString(_))) {
            rest.rest().map(|tokens| say(Said::Tokens(tokens)));
        }
        Ok((answer, heard))
    }

    /// Queues the other answers to a prompt that has been read, behind those who wait already: they begin with what is known of it.
    fn begin_others(&self, job: &Job) {
        let mut line = self.line();
        if line.ending && job.others > 0 {
            return job.fail(End::ShuttingDown, Refusal::ending()); // nobody would take them up
        }
        for choice in 1..=job.others {
            let seed = job.sampling.seed.wrapping_add(choice as u64);
            let sampling = SamplerOptions { seed, ..job.sampling.clone() };
            line.jobs.push_back(Job { choice, sampling, others: 0, ..job.clone() });
        }
        self.metrics.waiting(line.jobs.len());
        drop(line);
        self.changed.notify_all();
    }

    /// Remembers an answer that calls tools, to show it again as it was written. Returns the calls that it makes.
    fn remember(&self, job: &Job, mut heard: Partial, answer: &Answer) -> Vec<ToolCall> {
        let [reasoning, text] = [&mut heard.reasoning, &mut heard.text].map(std::mem::take);
        let calls = heard.into_calls();
        if let (Some(options), Stop::EndOfTurn) = (&job.chat, answer.stop)
            && let (Ok(chat), Some(tokenizer)) = (self.engine.chat(), self.engine.tokenizer())
            && !calls.is_empty()
        {
            let mut written = chat.opening(options);
            written.extend(parts(tokenizer, &answer.ids));
            self.replays.remember(Turn { reasoning, text, calls: calls.clone(), written });
        }
        calls
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
        self.chat.as_ref().is_some_and(|options| opens && options.thinking && options.tools.is_empty())
    }

    /// Tells whoever listens; false if nobody does, or has not for a long time, or it is given up meanwhile.
    fn say(&self, said: Said, given_up: &dyn Fn() -> bool) -> bool {
        let mut heard = Heard { choice: self.choice, said };
        let since = Instant::now();
        loop {
            match self.to.try_send(heard) {
                Ok(()) => return true,
                Err(TrySendError::Full(unheard)) if since.elapsed() < PATIENCE && !given_up() => heard = unheard,
                Err(_) => return false,
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Says that it ends without having been said, where it is not worth waiting.
    fn fail(&self, end: End, refusal: Refusal) {
        self.record.failed(end, &refusal);
        self.failure.set(refusal.clone());
        let _ = self.to.try_send(Heard { choice: self.choice, said: Said::Failed(refusal) }); // or it sees that it ends
    }
}
