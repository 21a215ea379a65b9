//! The one loop that generates: logits, a token, its text, events, and on to the next.
//!
//! ```text
//! session.logits() -> sampler -> id -> Decoder, in whole characters -> Events, in a chat -> StopFinder -> on(event)
//!        ^               ^        |
//!        |         grammar, if any |
//!        '------ session.push(id) '
//! ```
//!
//! A token is pushed only once another one is wanted. So the last one sampled, whatever ended the answer, is not in the
//! session: the next prompt has it where it belongs, and `sync` computes it there, together with what follows. All
//! sampled tokens are in [`Answer::ids`] but one that ends the turn.
//!
//! Marks of the format, such as `<think>`, reach [`Events::marker`] and no others do: what ordinary tokens spell is
//! text. Stop strings are looked for in the answer, not in the reasoning before it; and a grammar holds for the answer
//! ([`held`](crate::held)): it ends the turn as soon as nothing can follow. Reasoning may be bounded ([`reasoning`](crate::reasoning)):
//! then its end is not picked, but part of the answer like all else.

use std::{ops::ControlFlow, time::Instant};

use grammar::Grammar;
use models::{Chat, ChatOptions, Event};
use tokenizer::{TokenId, Tokenizer};

use crate::{
    Engine, Error, Logprobs, Sampler, Session, picker::Picker, reader::Reader, reasoning::Bound, repeats::Repeats,
};

/// How far to go on, and how to read what comes.
#[derive(Clone, Copy, Default)]
pub struct AnswerOptions<'a> {
    /// The most tokens to sample, the one that ends the turn not counted.
    pub n_max: usize,
    /// The most tokens of reasoning, which is ended behind them; as many as there are if nobody says. A character, and what keeps later
    /// prompts from showing the reasoning as it was, may take some more. A grammar of the reasoning has to let it end there.
    pub n_reasoning_max: Option<usize>,
    /// Who reads the answer, with the options that the prompt was rendered with; `None` for raw text.
    pub chat: Option<(&'a dyn Chat, &'a ChatOptions)>,
    /// Texts that end the answer and are not part of it.
    pub stop: &'a [String],
    /// What the answer, but not its reasoning, must look like: a grammar for this engine's tokens.
    pub grammar: Option<&'a Grammar>,
    /// The grammar is of the reasoning, too, and of the mark that ends it.
    pub grammar_is_raw: bool,
    /// Added to the logits of tokens: see [`Sampler::bias`].
    pub logit_bias: &'a [(TokenId, f32)],
    /// Who is told of each token how likely it was.
    pub logprobs: Option<Logprobs<'a>>,
    /// Asked before each token but the first: whether nobody wants it any longer. The caller's function may not hear of tokens
    /// that say nothing.
    pub given_up: Option<&'a dyn Fn() -> bool>,
}

/// What was generated. Its text went to the caller's function as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The tokens, without the one that ended the turn.
    pub ids: Vec<TokenId>,
    /// Why there are no more.
    pub stop: Stop,
    /// Whether something that was meant as a call came to nothing: see [`Events::broke`].
    pub broke: bool,
    /// How many of the tokens the reasoning took.
    pub n_reasoning: usize,
    /// Whether it was ended for having taken too many: see [`AnswerOptions::n_reasoning_max`].
    pub reasoning_cut: bool,
    /// How many of them were computed.
    pub n_computed: usize,
    /// How long that took, sampling included.
    pub seconds: f64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model has said all it wanted.
    EndOfTurn,
    /// It said the stop string with this index.
    StopString(usize),
    /// `n_max` tokens were sampled.
    Length,
    /// The session has no room for another token.
    ContextFull,
    /// It said the same block of tokens again and again, and would have gone on: see [`SamplerOptions`](crate::SamplerOptions).
    Repeats,
    /// The caller's function broke off, or it was given up.
    Cancelled,
}

