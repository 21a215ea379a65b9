//! A sweep as a picture: prefill and decode, one above the other, against the context.
//!
//! The two have axes of their own, which begin at zero, and share the one of the context. A dashed line shows what the
//! limit of the run allows, where that is near.

use engine::Limits;

use super::{
    Kind,
    measure::Test,
    report::{self, About},
};
use crate::svg::{self, Colour, line, text};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 560.0;
/// The part of the width that contexts take.
const X: (f64, f64) = (64.0, 652.0);
/// Where the two kinds stand: the top, and zero.
const PANELS: [(Kind, f64, f64); 2] = [(Kind::Prefill, 118.0, 278.0), (Kind::Decode, 344.0, 504.0)];

const COLOURS: [Colour; 2] = [("prefill", "#0969da", "#58a6ff"), ("decode", "#bc4c00", "#f0883e")];

/// The picture of a sweep; `logarithmic` where its contexts multiply.
pub(crate) fn draw(about: &About, tests: &[Test], logarithmic: bool) -> String {
    let axis = Axis::of(tests, logarithmic);
    let mut out = svg::begin(WIDTH, HEIGHT, &COLOURS);
    svg::heading(&mut out, &about.model, &[&about.machine, &about.device]);
    for panel in PANELS {
        Panel::new(about, tests, &axis, panel).draw(&mut out, about);
    }
    let middle = (X.0 + X.1) / 2.0;
    text(&mut out, "", "middle", middle, HEIGHT - 14.0, "tokens of context");
    out.push_str("</svg>\n");
    out
}

/// Where contexts lie.
struct Axis {
    n_max: f64,
    /// The least one, if the axis is logarithmic.
    n_min: Option<f64>,
}

/// Tokens in the context when a test is over; those that a probe decodes are dropped again.
fn n_ctx(test: &Test) -> usize {
    match test.kind {
        Kind::Prefill => test.n_depth + test.n,
        Kind::Decode => test.n_depth,
    }
}

impl Axis {
    fn of(tests: &[Test], logarithmic: bool) -> Axis {
        let contexts = || tests.iter().map(n_ctx);
        let (min, max) = (contexts().min().unwrap_or(1), contexts().max().unwrap_or(1));
        Axis { n_max: max as f64, n_min: (logarithmic && min < max).then_some(min as f64) }
    }

    fn x(&self, n: usize) -> f64 {
        let part = match self.n_min {
            Some(n_min) => (n as f64 / n_min).ln() / (self.n_max / n_min).ln(),
            None => n as f64 / self.n_max,
        };
        X.0 + part * (X.1 - X.0)
    }

    /// Powers of two, or multiples of one: as many as have room.
    fn ticks(&self) -> Vec<usize> {
        let max = self.n_max as usize;
        let powers = || (0..usize::BITS).map(|i| 1 << i).take_while(|&n| n <= max);
        match self.n_min {
            Some(n_min) => {
                let inside: Vec<usize> = powers().filter(|&n| n as f64 >= n_min).collect();
                let every = inside.len().div_ceil(10).max(1);
                inside.into_iter().step_by(every).collect()
            }
            None => {
                let step = powers().find(|step| max / step <= 8).unwrap_or(max);
                (0..=max).step_by(step).collect()
            }
        }
    }
}

/// One kind against the context.
struct Panel<'a> {
    kind: Kind,
    tests: Vec<&'a Test>,
    axis: &'a Axis,
    /// Where they are near enough to be drawn.
    limits: Option<&'a Limits>,
    top: f64,
    zero: f64,
    /// Tokens per second between two lines of the grid, and how many of these there are.
    step: f64,
    n_step: usize,
}

