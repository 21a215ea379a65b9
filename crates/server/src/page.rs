//! The chat page at `/`: files that are part of the program, and need nothing from elsewhere.

use axum::{
    Router,
    body::Body,
    http::{HeaderName, HeaderValue, Response, header},
    routing::get,
};

/// What the page may do: nothing but talk to us.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

macro_rules! files {
    ($($path:literal $kind:literal $name:literal)*) => {
        [$(($path, $kind, include_str!(concat!("../page/", $name)))),*]
    };
}

/// Path, kind and text.
const FILES: [(&str, &str, &str); 14] = files![
    "/" "text/html" "index.html"
    "/style.css" "text/css" "style.css"
    "/icon.svg" "image/svg+xml" "icon.svg"
    "/ask.js" "text/javascript" "ask.js"
    "/chat.js" "text/javascript" "chat.js"
    "/conversation.js" "text/javascript" "conversation.js"
    "/dom.js" "text/javascript" "dom.js"
    "/follow.js" "text/javascript" "follow.js"
    "/list.js" "text/javascript" "list.js"
    "/markdown.js" "text/javascript" "markdown.js"
    "/settings.js" "text/javascript" "settings.js"
    "/store.js" "text/javascript" "store.js"
    "/stream.js" "text/javascript" "stream.js"
    "/turn.js" "text/javascript" "turn.js"
];

/// Whether a path is one of the page's: nothing there is secret.
pub(crate) fn is_page(path: &str) -> bool {
    FILES.iter().any(|(known, ..)| *known == path)
}

/// The page's paths.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES
        .iter()
        .fold(Router::new(), |router, &(path, kind, text)| router.route(path, get(async move || file(kind, text))))
}

fn file(kind: &'static str, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    let head = |name: HeaderName, value| (name, HeaderValue::from_static(value));
    response.headers_mut().extend([
        head(header::CONTENT_TYPE, kind),
        head(header::CONTENT_SECURITY_POLICY, POLICY),
        head(header::CACHE_CONTROL, "no-cache"),
        head(header::REFERRER_POLICY, "no-referrer"),
    ]);
    response
}
