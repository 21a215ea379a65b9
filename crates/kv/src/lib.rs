//! What is remembered of token prefixes, in memory and on disk, so that no token is computed twice.
//!
//! ```text
//! Store::find(ids)      which blocks are there without a gap, and behind which tokens one can go on
//! Store::load(name)     a piece, whole and as it was kept, or nothing
//! Store::keep(piece)    in memory at once; on disk soon, or at the end
//! ```
#![forbid(unsafe_code)]

mod name;
mod piece;
mod stats;
mod store;

pub use name::Name;
pub use piece::{Blob, Kind, Piece};
pub use stats::Stats;
pub use store::{Found, Lasting, Options, Store, Tail};

/// Tokens of a block.
pub const BLOCK: usize = 256;
