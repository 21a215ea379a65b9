//! `ds4`: large language models on your own machine.
//!
//! ```text
//! arguments -> Cli -> one file per command -> stdout: the result; stderr: the rest; exit status: Error
//! ```
//!
//! Environment variables, standard streams and exit statuses are this crate's alone.

#![forbid(unsafe_code)]

mod args;
mod bench;
mod chat;
mod conversation;
mod dialogue;
mod error;
mod folders;
mod ids;
mod imatrix;
mod inspect;
mod interrupt;
mod kept;
mod logits;
mod machine;
mod model;
mod oneshot;
mod output;
mod perplexity;
mod progress;
mod prompt;
mod quantize;
mod refused;
mod routes;
mod serve;
mod sessions;
mod speaker;
mod ssd;
mod svg;
mod table;
mod terminal;
mod tokenize;
mod units;
mod usage;

use std::{panic::PanicHookInfo, process::ExitCode};

use args::{ChatArgs, Cli, Command};
use clap::CommandFactory as _;
use error::Error;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(tell_bug));
    #[cfg(unix)]
    gguf::explain_lost_pages(LOST);
    let result = std::panic::catch_unwind(|| usage::parse(std::env::args_os()).and_then(run));
    match result {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => error.tell(),
        // The hook has told it.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Said when the model file is cut short while it is in use.
#[cfg(unix)]
const LOST: &str = "error: the model file was cut short, or its disk failed, while it was in use\n\
    help: leave the file alone while ds4 runs; download or copy it again\n";

/// A panic is our own mistake: one line with the place, whichever thread it was.
fn tell_bug(bug: &PanicHookInfo<'_>) {
    let place = bug.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
    terminal::note(&format!("error: a bug in ds4: {}{place}", bug.payload_as_str().unwrap_or("no message")));
    terminal::note("help: please report it, with this line, the command and the model");
}

fn run(cli: Cli) -> Result<(), Error> {
    interrupt::listen()?;
    match cli.command {
        None => answer(&cli.chat),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Inspect(args)) => inspect::run(&args),
        Some(Command::Tokenize(args)) => tokenize::run(&args),
        Some(Command::Logits(args)) => logits::run(&args),
        Some(Command::Perplexity(args)) => perplexity::run(&args),
        Some(Command::Bench(args)) => bench::run(&args),
        Some(Command::Ssd(args)) => ssd::run(&args),
        Some(Command::Routes(args)) => routes::run(&args),
        Some(Command::Quantize(args)) => quantize::run(&args),
        Some(Command::Imatrix(args)) => imatrix::run(&args),
        Some(Command::Kv(args)) => kept::run(&args.command),
        Some(Command::Completions(args)) => completions(args.shell),
    }
}

/// One answer, or a conversation.
fn answer(args: &ChatArgs) -> Result<(), Error> {
    args.sampling.check()?;
    args.kept.kept(&args.model.cache)?;
    model::spare(&args.model, [args.prompt.prompt_file.as_deref()])?;
    match prompt::gather(&args.prompt)? {
        Some(prompt) => oneshot::run(args, &prompt),
        None if args.prompt.raw => Err(Error::Usage {
            what: "--raw continues a text, and there is none".into(),
            help: "give it with -p TEXT, --prompt-file FILE, or through a pipe".into(),
        }),
        None => chat::run(args),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ds4", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
