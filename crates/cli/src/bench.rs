//! How fast: prefill and decode in tokens per second, each measured several times.
//!
//! Prefill computes a prompt from an empty context, or behind `--n-depth` tokens; decode computes one token at a time.
//! The tokens are arbitrary and always the same, so files without a vocabulary can be measured. A first, unmeasured
//! round brings the weights into memory. The median is the figure; minimum and maximum tell how far to trust it.

use std::{fmt::Write as _, time::Instant};

use engine::{Engine, Session};
use serde_json::json;
use tokenizer::TokenId;

use crate::{
    args::BenchArgs,
    error::Error,
    machine, output,
    progress::Progress,
    speaker::{describe, open_session},
};

/// Measures and prints.
pub(crate) fn run(args: &BenchArgs) -> Result<(), Error> {
    if args.n_prompt == 0 && args.n_gen == 0 {
        return Err(Error::Usage { what: "nothing to measure".into(), help: "give -p or -n at least 1".into() });
    }
    let engine = Engine::open(&args.model.options()?)?;
    // Each at most 2^30, by its flag.
    let n_ctx = args.n_depth + args.n_prompt.max(args.n_gen).max(1);
    let mut session = open_session(&engine, n_ctx).map_err(|e| e.advise("measure fewer tokens: lower -p, -n or -d"))?;
    let mut bench = Bench { session: &mut session, n_vocab: engine.info().n_vocab, n_depth: args.n_depth };
    bench.round(args.n_prompt.min(args.model.batch), args.n_gen.min(2))?;
    let mut tests = Vec::new();
    if args.n_prompt > 0 {
        tests.push(bench.measure("prefill", args.n_prompt, args.reps, Bench::prefill)?);
    }
    if args.n_gen > 0 {
        tests.push(bench.measure("decode", args.n_gen, args.reps, Bench::decode)?);
    }
    let about = About { machine: machine::describe(), model: describe(&engine), device: device(&engine, args) };
    output::print(&if args.json { as_json(&about, &tests) } else { as_text(&about, &tests) })
}

fn device(engine: &Engine, args: &BenchArgs) -> String {
    let kv = engine.info().kv.name();
    format!("{}, KV {kv}, batch {}", engine.device_name(), args.model.batch)
}

/// One timeline to measure on.
struct Bench<'a> {
    session: &'a mut Session,
    n_vocab: usize,
    n_depth: usize,
}

impl Bench<'_> {
    /// Both kinds of work once, unmeasured.
    fn round(&mut self, n_prompt: usize, n_gen: usize) -> Result<(), Error> {
        self.prefill(n_prompt)?;
        self.decode(n_gen)?;
        Ok(())
    }

    fn measure(
        &mut self,
        kind: &'static str,
        n: usize,
        reps: usize,
        run: fn(&mut Self, usize) -> Result<f64, Error>,
    ) -> Result<Test, Error> {
        let mut progress = Progress::measuring();
        let mut timed = |i: usize| {
            progress.set(i as u64, reps as u64);
            run(self, n)
        };
        let seconds = (0..reps).map(&mut timed).collect::<Result<_, _>>()?;
        drop(progress);
        Ok(Test { kind, n, n_depth: self.n_depth, seconds })
    }

    /// Seconds to compute `n` tokens at once.
    fn prefill(&mut self, n: usize) -> Result<f64, Error> {
        self.rewind()?;
        let ids: Vec<_> = self.ids(self.n_depth + n).collect();
        let start = Instant::now();
        self.session.sync(&ids)?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Seconds to compute `n` tokens one by one.
    fn decode(&mut self, n: usize) -> Result<f64, Error> {
        self.rewind()?;
        let ids: Vec<_> = self.ids(self.n_depth + n).skip(self.n_depth).collect();
        let start = Instant::now();
        ids.into_iter().try_for_each(|id| self.session.push(id))?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Back to the tokens that are there before each measurement.
    fn rewind(&mut self) -> Result<(), Error> {
        let ids: Vec<_> = self.ids(self.n_depth).collect();
        self.session.rewind(self.n_depth.min(self.session.tokens().len()))?;
        self.session.sync(&ids)?;
        Ok(())
    }

    /// Arbitrary tokens (Knuth's multiplicative hash), always the same.
    fn ids(&self, n: usize) -> impl Iterator<Item = TokenId> + use<> {
        let n_vocab = self.n_vocab as u64;
        (1..=n as u64).map(move |i| ((i.wrapping_mul(2_654_435_761) as u32 as u64 * n_vocab) >> 32) as TokenId)
    }
}

/// What the figures hold for.
struct About {
    machine: String,
    model: String,
    device: String,
}

/// The measurements of one kind.
struct Test {
    kind: &'static str,
    n: usize,
    n_depth: usize,
    seconds: Vec<f64>,
}

impl Test {
    /// Tokens per second, slowest first.
    fn rates(&self) -> Vec<f64> {
        let mut rates: Vec<f64> = self.seconds.iter().map(|s| self.n as f64 / s.max(1e-9)).collect();
        rates.sort_by(f64::total_cmp);
        rates
    }

    fn name(&self) -> String {
        match self.n_depth {
            0 => format!("{} {}", self.kind, self.n),
            depth => format!("{} {} behind {depth}", self.kind, self.n),
        }
    }
}

/// The middle of sorted numbers, or of the middle two.
fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0
}

