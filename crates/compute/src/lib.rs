//! Where models and machines meet: tensors, the operations a machine must offer, and what each of them means.
//!
//! [`Device`] is the list of operations at the level of the paper; every one has a default body, the loop in
//! [`reference`] that defines it, run on the host. A device that offers nothing but memory ([`Reference`]) therefore
//! computes every model, slowly and correctly; a backend overrides what it can do faster, and
//! [`conformance`] holds it to the definition. This crate has never heard of models, files or tokens.
#![forbid(unsafe_code)]

mod bank;
pub mod conformance;
mod device;
mod meter;
pub mod reference;
pub mod shapes;
mod step;
mod tensor;
mod watch;

pub use bank::{Bank, Expert};
pub use device::{
    Attention, Chooser, Compressed, Compressor, Device, DeviceError, Gating, HostBytes, Hyper, Latent, Limits, Memory,
    Pairs, Rope, Router,
};
pub use meter::{Counts, Meter};
pub use reference::Reference;
pub use step::{Row, Step};
pub use tensor::{Buffer, F32, Kind, Tensor};
pub use watch::{Seen, Watched, Watcher};
