//! What tokens say: text in whole characters, events in a chat, and no more than comes before a stop string.

use std::ops::ControlFlow;

use models::{Chat, Event, Events, Part, Section};
use tokenizer::{Decoder, TokenId, TokenType, Tokenizer};

use crate::{AnswerOptions, Stop, stop::StopFinder, teller::Teller};

/// Turns tokens into events.
pub(crate) struct Reader<'a> {
    tokenizer: &'a Tokenizer,
    decoder: Decoder,
    /// `None` for raw text.
    events: Option<Box<dyn Events>>,
    /// Tokens so far, and how many of them there were when reasoning was last told.
    n_read: usize,
    n_reasoning: usize,
    /// Whether the model was asked to think.
    thinks: bool,
    pub(crate) ends: Vec<TokenId>,
    stop: StopFinder,
    /// Strings that [`StopFinder`] calls by a number from here on are ends of the turn.
    n_stop: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer, last: Option<TokenId>, options: &AnswerOptions<'_>) -> Reader<'a> {
        let (ends, spelled) = ends(tokenizer, options.chat.map(|(chat, _)| chat));
        let strings = [options.stop, &spelled].concat();
        Reader {
            tokenizer,
            decoder: tokenizer.decoder_after(last),
            events: options.chat.map(|(chat, options)| chat.stream(options)),
            n_read: 0,
            n_reasoning: 0,
            thinks: options.chat.is_some_and(|(_, options)| options.thinking),
            ends,
            stop: StopFinder::new(strings.iter().map(String::as_str)),
            n_stop: options.stop.len(),
        }
    }

    /// What the next token belongs to. Raw text is all answer.
    pub(crate) fn section(&self) -> Section {
        match self.events.as_ref().map_or(Section::Answering, |events| events.section()) {
            Section::Opening(_) if !self.thinks => Section::Answering,
            section => section,
        }
    }

    /// What ends the reasoning that is going on, as [`Events::end_of_reasoning`] has it; nothing inside of a character, either.
    pub(crate) fn end_of_reasoning(&self, at_once: bool) -> Vec<Part> {
        match &self.events {
            Some(events) if at_once || self.decoder.is_whole() => events.end_of_reasoning(at_once),
            _ => Vec::new(),
        }
    }

    /// How many tokens it took to reason.
    pub(crate) fn n_reasoning(&self) -> usize {
        self.n_reasoning
    }

    /// Whether something that was meant as a call came to nothing.
    pub(crate) fn broke(&self) -> bool {
        self.events.as_ref().is_some_and(|events| events.broke())
    }

    pub(crate) fn ends_turn(&self, id: TokenId) -> bool {
        self.ends.contains(&id)
    }

    /// Reports what `id` says.
    pub(crate) fn read(&mut self, id: TokenId, teller: &mut Teller<'_>) -> ControlFlow<Stop> {
        self.n_read += 1;
        let is_mark = matches!(self.tokenizer.type_of(id), Some(TokenType::Control | TokenType::UserDefined));
        let events = match &mut self.events {
            Some(events) if is_mark => {
                // A character that a mark interrupts will never be complete.
                let mut all = said(events.as_mut(), &self.decoder.finish());
                all.extend(events.marker(&self.tokenizer.text_of(id)));
                // The decoder hears of the mark, too, but its text has been dealt with.
                self.decoder.push(id);
                all
            }
            Some(events) => said(events.as_mut(), &self.decoder.push(id)),
            None => vec![Event::Text(self.decoder.push(id))],
        };
        self.report(events, teller)
    }

    /// Reports what was held back. Returns why the answer ended earlier than was thought.
    pub(crate) fn finish(&mut self, teller: &mut Teller<'_>) -> Option<Stop> {
        let rest = self.decoder.finish();
        let events = match &mut self.events {
            Some(events) => {
                let mut all = said(events.as_mut(), &rest);
                all.extend(events.finish());
                all
            }
            None => vec![Event::Text(rest)],
        };
        let flow = self.report(events, teller);
        let flow = flow.map_continue(|()| self.stop.finish());
        match flow {
            ControlFlow::Break(stop) => Some(stop),
            ControlFlow::Continue(held) => teller.event(Event::Text(held)).break_value(),
        }
    }

    /// Passes events on, as far as the answer contains no stop string.
    fn report(&mut self, events: Vec<Event>, teller: &mut Teller<'_>) -> ControlFlow<Stop> {
        for event in events {
            if matches!(&event, Event::Thinking(text) if !text.is_empty()) {
                self.n_reasoning = self.n_read;
            }
            let (event, found) = match event {
                Event::Text(text) => {
                    let (text, found) = self.stop.push(&text);
                    (Event::Text(text), found)
                }
                // Reasoning or a call after an answer: what was held back of the answer ends there.
                other => {
                    teller.event(Event::Text(self.stop.finish()))?;
                    (other, None)
                }
            };
            teller.event(event)?;
            if let Some(i) = found {
                let stop = if i < self.n_stop { Stop::StopString(i) } else { Stop::EndOfTurn };
                return ControlFlow::Break(stop);
            }
        }
        ControlFlow::Continue(())
    }
}

/// The tokens that end a turn, and what the model spells out to end it, for want of a token of its own.
pub(crate) fn ends(tokenizer: &Tokenizer, chat: Option<&dyn Chat>) -> (Vec<TokenId>, Vec<String>) {
    let mut ends = tokenizer.eog().to_vec();
    let mut spelled = Vec::new();
    for marker in chat.map_or(Vec::new(), |chat| chat.stop_markers()) {
        match tokenizer.id_of(&marker) {
            Some(id) => ends.push(id),
            None => spelled.push(marker),
        }
    }
    (ends, spelled)
}

fn said(events: &mut dyn Events, text: &str) -> Vec<Event> {
    if text.is_empty() { Vec::new() } else { events.text(text) }
}
