//! The program as a child process.

#![allow(dead_code, reason = "each test program uses its part")]

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// What a run left behind.
pub(crate) struct Ran {
    /// Exit status; `None` after a signal.
    pub(crate) status: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn out_str(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    /// All of it, as in a snapshot. The one line that depends on the machine's memory is left out.
    pub(crate) fn show(&self) -> String {
        let kept = self.err.lines().filter(|line| !line.starts_with("memory: "));
        let err: String = kept.map(|line| format!("{line}\n")).collect();
        format!("{}{err}exit {:?}\n", self.out_str(), self.status.unwrap_or(-1))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let err = String::from_utf8(output.stderr).expect("messages are text");
        Ran { status: output.status.code(), out: output.stdout, err }
    }
}

/// The program, away from the user's terminal, home and folder.
pub(crate) fn ds4() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ds4"));
    command.current_dir(scratch()).stdin(Stdio::null()).env_clear().env("HOME", scratch());
    command
}

/// Runs the program with nothing on stdin.
pub(crate) fn run<A: AsRef<OsStr>>(args: &[A]) -> Ran {
    ds4().args(args).output().unwrap().into()
}

/// Runs the program with `input` on stdin.
pub(crate) fn run_with<A: AsRef<OsStr>>(args: &[A], input: &[u8]) -> Ran {
    let mut command = ds4();
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that refuses its arguments does not listen.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap().into()
}

/// A file of the repository's test data.
pub(crate) fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

/// A folder for what tests write.
pub(crate) fn scratch() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A copy of a model file's first `len` bytes.
pub(crate) fn cut(model: &str, len: usize, name: &str) -> PathBuf {
    let bytes = fs::read(testdata(model)).unwrap();
    let path = scratch().join(name);
    fs::write(&path, &bytes[..len]).unwrap();
    path
}
