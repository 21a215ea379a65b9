//! What agents say and get, to look at afterwards: requests, prompts as the model reads them, answers as it writes them, and what
//! became of the replies, a JSON object a line. `docs/formats/trace.md` describes them. Headers are not among it, so keys are not.
//!
//! ```text
//! app.rs    request, reply ---.
//!                             |-> Tracer -> an Outbox -> file.rs
//! work.rs   prompt, answer ---'     |
//!                               redact.rs, where texts are nobody's business
//! ```

mod file;
mod redact;

use std::time::Duration;

use models::{Part, ToolCall};
use serde_json::{Value, json};

pub use self::file::{Trace, TraceError};
use self::{file::Writing, redact::Texts};
use crate::{
    log::{End, Outcome, Record, ms, now},
    outbox::Outbox,
    said::{Detail, Finish},
};

/// The most bytes of events that wait to be written.
const BYTES_MAX: usize = 128 << 20;
/// Time for the last events.
const LAST_EVENTS_TIME: Duration = Duration::from_secs(5);

/// Writes a trace, by a thread of its own.
pub(crate) struct Tracer {
    texts: Texts,
    outbox: Outbox,
}

impl Tracer {
    /// Goes on with a file; `warn` is told if that fails.
    ///
    /// # Errors
    /// The system has no thread.
    pub(crate) fn start(trace: Trace, warn: impl Fn(&str) + Send + 'static) -> std::io::Result<Tracer> {
        let texts = if trace.is_redacted() { Texts::hidden() } else { Texts::Shown };
        let outbox = Outbox::start("trace", BYTES_MAX, Writing::new(trace, warn))?;
        Ok(Tracer { texts, outbox })
    }

    /// A body that has come.
    pub(crate) fn request(&self, record: &Record, bytes: &[u8]) {
        let body = match serde_json::from_slice(bytes) {
            Ok(body) => self.texts.body(body),
            Err(_) => self.texts.text(&String::from_utf8_lossy(bytes)),
        };
        let (method, path) = record.asked();
        self.send("request", record, json!({ "method": method, "path": path, "body": body }));
    }

    /// A prompt, and how many of its tokens were known, if it was read to its end.
    pub(crate) fn prompt(&self, record: &Record, choice: usize, parts: &[Part], n: usize, n_cached: Option<usize>) {
        let text = self.texts.text(&joined(parts));
        self.send("prompt", record, json!({ "choice": choice, "text": text, "n_prompt": n, "n_cached": n_cached }));
    }

    /// An answer, to its end or as far as it was wanted.
    pub(crate) fn answer(&self, record: &Record, choice: usize, parts: &[Part], calls: &[ToolCall], finish: &Finish) {
        let call = |call: &ToolCall| json!({ "id": call.id, "name": call.name, "arguments": self.texts.text(&call.arguments) });
        let (usage, timings) = (finish.usage, finish.timings);
        let answer = json!({
            "choice": choice,
            "text": self.texts.text(&joined(parts)),
            "calls": calls.iter().map(call).collect::<Vec<_>>(),
            "end": End::of(finish).word(),
            "stop_text": finish.stop_text.as_deref().map(|text| self.texts.text(text)),
            "detail": finish.detail.map(Detail::word),
            "n_answer": usage.n_answer,
            "n_reasoning": usage.n_reasoning,
            "queued_ms": ms(timings.queued),
            "prefill_ms": ms(timings.prefill),
            "decode_ms": ms(timings.decode),
        });
        self.send("answer", record, answer);
    }

    /// A reply that has gone, or will not come.
    pub(crate) fn reply(&self, record: &Record, outcome: &Outcome) {
        let mut reply = record.to_json(outcome);
        reply["message"] = record.why(outcome).map_or(Value::Null, |why| self.texts.text(&why));
        self.send("reply", record, reply);
    }

    /// Waits until all of it is written, but not for long.
    pub(crate) fn flush(&self) {
        self.outbox.flush(LAST_EVENTS_TIME);
    }

    fn send(&self, event: &str, record: &Record, more: Value) {
        let mut line = json!({ "event": event, "time": now(), "id": record.id });
        if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
            line.extend(more);
        }
        self.outbox.send(line.to_string());
    }
}

fn joined(parts: &[Part]) -> String {
    parts.iter().map(Part::as_str).collect()
}
