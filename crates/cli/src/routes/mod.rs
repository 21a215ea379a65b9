//! What stays in memory, and what would have, by other rules: traces of routes, replayed or made up.
//!
//! | file | holds |
//! |---|---|
//! | `budgets.rs` | how much room there is |
//! | `report.rs` | the figures as text, CSV and JSON |
//! | `plot.rs` | the figures as a picture |

mod budgets;
mod plot;
mod report;

use std::{fs::File, io::BufReader, path::Path};

use experts::{
    replay::{Outcome, Replay, policies},
    trace::{self, Head, Trace, synth::Recipe},
};

use crate::{
    args::{RoutesArgs, RoutesCommand, SynthArgs},
    error::Error,
    output::{self, NewFile},
};
pub(crate) use budgets::Budgets;
use report::{About, Form};

/// Replays a trace, or makes one.
pub(crate) fn run(args: &RoutesArgs) -> Result<(), Error> {
    match (&args.command, &args.file) {
        (Some(RoutesCommand::Synth(synth)), _) => write(synth),
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

/// The most choices of one batch, which is made in memory.
const CHOICES_MAX: usize = 1 << 28;

fn write(args: &SynthArgs) -> Result<(), Error> {
    let usage = |what: String, help: &str| Error::Usage { what, help: help.into() };
    output::check_name(&args.out)?;
    let head = Head {
        n_layer: args.layers,
        n_expert: args.experts,
        n_used: args.used,
        expert_bytes: args.expert_bytes as u64,
    };
    head.check().map_err(|what| usage(what, "lower --layers, --experts or --used"))?;
    let n_prompt = args.prompt.unwrap_or(0);
    if n_prompt.saturating_mul(head.n_layer).saturating_mul(head.n_used) > CHOICES_MAX {
        return Err(usage(format!("a prompt makes more than {CHOICES_MAX} choices"), "lower --prompt"));
    }
    if args.tokens == 0 {
        return Err(usage("there are no tokens to decode".into(), "give --tokens at least 1"));
    }
    let n_answer = args.answer.unwrap_or(args.tokens);
    let recipe = Recipe { head, choice: args.choice, n_decode: args.tokens, n_prompt, n_answer, seed: args.seed };
    let mut out = NewFile::create(&args.out)?;
    out.text(&head.lines())?;
    for (number, batch) in (0..).zip(recipe.batches()) {
        batch.layers.iter().try_for_each(|layer| out.text(&layer.lines(number)))?;
    }
    out.finish()
}
