//! What the model wrote when it called tools, under the names of the calls. Clients send calls back as JSON that they have read and
//! written anew, spaces and all; the prompt shows what was written, so that what was computed of it holds.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use models::{Message, Part, Role, ToolCall};
use serde_json::Value;
use tokenizer::{TokenId, TokenType, Tokenizer};

/// The most turns that are remembered, and their most bytes.
const N_MAX: usize = 100_000;
const BYTES_MAX: usize = 64 << 20;

/// A turn that called tools.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) reasoning: String,
    pub(crate) text: String,
    pub(crate) calls: Vec<ToolCall>,
    /// What there is to say again.
    pub(crate) written: Vec<Part>,
}

/// Turns by the id of their first call, which nobody can guess.
#[derive(Default)]
pub(crate) struct Replays(Mutex<Known>);

#[derive(Default)]
struct Known {
    turns: HashMap<String, Arc<Turn>>,
    /// The oldest first.
    order: VecDeque<String>,
    n_bytes: usize,
}

impl Turn {
    fn n_bytes(&self) -> usize {
        let calls: usize = self.calls.iter().map(|call| call.id.len() + call.name.len() + call.arguments.len()).sum();
        let written: usize = self.written.iter().map(|part| part.as_str().len() + size_of::<Part>()).sum();
        self.reasoning.len() + self.text.len() + calls + written
    }

    /// Whether a message is this turn, as a client would send it back, with its reasoning or without.
    fn is(&self, message: &Message) -> bool {
        let same = |(ours, theirs): (&ToolCall, &ToolCall)| {
            ours.id == theirs.id && ours.name == theirs.name && is_same(&ours.arguments, &theirs.arguments)
        };
        message.role == Role::Assistant
            && message.text.trim() == self.text.trim()
            && message.reasoning.as_ref().is_none_or(|reasoning| reasoning.trim() == self.reasoning.trim())
            && message.calls.len() == self.calls.len()
            && self.calls.iter().zip(&message.calls).all(same)
    }
}

/// Whether two JSON texts mean the same.
fn is_same(ours: &str, theirs: &str) -> bool {
    let read = |text| serde_json::from_str::<Value>(text);
    ours == theirs || matches!((read(ours), read(theirs)), (Ok(ours), Ok(theirs)) if ours == theirs)
}

impl Replays {
    /// Remembers a turn, and forgets the oldest where there is no room.
    pub(crate) fn remember(&self, turn: Turn) {
        let Some(id) = turn.calls.first().map(|call| call.id.clone()) else { return };
        let mut known = self.known();
        known.n_bytes += turn.n_bytes();
        known.order.push_back(id.clone());
        known.turns.insert(id, Arc::new(turn));
        while known.order.len() > N_MAX || known.n_bytes > BYTES_MAX && known.order.len() > 1 {
            let oldest = known.order.pop_front().expect("there are some");
            let n_bytes = known.turns.remove(&oldest).map_or(0, |turn| turn.n_bytes());
            known.n_bytes -= n_bytes;
        }
    }

    /// Has messages that are turns we know say what was written.
    pub(crate) fn restore(&self, messages: &mut [Message]) {
        for message in messages.iter_mut().filter(|message| !message.calls.is_empty()) {
            let turn = self.known().turns.get(&message.calls[0].id).cloned();
            message.written = turn.filter(|turn| turn.is(message)).map(|turn| turn.written.clone());
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tokens were written as: markers, and the texts between them.
pub(crate) fn parts(tokenizer: &Tokenizer, ids: &[TokenId]) -> Vec<Part> {
    let is_marker = |id: &TokenId| matches!(tokenizer.type_of(*id), Some(TokenType::Control | TokenType::UserDefined));
    let text = |ids: &[TokenId]| {
        let mut decoder = tokenizer.decoder().continuing();
        let text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        text + &decoder.finish()
    };
    let part = |ids: &[TokenId]| match ids {
        [id] if is_marker(id) => Part::Marker(tokenizer.text_of(*id).into_owned()),
        ids => Part::Text(text(ids)),
    };
    ids.chunk_by(|a, b| !is_marker(a) && !is_marker(b)).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: &str, arguments: &str) -> ToolCall {
        ToolCall { id: id.into(), name: "look".into(), arguments: arguments.into() }
    }

    fn turn(id: &str, n_bytes: usize) -> Turn {
        let written = vec![Part::Text("x".repeat(n_bytes))];
        Turn {
            reasoning: "Why?\n".into(),
            text: "So.\n".into(),
            calls: vec![call(id, r#"{"a": [1, 2], "b": "c"}"#)],
            written,
        }
    }

    fn restored(replays: &Replays, message: Message) -> bool {
        let mut messages = [message];
        replays.restore(&mut messages);
        messages[0].written.is_some()
    }

    #[test]
    fn a_turn_is_known_by_what_it_means() {
        let replays = Replays::default();
        replays.remember(turn("1", 1));
        let message = |id, arguments| Message::assistant("So.").with_calls(vec![call(id, arguments)]);
        assert!(restored(&replays, message("1", r#"{"b":"c","a":[1,2]}"#)));
        assert!(!restored(&replays, message("2", r#"{"b":"c","a":[1,2]}"#)));
        assert!(!restored(&replays, message("1", r#"{"b":"c","a":[2,1]}"#)));
        let known = || message("1", r#"{"b":"c","a":[1,2]}"#);
        assert!(!restored(&replays, Message { text: "No.".into(), ..known() }));
        assert!(restored(&replays, known().with_reasoning("Why?")));
        assert!(!restored(&replays, known().with_reasoning("Why not?")));
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let replays = Replays::default();
        for i in 0..5 {
            replays.remember(turn(&i.to_string(), BYTES_MAX / 4));
        }
        let message =
            |id: usize| Message::assistant("So.").with_calls(vec![call(&id.to_string(), r#"{"a": [1, 2], "b": "c"}"#)]);
        assert_eq!(
            (0..5).map(|id| restored(&replays, message(id))).collect::<Vec<_>>(),
            [false, false, true, true, true]
        );
    }
}
