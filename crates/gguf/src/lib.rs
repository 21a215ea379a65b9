//! The container of models: GGUF versions 2 and 3, mapped, checked, read and written.
//!
//! ```text
//! "GGUF"  version u32  tensor count u64  key count u64
//! keys    name, type u32, value                              -> Metadata
//! tensors name, n_dims u32, dims u64.., type u32, offset u64 -> TensorInfo
//! padding to `general.alignment`, then the data              -> Bytes
//! ```
//!
//! Little-endian; a string is a u64 length and UTF-8. A file is a stranger: [`Gguf::open`] checks every field before it
//! is used, allocates by the bytes that are there and never by what a field claims, and answers with one line that says
//! what is wrong and where. What it returns can be used without further checks of the container: names are unique,
//! tensors lie inside the file, in whole blocks, and share no byte. What the model makes of them is not our concern.
//!
//! Accepted, though some writers would not make them: gaps between tensors, tensors in any order, bytes after the last.
//!
//! Source: the specification of other models, section 2; `gguf.cpp` in ggml.

#![deny(unsafe_code)]

mod cursor;
mod directory;
mod element;
mod error;
mod file;
mod keys;
mod layout;
mod lost;
mod map;
mod metadata;
mod origin;
mod part;
mod value;
mod writer;

pub use directory::NAME_BYTES_MAX;
pub use element::Element;
pub use error::{Error, reason, shorten, shown};
pub use file::{Gguf, TensorInfo};
pub use layout::Layout;
#[cfg(unix)]
pub use lost::explain_lost_pages;
pub use map::{Bytes, Stamp};
pub use metadata::Metadata;
pub use origin::{Inside, Origin};
pub use value::{Array, Strings, Value};
pub use writer::Writer;
