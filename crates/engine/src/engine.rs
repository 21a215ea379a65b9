//! An open model: the file, its weights on a device, its vocabulary.

use std::{
    cmp::Reverse,
    hint::black_box,
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use compute::{Device, Limits, Meter};
use experts::{Places, Room, Routing, Script, Stats, Store, trace};
use gguf::{Gguf, Origin};
use grammar::{Grammar, Source, Vocabulary};
use models::{Chat, ChatError, Cost, KvType, Model, Part, Residency, StateOptions, Syntax};
use tokenizer::{Special, TokenId, Tokenizer};

use crate::{
    Error, Plan, SamplerOptions, Session, devices,
    identity::{fingerprint, identity},
    keeper::Keeper,
    machine,
    pieces::{Layout, Pieces},
    plan::Arena,
    reader::ends,
    runner::Runner,
    seam::Speller,
    turns::Turns,
    written::Written,
};

/// How to open a model.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file, or the first of its parts; or a model inside the program.
    pub model: Origin,
    /// Threads that compute; by default one per physical core that we may use.
    pub threads: Option<usize>,
    /// The instruction set to compute with: `scalar`, `avx2`, `avx512`, `amx`, `neon`; by default the best that the
    /// machine has.
    pub isa: Option<String>,
    /// How cached rows are kept; by default as the model's authors do.
    pub kv: Option<KvType>,
    /// Rows of a forward pass while a prompt is read.
    pub n_batch: usize,
    /// Where a model's experts are.
    pub experts: Experts,
    /// Whether to measure what bounds the device, before memory is taken for the model.
    pub measure: bool,
    /// The folder for what a streamed model leaves to its next run; by default nothing is kept.
    pub cache_dir: Option<PathBuf>,
    /// What of it is used and added to.
    pub learning: Learning,
    /// What of sessions' memory outlives them, so that no token is computed twice; by default nothing.
    pub kept: Option<Kept>,
    /// Who is told, in a line, what could not be read or kept; by default nobody.
    pub warn: fn(&str),
}

/// Where what sessions leave is kept, and how much of it.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The folder, which need not exist; without one, nothing outlives the program.
    pub dir: Option<PathBuf>,
    /// The most bytes in memory.
    pub ram_bytes: u64,
    /// The most bytes in the folder.
    pub disk_bytes: u64,
    /// The most bytes that are written in a day.
    pub written_bytes_per_day: u64,
}

/// What a streamed model makes of the experts that it used most before, where there is a folder to keep them in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Learning {
    /// It starts with them in memory, and learns.
    #[default]
    Warm,
    /// It starts with none in memory, and learns.
    Cold,
    /// It starts with none in memory, and learns nothing: for tokens that nobody meant.
    Off,
}

/// Where the experts of a mixture are while the model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Experts {
    /// In memory if the file fits, else on the SSD.
    #[default]
    Auto,
    /// On the SSD, with a cache in memory.
    Streamed(Budget),
}

/// The size of the cache of experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Budget {
    /// Most of the memory that is free once the other weights are there.
    #[default]
    Auto,
    /// So many experts.
    Count(usize),
    /// So many bytes.
    Bytes(u64),
}

impl Options {
    /// The defaults, for a model.
    pub fn new(model: impl Into<Origin>) -> Options {
        Options {
            model: model.into(),
            threads: None,
            isa: None,
            kv: None,
            n_batch: 512,
            experts: Experts::Auto,
            measure: false,
            cache_dir: None,
            learning: Learning::Warm,
            kept: None,
            warn: |_| (),
        }
    }
}

/// How much of the file is in memory.
#[derive(Clone, Copy, Debug)]
pub struct Loading {
    /// Bytes that are.
    pub done_bytes: u64,
    /// Bytes that will be.
    pub total_bytes: u64,
}