/// Goes on from `session`'s last token, until one of the reasons in [`Stop`]. `on` hears each event at once.
///
/// # Errors
///
/// [`Error::NoVocabulary`] before anything is sampled, [`Error::NoChoice`] when the model computes no numbers,
/// [`Error::NothingAllowed`] and [`Error::Grammar`] when no token is left by a bias or a grammar, and what
/// [`Session::push`] reports. What was heard until then remains true.
pub fn answer(
    engine: &Engine,
    session: &mut Session,
    sampler: &mut Sampler,
    options: &AnswerOptions<'_>,
    on: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Answer, Error> {
    let tokenizer = engine.tokenizer().ok_or(Error::NoVocabulary)?;
    generate(tokenizer, session, sampler, options, on)
}

/// What generation needs of a session.
trait Timeline {
    fn push(&mut self, id: TokenId) -> Result<(), Error>;
    fn logits(&self) -> &[f32];
    fn tokens(&self) -> &[TokenId];
    fn n_ctx(&self) -> usize;
}

impl Timeline for Session {
    fn push(&mut self, id: TokenId) -> Result<(), Error> {
        Session::push(self, id)
    }

    fn logits(&self) -> &[f32] {
        Session::logits(self)
    }

    fn tokens(&self) -> &[TokenId] {
        Session::tokens(self)
    }

    fn n_ctx(&self) -> usize {
        Session::n_ctx(self)
    }
}

fn generate(
    tokenizer: &Tokenizer,
    timeline: &mut dyn Timeline,
    sampler: &mut Sampler,
    options: &AnswerOptions<'_>,
    on: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Answer, Error> {
    if timeline.logits().is_empty() {
        return Err(Error::NoPrompt);
    }
    let mut reader = Reader::new(tokenizer, timeline.tokens().last().copied(), options);
    let mut picker = Picker::new(tokenizer, sampler, timeline.logits().len(), options, &reader.ends);
    let mut bound = Bound::new(tokenizer, options.n_reasoning_max);
    let start = Instant::now();
    let n_before = timeline.tokens().len();
    let mut ids = Vec::new();
    let mut repeats = (!picker.may_repeat()).then(Repeats::new);
    let stop = loop {
        let section = reader.section();
        if picker.is_complete(section) {
            break reader.finish(on).unwrap_or(Stop::EndOfTurn);
        }
        if ids.len() >= options.n_max {
            break reader.finish(on).unwrap_or(Stop::Length);
        }
        if let Some(&id) = ids.last() {
            if options.given_up.is_some_and(|given_up| given_up()) {
                break Stop::Cancelled;
            }
            if timeline.tokens().len() >= timeline.n_ctx() {
                break reader.finish(on).unwrap_or(Stop::ContextFull);
            }
            timeline.push(id)?;
        }
        let forced = match bound.forces(&reader)? {
            Some(id) if !picker.force(id)? => {
                bound.give_up();
                None
            }
            forced => forced,
        };
        let id = match forced {
            Some(id) => id,
            None => {
                let id = picker.pick(timeline.logits(), timeline.tokens(), section)?;
                if reader.ends_turn(id) {
                    break reader.finish(on).unwrap_or(Stop::EndOfTurn);
                }
                picker.take(id, section)?;
                id
            }
        };
        picker.tell(id, timeline.logits(), section);
        bound.count(section);
        ids.push(id);
        if let ControlFlow::Break(stop) = reader.read(id, on) {
            break stop;
        }
        if repeats.as_mut().is_some_and(|repeats| repeats.push(&ids)) {
            break reader.finish(on).unwrap_or(Stop::Repeats);
        }
    };
    let n_computed = timeline.tokens().len() - n_before;
    Ok(Answer {
        ids,
        stop,
        broke: reader.broke(),
        n_reasoning: reader.n_reasoning(),
        reasoning_cut: bound.has_cut(),
        n_computed,
        seconds: start.elapsed().as_secs_f64(),
    })
}

#[cfg(test)]
mod tests;
