//! What is said of an answer while it is computed, and how it came about: what threads with sessions tell, and connections hear.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use engine::{Answer, Prefill, Stop};
use models::Event;
use tokio::sync::mpsc::Receiver;

use crate::{dialect::new_id, error::Refusal, likely::Token};

/// What comes of a request.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) from: Receiver<Heard>,
    pub(crate) failure: Failure,
    /// How many answers there will be.
    pub(crate) n: usize,
}

/// A part of one of the answers to a request.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// Which of them.
    pub(crate) choice: usize,
    pub(crate) said: Said,
}

/// What is heard of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    /// A session has taken it up.
    Begun,
    /// So much of the prompt has been read.
    Prefill(Prefill),
    /// More of the reasoning.
    Thinking(String),
    /// More of the answer.
    Text(String),
    /// The tokens that the next text comes of, or that come last and spell nothing, where they are asked for.
    Tokens(Vec<Token>),
    /// A call begins.
    Call(Call),
    /// More of the arguments of the call with this number, as JSON text.
    Arguments(usize, String),
    /// The call with this number is complete. One that has no end is not to be made.
    Called(usize),
    /// All of it was said.
    End(Finish),
    /// It ends here, without having been said.
    Failed(Refusal),
}

/// The head of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Which of an answer's, counted from 0.
    pub(crate) index: usize,
    /// What its result will be matched by; nobody can guess it.
    pub(crate) id: String,
    pub(crate) name: String,
}

/// How an answer came about.
#[derive(Clone, Debug)]
pub(crate) struct Finish {
    pub(crate) stop: Stop,
    /// The text that ended it, if one did.
    pub(crate) stop_text: Option<String>,
    /// What became of it that `stop` does not say.
    pub(crate) detail: Option<Detail>,
    /// Tokens that were dropped on the way, to get out of a loop.
    pub(crate) n_dropped: usize,
    /// How many calls it makes, complete ones.
    pub(crate) n_calls: usize,
    pub(crate) usage: Usage,
    pub(crate) timings: Timings,
}

/// What became of an answer, beside its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// What was meant as a call is told as text.
    MalformedCall,
    /// Its reasoning was ended for having taken too many tokens.
    ReasoningBudget,
    /// It said the same again and again, and found no way out.
    Repetition,
}

impl Detail {
    /// What there is to say of an answer, if there is something.
    pub(crate) fn of(answer: &Answer) -> Option<Detail> {
        match answer.stop {
            Stop::EndOfTurn if answer.broke => Some(Detail::MalformedCall),
            Stop::Repeats => Some(Detail::Repetition),
            _ if answer.reasoning_cut => Some(Detail::ReasoningBudget),
            _ => None,
        }
    }

    /// A word for programs, which never changes.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Detail::MalformedCall => "malformed_tool_call",
            Detail::ReasoningBudget => "reasoning_budget",
            Detail::Repetition => "repetition",
        }
    }
}

impl Finish {
    /// Whether it ended before the model was done: at its longest, for want of room, or because it said the same again and again.
    pub(crate) fn was_cut(&self) -> bool {
        matches!(self.stop, Stop::Length | Stop::ContextFull | Stop::Repeats)
    }
}

/// Tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) n_prompt: usize,
    /// Of the prompt, those that were known.
    pub(crate) n_cached: usize,
    pub(crate) n_answer: usize,
    /// Of the answer, those of the reasoning.
    pub(crate) n_reasoning: usize,
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timings {
    pub(crate) queued: Duration,
    pub(crate) prefill: Duration,
    pub(crate) decode: Duration,
}

impl Said {
    /// What is said of an event.
    pub(crate) fn of(event: Event) -> Said {
        match event {
            Event::Thinking(text) => Said::Thinking(text),
            Event::Text(text) => Said::Text(text),
            Event::ToolStart { index, name } => Said::Call(Call { index, id: new_id("call_"), name }),
            Event::ToolArguments { index, json } => Said::Arguments(index, json),
            Event::ToolEnd { index } => Said::Called(index),
        }
    }
}

/// Why answers end without having been said: kept beside their channel, which has no room for it where a client is far behind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failure(Arc<OnceLock<Refusal>>);

impl Failure {
    /// Keeps the first reason.
    pub(crate) fn set(&self, refusal: Refusal) {
        let _ = self.0.set(refusal);
    }

    /// The reason, once the channel is closed.
    pub(crate) fn get(&self) -> Refusal {
        self.0.get().cloned().unwrap_or_else(Refusal::bug)
    }
}
