//! A line for every request, told when its reply has gone, and lines for what clients are not told. Whoever runs the server gets
//! them, in text or JSON, by a thread of its own: neither connections nor answers wait for who reads the log.
//!
//! What clients send is in it as far as it must be: the path, in ASCII and no longer than it is worth reading; neither what follows
//! a `?`, nor headers, nor bodies. What monitors and browsers ask by themselves is told only if it goes wrong: `/health`,
//! `/metrics`, the chat page's files, and whether a page may ask.

use std::{
    fmt::Write as _,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{Method, StatusCode};
use engine::Stop;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    error::{Refusal, Why},
    outbox::{Outbox, Place},
    page,
    said::Finish,
    trace::{Trace, Tracer},
};

/// What is told of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Log {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object in a line. What else is told is one, too.
    Json,
    /// Nothing. What clients are not told still is.
    Off,
}

/// The most bytes of lines that wait to be taken.
const BYTES_MAX: usize = 1 << 20;
/// Time for the last lines.
const LAST_LINES_TIME: Duration = Duration::from_secs(1);
/// The most characters of a path, and of a method.
const N_PATH_MAX: usize = 128;
const N_METHOD_MAX: usize = 16;

/// Tells it, and writes the trace if there is one.
pub(crate) struct Teller {
    log: Log,
    outbox: Outbox,
    pub(crate) tracer: Option<Tracer>,
}

/// Who takes lines.
struct Sink {
    log: Log,
    tell: fn(&str),
}

/// What is known of a request.
pub(crate) struct Record {
    /// What its reply is told from others by.
    pub(crate) id: String,
    method: String,
    path: String,
    /// Whether it is told only if it goes wrong.
    is_quiet: bool,
    start: Instant,
    answer: Mutex<Progress>,
}

/// How far the answers to a request are.
#[derive(Clone, Debug, Default)]
struct Progress {
    queued: Option<Duration>,
    /// Tokens of the prompt, those of them that were known, and the time that the others took.
    prompt: Option<(usize, usize, Duration)>,
    /// Tokens of all answers.
    n_answer: usize,
    /// Since when tokens come, and how long they did.
    since: Option<Instant>,
    decode: Option<Duration>,
    end: Option<End>,
    error: Option<Why>,
}

/// Why an answer ended; of several, the last of these counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Stop,
    ToolCalls,
    Length,
    ContextFull,
    Repetition,
    ShuttingDown,
    ClientGone,
    Failed,
}

impl End {
    pub(crate) fn of(finish: &Finish) -> End {
        match finish.stop {
            Stop::EndOfTurn if finish.n_calls > 0 => End::ToolCalls,
            Stop::EndOfTurn | Stop::StopString(_) => End::Stop,
            Stop::Length => End::Length,
            Stop::ContextFull => End::ContextFull,
            Stop::Repeats => End::Repetition,
            Stop::Cancelled => End::ClientGone,
        }
    }

    /// A word for programs, which never changes.
    pub(crate) fn word(self) -> &'static str {
        match self {
            End::Stop => "stop",
            End::ToolCalls => "tool_calls",
            End::Length => "length",
            End::ContextFull => "context_full",
            End::Repetition => "repetition",
            End::ShuttingDown => "shutting_down",
            End::ClientGone => "client_gone",
            End::Failed => "failed",
        }
    }
}

/// What became of the reply to a request.
pub(crate) struct Outcome {
    /// None where there was no reply.
    pub(crate) status: Option<StatusCode>,
    /// Whether all of it was taken.
    pub(crate) is_whole: bool,
    /// Why it is a refusal.
    pub(crate) error: Option<Why>,
}

impl Record {
    /// A request begins. A preflight is a page's question whether it may ask.
    pub(crate) fn begin(id: &str, method: &Method, path: &str, is_preflight: bool) -> Record {
        Record {
            id: id.into(),
            method: cut(method.as_str(), N_METHOD_MAX),
            path: cut(path, N_PATH_MAX),
            is_quiet: is_preflight || matches!(path, "/health" | "/metrics") || page::is_page(path),
            start: Instant::now(),
            answer: Mutex::default(),
        }
    }

