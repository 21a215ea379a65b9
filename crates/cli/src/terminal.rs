//! The screen: what a terminal may be told, and where the words of an answer go.
//!
//! A terminal obeys what is printed on it: an escape sequence sets its title, writes its clipboard, hides text. So
//! control characters reach it as symbols ([`clean`]), whoever wrote them. A pipe gets the bytes as they are: there,
//! somebody else decides. Messages are cleaned wherever they go ([`escape`]), and a message is one line.

use std::{
    borrow::Cow,
    io::{self, IsTerminal as _, Write},
};

use models::Event;

use crate::error::Error;

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Whether the person typing sits at the other end of stdin.
pub(crate) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whether anybody watches stderr, so that progress is worth drawing.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Whether stdout is a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether the terminal is to be sent colours: not under `NO_COLOR`, nor if it cannot.
pub(crate) fn has_colors() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes to stderr. Where that fails there is nobody to tell, so the work goes on.
pub(crate) fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// What is said of an answer that was ended because it repeats itself.
pub(crate) const REPEATS: &str =
    "the answer said the same again and again, found no way out, and was ended; --may-repeat lets it go on";

/// A line on stderr, harmless to a terminal.
pub(crate) fn note(line: &str) {
    say(&format!("{}\n", escape(line)));
}

/// A line on stderr beside a conversation: faint where that can be, so that it is not taken for an answer.
pub(crate) fn aside(line: &str) {
    match stderr_is_terminal() && has_colors() && !line.starts_with("error: ") {
        true => say(&format!("{DIM}{}{PLAIN}\n", escape(line))),
        false => note(line),
    }
}

