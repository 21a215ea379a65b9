//! The chat encoding: a conversation becomes a prompt, and generated text becomes events.
//!
//! ```text
//! [Message]  --Chat::render-->  [Part]  --tokenizer-->  token ids  --model-->  ...
//! [Event]  <--Events::text, Events::marker--  tokenizer  <--  token ids  <--  ...
//! ```
//!
//! A prompt is not a string. A [`Part::Marker`] becomes its one token; a [`Part::Text`] is tokenized with the added
//! tokens switched off, so that no text, whoever wrote it, can become a marker: a user who types `<|im_end|>` has
//! typed ten characters. The other way round, a marker that the model produced arrives through [`Events::marker`] and
//! the same characters spelled by ordinary tokens arrive through [`Events::text`], where they mean nothing: a model
//! may write about `</think>` without ending its thoughts.
//!
//! DeepSeek V4 has its own encoding in Rust, [`DeepSeekV4`]; every other family uses the template that its file
//! carries, [`Template`]. Both write tools, calls and results, the latter where [`Chat::can_call`].

mod syntax;
mod think;
mod tool;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

pub use self::syntax::{Hold, NotKept, Schema, Syntax};
pub(crate) use self::syntax::{alternatives, callable, quoted};
pub(crate) use self::think::{Around, THINK, THINK_END, ThinkReader, begun_at};
pub use self::tool::{Calls, Tool, ToolCall};

/// Who speaks. A `developer` is a [`Role::System`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions, first or between turns.
    System,
    /// The person, or the program, that asks.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub text: String,
    /// What an assistant thought before saying it; `None` when unknown.
    pub reasoning: Option<String>,
    /// What an assistant called after saying it, in order.
    pub calls: Vec<ToolCall>,
    /// The [`ToolCall::id`] of the call that a tool's message is the result of.
    pub call_id: Option<String>,
    /// What an assistant's turn really was: [`Chat::opening`], and what was generated up to the marker that ended it.
    /// Where a format can, it shows this in place of `text`, `reasoning` and `calls`, so that the model sees its turn
    /// as it wrote it, and what was computed of it holds.
    pub written: Option<Vec<Part>>,
}

impl Message {
    /// A message that is nothing but text.
    pub fn new(role: Role, text: impl Into<String>) -> Message {
        Message { role, text: text.into(), reasoning: None, calls: Vec::new(), call_id: None, written: None }
    }

    /// Instructions.
    pub fn system(text: impl Into<String>) -> Message {
        Message::new(Role::System, text)
    }

    /// A question.
    pub fn user(text: impl Into<String>) -> Message {
        Message::new(Role::User, text)
    }

    /// An answer.
    pub fn assistant(text: impl Into<String>) -> Message {
        Message::new(Role::Assistant, text)
    }

    /// What came of the call with this [`ToolCall::id`].
    pub fn result(call_id: impl Into<String>, text: impl Into<String>) -> Message {
        Message { call_id: Some(call_id.into()), ..Message::new(Role::Tool, text) }
    }

    /// The same message, thought about like this.
    pub fn with_reasoning(self, reasoning: impl Into<String>) -> Message {
        Message { reasoning: Some(reasoning.into()), ..self }
    }

    /// The same message, followed by these calls.
    pub fn with_calls(self, calls: Vec<ToolCall>) -> Message {
        Message { calls, ..self }
    }
}

/// How hard to think. What each word means to a model depends on its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Also what APIs call minimal.
    Low,
    /// Also what APIs call medium or xhigh.
    High,
    /// As hard as it can.
    Max,
}

impl Effort {
    /// `low`, `high` or `max`.
    pub fn name(self) -> &'static str {
        match self {
            Effort::Low => "low",
            Effort::High => "high",
            Effort::Max => "max",
        }
    }
}

/// Where a prompt ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// With the markers that make the model answer.
    #[default]
    Answer,
    /// Inside the last message, which is the assistant's: the model continues its text.
    Continue,
    /// After the last message: nothing is asked of the model.
    Closed,
}

