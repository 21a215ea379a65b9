//! Making weights and measuring them, without a terminal.
//!
//! ```text
//! a Hugging Face folder, or a GGUF -> Source -> by a recipe, with importance -> a GGUF
//! a text -> the engine -> importance of each column; likelihood and divergence
//! ```
#![forbid(unsafe_code)]

mod compare;
pub mod hf;
pub mod imatrix;
pub mod perplexity;
pub mod quantize;
pub mod recipe;
mod source;

pub use compare::{CompareError, Difference, compare};
pub use source::{GgufSource, Source, Weights};
