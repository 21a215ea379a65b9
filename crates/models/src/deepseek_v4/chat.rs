//! The chat encoding of DeepSeek V4.
//!
//! ```text
//! BOS [effort text] [system text] <｜User｜>question<｜Assistant｜><think>reasoning</think>answer EOS <｜User｜>...
//! ```
//!
//! Without the spaces, and without a newline anywhere around the markers. System text has no marker: it stands where it
//! is said. A prompt that asks for an answer ends with `<｜Assistant｜>` and `<think>` to let the model think or
//! `</think>` to have it answer at once, and so does every earlier turn: reasoning is shown to the model only after the
//! last user message, before that a turn reads `</think>answer`.
//!
//! The rules are those of `encoding_dsv4.py`, published with the weights, except where that has none: text that follows
//! a user message or other system text is set off by an empty line, and the assistant's turn is always opened, whoever
//! spoke last. Sources: `testdata/chat/README.md`.

use crate::chat::{
    Chat, ChatError, ChatOptions, Effort, End, Events, Message, Part, Role, THINK, THINK_END, ThinkReader, push_text,
};

const BOS: &str = "<｜begin▁of▁sentence｜>";
const EOS: &str = "<｜end▁of▁sentence｜>";
const USER: &str = "<｜User｜>";
const ASSISTANT: &str = "<｜Assistant｜>";

const THOROUGH: &str = "\
Reasoning Effort: Absolute maximum with no shortcuts permitted.
You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, \
rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.
Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, \
and rejected hypothesis to ensure absolutely no assumption is left unchecked.

";

const RELENTLESS: &str = "\
Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.
You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose the \
problem into its most fundamental components, trace every causal chain to its root, and resolve the underlying cause \
rather than any surface symptom.
Do not stop reasoning until you have independently verified the solution from multiple angles and are certain that no \
assumption remains unchecked and no error remains undiscovered.

";

/// Which weights: the same effort is asked for in different words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Flash and Pro of April 2026, and Flash-DSpark, which shares their trunk.
    April,
    /// Flash-0731, Pro-0813 and Vision-Exp.
    July,
}

impl Release {
    /// The release that a model file is of, by its template if it has one and else by its name.
    pub fn of(name: &str, template: Option<&str>) -> Release {
        let july = |name: &str| ["0731", "0813", "vision"].iter().any(|part| name.contains(part));
        match template {
            Some(template) if template.contains("Reasoning Effort: Beyond maximum") => Release::July,
            Some(template) if template.contains("Reasoning Effort: Absolute maximum") => Release::April,
            _ if july(&name.to_lowercase()) => Release::July,
            _ => Release::April,
        }
    }

    fn effort_text(self, effort: Option<Effort>) -> &'static str {
        match (self, effort) {
            (_, None | Some(Effort::Low)) | (Release::April, Some(Effort::High)) => "",
            (Release::April, Some(Effort::Max)) | (Release::July, Some(Effort::High)) => THOROUGH,
            (Release::July, Some(Effort::Max)) => RELENTLESS,
        }
    }
}

/// DeepSeek V4's [`Chat`].
#[derive(Clone, Copy, Debug)]
pub struct DeepSeekV4 {
    /// Decides about the effort text.
    pub release: Release,
}

impl Chat for DeepSeekV4 {
    fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<Vec<Part>, ChatError> {
        let last_user = messages.iter().rposition(|m| m.role == Role::User);
        let mut prompt = Prompt { parts: Vec::new(), said: None };
        prompt.marker(BOS);
        if options.thinking {
            prompt.text(self.release.effort_text(options.effort));
        }
        for (i, m) in messages.iter().enumerate() {
            match m.role {
                Role::System if m.text.is_empty() => continue,
                Role::System => prompt.system(&m.text),
                Role::User => prompt.user(&m.text),
                Role::Assistant => {
                    let thought = options.thinking && last_user.is_none_or(|user| i > user);
                    prompt.assistant(m, thought);
                    if i + 1 < messages.len() || options.end != End::Continue {
                        prompt.marker(EOS);
                    }
                }
            }
            prompt.said = Some(m.role);
        }
        match options.end {
            End::Answer => {
                prompt.marker(ASSISTANT);
                prompt.marker(if options.thinking { THINK } else { THINK_END });
            }
            End::Continue if prompt.said != Some(Role::Assistant) => return Err(ChatError::NothingToContinue),
            End::Continue | End::Closed => {}
        }
        Ok(prompt.parts)
    }

    fn stream(&self, options: &ChatOptions) -> Box<dyn Events> {
        Box::new(match options.end {
            End::Continue => ThinkReader::continuing(),
            _ if options.thinking => ThinkReader::thinking(false),
            _ => ThinkReader::answering(),
        })
    }

    fn can_think(&self) -> bool {
        true
    }

    fn stop_markers(&self) -> Vec<String> {
        vec![EOS.to_owned()]
    }
}

struct Prompt {
    parts: Vec<Part>,
    /// Who spoke last.
    said: Option<Role>,
}

impl Prompt {
    fn marker(&mut self, marker: &str) {
        self.parts.push(Part::Marker(marker.to_owned()));
    }

    fn text(&mut self, text: &str) {
        push_text(&mut self.parts, text);
    }

    fn system(&mut self, text: &str) {
        if matches!(self.said, Some(Role::System | Role::User)) {
            self.text("\n\n");
        }
        self.text(text);
    }

    fn user(&mut self, text: &str) {
        match self.said {
            Some(Role::User) => self.text("\n\n"),
            _ => self.marker(USER),
        }
        self.text(text);
    }

    fn assistant(&mut self, m: &Message, thought: bool) {
        self.marker(ASSISTANT);
        if thought {
            self.marker(THINK);
            self.text(m.reasoning.as_deref().unwrap_or_default());
        }
        self.marker(THINK_END);
        self.text(&m.text);
    }
}