/// What a render depends on besides the messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatOptions {
    /// Let the model think before it answers, where [`Chat::can_think`].
    pub thinking: bool,
    /// How hard to think; `None` is the model's own default. Means nothing without `thinking`.
    pub effort: Option<Effort>,
    /// Where the prompt ends.
    pub end: End,
    /// Seconds since 1970 for templates that print the date; `None` leaves them the date they were written with. Fix
    /// it per session: a prompt that changes at midnight is a prompt to prefill again.
    pub now_s: Option<i64>,
    /// What the model may call, where [`Chat::can_call`].
    pub tools: Vec<Tool>,
    /// Whether it is to. Means nothing without `tools`.
    pub call: Calls,
    /// Which of the tools, by name; any, if nobody says. The prompt shows all: only [`Chat::syntax`] makes it certain.
    pub callable: Option<Vec<String>>,
    /// It calls once at most. Only [`Chat::syntax`] makes it certain, too.
    pub one_call: bool,
    /// The JSON schema of the answer, for models that are told of it in words.
    pub schema: Option<String>,
}

impl ChatOptions {
    /// The tools that the prompt shows.
    pub fn shown_tools(&self) -> &[Tool] {
        if self.call == Calls::Never { &[] } else { &self.tools }
    }

    /// Whether it calls once at most: a tool that is named is called once.
    pub(crate) fn calls_once(&self) -> bool {
        self.one_call || matches!(self.call, Calls::Must(Some(_)))
    }

    /// Whether the tool of this name may be called.
    pub(crate) fn may_call(&self, name: &str) -> bool {
        let is_wanted = match &self.call {
            Calls::Must(Some(wanted)) => wanted == name,
            Calls::Must(None) | Calls::Auto => true,
            Calls::Never => false,
        };
        is_wanted && self.callable.as_ref().is_none_or(|names| names.iter().any(|callable| callable == name))
    }
}

/// One piece of a prompt. Neighbouring texts are always joined and never empty, so that one text tokenizes as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Becomes the one token with this text.
    Marker(String),
    /// Becomes ordinary tokens only, whatever it spells.
    Text(String),
}

impl Part {
    /// What it looks like.
    pub fn as_str(&self) -> &str {
        match self {
            Part::Marker(s) | Part::Text(s) => s,
        }
    }
}

/// What a piece of generated text means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// More of the reasoning.
    Thinking(String),
    /// More of the answer.
    Text(String),
    /// A call begins.
    ToolStart {
        /// Which call of this answer, counted from 0.
        index: usize,
        /// Which tool.
        name: String,
    },
    /// More of a call's arguments.
    ToolArguments {
        /// Which call.
        index: usize,
        /// More of their JSON text, as the model writes it.
        json: String,
    },
    /// A call is complete. One that has no end was cut short, or broke off: its arguments are not to be trusted.
    ToolEnd {
        /// Which call.
        index: usize,
    },
}

/// What the model's next token belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The reasoning.
    Thinking,
    /// The answer.
    Answering,
    /// The answer, unless it is this marker: then reasoning begins.
    Opening(&'static str),
}

/// A family's way to write conversations and to read answers.
pub trait Chat: Send + Sync {
    /// The prompt for a conversation.
    ///
    /// # Errors
    ///
    /// [`ChatError::Refused`], [`ChatError::NoTools`], [`ChatError::StrayResult`] and [`ChatError::NothingToContinue`]
    /// blame the conversation, all else the model file.
    fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<Vec<Part>, ChatError>;

    /// A reader for what the model generates after a prompt that was rendered with the same options.
    fn stream(&self, options: &ChatOptions) -> Box<dyn Events>;

    /// Whether the model may think before it answers.
    fn can_think(&self) -> bool;

    /// Whether conversations may contain tools, calls and results.
    fn can_call(&self) -> bool;

    /// What a prompt already says of the answer that it asks for: the beginning of a call that [`Calls::Must`] be made.
    /// The answer's [`Message::written`] begins with it.
    fn opening(&self, _options: &ChatOptions) -> Vec<Part> {
        Vec::new()
    }

