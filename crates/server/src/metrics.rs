//! What a slow answer was slow at: counters and times, in the text that Prometheus reads.

use std::sync::atomic::AtomicU64;

use engine::Engine;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::said::Finish;

type Seconds = Counter<f64, AtomicU64>;

/// What is counted.
pub(crate) struct Metrics {
    registry: Registry,
    waiting: Gauge,
    busy: Gauge,
    connections: Gauge,
    answered: Counter,
    abandoned: Counter,
    failed: Counter,
    refused: Counter,
    computed: Counter,
    reused: Counter,
    sampled: Counter,
    queue_s: Seconds,
    prefill_s: Seconds,
    decode_s: Seconds,
    first_s: Histogram,
    token_s: Histogram,
    /// What others count, as it was when it was last asked for.
    expert_bytes: Gauge<f64, AtomicU64>,
    expert_hit_rate: Gauge<f64, AtomicU64>,
    expert_stalled_s: Gauge<f64, AtomicU64>,
    kept_bytes: Gauge<f64, AtomicU64>,
    kept_written_bytes: Gauge<f64, AtomicU64>,
}

/// Counts a session as at work, until it is dropped.
pub(crate) struct Busy<'a>(&'a Gauge);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Nothing counted yet; names begin with `prefix`.
    pub(crate) fn new(prefix: &str) -> Metrics {
        let mut registry = Registry::with_prefix(prefix);
        let r = &mut registry;
        Metrics {
            waiting: gauge(r, "requests_waiting", "Requests that wait for a session"),
            busy: gauge(r, "sessions_busy", "Sessions that compute an answer"),
            connections: gauge(r, "connections", "Connections that are open"),
            answered: counter(r, "answers", "Answers that were completed"),
            abandoned: counter(r, "answers_abandoned", "Answers whose client went away"),
            failed: counter(r, "answers_failed", "Answers that the engine failed at"),
            refused: counter(r, "requests_refused", "Requests that were refused"),
            computed: counter(r, "prompt_tokens_computed", "Tokens of prompts that were computed"),
            reused: counter(r, "prompt_tokens_reused", "Tokens of prompts that were known"),
            sampled: counter(r, "answer_tokens", "Tokens of answers"),
            queue_s: seconds(r, "queue_seconds", "Time that requests waited for a session"),
            prefill_s: seconds(r, "prefill_seconds", "Time for prompts"),
            decode_s: seconds(r, "decode_seconds", "Time for answers"),
            first_s: histogram(r, "first_token_seconds", "From a request to the first token of its answer", FIRST_S),
            token_s: histogram(r, "token_seconds", "For a token of an answer", TOKEN_S),
            expert_bytes: gauge_f64(r, "expert_read_bytes", "Bytes of experts read from the SSD so far"),
            expert_hit_rate: gauge_f64(r, "expert_hit_rate", "Part of chosen experts that were in memory"),
            expert_stalled_s: gauge_f64(r, "expert_stalled_seconds", "Time spent waiting for experts so far"),
            kept_bytes: gauge_f64(r, "kept_bytes", "Bytes of sessions kept on disk"),
            kept_written_bytes: gauge_f64(r, "kept_written_bytes", "Bytes of sessions written so far"),
            registry,
        }
    }

    /// How many wait.
    pub(crate) fn waiting(&self, n: usize) {
        self.waiting.set(n as i64);
    }

    /// A session is at work.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.busy.inc();
        Busy(&self.busy)
    }

    /// A connection is open.
    pub(crate) fn connected(&self) -> Busy<'_> {
        self.connections.inc();
        Busy(&self.connections)
    }

    /// A prompt was read, so many tokens of which were known.
    pub(crate) fn prefilled(&self, n_known: usize, n_computed: usize) {
        self.reused.inc_by(n_known as u64);
        self.computed.inc_by(n_computed as u64);
    }

    pub(crate) fn answered(&self, finish: &Finish) {
        let (usage, timings) = (finish.usage, finish.timings);
        self.answered.inc();
        self.sampled.inc_by(usage.n_answer as u64);
        self.queue_s.inc_by(timings.queued.as_secs_f64());
        self.prefill_s.inc_by(timings.prefill.as_secs_f64());
        self.decode_s.inc_by(timings.decode.as_secs_f64());
        self.first_s.observe((timings.queued + timings.prefill).as_secs_f64());
        if usage.n_answer > 0 {
            self.token_s.observe(timings.decode.as_secs_f64() / usage.n_answer as f64);
        }
    }

    pub(crate) fn abandoned(&self) {
        self.abandoned.inc();
    }

    pub(crate) fn failed(&self) {
        self.failed.inc();
    }

    pub(crate) fn refused(&self) {
        self.refused.inc();
    }

    /// All of it, as text.
    pub(crate) fn text(&self, engine: &Engine) -> String {
        if let Some(stats) = engine.expert_stats() {
            self.expert_bytes.set(stats.read_bytes as f64);
            self.expert_hit_rate.set(stats.hit_rate());
            self.expert_stalled_s.set(stats.stalled.as_secs_f64());
        }
        if let Some(stats) = engine.kept_stats() {
            self.kept_bytes.set(stats.disk_bytes as f64);
            self.kept_written_bytes.set(stats.written_bytes as f64);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes everything");
        text
    }
}

const FIRST_S: &[f64] = &[0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];
const TOKEN_S: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0];

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let metric = Gauge::default();
    registry.register(name, help, metric.clone());
    metric
}

fn gauge_f64(registry: &mut Registry, name: &str, help: &str) -> Gauge<f64, AtomicU64> {
    let metric = Gauge::default();
    registry.register(name, help, metric.clone());
    metric
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let metric = Counter::default();
    registry.register(name, help, metric.clone());
    metric
}

fn seconds(registry: &mut Registry, name: &str, help: &str) -> Seconds {
    let metric = Seconds::default();
    registry.register(name, help, metric.clone());
    metric
}

fn histogram(registry: &mut Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let metric = Histogram::new(buckets.iter().copied());
    registry.register(name, help, metric.clone());
    metric
}
