//! Paths, and what every request goes through before and after its handler.
//!
//! ```text
//! request -> Host, Origin -> key -> size and kind of the body -> JSON -> handler -> reply
//! ```

use std::{
    ops::Deref,
    sync::{Arc, atomic::AtomicUsize},
    thread,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    routing::{get, post},
};
use engine::{Engine, SamplerOptions};
use http_body_util::BodyExt as _;
use models::{ChatOptions, Effort, WishError};
use serde_json::Value;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

use crate::{
    ask::{Ask, Prompt},
    away::away,
    dialect::{self, chat, completions, messages, models as model_list, new_id, ollama, responses, tokens},
    error::{Dialect, Refusal, Why},
    guard::Access,
    log::{End, Outcome, Record, Teller},
    metrics::Metrics,
    openapi, page,
    reply::{Choice, Kept, Writer, json, or_refusal, stream, whole, with},
    said::Answers,
    seal::Sealer,
    work::{Draft, Work},
};

/// The most bytes of a request.
const BODY_BYTES_MAX: usize = 64 << 20;
/// How long a body may pause.
const BODY_PAUSE: Duration = Duration::from_secs(10);
/// A body that takes longer than this must come at this rate.
const BODY_TIME: Duration = Duration::from_secs(30);
const BODY_BYTES_PER_S: u64 = 1 << 10;
/// Room for bodies is given away in parts of so many bytes.
const ROOM_BYTES: usize = 1 << 20;
/// How many of these there are: what JSON becomes takes up to twenty times as much.
pub(crate) const N_ROOM: usize = 96;
/// How many requests are read at a time.
pub(crate) const N_READERS: usize = 2;
/// How many grammars are compiled at a time: what is compiled takes its turn in the engine anyway.
pub(crate) const N_COMPILERS: usize = 1;
/// How many are compiled or wait for that.
pub(crate) const N_COMPILED_MAX: usize = 64;
/// How long one waits for those before it.
const COMPILER_PATIENCE: Duration = Duration::from_secs(30);

/// What handlers share.
pub(crate) struct App {
    pub(crate) engine: Arc<Engine>,
    pub(crate) work: Work,
    pub(crate) model: Model,
    pub(crate) access: Access,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) teller: Arc<Teller>,
    /// Room for bodies of requests.
    pub(crate) room: Arc<Semaphore>,
    /// Turns to read one.
    pub(crate) readers: Arc<Semaphore>,
    /// Turns to compile the grammar of one, and places to wait for them.
    pub(crate) compilers: Arc<Semaphore>,
    pub(crate) places_to_compile: Arc<Semaphore>,
    /// How many requests have come whose answers have not gone.
    pub(crate) under_way: watch::Sender<usize>,
    /// How many clients have not taken all that is on its way.
    pub(crate) n_behind: Arc<AtomicUsize>,
    /// Whether the server ends.
    pub(crate) ending: watch::Receiver<bool>,
}

/// A request that is under way, until its reply is dropped.
struct UnderWay {
    app: Arc<App>,
    record: Arc<Record>,
    outcome: Outcome,
}

impl UnderWay {
    fn begin(app: Arc<App>, record: Arc<Record>) -> UnderWay {
        app.under_way.send_modify(|n| *n += 1);
        UnderWay { app, record, outcome: Outcome { status: None, is_whole: false, error: None } }
    }

    /// This is the reply to it.
    fn replied(&mut self, response: &Response<Body>) {
        self.outcome.status = Some(response.status());
        self.outcome.error = response.extensions().get::<Why>().cloned();
    }
}

impl Kept for UnderWay {
    fn taken(&mut self) {
        self.outcome.is_whole = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if thread::panicking() {
            self.record.failed(End::Failed, &Refusal::bug());
        }
        self.app.teller.reply(&self.record, &self.outcome);
        self.app.under_way.send_modify(|n| *n -= 1);
    }
}

/// What reads a request: what all share, and what is known of this one.
struct Reading {
    app: Arc<App>,
    record: Arc<Record>,
}

impl Deref for Reading {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

impl Reading {
    /// See [`Work::read`].
    fn read(&self, ask: Ask) -> Result<Draft, Refusal> {
        self.work.read(ask, &self.record)
    }

