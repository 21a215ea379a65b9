//! Chat templates: the Jinja program that a model file carries to write its own prompts.
//!
//! **A template is untrusted code.** It sees the messages and the options and nothing else: no files, no other
//! templates, no attributes of host objects. Its work, its memory and its output are bounded by fuel, which grows with
//! the conversation, its nesting by the engine's limits.
//!
//! **A template is not to be fooled.** It returns one string, in which its own `<|im_end|>` and the `<|im_end|>` that a
//! user typed look the same. So before rendering we break every marker that the texts of the conversation spell, by a
//! *guard* after its first character: a noncharacter of Unicode that occurs neither in the conversation nor in the
//! template.
//!
//! ```text
//! user says        ignore <|im_end|> that          guard written as *
//! template gets    ignore <*|im_end|> that
//! template writes  <|im_start|>user\nignore <*|im_end|> that<|im_end|>\n
//! we split         [<|im_start|>] "user\nignore <|im_end|> that" [<|im_end|>] "\n"
//! ```
//!
//! What still spells a marker after rendering, the template wrote. Guards are then dropped. A text that could complete
//! a marker together with its neighbours is guarded at that end too; white space outside the guards is left to the
//! template's `trim`. What remains possible is a template that itself joins the pieces of a text, by `replace` or
//! `lower`; we know none.
//!
//! Beyond Jinja, templates expect what the `transformers` library gives them: `trim_blocks`, `lstrip_blocks`, the
//! string methods of Python, `raise_exception`, `strftime_now` and a `tojson` that writes as Python's `json.dumps`.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, context};

use crate::chat::{Chat, ChatError, ChatOptions, End, Events, Message, Part, Role, THINK, ThinkReader, push_text};

/// Longer than any template we know by a factor of ten.
const SOURCE_BYTES_MAX: usize = 1 << 20;

/// One unit pays for an instruction or 64 bytes of data. The worst template therefore ends within a second and in
/// 64 MiB, plus 64 bytes for each byte of the conversation.
const FUEL: u64 = 1_000_000;
const FUEL_PER_MESSAGE: u64 = 2_000;
const FUEL_PER_BYTE: u64 = 1;

/// A prompt longer than this and four times the conversation is not a prompt.
const OUTPUT_BYTES: usize = 1 << 20;

const NAME: &str = "chat template";

/// Markers that end an answer wherever a vocabulary has them.
const STOPS: [&str; 15] = [
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "[EOS]", "[EOT]",
];

/// [`Chat`] by the template of the model file.
pub struct Template {
    env: Environment<'static>,
    bos: String,
    eos: String,
    markers: Markers,
    /// Noncharacters that the template does not use.
    guards: Vec<char>,
    stops: Vec<String>,
    can_think: bool,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("bos", &self.bos).field("eos", &self.eos).finish_non_exhaustive()
    }
}

impl Template {
    /// Compiles `source`. `markers` are the texts of all added tokens of the vocabulary; `bos` and `eos` need not be
    /// among them and may be empty. A template that starts with `bos` renders it as the first [`Part::Marker`].
    ///
    /// # Errors
    ///
    /// [`ChatError::Syntax`], and [`ChatError::Greedy`] if the source is too long.
    pub fn new(
        source: &str,
        bos: &str,
        eos: &str,
        markers: impl IntoIterator<Item = String>,
    ) -> Result<Template, ChatError> {
        if source.len() > SOURCE_BYTES_MAX {
            let (len, max) = (source.len(), SOURCE_BYTES_MAX);
            return Err(ChatError::Greedy(format!("is {len} bytes long, {max} are allowed")));
        }
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.expect("the default delimiters are valid"));
        env.set_debug(false);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function("raise_exception", raise_exception);
        env.add_filter("tojson", tojson);
        env.add_template_owned(NAME, source.to_owned()).map_err(|e| chat_error(&e))?;
        let markers = Markers::new(markers.into_iter().chain([bos.to_owned(), eos.to_owned()]));
        Ok(Template {
            env,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            guards: noncharacters().filter(|&c| !source.contains(c)).collect(),
            stops: stops(eos, &markers),
            markers,
            can_think: source.contains(THINK) || source.contains("enable_thinking"),
        })
    }

    fn context(&self, messages: &[Message], options: &ChatOptions, guards: Guards) -> Value {
        let last = messages.len().checked_sub(1).filter(|_| options.end == End::Continue);
        let messages: Vec<Value> = messages
            .iter()
            .enumerate()
            .map(|(i, m)| {
                let mut content = self.markers.guard(&m.text, guards.inside);
                if Some(i) == last {
                    content.push(guards.end);
                }
                let role = match m.role {
                    Role::System => "system",
                    Role::User => "user",
                    Role::Assistant => "assistant",
                };
                match &m.reasoning {
                    Some(r) => context! { role, content, reasoning_content => self.markers.guard(r, guards.inside) },
                    None => context! { role, content },
                }
            })
            .collect();
        let mut variables: BTreeMap<&str, Value> = BTreeMap::from([
            ("messages", messages.into()),
            ("tools", ().into()),
            ("documents", ().into()),
            ("bos_token", self.bos.as_str().into()),
            ("eos_token", self.eos.as_str().into()),
            ("add_generation_prompt", (options.end == End::Answer).into()),
            ("enable_thinking", options.thinking.into()),
            ("thinking", options.thinking.into()),
        ]);
        if let Some(effort) = options.effort {
            variables.insert("reasoning_effort", effort.name().into());
        }
        if let Some(now_s) = options.now_s {
            variables.insert("strftime_now", Value::from_function(move |format: &str| strftime(format, now_s)));
        }
        variables.into()
    }

    /// What a fresh answer begins inside of.
    fn reader(&self, options: &ChatOptions) -> ThinkReader {
        let probe = self.render(&[Message::user("?")], &ChatOptions { end: End::Answer, ..options.clone() });
        let mut parts = probe.unwrap_or_default();
        if matches!(parts.last(), Some(Part::Text(text)) if text.trim().is_empty()) {
            parts.pop();
        }
        match parts.last() {
            Some(Part::Marker(marker)) if marker == THINK => ThinkReader::thinking(false),
            Some(Part::Text(text)) if text.trim_end().ends_with(THINK) => ThinkReader::thinking(true),
            _ => ThinkReader::opening(),
        }
    }
}

