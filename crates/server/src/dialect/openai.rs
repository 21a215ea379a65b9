//! What chats and texts of OpenAI's have in common when they are answered.

use std::time::Duration;

use serde_json::{Value, json};

use super::{new_id, now_s};
use crate::{
    app::Model,
    reply::Choice,
    said::{Finish, Usage},
};

/// What every reply, and every chunk of one, begins with.
pub(crate) fn head(id_kind: &str, object: &str, model: &Model) -> Value {
    json!({
        "id": new_id(id_kind),
        "object": object,
        "created": now_s(),
        "model": model.name,
        "system_fingerprint": model.fingerprint,
    })
}

/// The answers as a whole, `told` as the dialect tells each.
pub(crate) fn whole(head: Value, told: Vec<Value>, choices: &[Choice]) -> Value {
    let usages: Vec<_> = choices.iter().map(|choice| choice.finish.usage).collect();
    let mut reply = head;
    reply["choices"] = Value::Array(told);
    reply["usage"] = usage(&usages);
    reply["timings"] = json!(choices.last().map(|choice| timings(&choice.finish)));
    reply
}

/// Why an answer ended, as OpenAI says it.
pub(crate) fn finish_reason(finish: &Finish) -> &'static str {
    match finish.n_calls {
        _ if finish.was_cut() => "length",
        0 => "stop",
        _ => "tool_calls",
    }
}

/// Tokens, as OpenAI counts them.
pub(crate) fn usage(usages: &[Usage]) -> Value {
    let first = usages.first().copied().unwrap_or_default();
    let n_answer: usize = usages.iter().map(|usage| usage.n_answer).sum();
    let n_reasoning: usize = usages.iter().map(|usage| usage.n_reasoning).sum();
    json!({
        "prompt_tokens": first.n_prompt,
        "completion_tokens": n_answer,
        "total_tokens": first.n_prompt + n_answer,
        "prompt_tokens_details": { "cached_tokens": first.n_cached },
        "completion_tokens_details": { "reasoning_tokens": n_reasoning },
    })
}

/// Where the time went, as llama.cpp says it.
pub(crate) fn timings(finish: &Finish) -> Value {
    let (usage, timings) = (finish.usage, finish.timings);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let n_new = usage.n_prompt - usage.n_cached;
    let rate = |n: usize, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
    json!({
        "cache_n": usage.n_cached,
        "prompt_n": n_new,
        "prompt_ms": ms(timings.prefill),
        "prompt_per_second": rate(n_new, timings.prefill),
        "predicted_n": usage.n_answer,
        "predicted_ms": ms(timings.decode),
        "predicted_per_second": rate(usage.n_answer, timings.decode),
        "queued_ms": ms(timings.queued),
    })
}