    /// How many tokens a prompt has.
    fn n_tokens(&self, mut prompt: Prompt) -> Result<usize, Refusal> {
        Ok(self.work.tokens(&mut prompt, &self.record)?.0.len())
    }
}

/// The model that is served.
pub(crate) struct Model {
    pub(crate) engine: Arc<Engine>,
    pub(crate) name: String,
    /// Other names that it answers to; with none, any.
    pub(crate) aliases: Vec<String>,
    /// Tells builds and files apart.
    pub(crate) fingerprint: String,
    pub(crate) n_ctx: usize,
    pub(crate) created_s: u64,
    /// How tokens are chosen where a request does not say.
    pub(crate) sampling: SamplerOptions,
    pub(crate) seed: Option<u64>,
    /// The most tokens of reasoning where a request does not say.
    pub(crate) n_reasoning_max: Option<usize>,
    pub(crate) sealer: Arc<Sealer>,
}

impl Model {
    /// Whether a request means this model.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn check_name(&self, name: Option<&str>) -> Result<(), Refusal> {
        let known = |name: &str| self.aliases.is_empty() || name == self.name || self.aliases.iter().any(|a| a == name);
        match name {
            Some(name) if !known(name) => {
                let shown: String = name.escape_debug().take(64).collect();
                let message = format!("there is no model {shown}; this server has {}", self.name);
                Err(Refusal {
                    field: Some("model".into()),
                    ..Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message)
                })
            }
            _ => Ok(()),
        }
    }

    /// How a conversation is put to it, with these wishes about reasoning. An effort that it was not taught is left to it.
    ///
    /// # Errors
    /// It cannot do as is wished.
    pub(crate) fn chat_options(&self, thinking: Option<bool>, effort: Option<Effort>) -> Result<ChatOptions, Refusal> {
        let chat = self.engine.chat().map_err(crate::work::refuse_chat)?;
        match models::grant(chat, thinking, effort) {
            Err(WishError::NoEffort) => models::grant(chat, thinking, None),
            // Clients ask every model to reason, whatever it is.
            Err(WishError::CannotThink) => models::grant(chat, None, None),
            granted => granted,
        }
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "unsupported_reasoning", error.to_string()))
    }
}

/// All paths.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi_))
        .route("/v1/models", get(list_models))
        .route("/v1/models/{*name}", get(one_model))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions_))
        .route("/v1/messages", post(messages_))
        .route("/v1/messages/count_tokens", post(count_message_tokens))
        .route("/v1/responses", post(responses_))
        .route("/v1/responses/input_tokens", post(count_input_tokens))
        .route("/api/chat", post(ollama_chat))
        .route("/api/generate", post(ollama_generate))
        .route("/api/tags", get(ollama_tags))
        .route("/api/show", post(ollama_show))
        .route("/api/version", get(ollama_version))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .merge(page::routes())
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

/// Lets a request through that may come in.
async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response<Body> {
    let dialect = Dialect::of(request.uri().path());
    let id = request_id(request.headers());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let free = request.uri().path() == "/health" || page::is_page(request.uri().path());
    let checked = app.access.check_way(request.headers(), request.uri());
    let checked =
        if free || is_preflight { checked } else { checked.and_then(|()| app.access.check_key(request.headers())) };
    let record = Record::begin(id.to_str().unwrap_or_default(), request.method(), request.uri().path(), is_preflight);
    let record = Arc::new(record);
    let mut under_way = UnderWay::begin(app.clone(), record.clone());
    let is_head = request.method() == Method::HEAD;
    request.extensions_mut().insert(record);
    let mut response = match checked {
        Err(refusal) => refusal.into_response(dialect),
        Ok(()) if is_preflight => preflight(asked),
        Ok(()) => next.run(request).await,
    };
    if response.status().is_client_error() {
        app.metrics.refused();
    }
    if let Some(origin) = origin.filter(|origin| origin.to_str().is_ok_and(|origin| app.access.allows(origin))) {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if dialect == Dialect::Anthropic {
        response.headers_mut().insert("request-id", id.clone());
    }
    response.headers_mut().insert(REQUEST_ID, id);
    under_way.replied(&response);
    if is_head {
        under_way.taken(); // there is nothing to take
    }
    response.map(|body| with(under_way, body))
}

/// What a reply is told from others by.
const REQUEST_ID: &str = "x-request-id";

/// What the client calls its request, if that is a word that can be repeated anywhere; else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_sound = |id: &&HeaderValue| {
        let is_sign = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
        (1..=64).contains(&id.len()) && id.as_bytes().iter().all(is_sign)
    };
    let new = || HeaderValue::from_str(&new_id("req_")).expect("it has letters and digits only");
    headers.get(REQUEST_ID).filter(is_sound).cloned().unwrap_or_else(new)
}