/// What a model is, for people.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// `general.name`, or the file's name.
    pub name: String,
    /// `general.architecture`.
    pub family: String,
    /// Layers.
    pub n_layer: usize,
    /// Width of the hidden state.
    pub n_embd: usize,
    /// Length of a row of logits.
    pub n_vocab: usize,
    /// The longest context that the model was trained for.
    pub n_ctx_train: usize,
    /// Weights.
    pub n_params: u64,
    /// The file's bytes, all parts together.
    pub file_bytes: u64,
    /// How cached rows are kept.
    pub kv: KvType,
}

/// An open model. Sessions keep what they need of it alive.
pub struct Engine(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    gguf: Gguf,
    pub(crate) dev: Arc<dyn Device>,
    pub(crate) model: Box<dyn Model>,
    /// Who reads its experts, and what else is done about choices of them.
    pub(crate) routing: Routing,
    /// Who remembers what they did, until the end.
    keeper: Option<Keeper>,
    /// What sessions leave, if it is kept.
    pub(crate) pieces: Option<Pieces>,
    pub(crate) n_batch: usize,
    info: ModelInfo,
    isa: &'static str,
    n_threads: usize,
    limits: Option<Limits>,
    tokenizer: Option<Tokenizer>,
    chat: Result<Box<dyn Chat>, ChatError>,
    /// Built when the first grammar is.
    vocabulary: OnceLock<Result<Vocabulary, grammar::Error>>,
    vocab_bytes: u64,
    kept_bytes: u64,
}

/// Contexts are no longer than this unless asked for: most conversations fit, and small machines hold it.
const N_CTX_DEFAULT: usize = 32768;

/// Memory that reading is measured on: more than caches hold.
const LIMITS_BYTES: u64 = 1 << 30;

/// Rows of a batch that arithmetic on them can stand.
const N_BATCH_MAX: usize = 1 << 16;
/// Positions that arithmetic on them can stand. A context longer than a model was trained for is the caller's choice.
const N_CTX_MAX: usize = 1 << 30;

impl Engine {
    /// Opens a model: maps the file and binds its weights, which stay on disk until they are used.
    ///
    /// # Errors
    /// What is wrong with the file, or that the device cannot hold it.
    pub fn open(options: &Options) -> Result<Engine, Error> {
        Engine::open_on(options, |dev| dev, Routing::default())
    }

