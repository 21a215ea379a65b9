//! How the authors of a model recommend to choose tokens: `generation_config.json`, as the keys `general.sampling.*`.
//!
//! The keys are llama.cpp's (`gguf-py/gguf/constants.py: Keys.General`), which takes no notice of `do_sample`.

use std::path::Path;

use engine::{SamplerOptions, sampling_key};
use gguf::Value;
use serde_json::Value as Json;

use super::{Error, shards::read_json_opt};

/// The keys of what is recommended; none where the file is absent.
///
/// # Errors
/// A value that nobody can sample by.
pub(super) fn keys(folder: &Path) -> Result<Vec<(String, Value)>, Error> {
    let path = folder.join("generation_config.json");
    let Some(said) = read_json_opt(&path)? else { return Ok(Vec::new()) };
    let invalid =
        |name: &str, found: &Json, allowed| Error::invalid(&path, format!("`{name}`"), &found.to_string(), allowed);
    if !said.is_object() {
        return Err(Error::invalid(&path, "the file", &said.to_string(), "an object"));
    }
    let number = |name: &str| match &said[name] {
        Json::Null => Ok(None),
        found => found.as_f64().map(Some).ok_or_else(|| invalid(name, found, "a number")),
    };
    let always_the_likeliest = match &said["do_sample"] {
        Json::Null => false,
        found => !found.as_bool().ok_or_else(|| invalid("do_sample", found, "true, false"))?,
    };
    let temperature = if always_the_likeliest { Some(0.0) } else { number("temperature")? };
    let (top_p, min_p, penalty) = (number("top_p")?, number("min_p")?, number("repetition_penalty")?);
    let usual = SamplerOptions::default();
    let or = |found: Option<f64>, usual: f32| found.map_or(usual, |x| x as f32);
    let options = SamplerOptions {
        temperature: or(temperature, usual.temperature),
        top_p: or(top_p, usual.top_p),
        min_p: or(min_p, usual.min_p),
        repetition_penalty: or(penalty, usual.repetition_penalty),
        ..usual
    };
    options.check().map_err(|e| invalid(e.field, &said[e.field], e.allowed))?;
    let floats = [("temperature", temperature), ("top_p", top_p), ("min_p", min_p), ("repetition_penalty", penalty)];
    let floats = floats.into_iter().filter_map(|(name, x)| Some((name, Value::from(x? as f32))));
    // Larger than any vocabulary is as good as all; a number below 0 says so.
    let top_k = number("top_k")?.map(|k| ("top_k", Value::from(k as i32)));
    Ok(floats.chain(top_k).map(|(name, value)| (sampling_key(name), value)).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_recommended_has_the_names_of_llama_cpp() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let found = || keys(folder.path()).unwrap_or_else(|e| panic!("{e}"));
        let say = |json: &str| fs::write(folder.path().join("generation_config.json"), json);
        assert_eq!(found(), []);
        say(r#"{"do_sample": true, "temperature": 0.5, "top_p": 1, "top_k": 20, "repetition_penalty": 1.25, "eos_token_id": 1}"#)
            .unwrap_or_else(|e| panic!("{e}"));
        let named = |name: &str, value| (format!("general.sampling.{name}"), value);
        let wanted = [
            named("temp", 0.5f32.into()),
            named("top_p", 1f32.into()),
            named("penalty_repeat", 1.25f32.into()),
            named("top_k", 20i32.into()),
        ];
        assert_eq!(found(), wanted);
        say(r#"{"do_sample": false, "temperature": 0.5}"#).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(found(), [named("temp", 0f32.into())]);
        for wrong in [
            r#"{"temperature": "warm"}"#,
            r#"{"temperature": 1e39}"#,
            r#"{"top_p": 0}"#,
            r#"{"do_sample": "false"}"#,
            "[1]",
        ] {
            say(wrong).unwrap_or_else(|e| panic!("{e}"));
            assert!(keys(folder.path()).is_err(), "{wrong}");
        }
    }
}