/// What a browser asks before it asks: which headers a page may send. Any, if the page may ask at all.
fn preflight(asked: Option<HeaderValue>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    if let Some(asked) = asked {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
    }
    response
}

/// The bytes of a request, and the room that they take.
///
/// # Errors
/// It is no JSON, too much, or too slow.
async fn body(
    app: &App,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let message = "the body must be JSON, and say so: Content-Type: application/json";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    if headers.contains_key(header::CONTENT_ENCODING) {
        let message = "bodies cannot be compressed";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message));
    }
    let n_bytes = headers.get(header::CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse().ok()).unwrap_or(0);
    if n_bytes > BODY_BYTES_MAX {
        return Err(too_large());
    }
    let (mut bytes, mut room, start) = (Vec::new(), None, Instant::now());
    let mut ending = app.ending.clone();
    loop {
        let frame = tokio::select! {
            frame = timeout(BODY_PAUSE, body.frame()) => frame.map_err(|_| too_slow())?,
            _ = ending.wait_for(|ending| *ending) => return Err(Refusal::ending()),
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| Refusal::body("the body ended too early, or its parts have no right size"))?;
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        let seconds = start.elapsed().as_secs();
        if bytes.len() > BODY_BYTES_MAX {
            return Err(too_large());
        }
        if seconds > BODY_TIME.as_secs() && bytes.len() as u64 / seconds < BODY_BYTES_PER_S {
            return Err(too_slow());
        }
        hold(app, &mut room, bytes.len())?;
    }
    Ok((bytes, room))
}

/// Makes sure that there is room for so many bytes; the first part is free, as most requests are small.
fn hold(app: &App, room: &mut Option<OwnedSemaphorePermit>, n_bytes: usize) -> Result<(), Refusal> {
    let held = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let more = (n_bytes / ROOM_BYTES).saturating_sub(held);
    if more > 0 {
        let more = app.room.clone().try_acquire_many_owned(more as u32);
        let more = more.map_err(|_| Refusal::busy("other requests have more text than there is room for"))?;
        match room {
            Some(room) => room.merge(more),
            None => *room = Some(more),
        }
    }
    Ok(())
}

fn too_large() -> Refusal {
    let message = format!("the body is longer than {} MiB", BODY_BYTES_MAX >> 20);
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

fn too_slow() -> Refusal {
    Refusal::too_slow("the body took too long")
}

/// Reads a request, and does something with it, away from the threads that serve connections: texts may be long.
async fn asked<T: Send + 'static>(
    app: &Arc<App>,
    request: Request,
    then: impl FnOnce(&Value, &Reading) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let (head, request) = request.into_parts();
    let record: Arc<Record> = head.extensions.get().cloned().expect("the guard keeps one of each request");
    let (bytes, room) = body(app, &head.headers, request).await?;
    let turn = app.readers.clone().acquire_owned().await;
    let reading = Reading { app: app.clone(), record: record.clone() };
    let read = away(turn, bug(app, record), move |client| {
        if let Some(tracer) = &reading.teller.tracer {
            tracer.request(&reading.record, &bytes);
        }
        client.check()?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Refusal::body(format!("the body is no JSON that can be read: {error}")))?;
        drop(bytes);
        client.check()?;
        let read = then(&value, &reading);
        drop((value, room));
        read
    });
    read.await
}

