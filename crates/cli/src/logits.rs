//! The raw logits of given token ids, for comparing builds, files and programs.

use std::ops::ControlFlow;

use engine::{Engine, Session};
use tokenizer::TokenId;

use crate::{
    args::LogitsArgs,
    error::Error,
    ids,
    interrupt::Work,
    output::{self, NewFile},
    progress::Progress,
    speaker::open_session,
    terminal,
};

/// Computes and writes them.
pub(crate) fn run(args: &LogitsArgs) -> Result<(), Error> {
    let ids = read_ids(args)?;
    for input in [Some(&args.tokens), args.model.model.as_ref()].into_iter().flatten() {
        if output::is_same_file(&args.out, input) {
            return Err(Error::SameFile { path: args.out.clone() });
        }
    }
    let options = args.model.options()?;
    let chunk = args.chunk.unwrap_or(args.model.batch);
    let engine = Engine::open(&engine::Options { n_batch: chunk, ..options })?;
    let mut session = open_session(&engine, ids.len())?;
    let mut out = NewFile::create(&args.out)?;
    score(&mut session, &ids, chunk, &mut out)?;
    out.finish()?;
    terminal::note(&format!("{} rows of {} floats in {}", ids.len(), engine.info().n_vocab, args.out.display()));
    Ok(())
}

fn read_ids(args: &LogitsArgs) -> Result<Vec<TokenId>, Error> {
    let path = &args.tokens;
    let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let (ids, form) = ids::parse(&bytes, &path.display().to_string())?;
    terminal::note(&format!("{} tokens in {}, {form}", ids.len(), path.display()));
    Ok(ids)
}

/// Writes a row per token, as far as it gets.
fn score(session: &mut Session, ids: &[TokenId], chunk: usize, out: &mut NewFile) -> Result<(), Error> {
    let work = Work::begin();
    let mut progress = Progress::prefill();
    let mut n_done = 0;
    let mut written = Ok(());
    session.score(ids, chunk, &mut |row| {
        written = if work.interrupted() { Err(Error::Interrupted) } else { out.floats(row) };
        n_done += 1;
        progress.set(n_done, ids.len() as u64);
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    written
}
