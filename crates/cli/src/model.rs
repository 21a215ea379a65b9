//! The model that the flags name, opened as they say.

use std::{
    fs::File,
    io::{self, BufReader},
    path::Path,
};

use engine::{Engine, Learning, trace::Trace};

use crate::{args::ModelArgs, error::Error, output};

/// Opens it, and has its choices of experts written down where that is asked for.
///
/// # Errors
/// The engine's, and [`Error::Write`].
pub(crate) fn open(args: &ModelArgs, learning: Learning) -> Result<Engine, Error> {
    args.route_trace.as_deref().map_or(Ok(()), output::check_name)?;
    let mut engine = Engine::open(&engine::Options { learning, ..args.options()? })?;
    if let Some(path) = &args.route_trace {
        engine.files().try_for_each(|part| output::never_over(path, part))?;
        engine.trace_routes(File::create(path).map_err(|source| Error::Write { path: path.into(), source })?)?;
    }
    Ok(engine)
}

/// A trace of routes, to be followed.
///
/// # Errors
/// [`Error::Read`], [`Error::Trace`].
pub(crate) fn read_trace(path: &Path) -> Result<Trace, Error> {
    let fails = |source| Error::Read { path: path.into(), source };
    let file = File::open(path).map_err(fails)?;
    if file.metadata().map_err(fails)?.is_dir() {
        return Err(fails(io::ErrorKind::IsADirectory.into()));
    }
    Trace::read(BufReader::new(file)).map_err(|source| Error::Trace { path: path.into(), source })
}