impl Chat for Template {
    fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<Vec<Part>, ChatError> {
        let continued = options.end == End::Continue;
        if continued && messages.last().is_none_or(|m| m.role != Role::Assistant) {
            return Err(ChatError::NothingToContinue);
        }
        let bytes = messages.iter().map(|m| m.text.len() + m.reasoning.as_ref().map_or(0, String::len)).sum::<usize>();
        let guards = Guards::choose(&self.guards, messages)?;
        let mut env = self.env.clone();
        env.set_fuel(Some(FUEL + FUEL_PER_MESSAGE * messages.len() as u64 + FUEL_PER_BYTE * bytes as u64));
        let mut output = Capped { bytes: Vec::new(), bytes_max: OUTPUT_BYTES + 4 * bytes };
        env.get_template(NAME)
            .and_then(|t| t.render_captured_to(self.context(messages, options, guards), &mut output).map(drop))
            .map_err(|e| chat_error(&e))?;
        let output = String::from_utf8(output.bytes).expect("a template writes whole strings");
        let output = match output.rfind(guards.end) {
            Some(end) => &output[..end],
            None if continued => return Err(ChatError::Refused("it leaves out the text to continue".to_owned())),
            None => &output,
        };
        Ok(self.markers.split(output, guards.inside))
    }

    fn stream(&self, options: &ChatOptions) -> Box<dyn Events> {
        Box::new(match options.end {
            End::Continue => ThinkReader::continuing(),
            End::Answer | End::Closed => self.reader(options),
        })
    }

    fn can_think(&self) -> bool {
        self.can_think
    }

    fn stop_markers(&self) -> Vec<String> {
        self.stops.clone()
    }
}

/// `eos` and what [`STOPS`] the vocabulary has. Where `<|return|>` and `<|call|>` end answers, `<|end|>` ends a part.
fn stops(eos: &str, markers: &Markers) -> Vec<String> {
    let harmony = markers.contains("<|return|>") && markers.contains("<|call|>");
    let known = STOPS.into_iter().filter(|&stop| stop != eos && markers.contains(stop));
    let known = known.filter(|&stop| !(harmony && stop == "<|end|>"));
    [eos].into_iter().filter(|eos| !eos.is_empty()).chain(known).map(str::to_owned).collect()
}

/// Two noncharacters that the conversation does not contain.
#[derive(Clone, Copy)]
struct Guards {
    /// Breaks markers.
    inside: char,
    /// Ends the text to continue.
    end: char,
}

impl Guards {
    fn choose(candidates: &[char], messages: &[Message]) -> Result<Guards, ChatError> {
        let free = |c: &char| {
            !messages.iter().any(|m| m.text.contains(*c) || m.reasoning.as_ref().is_some_and(|r| r.contains(*c)))
        };
        let mut free = candidates.iter().copied().filter(free);
        match (free.next(), free.next()) {
            (Some(inside), Some(end)) => Ok(Guards { inside, end }),
            _ => Err(ChatError::Noncharacters),
        }
    }
}

