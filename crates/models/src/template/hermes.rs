//! Calls as Hermes 2 Pro writes them, and Qwen2.5 and Qwen3 after it.
//!
//! ```text
//! text\n<tool_call>\n{"name": "w", "arguments": {"city": "Roma"}}\n</tool_call>\n<tool_call>...
//! ```
//!
//! The tags may be markers of the vocabulary, or spelled by ordinary tokens: models of one family do both. Newlines
//! around calls belong to the format. A call is complete with its object; what breaks its rules, or calls what is no tool,
//! is given back as text, tag included. A call is told of with its first argument or its end: one that broke off, or was
//! cut short, stays without an end, or is not heard of.

use std::sync::Arc;

use crate::chat::{Event, Events, Part, Section, ThinkReader, begun_at};
use crate::json::Follower;

pub(super) const BEGIN: &str = "<tool_call>";
pub(super) const END: &str = "</tool_call>";

/// The tag that results are in.
pub(super) const RESULT: &str = "tool_response";

/// Whether a template writes calls like this. One that writes `<function=` has tags inside of the tag.
pub(super) fn is_written_by(template: &str) -> bool {
    template.contains("tools") && template.contains(BEGIN) && !template.contains("<function=")
}

/// Reads reasoning, text and calls.
pub(super) struct CallReader {
    think: ThinkReader,
    at: At,
    /// Newlines, and what may be a tag.
    held: String,
    /// Behind a call newlines are dropped.
    fresh: bool,
    /// How many calls have been told of.
    n_calls: usize,
    /// What may be called.
    names: Arc<[String]>,
    /// Whether what was meant as a call came to nothing.
    broke: bool,
}

enum At {
    Text,
    /// Behind the tag that begins a call.
    Call(Call),
    /// Behind its object.
    End,
}

impl CallReader {
    /// What `think` finds to be the answer may contain calls of these tools.
    pub(super) fn new(think: ThinkReader, names: Arc<[String]>) -> CallReader {
        CallReader { think, at: At::Text, held: String::new(), fresh: false, n_calls: 0, names, broke: false }
    }

    fn emit(&mut self, text: &str, events: &mut Vec<Event>) {
        let text = if self.fresh { text.trim_start_matches('\n') } else { text };
        if !text.is_empty() {
            self.fresh = false;
            events.push(Event::Text(text.to_owned()));
        }
    }

    /// Passes reasoning on, and reads calls in text.
    fn sort(&mut self, found: Vec<Event>) -> Vec<Event> {
        let mut events = Vec::new();
        for event in found {
            match event {
                Event::Text(text) => self.read(&text, &mut events),
                other => events.push(other),
            }
        }
        events
    }

    fn read(&mut self, mut text: &str, events: &mut Vec<Event>) {
        while !text.is_empty() {
            text = match self.at {
                At::Text => self.read_text(text, events),
                At::Call(_) => self.read_call(text, events),
                At::End => self.read_end(text, events),
            };
        }
    }

    /// Returns what is left to read.
    fn read_text<'a>(&mut self, text: &'a str, events: &mut Vec<Event>) -> &'a str {
        let all = std::mem::take(&mut self.held) + text;
        let tag = all.find(BEGIN);
        let begun = tag.unwrap_or_else(|| begun_at(&all, BEGIN));
        let decided = all[..begun].trim_end_matches('\n');
        self.emit(decided, events);
        let Some(tag) = tag else {
            all[decided.len()..].clone_into(&mut self.held);
            return "";
        };
        let behind = tag + BEGIN.len();
        self.at = At::Call(Call::new(&all[decided.len()..behind], self.names.clone()));
        &text[text.len() - (all.len() - behind)..]
    }

    fn read_call<'a>(&mut self, text: &'a str, events: &mut Vec<Event>) -> &'a str {
        let At::Call(call) = &mut self.at else { return text };
        for (i, c) in text.char_indices() {
            match call.push(c, self.n_calls, events) {
                Ok(false) => {}
                Ok(true) => {
                    (self.at, self.fresh) = (At::End, true);
                    self.n_calls += 1;
                    return &text[i + c.len_utf8()..];
                }
                Err(NoCall) => {
                    let raw = std::mem::take(&mut call.raw);
                    self.n_calls += usize::from(call.is_told);
                    self.broke |= call.is_meant();
                    self.at = At::Text;
                    self.emit(&raw, events);
                    return &text[i..];
                }
            }
        }
        ""
    }

    fn read_end<'a>(&mut self, text: &'a str, events: &mut Vec<Event>) -> &'a str {
        for (i, c) in text.char_indices() {
            self.held.push(c);
            let tag = self.held.trim_start();
            if tag == END {
                self.held.clear();
                self.at = At::Text;
                return &text[i + c.len_utf8()..];
            }
            if !END.starts_with(tag) {
                self.at = At::Text;
                let held = std::mem::take(&mut self.held);
                self.read_text(&held, events);
                return &text[i + c.len_utf8()..];
            }
        }
        ""
    }
}