    /// A session has taken it up.
    pub(crate) fn begun(&self, queued: Duration) {
        self.answer().queued.get_or_insert(queued);
    }

    /// The prompt has been read.
    pub(crate) fn prefilled(&self, n_prompt: usize, n_cached: usize, time: Duration) {
        let mut answer = self.answer();
        answer.prompt.get_or_insert((n_prompt, n_cached, time));
        answer.since.get_or_insert_with(Instant::now);
    }

    /// More tokens were generated.
    pub(crate) fn sampled(&self, n: usize) {
        self.answer().n_answer += n;
    }

    /// An answer has this many tokens. As it was generated, more or less were told: what was dropped, too, but not the last.
    pub(crate) fn has(&self, n: usize, n_sampled: usize) {
        let mut answer = self.answer();
        answer.n_answer = (answer.n_answer + n).saturating_sub(n_sampled);
    }

    /// An answer has ended.
    pub(crate) fn ended(&self, end: End) {
        let mut answer = self.answer();
        answer.decode = answer.since.map(|since| since.elapsed());
        answer.end = answer.end.max(Some(end));
    }

    /// An answer has ended without having been said.
    pub(crate) fn failed(&self, end: End, refusal: &Refusal) {
        self.ended(end);
        self.answer().error = Some(Why::of(refusal));
    }

    /// Method and path.
    pub(crate) fn asked(&self) -> (&str, &str) {
        (&self.method, &self.path)
    }

    /// What the client was told of a refusal.
    pub(crate) fn why(&self, outcome: &Outcome) -> Option<String> {
        self.at_end(outcome).error.map(|why| why.message)
    }

    /// It needs no line.
    fn is_quiet(&self, outcome: &Outcome) -> bool {
        self.is_quiet && outcome.status.is_none_or(|status| status.is_success())
    }

    fn answer(&self) -> MutexGuard<'_, Progress> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the answers are at the end of the reply.
    fn at_end(&self, outcome: &Outcome) -> Progress {
        let mut answer = self.answer().clone();
        answer.error = outcome.error.clone().or(answer.error);
        if !outcome.is_whole {
            answer.end = answer.end.max(Some(End::ClientGone));
        }
        answer.decode = answer.decode.or_else(|| answer.since.map(|since| since.elapsed()));
        answer
    }

    /// For programs.
    pub(crate) fn to_json(&self, outcome: &Outcome) -> Value {
        let answer = self.at_end(outcome);
        let n_answer = answer.queued.map(|_| answer.n_answer);
        json!({
            "id": self.id,
            "method": self.method,
            "path": self.path,
            "status": outcome.status.map(|status| status.as_u16()),
            "duration_ms": ms(self.start.elapsed()),
            "n_prompt": answer.prompt.map(|(n, ..)| n),
            "n_cached": answer.prompt.map(|(_, n, _)| n),
            "n_answer": n_answer,
            "queued_ms": answer.queued.map(ms),
            "prefill_ms": answer.prompt.map(|(.., time)| ms(time)),
            "decode_ms": answer.decode.map(ms),
            "end": answer.end.map(End::word),
            "error": answer.error.map(|why| why.code),
        })
    }

    /// For people.
    fn to_text(&self, outcome: &Outcome) -> String {
        let (Record { id, method, path, .. }, answer) = (self, self.at_end(outcome));
        let status = outcome.status.map_or("-".into(), |status| status.as_u16().to_string());
        let mut text = format!("{id} {method} {path} {status} in {:.3} s", self.start.elapsed().as_secs_f64());
        if let Some(queued) = answer.queued {
            let _ = write!(text, ", queued {:.3} s", queued.as_secs_f64());
        }
        if let Some((n, n_cached, time)) = answer.prompt {
            let _ = write!(text, ", prompt {n} tokens, {n_cached} known, {:.3} s", time.as_secs_f64());
        }
        if let Some(time) = answer.decode {
            let _ = write!(text, ", answer {} tokens, {:.3} s", answer.n_answer, time.as_secs_f64());
        }
        for word in answer.end.map(End::word).into_iter().chain(answer.error.map(|why| why.code)) {
            let _ = write!(text, ", {word}");
        }
        text
    }
}

