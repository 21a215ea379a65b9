//! The figures: a row per model, as a table for people and as JSON for programs; and a row per position, as TSV.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use engine::Engine;
use gguf::Origin;
use serde_json::{Value, json};
use tools::perplexity::{Distance, Figures, Head, Mean, PARTS, Passages, Position};

use crate::{args::PerplexityArgs, error::Error, output, speaker::describe, terminal};

/// What one model made of the text.
pub(super) struct Outcome {
    path: PathBuf,
    /// Its name in the table.
    name: String,
    /// The model, for people.
    model: String,
    /// The text as it reads it; the figures may be of fewer positions.
    passages: Passages,
    figures: Option<Figures>,
    seconds: f64,
}

impl Outcome {
    pub(super) fn new(
        engine: &Engine,
        name: &str,
        passages: Passages,
        positions: &[Position],
        time: Duration,
    ) -> Outcome {
        Outcome {
            path: engine.path().into(),
            name: name.into(),
            model: describe(engine),
            passages,
            figures: Figures::of(positions),
            seconds: time.as_secs_f64(),
        }
    }

    /// Whether all positions were scored.
    pub(super) fn complete(&self) -> bool {
        self.n() == self.passages.n_scored()
    }

    fn n(&self) -> usize {
        self.figures.as_ref().map_or(0, |figures| figures.n)
    }

    fn as_json(&self, first: &Outcome) -> Value {
        let mut out = json!({
            "file": self.path.display().to_string(),
            "model": self.model,
            "n_ctx": self.passages.n_ctx(),
            "n_chunks": self.passages.n_chunks(),
            "same_tokens": self.passages == first.passages,
            "n_scored": self.n(),
            "complete": self.complete(),
            "seconds": self.seconds,
        });
        if let Some(figures) = &self.figures {
            out["ppl"] = with_error(figures.nll.exp());
            out["nll"] = with_error(figures.nll);
            out["base"] = figures.distance.as_ref().map_or(Value::Null, distance_as_json);
        }
        out
    }
}

fn with_error(mean: Mean) -> Value {
    json!({ "mean": mean.value, "error": mean.error })
}

fn distance_as_json(distance: &Distance) -> Value {
    let [median, p90, p95, p99, max] = distance.divergences;
    json!({
        "ppl": with_error(distance.base_nll.exp()),
        "nll": with_error(distance.base_nll),
        "ppl_ratio": with_error(distance.more.exp()),
        "kl": {
            "mean": distance.divergence.value,
            "error": distance.divergence.error,
            "median": median,
            "p90": p90,
            "p95": p95,
            "p99": p99,
            "max": max,
        },
        "same_top": with_error(distance.same_top),
        "p_rms": distance.rms,
    })
}

/// What is printed, row by row or at the end.
pub(super) struct Report<'a> {
    args: &'a PerplexityArgs,
    base: Option<&'a Head>,
    /// The column of models is so wide.
    width: usize,
    outcomes: Vec<Outcome>,
}

