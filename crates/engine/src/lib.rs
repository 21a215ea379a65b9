//! Models that run: a file is opened, memory is planned, and sessions hold conversations.
//!
//! ```text
//! Engine::open   maps the file, binds the weights to a device, reads the vocabulary
//! Engine::plan   what a session of so many tokens will take, before it is taken
//! Session        one timeline of tokens: sync, push, logits, rewind; several compute together
//! Seats          who gets which of these sessions, first come, first served
//! Sampler        logits -> the next token
//! answer         the loop of the two, with text and events coming out, held to a Grammar if so asked
//! ```
//!
//! The engine knows no terminal and no network.
#![forbid(unsafe_code)]

mod answer;
mod devices;
mod engine;
mod error;
mod folder;
mod held;
mod identity;
mod keeper;
mod ledger;
mod logprobs;
mod loops;
mod machine;
mod picker;
mod pieces;
mod plan;
mod reader;
mod reasoning;
mod repeats;
mod runner;
mod sampler;
mod seam;
mod seats;
mod secret;
mod session;
mod stop;
mod teller;
mod turns;
mod written;

pub use answer::{Answer, AnswerOptions, Stop, answer};
pub use compute::{DeviceError, Limits};
pub use engine::{Budget, Engine, Experts, Kept, Learning, Loading, ModelInfo, Options};
pub use error::Error;
pub use experts::Stats;
pub use grammar::{Error as GrammarError, Grammar, Source};
pub use kv::Stats as KeptStats;
pub use ledger::{Ledger, Traffic};
pub use logprobs::{Logprobs, Token};
pub use machine::memory_bytes;
pub use models::{Cost, KvType, Work};
pub use plan::{Arena, Plan};
pub use sampler::{BIAS_FORBIDS, Sampler, SamplerError, SamplerOptions, sampling_key};
pub use seats::{Seat, Seats};
pub use secret::kept_key;
pub use session::{Prefill, Session, Synced};
pub use turns::Load;