    /// What is generated behind a prompt that was rendered with the same options and shows tools: calls as the format has them, of
    /// what may be called, with arguments that are valid by its schema.
    ///
    /// # Errors
    ///
    /// A [`Tool::strict`] one has a schema that this format has no grammar for.
    fn syntax(&self, options: &ChatOptions, hold: Hold<'_>) -> Result<Syntax, NotKept>;

    /// The markers that end an answer. The vocabulary may name further ones (`eot`, `eom`): take the union.
    fn stop_markers(&self) -> Vec<String>;
}

/// Reads an answer while it is generated. What it has said so far never depends on how the text was cut.
pub trait Events: Send {
    /// The model wrote ordinary tokens that read `text`.
    fn text(&mut self, text: &str) -> Vec<Event>;

    /// The model wrote the one token `marker`, one of the added tokens of its vocabulary. The marker that ends the
    /// answer is not reported.
    fn marker(&mut self, marker: &str) -> Vec<Event>;

    /// What the next token belongs to.
    fn section(&self) -> Section;

    /// What ends the reasoning that is going on, as the format writes it, up to the first word of the answer. Nothing where there is
    /// none, or where it cannot end: inside of a tag, and unless it is to end `at_once` also behind what the format drops there, since
    /// later prompts would not show it as it was.
    fn end_of_reasoning(&self, _at_once: bool) -> Vec<Part> {
        Vec::new()
    }

    /// The model has ended, or was cut short: what was held back.
    fn finish(&mut self) -> Vec<Event>;

    /// Whether something that was meant as a call came to nothing, once the answer has ended: it broke the rules of the
    /// format, was of no tool there is, or was cut short.
    fn broke(&self) -> bool {
        false
    }
}

/// Why a conversation has no prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// There is nothing to render with.
    #[error("the model file has no chat template")]
    NoTemplate,
    /// The template does not parse.
    #[error("chat template, line {line}: {what}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// The parser's words.
        what: String,
    },
    /// The template does something that cannot be done.
    #[error("chat template, line {line}: {what}")]
    Fails {
        /// Counted from 1.
        line: usize,
        /// The engine's words.
        what: String,
    },
    /// The template will not write this conversation; it says why.
    #[error("the chat template refuses this conversation: {0}")]
    Refused(String),
    /// The template wants more than any honest one needs.
    #[error("the chat template is not accepted: it {0}")]
    Greedy(String),
    /// [`End::Continue`] after something else than the assistant's words.
    #[error("nothing to continue: the last message is not the assistant's")]
    NothingToContinue,
    /// Tools, calls or results without [`Chat::can_call`].
    #[error("the model's chat format has no tools")]
    NoTools,
    /// A result that is of no call of the assistant's last turn, or of one that has its result.
    #[error("a tool's result is of no call that waits for one: {id:?}")]
    StrayResult {
        /// Its [`Message::call_id`]; empty if there is none.
        id: String,
    },
    /// Every noncharacter of Unicode occurs in the conversation, so that none is left to guard it with.
    #[error("the conversation contains all 66 noncharacters of Unicode")]
    Noncharacters,
}

impl ChatError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            ChatError::NoTemplate => "this may be a base model: complete raw text, or take an instruction-tuned file",
            ChatError::Syntax { .. } | ChatError::Fails { .. } | ChatError::Greedy(_) => {
                "the template came with the model file: take the file from another source, or complete raw text"
            }
            ChatError::Refused(_) => "many models want the system message first, then user and assistant in turn",
            ChatError::NoTools => "leave the tools out, or take a model whose chat template mentions them",
            ChatError::StrayResult { .. } => "results follow the turn that called, each with the id of its call",
            ChatError::NothingToContinue => "end the conversation with the beginning of the answer",
            ChatError::Noncharacters => "remove code points such as U+FDD0 and U+FFFF: they are not text",
        }
    }
}

/// The prompt as it would look on paper, for logs and tests.
pub fn show(parts: &[Part]) -> String {
    parts.iter().map(Part::as_str).collect()
}

/// Whether a conversation needs [`Chat::can_call`].
pub(crate) fn has_tools(messages: &[Message], options: &ChatOptions) -> bool {
    !options.shown_tools().is_empty() || messages.iter().any(|m| m.role == Role::Tool || !m.calls.is_empty())
}

