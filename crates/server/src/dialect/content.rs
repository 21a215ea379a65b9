//! What conversations are made of: what dialects share in reading them.

use std::collections::{HashMap, HashSet};

use engine::SamplerOptions;
use models::{Calls, ChatOptions, Effort, End, Message, Role, Tool, ToolCall};
use serde_json::Value;

use crate::{
    app::Model,
    ask::{Ask, Form, Prompt},
    error::Refusal,
    fields::{Field, Fields, Kind, acts, nothing},
    seal::{Sealer, Tampered},
};

/// A conversation, and what is wished of its next answer.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Message>,
    pub(crate) tools: Vec<Tool>,
    pub(crate) choice: ToolChoice,
    /// What the answer must look like.
    pub(crate) form: Option<Form>,
    /// Whether to reason; the model's own way if nobody says.
    pub(crate) thinking: Option<bool>,
    pub(crate) effort: Option<Effort>,
    /// The most tokens of reasoning; the server's own if nobody says.
    pub(crate) n_reasoning_max: Option<usize>,
    pub(crate) end: End,
}

impl Conversation {
    /// How the model is asked it.
    ///
    /// # Errors
    /// It cannot do as is wished.
    pub(crate) fn ask(self, model: &Model, sampling: SamplerOptions) -> Result<Ask, Refusal> {
        let Conversation { messages, tools, choice, form, thinking, effort, n_reasoning_max, end } = self;
        let ToolChoice { call, callable, one_call } = choice;
        let raw = form.as_ref().filter(|form| form.rule.is_raw());
        if let Some(form) = raw.filter(|_| n_reasoning_max.is_some_and(|n| n < usize::MAX)) {
            return Err(Refusal::field(&form.field, "is of the reasoning, too, so that no budget of it can be kept"));
        }
        let asks =
            one_call || callable.is_some() || matches!(call, Calls::Must(_)) || tools.iter().any(|tool| tool.strict);
        if let Some(form) = raw.filter(|_| asks && call != Calls::Never && !tools.is_empty()) {
            let why = "is of the calls, too, so that nothing else can be asked of them";
            return Err(Refusal::field(&form.field, why));
        }
        let n_reasoning_max = n_reasoning_max.or(model.n_reasoning_max).filter(|_| raw.is_none());
        let wishes = match n_reasoning_max {
            // Who always reasons has its reasoning ended at once.
            Some(0) => model.chat_options(Some(false), None).or_else(|_| model.chat_options(thinking, effort)),
            _ => model.chat_options(thinking, effort),
        };
        let schema = form.as_ref().and_then(|form| form.rule.schema());
        let options = ChatOptions { tools, call, callable, one_call, end, schema, ..wishes? };
        Ok(Ask { form, n_reasoning_max, ..Ask::new(Prompt::Chat(messages, options), sampling) })
    }
}

/// Which calls the next answer is to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ToolChoice {
    pub(crate) call: Calls,
    /// Of these tools only.
    pub(crate) callable: Option<Vec<String>>,
    /// One at most.
    pub(crate) one_call: bool,
}

impl ToolChoice {
    /// # Errors
    /// Calls are to be made that cannot be.
    pub(crate) fn check(self, tools: &[Tool]) -> Result<ToolChoice, &'static str> {
        let is_tool = |name: &String| tools.iter().any(|tool| tool.name == *name);
        match (&self.call, &self.callable) {
            (Calls::Must(_), _) if tools.is_empty() => Err("there are no tools to call"),
            (Calls::Must(Some(name)), _) if !is_tool(name) => Err("names none of the tools"),
            (_, Some(names)) if names.is_empty() || !names.iter().all(is_tool) => {
                Err("allows what is none of the tools")
            }
            _ => Ok(self),
        }
    }
}

/// What `word` chooses: `auto`, `none`, or `required`, which some call `any`.
pub(crate) fn chosen(word: &str) -> Option<ToolChoice> {
    let call = match word {
        "auto" => Calls::Auto,
        "none" => Calls::Never,
        "required" | "any" => Calls::Must(None),
        _ => return None,
    };
    Some(ToolChoice { call, ..ToolChoice::default() })
}

