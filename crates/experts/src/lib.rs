//! Experts that do not fit into memory: read from the file when a token needs them, and kept while they are worth it.
//!
//! ```text
//! Store::ask(layer, choices)      what a batch chose, ascending; reads of what is missing are queued at once
//! Ask::each(bank -> ...)          one bank after another, as experts land: those here are computed while others are read
//!
//! a slot    | gate | up | down |      one expert of one layer, each part on a page, at the file's own alignment
//! an arena  | slot | slot | ... |     taken once; a read owns its slot, a bank shares it, and nobody else writes to it
//! ```
//!
//! The arena is the hard bound: a read needs a free slot, so what is resident never exceeds what was said at the start.
//! Answers do not depend on what is cached, since experts are added in ascending order, whatever lands first.
//!
//! | file | holds |
//! |---|---|
//! | `arena.rs` | the memory, cut into slots |
//! | `places.rs` | where in which file an expert is, and where in a slot it goes |
//! | `reader.rs` | threads that read past the page cache, try again, and say what failed |
//! | `heat.rs` | which expert is worth its slot |
//! | `store.rs` | who is where, and how a batch gets what it chose |
//! | `trace/` | records of what was chosen, as files |
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "slots are parts of one mapping")]
mod arena;
mod heat;
mod places;
mod reader;
mod store;
pub mod trace;

pub use places::{Matrix, Places};
pub use reader::ReadError;
pub use store::{Ask, Stats, Store};
