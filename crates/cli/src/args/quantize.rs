//! Flags of `ds4 quantize`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use tools::recipe::Rule;

use super::threads;

#[derive(Debug, Args)]
pub(crate) struct QuantizeArgs {
    /// What to pack: a GGUF, or a folder as Hugging Face publishes it
    #[arg(value_name = "IN", value_hint = ValueHint::AnyPath, required_unless_present = "recipes")]
    pub(crate) input: Option<PathBuf>,

    /// Where to write the GGUF; it appears there when it is complete
    ///
    /// Until then it is FILE.partial. The same command, given again, goes on with what an interrupted one has left there.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(required_unless_present_any = ["recipes", "dry_run", "compare"])]
    pub(crate) out: Option<PathBuf>,

    /// What becomes of each tensor: a recipe's name, or its file
    ///
    /// --recipes lists those that come along.
    #[arg(short, long, value_name = "NAME|FILE", required_unless_present_any = ["recipes", "compare"])]
    pub(crate) recipe: Option<String>,

    /// Have tensors of this name become this, whatever the recipe says; may be repeated, and the last one counts
    ///
    /// In the pattern `*` is any text: --tensor 'blk.*.attn_v.weight=Q6_K'. `copy` leaves tensors as they are.
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = rule, alias = "tensor-type")]
    pub(crate) tensor: Vec<Rule>,

    /// Spend the bits where this importance matrix says that errors matter: as `imatrix` writes them, or llama.cpp, or antirez's DS4
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) imatrix: Option<PathBuf>,

    /// Threads that pack [default: one per processor that may be used]
    #[arg(short, long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    pub(crate) threads: Option<usize>,

    /// Show what would become of each tensor, and how large the file would be
    #[arg(long, conflicts_with = "compare")]
    pub(crate) dry_run: bool,

    /// Show how far the weights of this GGUF are from those of IN, tensor by tensor; writes nothing
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(conflicts_with_all = ["out", "recipe", "tensor", "imatrix"])]
    pub(crate) compare: Option<PathBuf>,

    /// Replace a file that is there
    #[arg(long)]
    pub(crate) overwrite: bool,

    /// List the recipes
    #[arg(long, conflicts_with_all = ["input", "out", "recipe", "tensor", "imatrix", "dry_run", "compare"])]
    pub(crate) recipes: bool,

    /// For programs: what --dry-run and --compare show, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn rule(text: &str) -> Result<Rule, String> {
    Rule::assigned(text).map_err(|error| error.to_string())
}
