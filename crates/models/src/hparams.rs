//! Hyper-parameters from the metadata. Every number has bounds, so that no later arithmetic on sizes can overflow and
//! no allocation follows a size that only a crafted file declares.

use std::{
    fmt::{Debug, Display},
    ops::RangeInclusive,
};

use gguf::Gguf;

use crate::Error;

/// More layers than any model has.
pub(crate) const N_LAYER_MAX: usize = 512;
/// The widest vector that a model may have.
pub(crate) const WIDTH_MAX: usize = 1 << 20;

/// The keys of one architecture, named without its prefix.
pub(crate) struct Hparams<'a> {
    gguf: &'a Gguf,
    arch: &'a str,
}

impl<'a> Hparams<'a> {
    pub(crate) fn new(gguf: &'a Gguf, arch: &'a str) -> Hparams<'a> {
        Hparams { gguf, arch }
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    /// A size; an array counts if all its entries are equal.
    pub(crate) fn size(&self, name: &str, allowed: RangeInclusive<usize>) -> Result<usize, Error> {
        match self.size_opt(name, allowed)? {
            Some(n) => Ok(n),
            None => Ok(self.gguf.metadata().u32(&self.key(name)).map(|n| n as usize)?), // says that the key is missing
        }
    }

    /// A size that may be left out.
    pub(crate) fn size_opt(&self, name: &str, allowed: RangeInclusive<usize>) -> Result<Option<usize>, Error> {
        let Some(values) = self.gguf.metadata().u32s_opt(&self.key(name))? else { return Ok(None) };
        let same = values.first().filter(|first| values.iter().all(|v| v == *first));
        let Some(&n) = same else {
            return Err(self.refuse(name, format_args!("{values:?}"), "one number for all layers"));
        };
        if !allowed.contains(&(n as usize)) {
            return Err(self.refuse(name, n, format_args!("{} to {}", allowed.start(), allowed.end())));
        }
        Ok(Some(n as usize))
    }

    /// A number that may be left out.
    pub(crate) fn real_opt(&self, name: &str, allowed: RangeInclusive<f32>) -> Result<Option<f32>, Error> {
        let Some(x) = self.gguf.metadata().f32_opt(&self.key(name))? else { return Ok(None) };
        if !allowed.contains(&x) {
            return Err(self.refuse(name, x, format_args!("{} to {}", allowed.start(), allowed.end())));
        }
        Ok(Some(x))
    }

    /// A number.
    pub(crate) fn real(&self, name: &str, allowed: RangeInclusive<f32>) -> Result<f32, Error> {
        match self.real_opt(name, allowed)? {
            Some(x) => Ok(x),
            None => Ok(self.gguf.metadata().f32(&self.key(name))?), // says that the key is missing
        }
    }

    /// A word that may be left out.
    pub(crate) fn word_opt(&self, name: &str) -> Result<Option<String>, Error> {
        Ok(self.gguf.metadata().str_opt(&self.key(name))?.map(String::from))
    }

    /// A flag that may be left out.
    pub(crate) fn flag_opt(&self, name: &str) -> Result<Option<bool>, Error> {
        Ok(self.gguf.metadata().bool_opt(&self.key(name))?)
    }

    /// Sizes, one per layer and maybe more.
    pub(crate) fn sizes(&self, name: &str, n: usize, allowed: RangeInclusive<usize>) -> Result<Vec<usize>, Error> {
        let values = self.gguf.metadata().u32s(&self.key(name))?;
        let per_layer: Vec<usize> = values.iter().take(n).map(|&v| v as usize).collect();
        match per_layer.iter().find(|v| !allowed.contains(v)) {
            Some(v) => Err(self.refuse(name, v, format_args!("{} to {}", allowed.start(), allowed.end()))),
            None if per_layer.len() < n => {
                Err(self.refuse(name, format_args!("{} entries", values.len()), format_args!("{n} entries or more")))
            }
            None => Ok(per_layer),
        }
    }

    /// Numbers, one per layer and maybe more, or one for all.
    pub(crate) fn reals_opt(&self, name: &str, n: usize) -> Result<Option<Vec<f32>>, Error> {
        let Some(values) = self.gguf.metadata().f32s_opt(&self.key(name))? else { return Ok(None) };
        match values.len() {
            1 => Ok(Some(vec![values[0]; n])),
            len if len >= n => Ok(Some(values[..n].to_vec())),
            len => Err(self.refuse(name, format_args!("{len} entries"), format_args!("1 or {n} entries or more"))),
        }
    }

    /// The error for a value that is not allowed.
    pub(crate) fn refuse(&self, name: &str, found: impl Display, allowed: impl Display) -> Error {
        Error::Value {
            path: self.gguf.path().to_path_buf(),
            key: self.key(name),
            found: found.to_string(),
            allowed: allowed.to_string(),
        }
    }

    /// Refuses any value of a key but those in `allowed`; a missing key is the default.
    pub(crate) fn only<T: PartialEq + Debug>(&self, name: &str, found: Option<T>, allowed: &[T]) -> Result<(), Error> {
        match found.filter(|v| !allowed.contains(v)) {
            Some(v) => Err(self.refuse(name, format_args!("{v:?}"), format_args!("{allowed:?}"))),
            None => Ok(()),
        }
    }
}