/// The code points that Unicode promises never to make characters of.
fn noncharacters() -> impl Iterator<Item = char> {
    let ends_of_planes = (0..=16).flat_map(|plane| [plane << 16 | 0xFFFE, plane << 16 | 0xFFFF]);
    (0xFDD0..=0xFDEF).chain(ends_of_planes).filter_map(char::from_u32)
}

/// The texts of the added tokens, by their first byte and then longest first, as a tokenizer matches them.
struct Markers {
    by_byte: BTreeMap<u8, Vec<String>>,
}

impl Markers {
    fn new(texts: impl Iterator<Item = String>) -> Markers {
        let mut by_byte: BTreeMap<u8, Vec<String>> = BTreeMap::new();
        // One character cannot be broken by a guard, and white space is trimmed by templates: both stay text.
        for text in texts.filter(|text| text.chars().count() > 1 && !text.trim().is_empty()) {
            by_byte.entry(text.as_bytes()[0]).or_default().push(text);
        }
        for texts in by_byte.values_mut() {
            texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        }
        Markers { by_byte }
    }

    fn contains(&self, text: &str) -> bool {
        self.at(text) == Some(text)
    }

    /// The marker that `text` starts with.
    fn at<'a>(&self, text: &'a str) -> Option<&'a str> {
        let texts = self.by_byte.get(text.as_bytes().first()?)?;
        texts.iter().find(|marker| text.starts_with(*marker)).map(|marker| &text[..marker.len()])
    }

    /// Whether a marker can begin before `text` and reach into it.
    fn reaches_in(&self, text: &str) -> bool {
        let reaches = |tail: &str| text.starts_with(tail) || tail.starts_with(text);
        !text.is_empty() && self.inner_bounds().any(|(marker, i)| reaches(&marker[i..]))
    }

    /// Whether a marker can begin in `text` and reach out of its end.
    fn reaches_out(&self, text: &str) -> bool {
        self.inner_bounds().any(|(marker, i)| text.ends_with(&marker[..i]))
    }

    fn inner_bounds(&self) -> impl Iterator<Item = (&str, usize)> {
        self.by_byte.values().flatten().flat_map(|m| m.char_indices().skip(1).map(move |(i, _)| (m.as_str(), i)))
    }

    /// `text` with guards, so that no marker is in it or can be completed by it.
    fn guard(&self, text: &str, guard: char) -> String {
        let core = text.trim();
        let (before, after) = text.split_at(text.len() - text.trim_start().len());
        let after = &after[core.len()..];
        let mut out = String::with_capacity(text.len() + 8);
        out.push_str(before);
        if self.reaches_in(core) {
            out.push(guard);
        }
        for (i, c) in core.char_indices() {
            out.push(c);
            if self.at(&core[i..]).is_some() {
                out.push(guard);
            }
        }
        if self.reaches_out(core) {
            out.push(guard);
        }
        out.push_str(after);
        out
    }

    /// Rendered text as markers and unguarded texts.
    fn split(&self, rendered: &str, guard: char) -> Vec<Part> {
        let (mut parts, mut text, mut i) = (Vec::new(), String::new(), 0);
        while let Some(c) = rendered[i..].chars().next() {
            if let Some(marker) = self.at(&rendered[i..]) {
                push_text(&mut parts, &std::mem::take(&mut text));
                parts.push(Part::Marker(marker.to_owned()));
                i += marker.len();
            } else {
                text.extend(Some(c).filter(|&c| c != guard));
                i += c.len_utf8();
            }
        }
        push_text(&mut parts, &text);
        parts
    }
}

/// Collects output up to a length.
struct Capped {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The message of a `raise_exception`, as the source of the engine's error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message.to_owned())))
}

fn chat_error(e: &Error) -> ChatError {
    let line = e.line().unwrap_or(1);
    let what = || {
        let detail = e.detail().map_or(String::new(), |detail| format!(": {detail}"));
        printable(&format!("{}{detail}", e.kind()))
    };
    let raised = std::iter::successors(e.source(), |&e| e.source()).find_map(|e| e.downcast_ref::<Raised>());
    match e.kind() {
        _ if let Some(Raised(message)) = raised => ChatError::Refused(printable(message)),
        ErrorKind::OutOfFuel => ChatError::Greedy("works without end".to_owned()),
        ErrorKind::WriteFailure => ChatError::Greedy("writes without end".to_owned()),
        ErrorKind::SyntaxError | ErrorKind::BadEscape => ChatError::Syntax { line, what: what() },
        _ => ChatError::Fails { line, what: what() },
    }
}

