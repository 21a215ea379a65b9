//! Hugging Face folders against what their GGUF holds: the same numbers, the same answers, and a line for what is wrong.

#[path = "../common/mod.rs"]
mod common;

mod broken;
mod golden;
mod tokenizer;
mod v4;