    /// As [`Engine::open`], on what `through` makes of the device: one that watches what is computed. Nothing is, then, but
    /// what the model asks for: choices of experts are not guessed.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_through(
        options: &Options,
        through: impl FnOnce(Arc<dyn Device>) -> Arc<dyn Device>,
    ) -> Result<Engine, Error> {
        Engine::open_on(options, through, Routing { never_guesses: true, ..Routing::default() })
    }

    fn open_on(
        options: &Options,
        through: impl FnOnce(Arc<dyn Device>) -> Arc<dyn Device>,
        routing: Routing,
    ) -> Result<Engine, Error> {
        let gguf = Gguf::open_from(&options.model)?;
        let (dev, isa, n_threads) = devices::open(options.threads, options.isa.as_deref())?;
        let dev = through(dev);
        let limits = if options.measure { limits(&*dev) } else { None };
        let (model, budget) = open_model(&gguf, &*dev, options, n_threads)?;
        let tokenizer = open_tokenizer(&gguf, model.shape().n_vocab)?;
        let chat = tokenizer.as_ref().map_or(Err(ChatError::NoTemplate), |t| models::open_chat(&gguf, t));
        let mut inner = Inner {
            vocab_bytes: tokenizer.as_ref().map_or(0, |t| Tokenizer::memory_bytes(t.n_vocab(), t.n_vocab()) as u64),
            info: info(&gguf, &*model, kv(options))?,
            n_batch: n_batch(options),
            kept_bytes: kept_bytes(options),
            gguf,
            dev,
            model,
            routing,
            keeper: None,
            pieces: None,
            isa,
            n_threads,
            limits,
            tokenizer,
            chat,
            vocabulary: OnceLock::new(),
        };
        inner.routing.store = budget.map(|budget| inner.store(budget)).transpose()?.map(Arc::new);
        inner.keeper = inner.keeper(options);
        inner.pieces = options.kept.as_ref().map(|kept| inner.pieces(options, kept)).transpose()?;
        Ok(Engine(Arc::new(inner)))
    }

    /// Reads the weights into memory, so that the first prompt does not wait for the disk; not if they do not fit, or are
    /// streamed.
    /// Tells `progress` how far it is, until that breaks off.
    pub fn read_ahead(&self, progress: &mut dyn FnMut(Loading) -> ControlFlow<()>) {
        const STEP: usize = 64 << 20;
        const PAGE: usize = 4096;
        let gguf = &self.0.gguf;
        if self.0.is_streamed() || machine::available_bytes().is_some_and(|bytes| bytes < gguf.file_bytes()) {
            return;
        }
        let total_bytes = gguf.tensors().iter().map(|t| t.n_bytes() as u64).sum();
        let mut done_bytes = 0;
        for tensor in gguf.tensors() {
            let bytes = gguf.bytes(tensor);
            bytes.prefetch();
            for part in bytes.as_ref().chunks(STEP) {
                black_box(part.iter().step_by(PAGE).fold(0, |sum: u8, b| sum ^ b));
                done_bytes += part.len() as u64;
                if progress(Loading { done_bytes, total_bytes }).is_break() {
                    return;
                }
            }
        }
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.0.info
    }

    /// How tokens are chosen unless somebody says otherwise: as the file recommends, `general.sampling.*`. To be checked.
    pub fn sampling(&self) -> SamplerOptions {
        SamplerOptions::of_file(self.0.gguf.metadata())
    }

    /// The files that it is read from: all parts of a split model; none of one inside the program.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.gguf.paths()
    }

    /// The file, or the first of them; of a model inside the program, its name.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// What runs it.
    pub fn device_name(&self) -> String {
        self.0.dev.name()
    }

    /// How many threads compute.
    pub fn n_threads(&self) -> usize {
        self.0.n_threads
    }

    /// What the token at position `pos` costs.
    pub fn cost(&self, pos: usize) -> Cost {
        self.0.model.cost(pos, self.0.info.kv)
    }

    /// What bounds the device, if that was to be measured, and can be.
    pub fn limits(&self) -> Option<Limits> {
        self.0.limits
    }

    /// The vocabulary, if the file has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.0.tokenizer.as_ref()
    }

    /// How this model writes conversations.
    ///
    /// # Errors
    /// Why it has no way to.
    pub fn chat(&self) -> Result<&dyn Chat, &ChatError> {
        self.0.chat.as_deref()
    }

    /// A form for answers, for [`AnswerOptions::grammar`](crate::AnswerOptions::grammar). The first one takes about
    /// a second more.
    ///
    /// # Errors
    /// [`Error::NoVocabulary`], and [`Error::Grammar`] with what is wrong with `source`.
    pub fn grammar(&self, source: Source<'_>) -> Result<Grammar, Error> {
        let tokenizer = self.tokenizer().ok_or(Error::NoVocabulary)?;
        let build = || Vocabulary::new(tokenizer, &ends(tokenizer, self.chat().ok()).0);
        let vocabulary = self.0.vocabulary.get_or_init(build).as_ref().map_err(Clone::clone)?;
        Ok(vocabulary.compile(source)?)
    }

    /// The same, for answers with calls: by [`Chat::syntax`], in which answers without any are held to `answer`.
    ///
    /// # Errors
    /// As [`Engine::grammar`], and [`Error::NoMarker`].
    pub fn calls(&self, syntax: &Syntax, answer: Option<Source<'_>>) -> Result<Grammar, Error> {
        let tokenizer = self.tokenizer().ok_or(Error::NoVocabulary)?;
        let mut lark = String::new();
        for part in &syntax.lark {
            match part {
                Part::Text(text) => lark.push_str(text),
                Part::Marker(marker) => {
                    let id = tokenizer.id_of(marker).ok_or_else(|| Error::NoMarker { marker: marker.clone() })?;
                    lark.push_str(&format!("<[{id}]>"));
                }
            }
        }
        let schemas = syntax.schemas.iter().map(|schema| (schema.name.as_str(), Source::JsonSchema(&schema.text)));
        let parts: Vec<_> = schemas.chain(answer.map(|answer| (Syntax::ANSWER, answer))).collect();
        self.grammar(Source::Composed(&lark, &parts))
    }

    /// The ids of a prompt in parts; nothing in a text becomes a marker.
    ///
    /// # Errors
    /// [`Error::NoVocabulary`], and [`Error::NoMarker`] where the vocabulary lacks a marker's one token.
    pub fn encode(&self, parts: &[Part]) -> Result<Vec<TokenId>, Error> {
        encode(self.tokenizer().ok_or(Error::NoVocabulary)?, parts)
    }

    /// The ids of a prompt in parts, which begin with as many of the `known` tokens as spell it, or of those that were kept:
    /// what a client sends back of an answer need not give the tokens that were sampled for it.
    ///
    /// # Errors
    /// As [`Engine::encode`].
    pub fn encode_after(&self, known: &[TokenId], parts: &[Part]) -> Result<Vec<TokenId>, Error> {
        let tokenizer = self.tokenizer().ok_or(Error::NoVocabulary)?;
        let plain = self.encode(parts)?;
        let speller = Speller { tokenizer, parts };
        let kept = self.0.pieces.as_ref().map(|pieces| speller.kept(&pieces.store)).unwrap_or_default();
        let n_alike = |known: &[TokenId]| plain.iter().zip(known).take_while(|(a, b)| a == b).count();
        let mut seams: Vec<_> =
            [known, &kept].iter().flat_map(|known| speller.seams(known).map(|s| (*known, s))).collect();
        seams.sort_by_key(|(_, seam)| Reverse(seam.n_tokens));
        for (known, seam) in seams.into_iter().filter(|(known, seam)| seam.n_tokens > n_alike(known)) {
            let mut ids = known[..seam.n_tokens].to_vec();
            ids.extend(self.encode(&seam.rest(parts))?);
            // A text that is cut may not come out as its rest does.
            if speller.is_spelled(&ids) {
                return Ok(ids);
            }
        }
        Ok(plain)
    }

    /// The context of a session when nobody asks for one: what the model was trained for, but no more than most
    /// conversations need and half of the free memory holds.
    pub fn n_ctx_default(&self) -> usize {
        let mut n_ctx = usual_n_ctx(&*self.0.model);
        let weights_bytes = if self.0.is_streamed() { 0 } else { self.0.info.file_bytes }; // to be read
        let half = |plan: &Plan| plan.room_bytes().unwrap_or(u64::MAX).saturating_sub(weights_bytes) / 2;
        while n_ctx > 512 && self.plan(n_ctx).is_ok_and(|plan| plan.kv_bytes > half(&plan)) {
            n_ctx /= 2;
        }
        n_ctx
    }

    /// What a session of `n_ctx` tokens will take.
    ///
    /// # Errors
    /// [`Error::ContextSize`].
    pub fn plan(&self, n_ctx: usize) -> Result<Plan, Error> {
        self.plan_sessions(1, n_ctx)
    }

    /// What `n` sessions of `n_ctx` tokens will take.
    ///
    /// # Errors
    /// As [`Engine::plan`].
    pub fn plan_sessions(&self, n: usize, n_ctx: usize) -> Result<Plan, Error> {
        if !(1..=N_CTX_MAX).contains(&n_ctx) {
            return Err(Error::ContextSize { n_ctx, n_ctx_max: N_CTX_MAX });
        }
        self.0.plan(n, n_ctx)
    }

    /// What the cache of experts did so far, if there is one.
    pub fn expert_stats(&self) -> Option<Stats> {
        self.0.routing.store.as_ref().map(|store| store.stats())
    }

    /// What is kept of sessions' memory, and what that took, if it is kept.
    pub fn kept_stats(&self) -> Option<kv::Stats> {
        self.0.pieces.as_ref().map(|pieces| pieces.store.stats())
    }

    /// Waits until all that sessions left is safe on the disk, or cannot be.
    pub fn flush(&self) {
        self.0.flush();
    }

    /// Does as [`Engine::flush`] if there still is an engine then.
    pub fn flusher(&self) -> impl Fn() + Send + 'static {
        let inner = Arc::downgrade(&self.0);
        move || inner.upgrade().iter().for_each(|inner| inner.flush())
    }

    /// What the SSD delivers to readers of experts, where that was measured.
    pub fn ssd_bytes_per_second(&self) -> Option<f64> {
        self.0.routing.store.as_ref()?.probe().map(|probe| probe.bytes_per_second as f64)
    }

    /// Whether this model chooses experts.
    ///
    /// # Errors
    /// [`Error::NoExperts`].
    pub fn check_routes(&self) -> Result<(), Error> {
        self.0.routes().map(|_| ())
    }

    /// Writes down which experts are chosen from now on, until [`Engine::finish_trace`].
    ///
    /// # Errors
    /// [`Error::NoExperts`], [`Error::Trace`].
    ///
    /// # Panics
    /// If there is a session already.
    pub fn trace_routes(&mut self, out: impl io::Write + Send + 'static) -> Result<(), Error> {
        let inner = Arc::get_mut(&mut self.0).expect("there is no session yet");
        let head = inner.routes()?;
        let writer = trace::Writer::create(out, head).map_err(|source| Error::Trace { source })?;
        inner.routing.trace = Some(Arc::new(Mutex::new(Some(writer))));
        Ok(())
    }

    /// Completes what [`Engine::trace_routes`] has begun, if it has.
    ///
    /// # Errors
    /// [`Error::Trace`].
    pub fn finish_trace(&self) -> Result<(), Error> {
        let trace = self.0.routing.trace.as_ref();
        let writer = trace.and_then(|trace| trace.lock().unwrap_or_else(PoisonError::into_inner).take());
        writer.map_or(Ok(()), trace::Writer::finish).map_err(|source| Error::Trace { source })
    }

    /// Has experts chosen as `trace` says, not as the model does: for measurements. Of a hundred guesses of what a layer
    /// will choose, `n_right` are to be right; without it, nothing is guessed.
    ///
    /// # Errors
    /// [`Error::NoExperts`], [`Error::OtherRoutes`].
    ///
    /// # Panics
    /// If there is a session already.
    pub fn follow_routes(&mut self, trace: trace::Trace, n_right: Option<u8>) -> Result<(), Error> {
        let inner = Arc::get_mut(&mut self.0).expect("there is no session yet");
        let (ours, found) = (inner.routes()?, trace.head);
        let alike =
            |a: trace::Head, b: trace::Head| (a.n_layer, a.n_expert, a.n_used) == (b.n_layer, b.n_expert, b.n_used);
        if !alike(ours, found) {
            return Err(Error::OtherRoutes { found, ours });
        }
        let script = Script::new(trace, n_right).map_err(|layer| Error::NoRoutes { layer })?;
        inner.routing.script = Some(Arc::new(script));
        Ok(())
    }

    /// A session with room for `n_ctx` tokens. All its memory is taken here.
    ///
    /// # Errors
    /// [`Error::ContextSize`], or [`Error::Memory`] before anything is allocated.
    pub fn session(&self, n_ctx: usize) -> Result<Session, Error> {
        Ok(self.sessions(1, n_ctx)?.pop().expect("one was asked for"))
    }

    /// `n` sessions with room for `n_ctx` tokens each, which compute together: what they push at the same time is one
    /// batch, and prompts give way to it. All their memory is taken here.
    ///
    /// # Errors
    /// As [`Engine::session`].
    ///
    /// # Panics
    /// If `n` is none.
    pub fn sessions(&self, n: usize, n_ctx: usize) -> Result<Vec<Session>, Error> {
        let (plan, options) = (self.plan_sessions(n, n_ctx)?, self.0.state_options(n, n_ctx));
        let needed_bytes = plan.session_bytes();
        if let Some(available_bytes) = plan.room_bytes().filter(|&bytes| bytes < needed_bytes) {
            return Err(Error::Memory { n_ctx, needed_bytes, available_bytes });
        }
        let runner = Runner::new(&self.0, &options)?;
        let n_rewind = runner.state.n_rewind(usize::MAX);
        let turns = Arc::new(Turns::new(self.0.clone(), runner, options.n_batch));
        let session = |slot| Session::new(self.0.clone(), turns.clone(), slot, n_ctx, n_rewind);
        Ok((0..n as u32).map(session).collect())
    }
}

