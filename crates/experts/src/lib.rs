//! Experts that do not fit into memory: read from the file when a token needs them, and kept while they are worth it.
//!
//! ```text
//! Store::ask(layer, choices)      what a batch chose, ascending; reads of what is missing are queued at once
//! Ask::each(bank -> ...)          one bank after another, as experts land: those here are computed while others are read
//!
//! a slot    | gate | up | down |      one expert of one layer, each part on a page, at the file's own alignment
//! an arena  | slot | slot | ... |     taken at once, or in steps; a read owns its slot, a bank shares it, and nobody else writes to it
//! ```
//!
//! The arena is the hard bound: a read needs a free slot, so what is resident never exceeds what was said at the start.
//! Answers do not depend on what is cached, since experts are added in ascending order, whatever lands first.
//!
//! | file | holds |
//! |---|---|
//! | `arena.rs` | the memory, cut into slots |
//! | `places.rs` | where in which file an expert is, and where in a slot it goes |
//! | `io/` | reads past the page cache, in parts, tried again; says what failed |
//! | `heat.rs` | which expert is worth its slot |
//! | `ranked.rs` | a set of experts in an order |
//! | `growth.rs` | how large the arena should be |
//! | `hotlist.rs` | which experts were worth theirs in earlier runs |
//! | `table.rs` | who is where, and who may have to go |
//! | `store.rs` | the experts of all layers, read when chosen or ahead of that |
//! | `ask.rs` | how a batch gets what it chose |
//! | `trial.rs` | whether reading ahead on a guess pays |
//! | `stats.rs` | what all that took |
//! | `trace/` | records of what was chosen, as files |
//! | `script.rs` | such a record in the place of routers |
//! | `routing.rs` | where a forward pass meets all of this |
//! | `replay/` | what other rules would have read |
//! | `hand.rs` | for tests: reads that end when these say so |
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "slots are parts of one mapping")]
mod arena;
mod ask;
mod growth;
#[cfg(test)]
mod hand;
mod heat;
mod hotlist;
mod io;
mod places;
mod ranked;
pub mod replay;
mod routing;
mod script;
mod stats;
mod store;
mod table;
pub mod trace;
mod trial;

pub use ask::{Ask, Turn};
pub use hotlist::{Hotlist, NoHotlist};
pub use io::{Probe, ReadError};
pub use places::{Matrix, Places};
pub use routing::Routing;
pub use script::Script;
pub use stats::Stats;
pub use store::{Foresight, Room, Store};

#[cfg(test)]
extern crate self as experts;
#[cfg(test)]
#[allow(dead_code, reason = "what is tested from outside needs the rest")]
#[path = "../tests/common/mod.rs"]
mod common;