/// What is told of a bug.
fn bug(app: &Arc<App>, record: Arc<Record>) -> impl FnOnce() -> Refusal + use<> {
    let app = app.clone();
    move || {
        app.teller.warn_of(&record, "a bug ended this request");
        Refusal::bug()
    }
}

/// Queues a request that was read.
async fn submit(app: &Arc<App>, draft: Draft) -> Result<Answers, Refusal> {
    let draft = match draft.to_compile() {
        Some(n_bytes) => compiled(app, draft, n_bytes).await?,
        None => draft,
    };
    app.work.queue(draft)
}

/// Compiles the grammar of a request, of so many bytes. Requests without one do not wait for it: their turns are others.
async fn compiled(app: &Arc<App>, mut draft: Draft, n_bytes: usize) -> Result<Draft, Refusal> {
    let mut room = None;
    hold(app, &mut room, n_bytes)?;
    let place = app.places_to_compile.clone().try_acquire_owned().map_err(|_| Refusal::compiling())?;
    let turn =
        timeout(COMPILER_PATIENCE, app.compilers.clone().acquire_owned()).await.map_err(|_| Refusal::compiling())?;
    let of_threads = app.clone();
    let compiled = away((turn, place, room), bug(app, draft.record().clone()), move |client| {
        of_threads.work.compile(&mut draft, client)?;
        Ok(draft)
    });
    compiled.await
}

type Shared = State<Arc<App>>;

async fn health(State(app): Shared) -> Response<Body> {
    json(&serde_json::json!({ "status": "ok", "model": app.model.name }))
}

