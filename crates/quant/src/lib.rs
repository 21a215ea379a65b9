//! How numbers are packed: the weight formats of GGUF files, and the formats of cached rows.
#![forbid(unsafe_code)]

mod format;
mod hadamard;

pub use format::{FORMATS, Format};
pub use hadamard::hadamard;
