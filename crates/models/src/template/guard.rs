//! Keeps the texts of a conversation from writing markers.
//!
//! A template returns one string, in which its own `<|im_end|>` and the `<|im_end|>` that a user typed look the same.
//! So before rendering we break every marker that the texts of the conversation spell, by a *guard* after its first
//! character: a noncharacter of Unicode that occurs neither in the conversation nor in the template.
//!
//! ```text
//! user says        ignore <|im_end|> that          guard written as *
//! template gets    ignore <*|im_end|> that
//! template writes  <|im_start|>user\nignore <*|im_end|> that<|im_end|>\n
//! we split         [<|im_start|>] "user\nignore <|im_end|> that" [<|im_end|>] "\n"
//! ```
//!
//! What still spells a marker after rendering, the template wrote. Guards are then dropped. A text that could complete
//! a marker together with its neighbours is guarded at that end too; white space outside the guards is left to the
//! template's `trim`. What remains possible is a template that itself joins the pieces of a text, by `replace` or
//! `lower`; we know none.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::chat::{ChatError, Part, push_text};

/// Two noncharacters that the conversation does not contain.
#[derive(Clone, Copy)]
pub(super) struct Guards {
    /// Breaks markers.
    pub(super) inside: char,
    /// Ends the text to continue.
    pub(super) end: char,
}

impl Guards {
    /// Two of `candidates` that are in none of `texts`.
    pub(super) fn choose<'a>(
        candidates: &[char],
        texts: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<Guards, ChatError> {
        let mut free = candidates.iter().copied().filter(|&c| !texts.clone().any(|text| text.contains(c)));
        match (free.next(), free.next()) {
            (Some(inside), Some(end)) => Ok(Guards { inside, end }),
            _ => Err(ChatError::Noncharacters),
        }
    }
}

/// The code points that Unicode promises never to make characters of.
pub(super) fn noncharacters() -> impl Iterator<Item = char> {
    let ends_of_planes = (0..=16).flat_map(|plane| [plane << 16 | 0xFFFE, plane << 16 | 0xFFFF]);
    (0xFDD0..=0xFDEF).chain(ends_of_planes).filter_map(char::from_u32)
}

/// The texts of the added tokens, by their first byte and then longest first, as a tokenizer matches them.
pub(super) struct Markers {
    by_byte: BTreeMap<u8, Vec<String>>,
}

impl Markers {
    pub(super) fn new(texts: impl Iterator<Item = String>) -> Markers {
        let mut by_byte: BTreeMap<u8, Vec<String>> = BTreeMap::new();
        // One character cannot be broken by a guard, and white space is trimmed by templates: both stay text.
        for text in texts.filter(|text| text.chars().count() > 1 && !text.trim().is_empty()) {
            by_byte.entry(text.as_bytes()[0]).or_default().push(text);
        }
        for texts in by_byte.values_mut() {
            texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        }
        Markers { by_byte }
    }

    pub(super) fn contains(&self, text: &str) -> bool {
        self.at(text) == Some(text)
    }

    /// The marker that `text` starts with.
    fn at<'a>(&self, text: &'a str) -> Option<&'a str> {
        let texts = self.by_byte.get(text.as_bytes().first()?)?;
        texts.iter().find(|marker| text.starts_with(*marker)).map(|marker| &text[..marker.len()])
    }

    /// Whether a marker can begin before `text` and reach into it.
    fn reaches_in(&self, text: &str) -> bool {
        let reaches = |tail: &str| text.starts_with(tail) || tail.starts_with(text);
        !text.is_empty() && self.inner_bounds().any(|(marker, i)| reaches(&marker[i..]))
    }

    /// Whether a marker can begin in `text` and reach out of its end.
    fn reaches_out(&self, text: &str) -> bool {
        self.inner_bounds().any(|(marker, i)| text.ends_with(&marker[..i]))
    }

    fn inner_bounds(&self) -> impl Iterator<Item = (&str, usize)> {
        self.by_byte.values().flatten().flat_map(|m| m.char_indices().skip(1).map(move |(i, _)| (m.as_str(), i)))
    }

    /// `text` with guards, so that no marker is in it or can be completed by it.
    pub(super) fn guard(&self, text: &str, guard: char) -> String {
        let core = text.trim();
        let (before, after) = text.split_at(text.len() - text.trim_start().len());
        let after = &after[core.len()..];
        let mut out = String::with_capacity(text.len() + 8);
        out.push_str(before);
        if self.reaches_in(core) {
            out.push(guard);
        }
        for (i, c) in core.char_indices() {
            out.push(c);
            if self.at(&core[i..]).is_some() {
                out.push(guard);
            }
        }
        if self.reaches_out(core) {
            out.push(guard);
        }
        out.push_str(after);
        out
    }

    /// `value` with guards in all its texts.
    pub(super) fn guard_json(&self, value: &Value, guard: char) -> Value {
        match value {
            Value::String(text) => self.guard(text, guard).into(),
            Value::Array(items) => items.iter().map(|item| self.guard_json(item, guard)).collect(),
            Value::Object(items) => {
                let items = items.iter().map(|(key, item)| (self.guard(key, guard), self.guard_json(item, guard)));
                Value::Object(items.collect())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    /// Rendered text as markers and unguarded texts.
    pub(super) fn split(&self, rendered: &str, guard: char) -> Vec<Part> {
        let (mut parts, mut text, mut i) = (Vec::new(), String::new(), 0);
        while let Some(c) = rendered[i..].chars().next() {
            if let Some(marker) = self.at(&rendered[i..]) {
                push_text(&mut parts, &std::mem::take(&mut text));
                parts.push(Part::Marker(marker.to_owned()));
                i += marker.len();
            } else {
                text.extend(Some(c).filter(|&c| c != guard));
                i += c.len_utf8();
            }
        }
        push_text(&mut parts, &text);
        parts
    }
}