/// What OpenAI's `tool_choice` says in a word, or by not being there; nothing if it is an object.
///
/// # Errors
/// It is another word.
pub(crate) fn word_of_choice(fields: &Fields<'_>) -> Result<Option<ToolChoice>, Refusal> {
    match fields.any("tool_choice") {
        None => Ok(Some(ToolChoice::default())),
        Some(Value::String(word)) => {
            let other = || fields.refuse("tool_choice", "must be auto, none, required, a function, or allowed_tools");
            chosen(word).ok_or_else(other).map(Some)
        }
        Some(_) => Ok(None),
    }
}

/// The calls of the assistant's last turn, and which of them have their result: a result is of one that has none yet.
/// Agents match by ids, and a result that went to another call would be believed.
#[derive(Debug, Default)]
pub(crate) struct Called {
    /// Places in `calls`.
    ids: HashMap<String, usize>,
    /// Ids, names, and whether there is a result.
    calls: Vec<(String, String, bool)>,
}

/// The most calls in a turn.
const N_CALLS_MAX: usize = 4096;

impl Called {
    /// Another turn of the assistant begins.
    pub(crate) fn begin(&mut self) {
        *self = Called::default();
    }

    /// It calls.
    ///
    /// # Errors
    /// What is wrong with its id.
    pub(crate) fn call(&mut self, call: &ToolCall) -> Result<(), &'static str> {
        if self.calls.len() == N_CALLS_MAX {
            return Err("is of a turn with more than 4096 calls");
        }
        if self.ids.insert(call.id.clone(), self.calls.len()).is_some() {
            return Err("is the id of another call of that turn, too");
        }
        self.calls.push((call.id.clone(), call.name.clone(), false));
        Ok(())
    }

    /// A call has its result.
    ///
    /// # Errors
    /// There is no such call, or it has one.
    pub(crate) fn result(&mut self, id: &str) -> Result<(), &'static str> {
        let call = self.ids.get(id).map(|&i| &mut self.calls[i]);
        match call {
            None => Err("is the id of no call of the assistant's last turn"),
            Some((.., answered)) if *answered => Err("is the id of a call that has its result already"),
            Some((.., answered)) => {
                *answered = true;
                Ok(())
            }
        }
    }

    /// The first call without a result, of the tool `name` if there is one.
    pub(crate) fn waiting(&self, name: Option<&str>) -> Option<&str> {
        let waits = |(_, of, answered): &&(String, String, bool)| !answered && name.is_none_or(|name| name == of);
        self.calls.iter().find(waits).map(|(id, ..)| id.as_str())
    }
}

/// Refuses what a message says that only those of another role can: it would change nothing.
///
/// # Errors
/// It says one of `names`, without being of that role.
pub(crate) fn check_role(fields: &Fields<'_>, is_of_role: bool, names: &[&str], whose: &str) -> Result<(), Refusal> {
    let says = |name: &&&str| match fields.any(name) {
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(all)) => !all.is_empty(),
        value => value.is_some(),
    };
    match names.iter().find(says) {
        Some(name) if !is_of_role => Err(fields.refuse(name, &format!("only {whose} message can have it"))),
        _ => Ok(()),
    }
}

/// Messages as turns: what one speaker says in several pieces is one message, in paragraphs.
#[derive(Debug)]
pub(crate) struct Turns<'a> {
    messages: Vec<Message>,
    called: Called,
    sealer: &'a Sealer,
}