impl Inner {
    fn is_streamed(&self) -> bool {
        self.routing.store.is_some()
    }

    fn plan(&self, n_sessions: usize, n_ctx: usize) -> Result<Plan, Error> {
        let experts = self.arena();
        let weights_bytes = if experts.is_some() { self.model.shape().weights_bytes } else { self.info.file_bytes };
        let options = self.state_options(n_sessions, n_ctx);
        let plan = Plan::new(&*self.model, &options, self.n_threads, weights_bytes, experts, self.vocab_bytes)?;
        Ok(Plan { kept_bytes: self.kept_bytes, ..plan })
    }

    /// The experts of a model that was opened without them.
    fn store(&self, budget: Budget) -> Result<Store, Error> {
        let path = || self.path().to_path_buf();
        let places = self.model.places().ok_or_else(|| Error::NoExperts { path: path() })?.clone();
        let session_bytes = self.plan(1, usual_n_ctx(&*self.model))?.session_bytes();
        let n_slots = n_slots(budget, &places, session_bytes, machine::available_bytes())?;
        let room = match budget {
            // What was asked for is taken at once; what was left to us grows while that helps.
            Budget::Auto => Room { n_slots: n_slots.div_ceil(4) * 3, n_slots_max: n_slots, is_free: machine::is_free },
            Budget::Count(_) | Budget::Bytes(_) => Room::fixed(n_slots),
        };
        let store = Store::new(places, room)?;
        // It has opened the files by their names.
        self.gguf.is_there()?;
        Ok(store)
    }

