//! A block of calls, read tag by tag.
//!
//! Between two tokens [`DSML`] stands the rest of a tag, what is behind it, and the `<` or `</` of the next one:
//!
//! ```text
//! <* tool_calls>\n< * invoke name="w">\n< * parameter name="city" string="true">Roma</ * parameter>\n</ * invoke>...
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use super::DSML;
use crate::chat::Event;
use crate::json::{Follower, escaped};

/// Names are shorter, and what is longer is none.
const TAG_BYTES_MAX: usize = 4096;

/// What was read is no block of calls.
#[derive(Debug)]
pub(super) struct Broken;

/// How far a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More of it has to come.
    Open,
    /// It has ended.
    Closed,
}

/// A block that is being read.
pub(super) struct Block {
    at: At,
    /// Behind `<*`, or `</*` where it is true, the rest of a tag is in `held`.
    tag: Option<bool>,
    /// What is not yet decided; once the block has ended, what is behind it.
    pub(super) held: String,
    /// What was written since the block began, or since its last complete call.
    pub(super) raw: String,
    /// How many calls of the answer have been told of.
    pub(super) n_calls: usize,
    /// What may be called.
    names: Arc<[String]>,
    /// The call that has begun and was not told of yet: a name by itself is no call that anybody should hear of.
    head: Option<String>,
    /// Whether a call has been named, whatever it is called.
    names_one: bool,
    /// The parameters of the last call.
    keys: BTreeSet<String>,
}

/// What surrounds us.
enum At {
    /// Nothing yet: the block's own tag is being read.
    Start,
    /// `tool_calls`.
    Calls,
    /// `invoke`.
    Call,
    /// `parameter`, and a text.
    Text,
    /// `parameter`, and JSON.
    Json(Follower),
}

/// A tag, without its `<*` or `</*`.
enum Tag {
    Calls,
    Call { name: String },
    Parameter { key: String, is_text: bool },
    EndParameter,
    EndCall,
    EndCalls,
}

/// What the rest of a tag is.
enum Head {
    /// The beginning of one that may stand here.
    Begun,
    /// It, and how many bytes it has.
    Tag(Tag, usize),
    /// None that may stand here.
    None,
}

impl Block {
    /// A block that has begun with `raw`, the `<*` of its tag included.
    pub(super) fn new(raw: String, n_calls: usize, names: Arc<[String]>) -> Block {
        let (held, keys) = (String::new(), BTreeSet::new());
        Block { at: At::Start, tag: Some(false), held, raw, n_calls, names, head: None, names_one: false, keys }
    }

    /// Whether it was to be a block of calls, rather than words about one: in an answer once its own tag is complete, in
    /// reasoning once a call is named.
    pub(super) fn is_meant(&self, answers: bool) -> bool {
        self.names_one || answers && !matches!(self.at, At::Start)
    }

    /// It goes on with `text`.
    ///
    /// # Errors
    ///
    /// It does not; all of it since its last complete call is in `raw`.
    pub(super) fn text(&mut self, text: &str, events: &mut Vec<Event>) -> Result<Progress, Broken> {
        self.raw.push_str(text);
        self.held.push_str(text);
        if let Some(closing) = self.tag {
            match self.head(closing) {
                Head::Begun if self.held.len() <= TAG_BYTES_MAX => return Ok(Progress::Open),
                Head::Tag(tag, len) if len <= TAG_BYTES_MAX => {
                    self.held.drain(..len);
                    self.tag = None;
                    if self.enter(tag, events)? == Progress::Closed {
                        return Ok(Progress::Closed);
                    }
                }
                Head::None if self.is_value() => self.go_on_with_value(events)?,
                _ => return Err(Broken),
            }
        }
        self.read_between(events)?;
        Ok(Progress::Open)
    }

    /// It goes on with the token [`DSML`].
    ///
    /// # Errors
    ///
    /// As [`Block::text`].
    pub(super) fn dsml(&mut self, events: &mut Vec<Event>) -> Result<Progress, Broken> {
        self.raw.push_str(DSML);
        match (self.tag, self.held.trim_ascii_start()) {
            // In a value everything is text but the beginning of its end.
            _ if self.is_value() && (self.tag.is_some() || self.held != "</") => {
                self.go_on_with_value(events)?;
                let held = std::mem::take(&mut self.held);
                self.value(&(held + DSML), events)?;
            }
            (None, "<") => self.begin_tag(false),
            (None, "</") => self.begin_tag(true),
            _ => return Err(Broken),
        }
        Ok(Progress::Open)
    }

    /// It is cut short here.
    pub(super) fn cut(mut self, events: &mut Vec<Event>) {
        if self.tag.is_none() && self.is_value() {
            let held = std::mem::take(&mut self.held);
            // Whether it is JSON no longer matters.
            let _ = self.value(&held, events);
        }
    }

    fn begin_tag(&mut self, closing: bool) {
        self.tag = Some(closing);
        self.held.clear();
    }

    fn is_value(&self) -> bool {
        matches!(self.at, At::Text | At::Json(_))
    }

