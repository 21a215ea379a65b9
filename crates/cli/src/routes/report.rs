//! The figures: as tables for people, and for programs as CSV or JSON.
//!
//! The CSV has one row per kind of batch, rule and budget:
//!
//! | column | holds |
//! |---|---|
//! | `kind` | `decode`, batches of one row, or `prefill`, batches of more |
//! | `policy` | the rule |
//! | `n_slots` | experts that there is room for |
//! | `n_tokens` | rows |
//! | `n_chosen` | experts that batches chose, each once in a layer |
//! | `n_misses` | those that were read |
//! | `hit_rate` | of what was chosen, the part that was there, 0 to 1 |
//! | `bytes_per_token` | what was read for a token |

use std::{fmt::Write as _, path::Path};

use experts::{
    replay::{Outcome, Tally, policies},
    trace::{Head, Trace},
};
use serde_json::{Value, json};

use super::Run;
use crate::{args::RoutesArgs, terminal::escape, units};

/// Of the experts, the part that counts as the hottest.
const HOTTEST: f64 = 0.1;

/// What a trace holds.
pub(super) struct About {
    pub(super) name: String,
    pub(super) head: Head,
    n_decode: usize,
    n_prefill: usize,
    n_prefill_tokens: usize,
    n_choices: u64,
    /// Experts that were chosen at all.
    n_distinct: usize,
    n_hottest: usize,
    /// Of all choices, the part that fell on these.
    hottest_share: f64,
}

impl About {
    pub(super) fn new(path: &Path, trace: &Trace) -> About {
        let rows = || trace.batches.iter().map(|b| b.n_rows());
        let mut counts = vec![0u64; trace.head.n_experts()];
        for layer in trace.batches.iter().flat_map(|b| &b.layers) {
            layer.choices.iter().for_each(|&e| counts[layer.layer * trace.head.n_expert + e as usize] += 1);
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let n_hottest = ((HOTTEST * counts.len() as f64).round() as usize).max(1);
        let n_choices: u64 = counts.iter().sum();
        About {
            name: escape(&path.display().to_string()),
            head: trace.head,
            n_decode: rows().filter(|&n| n == 1).count(),
            n_prefill: rows().filter(|&n| n > 1).count(),
            n_prefill_tokens: rows().filter(|&n| n > 1).sum(),
            n_choices,
            n_distinct: counts.iter().filter(|&&n| n > 0).count(),
            n_hottest,
            hottest_share: counts[..n_hottest].iter().sum::<u64>() as f64 / n_choices as f64,
        }
    }

    fn bytes(&self, n_experts: usize) -> String {
        units::bytes(self.head.expert_bytes.saturating_mul(n_experts as u64))
    }

    /// The model, in words.
    pub(super) fn model(&self) -> String {
        let Head { n_layer, n_expert, n_used, .. } = self.head;
        let all = self.bytes(self.head.n_experts());
        format!(
            "{n_layer} layers of {n_expert} experts, {all}, {} each; a token chooses {n_used} in a layer",
            self.bytes(1)
        )
    }

    /// What was computed, in words.
    pub(super) fn batches(&self) -> String {
        let (n_decode, n_prefill, n_tokens) = (self.n_decode, self.n_prefill, self.n_prefill_tokens);
        format!("{n_decode} of one token (decode), {n_prefill} of more (prefill, {n_tokens} tokens)")
    }

    fn choices(&self) -> String {
        format!(
            "{}, of {} different experts; the {} chosen most often, a tenth of all, are {:.0} % of them",
            self.n_choices,
            self.n_distinct,
            self.n_hottest,
            100.0 * self.hottest_share
        )
    }
}

/// Kinds of batches.
pub(super) const KINDS: [(&str, fn(&Outcome) -> &Tally); 2] = [("decode", |o| &o.decode), ("prefill", |o| &o.prefill)];

/// Those that the trace has.
pub(super) fn kinds(runs: &[Run]) -> impl Iterator<Item = (&'static str, fn(&Outcome) -> &Tally)> {
    KINDS.into_iter().filter(|(_, tally)| runs.iter().any(|run| tally(&run.outcome).n_batches > 0))
}

/// How figures are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Csv,
    Json,
}