impl Events for CallReader {
    fn text(&mut self, text: &str) -> Vec<Event> {
        let found = self.think.text(text);
        self.sort(found)
    }

    fn marker(&mut self, marker: &str) -> Vec<Event> {
        let found = match self.at {
            At::Call(_) => vec![Event::Text(marker.to_owned())],
            At::Text | At::End => self.think.marker(marker),
        };
        self.sort(found)
    }

    fn section(&self) -> Section {
        self.think.section()
    }

    fn end_of_reasoning(&self, at_once: bool) -> Vec<Part> {
        self.think.end_of_reasoning(at_once)
    }

    fn finish(&mut self) -> Vec<Event> {
        let found = self.think.finish();
        let mut events = self.sort(found);
        match &self.at {
            At::Text => {
                let held = std::mem::take(&mut self.held);
                self.emit(&held, &mut events);
            }
            At::Call(call) => self.broke |= call.is_meant(),
            At::End => {}
        }
        events
    }

    fn broke(&self) -> bool {
        self.broke
    }
}

/// The object of a call, while it is generated.
struct Call {
    /// All that was written since the newlines before the tag.
    raw: String,
    next: Next,
    /// The JSON text of the key or the value that is being read.
    json: String,
    name: Option<String>,
    /// Whether there are arguments, and those that came before the name.
    arguments: Option<String>,
    /// What may be called.
    names: Arc<[String]>,
    /// Whether it was told of.
    is_told: bool,
}

/// This is no call.
struct NoCall;

enum Next {
    Object,
    KeyOrEnd,
    Key,
    KeyText(Follower),
    Colon(Key),
    Value(Key, Follower),
    CommaOrEnd,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Name,
    Arguments,
    Other,
}

impl Call {
    fn new(raw: &str, names: Arc<[String]>) -> Call {
        let (raw, json) = (raw.to_owned(), String::new());
        Call { raw, next: Next::Object, json, name: None, arguments: None, names, is_told: false }
    }

    /// Whether it was to be a call, rather than words about one.
    fn is_meant(&self) -> bool {
        !matches!(self.next, Next::Object)
    }

    /// More of the arguments, behind the head, if nobody heard of that.
    fn tell(&mut self, index: usize, more: &str, events: &mut Vec<Event>) {
        if let Some(name) = self.name.as_ref().filter(|_| !self.is_told && !more.is_empty()) {
            events.push(Event::ToolStart { index, name: name.clone() });
            self.is_told = true;
        }
        tell_arguments(index, more, events);
    }

    /// The object goes on with `c`. Returns whether it has ended.
    fn push(&mut self, c: char, index: usize, events: &mut Vec<Event>) -> Result<bool, NoCall> {
        if let Next::Value(key, value) = &self.next
            && value.is_whole()
            && matches!(c, ',' | '}' | ' ' | '\t' | '\r' | '\n')
        {
            self.end_value(*key, index, events)?;
        }
        match (&mut self.next, c) {
            (Next::KeyText(text), _) => {
                follow(text, c)?;
                self.json.push(c);
                if text.is_whole() {
                    self.next = Next::Colon(self.key()?);
                }
            }
            (Next::Value(_, _), ' ' | '\t' | '\r' | '\n') if self.json.is_empty() => {}
            (Next::Value(Key::Arguments, _), _) if self.json.is_empty() && c != '{' => return Err(NoCall),
            (Next::Value(key, value), _) => {
                follow(value, c)?;
                self.json.push(c);
                if *key == Key::Arguments && self.name.is_some() {
                    self.tell(index, c.encode_utf8(&mut [0; 4]), events);
                }
            }
            (_, ' ' | '\t' | '\r' | '\n') => {}
            (Next::Object, '{') => self.next = Next::KeyOrEnd,
            (Next::KeyOrEnd | Next::Key, '"') => {
                let mut text = Follower::default();
                follow(&mut text, c)?;
                self.json = c.to_string();
                self.next = Next::KeyText(text);
            }
            (Next::Colon(key), ':') => {
                self.next = Next::Value(*key, Follower::default());
                self.json.clear();
            }
            (Next::CommaOrEnd, ',') => self.next = Next::Key,
            (Next::CommaOrEnd, '}') => return self.end(index, events).map(|()| true),
            _ => return Err(NoCall),
        }
        self.raw.push(c);
        Ok(false)
    }

