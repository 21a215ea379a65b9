//! A conversation becomes a prompt.

use serde_json::{Map, Value};

use super::{ASSISTANT, BOS, DSML, EOS, USER};
use crate::chat::{
    ChatError, ChatOptions, End, Message, Part, Role, THINK, THINK_END, Tool, ToolCall, in_order_of_calls, inside,
    push_text,
};
use crate::json::to_python;

/// In front of the declarations of tools. `*` is [`DSML`].
const TOOLS: &str = "## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a \
\"<*tool_calls>\" block like the following:

<*tool_calls>
<*invoke name=\"$TOOL_NAME\">
<*parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</*parameter>
...
</*invoke>
<*invoke name=\"$TOOL_NAME2\">
...
</*invoke>
</*tool_calls>

String parameters should be specified as is and set `string=\"true\"`. For all other types (numbers, booleans, arrays, \
objects), pass the value in JSON format and set `string=\"false\"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside <think>...</think> \
BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

";

/// Behind them.
const TOOLS_END: &str = "
You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
";

/// In front of calls.
const CALLS: &str = "\n\n<*tool_calls>\n";

const SCHEMA: &str = "## Response Format:

You MUST strictly adhere to the following schema to reply:
";

/// In place of a schema that any object meets.
const ANY_OBJECT: &str = "You are a helpful assistant designed to output JSON.
## Response Format:

Reply with JSON object ONLY.";

/// A prompt that is being written.
#[derive(Default)]
pub(super) struct Prompt {
    parts: Vec<Part>,
    /// Who spoke last.
    said: Option<Role>,
}

impl Prompt {
    /// All but the end of a prompt, without what is said about effort: that is `effort`.
    ///
    /// # Errors
    ///
    /// [`ChatError::NothingToContinue`], [`ChatError::StrayResult`].
    pub(super) fn of(messages: &[Message], options: &ChatOptions, effort: &str) -> Result<Prompt, ChatError> {
        let mut prompt = Prompt::default();
        prompt.marker(BOS);
        prompt.text(effort);
        let n_opening = messages.iter().take_while(|m| m.role == Role::System).count();
        let (opening, said) = messages.split_at(n_opening);
        prompt.opening(opening, options);
        let keeps_all = !options.shown_tools().is_empty();
        let last_asked = said.iter().rposition(|m| matches!(m.role, Role::User | Role::Tool));
        for (i, m) in in_order_of_calls(said)?.into_iter().enumerate() {
            match m.role {
                Role::System if m.text.is_empty() => continue,
                Role::System => prompt.system(&m.text),
                Role::User => prompt.user(&m.text),
                Role::Tool => prompt.user(&format!("<tool_result>{}</tool_result>", inside("tool_result", &m.text))),
                Role::Assistant => {
                    prompt.assistant(m, options.thinking && (keeps_all || last_asked.is_none_or(|asked| i > asked)));
                    if i + 1 < said.len() || options.end != End::Continue {
                        prompt.marker(EOS);
                    }
                }
            }
            prompt.said = Some(m.role);
        }
        match options.end {
            End::Continue if prompt.said != Some(Role::Assistant) => Err(ChatError::NothingToContinue),
            _ => Ok(prompt),
        }
    }

    /// The beginning of calls, of the tool `name` if there is one.
    pub(super) fn of_call(name: Option<&str>) -> Vec<Part> {
        let mut prompt = Prompt::default();
        prompt.words(CALLS);
        if let Some(name) = name {
            prompt.begin_call(name);
        }
        prompt.parts
    }

    pub(super) fn marker(&mut self, marker: &str) {
        self.parts.push(Part::Marker(marker.to_owned()));
    }

    fn text(&mut self, text: &str) {
        push_text(&mut self.parts, text);
    }

    pub(super) fn parts(&mut self, parts: &[Part]) {
        for part in parts {
            match part {
                Part::Marker(marker) => self.marker(marker),
                Part::Text(text) => self.text(text),
            }
        }
    }

    pub(super) fn into_parts(self) -> Vec<Part> {
        self.parts
    }

    /// Our own words, in which `*` is [`DSML`] and what looks like a mark of thinking is one.
    fn words(&mut self, words: &str) {
        let mut rest = words;
        let marks = [("*", DSML), (THINK, THINK), (THINK_END, THINK_END)];
        let first = |rest: &str| marks.iter().filter_map(|(mark, is)| Some((rest.find(mark)?, *is, mark.len()))).min();
        while let Some((at, marker, len)) = first(rest) {
            self.text(&rest[..at]);
            self.marker(marker);
            rest = &rest[at + len..];
        }
        self.text(rest);
    }

    /// What stands before the first question: system texts, tools and the form of the answer.
    fn opening(&mut self, system: &[Message], options: &ChatOptions) {
        for m in system.iter().filter(|m| !m.text.is_empty()) {
            self.system(&m.text);
            self.said = Some(Role::System);
        }
        if !options.shown_tools().is_empty() {
            self.text("\n\n");
            self.tools(options.shown_tools());
        }
        if let Some(schema) = &options.schema {
            self.text("\n\n");
            self.schema(schema);
        }
    }

    fn tools(&mut self, tools: &[Tool]) {
        self.words(TOOLS);
        for tool in tools {
            self.text(&to_python(&Value::Object(tool.function.clone())));
            self.text("\n");
        }
        self.words(TOOLS_END);
    }

    fn schema(&mut self, schema: &str) {
        match serde_json::from_str::<Value>(schema) {
            Ok(value) if value == serde_json::json!({ "type": "object" }) => self.text(ANY_OBJECT),
            Ok(value) => self.text(&(SCHEMA.to_owned() + &to_python(&value))),
            Err(_) => self.text(&(SCHEMA.to_owned() + schema)),
        }
    }

    fn system(&mut self, text: &str) {
        if matches!(self.said, Some(Role::System | Role::User | Role::Tool)) {
            self.text("\n\n");
        }
        self.text(text);
    }

    /// A question or a result; one behind another is in the same turn.
    fn user(&mut self, text: &str) {
        match self.said {
            Some(Role::User | Role::Tool) => self.text("\n\n"),
            _ => self.marker(USER),
        }
        self.text(text);
    }

    fn assistant(&mut self, m: &Message, shows_reasoning: bool) {
        self.marker(ASSISTANT);
        match &m.written {
            Some(written) if self.written(m, written, shows_reasoning) => {}
            _ => {
                if shows_reasoning {
                    self.marker(THINK);
                    self.text(m.reasoning.as_deref().unwrap_or_default());
                }
                self.marker(THINK_END);
                self.text(&m.text);
                self.calls(&m.calls);
            }
        }
    }

    /// Shows a turn as it was written. Tells whether it can: where reasoning is not to be seen, its end has to be.
    fn written(&mut self, m: &Message, written: &[Part], shows_reasoning: bool) -> bool {
        let end = written.iter().position(|part| *part == Part::Marker(THINK_END.to_owned()));
        let thought = m.reasoning.is_some() || end.is_some();
        let shown = match end {
            _ if shows_reasoning || !thought => written,
            Some(end) => &written[end + 1..],
            None => return false,
        };
        self.marker(if thought && shows_reasoning { THINK } else { THINK_END });
        self.parts(shown);
        true
    }

    fn calls(&mut self, calls: &[ToolCall]) {
        if calls.is_empty() {
            return;
        }
        self.words(CALLS);
        for call in calls {
            self.begin_call(&call.name);
            for (i, (key, value)) in arguments(call).iter().enumerate() {
                if i > 0 {
                    self.text("\n");
                }
                self.parameter(key, value);
            }
            self.words("\n</*invoke>\n");
        }
        self.words("</*tool_calls>");
    }

    fn begin_call(&mut self, name: &str) {
        self.words("<*invoke name=\"");
        self.text(name);
        self.text("\">\n");
    }

    fn parameter(&mut self, key: &str, value: &Value) {
        self.words("<*parameter name=\"");
        self.text(key);
        match value {
            Value::String(value) => self.text(&format!("\" string=\"true\">{value}")),
            value => self.text(&format!("\" string=\"false\">{}", to_python(value))),
        }
        self.words("</*parameter>");
    }
}

/// What is no object is one parameter by the name of all of them.
fn arguments(call: &ToolCall) -> Map<String, Value> {
    serde_json::from_str(&call.arguments)
        .unwrap_or_else(|_| Map::from_iter([("arguments".to_owned(), Value::from(call.arguments.as_str()))]))
}