impl Form {
    pub(super) fn of(args: &RoutesArgs) -> Form {
        match () {
            () if args.json => Form::Json,
            () if args.csv => Form::Csv,
            () => Form::Text,
        }
    }
}

/// All of it.
pub(super) fn all(form: Form, about: &About, runs: &[Run]) -> String {
    match form {
        Form::Text => as_text(about, runs),
        Form::Csv => as_csv(about, runs),
        Form::Json => format!("{:#}\n", as_json(about, runs)),
    }
}

fn as_text(about: &About, runs: &[Run]) -> String {
    let mut out = format!(
        "trace    {}\nexperts  {}\nbatches  {}\nchoices  {}\n",
        about.name,
        about.model(),
        about.batches(),
        about.choices()
    );
    for (kind, tally) in kinds(runs) {
        let _ = writeln!(out, "\n{kind}: experts found in memory, and MiB read per token, where there is room for");
        table(&mut out, about, runs, tally);
    }
    out.push('\n');
    for (policy, what) in policies() {
        let _ = writeln!(out, "{policy:8}  {what}");
    }
    out
}

/// A line for every rule, a column for every budget.
fn table(out: &mut String, about: &About, runs: &[Run], tally: fn(&Outcome) -> &Tally) {
    let mut row = |name: &str, cells: &mut dyn Iterator<Item = String>| {
        let cells: String = cells.map(|cell| format!("  {cell:>16}")).collect();
        let _ = writeln!(out, "{name:8}{cells}");
    };
    let of = |policy: &'static str| runs.iter().filter(move |run| run.policy == policy);
    let first = runs.first().map_or("", |run| run.policy);
    row("", &mut of(first).map(|run| format!("{} experts", run.n_slots)));
    row("", &mut of(first).map(|run| about.bytes(run.n_slots)));
    for (policy, _) in policies() {
        row(
            policy,
            &mut of(policy).map(|run| {
                let tally = tally(&run.outcome);
                let mib = tally.bytes_per_token(&about.head) / f64::from(1 << 20);
                format!("{:.1} % {mib:>8.1}", 100.0 * tally.hit_rate())
            }),
        );
    }
}

fn as_csv(about: &About, runs: &[Run]) -> String {
    let mut out = String::from("kind,policy,n_slots,n_tokens,n_chosen,n_misses,hit_rate,bytes_per_token\n");
    for (kind, tally) in kinds(runs) {
        for Run { policy, n_slots, outcome } in runs {
            let t = tally(outcome);
            let (hits, bytes) = (t.hit_rate(), t.bytes_per_token(&about.head));
            let _ = writeln!(
                out,
                "{kind},{policy},{n_slots},{},{},{},{hits:.6},{bytes:.0}",
                t.n_tokens, t.n_chosen, t.n_misses
            );
        }
    }
    out
}

fn as_json(about: &About, runs: &[Run]) -> Value {
    let Head { n_layer, n_expert, n_used, expert_bytes } = about.head;
    let tally = |t: &Tally| {
        (t.n_batches > 0).then(|| {
            json!({
                "n_chosen": t.n_chosen, "n_misses": t.n_misses,
                "hit_rate": t.hit_rate(), "bytes_per_token": t.bytes_per_token(&about.head),
            })
        })
    };
    let run = |run: &Run| {
        json!({
            "policy": run.policy, "n_slots": run.n_slots,
            "decode": tally(&run.outcome.decode), "prefill": tally(&run.outcome.prefill),
        })
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "n_layer": n_layer, "n_expert": n_expert, "n_used": n_used, "expert_bytes": expert_bytes,
        "n_decode_tokens": about.n_decode,
        "n_prefill_batches": about.n_prefill, "n_prefill_tokens": about.n_prefill_tokens,
        "n_choices": about.n_choices, "n_distinct": about.n_distinct,
        "n_hottest": about.n_hottest, "hottest_share": about.hottest_share,
        "runs": runs.iter().map(run).collect::<Vec<_>>(),
    })
}