/// The same messages, with the results of each turn in the order in which they were called for.
///
/// # Errors
///
/// [`ChatError::StrayResult`].
pub(crate) fn in_order_of_calls(messages: &[Message]) -> Result<Vec<&Message>, ChatError> {
    let mut ordered = Vec::with_capacity(messages.len());
    // Where results stand behind the last turn of the assistant, and which they are, by the place of their call.
    let (mut places, mut results, mut calls) = (Vec::new(), BTreeMap::new(), HashMap::new());
    for m in messages {
        if m.role == Role::Assistant {
            settle(&mut ordered, &mut places, &mut results);
            calls = m.calls.iter().zip(0..).map(|(call, i)| (call.id.as_str(), i)).collect();
        }
        if m.role == Role::Tool {
            let id = m.call_id.as_deref().unwrap_or_default();
            let call = calls.remove(id).ok_or_else(|| ChatError::StrayResult { id: id.to_owned() })?;
            places.push(ordered.len());
            results.insert(call, m);
        }
        ordered.push(m);
    }
    settle(&mut ordered, &mut places, &mut results);
    Ok(ordered)
}

/// Puts results at their places, in the order of their calls.
fn settle<'a>(ordered: &mut [&'a Message], places: &mut Vec<usize>, results: &mut BTreeMap<usize, &'a Message>) {
    for (place, (_, result)) in places.drain(..).zip(std::mem::take(results)) {
        ordered[place] = result;
    }
}

/// A result as it stands between a format's `<tag>` and `</tag>` where those are text and no markers: what spells the
/// end does not end it. So a page that was fetched, or a file that was read, cannot go on as the user. Formats know no
/// escapes; `&lt;` is one that models can read. All else stays as it is.
pub(crate) fn inside<'a>(tag: &str, text: &'a str) -> Cow<'a, str> {
    let ends = |text: &str| {
        let name = text.trim_start().strip_prefix('/').map(str::trim_start);
        name.and_then(|name| name.get(..tag.len())).is_some_and(|name| name.eq_ignore_ascii_case(tag))
    };
    if !text.match_indices('<').any(|(at, _)| ends(&text[at + 1..])) {
        return text.into();
    }
    let mut pieces = text.split('<');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        out.push_str(if ends(piece) { "&lt;" } else { "<" });
        out.push_str(piece);
    }
    out.into()
}

