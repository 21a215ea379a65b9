//! What weights are read from, row by row, under the names and with the keys of the GGUF that is to be written.

use std::{
    error::Error,
    ops::Range,
    path::{Path, PathBuf},
};

use gguf::{Element, Gguf, Stamp, Value};

/// A model in files, of any format. What it reads is checked when it is opened; reading then fails only where the
/// system does, or the files were changed since.
pub trait Source: Sync {
    /// What is wrong with the files.
    type Error: Error + Send + Sync + 'static;

    /// The files that weights are read from, as they were when they were opened.
    fn files(&self) -> Vec<(PathBuf, Stamp)>;

    /// The keys of the GGUF, but those that say how it was cut into several files.
    fn keys(&self) -> &[(String, Value)];

    /// The tensors of the GGUF, in its order.
    fn weights(&self) -> &[Weights];

    /// Decodes the rows `rows` of tensor `i`, outer dimensions flattened; not of tables of whole numbers.
    ///
    /// # Errors
    /// What the system says, or that the file was changed.
    fn read(&self, i: usize, rows: Range<usize>, out: &mut [f32]) -> Result<(), Self::Error>;

    /// The bytes of the same rows, as [`Weights::element`] packs them.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn read_bytes(&self, i: usize, rows: Range<usize>, out: &mut [u8]) -> Result<(), Self::Error>;
}

/// Values that are worth reading at a time.
pub(crate) const N_AT_A_TIME: usize = 1 << 20;

/// A tensor of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Its name in the GGUF.
    pub name: String,
    /// Dimensions, outermost first; there is one at least, and none is zero.
    pub shape: Vec<usize>,
    /// The type that keeps all of it: that of the file, or of a GGUF's that has the same numbers.
    pub element: Element,
}

impl Weights {
    /// Values in a row.
    pub fn n_cols(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// Rows, of all matrices.
    pub fn n_rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    /// Rows that have about so many values.
    pub(crate) fn rows_at_a_time(&self, n_values: usize) -> usize {
        (n_values / self.n_cols()).max(1)
    }

    /// Matrices: experts, of a tensor that has them.
    pub fn n_matrices(&self) -> usize {
        self.n_rows() / self.n_matrix_rows()
    }

    /// Rows of a matrix, of which a tensor of experts has one for each.
    pub fn n_matrix_rows(&self) -> usize {
        if self.shape.len() > 2 { self.shape[self.shape.len() - 2] } else { self.n_rows() }
    }
}

/// What keys begin with that say how a model was cut into several files.
const SPLIT: &str = "split.";

/// A GGUF to be packed anew.
pub struct GgufSource {
    gguf: Gguf,
    keys: Vec<(String, Value)>,
    weights: Vec<Weights>,
}

impl GgufSource {
    /// Opens it, with all its parts.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn open(path: &Path) -> Result<GgufSource, gguf::Error> {
        let gguf = Gguf::open(path)?;
        let keys = gguf.metadata().iter().filter(|(key, _)| !key.starts_with(SPLIT));
        let keys = keys.map(|(key, value)| (key.to_string(), value.clone())).collect();
        let weights = gguf.tensors().iter();
        let weights =
            weights.map(|t| Weights { name: t.name.clone(), shape: t.shape.clone(), element: t.element }).collect();
        Ok(GgufSource { gguf, keys, weights })
    }

    fn bytes_of(&self, i: usize, rows: Range<usize>) -> gguf::Bytes {
        let row =
            self.weights[i].element.row_bytes(self.weights[i].n_cols()).expect("the file's rows are whole blocks");
        self.gguf.bytes(&self.gguf.tensors()[i]).slice(rows.start * row..rows.end * row)
    }
}

impl Source for GgufSource {
    type Error = gguf::Error;

    fn files(&self) -> Vec<(PathBuf, Stamp)> {
        self.gguf.stamps().map(|(path, stamp)| (path.to_owned(), stamp)).collect()
    }

    fn keys(&self) -> &[(String, Value)] {
        &self.keys
    }

    fn weights(&self) -> &[Weights] {
        &self.weights
    }

    fn read(&self, i: usize, rows: Range<usize>, out: &mut [f32]) -> Result<(), gguf::Error> {
        let Element::Packed(format) = self.weights[i].element else { panic!("`read` is for weights") };
        let bytes = self.bytes_of(i, rows);
        format.decode(bytes.as_ref(), out);
        bytes.release();
        Ok(())
    }

    fn read_bytes(&self, i: usize, rows: Range<usize>, out: &mut [u8]) -> Result<(), gguf::Error> {
        let bytes = self.bytes_of(i, rows);
        out.copy_from_slice(bytes.as_ref());
        bytes.release();
        Ok(())
    }
}
