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
//! then its end is not picked, but part of the answer like all else. What says the same again and again is held back, and may be
//! dropped ([`loops`](crate::loops)).

use std::{ops::ControlFlow, time::Instant};

use grammar::Grammar;
use models::{Chat, ChatOptions, Event, Section};
use tokenizer::{TokenId, Tokenizer};

use crate::{
    Engine, Error, Logprobs, Sampler, Session,
    loops::{Course, Loops, Way},
    picker::Picker,
    reader::Reader,
    reasoning::Bound,
    teller::Teller,
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
    /// How many tokens there were beside them, dropped to get out of a loop. Nobody has heard of these.
    pub n_dropped: usize,
    /// How many of `ids` were computed.
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
    /// It said the same block of tokens again and again, also after going back: see [`SamplerOptions`](crate::SamplerOptions).
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
    /// Keeps the first `n_keep` tokens, and knows the logits after them; false if it was given up on the way.
    fn rewind(&mut self, n_keep: usize, given_up: &dyn Fn() -> bool) -> Result<bool, Error>;
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

    fn rewind(&mut self, n_keep: usize, given_up: &dyn Fn() -> bool) -> Result<bool, Error> {
        let flow = || if given_up() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        Ok(self.rewind_with(n_keep, &mut |_| flow())?.complete)
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
    let start = Instant::now();
    let mut generation = Generation::new(tokenizer, timeline, sampler, options, on);
    let stop = loop {
        if let ControlFlow::Break(stop) = generation.step()? {
            break stop;
        }
    };
    Ok(generation.conclude(stop, start))
}

/// An answer on its way.
struct Generation<'a, 't> {
    tokenizer: &'a Tokenizer,
    timeline: &'t mut dyn Timeline,
    options: &'a AnswerOptions<'a>,
    /// Tokens before the answer, and the last of them.
    n_before: usize,
    last: Option<TokenId>,
    reader: Reader<'a>,
    picker: Picker<'a>,
    bound: Bound<'a>,
    teller: Teller<'a>,
    /// `None` where it may say the same without end.
    loops: Option<Loops<'a>>,
    /// The grammar left no other way than on along a loop.
    one_way: bool,
    ids: Vec<TokenId>,
}

impl<'a, 't> Generation<'a, 't> {
    fn new(
        tokenizer: &'a Tokenizer,
        timeline: &'t mut dyn Timeline,
        sampler: &'a mut Sampler,
        options: &'a AnswerOptions<'a>,
        on: &'a mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Generation<'a, 't> {
        let last = timeline.tokens().last().copied();
        let reader = Reader::new(tokenizer, last, options);
        let picker = Picker::new(tokenizer, sampler, timeline.logits().len(), options, &reader.ends);
        Generation {
            n_before: timeline.tokens().len(),
            last,
            bound: Bound::new(tokenizer, options.n_reasoning_max),
            teller: Teller::new(on, options.logprobs.map(|logprobs| logprobs.each)),
            loops: (!picker.may_repeat()).then(Loops::new),
            one_way: false,
            ids: Vec::new(),
            tokenizer,
            timeline,
            options,
            reader,
            picker,
        }
    }

    /// One token more, or why there is none.
    fn step(&mut self) -> Result<ControlFlow<Stop>, Error> {
        let section = self.reader.section();
        if self.picker.is_complete(section) {
            return Ok(self.end(Stop::EndOfTurn));
        }
        if self.ids.len() >= self.options.n_max {
            return Ok(self.end(Stop::Length));
        }
        if let Some(&id) = self.ids.last() {
            if self.is_given_up() {
                return Ok(ControlFlow::Break(Stop::Cancelled));
            }
            let n_tokens = self.timeline.tokens().len();
            if n_tokens < self.n_before + self.ids.len() {
                if n_tokens >= self.timeline.n_ctx() {
                    return Ok(self.end(Stop::ContextFull));
                }
                self.timeline.push(id)?;
            }
        }
        let id = match self.forced()? {
            Some(id) => id,
            None => match self.pick(section)? {
                ControlFlow::Continue(id) => id,
                ControlFlow::Break(stop) => return Ok(self.end(stop)),
            },
        };
        self.picker.tell(id, self.timeline.logits(), section, &mut self.teller);
        self.bound.count(section);
        self.ids.push(id);
        match self.reader.read(id, &mut self.teller) {
            ControlFlow::Continue(()) => self.mind_loops(),
            ControlFlow::Break(stop) => Ok(ControlFlow::Break(stop)),
        }
    }

    fn is_given_up(&self) -> bool {
        self.options.given_up.is_some_and(|given_up| given_up())
    }

    /// The token that must come next, if one must.
    fn forced(&mut self) -> Result<Option<TokenId>, Error> {
        match self.bound.forces(&self.reader)? {
            Some(id) if !self.picker.force(id)? => {
                self.bound.give_up();
                Ok(None)
            }
            forced => Ok(forced),
        }
    }

    /// The model's choice, or that it is no part of the answer.
    fn pick(&mut self, section: Section) -> Result<ControlFlow<Stop, TokenId>, Error> {
        let avoids = self.picker.avoids();
        let id = match self.picker.pick(self.timeline.logits(), self.timeline.tokens(), section) {
            Err(Error::NothingAllowed { .. }) if avoids && self.picker.is_held() => {
                self.one_way = true;
                self.picker.pick(self.timeline.logits(), self.timeline.tokens(), section)?
            }
            // There is no other way than into the loop.
            Err(Error::NothingAllowed { .. } | Error::NoChoice { .. }) if avoids => {
                return Ok(ControlFlow::Break(Stop::Repeats));
            }
            picked => picked?,
        };
        if self.reader.ends_turn(id) {
            return Ok(ControlFlow::Break(Stop::EndOfTurn));
        }
        self.picker.take(id, section)?;
        Ok(ControlFlow::Continue(id))
    }

    /// After a token: looks whether the answer says the same again and again.
    fn mind_loops(&mut self) -> Result<ControlFlow<Stop>, Error> {
        let Some(loops) = &mut self.loops else { return Ok(ControlFlow::Continue(())) };
        if std::mem::take(&mut self.one_way) {
            let told = self.teller.release();
            match loops.move_on(&self.ids, self.picker.held(), self.bound.clone()) {
                Way::On(next) => {
                    self.picker.avoid(next);
                    self.teller.hold();
                }
                Way::Wanted => self.picker.cool(),
                Way::None => return Ok(self.end(Stop::Repeats)),
            }
            return Ok(told);
        }
        match loops.follow(&self.ids) {
            Course::On => {}
            Course::Hold => {
                loops.hold(self.ids.len(), self.picker.held(), self.bound.clone());
                self.teller.hold();
            }
            Course::Release => {
                loops.release();
                return Ok(self.teller.release());
            }
            Course::Back => return self.go_back(),
            Course::End => {
                self.drop_held();
                return Ok(self.end(Stop::Repeats));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Drops what is held back, and goes on from there by another token.
    fn go_back(&mut self) -> Result<ControlFlow<Stop>, Error> {
        self.drop_held();
        self.teller.hold();
        let given_up = || self.options.given_up.is_some_and(|given_up| given_up());
        match self.timeline.rewind(self.n_before + self.ids.len(), &given_up)? {
            true => Ok(ControlFlow::Continue(())),
            false => Ok(ControlFlow::Break(Stop::Cancelled)),
        }
    }

    /// Makes the answer what it was where holding back began. The session may still hold more.
    fn drop_held(&mut self) {
        let Some(loops) = &mut self.loops else { return };
        loops.go_back(&mut self.ids);
        if let Some(place) = loops.place() {
            self.picker.go_back(place.held.clone(), &place.tried, loops.n_back());
            self.bound = place.bound.clone();
        }
        self.teller.drop_held();
        self.reader = Reader::new(self.tokenizer, self.last, self.options);
        let mut unheard = |_| ControlFlow::Continue(());
        let mut nobody = Teller::new(&mut unheard, None);
        for &id in &self.ids {
            let _ = self.reader.read(id, &mut nobody); // it went on the first time
        }
    }

    /// Tells what was held back until it was decided; `stop` may turn out to have come earlier.
    fn end(&mut self, stop: Stop) -> ControlFlow<Stop> {
        ControlFlow::Break(self.reader.finish(&mut self.teller).unwrap_or(stop))
    }

    /// The answer as it is, which has ended by `stop`.
    fn conclude(mut self, stop: Stop, start: Instant) -> Answer {
        let stop = match stop {
            Stop::Cancelled => stop,
            stop => self.teller.release().break_value().unwrap_or(stop),
        };
        // Nobody has heard of what is held back.
        let place = self.loops.as_ref().and_then(|loops| loops.place());
        if let (Stop::Cancelled, Some(place)) = (stop, place) {
            self.ids.truncate(place.n_ids);
        }
        let n_computed = self.timeline.tokens().len().saturating_sub(self.n_before).min(self.ids.len());
        Answer {
            stop,
            broke: self.reader.broke(),
            n_reasoning: self.reader.n_reasoning(),
            reasoning_cut: self.bound.has_cut(),
            n_dropped: self.loops.map_or(0, |loops| loops.n_dropped()),
            n_computed,
            seconds: start.elapsed().as_secs_f64(),
            ids: self.ids,
        }
    }
}

#[cfg(test)]
mod tests;