/// Milliseconds, to the microsecond.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

/// The time now, to the millisecond, in UTC.
pub(crate) fn now() -> String {
    format!("{:.3}", Timestamp::now())
}

/// What a client made up, in ASCII on one line, and no longer than it is worth reading.
fn cut(text: &str, n_max: usize) -> String {
    let mut shown: String = text.chars().flat_map(char::escape_default).take(n_max + 1).collect();
    if shown.len() > n_max {
        shown.truncate(n_max);
        shown.push_str("...");
    }
    shown
}

/// A JSON text in ASCII: one line for whoever reads it, whatever is taken for an end of line.
fn in_ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        match c {
            ' '..='~' => out.push(c),
            c => c.encode_utf16(&mut units).iter().for_each(|unit| _ = write!(out, "\\u{unit:04x}")),
        }
    }
    out
}

impl Teller {
    /// Tells whom `tell` is, which may be slow.
    ///
    /// # Errors
    /// The system has no thread.
    pub(crate) fn start(log: Log, tell: fn(&str), trace: Option<Trace>) -> io::Result<Teller> {
        let outbox = Outbox::start("log", BYTES_MAX, Sink { log, tell })?;
        let of_tracer = outbox.clone();
        let warn = move |message: &str| of_tracer.send(warning(log, None, message));
        let tracer = trace.map(|trace| Tracer::start(trace, warn)).transpose()?;
        Ok(Teller { log, outbox, tracer })
    }

    /// A reply has gone, or will not come.
    pub(crate) fn reply(&self, record: &Record, outcome: &Outcome) {
        if record.is_quiet(outcome) {
            return;
        }
        if let Some(tracer) = &self.tracer {
            tracer.reply(record, outcome);
        }
        match self.log {
            Log::Text => self.outbox.send(format!("{} {}", now(), record.to_text(outcome))),
            Log::Json => self.outbox.send(event("request", record.to_json(outcome))),
            Log::Off => {}
        }
    }

    /// Something that clients are not told.
    pub(crate) fn warn(&self, message: &str) {
        self.outbox.send(warning(self.log, None, message));
    }

    /// The same, of a request.
    pub(crate) fn warn_of(&self, record: &Record, message: &str) {
        self.outbox.send(warning(self.log, Some(&record.id), message));
    }

    /// Waits a little until all of it is taken.
    pub(crate) fn flush(&self) {
        if let Some(tracer) = &self.tracer {
            tracer.flush();
        }
        self.outbox.flush(LAST_LINES_TIME);
    }
}

fn warning(log: Log, id: Option<&str>, message: &str) -> String {
    let of = id.map(|id| format!("{id}: ")).unwrap_or_default();
    match log {
        Log::Json => event("warning", json!({ "id": id, "message": message })),
        Log::Text => format!("{} {of}{message}", now()),
        Log::Off => format!("{of}{message}"),
    }
}

/// A line with an object: when, what, and more.
fn event(name: &str, more: Value) -> String {
    let mut event = json!({ "time": now(), "event": name });
    if let (Some(event), Value::Object(more)) = (event.as_object_mut(), more) {
        event.extend(more);
    }
    in_ascii(&event.to_string())
}

impl Place for Sink {
    fn write(&mut self, line: &str) -> bool {
        (self.tell)(line);
        true
    }

    fn lost(&self, n: u64) -> String {
        warning(self.log, None, &format!("{n} lines of the log are lost: they were not taken in time"))
    }
}
