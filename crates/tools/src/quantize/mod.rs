//! A source packed by a recipe: planned, then written by several threads, in pieces of some rows.
//!
//! ```text
//! OUT.partial         header, and every tensor at the place that the plan gives it
//! OUT.partial.state   what is being made (a hash), and how many tensors are complete on the disk
//! ```
//!
//! A piece is read, packed and written by one thread, so memory is a few pieces per thread, whatever the model's size.
//! The bytes depend neither on threads nor on the machine, nor on how large pieces are. A run that was interrupted, killed,
//! out of space, or kept from reading is gone on with by the next one for the same source, recipe and importance; a source
//! that is broken leaves nothing. The file has its name when it is complete.

mod error;
mod guide;
mod plan;
mod run;
mod state;

pub use error::Error;
pub use guide::Guide;
pub use plan::{Plan, Planned};
pub use run::{Done, Options, Steps, run};
pub use state::names;

use quant::Format;

/// Whether a format is so coarse that some importance is better than none: then a column's is the sum of its squares, as
/// in ds4's quantiser.
fn wants_importance(format: Format) -> bool {
    matches!(format, Format::IQ2_XXS | Format::IQ2_XS | Format::IQ2_S)
}
