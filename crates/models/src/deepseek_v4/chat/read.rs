//! An answer becomes events.
//!
//! ```text
//! reasoning</think>answer\n\n<*tool_calls>\n<*invoke name="w">\n<*parameter name="x" string="true">1</*parameter>
//! ```
//!
//! `*` is the one token [`DSML`]. The same characters spelled by other tokens are text, so a value may spell any tag.
//! Newlines around reasoning and in front of calls belong to the format. They are held back, with the `<` of what may
//! be a tag, until it is known what they are.
//!
//! A block that breaks the rules, or calls what is no tool, is given back as text from behind its last complete call, in
//! the section that it stood in: a model may think about tags. A call is told of with its first parameter or its end, so
//! that one that breaks off stays without an end, or is not heard of. A block that is cut short leaves no text. White
//! space between tags is free.

use std::sync::Arc;

use super::DSML;
use super::block::{Block, Broken, Progress};
use crate::chat::{Event, Events, Part, Section, THINK_END};

/// Reads answers; see the head of this file.
pub(super) struct Reader {
    section: Section,
    /// Nothing but newlines since the section began: they are dropped.
    fresh: bool,
    /// Newlines, and a `<` where calls are read, that are not yet decided.
    held: String,
    /// What may be called; nothing, if calls are not read.
    names: Arc<[String]>,
    block: Option<Block>,
    /// How many calls have been told of.
    n_calls: usize,
    /// Whether what was meant as a call came to nothing.
    broke: bool,
    /// What is to be told before anything else.
    ready: Vec<Event>,
}

impl Reader {
    /// The prompt ends with `<think>`, or with `</think>`.
    pub(super) fn new(thinking: bool, names: Arc<[String]>) -> Reader {
        Reader {
            section: if thinking { Section::Thinking } else { Section::Answering },
            fresh: true,
            held: String::new(),
            names,
            block: None,
            n_calls: 0,
            broke: false,
            ready: Vec::new(),
        }
    }

    /// The answer goes on in the middle: every character counts.
    pub(super) fn continuing(names: Arc<[String]>) -> Reader {
        Reader { fresh: false, ..Reader::new(false, names) }
    }

    fn reads_calls(&self) -> bool {
        !self.names.is_empty()
    }

    /// Takes note of a block that came to nothing.
    fn lose(&mut self, block: &Block) {
        self.broke |= block.is_meant(self.section == Section::Answering);
    }

    /// The prompt has begun the answer like this.
    pub(super) fn begun(mut self, opening: &[Part]) -> Reader {
        for part in opening {
            let events = match part {
                Part::Marker(marker) => self.marker(marker),
                Part::Text(text) => self.text(text),
            };
            self.ready.extend(events);
        }
        self
    }

    /// Emits `text` as part of the section.
    fn emit(&mut self, text: &str, events: &mut Vec<Event>) {
        let text = if self.fresh { text.trim_start_matches('\n') } else { text };
        if text.is_empty() {
            return;
        }
        self.fresh = false;
        events.push(match self.section {
            Section::Thinking => Event::Thinking(text.to_owned()),
            _ => Event::Text(text.to_owned()),
        });
    }

    fn enter(&mut self, section: Section) {
        self.section = section;
        self.fresh = true;
    }

    /// `text` goes on where no block is. What is undecided of it is held back.
    fn read_section(&mut self, text: &str, events: &mut Vec<Event>) {
        let text = std::mem::take(&mut self.held) + text;
        let decided = match self.section {
            _ if self.reads_calls() => text.strip_suffix('<').unwrap_or(&text).trim_end_matches('\n'),
            Section::Thinking => text.trim_end_matches('\n'),
            _ => &text,
        };
        self.emit(decided, events);
        text[decided.len()..].clone_into(&mut self.held);
    }

    /// Takes note of how far a block has come.
    fn follow(&mut self, block: Block, progress: Result<Progress, Broken>, events: &mut Vec<Event>) {
        if block.n_calls > self.n_calls {
            self.n_calls = block.n_calls;
            self.enter(Section::Answering);
        }
        match progress {
            Ok(Progress::Open) => self.block = Some(block),
            Ok(Progress::Closed) => {
                self.enter(Section::Answering);
                self.read_section(&block.held, events);
            }
            Err(Broken) => {
                self.lose(&block);
                self.read_section(&block.raw, events);
            }
        }
    }