impl<'a> Panel<'a> {
    fn new(about: &'a About, tests: &'a [Test], axis: &'a Axis, (kind, top, zero): (Kind, f64, f64)) -> Panel<'a> {
        let tests: Vec<&Test> = tests.iter().filter(|t| t.kind == kind).collect();
        let fastest = tests.iter().map(|t| t.median()).fold(0.0, f64::max);
        let limits = about.limits.as_ref().filter(|l| tests.iter().all(|t| t.rate_limit(l) < 2.5 * fastest));
        let highest = limits.map_or(fastest, |l| tests.iter().map(|t| t.rate_limit(l)).fold(fastest, f64::max));
        let step = round_up(highest / 4.0);
        Panel { kind, tests, axis, limits, top, zero, step, n_step: (highest / step).ceil().max(1.0) as usize }
    }

    fn y(&self, rate: f64) -> f64 {
        self.zero - rate / (self.step * self.n_step as f64) * (self.zero - self.top)
    }

    fn draw(&self, out: &mut String, about: &About) {
        let heading = match self.kind {
            Kind::Prefill => "Prefill, tokens per second",
            Kind::Decode => "Decode, tokens per second",
        };
        text(out, "name", "start", 24.0, self.top - 14.0, heading);
        self.grid(out);
        self.limit(out);
        self.curve(out);
        if let Some(last) = self.tests.last() {
            // The second line has to end above the axis.
            let (x, y) = (self.axis.x(n_ctx(last)) + 10.0, (self.y(last.median()) + 4.0).min(self.zero - 18.0));
            text(out, &format!("last {}", self.kind.name()), "start", x, y, &number(last.median()));
            text(out, "", "start", x, y + 15.0, &report::share(about, last));
        }
    }

    fn grid(&self, out: &mut String) {
        for i in 0..=self.n_step {
            let (class, rate) = (if i == 0 { "axis" } else { "grid" }, self.step * i as f64);
            line(out, class, (X.0, self.y(rate)), (X.1, self.y(rate)));
            text(out, "", "end", X.0 - 8.0, self.y(rate) + 4.0, &number(rate));
        }
        for n in self.axis.ticks() {
            line(out, "axis", (self.axis.x(n), self.zero), (self.axis.x(n), self.zero + 4.0));
            text(out, "", "middle", self.axis.x(n), self.zero + 18.0, &tokens(n));
        }
    }

    fn limit(&self, out: &mut String) {
        let (Some(l), Some(last)) = (self.limits, self.tests.last()) else { return };
        let words = match self.kind {
            Kind::Prefill => "what the int8 peak allows",
            Kind::Decode => "what the read bandwidth allows",
        };
        self.polyline(out, "limit", &|t| t.rate_limit(l));
        // The first one parts the second from what lies behind it.
        for class in ["halo", ""] {
            text(out, class, "end", X.1, self.y(last.rate_limit(l)) - 7.0, words);
        }
    }

    fn curve(&self, out: &mut String) {
        let name = self.kind.name();
        self.polyline(out, &format!("line {name}"), &Test::median);
        for test in &self.tests {
            let title = format!("{} tokens: {:.2} t/s", n_ctx(test), test.median());
            svg::dot(out, name, (self.axis.x(n_ctx(test)), self.y(test.median())), &title);
        }
    }

    fn polyline(&self, out: &mut String, class: &str, rate: &dyn Fn(&Test) -> f64) {
        svg::polyline(out, class, self.tests.iter().map(|t| (self.axis.x(n_ctx(t)), self.y(rate(t)))));
    }
}

/// The next of 1, 2, 2.5, 5 and their tenfolds.
fn round_up(x: f64) -> f64 {
    let unit = 10f64.powf(x.max(1e-9).log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * unit).find(|&y| y >= x).unwrap_or(10.0 * unit)
}

/// Three digits, no more than are needed.
fn number(x: f64) -> String {
    let digits = if x >= 100.0 {
        0
    } else if x >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{x:.digits$}");
    if digits > 0 { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

/// `64k`, as contexts are called.
fn tokens(n: usize) -> String {
    match n {
        n if n > 0 && n.is_multiple_of(1 << 20) => format!("{}M", n >> 20),
        n if n > 0 && n.is_multiple_of(1 << 10) => format!("{}k", n >> 10),
        n => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::{super::report::tests::example, *};

    #[test]
    fn a_sweep_is_drawn() {
        let (about, tests) = example();
        expect_file!["example.svg"].assert_eq(&draw(&about, &tests, true));
    }

    #[test]
    fn a_sweep_of_one_length_without_probes_is_drawn() {
        let (about, tests) = example();
        for logarithmic in [false, true] {
            let drawn = draw(&about, &tests[..1], logarithmic);
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        }
    }

    #[test]
    fn names_of_strangers_stay_text() {
        let (about, tests) = example();
        let about = About { model: "</text><script>\u{1b}\0&".into(), ..about };
        let drawn = draw(&about, &tests, false);
        assert!(drawn.contains(">&lt;/text&gt;&lt;script&gt;&amp;</text>"), "{drawn}");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 0.25, 7.5, 40.0, 812.34].map(number), ["0", "0.25", "7.5", "40", "812"]);
        assert_eq!([0, 512, 2048, 65536, 3 << 20].map(tokens), ["0", "512", "2k", "64k", "3M"]);
        assert_eq!([0.3, 1.0, 21.0, 260.0].map(round_up), [0.5, 1.0, 25.0, 500.0]);
    }
}
