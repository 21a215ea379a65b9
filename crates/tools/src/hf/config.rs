//! `config.json`: names and numbers of the model. Every number has bounds, so that no later arithmetic on sizes can
//! overflow; a key is named with its folders, `rope_scaling.factor`.

use std::{
    fmt::Display,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use gguf::Stamp;
use serde_json::Value;

use super::{Error, shards::read_json};

/// More layers than any model has.
pub(super) const N_LAYER_MAX: usize = 512;
/// The widest vector that a model may have.
pub(super) const WIDTH_MAX: usize = 1 << 20;
/// More words than any vocabulary has.
pub(super) const N_VOCAB_MAX: usize = 1 << 24;
/// The longest context that a model may be made for.
pub(super) const N_CTX_MAX: usize = 1 << 30;

/// The values of the file.
pub(super) struct Config {
    path: PathBuf,
    /// The file as it was before it was read.
    stamp: Stamp,
    values: Value,
}

impl Config {
    pub(super) fn read(folder: &Path) -> Result<Config, Error> {
        let path = folder.join("config.json");
        let stamp = Stamp::at(&path).map_err(Error::io(&path))?;
        Ok(Config { values: read_json(&path)?, path, stamp })
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.stamp
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A value; one that is `null` counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        key.split('.').try_fold(&self.values, |value, name| value.get(name)).filter(|v| !v.is_null())
    }

    pub(super) fn size(&self, key: &str, allowed: RangeInclusive<usize>) -> Result<usize, Error> {
        self.size_opt(key, allowed)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn size_opt(&self, key: &str, allowed: RangeInclusive<usize>) -> Result<Option<usize>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match whole(value).filter(|n| allowed.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.refuse(key, value, format_args!("{} to {}", allowed.start(), allowed.end()))),
        }
    }

    pub(super) fn real(&self, key: &str, allowed: RangeInclusive<f64>) -> Result<f32, Error> {
        self.real_opt(key, allowed)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn real_opt(&self, key: &str, allowed: RangeInclusive<f64>) -> Result<Option<f32>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().filter(|x| allowed.contains(x)) {
            Some(x) => Ok(Some(x as f32)),
            None => Err(self.refuse(key, value, format_args!("{} to {}", allowed.start(), allowed.end()))),
        }
    }

    pub(super) fn flag_opt(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.refuse(key, other, "true or false")),
        }
    }

    pub(super) fn word_opt(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(word)) => Ok(Some(word)),
            Some(other) => Err(self.refuse(key, other, "a word")),
        }
    }

    /// The first `n` sizes of a list that may be longer.
    pub(super) fn sizes(&self, key: &str, n: usize, allowed: RangeInclusive<usize>) -> Result<Vec<usize>, Error> {
        let value = self.get(key).ok_or_else(|| self.missing(key))?;
        let Some(list) = value.as_array().filter(|list| list.len() >= n) else {
            return Err(self.refuse(key, value, format_args!("a list of {n} numbers or more")));
        };
        let refuse = |v| self.refuse(key, v, format_args!("{} to {}", allowed.start(), allowed.end()));
        list[..n].iter().map(|v| whole(v).filter(|n| allowed.contains(n)).ok_or_else(|| refuse(v))).collect()
    }

    /// Refuses any value of a key but those in `allowed`; a missing key is the default.
    pub(super) fn only(&self, key: &str, allowed: &[Value]) -> Result<(), Error> {
        match self.get(key).filter(|v| !allowed.contains(v)) {
            Some(v) if allowed.is_empty() => Err(self.refuse(key, v, "null, or none at all")),
            Some(v) => {
                let allowed: Vec<_> = allowed.iter().map(Value::to_string).collect();
                Err(self.refuse(key, v, allowed.join(", ")))
            }
            None => Ok(()),
        }
    }

    pub(super) fn refuse(&self, key: &str, found: &Value, allowed: impl Display) -> Error {
        Error::invalid(&self.path, format!("`{key}`"), &found.to_string(), allowed.to_string())
    }

    pub(super) fn missing(&self, key: &str) -> Error {
        Error::MissingKey { path: self.path.clone(), key: key.into() }
    }
}

/// A number without a fraction, however it is spelled.
fn whole(value: &Value) -> Option<usize> {
    let real = || value.as_f64().filter(|x| x.fract() == 0.0 && (0.0..=9e15).contains(x)).map(|x| x as usize);
    value.as_u64().map(|n| n as usize).or_else(real)
}
