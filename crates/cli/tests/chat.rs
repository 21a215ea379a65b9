//! A conversation at a terminal, on a pseudo-terminal that `script` makes. Skips aloud where that program is absent.
#![cfg(target_os = "linux")]

mod common;

use std::{
    io::{Read as _, Write as _},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use common::{scratch, testdata};

/// A terminal with a conversation on it.
struct Terminal {
    child: std::process::Child,
    screen: Arc<Mutex<String>>,
    reader: thread::JoinHandle<()>,
    /// How much of the screen was waited for.
    seen: usize,
}

impl Terminal {
    /// Starts a conversation; `None` where no terminal can be had.
    fn open(name: &str, flags: &str, vars: &[(&str, &str)]) -> Option<Terminal> {
        let home = scratch().join(name);
        std::fs::create_dir_all(&home).unwrap();
        let model = testdata("deepseek_v4/micro-flash.gguf");
        // `exec`, for a shell in between would die of Ctrl+C.
        let program = format!("exec '{}' -m '{}' {flags}", env!("CARGO_BIN_EXE_ds4"), model.display());
        let mut command = Command::new("script");
        command
            .args(["-qec", &program, "/dev/null"])
            .env_clear()
            .env("TERM", "xterm")
            .env("HOME", &home)
            .envs(vars.iter().copied());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let Ok(mut child) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
            eprintln!("skipped: there is no `script` to make a pseudo-terminal with");
            return None;
        };
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut out, shared) = (child.stdout.take().unwrap(), screen.clone());
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut bytes) {
                shared.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        Some(Terminal { child, screen, reader, seen: 0 })
    }

    /// Waits until `text` appears behind what was waited for before.
    fn wait(&mut self, text: &str) -> &mut Terminal {
        let start = Instant::now();
        loop {
            let screen = self.screen.lock().unwrap().clone();
            if let Some(at) = screen[self.seen..].find(text) {
                self.seen += at + text.len();
                return self;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "no {text:?} in {:?}", &screen[self.seen..]);
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, keys: impl AsRef<[u8]>) -> &mut Terminal {
        let keyboard = self.child.stdin.as_mut().unwrap();
        keyboard.write_all(keys.as_ref()).unwrap();
        keyboard.flush().unwrap();
        self
    }

    /// Waits for a prompt and types a line.
    fn line(&mut self, line: &str) -> &mut Terminal {
        self.wait("> ").press(line).press("\r")
    }

    /// The exit status, once the program has ended.
    fn status(mut self) -> Option<i32> {
        let status = self.child.wait().unwrap().code();
        self.reader.join().unwrap();
        status
    }
}

#[test]
fn a_conversation_is_held_and_left() {
    let Some(mut terminal) = Terminal::open("chat-quit", "--ctx 256 -n 8 --nothink --seed 1", &[]) else { return };
    terminal.wait("memory: ").wait("/help lists commands");
    terminal.line("Hi").wait("prefill ").wait("decode ");
    terminal.line("one \\").press("two\r").wait("known), decode ");
    terminal.line("/hepl").wait("unknown command /hepl");
    terminal.line("/status").wait("messages  4");
    terminal.line("/quit");
    assert_eq!(terminal.status(), Some(0));
    let history = std::fs::read_to_string(scratch().join("chat-quit/.local/share/ds4/history")).unwrap();
    assert!(history.contains("Hi") && history.contains("two"), "{history}");
}

#[test]
fn what_is_typed_in_another_encoding_costs_no_conversation() {
    let Some(mut terminal) =
        Terminal::open(&format!("chat-latin1-{}", std::process::id()), "--ctx 256 -n 8 --nothink --seed 1", &[])
    else {
        return;
    };
    terminal.line("Hi").wait("decode ");
    for _ in 0..2 {
        terminal.wait("> ").press(b"caf\xe9\r").wait("this line is not UTF-8 text");
        thread::sleep(Duration::from_millis(300));
    }
    terminal.wait("> ").press("/status\r").wait("messages  2");
    terminal.line("/quit");
    assert_eq!(terminal.status(), Some(0));
}