/// `text` on one line, without control characters and without marks that reorder what is read.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.extend(c.escape_default()),
            c if c.is_control() || reorders(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Bidirectional overrides and isolates: they make one text look like another.
fn reorders(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` for a terminal: newlines and tabs act, every other control character is shown as its symbol, U+2400 on.
/// Carriage returns, which could overwrite what was read, vanish.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| matches!(c, '\n' | '\t') || !c.is_control();
    if text.chars().all(harmless) {
        return text.into();
    }
    let shown = |c: char| match c {
        c if harmless(c) => Some(c),
        '\r' => None,
        '\x7f' => Some('\u{2421}'),
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)),
        _ => Some(char::REPLACEMENT_CHARACTER),
    };
    text.chars().filter_map(shown).collect()
}

/// How reasoning appears among the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reasoning {
    /// Not at all.
    Hidden,
    /// In the terminal's faint type.
    Dimmed,
    /// Between `<think>` and `</think>`.
    Tagged,
}

/// Where answers are written.
pub(crate) struct Screen<W> {
    out: W,
    /// Control characters are shown, and the answer ends on a line of its own.
    terminal: bool,
    reasoning: Reasoning,
    /// Reasoning has begun and not ended.
    thinking: bool,
    /// The last thing written was not a newline.
    mid_line: bool,
}

impl Screen<io::Stdout> {
    /// The program's standard output. Reasoning is shown on a terminal, or if `show_thinking`.
    pub(crate) fn stdout(show_thinking: bool) -> Screen<io::Stdout> {
        let terminal = stdout_is_terminal();
        let reasoning = match terminal {
            true if has_colors() => Reasoning::Dimmed,
            true => Reasoning::Tagged,
            false if show_thinking => Reasoning::Tagged,
            false => Reasoning::Hidden,
        };
        Screen::new(io::stdout(), terminal, reasoning)
    }
}

impl<W: Write> Screen<W> {
    pub(crate) fn new(out: W, terminal: bool, reasoning: Reasoning) -> Screen<W> {
        Screen { out, terminal, reasoning, thinking: false, mid_line: false }
    }

    /// Whether reasoning leaves no trace here.
    pub(crate) fn hides_reasoning(&self) -> bool {
        self.reasoning == Reasoning::Hidden
    }

    /// More of an answer, visible at once.
    ///
    /// # Errors
    /// [`Error::Closed`] when nobody reads any more.
    pub(crate) fn event(&mut self, event: &Event) -> Result<(), Error> {
        let written = match event {
            Event::Thinking(text) => self.think(text),
            Event::Text(text) => self.end_thinking().and_then(|()| self.write(text)),
            // What is called is shown by who calls it.
            Event::ToolStart { .. } | Event::ToolArguments { .. } | Event::ToolEnd { .. } => Ok(()),
        };
        written.and_then(|()| self.out.flush()).map_err(Error::stdout)
    }

    /// The answer is over, or was stopped.
    ///
    /// # Errors
    /// As [`event`](Screen::event).
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        let mut end = || {
            self.end_thinking()?;
            if self.terminal && std::mem::take(&mut self.mid_line) {
                self.out.write_all(b"\n")?;
            }
            self.out.flush()
        };
        end().map_err(Error::stdout)
    }

    fn think(&mut self, text: &str) -> io::Result<()> {
        let open = match self.reasoning {
            Reasoning::Hidden => return Ok(()),
            Reasoning::Dimmed => DIM,
            Reasoning::Tagged => "<think>\n",
        };
        if !std::mem::replace(&mut self.thinking, true) {
            self.out.write_all(open.as_bytes())?;
        }
        self.write(text)
    }

    fn end_thinking(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.thinking) {
            return Ok(());
        }
        self.mid_line = false;
        let close = if self.reasoning == Reasoning::Dimmed { PLAIN } else { "\n</think>" };
        write!(self.out, "{close}\n\n")
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        let text = if self.terminal { clean(text) } else { text.into() };
        if !text.is_empty() {
            self.mid_line = !text.ends_with('\n');
        }
        self.out.write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(terminal: bool, reasoning: Reasoning, events: &[Event], expect: &str) {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, terminal, reasoning);
        events.iter().for_each(|e| screen.event(e).unwrap());
        screen.finish().unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expect);
    }

    fn thinking(text: &str) -> Event {
        Event::Thinking(text.into())
    }

    fn text(text: &str) -> Event {
        Event::Text(text.into())
    }

    #[test]
    fn a_pipe_gets_the_answer_byte_for_byte() {
        let events = [thinking("h"), thinking("m"), text("a\x1b]0;owned\x07"), text("\r\nb")];
        check(false, Reasoning::Hidden, &events, "a\x1b]0;owned\x07\r\nb");
        check(false, Reasoning::Tagged, &events, "<think>\nhm\n</think>\n\na\x1b]0;owned\x07\r\nb");
        check(false, Reasoning::Hidden, &[], "");
    }

    #[test]
    fn a_terminal_gets_symbols_for_what_it_would_obey() {
        let events = [thinking("hm\x1b[0m"), text("a\x1b]0;owned\x07\u{9b}2J"), text("\r\n\tb")];
        check(true, Reasoning::Dimmed, &events, "\x1b[2mhm␛[0m\x1b[0m\n\na␛]0;owned␇\u{fffd}2J\n\tb\n");
        check(true, Reasoning::Tagged, &events[1..], "a␛]0;owned␇\u{fffd}2J\n\tb\n");
    }

    #[test]
    fn an_answer_stopped_while_thinking_leaves_the_terminal_as_it_was() {
        check(true, Reasoning::Dimmed, &[thinking("hm")], "\x1b[2mhm\x1b[0m\n\n");
        check(true, Reasoning::Dimmed, &[text("a\n")], "a\n");
    }

    #[test]
    fn a_message_is_one_harmless_line() {
        assert_eq!(escape("a\nb\x1b[31m\u{202e}é"), "a\\nb\\u{1b}[31m\\u{202e}é");
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut screen = Screen::new(Gone, false, Reasoning::Hidden);
        assert!(matches!(screen.event(&text("a")), Err(Error::Closed)));
    }
}