    fn routes(&self) -> Result<trace::Head, Error> {
        self.model.routes().ok_or_else(|| Error::NoExperts { path: self.path().to_path_buf() })
    }

    /// Who keeps what streaming learns, if there is a folder for that.
    fn keeper(&self, options: &Options) -> Option<Keeper> {
        let (store, places) = self.routing.store.as_ref().zip(self.model.places())?;
        let (folder, model) = (options.cache_dir.as_deref()?, identity(&self.gguf));
        Keeper::open(folder, options.learning, model, places, store.clone(), options.warn)
    }

    fn flush(&self) {
        self.pieces.iter().for_each(|pieces| pieces.store.flush());
    }

    /// The store of what sessions leave.
    fn pieces(&self, options: &Options, kept: &Kept) -> Result<Pieces, Error> {
        let layout = Layout::new(&*self.model, &self.state_options(1, usual_n_ctx(&*self.model)), self.isa)?;
        let folder = options.cache_dir.as_ref().or(kept.dir.as_ref()).filter(|_| kept.dir.is_some());
        let written = folder.map(|folder| Written::open(folder));
        let store = kv::Options {
            dir: kept.dir.clone(),
            model: self.info.name.clone(),
            ram_bytes: kept.ram_bytes,
            disk_bytes: kept.disk_bytes,
            written_bytes_per_day: kept.written_bytes_per_day,
            written_today_bytes: written.as_ref().map_or(0, |w| w.1),
            warn: options.warn,
        };
        let root = kv::Name::root(fingerprint(&self.gguf).as_bytes(), layout.text.as_bytes());
        Ok(Pieces::new(kv::Store::open(root, store), layout, written.map(|w| w.0)))
    }

