//! What is told of an answer: at once, or once it is certain that it stays.

use std::ops::ControlFlow;

use models::{Event, Section};
use tokenizer::TokenId;

use crate::{Stop, Token};

/// Passes on what is said, or holds it back.
pub(crate) struct Teller<'a> {
    on: &'a mut dyn FnMut(Event) -> ControlFlow<()>,
    each: Option<&'a dyn Fn(Token<'_>)>,
    /// What is held back, in its order.
    untold: Option<Vec<Untold>>,
}

enum Untold {
    Token { id: TokenId, section: Section, logprob: f32, top: Vec<(TokenId, f32)> },
    Event(Event),
}

impl<'a> Teller<'a> {
    /// Tells `on` of events, and `each` of tokens.
    pub(crate) fn new(
        on: &'a mut dyn FnMut(Event) -> ControlFlow<()>,
        each: Option<&'a dyn Fn(Token<'_>)>,
    ) -> Teller<'a> {
        Teller { on, each, untold: None }
    }

    /// Tells of a token.
    pub(crate) fn token(&mut self, token: Token<'_>) {
        let Token { id, section, logprob, top } = token;
        match &mut self.untold {
            Some(untold) => untold.push(Untold::Token { id, section, logprob, top: top.to_vec() }),
            None => self.each.iter().for_each(|each| each(token)),
        }
    }

    /// Tells of an event, unless it says nothing.
    pub(crate) fn event(&mut self, event: Event) -> ControlFlow<Stop> {
        match (&event, &mut self.untold) {
            (Event::Thinking(text) | Event::Text(text), _) if text.is_empty() => ControlFlow::Continue(()),
            (_, Some(untold)) => {
                untold.push(Untold::Event(event));
                ControlFlow::Continue(())
            }
            (_, None) => (self.on)(event).map_break(|()| Stop::Cancelled),
        }
    }

    /// Holds back what comes, in place of anything that is held back.
    pub(crate) fn hold(&mut self) {
        self.untold = Some(Vec::new());
    }

    /// Holds back nothing, and drops what is.
    pub(crate) fn drop_held(&mut self) {
        self.untold = None;
    }

    /// Tells all that is held back.
    pub(crate) fn release(&mut self) -> ControlFlow<Stop> {
        for untold in self.untold.take().unwrap_or_default() {
            match untold {
                Untold::Token { id, section, logprob, top } => {
                    self.token(Token { id, section, logprob, top: &top });
                }
                Untold::Event(event) => self.event(event)?,
            }
        }
        ControlFlow::Continue(())
    }
}