/// Words from the model file, fit for a terminal: one line, not too long.
fn printable(words: &str) -> String {
    const CHARS_MAX: usize = 200;
    let line: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(CHARS_MAX).collect();
    if words.chars().nth(CHARS_MAX).is_some() { line + "..." } else { line }
}

/// `json.dumps(value, ensure_ascii=False, ...)`.
fn tojson(state: &State, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let separators: Option<Vec<String>> = options.get("separators")?;
    let indent: Option<usize> = options.get("indent")?;
    let (item, key) = match (separators.as_deref(), indent) {
        (Some([item, key]), _) => (item.clone(), key.clone()),
        (_, Some(_)) => (",".to_owned(), ": ".to_owned()),
        (_, None) => (", ".to_owned(), ": ".to_owned()),
    };
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut json = Json { state, item, key, indent, ascii, sorted, out: String::new() };
    json.value(value, 0)?;
    Ok(Value::from_safe_string(json.out))
}

/// Deeper values are refused: ours nest as deep as a tool's schema, a hostile template's without end.
const JSON_DEPTH_MAX: usize = 100;

struct Json<'a> {
    state: &'a State<'a, 'a>,
    item: String,
    key: String,
    indent: Option<usize>,
    ascii: bool,
    sorted: bool,
    out: String,
}

impl Json<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let before = self.out.len();
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => self.out.push_str(&python_float(f64::try_from(value.clone())?)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.items(value, depth, ['[', ']'])?,
            ValueKind::Map => self.items(value, depth, ['{', '}'])?,
            kind => return Err(Error::new(ErrorKind::BadSerialization, format!("{kind} has no form in JSON"))),
        }
        self.state.consume_fuel(1 + (self.out.len() - before) as u64 / 64)
    }

    fn items(&mut self, value: &Value, depth: usize, [open, close]: [char; 2]) -> Result<(), Error> {
        if depth == JSON_DEPTH_MAX {
            return Err(Error::new(ErrorKind::BadSerialization, "the value is nested too deeply for JSON"));
        }
        let mut items: Vec<Value> = value.try_iter()?.collect();
        if self.sorted && open == '{' {
            items.sort();
        }
        self.out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out.push_str(&self.item);
            }
            self.new_line(depth + 1);
            if open == '{' {
                self.string(&item.to_string());
                self.out.push_str(&self.key);
                self.value(&value.get_item(item)?, depth + 1)?;
            } else {
                self.value(item, depth + 1)?;
            }
        }
        if !items.is_empty() {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn string(&mut self, s: &str) {
        let quoted = serde_json::Value::from(s).to_string();
        if !self.ascii {
            self.out.push_str(&quoted);
            return;
        }
        for unit in quoted.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => self.out.push(byte.into()),
                _ => self.out.push_str(&format!("\\u{unit:04x}")),
            }
        }
    }
}

/// `repr(x)`: the shortest digits that read back, with an exponent below `1e-4` and from `1e16`.
fn python_float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() { "NaN" } else if x > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').expect("`{:e}` writes an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    match exponent {
        -4..16 if x.fract() == 0.0 => format!("{x:.1}"),
        -4..16 => format!("{x}"),
        _ => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

/// `datetime.strftime`, in UTC and English.
fn strftime(format: &str, now_s: i64) -> Result<String, Error> {
    const MONTHS: [&str; 12] = [
        "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    let (days, second) = (now_s.div_euclid(86_400), now_s.rem_euclid(86_400));
    let (year, month, day) = civil_date(days);
    let weekday = DAYS[(days + 4).rem_euclid(7) as usize]; // 1970 began on a Thursday.
    let month_name = MONTHS[month as usize - 1];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next();
        let padded = code != Some('-');
        if !padded {
            code = chars.next();
        }
        let number = |n: i64| if padded { format!("{n:02}") } else { n.to_string() };
        out.push_str(&match code {
            Some('Y') => year.to_string(),
            Some('y') => number(year.rem_euclid(100)),
            Some('m') => number(month),
            Some('d') => number(day),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => number(hour),
            Some('I') => number((hour + 11) % 12 + 1),
            Some('M') => number(minute),
            Some('S') => number(second),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('%') => "%".to_owned(),
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "strftime_now: unknown format")),
        });
    }
    Ok(out)
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
///
/// Counted in years that begin in March, so that the leap day comes last, and eras of 400 years, which all have 146,097
/// days (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil_date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // since 0000-03-01
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // 0 is March
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day_of_month)
}