    fn arena(&self) -> Option<Arena> {
        let (store, places) = self.routing.store.as_ref().zip(self.model.places())?;
        Some(Arena {
            bytes: store.arena_bytes() as u64,
            taken_bytes: (store.n_slots() * places.slot_bytes()) as u64,
            n_slots: store.n_slots_max(),
            n_experts: places.n_experts(),
        })
    }

    /// The model file.
    pub(crate) fn path(&self) -> &Path {
        self.gguf.path()
    }

    pub(crate) fn state_options(&self, n_sessions: usize, n_ctx: usize) -> StateOptions {
        state_options(n_sessions, n_ctx, self.n_batch, self.info.kv)
    }
}

/// The model; without its experts if they are to be streamed, and then with the size of their cache. What is to be read is
/// decided on an outline, the model on a device that only counts, so that weights are bound once.
fn open_model(
    gguf: &Gguf,
    dev: &dyn Device,
    options: &Options,
    n_threads: usize,
) -> Result<(Box<dyn Model>, Option<Budget>), Error> {
    let may_stream = gguf.is_file() && gguf.tensors().iter().any(|t| models::is_expert(&t.name));
    if options.experts == Experts::Auto && !may_stream {
        return Ok((models::open(gguf, dev, Residency::All)?, None));
    }
    if !gguf.is_file() {
        return Err(Error::NothingToStream { name: gguf.path().display().to_string() });
    }
    let outline = models::open(gguf, &Meter::default(), Residency::WithoutExperts)?;
    let state = state_options(1, usual_n_ctx(&*outline), n_batch(options), kv(options));
    let whole = Plan::new(&*outline, &state, n_threads, gguf.file_bytes(), None, 0)?;
    let whole = Plan { kept_bytes: kept_bytes(options), ..whole };
    let budget = match options.experts {
        Experts::Auto if whole.fits() => return Ok((models::open(gguf, dev, Residency::All)?, None)),
        Experts::Auto => Budget::Auto,
        Experts::Streamed(budget) => budget,
    };
    check_streamed(gguf, &*outline, budget, whole.session_bytes())?;
    Ok((models::open(gguf, dev, Residency::WithoutExperts)?, Some(budget)))
}