    fn read(&mut self, text: &str, events: &mut Vec<Event>) {
        match self.block.take() {
            Some(mut block) => {
                let progress = block.text(text, events);
                self.follow(block, progress, events);
            }
            None => self.read_section(text, events),
        }
    }

    fn read_dsml(&mut self, events: &mut Vec<Event>) {
        match self.block.take() {
            Some(mut block) => {
                let progress = block.dsml(events);
                self.follow(block, progress, events);
            }
            None if self.reads_calls() && self.held.ends_with('<') => {
                self.block = Some(Block::new(std::mem::take(&mut self.held) + DSML, self.n_calls, self.names.clone()));
            }
            None => self.read_section(DSML, events),
        }
    }
}

impl Events for Reader {
    fn text(&mut self, text: &str) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.ready);
        self.read(text, &mut events);
        events
    }

    fn marker(&mut self, marker: &str) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.ready);
        match (marker, self.section) {
            (DSML, _) => self.read_dsml(&mut events),
            (THINK_END, Section::Thinking) if self.block.is_none() => {
                let held = std::mem::take(&mut self.held);
                self.emit(held.trim_end_matches('\n'), &mut events);
                self.enter(Section::Answering);
            }
            // A stray end of reasoning says nothing.
            (THINK_END, Section::Answering) if self.block.is_none() => {}
            _ => self.read(marker, &mut events),
        }
        events
    }

    fn section(&self) -> Section {
        self.section
    }

    fn end_of_reasoning(&self, at_once: bool) -> Vec<Part> {
        let can_end = self.block.is_none() && (at_once || self.held.is_empty());
        match self.section {
            Section::Thinking if can_end => vec![Part::Marker(THINK_END.to_owned())],
            _ => Vec::new(),
        }
    }

    fn finish(&mut self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.ready);
        match self.block.take() {
            Some(block) => {
                self.lose(&block);
                block.cut(&mut events);
            }
            None => {
                let held = std::mem::take(&mut self.held);
                self.emit(&held, &mut events);
            }
        }
        events
    }

    fn broke(&self) -> bool {
        self.broke
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::tests::{JULY, call, thinking, with_tools};
    use super::super::{ASSISTANT, USER};
    use super::*;
    use crate::chat::tests::{cut, merged, read};
    use crate::chat::{Chat, ChatOptions, End, Message, THINK, Tool, ToolCall};

    /// Generated text: what it spells of marks is marks.
    fn generated(text: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut rest = text;
        let marks = [DSML, THINK, THINK_END];
        while let Some((at, mark)) = marks.iter().filter_map(|mark| Some((rest.find(mark)?, *mark))).min() {
            parts.extend([Part::Text(rest[..at].to_owned()), Part::Marker(mark.to_owned())]);
            rest = &rest[at + mark.len()..];
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| !part.as_str().is_empty());
        parts
    }

    #[test]
    fn answers_are_read_as_the_recipe_reads_them() {
        let golden = include_str!("../../../../../testdata/chat/deepseek_v4/streams.json");
        let golden: Value = serde_json::from_str(golden).unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let options = with_tools(ChatOptions { thinking: case["thinking"] == true, ..ChatOptions::default() });
            let (mut reasoning, mut content, mut calls) = (String::new(), String::new(), Vec::new());
            for event in read(JULY.stream(&options), generated(case["completion"].as_str().unwrap())) {
                match event {
                    Event::Thinking(text) => reasoning += &text,
                    Event::Text(text) => content += &text,
                    Event::ToolStart { name, .. } => calls.push((name, String::new())),
                    Event::ToolArguments { index, json } => calls[index].1 += &json,
                    Event::ToolEnd { .. } => {}
                }
            }
            let message = &case["message"];
            assert_eq!(
                [Some(&*reasoning), Some(&*content)],
                ["reasoning_content", "content"].map(|k| message[k].as_str()),
                "{case}"
            );
            let expected = message["tool_calls"].as_array().into_iter().flatten().map(|call| {
                let text = |key: &str| call["function"][key].as_str().unwrap().to_owned();
                (text("name"), text("arguments"))
            });
            assert_eq!(calls, expected.collect::<Vec<_>>(), "{case}");
        }
    }

    fn check_calls(thinking: bool, generated_text: &str, expect: Expect) {
        let options = with_tools(ChatOptions { thinking, ..ChatOptions::default() });
        let events = merged(read(JULY.stream(&options), generated(&generated_text.replace('*', DSML))));
        let lines = events.iter().map(|event| match event {
            Event::Thinking(text) => format!("think {text:?}"),
            Event::Text(text) => format!("text {text:?}"),
            Event::ToolStart { index, name } => format!("{index} {name}"),
            Event::ToolArguments { index, json } => format!("{index} {json}"),
            Event::ToolEnd { index } => format!("{index} end"),
        });
        expect.assert_eq(&lines.collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn calls_are_read() {
        check_calls(
            true,
            "r\n</think>\n\nSo:\n\n<*tool_calls>\n<*invoke name=\"w\">\n\
             <*parameter name=\"a\" string=\"true\">x \"y\"\n</b></*parameter>\n\
             <*parameter name=\"b\" string=\"false\">[1, {\"k\":\n2}]</*parameter>\n</*invoke>\n\
             <*invoke name=\"now\">\n\n</*invoke>\n</*tool_calls>",
            expect![[r#"
                think "r"
                text "So:"
                0 w
                0 {"a": "x \"y\"\n</b>", "b": [1, {"k":
                2}]}
                0 end
                1 now
                1 {}
                1 end"#]],
        );
    }

    /// The events of an answer, and whether a call came to nothing.
    fn broke(thinking: bool, text: &str) -> (String, bool) {
        let options = with_tools(ChatOptions { thinking, ..ChatOptions::default() });
        let (mut reader, mut events) = (JULY.stream(&options), Vec::new());
        for part in generated(&text.replace('*', DSML)) {
            events.extend(match part {
                Part::Marker(marker) => reader.marker(&marker),
                Part::Text(text) => reader.text(&text),
            });
        }
        events.extend(reader.finish());
        (format!("{:?}", merged(events)).replace(DSML, "*"), reader.broke())
    }

    #[test]
    fn a_call_that_comes_to_nothing_is_not_announced() {
        let text = |text: &str| format!("[Text({text:?})]");
        for told in [
            "<*tool_calls>\n<*invoke name=\"rm\">\n</*invoke>\n</*tool_calls>",
            "<*tool_calls>\n<*invoke name=\"w\">\nNow.",
            "<*tool_calls>\nNow.",
        ] {
            assert_eq!(broke(false, told), (text(told), true), "{told}");
        }
        assert_eq!(broke(false, "<*tool_calls>\n<*invoke name=\"w\">\n"), ("[]".into(), true));
        // Words about tags are no calls.
        assert_eq!(broke(false, "<*tool_call> is a tag"), (text("<*tool_call> is a tag"), false));
        let thought = "<*tool_calls> begins calls";
        assert_eq!(broke(true, thought), (format!("[Thinking({thought:?})]"), false));
        assert!(!broke(false, "<*tool_calls>\n<*invoke name=\"w\">\n</*invoke>\n</*tool_calls>").1);
    }

    #[test]
    fn reasoning_can_be_ended_outside_of_tags() {
        let mut reader = JULY.stream(&with_tools(thinking()));
        let end = [Part::Marker(THINK_END.into())];
        assert_eq!(reader.end_of_reasoning(false), end);
        reader.text("Hm\n");
        assert_eq!((reader.end_of_reasoning(false), reader.end_of_reasoning(true)), (vec![], end.to_vec()));
        reader.text("<");
        reader.marker(DSML);
        assert_eq!(reader.end_of_reasoning(true), [], "it may be a call, which ends it");
        reader.text("x");
        assert_eq!(reader.end_of_reasoning(false), end);
        reader.marker(THINK_END);
        assert_eq!(reader.end_of_reasoning(true), []);
    }

    #[test]
    fn calls_end_the_reasoning() {
        check_calls(
            true,
            "r\n\n<*tool_calls><*invoke name=\"now\"></*invoke></*tool_calls>\n\nafter",
            expect![[r#"
                think "r"
                0 now
                0 {}
                0 end
                text "after""#]],
        );
    }

    #[test]
    fn what_is_no_call_is_text_where_it_stood() {
        check_calls(
            true,
            "I may write\n<*tool_calls> or *, or <*tool_call.\n</think>\nYes, <*invoke>, </*x",
            expect![[r#"
                think "I may write\n<｜DSML｜tool_calls> or ｜DSML｜, or <｜DSML｜tool_call."
                text "Yes, <｜DSML｜invoke>, </｜DSML｜x""#]],
        );
        // Tags spelled by ordinary tokens.
        let spelled = "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"w\">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";
        let events = merged(read(JULY.stream(&with_tools(ChatOptions::default())), [Part::Text(spelled.into())]));
        assert_eq!(events, [Event::Text(spelled.into())]);
        // Nobody has offered tools.
        let events = merged(read(JULY.stream(&ChatOptions::default()), generated(spelled)));
        assert_eq!(events, [Event::Text(spelled.into())]);
    }

    #[test]
    fn a_value_may_spell_any_tag() {
        check_calls(
            false,
            "<*tool_calls><*invoke name=\"w\"><*parameter name=\"a\" string=\"true\">\
             <*tool_calls>* <*x></*invoke></think><think></\
             </*parameter></*invoke></*tool_calls>",
            expect![[r#"
                0 w
                0 {"a": "<｜DSML｜tool_calls>｜DSML｜ <｜DSML｜x></｜DSML｜invoke></think><think></"}
                0 end"#]],
        );
    }

    #[test]
    fn what_breaks_off_is_no_call_and_is_given_back() {
        check_calls(
            false,
            "A\n<*tool_calls>\n<*invoke name=\"w\"><*parameter name=\"a\" string=\"false\">1</*parameter>?</*invoke>",
            expect![[r#"
                text "A"
                0 w
                0 {"a": 1
                text "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"w\"><｜DSML｜parameter name=\"a\" string=\"false\">1</｜DSML｜parameter>?</｜DSML｜invoke>""#]],
        );
        // A value that is not JSON, one that ends too early, and a key that comes twice.
        let invoke = "<*tool_calls><*invoke name=\"w\">";
        for (broken, told) in [("Roma", ""), ("[1", "[1"), ("1 2", "1 ")] {
            let block = format!(
                "{invoke}<*parameter name=\"a\" string=\"false\">{broken}</*parameter></*invoke></*tool_calls>"
            );
            let given_back = block.replace('*', DSML);
            let events = merged(read(JULY.stream(&with_tools(ChatOptions::default())), generated(&given_back)));
            let json = format!("{{\"a\": {told}");
            assert_eq!(events[1..], [Event::ToolArguments { index: 0, json }, Event::Text(given_back)]);
        }
        let twice = "<*parameter name=\"a\" string=\"true\">1</*parameter>".repeat(2);
        let block = format!("{invoke}{twice}</*invoke></*tool_calls>").replace('*', DSML);
        let events = merged(read(JULY.stream(&with_tools(ChatOptions::default())), generated(&block)));
        assert_eq!(events.last(), Some(&Event::Text(block)));
        // What was complete stays so.
        check_calls(
            false,
            "<*tool_calls><*invoke name=\"now\"></*invoke>\n<*invoke nam=\"x\"></*invoke></*tool_calls>",
            expect![[r#"
                0 now
                0 {}
                0 end
                text "<｜DSML｜invoke nam=\"x\"></｜DSML｜invoke></｜DSML｜tool_calls>""#]],
        );
    }

    #[test]
    fn what_is_cut_short_has_no_end() {
        let block = "A\n\n<*tool_calls>\n<*invoke name=\"w\">\n<*parameter name=\"a\" string=\"true\">x<</*parameter>\n\
                     </*invoke>\n</*tool_calls>";
        let parts = generated(&block.replace('*', DSML));
        let chars: Vec<Part> = cut(&parts).collect();
        for n in 0..chars.len() {
            let events = merged(read(JULY.stream(&with_tools(ChatOptions::default())), chars[..n].to_vec()));
            let ended = events.contains(&Event::ToolEnd { index: 0 });
            assert_eq!(ended, n + "\n</".len() + 1 + "tool_calls>".len() >= chars.len(), "{events:?}");
            let leaked =
                |event: &Event| matches!(event, Event::Text(text) if text.contains("tool") || text.contains(DSML));
            assert!(!events.iter().any(leaked), "{events:?}");
        }
    }

    proptest! {
        #[test]
        fn calls_come_back_as_they_were(
            calls in prop::collection::vec(
                (
                    "[a-z_\"<é\n]{0,4}w",
                    prop::collection::btree_map(
                        "[a-zé\" \n\\\\]{0,5}",
                        prop_oneof![
                            3 => any_text().prop_map(Value::from),
                            1 => any::<i64>().prop_map(Value::from),
                            1 => any_text().prop_map(|text| serde_json::json!([text, { "k": true }])),
                        ],
                        0..4,
                    ),
                ),
                1..4,
            ),
            text in "[a-z]{0,3}",
            thinking: bool,
        ) {
            let calls: Vec<ToolCall> = calls
                .into_iter()
                .map(|(name, arguments)| call("", &name, &crate::json::to_python(&Value::from_iter(arguments))))
                .collect();
            let said = Message::assistant(text.clone()).with_reasoning("R").with_calls(calls.clone());
            let tool = |call: &ToolCall| Tool { name: call.name.clone(), function: serde_json::Map::new(), strict: false };
            let tools = calls.iter().map(tool).collect();
            let options = ChatOptions { thinking, tools, end: End::Continue, ..ChatOptions::default() };
            let prompt = JULY.render(&[Message::user("Q"), said], &options).unwrap();
            let begin = prompt.iter().position(|part| *part == Part::Marker(ASSISTANT.into())).unwrap() + 2;
            let options = ChatOptions { end: End::Answer, ..options };
            let events = merged(read(JULY.stream(&options), prompt[begin..].to_vec()));
            let mut expected = Vec::new();
            if thinking {
                expected.push(Event::Thinking("R".into()));
            }
            if !text.is_empty() {
                expected.push(Event::Text(text));
            }
            for (index, ToolCall { name, arguments, .. }) in calls.into_iter().enumerate() {
                expected.push(Event::ToolStart { index, name });
                expected.push(Event::ToolArguments { index, json: arguments });
                expected.push(Event::ToolEnd { index });
            }
            prop_assert_eq!(events, expected);
        }
    }

    /// Texts with everything in them that could end them too early.
    fn any_text() -> impl Strategy<Value = String> {
        let words = [
            "</｜DSML｜parameter>",
            "</",
            "<",
            "\n",
            "\"",
            "\\",
            "｜DSML｜",
            "</｜DSML｜invoke>\n",
            "</think>",
            "\" string=\"true\">",
            "é\u{1}",
            "a",
        ];
        prop::collection::vec(prop::sample::select(words.to_vec()), 0..5).prop_map(|words| words.concat())
    }

    fn check_events(thinking: bool, generated: &[&str], expect: Expect) {
        let options = ChatOptions { thinking, ..ChatOptions::default() };
        let parts = generated.iter().map(|&g| match g {
            THINK | THINK_END | USER => Part::Marker(g.to_owned()),
            _ => Part::Text(g.to_owned()),
        });
        expect.assert_eq(&format!("{:?}", merged(read(JULY.stream(&options), parts))));
    }

    #[test]
    fn events_of_an_answer() {
        check_events(false, &["\n\nHello", " there.\n"], expect![[r#"[Text("Hello there.\n")]"#]]);
        check_events(
            true,
            &["\n\nhmm\n", "\nyes\n", "\n", THINK_END, "\n\n", "OK\n"],
            expect![[r#"[Thinking("hmm\n\nyes"), Text("OK\n")]"#]],
        );
        check_events(true, &["still thinking\n"], expect![[r#"[Thinking("still thinking\n")]"#]]);
        check_events(true, &[THINK_END, "at once"], expect![[r#"[Text("at once")]"#]]);
        check_events(false, &["a", THINK_END, "b"], expect![[r#"[Text("ab")]"#]]);
        check_events(true, &[], expect!["[]"]);
    }

    #[test]
    fn only_the_marker_ends_the_reasoning() {
        check_events(
            true,
            &["spelled </thi", "nk> is text", THINK_END, "and </think> here too"],
            expect![[r#"[Thinking("spelled </think> is text"), Text("and </think> here too")]"#]],
        );
        check_events(true, &["a", USER, "b"], expect![[r#"[Thinking("a<｜User｜>b")]"#]]);
    }

    #[test]
    fn only_newlines_are_held_back() {
        let mut events = JULY.stream(&thinking());
        assert_eq!(events.text("a </thi\n"), [Event::Thinking("a </thi".into())]);
        assert_eq!(events.text("\n"), []);
        assert_eq!(events.text("b"), [Event::Thinking("\n\nb".into())]);
    }

    proptest! {
        #[test]
        fn events_do_not_depend_on_where_the_text_is_cut(
            pieces in prop::collection::vec(
                prop_oneof![
                    2 => "[\n<a/é]{0,6}".prop_map(Part::Text),
                    1 => Just(Part::Text("</think>".to_owned())),
                    1 => Just(Part::Marker(THINK_END.to_owned())),
                    1 => Just(Part::Marker(THINK.to_owned())),
                    3 => Just(Part::Marker(DSML.to_owned())),
                    8 => prop::sample::select(vec![
                        "\n\n<", "</", "<", "tool_calls>\n<", "invoke name=\"w\">\n<",
                        "parameter>\n</", "parameter>\n<",
                        "parameter name=\"k\" string=\"true\">v</",
                        "parameter name=\"j\" string=\"false\">[1, \"x\"]</",
                        "invoke>\n</", "invoke>\n<", "tool_calls>", "tool_calls>\n\nend",
                    ]).prop_map(|text| Part::Text(text.to_owned())),
                ],
                0..16,
            ),
            thinking: bool,
            has_tools: bool,
            end in prop_oneof![Just(End::Answer), Just(End::Continue)],
        ) {
            let options = ChatOptions { thinking, end, ..ChatOptions::default() };
            let options = if has_tools { with_tools(options) } else { options };
            let whole = merged(read(JULY.stream(&options), pieces.iter().cloned()));
            prop_assert_eq!(&whole, &merged(read(JULY.stream(&options), cut(&pieces))));
        }

        /// What is told was written, in a block that is nearly right, and a call that ends has an object for arguments.
        #[test]
        fn nothing_is_made_up(
            edits in prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(0..9_usize)), 0..4),
            thinking: bool,
        ) {
            const TAGS: [&str; 9] = [
                "<*tool_calls>\n", "<*invoke name=\"w\">\n",
                "<*parameter name=\"k\" string=\"true\">v", "</*parameter>\n",
                "<*parameter name=\"j\" string=\"false\">1", "</*invoke>\n", "</*tool_calls>", "</think>", "x",
            ];
            let mut tags = vec![8, 0, 1, 2, 3, 4, 3, 5, 1, 5, 6, 8];
            for (at, tag) in edits {
                match tag {
                    Some(tag) => tags.insert(at.index(tags.len()), tag),
                    None => drop(tags.remove(at.index(tags.len()))),
                }
            }
            let written = tags.into_iter().map(|tag| TAGS[tag]).collect::<String>().replace('*', DSML);
            let options = with_tools(ChatOptions { thinking, ..ChatOptions::default() });
            let events = read(JULY.stream(&options), generated(&written));
            prop_assert_eq!(merged(events.clone()), merged(read(JULY.stream(&options), cut(&generated(&written)))));
            // A stray end of reasoning says nothing.
            let bare = |text: &str| text.replace(THINK_END, "");
            let mut arguments = String::new();
            for event in events {
                match event {
                    Event::Thinking(text) | Event::Text(text) => {
                        prop_assert!(bare(&written).contains(&bare(&text)), "{}", text);
                    }
                    Event::ToolStart { .. } => arguments.clear(),
                    Event::ToolArguments { json, .. } => arguments += &json,
                    Event::ToolEnd { .. } => {
                        let value: Result<Value, _> = serde_json::from_str(&arguments);
                        prop_assert!(value.is_ok_and(|value| value.is_object()), "{}", arguments);
                    }
                }
            }
        }
    }
}
