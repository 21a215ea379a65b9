//! `--sessions`: several timelines that decode side by side, each on a thread of its own, against one of them alone.
//!
//! Both are measured in turn, and the order changes from run to run, so that a machine that becomes slower or faster meanwhile
//! is fair to both. The CSV has one row per length:
//!
//! | column | holds |
//! |---|---|
//! | `n_sessions` | sessions side by side |
//! | `n_depth`, `n` | tokens that are in each context before, and that are decoded in each |
//! | `runs` | how often |
//! | `alone_tps` | tokens per second of one session alone; a median, as all that follow but extremes |
//! | `each_tps` | of each of those side by side |
//! | `total_tps`, `min_total_tps`, `max_total_tps` | of all of those together |
//! | `ratio`, `min_ratio`, `max_ratio` | of these and one session alone, in the same run |

use std::{panic::resume_unwind, sync::Barrier, thread, time::Instant};

use engine::{Engine, Session};
use serde_json::{Value, json};
use tokenizer::TokenId;

use super::{
    measure::arbitrary,
    report::{About, Form, columns, introduction, json_head},
};
use crate::{args::BenchArgs, error::Error, output, progress::Progress};

/// So many arbitrary tokens lie between those of one session and those of the next.
const APART: u64 = 1_000_003;

/// What is measured: `n` tokens behind `n_depth` others, for each of `lengths`, `reps` times.
pub(super) struct Jobs {
    lengths: Vec<usize>,
    n_depth: usize,
    reps: usize,
}

impl Jobs {
    pub(super) fn new(args: &BenchArgs) -> Result<Jobs, Error> {
        let lengths: Vec<_> = args.n_gen.0.iter().copied().filter(|&n| n > 0).collect();
        match lengths.is_empty() {
            true => Err(Error::Usage { what: "nothing to measure".into(), help: "give -n at least 1".into() }),
            false => Ok(Jobs { lengths, n_depth: args.n_depth, reps: args.reps }),
        }
    }

    /// Room for all of them in each context. Every number is at most 2^30, by its flag.
    pub(super) fn n_ctx(&self) -> usize {
        self.n_depth + self.lengths.iter().max().unwrap_or(&0)
    }
}

/// Seconds of one run.
#[derive(Clone, Debug)]
struct Run {
    alone: f64,
    /// Of each side by side.
    each: Vec<f64>,
}

/// A measurement.
#[derive(Clone, Debug)]
struct Test {
    n_sessions: usize,
    n_depth: usize,
    n: usize,
    runs: Vec<Run>,
}

/// Measures, and prints every figure as soon as it is known.
pub(super) fn run(
    engine: &Engine,
    mut sessions: Vec<Session>,
    jobs: &Jobs,
    form: Form,
    about: &About,
) -> Result<(), Error> {
    decode(engine, &mut sessions, 1, 0)?; // unmeasured: it brings the weights into memory
    output::print(&head(form, about))?;
    let mut tests = Vec::new();
    for &n in &jobs.lengths {
        let mut progress = Progress::measuring();
        let runs = (0..jobs.reps).map(|i| {
            progress.set(i as u64, jobs.reps as u64);
            one_run(engine, &mut sessions, n, jobs.n_depth, i % 2 == 0)
        });
        let runs = runs.collect::<Result<Vec<_>, _>>()?;
        drop(progress);
        let test = Test { n_sessions: sessions.len(), n_depth: jobs.n_depth, n, runs };
        output::print(&row(form, &test))?;
        tests.push(test);
    }
    match form {
        Form::Json => output::print(&format!("{:#}\n", as_json(about, &tests))),
        _ => Ok(()),
    }
}

fn one_run(
    engine: &Engine,
    sessions: &mut [Session],
    n: usize,
    n_depth: usize,
    alone_first: bool,
) -> Result<Run, engine::Error> {
    let alone = |sessions: &mut [Session]| decode(engine, &mut sessions[..1], n, n_depth).map(|each| each[0]);
    if alone_first {
        let alone = alone(sessions)?;
        return Ok(Run { alone, each: decode(engine, sessions, n, n_depth)? });
    }
    let each = decode(engine, sessions, n, n_depth)?;
    Ok(Run { alone: alone(sessions)?, each })
}

/// The seconds that each of the sessions takes for `n` tokens behind `n_depth` others, when all begin at once.
fn decode(engine: &Engine, sessions: &mut [Session], n: usize, n_depth: usize) -> Result<Vec<f64>, engine::Error> {
    let ids = |i: usize| -> Vec<TokenId> { arbitrary(engine, i as u64 * APART).take(n_depth + n).collect() };
    for (i, session) in sessions.iter_mut().enumerate() {
        session.sync(&ids(i)[..n_depth])?;
    }
    let start = Barrier::new(sessions.len());
    let work = |session: &mut Session, ids: &[TokenId]| {
        start.wait();
        let began = Instant::now();
        ids.iter().try_for_each(|&id| session.push(id))?;
        Ok(began.elapsed().as_secs_f64())
    };
    thread::scope(|scope| {
        let all = sessions.iter_mut().enumerate();
        let threads: Vec<_> = all.map(|(i, session)| scope.spawn(move || work(session, &ids(i)[n_depth..]))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|e| resume_unwind(e))).collect()
    })
}