/// Refuses what would not fit once the weights are there, before they are read.
fn check_streamed(gguf: &Gguf, outline: &dyn Model, budget: Budget, session_bytes: u64) -> Result<(), Error> {
    let places = outline.places().ok_or_else(|| Error::NoExperts { path: gguf.path().to_path_buf() })?;
    let (needed_bytes, available) = (outline.shape().weights_bytes, machine::available_bytes());
    if let Some(available_bytes) = available.filter(|&bytes| bytes < needed_bytes) {
        return Err(Error::WeightsMemory { needed_bytes, available_bytes });
    }
    n_slots(budget, places, session_bytes, available.map(|bytes| bytes - needed_bytes)).map(|_| ())
}

/// What sessions leave may take in memory.
fn kept_bytes(options: &Options) -> u64 {
    options.kept.as_ref().map_or(0, |kept| kept.ram_bytes)
}

fn kv(options: &Options) -> KvType {
    options.kv.unwrap_or(KvType::Native)
}

fn n_batch(options: &Options) -> usize {
    options.n_batch.clamp(1, N_BATCH_MAX)
}

/// The context that most conversations need, as far as the model was trained for it.
fn usual_n_ctx(model: &dyn Model) -> usize {
    model.shape().n_ctx_train.min(N_CTX_DEFAULT)
}

/// So many sequences of `n_ctx` tokens; a batch has room for one of each.
fn state_options(n_sessions: usize, n_ctx: usize, n_batch: usize, kv: KvType) -> StateOptions {
    StateOptions { n_ctx, n_slot: n_sessions, n_batch: n_batch.min(n_ctx).max(n_sessions), kv }
}

