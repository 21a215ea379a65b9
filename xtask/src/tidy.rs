//! What the house style asks for and no compiler checks: `cargo xtask tidy`, and a test.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Who may know whom. ARCHITECTURE.md draws the same list.
const MAP: [(&str, &[&str]); 16] = [
    ("quant", &[]),
    ("files", &[]),
    ("gguf", &["files", "quant"]),
    ("nano", &["gguf"]),
    ("tokenizer", &["gguf"]),
    ("grammar", &["tokenizer"]),
    ("compute", &["quant"]),
    ("backend-cpu", &["compute", "quant"]),
    ("experts", &["compute", "gguf"]),
    ("kv", &["files"]),
    ("models", &["experts", "compute", "tokenizer", "gguf", "quant"]),
    (
        "engine",
        &["models", "kv", "files", "experts", "backend-cpu", "compute", "grammar", "tokenizer", "gguf", "quant"],
    ),
    ("server", &["engine", "models", "files", "tokenizer"]),
    ("tools", &["engine", "models", "files", "compute", "tokenizer", "gguf", "quant"]),
    (
        "cli",
        &[
            "server",
            "tools",
            "nano",
            "engine",
            "models",
            "kv",
            "files",
            "experts",
            "backend-cpu",
            "compute",
            "tokenizer",
            "gguf",
            "quant",
        ],
    ),
    ("xtask", &[]),
];

/// Where `unsafe` may be allowed, module by module.
const UNSAFE: [&str; 3] = ["gguf", "backend-cpu", "experts"];

/// The crate that may name the product: what people read as the program's words is written there.
const BINARY: &str = "cli";

/// The product, its binary, and what is never committed; spelled so that this file does not contain it.
const NAMES: [&str; 2] = [concat!("Dwarf", "Star"), concat!("ds", "4")];
const UNFINISHED: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("db", "g!("),
    concat!("to", "do!("),
    concat!("un", "implemented!("),
];

const LINES_MAX: usize = 900;

/// Everything untidy under `root`, one `file:line: what; what to do` each.
///
/// # Errors
///
/// What reading the files reports.
pub(crate) fn check(root: &Path) -> io::Result<Vec<String>> {
    let mut errors = Vec::new();
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    errors.extend(reasons(&manifest).map(|(line, what)| format!("Cargo.toml:{line}: {what}")));
    for folder in folders(root)? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut note = |path: &Path, found: Vec<(usize, String)>| {
            let shown = path.strip_prefix(root).unwrap_or(path).display().to_string();
            errors.extend(found.into_iter().map(|(line, what)| format!("{shown}:{line}: {what}")));
        };
        let path = folder.join("Cargo.toml");
        note(&path, manifest_errors(&name, &fs::read_to_string(&path)?));
        let mut files = Vec::new();
        rust_files(&folder, &mut files)?;
        for path in files {
            let text = fs::read_to_string(&path)?;
            note(&path, source_errors(&name, &text));
            let is_root = ["src/lib.rs", "src/main.rs"].map(|file| folder.join(file)).contains(&path);
            if is_root {
                note(&path, root_errors(&name, &text));
            }
        }
    }
    Ok(errors)
}

fn folders(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = vec![root.join("xtask")];
    for entry in fs::read_dir(root.join("crates"))? {
        folders.push(entry?.path());
    }
    folders.sort();
    Ok(folders)
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines())
}

/// The entries of a manifest's sections whose header ends in `section`, with the number of their line.
fn entries<'a>(manifest: &'a str, section: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let mut inside = false;
    numbered(manifest).filter(move |(_, line)| {
        if line.starts_with('[') {
            inside = line.trim_end_matches(']').ends_with(section);
        }
        inside && line.contains('=') && !line.starts_with('#')
    })
}

fn reasons(manifest: &str) -> impl Iterator<Item = (usize, String)> {
    let own = |line: &str| line.contains("path = ");
    entries(manifest, "workspace.dependencies").filter(move |(_, line)| !own(line) && !line.contains(" # ")).map(
        |(line, entry)| {
            let name = entry.split([' ', '=']).next().unwrap_or_default();
            (line, format!("`{name}` has no reason; say behind it, `# ...`, what it is for"))
        },
    )
}

fn manifest_errors(folder: &str, manifest: &str) -> Vec<(usize, String)> {
    let mut errors = Vec::new();
    let named = entries(manifest, "package").find(|(_, line)| line.starts_with("name"));
    if named.is_none_or(|(_, line)| line.split('"').nth(1) != Some(folder)) {
        let line = named.map_or(1, |(line, _)| line);
        errors.push((line, format!("the package is not called `{folder}`, like its folder; rename one of them")));
    }
    let Some(place) = MAP.iter().position(|(name, _)| *name == folder) else {
        errors.push((1, format!("`{folder}` is not on the map; add it to MAP in xtask/src/tidy.rs")));
        return errors;
    };
    let tables = numbered(manifest).filter(|(_, line)| line.starts_with('[') && line.contains("dependencies."));
    errors.extend(tables.map(|(line, _)| (line, "a table of its own; write dependencies one a line".into())));
    let of_section = |section| entries(manifest, section).map(move |entry| (section, entry));
    for (section, (line, entry)) in of_section("[dependencies").chain(of_section("-dependencies")) {
        let known = entry.split([' ', '=', '.']).next().unwrap_or_default();
        let Some(known_place) = MAP.iter().position(|(name, _)| *name == known) else { continue };
        // Tests may use all that lies below: a model's are run by some backend.
        let may = if section.starts_with('[') { MAP[place].1.contains(&known) } else { known_place < place };
        if !may {
            errors.push((line, format!("`{folder}` must not know `{known}`; move what it needs of it down the map")));
        }
    }
    errors
}

