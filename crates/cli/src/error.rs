//! What can go wrong, how it is told, and the exit status that goes with it.
//!
//! ```text
//! error: flash.gguf: tensor `blk.7.ffn_up_exps.weight` needs bytes 10..4096, but the file ends at byte 4000
//! help: the download stopped 96 bytes short; run it again, it will resume
//! ```

use std::{fmt::Write as _, io, path::PathBuf, process::ExitCode};

use models::WishError;
use server::TlsError;
use tools::{hf, imatrix::corpus::CorpusError, quantize};

use crate::{terminal, units};

/// Why the program ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The flags do not parse.
    #[error("{what}")]
    Usage { what: String, help: String },

    /// A flag has a value outside its range.
    #[error("{flag} {value}: must be {allowed}")]
    Value { flag: String, value: String, allowed: String },

    /// A model's file recommends what means nothing.
    #[error("{key} of the model is {value}, but must be {allowed}")]
    Recommended { key: String, value: String, allowed: &'static str, flag: String },

    /// ds4 has it, we have not.
    #[error("{what} is not in this version{}", reason.map(|r| format!(": {r}")).unwrap_or_default())]
    NotYet { what: String, reason: Option<&'static str>, help: String },

    /// Nothing to answer.
    #[error("the prompt is empty")]
    EmptyPrompt,

    /// No prompt, and nobody to type one.
    #[error("no prompt, and no terminal to type one at")]
    NoPrompt,

    /// `--think`, `--nothink` or `--effort` with a model that cannot.
    #[error(transparent)]
    Wish(#[from] WishError),

    /// The template turns what was said into nothing.
    #[error("the chat template of this model makes nothing of what was said")]
    SilentTemplate,

    /// The prompt is longer than it is worth counting its tokens.
    #[error("the prompt has {n_bytes} bytes, far more than a context of {n_ctx} tokens holds")]
    PromptFarTooLong { n_bytes: usize, n_ctx: usize },

    /// The prompt leaves no room for an answer.
    #[error("the prompt has {n} tokens, but the context holds {n_ctx}, the answer included")]
    PromptTooLong { n: usize, n_ctx: usize },

    /// A context could not be made larger, and then not as it was.
    #[error("there is no memory for a context")]
    NoContext,

    /// The command needs words, the file has none.
    #[error("{}: the file has no vocabulary", path.display())]
    NoVocabulary { path: PathBuf },

    /// Somebody else listens there, or nobody can.
    #[error("cannot listen at {address}: {}", reason(source))]
    Listen { address: std::net::SocketAddr, source: io::Error },

    /// A file of the user's cannot be read.
    #[error("{}: {}", path.display(), reason(source))]
    Read { path: PathBuf, source: io::Error },

    /// An input without an end, or with one too far away.
    #[error("{from}: longer than {}, the most that is read", units::bytes(*bytes_max))]
    TooMuch { from: String, bytes_max: u64 },

    /// A device or a pipe where a file should be.
    #[error("{}: is no ordinary file", path.display())]
    NotAFile { path: PathBuf },

    /// Something else where a folder should be.
    #[error("{}: is no folder", path.display())]
    NotAFolder { path: PathBuf },

    /// A folder of something else, or none.
    #[error("{}: is no folder of what conversations computed", path.display())]
    NotAStore { path: PathBuf },

    /// A recipe is none.
    #[error("{}: {source}", path.display())]
    Recipe { path: PathBuf, source: tools::recipe::RecipeError },

    /// A folder is no model.
    #[error(transparent)]
    Folder(#[from] hf::Error),

    /// A model is not packed.
    #[error(transparent)]
    Quantize(quantize::Error),

    /// A file of importance, or several together.
    #[error(transparent)]
    Imatrix(tools::imatrix::Error),

    /// What a file of importance cannot be added to.
    #[error("{}: {source}", path.display())]
    Together { path: PathBuf, source: tools::imatrix::Error },

    /// A corpus is none.
    #[error("{}: {source}", path.display())]
    Corpus { path: PathBuf, source: CorpusError },

    /// Two files are not of one model.
    #[error("{}: {what}", path.display())]
    Different { path: PathBuf, what: String },

    /// Such a folder cannot be listed or changed.
    #[error(transparent)]
    Kv(kv::Error),

    /// Some pieces in it are not what they were.
    #[error("{n} of {n_all} pieces are broken")]
    BrokenPieces { n: usize, n_all: usize },

    /// A result would take the place of what it is made of.
    #[error("{}: the result would overwrite what it is made from", path.display())]
    SameFile { path: PathBuf },

    /// What should be text is not.
    #[error("{from}: not UTF-8 text: byte {at} is 0x{byte:02x}")]
    NotText { from: String, at: usize, byte: u8 },

    /// A file of token ids is none.
    #[error("{from}: {problem}")]
    Tokens { from: String, problem: String },

    /// A text cannot be scored, or not be compared with a base.
    #[error("{}: {source}", path.display())]
    Perplexity { path: PathBuf, source: tools::perplexity::Error },

    /// A trace of routes is none.
    #[error("{}: {source}", path.display())]
    Trace { path: PathBuf, source: experts::trace::Error },

    /// There is no TLS with this certificate, this key or this processor.
    #[error("{}", tls_trouble(.0))]
    Tls(#[from] server::TlsError),

    /// What is said and answered cannot be written there.
    #[error("{}: {}", path.display(), trouble(source))]
    ServerTrace { path: PathBuf, source: server::TraceError },

    /// Two processes, one conversation.
    #[error("session {name}: another process goes on with it")]
    SessionInUse { name: String },

    /// The file of a conversation is none.
    #[error("{}: {why}", path.display())]
    BrokenSession { path: PathBuf, why: String },

    /// A result cannot be written.
    #[error("{}: {}", path.display(), reason(source))]
    Write { path: PathBuf, source: io::Error },

    /// A result would be larger than what is free.
    #[error("{}: needs {}, and the disk has {}", path.display(), units::bytes(*needed_bytes), units::bytes(*free_bytes))]
    NoSpace { path: PathBuf, needed_bytes: u64, free_bytes: u64 },

    /// Stdout, or the terminal, fails.
    #[error("{what}: {}", reason(source))]
    Stream { what: &'static str, source: io::Error },

    /// The model file, the machine, or a limit of the engine.
    #[error(transparent)]
    Engine(#[from] engine::Error),

    /// There is no room for a context whose size follows from other flags than `--ctx`.
    #[error("{source}")]
    NoRoom { source: engine::Error, help: &'static str },

    /// The model file as a container.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),

    /// The vocabulary in the file.
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),

    /// The conversation or its template.
    #[error(transparent)]
    Chat(#[from] models::ChatError),

    /// Whoever read our output has had enough: no failure, and nobody to tell.
    #[error("the reader of the output is gone")]
    Closed,

    /// Ctrl+C.
    #[error("interrupted")]
    Interrupted,
}

impl From<quantize::Error> for Error {
    fn from(error: quantize::Error) -> Error {
        match error {
            quantize::Error::Interrupted => Error::Interrupted,
            quantize::Error::Write { path, source } => Error::Write { path, source },
            other => Error::Quantize(other),
        }
    }
}

impl From<tools::imatrix::Error> for Error {
    fn from(error: tools::imatrix::Error) -> Error {
        match error {
            tools::imatrix::Error::Engine(e) => Error::Engine(e),
            other => Error::Imatrix(other),
        }
    }
}

impl From<kv::Error> for Error {
    fn from(error: kv::Error) -> Error {
        use io::ErrorKind::{NotADirectory, NotFound};
        match error {
            kv::Error::Io { path, source } if matches!(source.kind(), NotFound | NotADirectory) => {
                Error::NotAStore { path }
            }
            other => Error::Kv(other),
        }
    }
}

impl Error {
    /// Writing to stdout failed.
    pub(crate) fn stdout(source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Error::Closed,
            _ => Error::Stream { what: "standard output", source },
        }
    }

    /// The same failure, with advice that fits a command without `--ctx`.
    pub(crate) fn advise(self, help: &'static str) -> Error {
        match self {
            Error::Engine(source @ (engine::Error::Memory { .. } | engine::Error::ContextSize { .. })) => {
                Error::NoRoom { source, help }
            }
            other => other,
        }
    }

    /// What to do about it; empty where there is nothing to say.
    fn hint(&self) -> String {
        match self {
            Error::Usage { help, .. } | Error::NotYet { help, .. } => help.clone(),
            Error::EmptyPrompt => "say something after -p, in the file of --prompt-file, or through a pipe".into(),
            Error::NoPrompt => "ask with -p TEXT, --prompt-file FILE, or pipe the question in".into(),
            Error::Wish(WishError::CannotThink) => "leave out --think, --think-max and --effort".into(),
            Error::Wish(WishError::AlwaysThinks) => "leave out --nothink".into(),
            Error::Wish(WishError::NoEffort) => "leave out --effort and --think-max".into(),
            Error::PromptTooLong { n, .. } => format!("make room with --ctx, at least {}, or ask for less", n + 1),
            Error::PromptFarTooLong { .. } => "make room with --ctx, or ask for less".into(),
            Error::SilentTemplate => "complete raw text with --raw, or take the model from another source".into(),
            Error::NoContext => "/ctx N with a smaller N asks for less".into(),
            Error::NoVocabulary { .. } => "only logits, bench and inspect work with this file".into(),
            Error::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                "end the program that listens there, or take another port with --port".into()
            }
            Error::Listen { .. } => "take another address with --host, or a port above 1023 with --port".into(),
            Error::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => "check the path".into(),
            Error::Read { .. } => "check the permissions and the disk, and that it is a file".into(),
            Error::Write { .. } | Error::ServerTrace { source: server::TraceError::Io(_), .. } => {
                "check the folder, the permissions and the space on the disk".into()
            }
            Error::TooMuch { .. } => "give less, or a file that ends".into(),
            Error::NotAFile { .. } => "give a text file".into(),
            Error::NotAFolder { .. } => "name a folder with --cache-dir".into(),
            Error::NotAStore { .. } => "name the one that --kv-disk-dir named".into(),
            Error::Recipe { .. } => "docs/quantization.md describes recipes".into(),
            Error::Folder(e) => e.hint().into(),
            Error::Quantize(quantize::Error::Source(e)) => source_hint(&**e),
            Error::Quantize(quantize::Error::Importance(e)) => e.hint(),
            Error::Quantize(e) => quantize_hint(e).into(),
            Error::Imatrix(source) | Error::Together { source, .. } => source.hint(),
            Error::Corpus { source, .. } => corpus_hint(source),
            Error::Different { .. } => "compare with a file that was made from the same model".into(),
            Error::Kv(e) => e.hint().unwrap_or_default().into(),
            Error::BrokenPieces { .. } => {
                "what they remember is computed again; ds4 kv rm DIR --all begins afresh".into()
            }
            Error::SameFile { .. } => "choose another name for the result".into(),
            Error::NotText { .. } => "convert it to UTF-8 first".into(),
            Error::Tokens { .. } => "write decimal ids separated by spaces, or raw little-endian u32".into(),
            Error::Perplexity { source, .. } => perplexity_hint(source).into(),
            Error::NoSpace { .. } => "write it to another disk, or ask for less".into(),
            Error::Trace { .. } => "write one with --route-trace; docs/formats/routes.md describes them".into(),
            Error::Tls(error) => tls_hint(error).into(),
            Error::ServerTrace { .. } => {
                "give another name with --trace; docs/formats/trace.md describes traces".into()
            }
            Error::SessionInUse { .. } => "end it first, or give another name".into(),
            Error::BrokenSession { .. } => "docs/formats/session.md says what it should be".into(),
            Error::Engine(e) => engine_hint(e),
            Error::NoRoom { help, .. } => (*help).into(),
            Error::Gguf(e) => gguf_hint(e),
            Error::Tokenizer(e) => e.hint(),
            Error::Chat(models::ChatError::NoTemplate) => {
                "this may be a base model: complete raw text with --raw, or take an instruction-tuned file".into()
            }
            Error::Chat(e) | Error::Wish(WishError::Chat(e)) => e.hint().into(),
            Error::Recommended { flag, .. } => format!("choose another by {flag}"),
            // The message itself says what is allowed.
            Error::Value { .. } => String::new(),
            // The other end of a stream is not ours to advise on.
            Error::Stream { .. } => String::new(),
            // Told to nobody.
            Error::Closed | Error::Interrupted => String::new(),
        }
    }

    /// What to do about it in a conversation, where flags come too late.
    fn chat_hint(&self) -> String {
        match self {
            Error::PromptTooLong { n, .. } => format!("make room with /ctx, at least {}, or ask for less", n + 1),
            Error::PromptFarTooLong { .. } => "make room with /ctx, or ask for less".into(),
            Error::Engine(engine::Error::ContextFull { .. }) => "make room with /ctx, or /clear forgets".into(),
            Error::Engine(engine::Error::Memory { .. } | engine::Error::Device(_)) => {
                "/ctx N with a smaller N asks for less".into()
            }
            _ => self.hint(),
        }
    }

    fn exit_status(&self) -> u8 {
        match self {
            Error::Closed => 0,
            Error::Interrupted => 130,
            Error::Stream { .. } | Error::Write { .. } | Error::NoSpace { .. } | Error::NoContext => 1,
            Error::SessionInUse { .. } | Error::BrokenPieces { .. } | Error::Kv(_) => 1,
            Error::Quantize(quantize::Error::Busy { .. }) => 1,
            Error::Quantize(quantize::Error::Threads { .. }) => 2,
            Error::Quantize(e) if e.can_go_on() => 1,
            Error::Engine(e) | Error::NoRoom { source: e, .. } => engine_status(e),
            _ => 2,
        }
    }

    /// The lines that tell it, harmless to a terminal.
    pub(crate) fn report(&self) -> String {
        self.report_with(&self.hint())
    }

    /// The same in a conversation.
    pub(crate) fn report_in_chat(&self) -> String {
        self.report_with(&self.chat_hint())
    }

    fn report_with(&self, hint: &str) -> String {
        let mut report = String::new();
        if matches!(self, Error::Closed | Error::Interrupted) {
            return report;
        }
        let _ = writeln!(report, "error: {}", shorten(terminal::escape(&self.to_string())));
        if !hint.is_empty() {
            let _ = writeln!(report, "help: {}", terminal::escape(hint));
        }
        report
    }

    /// Tells it on stderr.
    pub(crate) fn tell(&self) -> ExitCode {
        terminal::say(&self.report());
        ExitCode::from(self.exit_status())
    }
}

/// Messages quote what they were given; nobody reads a megabyte of it.
fn shorten(mut text: String) -> String {
    const SHOWN: usize = 600;
    if let Some((end, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The engine's hint, with the names of our flags and commands where it knows none.
fn engine_hint(error: &engine::Error) -> String {
    use engine::Error::{
        ContextFull, Device, ExpertCacheRefused, InstructionSet, Memory, Model, NoRoomBeside, NoVocabulary, Token,
    };
    match error {
        Device(engine::DeviceError::Threads { .. }) => "ask for fewer with --threads".into(),
        Memory { .. } | Device(_) => "ask for a smaller context with --ctx, or close other programs".into(),
        NoRoomBeside { .. } => "compute fewer tokens at a time with --batch, or close other programs".into(),
        ExpertCacheRefused { .. } => {
            "ask for less with --ssd-streaming-cache-experts, or raise the limit that `ulimit -v` shows".into()
        }
        ContextFull { .. } => "ask for a larger context with --ctx, or send less text".into(),
        InstructionSet { .. } => "give --isa one of those, or leave it out for the best of them".into(),
        NoVocabulary => "take a file with a vocabulary; raw token ids go through the `logits` command".into(),
        Token { .. } => {
            "token ids belong to one vocabulary: make them with the `tokenize` command and this model".into()
        }
        Model(models::Error::UnknownFamily { .. } | models::Error::Unknown { .. }) => {
            format!("{}; the `inspect` command shows what is in the file", error.hint())
        }
        Model(models::Error::Gguf(e)) => gguf_hint(e),
        _ => error.hint(),
    }
}

fn gguf_hint(error: &gguf::Error) -> String {
    use gguf::Error::{MissingKey, OutOfRange, WrongType};
    match error {
        MissingKey { .. } | WrongType { .. } | OutOfRange { .. } => {
            format!("{}; look at it with `inspect`", error.hint())
        }
        _ => error.hint(),
    }
}

/// 2 where the file or the flags are to blame, 1 where the machine or the moment is.
fn engine_status(error: &engine::Error) -> u8 {
    use engine::Error::{
        ContextSize, Grammar, InstructionSet, NoExperts, NoRoomForExperts, NoRoutes, NoVocabulary, OtherRoutes, Token,
    };
    let bad_usage = matches!(
        error,
        ContextSize { .. }
            | Grammar(_)
            | InstructionSet { .. }
            | NoExperts { .. }
            | NoRoomForExperts { .. }
            | NoRoutes { .. }
            | NoVocabulary
            | OtherRoutes { .. }
            | Token { .. }
    );
    if bad_usage || error.is_bad_file() { 2 } else { 1 }
}

fn source_hint(error: &(dyn std::error::Error + 'static)) -> String {
    let folder = error.downcast_ref::<hf::Error>().map(|e| e.hint().into());
    folder.or_else(|| error.downcast_ref().map(gguf_hint)).unwrap_or_default()
}

fn quantize_hint(error: &quantize::Error) -> &'static str {
    use quantize::Error::{
        Appeared, Busy, Changed, Exists, Family, Importance, Interrupted, NoLayers, NoRule, NotAFile, NotAModel,
        NotFinite, NotOurs, NotWeights, OtherModel, Source, Space, Threads, TooLarge, Write,
    };
    match error {
        Family { .. } => "take another recipe; --recipes lists them",
        NoRule { .. } => "add the rule `* copy` to the end of the recipe, or name the tensor with --tensor",
        NoLayers { .. } => "take a recipe that treats all layers alike, such as q8_0",
        NotWeights { .. } => "leave it as it is: --tensor NAME=copy",
        NotFinite { .. } => "the checkpoint is damaged: download it again, or ask who made it",
        TooLarge { .. } => "give it a type with a larger range: --tensor NAME=BF16",
        OtherModel { .. } => "take an importance matrix of this model, or leave out --imatrix",
        Changed { .. } => "leave the files alone, and begin again",
        Exists { .. } => "choose another name, or replace it with --overwrite",
        NotAFile { .. } => "choose another name",
        NotAModel { .. } => "give the GGUF or the folder of a model",
        Appeared { .. } => "move that away, or add --overwrite: the same command then only gives the result its name",
        NotOurs { .. } => "move it away, or choose another --out",
        Threads { .. } => "ask for fewer, with --threads",
        Busy { .. } => "wait for it, or choose another name",
        Space { .. } => "make room, and give the same command again",
        Source(_) | Importance(_) | Write { .. } | Interrupted => "",
    }
}

fn corpus_hint(error: &CorpusError) -> String {
    match error {
        CorpusError::TooShort { .. } => "give a longer text, or shorter chunks with --ctx".into(),
        CorpusError::Empty => "give a file with a prompt in each line".into(),
        CorpusError::Line { .. } => "ds4 imatrix --help says what a line may be".into(),
        CorpusError::Engine(e) => engine_hint(e),
    }
}

fn perplexity_hint(error: &tools::perplexity::Error) -> &'static str {
    use tools::perplexity::{BaseError, Error, Mismatch};
    match error {
        Error::TooShort { .. } => "give a longer text, or shorter chunks with --ctx",
        Error::Other(Mismatch::Context { .. }) => "leave out --ctx, or make another base with --save-base",
        Error::Other(Mismatch::Chunks { .. }) => "ask for fewer --chunks, or make another base with --save-base",
        Error::Other(_) => "a base is of one text and one vocabulary; make another with --save-base",
        Error::Base(BaseError::Io(_)) => "check the path, the permissions and the disk",
        Error::Base(_) => "make it anew with --save-base; docs/formats/base.md describes such files",
        // Told as errors of their own.
        Error::Engine(_) | Error::Write(_) => "",
    }
}

fn tls_trouble(error: &TlsError) -> String {
    match error {
        TlsError::Read { path, source } => format!("{}: {}", path.display(), reason(source)),
        other => other.to_string(),
    }
}

fn tls_hint(error: &TlsError) -> &'static str {
    match error {
        TlsError::Processor => "leave out --tls-cert and --tls-key, and have a proxy in front speak TLS",
        TlsError::Read { .. } => "check the path and the permissions",
        TlsError::Broken { .. } => {
            "give a certificate with --tls-cert and its key with --tls-key, both as PEM, or have them made anew"
        }
        TlsError::OtherKey { .. } => {
            "give the key that the certificate was made for with --tls-key; its own certificate comes first in --tls-cert"
        }
    }
}

fn trouble(source: &server::TraceError) -> String {
    match source {
        server::TraceError::Io(source) => reason(source),
        other => other.to_string(),
    }
}

/// What the system said, without its number.
pub(crate) fn reason(source: &io::Error) -> String {
    let text = source.to_string();
    match text.split_once(" (os error") {
        Some((reason, _)) => reason.to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those below have no flags: their hints are neutral, and ours name what to type.
    fn check(error: engine::Error, ours: &str) {
        let neutral = error.hint();
        assert!(!neutral.contains("--") && !neutral.contains('`'), "{neutral}");
        assert!(Error::Engine(error).hint().contains(ours));
    }

    #[test]
    fn hints_name_flags_here_and_nowhere_below() {
        let path = PathBuf::from("m.gguf");
        check(engine::Error::Memory { n_ctx: 1, needed_bytes: 2, available_bytes: 1 }, "--ctx");
        check(engine::Error::ContextFull { n_tokens: 2, n_ctx: 1 }, "--ctx");
        let source = io::ErrorKind::OutOfMemory.into();
        check(engine::Error::ExpertCacheRefused { needed_bytes: 1, source }, "--ssd-streaming-cache-experts");
        check(engine::Error::NoVocabulary, "`logits`");
        check(engine::Error::InstructionSet { found: "z80".into(), known: "scalar".into() }, "--isa");
        check(engine::Error::Token { id: 9, pos: 0, n_vocab: 9 }, "`tokenize`");
        let unknown = models::Error::Unknown { path: path.clone(), tensor: "t".into(), others: 0 };
        check(unknown.into(), "`inspect`");
        check(gguf::Error::MissingKey { path, key: "k".into() }.into(), "`inspect`");
    }

    #[test]
    fn files_that_fail_come_with_a_hint() {
        let (path, source) = (PathBuf::from("f"), || io::Error::from(io::ErrorKind::PermissionDenied));
        for error in [Error::Read { path: path.clone(), source: source() }, Error::Write { path, source: source() }] {
            assert!(!error.hint().is_empty(), "{error}");
        }
    }
}
