//! Reasoning in the answers of families with templates: what comes before `</think>`.

use super::{Event, Events, Part, Section, push_text};

pub(crate) const THINK: &str = "<think>";
pub(crate) const THINK_END: &str = "</think>";

/// Reads `reasoning</think>answer`, the form that all families with reasoning share so far.
///
/// Newlines around the reasoning and before the answer belong to the form, not to either. So newlines that may precede
/// `</think>` are held back, as is a beginning of it where it may be spelled out, and nothing else.
pub(crate) struct ThinkReader {
    state: State,
    held: String,
    /// Still at the start of a section: newlines are dropped.
    fresh: bool,
    around: Around,
}

/// What stands before and behind the `</think>` of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Around(pub(crate) String, pub(crate) String);

impl Default for Around {
    /// As most formats have it.
    fn default() -> Around {
        Around("\n".to_owned(), "\n\n".to_owned())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space or a part of `<think>` so far.
    Opening,
    /// Between the tags. Reasoning ends the way it began: `spelled` by ordinary tokens, or by the marker.
    Thinking {
        spelled: bool,
    },
    Answering,
}

impl ThinkReader {
    /// The prompt ends with `<think>`; `spelled` if by ordinary tokens.
    pub(crate) fn thinking(spelled: bool) -> ThinkReader {
        ThinkReader { state: State::Thinking { spelled }, held: String::new(), fresh: true, around: Around::default() }
    }

    /// The model opens a `<think>` itself, or does not.
    pub(crate) fn opening() -> ThinkReader {
        ThinkReader { state: State::Opening, fresh: false, ..ThinkReader::thinking(false) }
    }

    /// The answer goes on in the middle: every character counts.
    pub(crate) fn continuing() -> ThinkReader {
        ThinkReader { state: State::Answering, fresh: false, ..ThinkReader::thinking(false) }
    }

    /// The format writes this around `</think>`.
    pub(crate) fn with(self, around: Around) -> ThinkReader {
        ThinkReader { around, ..self }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.held.clear();
        self.fresh = true;
    }

    /// Emits `text` as part of the current section.
    fn emit(&mut self, text: &str, events: &mut Vec<Event>) {
        let text = if self.fresh { text.trim_start_matches('\n') } else { text };
        if text.is_empty() {
            return;
        }
        self.fresh = false;
        events.push(match self.state {
            State::Thinking { .. } => Event::Thinking(text.to_owned()),
            State::Opening | State::Answering => Event::Text(text.to_owned()),
        });
    }

    fn read(&mut self, text: &str, events: &mut Vec<Event>) {
        let text = std::mem::take(&mut self.held) + text;
        match self.state {
            State::Opening => {
                let begun = text.trim_start();
                if let Some(rest) = begun.strip_prefix(THINK) {
                    self.enter(State::Thinking { spelled: true });
                    self.read(rest, events);
                } else if THINK.starts_with(begun) {
                    self.held = text;
                } else {
                    self.state = State::Answering;
                    self.emit(&text, events);
                }
            }
            State::Thinking { spelled } => {
                if let Some((reasoning, answer)) = text.split_once(THINK_END).filter(|_| spelled) {
                    self.emit(reasoning.trim_end_matches('\n'), events);
                    self.enter(State::Answering);
                    self.read(answer, events);
                } else {
                    let begun = if spelled { begun_at(&text, THINK_END) } else { text.len() };
                    let kept = text[..begun].trim_end_matches('\n').len();
                    self.emit(&text[..kept], events);
                    text[kept..].clone_into(&mut self.held);
                }
            }
            State::Answering => self.emit(&text, events),
        }
    }
}

impl Events for ThinkReader {
    fn text(&mut self, text: &str) -> Vec<Event> {
        let mut events = Vec::new();
        self.read(text, &mut events);
        events
    }

    fn marker(&mut self, marker: &str) -> Vec<Event> {
        match (self.state, marker) {
            (State::Opening, THINK) if self.held.trim_start().is_empty() => {
                self.enter(State::Thinking { spelled: false });
            }
            (State::Thinking { spelled: false }, THINK_END) => self.enter(State::Answering),
            // A stray end of reasoning says nothing.
            (State::Answering, THINK_END) => {}
            _ => return self.text(marker),
        }
        Vec::new()
    }

    fn section(&self) -> Section {
        match self.state {
            State::Opening if self.held.is_empty() => Section::Opening(THINK),
            State::Thinking { .. } => Section::Thinking,
            // What is held of an opening is white space, or may yet be spelled out: it has no marker for it.
            State::Opening | State::Answering => Section::Answering,
        }
    }

    fn end_of_reasoning(&self, at_once: bool) -> Vec<Part> {
        let State::Thinking { spelled } = self.state else { return Vec::new() };
        let Around(before, behind) = &self.around;
        if !at_once && !self.held.is_empty() && self.held != *before {
            return Vec::new();
        }
        let mut parts = Vec::new();
        push_text(&mut parts, if self.held.ends_with(before) { "" } else { before });
        match spelled {
            true => push_text(&mut parts, THINK_END),
            false => parts.push(Part::Marker(THINK_END.to_owned())),
        }
        push_text(&mut parts, behind);
        parts
    }