fn as_text(about: &About, tests: &[Test]) -> String {
    let mut out = format!("machine  {}\nmodel    {}\ndevice   {}\n\n", about.machine, about.model, about.device);
    let width = tests.iter().map(|t| t.name().len()).max().unwrap_or(0).max(4);
    let _ = writeln!(out, "{:width$}  {:>9}  {:>9}  {:>9}  {:>4}", "t/s", "median", "min", "max", "runs");
    for test in tests {
        let rates = test.rates();
        let (min, max) = (rates[0], rates[rates.len() - 1]);
        let (name, median) = (test.name(), median(&rates));
        let _ = writeln!(out, "{name:width$}  {median:>9.2}  {min:>9.2}  {max:>9.2}  {:>4}", rates.len());
    }
    out
}

fn as_json(about: &About, tests: &[Test]) -> String {
    let test = |t: &Test| {
        let rates = t.rates();
        json!({
            "kind": t.kind, "n": t.n, "n_depth": t.n_depth, "seconds": t.seconds,
            "median_tps": median(&rates), "min_tps": rates[0], "max_tps": rates[rates.len() - 1],
        })
    };
    let tests: Vec<_> = tests.iter().map(test).collect();
    let version = env!("CARGO_PKG_VERSION");
    let all = json!({
        "version": version, "machine": about.machine, "model": about.model, "device": about.device, "tests": tests,
    });
    format!("{all:#}\n")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn tests() -> (About, [Test; 2]) {
        let about = About { machine: "Z80".into(), model: "tiny".into(), device: "CPU, 1 threads".into() };
        let prefill = Test { kind: "prefill", n: 512, n_depth: 0, seconds: vec![2.0, 1.0, 4.0] };
        let decode = Test { kind: "decode", n: 10, n_depth: 2048, seconds: vec![1.0, 2.0] };
        (about, [prefill, decode])
    }

    #[test]
    fn the_median_comes_with_its_range() {
        let (about, tests) = tests();
        expect![[r#"
            machine  Z80
            model    tiny
            device   CPU, 1 threads

            t/s                       median        min        max  runs
            prefill 512               256.00     128.00     512.00     3
            decode 10 behind 2048       7.50       5.00      10.00     2
        "#]]
        .assert_eq(&as_text(&about, &tests));
    }

    #[test]
    fn programs_get_every_measurement() {
        let (about, tests) = tests();
        expect![[r#"
            {
              "version": "0.1.0",
              "machine": "Z80",
              "model": "tiny",
              "device": "CPU, 1 threads",
              "tests": [
                {
                  "kind": "prefill",
                  "n": 512,
                  "n_depth": 0,
                  "seconds": [
                    2.0,
                    1.0,
                    4.0
                  ],
                  "median_tps": 256.0,
                  "min_tps": 128.0,
                  "max_tps": 512.0
                },
                {
                  "kind": "decode",
                  "n": 10,
                  "n_depth": 2048,
                  "seconds": [
                    1.0,
                    2.0
                  ],
                  "median_tps": 7.5,
                  "min_tps": 5.0,
                  "max_tps": 10.0
                }
              ]
            }
        "#]]
        .assert_eq(&as_json(&about, &tests));
    }
}
