//! Paths, and what every request goes through before and after its handler.
//!
//! ```text
//! request -> Host, Origin -> key -> size and kind of the body -> JSON -> handler -> reply
//! ```

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    routing::{get, post},
};
use engine::{Engine, SamplerOptions};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use models::{ChatOptions, Effort, WishError};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    dialect::{chat, completions, models as model_list, tokens},
    error::{Dialect, Refusal},
    guard::Access,
    metrics::Metrics,
    openapi, page,
    reply::{json, or_refusal, stream, whole},
    work::{Answers, Work},
};

/// The most bytes of a request.
const BODY_BYTES_MAX: usize = 64 << 20;
/// How long a body may take: so long, and a second more for so many bytes that it is said to have.
const BODY_TIME: Duration = Duration::from_secs(30);
const BODY_BYTES_PER_S: u64 = 64 << 10;

/// What handlers share.
pub(crate) struct App {
    pub(crate) engine: Arc<Engine>,
    pub(crate) work: Work,
    pub(crate) model: Model,
    pub(crate) access: Access,
    pub(crate) metrics: Arc<Metrics>,
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
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .merge(page::routes())
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

/// Lets a request through that may come in.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response<Body> {
    let dialect = Dialect::of(request.uri().path());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let free = request.uri().path() == "/health" || page::is_page(request.uri().path());
    let checked = app.access.check_way(request.headers(), request.uri());
    let checked =
        if free || is_preflight { checked } else { checked.and_then(|()| app.access.check_key(request.headers())) };
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
    response
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

/// The JSON of a request.
///
/// # Errors
/// It is none, or too much, or too slow.
async fn body(headers: &HeaderMap, body: Body) -> Result<Value, Refusal> {
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
    if n_bytes > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let time = BODY_TIME + Duration::from_secs(n_bytes / BODY_BYTES_PER_S);
    let bytes = timeout(time, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let bytes = bytes.map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body took too long"))?;
    let bytes: Bytes = bytes.map_err(|error| unreadable(&*error))?.to_bytes();
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::body(format!("the body is no JSON that can be read: {error}")))
}

fn too_large() -> Refusal {
    let message = format!("the body is longer than {} MiB", BODY_BYTES_MAX >> 20);
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

fn unreadable(error: &(dyn std::error::Error + 'static)) -> Refusal {
    match error.is::<LengthLimitError>() {
        true => too_large(),
        false => Refusal::body("the body ended too early"),
    }
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

async fn chat_completions(State(app): Shared, headers: HeaderMap, request: Body) -> Response<Body> {
    let reply = async {
        let request = chat::read(&body(&headers, request).await?, &app.model)?;
        if request.stream {
            let chunks = chat::Chunks::new(&app.model, &request);
            return Ok(stream(submit(&app, request.ask).await?, chunks));
        }
        let choices = whole(submit(&app, request.ask).await?).await?;
        Ok(json(&chat::reply(&app.model, &choices)))
    };
    or_refusal(reply.await, Dialect::OpenAi)
}

async fn completions_(State(app): Shared, headers: HeaderMap, request: Body) -> Response<Body> {
    let reply = async {
        let request = completions::read(&body(&headers, request).await?, &app.model)?;
        if request.stream {
            let chunks = completions::Chunks::new(&app.model, &request);
            return Ok(stream(submit(&app, request.ask).await?, chunks));
        }
        let echo = request.echo.clone();
        let choices = whole(submit(&app, request.ask).await?).await?;
        Ok(json(&completions::reply(&app.model, &choices, &echo)))
    };
    or_refusal(reply.await, Dialect::OpenAi)
}

async fn tokenize(State(app): Shared, headers: HeaderMap, request: Body) -> Response<Body> {
    let reply = async { Ok(json(&tokens::tokenize(&body(&headers, request).await?, &app.engine)?)) };
    or_refusal(reply.await, Dialect::OpenAi)
}

async fn detokenize(State(app): Shared, headers: HeaderMap, request: Body) -> Response<Body> {
    let reply = async { Ok(json(&tokens::detokenize(&body(&headers, request).await?, &app.engine)?)) };
    or_refusal(reply.await, Dialect::OpenAi)
}

/// Queues a request, away from the threads that serve connections: long texts take time to become tokens.
async fn submit(app: &Arc<App>, ask: crate::ask::Ask) -> Result<Answers, Refusal> {
    let app = app.clone();
    let submitted = tokio::task::spawn_blocking(move || app.work.submit(ask)).await;
    submitted.unwrap_or_else(|_| {
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "a bug: see the log"))
    })
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
