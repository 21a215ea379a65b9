//! What a corpus showed to matter, for the tensors that are packed.

use gguf::Value;
use sha2::{Digest as _, Sha256};

use super::Error;
use crate::{Weights, imatrix::Imatrix};

/// Who says how much the columns of a matrix matter.
pub struct Guide {
    imatrix: Imatrix,
    file: String,
}

/// What is known of the matrices of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Nothing,
    Part,
    All,
}

impl Guide {
    /// By a matrix from a file of this name, which is written down in what it guides.
    pub fn new(imatrix: Imatrix, file: &str) -> Guide {
        Guide { imatrix, file: file.into() }
    }

    /// The names of its entries that no tensor of a model has.
    pub fn strangers<'a>(&'a self, weights: &[Weights]) -> impl Iterator<Item = &'a str> {
        let known: Vec<String> = weights.iter().map(|w| w.name.clone()).collect();
        let is_known = move |entry: &str| {
            known.iter().any(|name| {
                entry.strip_prefix(name.as_str()).is_some_and(|end| end.is_empty() || end.starts_with(".expert"))
            })
        };
        self.imatrix.entries.keys().map(String::as_str).filter(move |entry| !is_known(entry))
    }

    /// The importance of each of the columns of a tensor's matrix, an expert's where there are several; `None` where
    /// nothing is known of it, as of an expert that the corpus never met.
    ///
    /// # Errors
    /// [`Error::Importance`].
    pub(super) fn importance(&self, weights: &Weights, matrix: usize) -> Result<Option<Vec<f32>>, Error> {
        let known = self.imatrix.importance(&weights.name, weights.n_cols(), [matrix, weights.n_matrices()])?;
        Ok(known.filter(|known| known.count > 0).map(|known| known.columns))
    }

    /// What is known of a tensor, which fits all of its matrices.
    ///
    /// # Errors
    /// [`Error::Importance`].
    pub(super) fn knows(&self, weights: &Weights) -> Result<Known, Error> {
        let n = weights.n_matrices();
        let has = |matrix| Ok(usize::from(self.imatrix.has(&weights.name, weights.n_cols(), [matrix, n])?));
        let n_known = (0..n).map(has).sum::<Result<usize, Error>>()?;
        Ok(match n_known {
            0 => Known::Nothing,
            all if all == n => Known::All,
            _ => Known::Part,
        })
    }

    /// Why a model of which nothing is known is not packed by it.
    pub(super) fn other_model(&self) -> Error {
        Error::OtherModel { file: self.file.clone() }
    }

    /// What is written down about it.
    pub(super) fn keys(&self) -> Vec<(String, Value)> {
        let all = [
            ("file", Value::String(self.file.clone())),
            ("dataset", Value::String(self.imatrix.datasets.join(", "))),
            ("entries_count", Value::U32(self.imatrix.entries.len() as u32)),
            ("chunks_count", Value::U32(self.imatrix.chunk_count)),
        ];
        all.into_iter().map(|(key, value)| (format!("quantize.imatrix.{key}"), value)).collect()
    }

    /// What tells it from others.
    pub(super) fn identity(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (name, entry) in &self.imatrix.entries {
            hash.update(format!("{name}\0{:?}\0", entry.counts()));
            entry.sums().iter().for_each(|sum| hash.update(sum.to_le_bytes()));
        }
        hash.finalize().into()
    }
}
