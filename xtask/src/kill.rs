//! Processes that are killed while they write, more of them than the tests take time for: `cargo xtask kill 10000`.

use std::{error::Error, path::Path, process::Command};

/// Runs the tests of `kv` that kill, for so many rounds.
pub(crate) fn test(root: &Path, rounds: &str) -> Result<(), Box<dyn Error>> {
    let n_rounds: u32 = rounds.parse().map_err(|_| format!("`{rounds}` is no number of rounds"))?;
    let status = Command::new("cargo")
        .current_dir(root)
        .args(["test", "-p", "kv", "--test", "processes", "--", "--nocapture", "killed"])
        .env("KV_KILL_ROUNDS", n_rounds.to_string())
        .status()?;
    if status.success() { Ok(()) } else { Err(format!("cargo test: {status}").into()) }
}
