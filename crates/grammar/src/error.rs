//! What can be wrong with a grammar, and with what is made of it.

use std::fmt::Display;

/// Why a grammar is refused, or cannot go on. All but [`Error::Vocabulary`] and [`Error::Busy`] blame the grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The tokens cannot be put into a trie.
    #[error("the vocabulary is of no use for grammars: {0}")]
    Vocabulary(String),

    /// There is more of something than is accepted.
    #[error("{what}: {found}; at most {max} are accepted")]
    Limit {
        /// What there is too much of, and where.
        what: String,
        /// How much there is.
        found: u64,
        /// How much there may be.
        max: u64,
    },

    /// The schema is not JSON.
    #[error("the schema is not JSON: {0}")]
    Json(String),

    /// A keyword that answers cannot be held to.
    #[error("`{keyword}` at `{at}` is not supported{why}")]
    Unsupported {
        /// The keyword of JSON Schema.
        keyword: String,
        /// Where the schema with it is, as a JSON pointer.
        at: String,
        /// In which case, if not in all.
        why: &'static str,
    },

    /// A reference to another document.
    #[error("`$ref` to `{0}`: references must lead into the schema itself, as in `#/$defs/name`; nothing is fetched")]
    Reference(String),

    /// It cannot be made into a grammar, in the words of the library.
    #[error("{0}")]
    Refused(String),

    /// It took too long to compile.
    #[error("the grammar takes more than {seconds} s to compile")]
    Slow {
        /// How long was waited.
        seconds: u64,
    },

    /// Others' grammars are being compiled all the time.
    #[error("other grammars are being compiled")]
    Busy,

    /// Neither a token nor the end may come next.
    #[error("the grammar allows no token here")]
    DeadEnd,

    /// What may come next could not be found out within bounds.
    #[error("the grammar is too complex: {0}")]
    Complex(String),
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Vocabulary(_) => "ask for an answer without a grammar, or take another model",
            Error::Limit { .. } | Error::Slow { .. } | Error::Complex(_) => "ask for something simpler",
            Error::Json(_) => "give the schema as one JSON object",
            Error::Unsupported { .. } => "leave the keyword out, and check the answer for it",
            Error::Reference(_) => "put what is referred to under `$defs`",
            Error::Refused(_) => "write it in another way",
            Error::Busy => "try again later",
            Error::DeadEnd => "see that every alternative can be completed with the tokens of the model",
        }
    }
}

/// The longest words of the library that are passed on.
const LINE_CHARS: usize = 300;

/// An error of the library in one line: its chain of causes, without what it dumps of itself.
pub(crate) fn line(error: &dyn Display) -> String {
    let text = format!("{error:#}");
    let text = text.split("\n<").next().unwrap_or_default();
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(LINE_CHARS) {
        line.replace_range(end.., "...");
    }
    line
}