    fn finish(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let held = std::mem::take(&mut self.held);
        self.emit(&held, &mut events);
        events
    }
}

/// Where in `text` a last, incomplete `tag` may have begun; the end if nowhere.
pub(crate) fn begun_at(text: &str, tag: &str) -> usize {
    let from = text.len().saturating_sub(tag.len() - 1);
    (from..text.len()).find(|&i| text.is_char_boundary(i) && tag.starts_with(&text[i..])).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::chat::Part;
    use crate::chat::tests::{merged, read};

    fn check(reader: ThinkReader, answer: &[&str], expect: Expect) {
        let answer = answer.iter().map(|text| Part::Text((*text).to_owned()));
        expect.assert_eq(&format!("{:?}", merged(read(Box::new(reader), answer))));
    }

    #[test]
    fn reasoning_is_what_the_answer_opens_with() {
        check(
            ThinkReader::opening(),
            &["\n<thi", "nk>\nwhy", " not\n</th", "ink>", "\n\nSo.</think>\n"],
            expect![[r#"[Thinking("why not"), Text("So.</think>\n")]"#]],
        );
        check(ThinkReader::opening(), &["\n No <think>"], expect![[r#"[Text("\n No <think>")]"#]]);
        check(ThinkReader::opening(), &["<thin"], expect![[r#"[Text("<thin")]"#]]);
        check(ThinkReader::opening(), &["<thing>"], expect![[r#"[Text("<thing>")]"#]]);
        check(ThinkReader::opening(), &["\n ", "\n"], expect![[r#"[Text("\n \n")]"#]]);
    }

    #[test]
    fn reasoning_ends_the_way_it_began() {
        check(ThinkReader::thinking(true), &["a</think>b"], expect![[r#"[Thinking("a"), Text("b")]"#]]);
        check(ThinkReader::thinking(false), &["a</think>b"], expect![[r#"[Thinking("a</think>b")]"#]]);
        let mut reader = ThinkReader::opening();
        assert_eq!(reader.text("\n"), []);
        assert_eq!(reader.marker(THINK), []);
        assert_eq!(reader.text("\na</think>\n"), [Event::Thinking("a</think>".into())]);
        assert_eq!(reader.marker(THINK_END), []);
        assert_eq!(reader.text("\nb"), [Event::Text("b".into())]);
    }

    #[test]
    fn reasoning_can_be_ended_as_the_format_ends_it() {
        let marker = || Part::Marker(THINK_END.into());
        let text = |text: &str| Part::Text(text.into());
        let mut reader = ThinkReader::thinking(false);
        assert_eq!(reader.end_of_reasoning(false), [text("\n"), marker(), text("\n\n")]);
        reader.text("So.\n");
        assert_eq!(reader.end_of_reasoning(false), [marker(), text("\n\n")], "the newline is there");
        reader.text("\n");
        assert_eq!(reader.end_of_reasoning(false), [], "one would be lost");
        assert_eq!(reader.end_of_reasoning(true), [marker(), text("\n\n")]);
        reader.marker(THINK_END);
        assert_eq!(reader.end_of_reasoning(true), []);
        let around = Around(String::new(), "\n".into());
        let mut spelled = ThinkReader::thinking(true).with(around);
        spelled.text("So</th");
        assert_eq!(spelled.end_of_reasoning(false), []);
        assert_eq!(spelled.end_of_reasoning(true), [text("</think>\n")]);
        assert_eq!(ThinkReader::opening().end_of_reasoning(true), []);
        assert_eq!(ThinkReader::continuing().end_of_reasoning(true), []);
    }

    #[test]
    fn nothing_but_a_possible_tag_is_held_back() {
        let mut reader = ThinkReader::thinking(true);
        assert_eq!(reader.text("a < b\n"), [Event::Thinking("a < b".into())]);
        assert_eq!(reader.text("c\n\n</thi"), [Event::Thinking("\nc".into())]);
        assert_eq!(reader.text("s"), [Event::Thinking("\n\n</this".into())]);
        assert_eq!(reader.text("<"), []);
        assert_eq!(reader.finish(), [Event::Thinking("<".into())]);
    }

    proptest! {
        #[test]
        fn events_do_not_depend_on_where_the_text_is_cut(
            words in prop::collection::vec(
                prop_oneof![Just("<think>"), Just("</think>"), Just("</thi"), Just("\n"), Just(" "), Just("é<")],
                0..12,
            ),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            reader in 0..4_usize,
        ) {
            let reader = || Box::new(match reader {
                0 => ThinkReader::opening(),
                1 => ThinkReader::thinking(true),
                2 => ThinkReader::thinking(false),
                _ => ThinkReader::continuing(),
            });
            let text = words.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.retain(|&cut| text.is_char_boundary(cut));
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| Part::Text(text[cut[0]..cut[1]].to_owned()));
            let whole = merged(read(reader(), [Part::Text(text.clone())]));
            prop_assert_eq!(whole, merged(read(reader(), pieces)));
        }
    }
}
