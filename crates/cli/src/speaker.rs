//! Who answers: a model in this process, or a script in tests.

use std::{ops::ControlFlow, time::Instant};

use engine::{Answer, AnswerOptions, Engine, Grammar, Options, Sampler, SamplerOptions, Session, Source, Stats, Stop};
use models::{Chat, ChatOptions, Event, Message};
use tokenizer::{Special, TokenId};

use crate::{
    args::{ChatArgs, FormArgs},
    error::Error,
    interrupt::{self, Work},
    model,
    progress::{Pondering, Progress},
    prompt,
    sessions::ModelId,
    terminal, units,
};

/// What is asked of the model.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask<'a> {
    /// The next turn of a conversation.
    Turn(&'a [Message], &'a ChatOptions),
    /// What follows a text.
    Raw(&'a str),
}

/// How an answer came about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) stop: Stop,
    /// Tokens of the prompt that were still known from before.
    pub(crate) reused: usize,
    pub(crate) prefill: Pace,
    pub(crate) decode: Pace,
    /// Whether its reasoning was ended for having taken too many tokens.
    pub(crate) reasoning_cut: bool,
    /// Tokens that were dropped to get out of a loop.
    pub(crate) n_dropped: usize,
    /// What decoding read from the SSD, if experts are there.
    pub(crate) streamed: Option<Streamed>,
}

/// What streaming experts did meanwhile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Streamed {
    pub(crate) stats: Stats,
    /// What the SSD could do, if that is known.
    pub(crate) ssd_bytes_per_second: Option<f64>,
}

/// So many tokens in so much time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Pace {
    pub(crate) n: usize,
    pub(crate) seconds: f64,
}

impl std::fmt::Display for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tokens", self.n)?;
        match self.n {
            0 => Ok(()),
            n => write!(f, " {:.1} t/s", n as f64 / self.seconds.max(1e-9)),
        }
    }
}

impl Reply {
    /// `prefill N tokens X t/s, decode M tokens Y t/s`; of a streamed model, what decoding took of experts; and what became of the
    /// answer on its way.
    pub(crate) fn speed(&self) -> String {
        let reused = match self.reused {
            0 => String::new(),
            n => format!(" ({n} known)"),
        };
        let streamed = self.streamed.filter(|_| self.decode.n > 0).map(|s| s.describe(self.decode)).unwrap_or_default();
        let cut = if self.reasoning_cut { ", reasoning ended by --reasoning-budget" } else { "" };
        let dropped = match self.n_dropped {
            0 => String::new(),
            n => format!(", {n} more dropped to get out of a loop"),
        };
        format!("prefill {}{reused}, decode {}{streamed}{dropped}{cut}", self.prefill, self.decode)
    }
}

impl Streamed {
    /// ` with 61 % of experts in memory, 84.0 MiB per token at 1.1 GB/s (70 % of the SSD), 31.0 ms waited each`.
    fn describe(&self, pace: Pace) -> String {
        let (n, rate) = (pace.n as f64, self.stats.read_bytes as f64 / pace.seconds.max(1e-9));
        let share = self.ssd_bytes_per_second.map(|most| format!(" ({:.0} % of the SSD)", 100.0 * rate / most));
        format!(
            " with {:.0} % of experts in memory, {} per token at {:.1} GB/s{}, {:.1} ms waited each",
            100.0 * self.stats.hit_rate(),
            units::bytes((self.stats.read_bytes as f64 / n) as u64),
            rate / 1e9,
            share.unwrap_or_default(),
            1e3 * self.stats.stalled.as_secs_f64() / n,
        )
    }
}