/// The least, the one in the middle, and the most.
struct Range {
    min: f64,
    median: f64,
    max: f64,
}

impl Range {
    fn of(values: impl IntoIterator<Item = f64>) -> Range {
        let mut values = Vec::from_iter(values);
        values.sort_by(f64::total_cmp);
        let n = values.len();
        Range { min: values[0], median: (values[(n - 1) / 2] + values[n / 2]) / 2.0, max: values[n - 1] }
    }

    fn text(&self, name: &str, n_runs: usize) -> String {
        format!("{name:32}  {:>9.2}  {:>9.2}  {:>9.2}  {n_runs:>4}\n", self.median, self.min, self.max)
    }
}

impl Run {
    fn alone_tps(&self, n: usize) -> f64 {
        n as f64 / self.alone.max(1e-9)
    }

    /// Of all together, until the last one is done.
    fn total_tps(&self, n: usize) -> f64 {
        (n * self.each.len()) as f64 / self.each.iter().copied().fold(1e-9, f64::max)
    }
}

impl Test {
    fn alone(&self) -> Range {
        Range::of(self.runs.iter().map(|run| run.alone_tps(self.n)))
    }

    fn each(&self) -> Range {
        Range::of(self.runs.iter().flat_map(|run| run.each.iter().map(|s| self.n as f64 / s.max(1e-9))))
    }

    fn total(&self) -> Range {
        Range::of(self.runs.iter().map(|run| run.total_tps(self.n)))
    }

    fn ratio(&self) -> Range {
        Range::of(self.runs.iter().map(|run| run.total_tps(self.n) / run.alone_tps(self.n)))
    }
}

fn head(form: Form, about: &About) -> String {
    match form {
        Form::Csv => "n_sessions,n_depth,n,runs,alone_tps,each_tps,total_tps,min_total_tps,max_total_tps,\
             ratio,min_ratio,max_ratio\n"
            .into(),
        Form::Json => String::new(),
        _ => format!("{}\n{}\n", introduction(about), columns(32)),
    }
}

fn row(form: Form, test: &Test) -> String {
    match form {
        Form::Csv => csv_row(test),
        Form::Json => String::new(),
        _ => text_rows(test),
    }
}

fn text_rows(test: &Test) -> String {
    let Test { n_sessions, n_depth, n, runs } = test;
    let behind = if *n_depth == 0 { String::new() } else { format!(" behind {n_depth}") };
    [
        test.alone().text(&format!("1 session, decode {n}{behind}"), runs.len()),
        test.each().text(&format!("each of {n_sessions} sessions"), runs.len()),
        test.total().text(&format!("all {n_sessions} together"), runs.len()),
        test.ratio().text("times one session", runs.len()),
    ]
    .concat()
}

fn csv_row(test: &Test) -> String {
    let (total, ratio) = (test.total(), test.ratio());
    format!(
        "{},{},{},{},{:.3},{:.3},{:.3},{:.3},{:.3},{:.3},{:.3},{:.3}\n",
        test.n_sessions,
        test.n_depth,
        test.n,
        test.runs.len(),
        test.alone().median,
        test.each().median,
        total.median,
        total.min,
        total.max,
        ratio.median,
        ratio.min,
        ratio.max,
    )
}

fn as_json(about: &About, tests: &[Test]) -> Value {
    let range = |range: Range| json!({ "median": range.median, "min": range.min, "max": range.max });
    let test = |t: &Test| {
        json!({
            "n_sessions": t.n_sessions, "n_depth": t.n_depth, "n": t.n,
            "alone_tps": range(t.alone()), "each_tps": range(t.each()), "total_tps": range(t.total()),
            "ratio": range(t.ratio()),
            "runs": t.runs.iter().map(|run| json!({ "alone_seconds": run.alone, "each_seconds": run.each })).collect::<Vec<_>>(),
        })
    };
    let mut value = json_head(about);
    value["tests"] = tests.iter().map(test).collect();
    value
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn example() -> Test {
        let runs = vec![
            Run { alone: 1.0, each: vec![2.0, 1.6] },
            Run { alone: 1.25, each: vec![2.5, 2.0] },
            Run { alone: 1.0, each: vec![1.6, 1.6] },
        ];
        Test { n_sessions: 2, n_depth: 512, n: 10, runs }
    }

    #[test]
    fn all_together_are_as_fast_as_the_last_one() {
        expect![[r#"
            1 session, decode 10 behind 512       10.00       8.00      10.00     3
            each of 2 sessions                     5.62       4.00       6.25     3
            all 2 together                        10.00       8.00      12.50     3
            times one session                      1.00       1.00       1.25     3
        "#]]
        .assert_eq(&text_rows(&example()));
        let csv = "2,512,10,3,10.000,5.625,10.000,8.000,12.500,1.000,1.000,1.250\n";
        assert_eq!(csv_row(&example()), csv);
    }
}
