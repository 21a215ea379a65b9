//! Flags for what conversations leave to later ones.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use engine::Kept;

use super::{CacheArgs, ModelArgs};
use crate::{
    error::Error,
    sessions::{Held, Saved, SessionName, Sessions},
    terminal,
};

/// A conversation with a name, and what is kept of all.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Memory")]
pub(crate) struct KeptArgs {
    /// Go on with the conversation of this name, or begin it
    ///
    /// What is said is kept in the folder of --kv-disk-dir, or else in `kv` in that for what is kept between runs; and what is
    /// computed with it. docs/formats/session.md describes the file.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["raw", "no_cache"])]
    pub(crate) session: Option<SessionName>,

    #[command(flatten)]
    store: StoreArgs,
}

/// What conversations compute, and where it is kept.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Memory")]
pub(crate) struct StoreArgs {
    /// Folder for what conversations compute, so that no token is computed twice
    ///
    /// A private folder of files that can be removed at any time; docs/formats/kv.md describes them, `ds4 kv` shows them. By default
    /// conversations with a name and those of `ds4 serve` are kept, in `kv` in the folder for what is kept between runs.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "no_cache")]
    kv_disk_dir: Option<PathBuf>,

    /// The most that is kept there, in MB (2^20 bytes) [default: 4096]
    #[arg(long, value_name = "N", value_parser = megabytes, allow_negative_numbers = true)]
    kv_disk_space_mb: Option<u64>,

    /// The most of it that is in memory, in MB [default: 256]
    #[arg(long, value_name = "N", value_parser = megabytes, allow_negative_numbers = true)]
    kv_ram_mb: Option<u64>,

    /// The most that is written there in a day, in GB (2^30 bytes) [default: 64]
    ///
    /// With 0, what is there is used, and nothing is added.
    #[arg(long, value_name = "N", value_parser = gigabytes, allow_negative_numbers = true)]
    kv_write_gb_per_day: Option<u64>,
}

/// The most bytes that a flag asks for, so that their sums are numbers too.
const BYTES_MAX: u64 = 1 << 53;

impl KeptArgs {
    /// What is to be kept of sessions, if anything is.
    ///
    /// # Errors
    /// A size of nothing, or no folder for a conversation with a name.
    pub(crate) fn kept(&self, cache: &CacheArgs) -> Result<Option<Kept>, Error> {
        if self.store.kv_disk_dir.is_none() && self.session.is_none() {
            return self.store.no_sizes().map(|()| None);
        }
        let dir = self.store.folder(cache).ok_or_else(|| Error::Usage {
            what: "the environment names no home, so there is no folder for a conversation".into(),
            help: "name one with --kv-disk-dir DIR".into(),
        })?;
        Ok(Some(self.store.kept(Some(dir))))
    }

    /// Those with a name.
    pub(crate) fn sessions(&self, cache: &CacheArgs) -> Option<Sessions> {
        self.store.folder(cache).map(|folder| Sessions::beside(&folder))
    }

    /// Takes the conversation that is asked for, before a model is opened for it. What cannot be read is told.
    ///
    /// # Errors
    /// As [`Sessions::hold`] and [`Held::read_or_set_aside`].
    pub(crate) fn held(&self, cache: &CacheArgs) -> Result<Option<(Held, Option<Saved>)>, Error> {
        let Some((name, sessions)) = self.session.as_ref().zip(self.sessions(cache)) else { return Ok(None) };
        let held = sessions.hold(name)?;
        let saved = held.read_or_set_aside(&mut terminal::note)?;
        Ok(Some((held, saved)))
    }
}

impl StoreArgs {
    /// What is kept of the sessions of a server: in memory only where there is no folder, or nothing is to outlive the program.
    pub(crate) fn served(&self, args: &ModelArgs) -> Kept {
        self.kept(if args.no_cache { None } else { self.folder(&args.cache) })
    }

    fn kept(&self, dir: Option<PathBuf>) -> Kept {
        Kept {
            dir,
            ram_bytes: self.kv_ram_mb.unwrap_or(256) << 20,
            disk_bytes: self.kv_disk_space_mb.unwrap_or(4096) << 20,
            written_bytes_per_day: self.kv_write_gb_per_day.unwrap_or(64) << 30,
        }
    }

    /// Where conversations are, unless nobody says where they could be.
    fn folder(&self, cache: &CacheArgs) -> Option<PathBuf> {
        self.kv_disk_dir.clone().or_else(|| Some(cache.folder()?.join("kv")))
    }

    fn no_sizes(&self) -> Result<(), Error> {
        let sizes = [
            ("--kv-disk-space-mb", self.kv_disk_space_mb),
            ("--kv-ram-mb", self.kv_ram_mb),
            ("--kv-write-gb-per-day", self.kv_write_gb_per_day),
        ];
        match sizes.iter().find(|(_, size)| size.is_some()) {
            Some((flag, _)) => Err(Error::Usage {
                what: format!("{flag} is about what is kept of conversations, and nothing is"),
                help: "name a folder for it with --kv-disk-dir DIR, or a conversation with --session NAME".into(),
            }),
            None => Ok(()),
        }
    }
}

fn megabytes(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1; to keep nothing, leave out the flags that begin with --kv-".into()),
        Ok(n) if n <= BYTES_MAX >> 20 => Ok(n),
        _ => Err(format!("must be a whole number, 1 to {}", BYTES_MAX >> 20)),
    }
}

fn gigabytes(text: &str) -> Result<u64, String> {
    let n = text.parse().ok().filter(|n| *n <= BYTES_MAX >> 30);
    n.ok_or_else(|| format!("must be a whole number, 0 to {}", BYTES_MAX >> 30))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    fn kept(args: &[&str]) -> Result<Option<Kept>, String> {
        let cli = Cli::try_parse_from(["ds4"].iter().chain(args)).map_err(|e| e.to_string())?;
        cli.chat.kept.kept(&cli.chat.model.cache).map_err(|e| e.to_string())
    }

    #[test]
    fn a_folder_has_bounds_of_its_own_unless_others_are_given() {
        let bounds = |args: &[&str]| {
            let kept = kept(args).unwrap().unwrap();
            [kept.ram_bytes, kept.disk_bytes, kept.written_bytes_per_day]
        };
        assert_eq!(bounds(&["--kv-disk-dir", "x"]), [256 << 20, 4096 << 20, 64 << 30]);
        let flags = ["--kv-disk-dir", "x", "--kv-ram-mb=1", "--kv-disk-space-mb=2", "--kv-write-gb-per-day=0"];
        assert_eq!(bounds(&flags), [1 << 20, 2 << 20, 0]);
        assert!(kept(&[]).unwrap().is_none());
    }

    #[test]
    fn sizes_of_nothing_and_without_end_are_refused() {
        let refused = |args: &[&str], why: &str| {
            let told = kept(args).unwrap_err();
            assert!(told.contains(why), "{told}");
        };
        refused(&["--kv-ram-mb", "1"], "--kv-ram-mb is about what is kept of conversations, and nothing is");
        refused(&["--kv-disk-dir", "x", "--kv-disk-space-mb", "0"], "must be at least 1; to keep nothing");
        for wrong in ["-1", "1.5", "many", "8589934593", "18446744073709551616"] {
            refused(&["--kv-disk-dir", "x", "--kv-disk-space-mb", wrong], "must be a whole number, 1 to 8589934592");
        }
        refused(&["--kv-disk-dir", "x", "--kv-write-gb-per-day", "8388609"], "0 to 8388608");
        refused(&["--kv-disk-dir", "x", "--no-cache"], "cannot be used with");
    }
}