impl<'a> Report<'a> {
    pub(super) fn new(args: &'a PerplexityArgs, names: &[String], base: Option<&'a Head>) -> Report<'a> {
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default().max(5);
        Report { args, base, width, outcomes: Vec::new() }
    }

    /// Another row.
    pub(super) fn add(&mut self, outcome: Outcome) -> Result<(), Error> {
        if !outcome.complete() {
            terminal::note(&format!("stopped after {} of {} positions", outcome.n(), outcome.passages.n_scored()));
        }
        if let Some(first) = self.outcomes.first().filter(|first| first.passages != outcome.passages) {
            terminal::note(&told_apart(first, &outcome));
        }
        if !self.args.json {
            let head = if self.outcomes.is_empty() { self.head(&outcome) } else { String::new() };
            output::print(&format!("{head}{}", self.row(&outcome)))?;
        }
        self.outcomes.push(outcome);
        Ok(())
    }

    /// All is known that will be.
    pub(super) fn finish(&self) -> Result<(), Error> {
        let Some(first) = self.outcomes.first().filter(|_| self.args.json) else { return Ok(()) };
        let base = |base: &Head| json!({ "model": base.model, "n_vocab": base.n_vocab, "n_chunks": base.n_chunks() });
        let all = json!({
            "text": self.args.file.display().to_string(),
            "base": self.base.map(base),
            "models": self.outcomes.iter().map(|outcome| outcome.as_json(first)).collect::<Vec<_>>(),
        });
        output::print(&format!("{all:#}\n"))
    }

    /// What the figures are of, and the heads of their columns.
    fn head(&self, first: &Outcome) -> String {
        let (text, passages) = (self.args.file.display(), &first.passages);
        let (n_chunks, n_ctx, n_scored) = (passages.n_chunks(), passages.n_ctx(), passages.n_scored());
        let mut out = format!("text   {text}: {n_chunks} chunks of {n_ctx} tokens, {n_scored} positions\n");
        if let Some((base, path)) = self.base.zip(self.args.base.as_ref()) {
            let model = if base.model.is_empty() { "a model without a name" } else { base.model.as_str() };
            let _ = writeln!(out, "base   {}: {model}", path.display());
        }
        let _ = write!(out, "\n{:width$}  {:>20}", "model", "perplexity", width = self.width);
        match self.base {
            None => _ = writeln!(out, "  {:>17}  {:>8}", "nats per token", "seconds"),
            Some(_) => {
                let _ = write!(out, "  {:>17}  {:>19}", "of the base's", "KL divergence");
                let parts = ["median", "90 %", "95 %", "99 %", "largest"];
                parts.iter().for_each(|part| _ = write!(out, "  {part:>8}"));
                let _ = writeln!(out, "  {:>14}  {:>8}", "same top", "seconds");
            }
        }
        out
    }

    fn row(&self, outcome: &Outcome) -> String {
        let mut out = format!("{:width$}", outcome.name, width = self.width);
        if let Some(figures) = &outcome.figures {
            let _ = write!(out, "  {:>20}", plus_minus(figures.nll.exp(), 4));
            match &figures.distance {
                None => _ = write!(out, "  {:>17}", plus_minus(figures.nll, 4)),
                Some(distance) => out += &distance_columns(distance),
            }
            let _ = write!(out, "  {:>8.1}", outcome.seconds);
        }
        out + "\n"
    }
}

fn distance_columns(distance: &Distance) -> String {
    let mut out = format!("  {:>17}", plus_minus(distance.more.exp(), 4));
    let _ = write!(out, "  {:>19}", plus_minus(distance.divergence, 5));
    const { assert!(PARTS.len() == 5, "as many as have a head") };
    distance.divergences.iter().for_each(|kl| _ = write!(out, "  {kl:>8.5}"));
    let percent = Mean { value: 100.0 * distance.same_top.value, error: 100.0 * distance.same_top.error };
    let _ = write!(out, "  {:>14}", plus_minus(percent, 2) + " %");
    out
}

fn plus_minus(mean: Mean, digits: usize) -> String {
    format!("{:.digits$} ±{:.digits$}", mean.value, mean.error)
}

/// That figures are of different texts, since two vocabularies cut a text into different tokens.
fn told_apart(first: &Outcome, other: &Outcome) -> String {
    let (name, n_chunks, n_scored) = (&other.name, other.passages.n_chunks(), other.passages.n_scored());
    format!(
        "{name} reads the text as other tokens than {} ({n_chunks} chunks, {n_scored} positions): their perplexities do not compare",
        first.name
    )
}

/// What models are called: as their files, without the end of the name, or by their paths where that is not one model's only.
pub(super) fn names(models: &[Origin]) -> Vec<String> {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let stems = Vec::from_iter(models.iter().map(|model| stem(model.name())));
    let is_alone = |name: &String| stems.iter().filter(|other| *other == name).count() == 1;
    let name = |(model, stem): (&Origin, &String)| match is_alone(stem) {
        true => stem.clone(),
        false => model.name().display().to_string(),
    };
    models.iter().zip(&stems).map(name).collect()
}

/// The heads of columns for [`detail_rows`].
pub(super) fn detail_head(has_base: bool) -> String {
    let more = if has_base { "\tbase_nll\tkl\ttop\trank" } else { "" };
    format!("model\tpos\tid\ttext\tnll{more}\n")
}

/// A line for each position.
pub(super) fn detail_rows(name: &str, engine: &Engine, positions: &[Position]) -> impl Iterator<Item = String> {
    let model = json!(name);
    positions.iter().map(move |p| {
        let text = engine.tokenizer().map(|tokenizer| tokenizer.text_of(p.id));
        let mut row = format!("{model}\t{}\t{}\t{}\t{:.6}", p.pos, p.id, json!(text), p.nll);
        if let Some(base) = p.base {
            let _ = write!(row, "\t{:.6}\t{:.8}\t{}\t{}", base.nll, base.divergence, base.top, base.rank);
        }
        row + "\n"
    })
}