impl Turns<'_> {
    /// None yet; reasoning may be sealed.
    pub(crate) fn new(sealer: &Sealer) -> Turns<'_> {
        Turns { messages: Vec::new(), called: Called::default(), sealer }
    }

    /// The system or the user says more.
    pub(crate) fn say(&mut self, role: Role, text: &str) {
        match self.messages.last_mut() {
            _ if text.is_empty() => {}
            Some(last) if last.role == role => add_paragraph(&mut last.text, text),
            _ => self.messages.push(Message::new(role, text)),
        }
    }

    /// The assistant's turn that is going on, or a new one.
    pub(crate) fn assistant(&mut self) -> &mut Message {
        if self.messages.last().is_none_or(|last| last.role != Role::Assistant) {
            self.messages.push(Message::assistant(""));
            self.called.begin();
        }
        self.messages.last_mut().expect("one was there or pushed")
    }

    /// The assistant thinks more.
    pub(crate) fn think(&mut self, text: &str) {
        if !text.is_empty() {
            add_paragraph(self.assistant().reasoning.get_or_insert_default(), text);
        }
    }

    /// The assistant thinks more: what is sealed here, or if that is not ours, what is told beside it.
    ///
    /// # Errors
    /// Somebody changed what was sealed.
    pub(crate) fn think_again(&mut self, sealed: &str, told: &str) -> Result<(), &'static str> {
        let ours =
            self.sealer.open(sealed).map_err(|Tampered| "was changed: send it back as it came, or leave it out")?;
        self.think(ours.filter(|text| !text.is_empty()).unwrap_or(told));
        Ok(())
    }

    /// The assistant calls.
    ///
    /// # Errors
    /// What is wrong with the call's id.
    pub(crate) fn call(&mut self, call: ToolCall) -> Result<(), &'static str> {
        self.assistant().calls.push(call.clone());
        self.called.call(&call)
    }

    /// What came of a call.
    ///
    /// # Errors
    /// What is wrong with its id.
    pub(crate) fn result(&mut self, call_id: &str, text: String) -> Result<(), &'static str> {
        self.messages.push(Message::result(call_id, text));
        self.called.result(call_id)
    }

    /// Who spoke last.
    pub(crate) fn last(&self) -> Option<&Message> {
        self.messages.last()
    }

    pub(crate) fn into_messages(self) -> Vec<Message> {
        self.messages
    }
}

/// Adds a paragraph to a text.
pub(crate) fn add_paragraph(text: &mut String, more: &str) {
    if !text.is_empty() && !more.is_empty() {
        text.push_str("\n\n");
    }
    text.push_str(more);
}

/// What something of this kind is called in an error.
pub(crate) fn shown(kind: &str) -> String {
    kind.escape_debug().take(32).collect()
}

/// How hard to reason, in words.
pub(crate) const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// What our models call an effort.
pub(crate) fn effort_of(word: &str) -> Effort {
    match word {
        "minimal" | "low" => Effort::Low,
        "max" => Effort::Max,
        _ => Effort::High,
    }
}

/// The most letters of a function's name.
const NAME_BYTES_MAX: usize = 128;

/// The name of something that is at `path`: one that every format can write between marks of its own.
pub(crate) fn name(of: &Value, path: &str) -> Result<String, Refusal> {
    let is_sound = |c: char| c.is_ascii_alphanumeric() || "_-.:/".contains(c);
    let name = of.get("name").and_then(Value::as_str);
    let name = name.filter(|name| (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_sound));
    let allowed = format!("must be a name of 1 to {NAME_BYTES_MAX} letters, digits and _ - . : /");
    name.map(str::to_owned).ok_or_else(|| Refusal::field(&format!("{path}.name"), &allowed))
}

/// A function with a name.
pub(crate) fn named(function: &Value, path: &str) -> Result<Tool, Refusal> {
    let name = name(function, path)?;
    if function.get("parameters").is_some_and(|schema| !schema.is_object() && !schema.is_null()) {
        return Err(Refusal::field(&format!("{path}.parameters"), "must be an object"));
    }
    if function.get("strict").is_some_and(|strict| !strict.is_boolean() && !strict.is_null()) {
        return Err(Refusal::field(&format!("{path}.strict"), "must be true or false"));
    }
    let function = function.as_object().expect("it has a field").clone();
    let strict = function.get("strict") == Some(&Value::Bool(true));
    Ok(Tool { name, function, strict })
}

/// Refuses tools of which two have the same name: nobody could tell which of them is called.
///
/// # Errors
/// Two have.
pub(crate) fn check_names(tools: &[Tool], fields: &Fields<'_>) -> Result<(), Refusal> {
    let mut names = HashSet::new();
    match tools.iter().find(|tool| !names.insert(&tool.name)) {
        Some(twice) => Err(fields.refuse("tools", &format!("two of them are called {}", shown(&twice.name)))),
        None => Ok(()),
    }
}

/// Whether probabilities are to be told, and of how many tokens each time.
pub(crate) fn logprobs(fields: &Fields<'_>) -> Result<Option<usize>, Refusal> {
    match (fields.flag("logprobs").unwrap_or(false), fields.int("top_logprobs")) {
        (true, n_top) => Ok(Some(n_top.unwrap_or(0) as usize)),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(fields.refuse("top_logprobs", "is for requests with logprobs")),
    }
}

