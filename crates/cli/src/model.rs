//! The model that the flags name, opened as they say.

use std::{fs::File, path::Path};

use engine::{Engine, Options};
use gguf::{Gguf, Origin};

use crate::{args::ModelArgs, error::Error, folders, output, terminal};

/// The model at a path; without one, the model inside the program.
pub(crate) fn origin(path: Option<&Path>) -> Origin {
    path.map_or(nano::NANO.into(), Origin::from)
}

/// The same, opened to look into.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn file(path: Option<&Path>) -> Result<Gguf, Error> {
    let origin = origin(path);
    tell(&origin);
    Ok(Gguf::open_from(&origin)?)
}

/// Says that nobody has named a model.
fn tell(origin: &Origin) {
    if let Origin::Inside(_) = origin {
        terminal::note("Nano, the small model in this program, is used; take a larger one with -m FILE");
    }
}

/// Refuses to write a trace over what the same run reads or writes.
///
/// # Errors
/// [`Error::SameFile`].
pub(crate) fn spare<'a>(args: &ModelArgs, others: impl IntoIterator<Item = Option<&'a Path>>) -> Result<(), Error> {
    let Some(trace) = &args.route_trace else { return Ok(()) };
    others.into_iter().flatten().try_for_each(|other| output::never_over(trace, other))
}

/// Opens it with the options of these flags, or others, and has its choices of experts written down where that is asked for.
///
/// # Errors
/// The engine's, and [`Error::Write`].
pub(crate) fn open(args: &ModelArgs, options: &Options) -> Result<Engine, Error> {
    open_with(args, options, Engine::open)
}

/// The same, in another way.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_with(
    args: &ModelArgs,
    options: &Options,
    open: impl FnOnce(&Options) -> Result<Engine, engine::Error>,
) -> Result<Engine, Error> {
    args.route_trace.as_deref().map_or(Ok(()), output::check_name)?;
    tell(&options.model);
    let in_the_way = options.cache_dir.as_deref().and_then(folders::in_the_way);
    let cache_dir = options.cache_dir.clone().filter(|_| in_the_way.is_none());
    let mut engine = open(&Options { cache_dir, ..options.clone() })?;
    if let Some(path) = &args.route_trace {
        engine.files().try_for_each(|part| output::never_over(path, part))?;
        engine.check_routes()?;
        engine.trace_routes(File::create(path).map_err(|source| Error::Write { path: path.into(), source })?)?;
    }
    if args.ssd_streaming_cold && engine.expert_stats().is_none() {
        terminal::note("--ssd-streaming-cold changes nothing: the whole model is in memory");
    }
    if let Some(path) = in_the_way.filter(|_| engine.expert_stats().is_some()) {
        let path = path.display();
        terminal::note(&format!(
            "{path}: is no folder; nothing is kept for the next run; name a folder with --cache-dir"
        ));
    }
    Ok(engine)
}