async fn metrics(State(app): Shared) -> Response<Body> {
    let mut response = Response::new(Body::from(app.metrics.text(&app.engine)));
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn openapi_() -> Response<Body> {
    json(&openapi::description())
}

async fn list_models(State(app): Shared) -> Response<Body> {
    json(&model_list::list(&app.model))
}

async fn one_model(State(app): Shared, Path(name): Path<String>) -> Response<Body> {
    let found = app.model.check_name(Some(&name)).map(|()| json(&model_list::one(&app.model)));
    or_refusal(found, Dialect::OpenAi)
}

async fn chat_completions(State(app): Shared, request: Request) -> Response<Body> {
    let reply = async {
        let read = asked(&app, request, |request, app| {
            let request = chat::read(request, &app.model)?;
            let chunks = request.stream.then(|| chat::Chunks::new(&app.model, &request));
            Ok((app.read(request.ask)?, chunks))
        });
        let (draft, chunks) = read.await?;
        let answers = submit(&app, draft).await?;
        match chunks {
            Some(chunks) => Ok(stream(answers, chunks)),
            None => Ok(json(&chat::reply(&app.model, &whole(answers).await?))),
        }
    };
    or_refusal(reply.await, Dialect::OpenAi)
}

async fn completions_(State(app): Shared, request: Request) -> Response<Body> {
    let reply = async {
        let read = asked(&app, request, |request, app| {
            let request = completions::read(request, &app.model)?;
            let chunks = request.stream.then(|| completions::Chunks::new(&app.model, &request));
            Ok((app.read(request.ask)?, chunks, request.echo))
        });
        let (draft, chunks, echo) = read.await?;
        let answers = submit(&app, draft).await?;
        match chunks {
            Some(chunks) => Ok(stream(answers, chunks)),
            None => Ok(json(&completions::reply(&app.model, &whole(answers).await?, &echo))),
        }
    };
    or_refusal(reply.await, Dialect::OpenAi)
}

async fn messages_(State(app): Shared, request: Request) -> Response<Body> {
    let reply = answer(&app, request, messages::read, messages::Events::new, messages::reply);
    or_refusal(reply.await, Dialect::Anthropic)
}

async fn count_message_tokens(State(app): Shared, request: Request) -> Response<Body> {
    let counted = asked(&app, request, |request, app| {
        let ask = messages::read(request, &app.model)?.ask;
        Ok(json(&messages::count(app.n_tokens(ask.prompt)?)))
    });
    or_refusal(counted.await, Dialect::Anthropic)
}

async fn responses_(State(app): Shared, request: Request) -> Response<Body> {
    let reply = answer(&app, request, responses::read, responses::Events::new, responses::reply);
    or_refusal(reply.await, Dialect::OpenAi)
}

async fn count_input_tokens(State(app): Shared, request: Request) -> Response<Body> {
    let counted = asked(&app, request, |request, app| {
        let ask = responses::read(request, &app.model)?.ask;
        Ok(json(&responses::count(app.n_tokens(ask.prompt)?)))
    });
    or_refusal(counted.await, Dialect::OpenAi)
}

async fn ollama_chat(State(app): Shared, request: Request) -> Response<Body> {
    or_refusal(ollama_answer(&app, request, ollama::read_chat).await, Dialect::Ollama)
}

async fn ollama_generate(State(app): Shared, request: Request) -> Response<Body> {
    or_refusal(ollama_answer(&app, request, ollama::read_generate).await, Dialect::Ollama)
}

async fn ollama_answer(
    app: &Arc<App>,
    request: Request,
    read: fn(&Value, &Model) -> Result<ollama::Request, Refusal>,
) -> Result<Response<Body>, Refusal> {
    let read = asked(app, request, move |request, app| {
        let ollama::Request { ask, stream, telling } = read(request, &app.model)?;
        Ok((ask.map(|ask| app.read(ask)).transpose()?, stream, telling))
    });
    let (draft, is_stream, telling) = read.await?;
    let Some(draft) = draft else { return Ok(json(&ollama::loaded(&telling))) };
    let answers = submit(app, draft).await?;
    match is_stream {
        true => Ok(stream(answers, ollama::Lines::new(telling))),
        false => Ok(json(&ollama::reply(&telling, &one(answers).await?))),
    }
}

async fn ollama_tags(State(app): Shared) -> Response<Body> {
    json(&ollama::tags(&app.model))
}

async fn ollama_show(State(app): Shared, request: Request) -> Response<Body> {
    let shown = asked(&app, request, |request, app| Ok(json(&ollama::show(request, &app.model)?)));
    or_refusal(shown.await, Dialect::Ollama)
}

async fn ollama_version() -> Response<Body> {
    json(&ollama::version())
}

async fn tokenize(State(app): Shared, request: Request) -> Response<Body> {
    let told = asked(&app, request, |request, app| Ok(json(&tokens::tokenize(request, &app.engine)?)));
    or_refusal(told.await, Dialect::OpenAi)
}

async fn detokenize(State(app): Shared, request: Request) -> Response<Body> {
    let told = asked(&app, request, |request, app| Ok(json(&tokens::detokenize(request, &app.engine)?)));
    or_refusal(told.await, Dialect::OpenAi)
}

/// Gives the one answer to a request, as it comes or as a whole.
async fn answer<T: Send + 'static, W: Writer + Unpin>(
    app: &Arc<App>,
    request: Request,
    read: fn(&Value, &Model) -> Result<dialect::Request<T>, Refusal>,
    events: fn(T) -> W,
    reply: fn(&T, &Choice) -> Value,
) -> Result<Response<Body>, Refusal> {
    let read = asked(app, request, move |request, app| {
        let dialect::Request { ask, stream, telling } = read(request, &app.model)?;
        Ok((app.read(ask)?, stream, telling))
    });
    let (draft, is_stream, telling) = read.await?;
    let answers = submit(app, draft).await?;
    match is_stream {
        true => Ok(stream(answers, events(telling))),
        false => Ok(json(&reply(&telling, &one(answers).await?))),
    }
}

/// Waits for the one answer to a request.
async fn one(answers: Answers) -> Result<Choice, Refusal> {
    Ok(whole(answers).await?.remove(0))
}

async fn unknown(request: Request) -> Response<Body> {
    let path: String = request.uri().path().escape_debug().take(64).collect();
    let message = format!("there is no {path} here");
    Refusal::new(StatusCode::NOT_FOUND, "not_found", message).into_response(Dialect::of(request.uri().path()))
}

async fn not_allowed(request: Request) -> Response<Body> {
    let message = format!("{} is not for this path", request.method());
    let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
    refusal.into_response(Dialect::of(request.uri().path()))
}
