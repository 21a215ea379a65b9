//! One timeline, and the seconds that tokens take on it.

use std::time::Instant;

use engine::{Cost, Engine, Error, Limits, Session, Stats};
use tokenizer::TokenId;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Tokens computed at once.
    Prefill,
    /// Tokens computed one by one.
    Decode,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Prefill => "prefill",
            Kind::Decode => "decode",
        }
    }

    /// What bounds it, in a word.
    pub(crate) fn bound(self) -> &'static str {
        match self {
            Kind::Prefill => "int8",
            Kind::Decode => "read",
        }
    }

    /// What a second has room for: multiply-adds in prefill, bytes in decode.
    pub(crate) fn per_second(self, limits: &Limits) -> f64 {
        1e9 * match self {
            Kind::Prefill => limits.int8_gmacs,
            Kind::Decode => limits.read_gbps,
        }
    }
}

/// A measurement: `n` tokens behind `n_depth` others, several times.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    pub(crate) kind: Kind,
    pub(crate) n: usize,
    pub(crate) n_depth: usize,
    pub(crate) seconds: Vec<f64>,
    /// What a token costs: multiply-adds with weights in prefill; bytes of weights and caches in decode.
    pub(crate) work: f64,
    /// What streaming experts took in all of it.
    pub(crate) experts: Option<Stats>,
}

/// Something done once: its seconds, and what its experts took.
type Run = (f64, Option<Stats>);

impl Test {
    fn new(engine: &Engine, kind: Kind, n: usize, n_depth: usize, runs: &[Run]) -> Test {
        // Caches grow while tokens are decoded: the one in the middle stands for all.
        let Cost { layers, logits, attention } = engine.cost(n_depth + n / 2);
        let work = match kind {
            Kind::Prefill => layers.n_mac as f64 + logits.n_mac as f64 / n as f64,
            Kind::Decode => (layers + logits + attention).n_bytes as f64,
        };
        let experts = runs.iter().map(|run| run.1).sum();
        Test { kind, n, n_depth, seconds: runs.iter().map(|run| run.0).collect(), work, experts }
    }

    /// Tokens per second, slowest first.
    pub(crate) fn rates(&self) -> Vec<f64> {
        let mut rates: Vec<f64> = self.seconds.iter().map(|s| self.n as f64 / s.max(1e-9)).collect();
        rates.sort_by(f64::total_cmp);
        rates
    }

    /// The middle of the rates, or of the middle two.
    pub(crate) fn median(&self) -> f64 {
        let (rates, n) = (self.rates(), self.seconds.len());
        (rates[(n - 1) / 2] + rates[n / 2]) / 2.0
    }

    /// Tokens per second that the limits allow.
    pub(crate) fn rate_limit(&self, limits: &Limits) -> f64 {
        self.kind.per_second(limits) / self.work
    }

    /// The part of what the limits allow that is reached.
    pub(crate) fn share(&self, limits: &Limits) -> f64 {
        self.median() / self.rate_limit(limits)
    }
}

/// One timeline to measure on.
pub(crate) struct Bench<'a> {
    engine: &'a Engine,
    session: Session,
}

impl<'a> Bench<'a> {
    /// Does both kinds of work once, unmeasured.
    pub(crate) fn new(engine: &'a Engine, session: Session, n_prompt: usize) -> Result<Bench<'a>, Error> {
        let mut bench = Bench { engine, session };
        bench.run(Kind::Prefill, n_prompt.max(1), 0)?;
        bench.run(Kind::Decode, 2.min(bench.session.n_ctx()), 0)?;
        Ok(bench)
    }

    /// `n` tokens behind `n_depth` others, `reps` times; `progress` is told how often it was done.
    pub(crate) fn measure(
        &mut self,
        kind: Kind,
        n: usize,
        n_depth: usize,
        reps: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Test, Error> {
        let mut timed = |i: usize| {
            progress(i);
            self.run(kind, n, n_depth)
        };
        let runs = (0..reps).map(&mut timed).collect::<Result<Vec<_>, _>>()?;
        Ok(Test::new(self.engine, kind, n, n_depth, &runs))
    }

    fn run(&mut self, kind: Kind, n: usize, n_depth: usize) -> Result<Run, Error> {
        self.session.rewind(n_depth.min(self.session.tokens().len()))?;
        self.session.sync(&self.ids(n_depth))?;
        match kind {
            Kind::Prefill => self.grow(n_depth + n).map(|(_, run)| run),
            Kind::Decode => self.decode(n),
        }
    }

    /// Of `n` tokens that a probe decodes, how many can be dropped afterwards.
    pub(crate) fn n_probe(&self, n: usize) -> usize {
        self.session.n_rewind(n)
    }

    /// Back to the beginning.
    pub(crate) fn clear(&mut self) -> Result<(), Error> {
        self.session.rewind(0)
    }

    /// Grows the context to `n_ctx` tokens, measured, and decodes `n_gen` behind them, measured too and dropped again.
    pub(crate) fn step(&mut self, n_ctx: usize, n_gen: usize) -> Result<Vec<Test>, Error> {
        let (n, run) = self.grow(n_ctx)?;
        let mut tests = vec![Test::new(self.engine, Kind::Prefill, n, n_ctx - n, &[run])];
        if n_gen > 0 {
            let run = self.decode(n_gen)?;
            self.session.rewind(n_ctx)?;
            tests.push(Test::new(self.engine, Kind::Decode, n_gen, n_ctx, &[run]));
        }
        Ok(tests)
    }

    /// Computes what is missing of `n_ctx` tokens at once; how many that were, and what they took.
    fn grow(&mut self, n_ctx: usize) -> Result<(usize, Run), Error> {
        let ids = self.ids(n_ctx);
        let (synced, run) = self.timed(|session| session.sync(&ids))?;
        Ok((synced.computed, run))
    }

    /// What it takes to compute the next `n` tokens one by one.
    fn decode(&mut self, n: usize) -> Result<Run, Error> {
        let ids = self.ids(self.session.tokens().len() + n).split_off(self.session.tokens().len());
        let ((), run) = self.timed(|session| ids.into_iter().try_for_each(|id| session.push(id)))?;
        Ok(run)
    }

    fn timed<R>(&mut self, work: impl FnOnce(&mut Session) -> Result<R, Error>) -> Result<(R, Run), Error> {
        let (before, start) = (self.engine.expert_stats(), Instant::now());
        let result = work(&mut self.session)?;
        let seconds = start.elapsed().as_secs_f64();
        let experts = self.engine.expert_stats().zip(before).map(|(after, before)| after - before);
        Ok((result, (seconds, experts)))
    }

    fn ids(&self, n: usize) -> Vec<TokenId> {
        arbitrary(self.engine, 0).take(n).collect()
    }
}

/// Arbitrary tokens (Knuth's multiplicative hash), always the same, from some place on.
pub(super) fn arbitrary(engine: &Engine, first: u64) -> impl Iterator<Item = TokenId> {
    let n_vocab = engine.info().n_vocab as u64;
    let id = move |i: u64| ((i.wrapping_mul(2_654_435_761) as u32 as u64 * n_vocab) >> 32) as TokenId;
    (first + 1..).map(id)
}
