//! Answers that are held to what may be called: a grammar in `llguidance`'s variant of Lark, which a family writes for its format.
//!
//! ```text
//! start: TEXT | BEFORE calls               what an answer may be
//! c0: "look\">\n" ...                      a tool
//! ... @s0 ...                              a value that is valid by a schema
//! ```
//!
//! Control tokens stand in it as markers do in prompts: as parts of their own, as nobody here knows their ids.

use serde_json::Value;

use super::{ChatOptions, Part, Tool, push_text};

/// The most bytes of rules and schemas together.
const BYTES_MAX: usize = 1 << 20;

/// What is generated, as a grammar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Syntax {
    /// From the rule `start` on. A marker is its one token, and `@name` one of `schemas`, or [`Syntax::ANSWER`].
    pub lark: Vec<Part>,
    /// What values are valid by.
    pub schemas: Vec<Schema>,
    /// It is of all that is generated. Else it begins behind the reasoning.
    pub is_raw: bool,
    /// Bytes of rules and schemas that were counted.
    n_counted: usize,
}

/// A schema of a tool's, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// What the grammar calls it.
    pub name: String,
    /// Which tool it is of; none if any object is valid.
    pub tool: Option<String>,
    /// The schema, as JSON text.
    pub text: String,
}

/// What answers are held to, beside [`ChatOptions`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Hold<'a> {
    /// An answer without calls is a sentence of [`Syntax::ANSWER`]. Else it is any text.
    pub text: bool,
    /// Tools whose arguments can be any, as no grammar can be made of their schema.
    pub loose: &'a [String],
}

/// A schema that calls cannot be held to, though they have to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the schema of `{tool}` cannot be kept to: {why}")]
pub struct NotKept {
    /// Whose schema.
    pub tool: String,
    /// What of it.
    pub why: String,
}

impl Syntax {
    /// What the grammar of answers without calls is called.
    pub const ANSWER: &str = "answer";

    /// How much text it is.
    pub fn n_bytes(&self) -> usize {
        let lark: usize = self.lark.iter().map(|part| part.as_str().len()).sum();
        lark + self.schemas.iter().map(|schema| schema.text.len()).sum::<usize>()
    }

    /// The name of a schema of `tool`'s.
    pub(crate) fn schema(&mut self, tool: Option<&Tool>, schema: &Value) -> String {
        let text = schema.to_string();
        let tool = tool.map(|tool| tool.name.clone());
        let name = format!("s{}", self.schemas.len());
        self.n_counted += text.len();
        self.schemas.push(Schema { name: name.clone(), tool, text });
        name
    }

    /// A rule that `write` writes.
    ///
    /// # Errors
    /// All rules and schemas are too much together: each schema has all that it refers to.
    pub(crate) fn counted(&mut self, write: impl FnOnce(&mut Syntax) -> String) -> Result<String, String> {
        let rule = write(self);
        self.n_counted += rule.len();
        match self.n_counted > BYTES_MAX {
            true => Err(format!("with all that is referred to it is more than {} MiB", BYTES_MAX >> 20)),
            false => Ok(rule),
        }
    }

    /// How far it is.
    pub(crate) fn mark(&self) -> (usize, usize) {
        (self.schemas.len(), self.n_counted)
    }

    /// Forgets the schemas that have come, and what was counted, since then.
    pub(crate) fn go_back(&mut self, (n_schemas, n_counted): (usize, usize)) {
        self.schemas.truncate(n_schemas);
        self.n_counted = n_counted;
    }

    /// The grammar, in which each of these signs is a marker. [`quoted`] texts have none of them.
    pub(crate) fn write(&mut self, lark: &str, signs: &[(char, &str)]) {
        let mut text = String::new();
        for c in lark.chars() {
            match signs.iter().find(|(sign, _)| *sign == c) {
                Some((_, marker)) => {
                    push_text(&mut self.lark, &std::mem::take(&mut text));
                    self.lark.push(Part::Marker((*marker).to_owned()));
                }
                None => text.push(c),
            }
        }
        push_text(&mut self.lark, &text);
    }
}

/// The tools that may be called: those that are to be, if some are.
pub(crate) fn callable(options: &ChatOptions) -> Vec<&Tool> {
    options.shown_tools().iter().filter(|tool| options.may_call(&tool.name)).collect()
}

/// A text as a word of Lark, in ASCII: in which no sign of ours occurs.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::new();
    for c in Value::from(text).to_string().chars() {
        match c.is_ascii() {
            true => out.push(c),
            false => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    out
}

/// The rules `r0`, `r1`, ... as alternatives.
pub(crate) fn alternatives(rule: &str, n: usize) -> String {
    (0..n).map(|i| format!("{rule}{i}")).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_ascii() {
        assert_eq!(quoted("a\"§\n𝄞"), r#""a\"\u00a7\n\ud834\udd1e""#);
    }

    #[test]
    fn signs_become_markers() {
        let mut syntax = Syntax::default();
        syntax.write("start: § \"a\" §", &[('§', "<x>")]);
        let text = |text: &str| Part::Text(text.into());
        let marker = || Part::Marker("<x>".into());
        assert_eq!(syntax.lark, [text("start: "), marker(), text(" \"a\" "), marker()]);
    }
}
