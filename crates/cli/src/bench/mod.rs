//! How fast: prefill and decode in tokens per second, and how near that comes to what the machine can do.
//!
//! Prefill computes a prompt from an empty context, or behind `--n-depth` tokens; decode computes one token at a time;
//! both are measured several times. A sweep lets one context grow: each step computes the tokens that are new, decodes
//! some behind them and drops these again. The tokens are arbitrary and always the same, so files without a vocabulary
//! can be measured. A first, unmeasured round brings the weights into memory.
//!
//! ```text
//! decode     bytes that a token reads * t/s         / read bandwidth of this run     = share
//! prefill    multiply-adds with weights * t/s       / int8 peak of this run          = share
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `measure.rs` | what is timed |
//! | `sweep.rs` | the lengths of a growing context |
//! | `sessions.rs` | several contexts side by side |
//! | `report.rs` | the figures as text, CSV and JSON |
//! | `plot.rs` | a sweep as a picture |

mod measure;
mod plot;
mod report;
mod sessions;
mod sweep;

use engine::{Engine, Learning, Options};

use crate::{
    args::BenchArgs,
    error::Error,
    machine, model,
    output::{self, NewFile},
    progress::Progress,
    routes,
    speaker::{describe, open_sessions},
    terminal,
};
use measure::{Bench, Kind, Test};
use report::{About, Form};
pub(crate) use sweep::Sweep;

/// Measures, and prints every figure as soon as it is known.
pub(crate) fn run(args: &BenchArgs) -> Result<(), Error> {
    let what = What::new(args)?;
    args.plot.as_deref().map_or(Ok(()), output::check_name)?;
    model::spare(&args.model, [args.follow_routes.as_deref(), args.plot.as_deref()])?;
    let routes = args.follow_routes.as_deref().map(routes::read).transpose()?;
    // Nothing is learned from arbitrary tokens, and nothing that was learned changes the figures.
    let mut engine =
        model::open(&args.model, &Options { learning: Learning::Off, measure: true, ..args.model.options() })?;
    routes.map_or(Ok(()), |routes| engine.follow_routes(routes, args.guesses_right))?;
    let picture = args.plot.as_deref().map(|path| {
        engine.files().try_for_each(|part| output::never_over(path, part))?;
        NewFile::create(path)
    });
    let picture = picture.transpose()?;
    let mut sessions = open_sessions(&engine, args.sessions.unwrap_or(1), what.n_ctx().max(1))
        .map_err(|e| e.advise("measure fewer tokens: lower -p, -n and -d, --sweep or --sessions"))?;
    let about = about(&engine, args, sessions[0].n_ctx())?;
    let jobs = match what {
        What::SideBySide(jobs) => {
            sessions::run(&engine, sessions, &jobs, Form::of(args), &about)?;
            return Ok(engine.finish_trace()?);
        }
        What::Alone(jobs) => jobs,
    };
    let session = sessions.pop().expect("one was opened");
    let mut bench = Bench::new(&engine, session, jobs.n_ctx().min(args.model.batch))?;
    let form = Form::of(args);
    output::print(&report::head(form, &about))?;
    let mut tests = Vec::new();
    jobs.measure(&mut bench, &mut |step| {
        output::print(&report::rows(form, &about, &step))?;
        tests.extend(step);
        Ok(())
    })?;
    engine.finish_trace()?;
    output::print(&report::tail(form, &about, &tests))?;
    match (picture, args.sweep) {
        (Some(mut picture), Some(sweep)) => {
            picture.text(&plot::draw(&about, &tests, sweep.multiplies()))?;
            picture.finish()
        }
        _ => Ok(()),
    }
}

fn about(engine: &Engine, args: &BenchArgs, n_ctx: usize) -> Result<About, Error> {
    let kv = engine.info().kv.name();
    Ok(About {
        machine: machine::describe(),
        model: describe(engine),
        device: format!("{}, KV {kv}, batch {}", engine.device_name(), args.model.batch),
        limits: engine.limits(),
        cost: engine.cost(0),
        kv_bytes: engine.plan(n_ctx)?.bytes_per_token,
        ssd: engine.ssd_bytes_per_second(),
    })
}

/// Contexts that are measured on.
enum What {
    Alone(Jobs),
    SideBySide(sessions::Jobs),
}

impl What {
    fn new(args: &BenchArgs) -> Result<What, Error> {
        match args.sessions {
            None => Jobs::new(args).map(What::Alone),
            Some(_) => sessions::Jobs::new(args).map(What::SideBySide),
        }
    }

    fn n_ctx(&self) -> usize {
        match self {
            What::Alone(jobs) => jobs.n_ctx(),
            What::SideBySide(jobs) => jobs.n_ctx(),
        }
    }
}

/// What there is to measure on one of them.
enum Jobs {
    /// Each length of each kind, behind `n_depth` tokens.
    Lengths { tests: Vec<(Kind, usize)>, n_depth: usize, reps: usize },
    /// One context that grows; at every length so many tokens are decoded.
    Sweep { sweep: Sweep, n_gen: usize },
}

impl Jobs {
    fn new(args: &BenchArgs) -> Result<Jobs, Error> {
        let usage = |what: &str, help: &str| Error::Usage { what: what.into(), help: help.into() };
        if let Some(sweep) = args.sweep {
            return match args.n_gen.0[..] {
                [n_gen] => Ok(Jobs::Sweep { sweep, n_gen }),
                _ => Err(usage("a sweep decodes as many tokens at every length", "give -n one number")),
            };
        }
        // The parser's `requires` gives way where --sweep conflicts with another flag that was given.
        if args.plot.is_some() {
            return Err(usage("--plot draws a sweep", "give --sweep instead of -p, -d and -r"));
        }
        let of = |kind, lengths: &[usize]| lengths.iter().filter(|&&n| n > 0).map(|&n| (kind, n)).collect::<Vec<_>>();
        let tests = [of(Kind::Prefill, &args.n_prompt.0), of(Kind::Decode, &args.n_gen.0)].concat();
        match tests.is_empty() {
            true => Err(usage("nothing to measure", "give -p or -n at least 1")),
            false => Ok(Jobs::Lengths { tests, n_depth: args.n_depth, reps: args.reps }),
        }
    }

    /// Room for all of them. Every number is at most 2^30, by its flag.
    fn n_ctx(&self) -> usize {
        match self {
            Jobs::Lengths { tests, n_depth, .. } => n_depth + tests.iter().map(|(_, n)| *n).max().unwrap_or(0),
            Jobs::Sweep { sweep, n_gen } => sweep.max + n_gen,
        }
    }

    /// Measures one after the other, and hands on what belongs together.
    fn measure(&self, bench: &mut Bench, done: &mut dyn FnMut(Vec<Test>) -> Result<(), Error>) -> Result<(), Error> {
        match self {
            Jobs::Lengths { tests, n_depth, reps } => tests.iter().try_for_each(|&(kind, n)| {
                let mut progress = Progress::measuring();
                let test = bench.measure(kind, n, *n_depth, *reps, &mut |i| progress.set(i as u64, *reps as u64))?;
                drop(progress);
                done(vec![test])
            }),
            Jobs::Sweep { sweep, n_gen } => {
                let n_probe = bench.n_probe(*n_gen);
                if n_probe < *n_gen {
                    terminal::note(&format!(
                        "this model can drop no more than {n_probe} tokens again: so many are decoded, not {n_gen}"
                    ));
                }
                bench.clear()?;
                sweep.points().try_for_each(|n_ctx| done(bench.step(n_ctx, n_probe)?))
            }
        }
    }
}
