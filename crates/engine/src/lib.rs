//! To be written.

#![forbid(unsafe_code)]

mod sampler;

pub use sampler::{Sampler, SamplerError, SamplerOptions};
