//! How numbers are packed: the weight formats of GGUF files, one file each, and the formats of cached rows.
//!
//! ```text
//! Format      F32 F16 BF16 | Q4_0 ... Q8_0 | Q2_K ... Q6_K | IQ1_S ... IQ4_XS | TQ* | MXFP4
//!             weights: whole blocks of 1, 32 or 256 values, decoded exactly as ggml decodes them
//! RowFormat   F32 F16 Fp8 Fp4
//!             rows of a KV cache, built of the roundings in `fp8` and `fp4`
//! ```
//!
//! Everything here is safe, and defines what the kernels elsewhere have to compute: the same on every processor, though
//! encoders are compiled for its registers. `search` finds scales. Any bytes can be decoded: a broken file gives wrong
//! numbers, never a panic.
#![forbid(unsafe_code)]
#![allow(clippy::redundant_closure, reason = "closures are inlined for sure, names of functions are not")]

mod bits;
mod codebook;
mod float;
mod format;
pub mod fp4;
pub mod fp8;
mod grid;
mod hadamard;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod rows;
mod scale;
mod search;
mod tq1_0;
mod tq2_0;

pub use codebook::sign_byte;
pub use format::{ENCODERS, Encode, FORMATS, Format};
pub use fp4::E2M1;
pub use hadamard::hadamard;
pub use iq2_s::{IQ2_S_GRID, IQ2_S_ROWS};
pub use iq2_xs::{IQ2_XS_GRID, IQ2_XS_ROWS};
pub use iq2_xxs::{IQ2_XXS_GRID, IQ2_XXS_ROWS};
pub use iq3_s::{IQ3_S_GRID, IQ3_S_ROWS};
pub use iq3_xxs::{IQ3_XXS_GRID, IQ3_XXS_ROWS};
pub use iq4_nl::IQ4_NL_LEVELS;
pub use rows::RowFormat;
