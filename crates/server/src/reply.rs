//! Answers on their way out: as a whole, or as a stream of events, in the words of a dialect.
//!
//! ```text
//! Receiver<Heard> --whole--> [Choice]    --dialect--> JSON
//!                 --stream-> Writer::said --------> frames of server-sent events, or lines
//! ```

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderValue, Response, header},
};
use futures_util::Stream;
use hyper::body::{Frame, SizeHint};
use models::ToolCall;
use serde_json::Value;
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, Sleep, sleep},
};

use crate::{
    error::{Dialect, Refusal},
    likely::Token,
    said::{Answers, Call, Failure, Finish, Heard, Said},
};

/// The longest silence on a stream: what is sent into a connection that was closed tells us that nobody is there.
const SILENCE: Duration = Duration::from_millis(700);

/// An answer as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) reasoning: String,
    pub(crate) text: String,
    /// What the text is made of, where it was asked for.
    pub(crate) tokens: Vec<Token>,
    /// Complete calls.
    pub(crate) calls: Vec<ToolCall>,
    pub(crate) finish: Finish,
}

/// An answer as far as it was heard.
#[derive(Clone, Default)]
pub(crate) struct Partial {
    pub(crate) reasoning: String,
    pub(crate) text: String,
    tokens: Vec<Token>,
    /// Calls, and whether they are complete.
    calls: Vec<(ToolCall, bool)>,
}

impl Partial {
    /// Adds what is said to it.
    pub(crate) fn hear(&mut self, said: &Said) {
        match said {
            Said::Thinking(text) => self.reasoning.push_str(text),
            Said::Text(text) => self.text.push_str(text),
            Said::Tokens(tokens) => self.tokens.extend_from_slice(tokens),
            Said::Call(Call { id, name, .. }) => {
                let call = ToolCall { id: id.clone(), name: name.clone(), arguments: String::new() };
                self.calls.push((call, false));
            }
            Said::Arguments(index, json) => self.calls[*index].0.arguments.push_str(json),
            Said::Called(index) => self.calls[*index].1 = true,
            Said::Begun | Said::Prefill(_) | Said::End(_) | Said::Failed(_) => {}
        }
    }

    /// Complete calls.
    pub(crate) fn into_calls(self) -> Vec<ToolCall> {
        self.calls.into_iter().filter(|(_, complete)| *complete).map(|(call, _)| call).collect()
    }
}

/// Waits for all answers to a request.
///
/// # Errors
/// Why there is none.
pub(crate) async fn whole(Answers { mut from, failure, n }: Answers) -> Result<Vec<Choice>, Refusal> {
    let mut answers = vec![(Partial::default(), None); n];
    while let Some(Heard { choice, said }) = from.recv().await {
        let (partial, finish) = &mut answers[choice];
        match said {
            Said::End(end) => *finish = Some(end),
            Said::Failed(refusal) => return Err(refusal),
            said => partial.hear(&said),
        }
    }
    let choice = |(mut partial, finish): (Partial, Option<Finish>)| {
        let (reasoning, text) = (std::mem::take(&mut partial.reasoning), std::mem::take(&mut partial.text));
        let (tokens, finish) = (std::mem::take(&mut partial.tokens), finish.ok_or_else(|| failure.get())?);
        Ok(Choice { reasoning, text, tokens, calls: partial.into_calls(), finish })
    };
    answers.into_iter().map(choice).collect()
}

/// Writes what is said in the words of a dialect.
pub(crate) trait Writer: Send + 'static {
    /// What comes first.
    fn begin(&mut self, out: &mut Frames);
    /// A part of an answer. A refusal is the last one.
    fn said(&mut self, heard: Heard, out: &mut Frames);
    /// What comes last, when all answers have ended.
    fn end(&mut self, out: &mut Frames);
    /// Says that the answer is still being worked on.
    fn alive(&mut self, out: &mut Frames);
    /// How frames are told from each other.
    fn framing(&self) -> Framing {
        Framing::Events
    }
}

/// How frames are told from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Server-sent events.
    Events,
    /// A JSON object a line.
    Lines,
}

/// Bytes to send.
#[derive(Debug)]
pub(crate) struct Frames {
    framing: Framing,
    bytes: String,
    /// Whether there is more than comments.
    says_something: bool,
}

impl Frames {
    pub(crate) fn new(framing: Framing) -> Frames {
        Frames { framing, bytes: String::new(), says_something: false }
    }

    /// A frame without a name.
    pub(crate) fn data(&mut self, data: &Value) {
        self.says_something = true;
        match self.framing {
            Framing::Events => self.bytes.extend(["data: ", &data.to_string(), "\n\n"]),
            Framing::Lines => self.bytes.extend([&data.to_string(), "\n"]),
        }
    }

    /// A frame with a name.
    pub(crate) fn event(&mut self, name: &str, data: &Value) {
        self.says_something = true;
        self.bytes.extend(["event: ", name, "\ndata: ", &data.to_string(), "\n\n"]);
    }

    /// A frame that is no JSON.
    pub(crate) fn word(&mut self, word: &str) {
        self.bytes.extend(["data: ", word, "\n\n"]);
    }

    /// A comment, which clients pass over.
    pub(crate) fn comment(&mut self, text: &str) {
        self.bytes.extend([": ", text, "\n\n"]);
    }

    /// What was written since it was last taken.
    pub(crate) fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.bytes))
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// The stream of an answer.
struct Answering<W> {
    from: Receiver<Heard>,
    failure: Failure,
    writer: W,
    frames: Frames,
    silence: Pin<Box<Sleep>>,
    state: State,
    /// Answers that have not ended.
    n_open: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Open,
    Closed,
}