    /// What the key that was read asks for.
    fn key(&self) -> Result<Key, NoCall> {
        match &*serde_json::from_str::<String>(&self.json).map_err(|_| NoCall)? {
            "name" if self.name.is_none() => Ok(Key::Name),
            "arguments" if self.arguments.is_none() => Ok(Key::Arguments),
            "name" | "arguments" => Err(NoCall),
            _ => Ok(Key::Other),
        }
    }

    fn end_value(&mut self, key: Key, index: usize, events: &mut Vec<Event>) -> Result<(), NoCall> {
        self.next = Next::CommaOrEnd;
        match key {
            Key::Name => {
                let name: String = serde_json::from_str(&self.json).map_err(|_| NoCall)?;
                if !self.names.contains(&name) {
                    return Err(NoCall);
                }
                self.name = Some(name);
                let arguments = self.arguments.take();
                self.tell(index, arguments.as_deref().unwrap_or_default(), events);
                self.arguments = arguments;
            }
            Key::Arguments => self.arguments = Some(std::mem::take(&mut self.json)),
            Key::Other => {}
        }
        Ok(())
    }

    fn end(&mut self, index: usize, events: &mut Vec<Event>) -> Result<(), NoCall> {
        self.name.as_ref().ok_or(NoCall)?;
        if self.arguments.is_none() {
            self.tell(index, "{}", events);
        }
        events.push(Event::ToolEnd { index });
        Ok(())
    }
}

fn follow(value: &mut Follower, c: char) -> Result<(), NoCall> {
    c.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| value.push(byte)).map_err(|_| NoCall)
}

