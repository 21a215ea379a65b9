//! The model behind HTTP: `ds4 serve`.

use std::{net::TcpListener, path::Path, thread, time::Duration};

use engine::Options;
use server::{Ending, Server, Trace};

use crate::{
    args::ServeArgs,
    error::Error,
    interrupt::Work,
    model,
    speaker::{describe, open_sessions},
    terminal,
};

/// The most connections at a time.
const N_CONNECTIONS_MAX: usize = 1024;

/// How often it is looked whether Ctrl+C was pressed.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Serves until Ctrl+C is pressed, or a signal says so.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Error> {
    let access = args.access()?;
    args.sampling.check()?;
    model::spare(&args.model, [args.trace.as_deref()])?;
    // A place to listen at is found, or not, before a model is loaded for minutes.
    let (address, needs_key) = (args.address(), access.needs_key());
    let listener = TcpListener::bind(address).map_err(|source| Error::Listen { address, source })?;
    let trace = args.trace.as_deref().map(|path| open_trace(path, args)).transpose()?;
    let tls = args.tls()?;
    let kept = Some(args.store.served(&args.model));
    let key_dir = kept.as_ref().and_then(|kept| kept.dir.clone());
    let engine = model::open(&args.model, &Options { kept, ..args.model.options() })?;
    let sampling = args.sampling.options(&engine.sampling())?;
    if engine.tokenizer().is_none() {
        return Err(Error::NoVocabulary { path: engine.path().to_path_buf() });
    }
    let names = args.alias.clone();
    let name = names.first().cloned().unwrap_or_else(|| stem(&engine));
    let about = describe(&engine);
    let sessions = open_sessions(&engine, args.sessions, args.ctx.unwrap_or_else(|| engine.n_ctx_default()))?;
    let options = server::Options {
        access,
        name,
        aliases: names,
        sampling,
        seed: args.sampling.seed,
        n_reasoning_max: args.budget.most(),
        n_waiting_max: args.queue,
        n_connections_max: N_CONNECTIONS_MAX,
        key_dir,
        prefix: "ds4".into(),
        log: args.log(),
        tell: terminal::note,
        trace,
        tls,
    };
    let server =
        Server::new(engine, sessions, listener, options).map_err(|source| Error::Listen { address, source })?;
    let scheme = if args.tls_cert.is_some() { "https" } else { "http" };
    let key = if needs_key { ", for those with a key" } else { "" };
    terminal::note(&format!("{about}, at {scheme}://{}{key}; Ctrl+C ends", server.address()));
    let work = Work::begin();
    end_when_interrupted(server.ending());
    server.run(|| terminal::note("ending: answers that are under way have half a minute"));
    drop(work);
    Ok(())
}

/// The file of what is said and answered.
fn open_trace(path: &Path, args: &ServeArgs) -> Result<Trace, Error> {
    Trace::open(path, args.trace_redact).map_err(|source| Error::ServerTrace { path: path.into(), source })
}

/// Has the server end when Ctrl+C was pressed. A second time ends the program at once.
fn end_when_interrupted(ending: Ending) {
    thread::spawn(move || {
        while !Work::is_interrupted() {
            thread::sleep(LOOK_EVERY);
        }
        ending.ask();
    });
}

/// The file's name without what all files have.
fn stem(engine: &engine::Engine) -> String {
    engine.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}
