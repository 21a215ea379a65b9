//! Why a request gets no answer, and how each dialect says so.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use serde_json::{Value, json};

/// A name that a client made up, no longer than it is worth reading.
fn cut(name: &str) -> String {
    name.escape_debug().take(128).collect()
}

/// A request that is refused, or fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// A word for programs, which never changes.
    pub(crate) code: &'static str,
    /// For people: what, where, what to do.
    pub(crate) message: String,
    /// The field it is about.
    pub(crate) field: Option<String>,
    /// More for programs, beside the message.
    pub(crate) details: Vec<(&'static str, u64)>,
}

/// Why a reply is a refusal, or an answer failed: for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Why {
    /// See [`Refusal`].
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Why {
    pub(crate) fn of(refusal: &Refusal) -> Why {
        Why { code: refusal.code, message: refusal.message.clone() }
    }
}

/// Whose words errors are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
    Ollama,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, code, message: message.into(), field: None, details: Vec::new() }
    }

    /// The body as a whole is wrong.
    pub(crate) fn body(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "invalid_body", message)
    }

    /// A field is wrong.
    pub(crate) fn field(path: &str, why: &str) -> Refusal {
        let path = &cut(path);
        let message = format!("{path}: {why}");
        Refusal { field: Some(path.to_owned()), ..Refusal::new(StatusCode::BAD_REQUEST, "invalid_value", message) }
    }

    /// There is no such field.
    pub(crate) fn unknown(path: &str) -> Refusal {
        let path = &cut(path);
        let message = format!("{path}: there is no such field");
        Refusal { field: Some(path.to_owned()), ..Refusal::new(StatusCode::BAD_REQUEST, "unknown_parameter", message) }
    }

    /// The prompt and the answer do not fit.
    pub(crate) fn context(n_prompt: usize, n_ctx: usize) -> Refusal {
        let message = format!(
            "the prompt has {n_prompt} tokens, but the context holds {n_ctx}, the answer included; shorten it, or start the \
             server with a larger --ctx"
        );
        let details = vec![("n_prompt_tokens", n_prompt as u64), ("n_ctx", n_ctx as u64)];
        Refusal { details, ..Refusal::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message) }
    }

    /// Nobody has the time now.
    pub(crate) fn busy(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "server_busy", message)
    }

    /// Grammars of others come first.
    pub(crate) fn compiling() -> Refusal {
        Refusal::busy("others' schemas and grammars are being compiled")
    }

    /// The server ends.
    pub(crate) fn ending() -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the server is shutting down; try again")
    }

    /// We failed.
    pub(crate) fn bug() -> Refusal {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "a bug: see the server's log")
    }

    /// The client takes too long to send or to read.
    pub(crate) fn too_slow(message: &str) -> Refusal {
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "too_slow", message)
    }

    /// The engine failed: why is for whoever runs the server.
    pub(crate) fn failed() -> Refusal {
        let message = "the model cannot be computed; the server's log says why";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "engine_failed", message)
    }

    /// As a dialect writes it.
    pub(crate) fn to_json(&self, dialect: Dialect) -> Value {
        match dialect {
            Dialect::OpenAi => {
                let mut error = json!({
                    "message": self.message, "type": self.openai_type(), "param": self.field, "code": self.code,
                });
                for (name, n) in &self.details {
                    error[*name] = json!(n);
                }
                json!({ "error": error })
            }
            Dialect::Anthropic => {
                let mut error = json!({ "type": self.anthropic_type(), "message": self.message });
                for (name, n) in &self.details {
                    error[*name] = json!(n);
                }
                json!({ "type": "error", "error": error })
            }
            Dialect::Ollama => json!({ "error": self.message }),
        }
    }

    fn openai_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 | 421 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        }
    }

    fn anthropic_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 | 421 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            400..500 => "invalid_request_error",
            _ => "api_error",
        }
    }

    /// The whole reply.
    pub(crate) fn into_response(self, dialect: Dialect) -> Response<Body> {
        let mut response = Response::new(Body::from(self.to_json(dialect).to_string()));
        *response.status_mut() = self.status;
        response.extensions_mut().insert(Why::of(&self)); // goes with it as far as our own layers
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl Dialect {
    /// Of a request's path.
    pub(crate) fn of(path: &str) -> Dialect {
        match path {
            path if path.starts_with("/v1/messages") => Dialect::Anthropic,
            path if path.starts_with("/api/") => Dialect::Ollama,
            _ => Dialect::OpenAi,
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn every_dialect_has_its_own_form() {
        let refusal = Refusal::context(10, 8);
        expect![[r#"{"error":{"message":"the prompt has 10 tokens, but the context holds 8, the answer included; shorten it, or start the server with a larger --ctx","type":"invalid_request_error","param":null,"code":"context_length_exceeded","n_prompt_tokens":10,"n_ctx":8}}"#]]
            .assert_eq(&refusal.to_json(Dialect::OpenAi).to_string());
        expect![[r#"{"type":"error","error":{"type":"invalid_request_error","message":"n: must be 1"}}"#]]
            .assert_eq(&Refusal::field("n", "must be 1").to_json(Dialect::Anthropic).to_string());
        expect![[r#"{"error":"the server is shutting down; try again"}"#]]
            .assert_eq(&Refusal::ending().to_json(Dialect::Ollama).to_string());
    }
}
