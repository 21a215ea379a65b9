//! Where the user's files are, by the conventions of the system; nowhere if the environment names no home.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

/// A kind of files, and the folder for it.
struct Kind {
    /// The variable that names the folder.
    variable: &'static str,
    /// Where it is below the home folder if that is not set: on a Mac, and elsewhere.
    mac: &'static str,
    other: &'static str,
}

const DATA: Kind = Kind { variable: "XDG_DATA_HOME", mac: "Library/Application Support", other: ".local/share" };
const CACHE: Kind = Kind { variable: "XDG_CACHE_HOME", mac: "Library/Caches", other: ".cache" };

/// The file with the lines that were typed.
pub(crate) fn history() -> Option<PathBuf> {
    Some(DATA.ours(|name| env::var_os(name))?.join("history"))
}

/// The folder for what can be learned again.
pub(crate) fn cache() -> Option<PathBuf> {
    CACHE.ours(|name| env::var_os(name))
}

/// What keeps a folder from being there: something else of that name, or of the name of a folder around it.
pub(crate) fn in_the_way(folder: &Path) -> Option<&Path> {
    let nearest = folder.ancestors().find(|path| fs::symlink_metadata(path).is_ok());
    nearest.filter(|path| !path.is_dir())
}

impl Kind {
    /// Our folder among those of all programs.
    fn ours(&self, env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
        let absolute = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let below = if cfg!(target_os = "macos") { self.mac } else { self.other };
        let folder = absolute(self.variable).or_else(|| Some(absolute("HOME")?.join(below)));
        Some(folder?.join("ds4"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(kind: &Kind, vars: &[(&str, &str)]) -> Option<PathBuf> {
        kind.ours(|name| vars.iter().find(|v| v.0 == name).map(|v| v.1.into()))
    }

    #[test]
    fn files_are_where_the_system_keeps_their_kind() {
        let vars = [("XDG_DATA_HOME", "/x"), ("XDG_CACHE_HOME", "/y"), ("HOME", "/h")];
        assert_eq!(path(&DATA, &vars).unwrap(), Path::new("/x/ds4"));
        assert_eq!(path(&CACHE, &vars).unwrap(), Path::new("/y/ds4"));
        for kind in [DATA, CACHE] {
            assert!(path(&kind, &[(kind.variable, "x"), ("HOME", "/h")]).unwrap().starts_with("/h"));
            assert_eq!(path(&kind, &[]), None);
            assert_eq!(path(&kind, &[("HOME", "")]), None);
        }
    }
}
