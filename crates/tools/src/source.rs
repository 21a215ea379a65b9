//! What weights are read from, row by row, under the names and with the keys of the GGUF that is to be written.

use std::{fmt, ops::Range};

use gguf::{Element, Value};

/// A model in files, of any format. What it reads is checked when it is opened; reading then fails only where the
/// system does, or the files were changed since.
pub trait Source: Sync {
    /// What is wrong with the files.
    type Error: fmt::Display;

    /// The keys of the GGUF, but those that say how it was quantised.
    fn keys(&self) -> &[(String, Value)];

    /// The tensors of the GGUF, in its order.
    fn weights(&self) -> &[Weights];

    /// Decodes the rows `rows` of tensor `i`, outer dimensions flattened.
    fn read(&self, i: usize, rows: Range<usize>, out: &mut [f32]) -> Result<(), Self::Error>;

    /// The bytes of the same rows, as [`Weights::element`] packs them.
    fn read_bytes(&self, i: usize, rows: Range<usize>, out: &mut [u8]) -> Result<(), Self::Error>;
}

/// A tensor of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Its name in the GGUF.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The type that keeps all of it: that of the file, or of a GGUF's that has the same numbers.
    pub element: Element,
}