fn source_errors(folder: &str, text: &str) -> Vec<(usize, String)> {
    let mut errors = Vec::new();
    if !text.starts_with("//! ") {
        errors.push((1, "no module documentation; begin with `//! ` and what the file is for".into()));
    }
    let n = text.lines().count();
    if n > LINES_MAX {
        errors.push((n, format!("{n} lines are more than {LINES_MAX}; split the file by subject")));
    }
    for (line, code) in numbered(text) {
        if let Some(word) = UNFINISHED.iter().find(|word| code.contains(*word)) {
            errors.push((line, format!("`{word}`; finish it, or write down what is true without it")));
        }
        let is_comment = code.trim_start().starts_with("//");
        if let Some(name) = NAMES.iter().find(|name| folder != BINARY && !is_comment && contains_word(code, name)) {
            errors.push((line, format!("`{name}` outside `{BINARY}`; only the binary carries the product's name")));
        }
    }
    errors
}

/// Whether `code` contains `name`, in any case, and not as a part of a longer word.
fn contains_word(code: &str, name: &str) -> bool {
    let lower = code.to_lowercase();
    let mut words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| word == name.to_lowercase())
}

/// What the first file of a crate must say.
fn root_errors(folder: &str, text: &str) -> Vec<(usize, String)> {
    let level = if UNSAFE.contains(&folder) { "deny" } else { "forbid" };
    let wanted = format!("#![{level}(unsafe_code)]");
    match text.contains(&wanted) {
        true => Vec::new(),
        false => vec![(1, format!("`{wanted}` is missing; add it below the documentation"))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let errors = check(&crate::root()).unwrap();
        assert!(errors.is_empty(), "\n{}", errors.join("\n"));
    }

    fn check_manifest(folder: &str, manifest: &str, errors: &[(usize, &str)]) {
        let found = manifest_errors(folder, manifest);
        assert_eq!(found.len(), errors.len(), "{found:?}");
        for ((line, what), (expected_line, part)) in found.iter().zip(errors) {
            assert!(line == expected_line && what.contains(part), "{line}: {what}");
        }
    }

    #[test]
    fn knowledge_points_up_the_map() {
        check_manifest("gguf", "[package]\nname = \"gguf\"\n[dependencies]\nquant.workspace = true", &[]);
        let down = "[package]\nname = \"gguf\"\n[dependencies]\nmemmap2 = \"1\"\nengine.workspace = true";
        check_manifest("gguf", down, &[(5, "`gguf` must not know `engine`")]);
        let table = "[package]\nname = \"models\"\n[dependencies.backend-cpu]\nworkspace = true";
        check_manifest("models", table, &[(3, "one a line")]);
        let aside = "[package]\nname = \"models\"\n[dependencies]\nbackend-cpu = { path = \"../backend-cpu\" }";
        check_manifest("models", aside, &[(4, "must not know `backend-cpu`")]);
    }

    #[test]
    fn tests_may_use_what_lies_below() {
        let manifest = "[package]\nname = \"models\"\n[dev-dependencies]\nbackend-cpu.workspace = true\n";
        check_manifest("models", manifest, &[]);
        let manifest = "[package]\nname = \"models\"\n[dev-dependencies]\ncli.workspace = true\n";
        check_manifest("models", manifest, &[(4, "must not know `cli`")]);
    }

    #[test]
    fn folders_and_packages_share_a_name_on_the_map() {
        check_manifest("gguf", "[package]\nname = \"file\"\n", &[(2, "like its folder")]);
        check_manifest("other", "[package]\nname = \"other\"\n", &[(1, "not on the map")]);
    }

    #[test]
    fn a_dependency_says_why() {
        let manifest = "[workspace.dependencies]\na = { path = \"a\" }\nb = \"1\" # why\nc = \"1\"\n[profile.x]\nd = 1";
        let found: Vec<_> = reasons(manifest).map(|(line, _)| line).collect();
        assert_eq!(found, [4]);
    }

    #[test]
    fn sources_are_documented_finished_and_short() {
        let lines = |errors: Vec<(usize, String)>| errors.into_iter().map(|(line, _)| line).collect::<Vec<_>>();
        assert_eq!(lines(source_errors("gguf", "//! A file.\nfn f() {}\n")), [0; 0]);
        assert_eq!(lines(source_errors("gguf", "fn f() {}\n")), [1]);
        let unfinished = format!("//! A file.\n\n// {}: more\n{}x)", UNFINISHED[0], UNFINISHED[3]);
        assert_eq!(lines(source_errors("gguf", &unfinished)), [3, 4]);
        let named = format!("//! {0}.\nconst A: &str = \"{0} x\";\nconst B: &str = \"{0}x\";\n", NAMES[1]);
        assert_eq!(lines(source_errors("gguf", &named)), [2]);
        assert_eq!(lines(source_errors("cli", &named)), [0; 0]);
        assert_eq!(lines(source_errors("gguf", &"//! A file.\n".repeat(901))), [901]);
    }

    #[test]
    fn crates_forbid_unsafe_code() {
        assert_eq!(root_errors("models", "#![forbid(unsafe_code)]"), []);
        assert_eq!(root_errors("models", "#![deny(unsafe_code)]").len(), 1);
        assert_eq!(root_errors("gguf", "#![deny(unsafe_code)]"), []);
    }
}
