//! Repository chores: `cargo xtask <chore>`.

#![forbid(unsafe_code)]

mod arm;
mod clients;
mod fetch;
mod more;
mod tidy;

use std::{env, error::Error, path::PathBuf, process::ExitCode};

const USAGE: &str = "\
cargo xtask tidy          report what is untidy; a test does the same
cargo xtask fetch NAME    put a real model into models/: smollm2
cargo xtask clients NAME  run clients of others against the server, or without a name all of them; what is needed is fetched
cargo xtask arm           run the tests of quant and backend-cpu for ARM, under emulation
cargo xtask kill ROUNDS   kill so many processes while they write what sessions remember, and look what is left; the tests
                          do 500
cargo xtask mutate [N]    send so many requests with something wrong (10000), and tell what memory the server takes before and
                          behind them; the tests send 2000";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["tidy"] => tidy(),
        ["fetch", name] => fetch::fetch(&root(), name).map(|path| println!("{}", path.display())),
        ["clients", ref names @ ..] => clients::test(&root(), names),
        ["arm"] => arm::test(&root()),
        ["kill", rounds] => more::test(&root(), &more::KILL, rounds),
        ["mutate"] => more::test(&root(), &more::MUTATE, "10000"),
        ["mutate", rounds] => more::test(&root(), &more::MUTATE, rounds),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn tidy() -> Result<(), Box<dyn Error>> {
    let errors = tidy::check(&root())?;
    match errors.is_empty() {
        true => Ok(()),
        false => Err(errors.join("\n").into()),
    }
}

/// The repository.
fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map(PathBuf::from).unwrap_or(manifest)
}
