//! What clients of others' services say, one file each: a request becomes an [`Ask`](crate::ask::Ask), answers become replies.

use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod models;
mod sampling;
pub(crate) mod tokens;

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A name that nobody can guess.
pub(crate) fn new_id(kind: &str) -> String {
    format!("{kind}{:032x}", rand::random::<u128>())
}