/// Answers.
pub(crate) trait Speaker {
    /// Says the answer to `on` as it comes, until that breaks off or Ctrl+C is pressed.
    ///
    /// # Errors
    /// The question cannot be put to the model, or the machine fails.
    fn answer(&mut self, ask: Ask<'_>, on: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<Reply, Error>;

    /// How it writes conversations.
    ///
    /// # Errors
    /// Why it cannot hold any.
    fn chat(&self) -> Result<&dyn Chat, Error>;

    /// Makes room for `n_ctx` tokens. Where that fails, the room stays as it was.
    ///
    /// # Errors
    /// The model, or memory, does not allow it.
    fn resize(&mut self, n_ctx: usize) -> Result<(), Error>;

    /// What there is to say about itself, in lines.
    fn status(&self) -> Vec<String>;

    /// Which model answers.
    fn model(&self) -> ModelId;

    /// The tokens that the conversation was said in, as far as they are known.
    fn tokens(&self) -> &[TokenId];

    /// The conversation is another one, which was said in these tokens.
    fn recall(&mut self, tokens: Vec<TokenId>);
}

/// A model in this process and its one timeline.
pub(crate) struct Local {
    engine: Engine,
    /// `None` when memory was short while it was being replaced.
    session: Option<Session>,
    /// Of a conversation that was taken up: its tokens, until the session holds them.
    recalled: Option<Vec<TokenId>>,
    sampler: Sampler,
    sampling: SamplerOptions,
    /// What answers have to look like.
    form: Option<Grammar>,
    /// Longest answer.
    n_max: usize,
    /// Longest reasoning.
    n_reasoning_max: Option<usize>,
}

impl Local {
    /// Loads the model and tells what memory it takes, before it is taken.
    pub(crate) fn open(args: &ChatArgs) -> Result<Local, Error> {
        let schema = schema(&args.form)?;
        let options = Options { kept: args.kept.kept(&args.model.cache)?, ..args.model.options() };
        let engine = model::open(&args.model, &options)?;
        let sampling = args.sampling.options(&engine.sampling())?;
        if engine.tokenizer().is_none() {
            return Err(Error::NoVocabulary { path: engine.path().to_path_buf() });
        }
        let schema = schema.map(|text| engine.grammar(Source::JsonSchema(&text)));
        let form = schema.transpose()?;
        let session = open_session(&engine, args.prompt.ctx.unwrap_or_else(|| engine.n_ctx_default()))?;
        interrupt::before_end(engine.flusher());
        let sampler = Sampler::new(sampling.clone());
        let n_max = args.prompt.tokens.unwrap_or(usize::MAX);
        let n_reasoning_max = args.thinking.budget.most();
        Ok(Local { engine, session: Some(session), recalled: None, sampler, sampling, form, n_max, n_reasoning_max })
    }

    /// Completes what is written beside answers.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        Ok(self.engine.finish_trace()?)
    }

    /// The token ids of a question.
    fn prompt(&self, ask: Ask<'_>) -> Result<Vec<TokenId>, Error> {
        match ask {
            Ask::Turn(messages, options) => {
                let parts = chat(&self.engine)?.render(messages, options)?;
                match parts.iter().all(|part| part.as_str().is_empty()) {
                    true => Err(Error::SilentTemplate),
                    false => Ok(self.engine.encode_after(self.tokens(), &parts)?),
                }
            }
            Ask::Raw(text) => {
                let tokenizer = self.engine.tokenizer().expect("files without a vocabulary are not opened");
                let mut ids = Vec::from_iter(tokenizer.bos());
                ids.extend(tokenizer.encode(text, Special::Plain));
                Ok(ids)
            }
        }
    }
}

