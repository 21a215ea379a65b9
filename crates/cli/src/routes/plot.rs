//! What is found in memory against the room there is: a line for every rule, and one below the other the kinds of batches
//! that the trace has.

use experts::replay::{Outcome, Tally, policies};

use super::{
    Run,
    report::{About, kinds},
};
use crate::svg::{self, Colour, line, text};

const WIDTH: f64 = 760.0;
/// The part of the width that room takes.
const X: (f64, f64) = (64.0, 620.0);
/// Height of one kind, and of what stands above the first and below the last.
const PANEL: f64 = 300.0;
const HEAD: f64 = 84.0;
const FOOT: f64 = 34.0;

/// Classes and colours, in the order of the rules.
const COLOURS: [Colour; 6] = [
    ("a", "#8c959f", "#6e7681"),
    ("b", "#bc4c00", "#f0883e"),
    ("c", "#8250df", "#bc8cff"),
    ("d", "#1a7f37", "#3fb950"),
    ("e", "#0969da", "#58a6ff"),
    ("f", "#1f2328", "#f0f6fc"),
];

/// The picture of a replay.
pub(super) fn draw(about: &About, runs: &[Run]) -> String {
    let height = HEAD + PANEL * kinds(runs).count() as f64 + FOOT;
    let mut out = svg::begin(WIDTH, height, &COLOURS);
    svg::heading(&mut out, &about.name, &[&about.model(), &about.batches()]);
    for (i, (kind, tally)) in kinds(runs).enumerate() {
        let top = HEAD + PANEL * i as f64;
        text(&mut out, "name", "start", 24.0, top + 20.0, &format!("Of what {kind} chose, found in memory"));
        Panel { runs, tally, top: top + 36.0, zero: top + PANEL - 28.0, n_experts: about.head.n_experts() }
            .draw(&mut out);
    }
    text(&mut out, "", "middle", (X.0 + X.1) / 2.0, height - 14.0, "room, as a part of all experts");
    out.push_str("</svg>\n");
    out
}

/// One kind of batches.
struct Panel<'a> {
    runs: &'a [Run],
    tally: fn(&Outcome) -> &Tally,
    top: f64,
    zero: f64,
    n_experts: usize,
}

impl Panel<'_> {
    fn x(&self, part: f64) -> f64 {
        X.0 + part * (X.1 - X.0)
    }

    fn y(&self, part: f64) -> f64 {
        self.zero - part * (self.zero - self.top)
    }

    fn draw(&self, out: &mut String) {
        for quarter in 0..=4 {
            let part = f64::from(quarter) / 4.0;
            let (class, words) = (if quarter == 0 { "axis" } else { "grid" }, format!("{} %", 25 * quarter));
            line(out, class, (X.0, self.y(part)), (X.1, self.y(part)));
            text(out, "", "end", X.0 - 8.0, self.y(part) + 4.0, &words);
            line(out, "axis", (self.x(part), self.zero), (self.x(part), self.zero + 4.0));
            text(out, "", "middle", self.x(part), self.zero + 18.0, &words);
        }
        for (i, ((policy, _), (class, ..))) in policies().zip(COLOURS).enumerate() {
            self.curve(out, policy, class);
            let y = self.top + 10.0 + 20.0 * i as f64;
            line(out, &format!("line {class}"), (X.1 + 20.0, y), (X.1 + 40.0, y));
            text(out, &format!("last {class}"), "start", X.1 + 48.0, y + 4.0, policy);
        }
    }

    fn curve(&self, out: &mut String, policy: &str, class: &str) {
        let mut runs: Vec<&Run> = self.runs.iter().filter(|run| run.policy == policy).collect();
        runs.sort_by_key(|run| run.n_slots);
        let hits = |run: &Run| (self.tally)(&run.outcome).hit_rate();
        let point = |run: &Run| (self.x(run.n_slots as f64 / self.n_experts as f64), self.y(hits(run)));
        svg::polyline(out, &format!("line {class}"), runs.iter().map(|run| point(run)));
        for run in runs {
            let title = format!("{policy}, {} experts: {:.1} %", run.n_slots, 100.0 * hits(run));
            svg::dot(out, class, point(run), &title);
        }
    }
}