#[test]
fn a_conversation_reads_ordinary_files_only() {
    let Some(mut terminal) = Terminal::open("chat-read", "--ctx 256 -n 8 --nothink --seed 1", &[]) else { return };
    terminal.line("/read /dev/zero").wait("/dev/zero: is no ordinary file");
    let long = scratch().join(format!("long-{}.txt", std::process::id()));
    std::fs::write(&long, "word ".repeat(300_000)).unwrap();
    terminal.line(&format!("/read {}", long.display())).wait("far more than a context").wait("make room with /ctx");
    terminal.line("/quit");
    assert_eq!(terminal.status(), Some(0));
}

#[test]
fn ctrl_c_stops_the_answer_and_ctrl_d_leaves() {
    // Who prefers what was just said says it for ever.
    let flags = "--ctx 100000 --nothink --temp 0 --frequency-penalty=-5";
    let Some(mut terminal) = Terminal::open("chat-stop", flags, &[]) else { return };
    terminal.line("Hi").wait("\n");
    thread::sleep(Duration::from_millis(300));
    terminal.press("\x03").wait("stopped").wait("decode ");
    terminal.wait("> ").press("\x03").wait("Ctrl+D or /quit leaves");
    terminal.wait("> ").press("\x04");
    assert_eq!(terminal.status(), Some(0));
}

#[test]
fn reasoning_is_faint_or_between_marks() {
    let Some(mut terminal) = Terminal::open("chat-think", "-n 8 --temp 0", &[]) else { return };
    terminal.line("Hi").wait("\x1b[2m").wait("\x1b[0m").wait("no answer within the length").line("/quit");
    assert_eq!(terminal.status(), Some(0));
    let mut terminal = Terminal::open("chat-mark", "-n 8 --temp 0", &[("NO_COLOR", "1")]).unwrap();
    terminal.line("Hi").wait("<think>\r\n").wait("\r\n</think>").wait("no answer").line("/quit");
    assert_eq!(terminal.status(), Some(0));
}

#[test]
fn a_conversation_with_a_name_is_held_by_one_process() {
    let dir = scratch().join("chat-named");
    let _ = std::fs::remove_dir_all(&dir);
    let flags = format!("--ctx 256 -n 8 --nothink --temp 0 --kv-disk-dir '{}'", dir.display());
    let Some(mut terminal) = Terminal::open("chat-name", &format!("{flags} --session work"), &[]) else { return };
    terminal.wait("session work: new").line("Hi").wait("decode ");
    terminal.wait("> ");
    let model = testdata("deepseek_v4/micro-flash.gguf");
    let again =
        ["-m", model.to_str().unwrap(), "-p", "Hi", "--session", "work", "--kv-disk-dir", dir.to_str().unwrap()];
    let ran = common::run(&again);
    let told = "error: session work: another process goes on with it\nhelp: end it first, or give another name\n";
    assert_eq!((ran.status, ran.err.as_str()), (Some(1), told));
    terminal.press("/save more\r").wait("kept as more").line("/list").wait("* more").wait("  work").line("/quit");
    assert_eq!(terminal.status(), Some(0));
    let mut terminal = Terminal::open("chat-name", &format!("{flags} --session more"), &[]).unwrap();
    terminal
        .wait("session more: 2 messages, ")
        .line("So?")
        .wait("known), decode ")
        .line("/del work")
        .wait("is deleted");
    terminal.line("/quit");
    assert_eq!(terminal.status(), Some(0));
}

#[test]
fn results_cannot_speak_to_the_terminal() {
    let model = testdata("llama/micro.gguf");
    let escape = common::run(&["tokenize", "-m", model.to_str().unwrap(), "--ids", "\x1b[31m"]);
    let ids = escape.out_str().trim();
    let program = format!("'{}' tokenize -m '{}' --decode '{ids}'", env!("CARGO_BIN_EXE_ds4"), model.display());
    let Ok(shown) = Command::new("script").args(["-qec", &program, "/dev/null"]).stdin(Stdio::null()).output() else {
        eprintln!("skipped: there is no `script` to make a pseudo-terminal with");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&shown.stdout), "␛[31m");
}
