//! The raw logits of given token ids, for comparing builds, files and programs.

use std::ops::ControlFlow;

use engine::{Options, Session};
use tokenizer::TokenId;

use crate::{
    args::LogitsArgs,
    error::Error,
    ids,
    interrupt::Work,
    model,
    output::{self, NewFile},
    progress::Progress,
    prompt,
    speaker::open_session,
    terminal,
};

/// Computes and writes them.
pub(crate) fn run(args: &LogitsArgs) -> Result<(), Error> {
    output::check_name(&args.out)?;
    let ids = read_ids(args)?;
    output::never_over(&args.out, &args.tokens)?;
    model::spare(&args.model, [Some(&*args.tokens), Some(&*args.out)])?;
    let chunk = args.chunk.unwrap_or(args.model.batch);
    let engine = model::open(&args.model, &Options { n_batch: chunk, ..args.model.options() })?;
    engine.files().try_for_each(|part| output::never_over(&args.out, part))?;
    let mut session =
        open_session(&engine, ids.len()).map_err(|e| e.advise("compute fewer tokens: split the file of ids"))?;
    let mut out = NewFile::create(&args.out)?;
    score(&mut session, &ids, chunk, &mut out)?;
    out.finish()?;
    engine.finish_trace()?;
    terminal::note(&format!("{} rows of {} floats in {}", ids.len(), engine.info().n_vocab, args.out.display()));
    Ok(())
}

fn read_ids(args: &LogitsArgs) -> Result<Vec<TokenId>, Error> {
    let path = &args.tokens;
    let bytes = prompt::read_bytes(path)?;
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
