//! The question, from where it is asked: `-p`, `--prompt-file`, a pipe, or a prompt with a pipe behind it.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use crate::{args::PromptArgs, error::Error, terminal};

const STDIN: &str = "standard input";

/// How long a pipe may be silent before that is told.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is read at most: more than any context holds, be it words or 2^24 raw ids. Devices and pipes may have no end.
const BYTES_MAX: u64 = 64 << 20;

/// The question of one answer; `None` begins a conversation.
///
/// # Errors
/// What was asked cannot be read, is not text, is empty, or is missing where nobody can type.
pub(crate) fn gather(args: &PromptArgs) -> Result<Option<String>, Error> {
    let given = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(path)) => Some(read_file(path)?),
        (None, None) => None,
    };
    let piped = if terminal::stdin_is_terminal() { None } else { Some(read_pipe()?) };
    let talk = terminal::stdout_is_terminal();
    match (given, piped) {
        (None, None) if talk => Ok(None),
        (None, None) => Err(Error::NoPrompt),
        (given, piped) => joined(given, piped).map(Some),
    }
}

/// The piped text follows the prompt after an empty line.
fn joined(given: Option<String>, piped: Option<String>) -> Result<String, Error> {
    let blank = |text: &String| text.trim().is_empty();
    let (given, piped) = (given.filter(|t| !blank(t)), piped.filter(|t| !blank(t)));
    match (given, piped) {
        (Some(given), Some(piped)) => Ok(format!("{}\n\n{piped}", given.trim_end())),
        (Some(text), None) | (None, Some(text)) => Ok(text),
        (None, None) => Err(Error::EmptyPrompt),
    }
}

/// All of stdin. A pipe that never ends may be there by accident, so the wait for it is told.
fn read_pipe() -> Result<String, Error> {
    let (done, wait) = mpsc::channel::<()>();
    thread::spawn(move || {
        if wait.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            terminal::note("waiting for standard input to end; without one, begin with ds4 </dev/null");
        }
    });
    let text = read_stdin();
    drop(done);
    text
}

/// All of stdin.
pub(crate) fn read_stdin() -> Result<String, Error> {
    if terminal::stdin_is_terminal() {
        terminal::note("reading what you type, until Ctrl+D");
    }
    text_of(read_stdin_bytes()?, STDIN)
}

/// All of stdin, text or not.
pub(crate) fn read_stdin_bytes() -> Result<Vec<u8>, Error> {
    bounded(io::stdin().lock(), STDIN, |source| Error::Stream { what: STDIN, source })
}

/// All of a text file; a pipe or a device is read until it ends.
pub(crate) fn read_file(path: &Path) -> Result<String, Error> {
    text_of(read_bytes(path)?, &path.display().to_string())
}

/// All of a file, text or not.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let fails = |source| Error::Read { path: path.into(), source };
    bounded(File::open(path).map_err(fails)?, &path.display().to_string(), fails)
}

/// All of `input`, if it ends soon enough.
fn bounded(input: impl Read, from: &str, fails: impl Fn(io::Error) -> Error) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    input.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fails)?;
    match bytes.len() as u64 > BYTES_MAX {
        true => Err(Error::TooMuch { from: from.into(), bytes_max: BYTES_MAX }),
        false => Ok(bytes),
    }
}

fn text_of(bytes: Vec<u8>, from: &str) -> Result<String, Error> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::NotText { from: from.into(), at, byte: e.as_bytes()[at] }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: Option<&str>, piped: Option<&str>, expect: Option<&str>) {
        let prompt = joined(given.map(Into::into), piped.map(Into::into));
        assert_eq!(prompt.ok().as_deref(), expect);
    }

    #[test]
    fn the_piped_text_follows_the_prompt() {
        check(Some("Explain:"), Some("fn main() {}\n"), Some("Explain:\n\nfn main() {}\n"));
        check(Some("Hi "), None, Some("Hi "));
        check(None, Some("Hi\n"), Some("Hi\n"));
        check(Some("Hi"), Some("\n"), Some("Hi"));
        check(Some(" "), Some("Hi"), Some("Hi"));
    }

    #[test]
    fn an_empty_prompt_is_refused() {
        check(Some(""), None, None);
        check(Some(" \n"), Some(""), None);
        check(None, Some("\n"), None);
    }

    #[test]
    fn what_is_not_text_is_refused_with_the_place() {
        let error = text_of(b"ab\xff".to_vec(), "x.bin").unwrap_err();
        assert_eq!(error.to_string(), "x.bin: not UTF-8 text: byte 2 is 0xff");
    }
}
