//! Real vocabularies, from `testdata/tokenizer`.

mod data;
mod golden;
mod text;
