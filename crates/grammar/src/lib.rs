//! Answers in a form that was asked for: which tokens may come next, so that what comes out is JSON of a schema, a match
//! of a regular expression, or a sentence of a grammar.
//!
//! ```text
//! Tokenizer --Vocabulary::new--> Vocabulary    the bytes of all tokens as a trie; once per model
//! Source  --Vocabulary::compile--> Grammar     checked against the limits below; once per request
//! Grammar --Grammar::start--> Constraint       one running answer: mask, accept, may_end, must_end
//! ```
//!
//! Grammars are the `llguidance` crate's: an Earley parser over a lexer of regular expressions with derivatives, that walks
//! the trie. Around it is ours what a server needs: limits that a request cannot get past, and errors that name them.
//!
//! - **A token is allowed if its bytes are**, wherever they cut the grammar's own words: `"},` is allowed where `"` may
//!   close a string, `}` an object, and a comma may follow. Nothing prefers one way of cutting text into tokens.
//! - **A control token is allowed only where a grammar names it**: in Lark as `<[128822]>` by its id, or as
//!   `<|tool|>` if that is what it reads. Text never matches one.
//! - **A keyword of JSON Schema that is not kept is refused by name.** What is no keyword of it is an annotation, as the
//!   specification has it, and so are the formats of numbers. Nothing is fetched: a `$ref` leads into its own schema.
//! - **Between the words of JSON there may be a space, or a newline and indentation**; so a model cannot go on with white
//!   space for ever. Properties come in the order of the schema.
//!
//! Compiling takes a thread of its own, for the stack of nested grammars, and at most [`COMPILE_SECONDS`], behind others that are compiled.
#![forbid(unsafe_code)]

mod constraint;
mod error;
mod schema;
mod set;
mod vocabulary;

pub use constraint::{Constraint, Grammar};
pub use error::Error;
pub use set::TokenSet;
pub use vocabulary::{COMPILE_SECONDS, Source, TURN_SECONDS, Vocabulary};
