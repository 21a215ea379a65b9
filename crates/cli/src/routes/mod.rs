//! What stays in memory, and what would have, by other rules: traces of routes, replayed or made up.
//!
//! | file | holds |
//! |---|---|
//! | `budgets.rs` | how much room there is |
//! | `report.rs` | the figures as text, CSV and JSON |
//! | `plot.rs` | the figures as a picture |
//! | `synth.rs` | traces that are made up |

mod budgets;
mod plot;
mod report;
mod synth;

use std::{fs::File, io::BufReader, path::Path};

use experts::{
    replay::{Outcome, Replay, policies},
    trace::{self, Trace},
};

use crate::{
    args::{RoutesArgs, RoutesCommand},
    error::Error,
    output::{self, NewFile},
};
pub(crate) use budgets::Budgets;
use report::{About, Form};

/// Replays a trace, or makes one.
pub(crate) fn run(args: &RoutesArgs) -> Result<(), Error> {
    match (&args.command, &args.file) {
        (Some(RoutesCommand::Synth(args)), _) => synth::run(args),
        (None, Some(path)) => replay(args, path),
        (None, None) => unreachable!("the parser asks for one of them"),
    }
}

/// A rule with so much room.
struct Run {
    policy: &'static str,
    n_slots: usize,
    outcome: Outcome,
}

fn replay(args: &RoutesArgs, path: &Path) -> Result<(), Error> {
    args.budgets.check()?;
    if let Some(plot) = &args.plot {
        output::check_name(plot)?;
        output::never_over(plot, path)?;
    }
    let trace = read(path)?;
    let slots = args.budgets.slots(&trace.head)?;
    let picture = args.plot.as_deref().map(NewFile::create).transpose()?;
    let replay = Replay::new(&trace);
    let run = |policy, n_slots| Run { policy, n_slots, outcome: replay.run(policy, n_slots) };
    let runs: Vec<Run> = policies().flat_map(|(policy, _)| slots.iter().map(move |&n| run(policy, n))).collect();
    let about = About::new(path, &trace);
    output::print(&report::all(Form::of(args), &about, &runs))?;
    if let Some(mut picture) = picture {
        picture.text(&plot::draw(&about, &runs))?;
        picture.finish()?;
    }
    Ok(())
}

/// A trace of routes.
///
/// # Errors
/// [`Error::Read`], [`Error::Trace`].
pub(crate) fn read(path: &Path) -> Result<Trace, Error> {
    let fails = |source| Error::Read { path: path.into(), source };
    let file = File::open(path).map_err(fails)?;
    Trace::read(BufReader::with_capacity(1 << 20, file)).map_err(|e| match e {
        trace::Error::Io { source } => fails(source),
        source => Error::Trace { path: path.into(), source },
    })
}
