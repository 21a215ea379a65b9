//! Tests that go on for longer than tests take time for: `cargo xtask kill 10000`, `cargo xtask mutate`.

use std::{error::Error, path::Path, process::Command};

/// A test, and the variable that tells it how long to go on.
pub(crate) struct More {
    package: &'static str,
    file: &'static str,
    name: &'static str,
    variable: &'static str,
}

/// Processes that are killed while they write what sessions remember.
pub(crate) const KILL: More = More { package: "kv", file: "processes", name: "killed", variable: "KV_KILL_ROUNDS" };
/// Requests that are valid but for something, most likely.
pub(crate) const MUTATE: More =
    More { package: "server", file: "hostile", name: "no_request_breaks_the_server", variable: "SERVER_MUTATIONS" };

/// Runs the test, for so many rounds.
pub(crate) fn test(root: &Path, more: &More, rounds: &str) -> Result<(), Box<dyn Error>> {
    let n_rounds: u32 = rounds.parse().map_err(|_| format!("`{rounds}` is no number of rounds"))?;
    let status = Command::new("cargo")
        .current_dir(root)
        .args(["test", "-p", more.package, "--test", more.file, "--", "--nocapture", more.name])
        .env(more.variable, n_rounds.to_string())
        .status()?;
    if status.success() { Ok(()) } else { Err(format!("cargo test: {status}").into()) }
}
