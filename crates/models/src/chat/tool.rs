//! Tools: what a program offers, what the model calls.

use serde_json::{Map, Value};

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// What it is called by.
    pub name: String,
    /// All that is declared of it, `name` included: the `function` object of OpenAI's API, keys in the client's order.
    /// The prompt shows it as it is.
    pub function: Map<String, Value>,
    /// Its arguments have to be valid by its schema. Others are as far as a grammar can be made of theirs.
    pub strict: bool,
}

/// One call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// What its result is matched by; no model sees it.
    pub id: String,
    /// Which tool.
    pub name: String,
    /// The JSON text of an object, as it came. Clients send back what models write, so it may be anything.
    pub arguments: String,
}

/// Whether the next answer is to call a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Calls {
    /// As the model likes.
    #[default]
    Auto,
    /// It does not: the prompt shows no tools, and the answer is read as text.
    Never,
    /// It does, and where there is a name, that tool. A prompt can only begin the call: [`Chat::syntax`](super::Chat::syntax) makes it certain.
    Must(Option<String>),
}
