//! The list of models, of which there is one: `GET /v1/models`.

use serde_json::{Value, json};

use crate::app::Model;

/// The list.
pub(crate) fn list(model: &Model) -> Value {
    json!({ "object": "list", "data": [one(model)], "has_more": false, "first_id": model.name, "last_id": model.name })
}

/// The model, as OpenAI and Anthropic describe theirs.
pub(crate) fn one(model: &Model) -> Value {
    let info = model.engine.info();
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created_s,
        "owned_by": "local",
        "type": "model",
        "display_name": info.name,
        "context_length": model.n_ctx,
        "max_model_len": model.n_ctx,
        "meta": {
            "family": info.family,
            "n_params": info.n_params,
            "size": info.file_bytes,
            "n_ctx": model.n_ctx,
            "n_ctx_train": info.n_ctx_train,
            "n_vocab": info.n_vocab,
        },
    })
}