/// More of the arguments, together with what has just been told of them.
fn tell_arguments(index: usize, more: &str, events: &mut Vec<Event>) {
    match events.last_mut() {
        _ if more.is_empty() => {}
        Some(Event::ToolArguments { json, .. }) => json.push_str(more),
        _ => events.push(Event::ToolArguments { index, json: more.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::chat::Part;
    use crate::chat::tests::{cut, merged, read};

    fn reader() -> Box<CallReader> {
        Box::new(CallReader::new(ThinkReader::opening(), ["w", "now"].map(String::from).into()))
    }

    fn lines(events: &[Event]) -> String {
        let line = |event: &Event| match event {
            Event::Thinking(text) => format!("think {text:?}"),
            Event::Text(text) => format!("text {text:?}"),
            Event::ToolStart { index, name } => format!("{index} {name}"),
            Event::ToolArguments { index, json } => format!("{index} {json}"),
            Event::ToolEnd { index } => format!("{index} end"),
        };
        events.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// The same whether the tags are spelled or markers.
    fn check(answer: &str, expect: Expect) {
        expect.assert_eq(&lines(&merged(read(reader(), [Part::Text(answer.to_owned())]))));
        expect.assert_eq(&lines(&merged(read(reader(), marked(answer)))));
    }

    /// Tags are markers.
    fn marked(answer: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut rest = answer;
        let first = |rest: &str| [BEGIN, END].into_iter().filter_map(|tag| Some((rest.find(tag)?, tag))).min();
        while let Some((at, tag)) = first(rest) {
            parts.extend([Part::Text(rest[..at].to_owned()), Part::Marker(tag.to_owned())]);
            rest = &rest[at + tag.len()..];
        }
        parts.push(Part::Text(rest.to_owned()));
        parts
    }

    #[test]
    fn calls_are_read() {
        check(
            "Let me see.\n<tool_call>\n\
             {\"name\": \"w\", \"arguments\": {\"city\": \"R\\\"\", \"n\": [1, {\"x\": -2.5e3}]}}\n</tool_call>\n\
             <tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n",
            expect![[r#"
                text "Let me see."
                0 w
                0 {"city": "R\"", "n": [1, {"x": -2.5e3}]}
                0 end
                1 now
                1 {}
                1 end"#]],
        );
    }

    #[test]
    fn keys_come_in_any_order_and_white_space_is_free() {
        check(
            "<tool_call>{ \"id\" : 7 , \"arguments\" : { \"a\" : 1 } , \"name\" : \"w\" }</tool_call>after",
            expect![[r#"
                0 w
                0 { "a" : 1 }
                0 end
                text "after""#]],
        );
        check(
            "<tool_call>{\"name\": \"now\"}",
            expect![[r#"
            0 now
            0 {}
            0 end"#]],
        );
    }

    #[test]
    fn values_may_spell_tags() {
        let answer =
            "<tool_call>{\"name\": \"w\", \"arguments\": {\"a\": \"</tool_call><tool_call></think>\"}}</tool_call>";
        check(
            answer,
            expect![[r#"
            0 w
            0 {"a": "</tool_call><tool_call></think>"}
            0 end"#]],
        );
        let mut reader = reader();
        reader.text("<tool_call>{\"name\": \"w\", \"arguments\": {\"a\": \"");
        assert_eq!(reader.marker("</think>"), [Event::ToolArguments { index: 0, json: "</think>".into() }]);
    }

    #[test]
    fn what_is_no_call_is_text() {
        check(
            "I use <tool_call> for\ncalls, </tool_call>.\n",
            expect![[r#"text "I use <tool_call> for\ncalls, </tool_call>.\n""#]],
        );
        check(
            "a\n<tool_call>\n<tool_call>{\"name\": \"now\"}</tool_call>",
            expect![[r#"
            text "a\n<tool_call>\n"
            0 now
            0 {}
            0 end"#]],
        );
        check(
            "<tool_call>{\"arguments\": {}}</tool_call>",
            expect![[r#"text "<tool_call>{\"arguments\": {}}</tool_call>""#]],
        );
        check(
            "<tool_call>{\"name\": \"w\", \"arguments\": \"{}\"}",
            expect![[r#"text "<tool_call>{\"name\": \"w\", \"arguments\": \"{}\"}""#]],
        );
        check(
            "<tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call>",
            expect![[r#"text "<tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call>""#]],
        );
        check("<tool_call>{\"name\": 1}", expect![[r#"text "<tool_call>{\"name\": 1}""#]]);
        check("<tool_call>{\"name\": \"\"}", expect![[r#"text "<tool_call>{\"name\": \"\"}""#]]);
        check(
            "<tool_call>{\"name\": \"w\"} and\n",
            expect![[r#"
            0 w
            0 {}
            0 end
            text " and\n""#]],
        );
    }

    #[test]
    fn what_breaks_off_or_is_cut_short_has_no_end() {
        check(
            "<tool_call>{\"name\": \"w\", \"arguments\": {\"a\": 1], <tool_call>{\"name\": \"now\"}",
            expect![[r#"
            0 w
            0 {"a": 1
            text "<tool_call>{\"name\": \"w\", \"arguments\": {\"a\": 1], "
            1 now
            1 {}
            1 end"#]],
        );
        check(
            "A\n<tool_call>{\"name\": \"w\", \"arguments\": {\"a\": \"x",
            expect![[r#"
            text "A"
            0 w
            0 {"a": "x"#]],
        );
        check("A\n<tool_call>\n{\"na", expect![[r#"text "A""#]]);
        check("A\n<tool_c", expect![[r#"text "A\n<tool_c""#]]);
    }

    #[test]
    fn it_is_known_whether_a_call_came_to_nothing() {
        let broke = |answer: &str| {
            let mut reader = reader();
            reader.text(answer);
            reader.finish();
            reader.broke()
        };
        assert!(broke("<tool_call>{\"name\": \"rm\"}</tool_call>"));
        assert!(broke("<tool_call>{\"name\": \"w\", \"arguments\": []}"));
        assert!(broke("<tool_call>\n{\"name\": \"w\""));
        assert!(!broke("<tool_call> is a tag"));
        assert!(!broke("<tool_call>{\"name\": \"w\"}</tool_call>"));
    }

    #[test]
    fn arguments_come_as_they_are_sampled() {
        let mut reader = reader();
        assert_eq!(
            reader.text("<tool_call>{\"name\": \"w\", \"arguments\": {\"a"),
            [Event::ToolStart { index: 0, name: "w".into() }, Event::ToolArguments { index: 0, json: "{\"a".into() },]
        );
        assert_eq!(reader.text("\": 1"), [Event::ToolArguments { index: 0, json: "\": 1".into() }]);
    }

    proptest! {
        #[test]
        fn events_do_not_depend_on_where_the_text_is_cut(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "<tool_call>", "<tool_call>\n{", "</tool_call>", "<think>", "</think>", "\n", "x", "{", "}", "<",
                    "\"name\": \"w\"", "\"name\": \"w\", \"arguments\": {\"k\": \"v\"}", "\"arguments\": {}",
                    ", ", "}\n</tool_call>",
                ]),
                0..14,
            ),
            is_marked: bool,
        ) {
            let answer = words.concat();
            let parts = if is_marked { marked(&answer) } else { vec![Part::Text(answer)] };
            prop_assert_eq!(merged(read(reader(), parts.clone())), merged(read(reader(), cut(&parts))));
        }
    }
}
