//! Flags of `ds4 kv`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::TOKENS_MAX;

#[derive(Debug, Args)]
#[command(subcommand_required = true, disable_help_subcommand = true)]
pub(crate) struct KvArgs {
    #[command(subcommand)]
    pub(crate) command: KvCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KvCommand {
    /// List every piece, those of the longest conversations last.
    #[command(alias = "list")]
    Ls(KvFolder),
    /// Read every piece in full, and name those that are broken.
    Verify(KvFolder),
    /// Remove pieces, and what hangs from them.
    ///
    /// Conversations with a name stay: /del deletes those.
    Rm(KvRm),
    /// Show what all of it comes to, model by model.
    Stats(KvFolder),
}

#[derive(Debug, Args)]
pub(crate) struct KvFolder {
    /// The folder, as --kv-disk-dir names it
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,

    /// For programs: the same, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true))]
pub(crate) struct KvRm {
    #[command(flatten)]
    pub(crate) folder: KvFolder,

    /// Those of this model, as `ds4 kv stats` names it
    #[arg(long, value_name = "NAME", group = "which")]
    pub(crate) model: Option<String>,

    /// Those that were not used for so many days, and that nothing newer hangs from
    #[arg(long, value_name = "DAYS", group = "which", value_parser = days, allow_negative_numbers = true)]
    pub(crate) older_than: Option<u64>,

    /// All of them, also those that cannot be read
    #[arg(long, group = "which", conflicts_with_all = ["model", "older_than"])]
    pub(crate) all: bool,
}

fn days(text: &str) -> Result<u64, String> {
    super::between(text, 0..=TOKENS_MAX).map(|n| n as u64).map_err(|_| "must be a number of days, such as 30".into())
}
