//! What was said, and how the next answer is to be: what a conversation consists of, at a terminal or not.

use std::{
    io::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use models::{ChatOptions, Event, Message, grant};

use crate::{
    error::Error,
    sessions::{Held, Saved},
    speaker::{Ask, Reply, Speaker, show},
    terminal::Screen,
    units,
};

/// Messages, and where they are kept if they have a name.
pub(crate) struct Dialogue {
    /// Of the messages, those before the first question, which are never forgotten.
    n_opening: usize,
    pub(crate) messages: Vec<Message>,
    pub(crate) options: ChatOptions,
    pub(crate) held: Option<Held>,
}

/// What flags say of a conversation. What they leave open is as it was.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    /// Messages before the first question.
    pub(crate) opening: Option<Vec<Message>>,
    /// Whether and how hard to reason.
    pub(crate) options: Option<ChatOptions>,
}

impl Dialogue {
    /// Begins after `opening`.
    pub(crate) fn new(opening: Vec<Message>, options: ChatOptions) -> Dialogue {
        Dialogue { n_opening: opening.len(), messages: opening, options, held: None }
    }

    /// How many messages there are behind the opening.
    pub(crate) fn n_said(&self) -> usize {
        self.messages.len() - self.n_opening
    }

    /// Forgets all but the opening.
    pub(crate) fn clear(&mut self, speaker: &mut dyn Speaker) {
        self.messages.truncate(self.n_opening);
        speaker.recall(Vec::new());
    }

    /// Puts a question, and keeps it with the answer if there was one, which is told with the reply.
    ///
    /// # Errors
    /// As [`show`]; then the question is forgotten.
    pub(crate) fn ask<W: Write>(
        &mut self,
        speaker: &mut dyn Speaker,
        screen: &mut Screen<W>,
        text: String,
    ) -> Result<(Reply, bool), Error> {
        self.messages.push(Message::user(text));
        let (mut reasoning, mut answer) = (String::new(), String::new());
        let ask = Ask::Turn(&self.messages, &self.options);
        let reply = show(speaker, ask, screen, |event| match event {
            Event::Thinking(text) => reasoning.push_str(text),
            Event::Text(text) => answer.push_str(text),
            // No tools are offered here.
            Event::ToolStart { .. } | Event::ToolArguments { .. } | Event::ToolEnd { .. } => {}
        });
        let kept = reply.is_ok() && !answer.is_empty();
        if kept {
            let message = Message::assistant(answer);
            self.messages.push(if reasoning.is_empty() { message } else { message.with_reasoning(reasoning) });
        } else {
            self.messages.pop();
        }
        reply.map(|reply| (reply, kept))
    }

    /// Writes the conversation to its file, if it has a name.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(crate) fn save(&self, speaker: &dyn Speaker) -> Result<(), Error> {
        self.held.as_ref().map_or(Ok(()), |held| held.save(&self.saved(speaker)))
    }

    fn saved(&self, speaker: &dyn Speaker) -> Saved {
        Saved {
            used_s: now_s(),
            model: speaker.model(),
            options: self.options.clone(),
            messages: self.messages.clone(),
            tokens: if self.n_said() == 0 { Vec::new() } else { speaker.tokens().to_vec() },
        }
    }

    /// Takes up the conversation `held`, which is new where there is nothing saved of it, and tells so.
    pub(crate) fn resume(
        &mut self,
        held: Held,
        saved: Option<Saved>,
        wishes: Wishes,
        speaker: &mut dyn Speaker,
        note: &mut dyn FnMut(&str),
    ) {
        let name = held.name.clone();
        self.held = Some(held);
        let Some(saved) = saved else { return note(&format!("session {name}: new")) };
        self.n_opening = saved.n_opening();
        self.messages = saved.messages;
        let (n, n_tokens) = (self.n_said(), saved.tokens.len());
        note(&format!("session {name}: {n} messages, {n_tokens} tokens, last used {} ago", age(saved.used_s)));
        let model = speaker.model();
        if model == saved.model {
            speaker.recall(saved.tokens);
        } else {
            note(&format!("it was held with {}: {} reads it anew", saved.model.name, model.name));
            speaker.recall(Vec::new());
        }
        self.options = match (wishes.options, granted(speaker, &saved.options)) {
            (Some(options), _) | (None, Ok(options)) => options,
            (None, Err(e)) => {
                note(&e.to_string());
                self.options.clone()
            }
        };
        if let Some(opening) = wishes.opening.filter(|opening| *opening != self.messages[..self.n_opening]) {
            note("other instructions take the place of those that it had");
            let said = self.messages.split_off(self.n_opening);
            self.n_opening = opening.len();
            self.messages = [opening, said].concat();
        }
    }
}

/// Options that were saved, if this model can have them.
fn granted(speaker: &dyn Speaker, options: &ChatOptions) -> Result<ChatOptions, Error> {
    Ok(grant(speaker.chat()?, Some(options.thinking), options.effort)?)
}

/// How long ago that was.
pub(crate) fn age(used_s: u64) -> String {
    units::age(now_s().saturating_sub(used_s))
}

/// Seconds since 1970.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
