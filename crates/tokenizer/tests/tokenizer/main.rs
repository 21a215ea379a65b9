//! Real vocabularies, from `testdata/tokenizer`.

mod data;
mod gguf;
mod golden;
mod text;