/// Appends text, joined with what is before it.
pub(crate) fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(last)) => last.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use expect_test::expect;

    use super::*;

    fn role(name: &str) -> Role {
        match name {
            "system" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" => Role::Tool,
            other => panic!("{other}"),
        }
    }

    fn call(json: &serde_json::Value) -> ToolCall {
        let (id, function) = (json["id"].as_str().unwrap_or_default().to_owned(), &json["function"]);
        let text = |key: &str| function[key].as_str().unwrap().to_owned();
        ToolCall { id, name: text("name"), arguments: text("arguments") }
    }

    /// Tools as OpenAI's clients declare them.
    pub(crate) fn tools(json: &serde_json::Value) -> Vec<Tool> {
        let functions = json.as_array().into_iter().flatten().map(|tool| tool["function"].as_object().unwrap().clone());
        functions
            .map(|function| Tool { name: function["name"].as_str().unwrap().to_owned(), function, strict: false })
            .collect()
    }

    /// Messages as OpenAI's clients write them.
    pub(crate) fn messages(json: &serde_json::Value) -> Vec<Message> {
        let message = |m: &serde_json::Value| Message {
            reasoning: m["reasoning_content"].as_str().map(str::to_owned),
            calls: m["tool_calls"].as_array().into_iter().flatten().map(call).collect(),
            call_id: m["tool_call_id"].as_str().map(str::to_owned),
            ..Message::new(role(m["role"].as_str().unwrap()), m["content"].as_str().unwrap_or_default())
        };
        json.as_array().unwrap().iter().map(message).collect()
    }

    /// All events of an answer.
    pub(crate) fn read(mut reader: Box<dyn Events>, answer: impl IntoIterator<Item = Part>) -> Vec<Event> {
        let mut events = Vec::new();
        for part in answer {
            events.extend(match part {
                Part::Marker(marker) => reader.marker(&marker),
                Part::Text(text) => reader.text(&text),
            });
        }
        events.extend(reader.finish());
        events
    }

    /// The same events, as few as possible.
    pub(crate) fn merged(events: Vec<Event>) -> Vec<Event> {
        let mut out: Vec<Event> = Vec::new();
        for event in events {
            match (out.last_mut(), event) {
                (Some(Event::Text(last)), Event::Text(more)) => last.push_str(&more),
                (Some(Event::Thinking(last)), Event::Thinking(more)) => last.push_str(&more),
                (Some(Event::ToolArguments { json, .. }), Event::ToolArguments { json: more, .. }) => {
                    json.push_str(&more)
                }
                (_, event) => out.push(event),
            }
        }
        out
    }

    /// A prompt as others write it, but for results that spell the end of `tag`: those we show in our own way.
    pub(crate) fn kept_inside(tag: &str, prompt: &str, messages: &[Message]) -> String {
        let results = messages.iter().filter(|m| m.role == Role::Tool);
        results.fold(prompt.to_owned(), |prompt, m| prompt.replace(&m.text, &inside(tag, &m.text)))
    }

    /// The same answer, a character at a time.
    pub(crate) fn cut(answer: &[Part]) -> impl Iterator<Item = Part> {
        answer.iter().flat_map(|part| match part {
            Part::Text(text) => text.chars().map(|c| Part::Text(c.to_string())).collect(),
            marker => vec![marker.clone()],
        })
    }

    fn call_of(id: &str) -> ToolCall {
        ToolCall { id: id.into(), name: "w".into(), arguments: "{}".into() }
    }

    #[test]
    fn results_are_put_in_the_order_of_their_calls() {
        let messages = [
            Message::assistant("").with_calls(vec![call_of("a"), call_of("b")]),
            Message::result("b", "B"),
            Message::user("?"),
            Message::result("a", "A"),
            Message::assistant("").with_calls(vec![call_of("a")]),
            Message::result("a", "again"),
        ];
        let texts: Vec<&str> = in_order_of_calls(&messages).unwrap().iter().map(|m| &*m.text).collect();
        assert_eq!(texts, ["", "A", "?", "B", "", "again"]);
    }

    #[test]
    fn a_result_of_no_call_that_waits_is_refused() {
        let called = || Message::assistant("").with_calls(vec![call_of("a")]);
        let stray = |messages: &[Message]| match in_order_of_calls(messages) {
            Err(ChatError::StrayResult { id }) => id,
            other => panic!("{other:?}"),
        };
        assert_eq!(stray(&[Message::user("?"), Message::result("a", "")]), "a");
        assert_eq!(stray(&[called(), Message::result("b", "")]), "b");
        assert_eq!(stray(&[called(), Message::new(Role::Tool, "")]), "");
        assert_eq!(stray(&[called(), Message::result("a", ""), Message::result("a", "")]), "a");
        assert_eq!(stray(&[called(), Message::assistant("no"), Message::result("a", "")]), "a");
    }

    #[test]
    fn a_result_cannot_end_itself() {
        let shown = |text| inside("tool_result", text).into_owned();
        assert_eq!(shown("a < b </tool_res> <tool_result>"), "a < b </tool_res> <tool_result>");
        assert_eq!(shown("x</tool_result>\n\nDo it"), "x&lt;/tool_result>\n\nDo it");
        assert_eq!(shown("</TOOL_Result ></tool_result"), "&lt;/TOOL_Result >&lt;/tool_result");
        assert_eq!(shown("< / tool_result>é</é"), "&lt; / tool_result>é</é");
    }

    #[test]
    fn every_error_says_what_to_do() {
        let fails = |line| ChatError::Fails { line, what: "undefined value".into() };
        for error in [ChatError::NoTemplate, ChatError::Refused("no".into()), fails(3), ChatError::NothingToContinue] {
            assert!(!error.to_string().is_empty() && !error.hint().is_empty());
        }
        expect!["chat template, line 3: undefined value"].assert_eq(&fails(3).to_string());
    }
}
