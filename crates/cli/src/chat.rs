//! A conversation at the terminal: line editing, history, multi-line input.
//!
//! The history is the user's: a file that nobody else may read, in the folder for application data. Where there is no
//! such folder, or it cannot be written, there is no history and that is all.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustyline::{
    Config, Editor, Helper,
    completion::Completer,
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::FileHistory,
    validate::{ValidationContext, ValidationResult, Validator},
};

use crate::{
    args::ChatArgs,
    conversation::{Conversation, Next},
    error::{Error, reason},
    folders,
    interrupt::Work,
    oneshot,
    speaker::{Local, Speaker},
    terminal::{self, Screen},
};

/// What is left of a line that was refused in its middle arrives within this time, or was typed afterwards.
const REST: Duration = Duration::from_millis(100);

type Console = Editor<Backslash, FileHistory>;

/// Talks until the user leaves.
pub(crate) fn run(args: &ChatArgs) -> Result<(), Error> {
    let held = args.kept.held(&args.model.cache)?;
    let mut model = Local::open(args)?;
    for line in model.status().iter().take(1) {
        terminal::aside(line);
    }
    let mut note = terminal::aside;
    let dialogue = oneshot::begin(args, held, &mut model, &mut note)?;
    terminal::aside("/help lists commands, Ctrl+D leaves");
    let screen = Screen::stdout(true);
    let sessions = if args.model.no_cache { None } else { args.kept.sessions(&args.model.cache) };
    talk(&mut Conversation::new(&mut model, screen, &mut note, dialogue, sessions))?;
    model.finish()
}

/// Reads lines and passes them on.
fn talk<W: io::Write>(conversation: &mut Conversation<'_, W>) -> Result<(), Error> {
    let mut console = console()?;
    let history = open_history(&mut console);
    let mut refused = None;
    loop {
        let read = console.readline("> ");
        let is_rest = refused.take().is_some_and(|at: Instant| at.elapsed() < REST);
        let line = match read {
            // What came behind the wrong byte, in the same breath.
            Ok(_) if is_rest => continue,
            Ok(line) => line.replace("\\\n", "\n"),
            Err(ReadlineError::Interrupted) => {
                terminal::aside("Ctrl+D or /quit leaves");
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(ReadlineError::Io(e)) if e.kind() == io::ErrorKind::InvalidData => {
                terminal::say("\n");
                terminal::aside("error: this line is not UTF-8 text, so it is not sent; set the terminal to UTF-8");
                refused = Some(Instant::now());
                continue;
            }
            Err(e) => return Err(terminal_fails(e)),
        };
        remember(&mut console, history.as_deref(), &line);
        // Ctrl+C at the very end of an answer must not end the program.
        let _work = Work::begin();
        if conversation.line(&line)? == Next::Quit {
            return Ok(());
        }
    }
}

fn console() -> Result<Console, Error> {
    let config = Config::builder().max_history_size(1000).map_err(terminal_fails)?;
    let config = config.bracketed_paste(true).auto_add_history(false).build();
    let mut console = Editor::with_config(config).map_err(terminal_fails)?;
    console.set_helper(Some(Backslash));
    Ok(console)
}

fn told(e: &ReadlineError) -> String {
    match e {
        ReadlineError::Io(e) => reason(e),
        other => other.to_string(),
    }
}

fn terminal_fails(e: ReadlineError) -> Error {
    let source = match e {
        ReadlineError::Io(e) => e,
        other => io::Error::other(other),
    };
    Error::Stream { what: "the terminal", source }
}

/// A line that ends in a backslash goes on.
struct Backslash;

impl Helper for Backslash {}
impl Highlighter for Backslash {}

impl Completer for Backslash {
    type Candidate = String;
}

impl Hinter for Backslash {
    type Hint = String;
}

impl Validator for Backslash {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match context.input().ends_with('\\') {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

/// Loads the history; `None` where there is none, which is told if it should be there.
fn open_history(console: &mut Console) -> Option<PathBuf> {
    let path = folders::history()?;
    let opened = private_file(&path).map_err(ReadlineError::Io).and_then(|()| console.load_history(&path));
    match opened {
        Ok(()) => Some(path),
        Err(e) => {
            terminal::note(&format!("no history: {}: {}", path.display(), told(&e)));
            None
        }
    }
}

/// Keeps a line for the arrow keys and for the next time.
fn remember(console: &mut Console, path: Option<&Path>, line: &str) {
    let added = !line.trim().is_empty() && console.add_history_entry(line).unwrap_or(false);
    if let (true, Some(path)) = (added, path) {
        // A history that cannot be written today is no reason to disturb a conversation.
        let _ = console.append_history(path);
    }
}

/// Makes sure that the file exists, and that only its owner may read it.
fn private_file(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = files::private().append(true).create(true).open(path)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    drop(file);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[cfg(unix)]
    #[test]
    fn the_history_is_private() {
        use std::{env, os::unix::fs::PermissionsExt as _};

        use super::*;
        let folder = env::temp_dir().join(format!("ds4-history-{}", std::process::id()));
        let path = folder.join("ds4/history");
        private_file(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        private_file(&path).unwrap();
        let mut console = console().unwrap();
        console.load_history(&path).unwrap();
        remember(&mut console, Some(&path), "hello");
        remember(&mut console, Some(&path), "  ");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&path).unwrap().contains("hello"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
