//! How the authors of a model recommend to choose tokens: `generation_config.json`, as the keys `general.sampling.*`.
//!
//! The keys are llama.cpp's (`gguf-py/gguf/constants.py: Keys.General`), which takes no notice of `do_sample`.

use std::path::Path;

use gguf::Value;

use super::{Error, shards::read_json_opt};

/// Floats, by their names there and here.
const FLOATS: [(&str, &str); 4] =
    [("temperature", "temp"), ("top_p", "top_p"), ("min_p", "min_p"), ("repetition_penalty", "penalty_repeat")];

/// The keys of what is recommended; none where the file is absent.
///
/// # Errors
/// A value that is no number.
pub(super) fn keys(folder: &Path) -> Result<Vec<(String, Value)>, Error> {
    let path = folder.join("generation_config.json");
    let said = read_json_opt(&path)?.unwrap_or_default();
    let key = |name: &str| format!("general.sampling.{name}");
    let invalid =
        |name: &str, allowed: &str| Error::invalid(&path, format!("`{name}`"), &said[name].to_string(), allowed);
    if said["do_sample"] == false {
        return Ok(vec![(key("temp"), 0f32.into())]);
    }
    let mut keys = Vec::new();
    for (there, here) in FLOATS.into_iter().filter(|(there, _)| !said[there].is_null()) {
        let x = said[there].as_f64().ok_or_else(|| invalid(there, "a number"))?;
        keys.push((key(here), (x as f32).into()));
    }
    if !said["top_k"].is_null() {
        let k = said["top_k"].as_i64().and_then(|k| i32::try_from(k).ok());
        let k = k.ok_or_else(|| invalid("top_k", "a whole number"))?;
        keys.push((key("top_k"), k.into()));
    }
    Ok(keys)
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
        say(r#"{"temperature": "warm"}"#).unwrap_or_else(|e| panic!("{e}"));
        assert!(keys(folder.path()).is_err());
    }
}