/// A text, or the texts of parts, one after another.
pub(crate) fn text(content: &Value, path: &str) -> Result<String, Refusal> {
    const PART: &[&[Field]] = &[&[
        acts("type", Kind::Str, "text, or as Responses has it input_text and output_text."),
        acts("text", Kind::Str, "The text."),
        nothing("cache_control", "what is known of a prompt is found by its tokens"),
        nothing("annotations", "they are about a text, not part of it"),
        nothing("logprobs", "they are about a text, not part of it"),
    ]];
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let part = |(i, part): (usize, &Value)| {
                let path = format!("{path}[{i}]");
                match part["type"].as_str() {
                    Some("text" | "input_text" | "output_text") => {
                        let fields = Fields::at(part, &path, PART)?;
                        Ok(fields.needed("text")?.as_str().expect("the table says so").to_owned())
                    }
                    Some(kind) => {
                        let why = format!("parts of type {} cannot be read: the model reads text only", shown(kind));
                        Err(Refusal::field(&path, &why))
                    }
                    None => Err(Refusal::field(&format!("{path}.type"), "is missing")),
                }
            };
            parts.iter().enumerate().map(part).collect()
        }
        _ => Err(Refusal::field(path, "must be a string, or an array of parts")),
    }
}

/// Conversations on paper, for tests.
#[cfg(test)]
pub(crate) fn show(conversation: &Conversation) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for m in &conversation.messages {
        let role = format!("{:?}", m.role).to_lowercase();
        let id = m.call_id.as_ref().map(|id| format!(" {id}")).unwrap_or_default();
        if let Some(reasoning) = &m.reasoning {
            writeln!(out, "{role} thinks {reasoning:?}").unwrap();
        }
        writeln!(out, "{role}{id} {:?}", m.text).unwrap();
        for call in &m.calls {
            writeln!(out, "{role} calls {} {} {}", call.id, call.name, call.arguments).unwrap();
        }
    }
    for tool in &conversation.tools {
        writeln!(out, "tool {}", Value::Object(tool.function.clone())).unwrap();
    }
    let Conversation { choice: ToolChoice { call, callable, one_call }, form, thinking, effort, end, .. } =
        conversation;
    if let Some(form) = form {
        writeln!(out, "{} {:?}", form.field, form.rule).unwrap();
    }
    if let Some(callable) = callable {
        writeln!(out, "callable {callable:?}").unwrap();
    }
    if let Some(n) = conversation.n_reasoning_max {
        writeln!(out, "at most {n} tokens of reasoning").unwrap();
    }
    writeln!(out, "call {call:?}, one {one_call}, thinking {thinking:?}, effort {effort:?}, end {end:?}").unwrap();
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn content_is_a_text_or_parts_of_text() {
        let read = |content: Value| text(&content, "messages[0].content").map_err(|refusal| refusal.message);
        assert_eq!(read(json!("a")), Ok("a".into()));
        assert_eq!(read(json!([{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}])), Ok("ab".into()));
        assert_eq!(
            read(json!([{"type": "image_url", "image_url": {"url": "x"}}])),
            Err("messages[0].content[0]: parts of type image_url cannot be read: the model reads text only".into())
        );
        assert_eq!(read(json!([{"type": "text"}])), Err("messages[0].content[0].text: is missing".into()));
        assert_eq!(read(json!(7)), Err("messages[0].content: must be a string, or an array of parts".into()));
    }
    #[test]
    fn turns_take_pieces_together() {
        let sealer = Sealer::new([0; 32]);
        let mut turns = Turns::new(&sealer);
        turns.say(Role::System, "a");
        turns.say(Role::System, "");
        turns.say(Role::System, "b");
        turns.think("why");
        turns.assistant().text.push_str("so");
        for id in ["1", "2"] {
            turns.call(ToolCall { id: id.into(), name: "f".into(), arguments: "{}".into() }).unwrap();
        }
        turns.result("1", "x".into()).unwrap();
        turns.result("2", "y".into()).unwrap();
        let shown = |m: &Message| (m.role, m.text.clone());
        assert_eq!(
            turns.into_messages().iter().map(shown).collect::<Vec<_>>(),
            [
                (Role::System, "a\n\nb".into()),
                (Role::Assistant, "so".into()),
                (Role::Tool, "x".into()),
                (Role::Tool, "y".into())
            ]
        );
    }
}
