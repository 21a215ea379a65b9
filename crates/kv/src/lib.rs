//! What is remembered of token prefixes, in memory and on disk, so that no token is computed twice.
//!
//! ```text
//! Store::find(ids)      which blocks are there without a gap, and behind which tokens one can go on
//! Store::load(name)     a piece, whole and as it was kept, or nothing
//! Store::keep(piece)    in memory at once; on disk soon, or at the end
//! Store::promote(name)  the same for a piece that is there already, which need not be cut again
//! ```
//!
//! A piece is bytes, named by the tokens that they belong to; what they mean is the business of who cuts them. A conversation
//! takes its bytes once, however often it is continued, and conversations that begin alike share what they begin with. What
//! goes wrong with the folder costs a line and what the folder remembers, never an answer.
//!
//! | file | holds |
//! |---|---|
//! | `name.rs` | names of prefixes and pieces: hashes in a chain |
//! | `piece.rs` | what is kept: blobs under tokens |
//! | `store.rs` | what sessions call |
//! | `state.rs` | what threads share, and the bound of memory |
//! | `index.rs` | which pieces there are, and which of them should go |
//! | `heat.rs` | how much they are used |
//! | `folder.rs` | what is in the folder, and who may write there |
//! | `writer.rs` | the thread that does |
//! | `file.rs` | the format, drawn in `docs/formats/kv.md` |
//! | `outside.rs` | the file system and the clock |
//! | `chores.rs` | what people do with a folder |
//! | `stats.rs` | what all that came to |
//! | `sim.rs` | for tests: a disk that fails when these say so |
#![forbid(unsafe_code)]

mod chores;
mod file;
mod folder;
mod heat;
mod index;
mod name;
mod outside;
mod piece;
#[cfg(test)]
mod sim;
mod state;
mod stats;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use chores::{About, Error, Listed, is_store, list, remove, verify};
pub use file::Refused;
pub use name::Name;
pub use piece::{Blob, Kind, Piece};
pub use stats::Stats;
pub use store::{Found, Lasting, Options, Store, Tail};

/// Tokens of a block.
pub const BLOCK: usize = 256;