    /// What looked like the beginning of its end is part of a value.
    fn go_on_with_value(&mut self, events: &mut Vec<Event>) -> Result<(), Broken> {
        match self.tag.take() {
            Some(_) => self.value(&["</", DSML].concat(), events),
            None => Ok(()),
        }
    }

    /// Reads what stands between two tags, as far as it is decided.
    fn read_between(&mut self, events: &mut Vec<Event>) -> Result<(), Broken> {
        if !self.is_value() {
            return if ["", "<", "</"].contains(&self.held.trim_ascii_start()) { Ok(()) } else { Err(Broken) };
        }
        let held = std::mem::take(&mut self.held);
        let value = held.strip_suffix("</").or(held.strip_suffix('<')).unwrap_or(&held);
        self.value(value, events)?;
        held[value.len()..].clone_into(&mut self.held);
        Ok(())
    }

    fn enter(&mut self, tag: Tag, events: &mut Vec<Event>) -> Result<Progress, Broken> {
        let previous = std::mem::replace(&mut self.at, At::Calls);
        match tag {
            Tag::Calls => {}
            Tag::Call { name } => {
                self.names_one = true;
                if !self.names.contains(&name) {
                    return Err(Broken);
                }
                self.at = At::Call;
                self.keys.clear();
                self.head = Some(name);
            }
            Tag::Parameter { key, is_text } => {
                self.tell_head(events);
                self.at = if is_text { At::Text } else { At::Json(Follower::default()) };
                let comma = if self.keys.is_empty() { "{" } else { ", " };
                let quote = if is_text { "\"" } else { "" };
                self.arguments(format!("{comma}\"{}\": {quote}", escaped(&key)), events);
                // JSON has a key once.
                if !self.keys.insert(key) {
                    return Err(Broken);
                }
            }
            Tag::EndParameter => {
                self.at = At::Call;
                match previous {
                    At::Json(follower) if follower.is_whole() => {}
                    At::Json(_) => return Err(Broken),
                    _ => self.arguments("\"".to_owned(), events),
                }
            }
            Tag::EndCall => {
                self.tell_head(events);
                self.arguments(if self.keys.is_empty() { "{}" } else { "}" }.to_owned(), events);
                events.push(Event::ToolEnd { index: self.n_calls - 1 });
                self.raw.clone_from(&self.held);
            }
            Tag::EndCalls => return Ok(Progress::Closed),
        }
        Ok(Progress::Open)
    }

    /// Tells of the call that has begun, if nobody did.
    fn tell_head(&mut self, events: &mut Vec<Event>) {
        if let Some(name) = self.head.take() {
            events.push(Event::ToolStart { index: self.n_calls, name });
            self.n_calls += 1;
        }
    }

    /// More of a parameter's value.
    fn value(&mut self, text: &str, events: &mut Vec<Event>) -> Result<(), Broken> {
        let At::Json(follower) = &mut self.at else {
            self.arguments(escaped(text), events);
            return Ok(());
        };
        // Of a character it is the first byte that breaks the rules.
        let broken = text.bytes().position(|byte| follower.push(byte).is_err());
        self.arguments(text[..broken.unwrap_or(text.len())].to_owned(), events);
        broken.map_or(Ok(()), |_| Err(Broken))
    }

    fn arguments(&self, json: String, events: &mut Vec<Event>) {
        if !json.is_empty() {
            events.push(Event::ToolArguments { index: self.n_calls - 1, json });
        }
    }

    /// The tag that `held` begins with.
    fn head(&self, closing: bool) -> Head {
        match (&self.at, closing) {
            (At::Start, false) => plain(&self.held, "tool_calls>", Tag::Calls),
            (At::Calls, true) => plain(&self.held, "tool_calls>", Tag::EndCalls),
            (At::Call, true) => plain(&self.held, "invoke>", Tag::EndCall),
            (At::Text | At::Json(_), true) => plain(&self.held, "parameter>", Tag::EndParameter),
            (At::Calls, false) => named(&self.held, "invoke name=\"", &["\">"], |name, _| Tag::Call { name }),
            (At::Call, false) => {
                let ends = ["\" string=\"true\">", "\" string=\"false\">"];
                named(&self.held, "parameter name=\"", &ends, |key, end| Tag::Parameter { key, is_text: end == 0 })
            }
            (At::Start, true) | (At::Text | At::Json(_), false) => Head::None,
        }
    }
}

fn plain(held: &str, whole: &str, tag: Tag) -> Head {
    match held {
        _ if held.starts_with(whole) => Head::Tag(tag, whole.len()),
        _ if whole.starts_with(held) => Head::Begun,
        _ => Head::None,
    }
}

/// A tag with a name between `begin` and the first of `ends`, whose number `tag` is told, too.
fn named(held: &str, begin: &str, ends: &[&str], tag: impl Fn(String, usize) -> Tag) -> Head {
    let Some(rest) = held.strip_prefix(begin) else {
        return if begin.starts_with(held) { Head::Begun } else { Head::None };
    };
    match ends.iter().enumerate().filter_map(|(i, end)| Some((rest.find(end)?, i))).min() {
        Some((at, i)) => Head::Tag(tag(rest[..at].to_owned(), i), begin.len() + at + ends[i].len()),
        None => Head::Begun,
    }
}
