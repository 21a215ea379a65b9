//! The parts of pictures. Colours follow the reader's preference for light or dark.

use std::fmt::Write as _;

/// How texts, grids and lines look on white.
const STYLE: &str = "\
text{font:12px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#59636e}\
.paper{fill:#fff}.title{font-size:17px;font-weight:600;fill:#1f2328}.name{font-weight:600;fill:#1f2328}\
.grid{stroke:#e4e8ec}.axis{stroke:#b7bec5}.limit{fill:none;stroke:#8c959f;stroke-dasharray:5 4}\
.halo{stroke:#fff;stroke-width:4px;stroke-linejoin:round}\
.line{fill:none;stroke-width:2.5;stroke-linejoin:round;stroke-linecap:round}.last{font-weight:600}";

/// And what differs on black.
const DARK: &str = "\
text{fill:#9198a1}.paper{fill:#0d1117}.title,.name{fill:#f0f6fc}\
.grid{stroke:#21262d}.axis{stroke:#484f58}.limit{stroke:#6e7681}.halo{stroke:#0d1117}";

/// What a title of 760 pixels holds.
const TITLE_CHARS: usize = 80;

/// A line or a kind of dot: its class, and its colour on white and on black.
pub(crate) type Colour = (&'static str, &'static str, &'static str);

/// The beginning of a picture; `</svg>` ends it.
pub(crate) fn begin(width: f64, height: f64, colours: &[Colour]) -> String {
    let of =
        |name: &str, colour: &str| format!(".line.{name}{{stroke:{colour}}}.dot.{name},.last.{name}{{fill:{colour}}}");
    let light: String = colours.iter().map(|(name, light, _)| of(name, light)).collect();
    let dark: String = colours.iter().map(|(name, _, dark)| of(name, dark)).collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\n\
         <style>{STYLE}{light}@media(prefers-color-scheme:dark){{{DARK}{dark}}}</style>\n\
         <rect class=\"paper\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>\n"
    )
}

/// A heading and the lines below it.
pub(crate) fn heading(out: &mut String, title: &str, lines: &[&str]) {
    let title: String = title.chars().take(TITLE_CHARS).collect();
    text(out, "title", "start", 24.0, 36.0, &title);
    for (i, words) in lines.iter().enumerate() {
        text(out, "", "start", 24.0, 58.0 + 18.0 * i as f64, words);
    }
}

/// A straight line.
pub(crate) fn line(out: &mut String, class: &str, (x, y): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(out, "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}

/// A text, which a stranger may have written.
pub(crate) fn text(out: &mut String, class: &str, anchor: &str, x: f64, y: f64, words: &str) {
    let words: String = words.chars().filter(|c| !c.is_control()).collect();
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(out, "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>");
}

/// A line through points.
pub(crate) fn polyline(out: &mut String, class: &str, points: impl Iterator<Item = (f64, f64)>) {
    let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(out, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
}

/// A dot that tells more when it is pointed at.
pub(crate) fn dot(out: &mut String, class: &str, (x, y): (f64, f64), title: &str) {
    let _ = writeln!(
        out,
        "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>{title}</title></circle>"
    );
}