/// Experts that the cache holds: as many as were asked for, if that is available. Left to us, fifteen sixteenths of what a
/// session of the usual length leaves.
fn n_slots(budget: Budget, places: &Places, session_bytes: u64, available: Option<u64>) -> Result<usize, Error> {
    let slot_bytes = places.slot_bytes() as u64;
    let available_bytes = available.unwrap_or(u64::MAX);
    let bytes = match budget {
        Budget::Auto => available.ok_or(Error::UnknownMemory)?.saturating_sub(session_bytes) / 16 * 15,
        Budget::Count(n) => slot_bytes.saturating_mul(n as u64),
        Budget::Bytes(bytes) => bytes,
    };
    let n = (bytes / slot_bytes).min(places.n_experts() as u64);
    match n * slot_bytes {
        0 if budget == Budget::Auto => Err(Error::NoRoomBeside { session_bytes, slot_bytes, available_bytes }),
        0 => Err(Error::NoRoomForExperts { bytes, slot_bytes }),
        needed_bytes if needed_bytes > available_bytes => Err(Error::ExpertCache { needed_bytes, available_bytes }),
        _ => Ok(n as usize),
    }
}

/// See [`Device::limits`]. No more than a quarter of the free memory is taken, and given back.
fn limits(dev: &dyn Device) -> Option<Limits> {
    let room_bytes = machine::available_bytes().unwrap_or(u64::MAX) / 4;
    dev.limits(room_bytes.min(LIMITS_BYTES) as usize)
}

/// The ids of a text in parts; nothing in a text becomes a marker.
///
/// # Errors
/// [`Error::NoMarker`].
pub(crate) fn encode(tokenizer: &Tokenizer, parts: &[Part]) -> Result<Vec<TokenId>, Error> {
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        let special = match part {
            Part::Marker(marker) if tokenizer.encode(marker, Special::Parse).len() != 1 => {
                return Err(Error::NoMarker { marker: marker.clone() });
            }
            Part::Marker(_) => Special::Parse,
            Part::Text(_) => Special::Plain,
        };
        texts.push((part.as_str(), special));
    }
    Ok(tokenizer.encode_parts(&texts))
}

fn open_tokenizer(gguf: &Gguf, n_rows: usize) -> Result<Option<Tokenizer>, Error> {
    let path = || gguf.path().to_path_buf();
    if gguf.metadata().get("tokenizer.ggml.model").is_none() {
        return Ok(None);
    }
    let t = Tokenizer::from_gguf(gguf.metadata()).map_err(|source| Error::Tokenizer { path: path(), source })?;
    match t.n_vocab() > n_rows {
        true => Err(Error::Vocabulary { path: path(), found: t.n_vocab(), rows: n_rows }),
        false => Ok(Some(t)),
    }
}

fn info(gguf: &Gguf, model: &dyn Model, kv: KvType) -> Result<ModelInfo, Error> {
    let shape = model.shape();
    let file_name = || gguf.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(ModelInfo {
        name: gguf.metadata().str_opt("general.name")?.map_or_else(file_name, String::from),
        family: gguf.metadata().str("general.architecture")?.to_string(),
        n_layer: shape.n_layer,
        n_embd: shape.n_embd,
        n_vocab: shape.n_vocab,
        n_ctx_train: shape.n_ctx_train,
        n_params: shape.n_params,
        file_bytes: gguf.file_bytes(),
        kv,
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_model_that_is_larger_than_memory_is_streamed_and_bound_once() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = folder.path().join("model.gguf");
        let micro = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/deepseek_v4/micro-flash.gguf");
        fs::copy(micro, &path).unwrap_or_else(|e| panic!("{e}"));
        // Nothing but zeros follows, and nobody reads them.
        File::options().write(true).open(&path).and_then(|f| f.set_len(1 << 40)).unwrap_or_else(|e| panic!("{e}"));

        let (gguf, dev, once) = (Gguf::open(&path).expect("a model"), Meter::default(), Meter::default());
        let (_, budget) = open_model(&gguf, &dev, &Options::new(path), 1).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(budget, Some(Budget::Auto));
        models::open(&gguf, &once, Residency::WithoutExperts).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(dev.counts(), once.counts());
    }
}
