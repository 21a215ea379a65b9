//! The raw logits of given token ids, for comparing builds, files and programs.

use engine::Session;
use tokenizer::TokenId;

use crate::{
    args::LogitsArgs,
    error::Error,
    ids,
    interrupt::Work,
    output::NewFile,
    progress::Progress,
    speaker::{load, open_session},
    terminal,
};

/// Computes and writes them.
pub(crate) fn run(args: &LogitsArgs) -> Result<(), Error> {
    let ids = read_ids(args)?;
    let options = args.model.options()?;
    let chunk = args.chunk.unwrap_or(args.model.batch);
    let engine = load(&engine::Options { n_batch: chunk, ..options })?;
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
    for (i, ids_now) in ids.chunks(chunk).enumerate() {
        let mut written = Ok(());
        session.score(ids_now, chunk, &mut |row| {
            if written.is_ok() {
                written = out.floats(row);
            }
        })?;
        written?;
        if work.interrupted() {
            return Err(Error::Interrupted);
        }
        progress.set((i * chunk + ids_now.len()) as u64, ids.len() as u64);
    }
    Ok(())
}