impl Speaker for Local {
    fn answer(&mut self, ask: Ask<'_>, on: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<Reply, Error> {
        let work = Work::begin();
        let n_ctx = self.session.as_ref().ok_or(Error::NoContext)?.n_ctx();
        check_bytes(ask, n_ctx)?;
        let ids = self.prompt(ask)?;
        let Local { engine, session, recalled, sampler, form, n_max, n_reasoning_max, .. } = self;
        let session = session.as_mut().ok_or(Error::NoContext)?;
        if ids.len() >= session.n_ctx() {
            return Err(Error::PromptTooLong { n: ids.len(), n_ctx: session.n_ctx() });
        }
        let start = Instant::now();
        let mut progress = Progress::prefill();
        let synced = session.sync_with(&ids, &mut |prefill| {
            progress.set(prefill.done as u64, prefill.total as u64);
            if work.interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        drop(progress);
        let prefill = Pace { n: synced.computed, seconds: start.elapsed().as_secs_f64() };
        if !synced.complete {
            let (reused, decode) = (synced.reused, Pace::default());
            let (stop, streamed) = (Stop::Cancelled, None);
            return Ok(Reply { stop, reused, prefill, decode, reasoning_cut: false, n_dropped: 0, streamed });
        }
        *recalled = None;
        let chat = match ask {
            Ask::Turn(_, options) => Some((chat(engine)?, options)),
            Ask::Raw(_) => None,
        };
        let (n_max, n_reasoning_max, grammar) = (*n_max, *n_reasoning_max, form.as_ref());
        let given_up = || work.interrupted();
        let given_up = Some(&given_up as &dyn Fn() -> bool);
        let options = AnswerOptions { n_max, n_reasoning_max, chat, grammar, given_up, ..AnswerOptions::default() };
        let before = engine.expert_stats();
        let answer = engine::answer(engine, session, sampler, &options, &mut |event| match work.interrupted() {
            true => ControlFlow::Break(()),
            false => on(event),
        })?;
        // Whoever ends the program at the next prompt, by a signal, has its memory all the same.
        session.keep()?;
        let decode = Pace { n: answer.n_computed, seconds: answer.seconds };
        let streamed = engine.expert_stats().zip(before).map(|(after, before)| Streamed {
            stats: after - before,
            ssd_bytes_per_second: engine.ssd_bytes_per_second(),
        });
        let Answer { stop, reasoning_cut, n_dropped, .. } = answer;
        Ok(Reply { stop, reused: synced.reused, prefill, decode, reasoning_cut, n_dropped, streamed })
    }

    fn chat(&self) -> Result<&dyn Chat, Error> {
        chat(&self.engine)
    }

    fn resize(&mut self, n_ctx: usize) -> Result<(), Error> {
        self.recalled = Some(self.tokens().to_vec());
        // Both at once might not fit: the old one goes first.
        let old = self.session.take().map(|s| s.n_ctx());
        let (session, result) = match open_session(&self.engine, n_ctx) {
            Ok(session) => (Some(session), Ok(())),
            Err(e) => (old.and_then(|n| self.engine.session(n).ok()), Err(e)),
        };
        self.session = session;
        result
    }

    fn status(&self) -> Vec<String> {
        let info = self.engine.info();
        let (used, n_ctx) = self.session.as_ref().map_or((0, 0), |s| (s.tokens().len(), s.n_ctx()));
        vec![
            format!("model     {}", describe(&self.engine)),
            format!("device    {}", self.engine.device_name()),
            format!("context   {used} of {n_ctx} tokens, trained for {}", info.n_ctx_train),
            format!("sampling  {}", sampling(&self.sampling)),
        ]
    }

    fn model(&self) -> ModelId {
        self.engine.info().into()
    }

    fn tokens(&self) -> &[TokenId] {
        let held = self.session.as_ref().map_or(&[][..], |session| session.tokens());
        self.recalled.as_deref().unwrap_or(held)
    }

    fn recall(&mut self, tokens: Vec<TokenId>) {
        let n_vocab = self.engine.info().n_vocab;
        self.recalled = Some(tokens.into_iter().take_while(|&id| (id as usize) < n_vocab).collect());
    }
}

/// How tokens are chosen: the temperature, the seed, and what else is not as by default.
fn sampling(options: &SamplerOptions) -> String {
    let usual = SamplerOptions::default();
    let unusual = [
        (options.top_k != usual.top_k, format!("top-k {}", options.top_k)),
        (options.top_p != usual.top_p, format!("top-p {}", options.top_p)),
        (options.min_p != usual.min_p, format!("min-p {}", options.min_p)),
        (options.repetition_penalty != 1.0, format!("repeat penalty {}", options.repetition_penalty)),
        (options.presence_penalty != 0.0, format!("presence penalty {}", options.presence_penalty)),
        (options.frequency_penalty != 0.0, format!("frequency penalty {}", options.frequency_penalty)),
        (options.penalty_last_n == usize::MAX, "over all tokens".into()),
        (
            options.penalty_last_n != usual.penalty_last_n && options.penalty_last_n < usize::MAX,
            format!("over {} tokens", options.penalty_last_n),
        ),
    ];
    let unusual = unusual.into_iter().filter_map(|(is_told, text)| is_told.then(|| format!(", {text}")));
    format!("temperature {}{}, seed {}", options.temperature, unusual.collect::<String>(), options.seed)
}

/// Refuses what cannot fit before its tokens are counted, which takes long. Ordinary text has about 4 bytes to a
/// token; what has 16 and goes on for a mebibyte is none that a tokenizer was made for.
fn check_bytes(ask: Ask<'_>, n_ctx: usize) -> Result<(), Error> {
    let n_bytes = match ask {
        Ask::Turn(messages, _) => messages.iter().map(|m| m.text.len()).sum(),
        Ask::Raw(text) => text.len(),
    };
    match n_bytes > n_ctx.saturating_mul(16).saturating_add(1 << 20) {
        true => Err(Error::PromptFarTooLong { n_bytes, n_ctx }),
        false => Ok(()),
    }
}

/// The schema that answers are to be valid by.
fn schema(args: &FormArgs) -> Result<Option<String>, Error> {
    match &args.json_schema_file {
        Some(path) => prompt::read_file(path).map(Some),
        None => Ok(args.json_schema.clone()),
    }
}

/// The chat encoding of a model.
fn chat(engine: &Engine) -> Result<&dyn Chat, Error> {
    engine.chat().map_err(|e| Error::Chat(e.clone()))
}

/// Tells what a session of `n_ctx` tokens takes, reads the weights into memory and opens it.
pub(crate) fn open_session(engine: &Engine, n_ctx: usize) -> Result<Session, Error> {
    Ok(open_sessions(engine, 1, n_ctx)?.pop().expect("one was opened"))
}

/// The same for `n` sessions side by side.
pub(crate) fn open_sessions(engine: &Engine, n: usize, n_ctx: usize) -> Result<Vec<Session>, Error> {
    let plan = engine.plan_sessions(n, n_ctx)?;
    terminal::note(&plan.to_string());
    if !plan.fits() {
        terminal::note(
            "that is more than there is free: weights will be read from disk again and again, which is slow",
        );
    }
    let n_ctx_train = engine.info().n_ctx_train;
    if n_ctx > n_ctx_train {
        terminal::note(&format!(
            "the model was trained for {n_ctx_train} tokens: what it says behind them may be nonsense"
        ));
    }
    let sessions = engine.sessions(n, n_ctx)?;
    let mut progress = Progress::loading();
    engine.read_ahead(&mut |loading| {
        progress.set(loading.done_bytes, loading.total_bytes);
        ControlFlow::Continue(())
    });
    Ok(sessions)
}

/// A model in a few words.
pub(crate) fn describe(engine: &Engine) -> String {
    let info = engine.info();
    let size = units::bytes(info.file_bytes);
    format!("{}, {}, {} parameters, {size}", info.name, info.family, units::count(info.n_params))
}

/// Writes answers to a screen, and says that reasoning is going on where it is not shown.
pub(crate) fn show<W: std::io::Write>(
    speaker: &mut dyn Speaker,
    ask: Ask<'_>,
    screen: &mut terminal::Screen<W>,
    mut also: impl FnMut(&Event),
) -> Result<Reply, Error> {
    let mut failed = None;
    let mut pondering = Pondering::new();
    let reply = speaker.answer(ask, &mut |event| {
        match event {
            Event::Thinking(_) if screen.hides_reasoning() => pondering.tick(),
            _ => pondering.end(),
        }
        also(&event);
        match screen.event(&event) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => {
                failed = Some(e);
                ControlFlow::Break(())
            }
        }
    });
    pondering.end();
    let finished = screen.finish();
    match failed {
        Some(e) => Err(e),
        None => finished.and(reply),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_line_after_an_answer_tells_of_the_experts_that_decoding_read() {
        let pace = |n, seconds| Pace { n, seconds };
        let stalled = Duration::from_millis(1240);
        let stats = Stats { n_hits: 61, n_misses: 39, read_bytes: 3360 << 20, stalled, ..Stats::default() };
        let streamed = Some(Streamed { stats, ssd_bytes_per_second: Some(1.0e9) });
        let (prefill, decode) = (pace(12, 1.5), pace(40, 5.0));
        let reply =
            Reply { stop: Stop::EndOfTurn, reused: 0, prefill, decode, reasoning_cut: false, n_dropped: 0, streamed };
        let plain = "prefill 12 tokens 8.0 t/s, decode 40 tokens 8.0 t/s";
        let more =
            " with 61 % of experts in memory, 84.0 MiB per token at 0.7 GB/s (70 % of the SSD), 31.0 ms waited each";
        assert_eq!(reply.speed(), format!("{plain}{more}"));
        let streamed = Some(Streamed { stats, ssd_bytes_per_second: None });
        assert_eq!(Reply { streamed, ..reply }.speed(), format!("{plain}{}", more.replace(" (70 % of the SSD)", "")));
        assert_eq!(Reply { streamed: None, ..reply }.speed(), plain);
        let cut = Reply { streamed: None, reasoning_cut: true, ..reply };
        assert_eq!(cut.speed(), format!("{plain}, reasoning ended by --reasoning-budget"));
        let looped = Reply { streamed: None, n_dropped: 1792, ..reply };
        assert_eq!(looped.speed(), format!("{plain}, 1792 more dropped to get out of a loop"));
        let nothing = Reply { decode: pace(0, 0.0), ..reply };
        assert_eq!(nothing.speed(), "prefill 12 tokens 8.0 t/s, decode 0 tokens", "nothing was decoded");
    }
}
