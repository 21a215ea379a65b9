//! The families of models: what is in their files, how a token becomes logits, how a conversation becomes text.
//!
//! | to see | read |
//! |---|---|
//! | the list of families, and what a model offers | `family.rs` |
//! | what a token costs | `cost.rs` |
//! | what a sequence leaves in memory | `memory.rs` |
//! | a forward pass | `llama/forward.rs`, `deepseek_v4/forward.rs` |
//! | how a file is checked | `hparams.rs`, `loader.rs`, and each family's `config.rs` and `weights.rs` |
//! | conversations | `chat.rs`, `deepseek_v4/chat/`, `template.rs`; whether to think: `wish.rs` |
//!
//! A model does not know which device runs it, nor of sessions and sampling.
#![forbid(unsafe_code)]

mod chat;
mod cost;
pub mod deepseek_v4;
mod error;
mod family;
mod hparams;
mod json;
mod llama;
mod loader;
mod memory;
mod rope;
mod template;
mod wish;

pub use chat::{
    Calls, Chat, ChatError, ChatOptions, Effort, End, Event, Events, Hold, Message, NotKept, Part, Role, Schema,
    Section, Syntax, Tool, ToolCall, show,
};
pub use cost::{Cost, Work};
pub use error::Error;
pub use family::{
    FAMILIES, Family, KvType, Model, N_LOGITS_MAX, Residency, Shape, State, StateOptions, open, open_chat,
};
pub use loader::is_expert;
pub use memory::CachePart;
pub use template::Template;
pub use wish::{EFFORTS, WishError, effort_named, grant};
