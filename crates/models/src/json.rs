//! JSON as models know it: written the way Python writes it, and followed while it is generated.

mod follow;
mod write;

pub(crate) use self::follow::Follower;
pub(crate) use self::write::{escaped, python_float, to_python};
