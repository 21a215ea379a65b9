//! How tokens are chosen, and how long an answer is: fields that dialects share.

use engine::SamplerOptions;
use serde_json::Value;
use tokenizer::TokenId;

use crate::{
    app::Model,
    ask::{N_BIAS_MAX, N_CHOICES_MAX, N_STOP_MAX, STOP_BYTES_MAX},
    error::Refusal,
    fields::{Field, Fields, Kind, acts},
};

/// Fields that choose tokens.
pub(crate) const SAMPLING: [Field; 10] = [
    acts(
        "temperature",
        Kind::Num(0.0, 100.0),
        "Below 1 more certain, above 1 more random, 0 always the likeliest token.",
    ),
    acts(
        "top_p",
        Kind::Num(0.0, 1.0),
        "Draw from the likeliest tokens that make up this share; 0 for the likeliest alone.",
    ),
    acts("top_k", Kind::Int(-1, i32::MAX as i64), "Draw from the N likeliest tokens only; 0 or -1 for all."),
    acts("min_p", Kind::Num(0.0, 1.0), "Draw from tokens at least this likely, relative to the likeliest."),
    acts("presence_penalty", Kind::Num(-2.0, 2.0), "Lower the logits of recent tokens by this."),
    acts("frequency_penalty", Kind::Num(-2.0, 2.0), "Lower the logits of recent tokens by this for each occurrence."),
    acts("repetition_penalty", Kind::Num(0.01, 100.0), "Divide the logits of recent tokens by this."),
    acts("repeat_penalty", Kind::Num(0.01, 100.0), "The same, as others spell it."),
    acts("repeat_last_n", Kind::Int(-1, i64::MAX), "How many tokens are recent; -1 for all."),
    acts(
        "seed",
        Kind::Int(i64::MIN, i64::MAX),
        "The same seed gives the same answer; without one, each answer has its own.",
    ),
];

/// Fields that OpenAI's have, and others do not, or elsewhere.
pub(crate) const SEVERAL: [Field; 2] = [
    acts("stop", Kind::Any, "A text, or up to 64, that end the answer and are not part of it."),
    acts("n", Kind::Int(1, N_CHOICES_MAX), "How many answers."),
];

/// Fields that say how long an answer is.
pub(crate) const LENGTH: [Field; 4] = [
    acts(
        "max_tokens",
        Kind::Int(0, i64::MAX),
        "Longest answer in tokens, reasoning included; what there is room for if absent.",
    ),
    acts("max_completion_tokens", Kind::Int(0, i64::MAX), "The same."),
    acts("max_output_tokens", Kind::Int(0, i64::MAX), "The same."),
    acts("n_predict", Kind::Int(-1, i64::MAX), "The same; -1 for what there is room for."),
];

/// Options of the sampler, where fields do not say otherwise those of `default`; and `seed`, or one that nobody knows.
///
/// # Errors
/// A value that means nothing.
pub(crate) fn sampling(
    fields: &Fields<'_>,
    default: &SamplerOptions,
    seed: Option<u64>,
) -> Result<SamplerOptions, Refusal> {
    let num = |name, default: f32| fields.num(name).map_or(default, |x| x as f32);
    let options = SamplerOptions {
        temperature: num("temperature", default.temperature),
        top_k: fields.int("top_k").map_or(default.top_k, |k| k.max(0) as usize),
        top_p: num("top_p", default.top_p).max(f32::MIN_POSITIVE),
        min_p: num("min_p", default.min_p),
        repetition_penalty: num("repetition_penalty", num("repeat_penalty", default.repetition_penalty)),
        presence_penalty: num("presence_penalty", default.presence_penalty),
        frequency_penalty: num("frequency_penalty", default.frequency_penalty),
        penalty_last_n: fields
            .int("repeat_last_n")
            .map_or(default.penalty_last_n, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        seed: fields.int("seed").map(|seed| seed as u64).or(seed).unwrap_or_else(rand::random),
        ..default.clone()
    };
    options.check().map_err(|error| Refusal::body(error.to_string()))?;
    Ok(options)
}

/// The most tokens of an answer, if anybody says.
pub(crate) fn n_max(fields: &Fields<'_>) -> Option<usize> {
    let names = ["max_completion_tokens", "max_output_tokens", "max_tokens", "n_predict"];
    names.iter().find_map(|name| fields.int(name)).and_then(|n| usize::try_from(n).ok())
}

/// What is added to the logits of tokens.
///
/// # Errors
/// An id that is none, or a value out of range.
pub(crate) fn logit_bias(fields: &Fields<'_>, model: &Model) -> Result<Vec<(TokenId, f32)>, Refusal> {
    let n_vocab = model.engine.info().n_vocab;
    let one = |(id, bias): (&String, &Value)| {
        let id = id.parse().ok().filter(|&id| (id as usize) < n_vocab)?;
        Some((id, bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))? as f32))
    };
    let Some(Value::Object(biases)) = fields.any("logit_bias") else { return Ok(Vec::new()) };
    let biases = (biases.len() <= N_BIAS_MAX).then(|| biases.iter().map(one).collect::<Option<_>>()).flatten();
    let allowed =
        format!("must be at most {N_BIAS_MAX} token ids below {n_vocab}, each with a number from -100 to 100");
    biases.ok_or_else(|| fields.refuse("logit_bias", &allowed))
}

/// Texts that end an answer.
///
/// # Errors
/// Too many, too long, or empty ones.
pub(crate) fn stop(fields: &Fields<'_>, name: &str) -> Result<Vec<String>, Refusal> {
    let texts = fields.texts(name)?;
    if texts.len() > N_STOP_MAX || texts.iter().any(|text| text.is_empty() || text.len() > STOP_BYTES_MAX) {
        let allowed = format!("must be at most {N_STOP_MAX} texts of 1 to {STOP_BYTES_MAX} bytes");
        return Err(fields.refuse(name, &allowed));
    }
    Ok(texts)
}