impl<W: Writer + Unpin> Stream for Answering<W> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.state == State::Opening {
            this.writer.begin(&mut this.frames);
            this.state = State::Open;
        }
        while this.state == State::Open {
            match this.from.poll_recv(context) {
                Poll::Ready(Some(heard)) => {
                    match heard.said {
                        Said::Failed(_) => this.state = State::Closed,
                        Said::End(_) => this.n_open -= 1,
                        _ => {}
                    }
                    this.writer.said(heard, &mut this.frames);
                }
                // The client was too far behind to be told why.
                Poll::Ready(None) if this.n_open > 0 => {
                    let said = Said::Failed(this.failure.get());
                    this.writer.said(Heard { choice: 0, said }, &mut this.frames);
                    this.state = State::Closed;
                }
                Poll::Ready(None) => {
                    this.writer.end(&mut this.frames);
                    this.state = State::Closed;
                }
                Poll::Pending => {
                    if this.silence.as_mut().poll(context).is_ready() {
                        this.writer.alive(&mut this.frames);
                        this.silence.as_mut().reset(Instant::now() + SILENCE);
                    }
                    if this.frames.is_empty() {
                        return Poll::Pending;
                    }
                    break;
                }
            }
        }
        if this.frames.is_empty() {
            return Poll::Ready(None);
        }
        // Comments do not reset every client's patience.
        if std::mem::take(&mut this.frames.says_something) {
            this.silence.as_mut().reset(Instant::now() + SILENCE);
        }
        Poll::Ready(Some(Ok(this.frames.take())))
    }
}

/// The reply that streams an answer.
pub(crate) fn stream<W: Writer + Unpin>(Answers { from, failure, n }: Answers, writer: W) -> Response<Body> {
    let framing = writer.framing();
    let answering = Answering {
        from,
        failure,
        writer,
        frames: Frames::new(framing),
        silence: Box::pin(sleep(SILENCE)),
        state: State::Opening,
        n_open: n,
    };
    let mut response = Response::new(Body::from_stream(answering));
    let kind = match framing {
        Framing::Events => "text/event-stream",
        Framing::Lines => "application/x-ndjson",
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A body, and what lives as long as it.
struct With<T>(Body, T);

/// What wants to know what becomes of a body.
pub(crate) trait Kept: Send + Unpin + 'static {
    /// All of it was taken.
    fn taken(&mut self);
}

/// A body that drops `kept` when it has been sent, or is given up.
pub(crate) fn with<T: Kept>(mut kept: T, body: Body) -> Body {
    if body.is_end_stream() {
        kept.taken(); // nobody will ask for any of it
    }
    Body::new(With(body, kept))
}

impl<T: Kept> HttpBody for With<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.0).poll_frame(context));
        if frame.is_none() || self.0.is_end_stream() {
            self.1.taken();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// The reply with a JSON value.
pub(crate) fn json(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// What was asked for, or why there is none.
pub(crate) fn or_refusal(result: Result<Response<Body>, Refusal>, dialect: Dialect) -> Response<Body> {
    result.unwrap_or_else(|refusal| refusal.into_response(dialect))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::json;
    use tokio::{
        sync::mpsc::{Sender, channel},
        time::advance,
    };

    use super::*;

    /// Says what it hears.
    struct Plain;

    impl Writer for Plain {
        fn begin(&mut self, _: &mut Frames) {}

        fn said(&mut self, heard: Heard, out: &mut Frames) {
            match heard.said {
                Said::Text(text) => out.data(&json!(text)),
                Said::Failed(refusal) => out.data(&json!(refusal.code)),
                _ => {}
            }
        }

        fn end(&mut self, out: &mut Frames) {
            out.word("end");
        }

        fn alive(&mut self, out: &mut Frames) {
            out.comment("alive");
        }
    }

    fn answers(n_unread_max: usize) -> (Sender<Heard>, Answers) {
        let (to, from) = channel(n_unread_max);
        (to, Answers { from, failure: Failure::default(), n: 1 })
    }

    fn says(text: &str) -> Heard {
        Heard { choice: 0, said: Said::Text(text.into()) }
    }

    async fn next(body: &mut Body) -> String {
        let frame = body.frame().await.expect("there is more").expect("nothing fails");
        String::from_utf8(frame.into_data().expect("it is data").to_vec()).expect("it is text")
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_never_silent_for_long() {
        let (to, answers) = answers(1);
        let mut body = stream(answers, Plain).into_body();
        let mut last = Instant::now();
        let mut pause = || std::mem::replace(&mut last, Instant::now()).elapsed();
        let about = |time: Duration| time..time + Duration::from_millis(5);
        for _ in 0..3 {
            assert_eq!(next(&mut body).await, ": alive\n\n");
            assert!(about(SILENCE).contains(&pause()));
        }
        advance(SILENCE / 2).await;
        to.send(says("a")).await.expect("it is heard");
        assert_eq!(next(&mut body).await, "data: \"a\"\n\n");
        assert!(about(SILENCE / 2).contains(&pause()));
        assert_eq!(next(&mut body).await, ": alive\n\n");
        assert!(about(SILENCE).contains(&pause()), "what is said is no silence");
    }

    #[tokio::test]
    async fn who_is_too_far_behind_is_told_the_reason_all_the_same() {
        for is_stream in [false, true] {
            let (to, answers) = answers(1);
            to.send(says("a")).await.expect("it is heard");
            answers.failure.set(Refusal::too_slow("it does not read"));
            drop(to);
            if is_stream {
                let mut body = stream(answers, Plain).into_body();
                assert_eq!(next(&mut body).await, "data: \"a\"\n\ndata: \"too_slow\"\n\n");
            } else {
                assert_eq!(whole(answers).await.map(drop).map_err(|refusal| refusal.code), Err("too_slow"));
            }
        }
    }
}
