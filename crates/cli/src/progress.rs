//! Bars on stderr for what takes long, if somebody watches. They leave no trace when done.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::terminal;

/// What takes less is not worth a flicker.
const PATIENCE: Duration = Duration::from_millis(400);

/// How far some work has come.
pub(crate) struct Progress {
    style: &'static str,
    start: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Reading a model, in bytes.
    pub(crate) fn loading() -> Progress {
        Progress::new("loading  {bar:32} {bytes} of {total_bytes}, {binary_bytes_per_sec}")
    }

    /// Reading a prompt, in tokens.
    pub(crate) fn prefill() -> Progress {
        Progress::new("reading  {bar:32} {pos} of {len} tokens, {eta} to go")
    }

    /// Scoring a text, in positions.
    pub(crate) fn scoring() -> Progress {
        Progress::new("scoring  {bar:32} {pos} of {len} positions, {per_sec}, {eta} to go")
    }

    /// Measuring, in runs.
    pub(crate) fn measuring() -> Progress {
        Progress::new("measuring {bar:31} {pos} of {len} runs")
    }

    /// Reading a corpus, in tokens.
    pub(crate) fn collecting() -> Progress {
        Progress::new("reading  {bar:32} {pos} of {len} tokens, {per_sec}, {eta} to go")
    }

    /// Packing weights.
    pub(crate) fn packing() -> Progress {
        Progress::new("packing  {bar:32} {percent} % of {human_len} weights, {per_sec}, {eta} to go")
    }

    /// Comparing models, in tensors.
    pub(crate) fn comparing() -> Progress {
        Progress::new("comparing {bar:31} {pos} of {len} tensors, {eta} to go")
    }

    fn new(style: &'static str) -> Progress {
        Progress { style, start: Instant::now(), bar: None }
    }

    /// `done` of `total` is done.
    pub(crate) fn set(&mut self, done: u64, total: u64) {
        self.set_from(0, done, total);
    }

    /// The same, where `before` was done by somebody else, and says nothing about the rate.
    pub(crate) fn set_from(&mut self, before: u64, done: u64, total: u64) {
        if self.bar.is_none() && terminal::stderr_is_terminal() && self.start.elapsed() > PATIENCE {
            let style = ProgressStyle::with_template(self.style).expect("a template of ours parses");
            let bar = ProgressBar::new(total).with_style(style).with_elapsed(self.start.elapsed());
            self.bar = Some(bar.with_position(before));
        }
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// A sign of life while the model reasons and nothing of it is shown.
pub(crate) struct Pondering(Option<ProgressBar>);

impl Pondering {
    /// Nothing until the first [`tick`](Pondering::tick).
    pub(crate) fn new() -> Pondering {
        Pondering(None)
    }

    /// More reasoning has come.
    pub(crate) fn tick(&mut self) {
        if !terminal::stderr_is_terminal() {
            return;
        }
        let bar = self.0.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{spinner} thinking, {elapsed}");
            ProgressBar::new_spinner().with_style(style.expect("a template of ours parses"))
        });
        bar.tick();
    }

    /// The answer begins.
    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}
