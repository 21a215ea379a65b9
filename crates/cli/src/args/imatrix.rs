//! Flags of `ds4 imatrix`.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, ValueEnum, ValueHint};
use tools::imatrix;

use super::{ModelArgs, batch, count, whole};

#[derive(Debug, Args)]
#[command(
    override_usage = "ds4 imatrix [-m FILE] -f TEXT --out FILE [flags]\n       ds4 imatrix --in FILE... --out FILE\n       ds4 imatrix --show FILE"
)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["file", "inputs", "show"]))]
pub(crate) struct ImatrixArgs {
    /// What the model reads: a text, or prompts in lines of JSON (.jsonl)
    ///
    /// A text is cut into chunks of --ctx tokens, which know nothing of each other. A line of a .jsonl file is a prompt:
    /// "rendered", as it is to be read, marks included; or "messages", to be written as the model wants conversations; or
    /// "text".
    #[arg(short, long, value_name = "TEXT", value_hint = ValueHint::FilePath, requires = "out")]
    pub(crate) file: Option<PathBuf>,

    /// Add what this file holds; may be repeated, and without -f no model is needed
    #[arg(long = "in", alias = "in-file", value_name = "FILE", value_hint = ValueHint::FilePath, requires = "out")]
    pub(crate) inputs: Vec<PathBuf>,

    /// Where to write; it appears there when it is complete
    ///
    /// Until then, what there is is in FILE.partial: as often as --save-every says, and where Ctrl+C or a failure ends the
    /// work. It also holds what --in held. The program then tells the --in and --skip that go on from it.
    #[arg(short, long, alias = "output-file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) out: Option<PathBuf>,

    /// How to write [default: by the name, .dat or else gguf]
    ///
    /// dat is the format that older programs read. It keeps means, and not how many tokens each expert met.
    #[arg(long, alias = "output-format", value_name = "FORMAT")]
    pub(crate) format: Option<Format>,

    /// Show what a file holds, and which experts its corpus rarely or never met
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["file", "inputs", "out"])]
    pub(crate) show: Option<PathBuf>,

    /// For programs: what --show shows, as JSON
    #[arg(long, requires = "show")]
    pub(crate) json: bool,

    /// Tokens of a chunk, which is all that the model sees at a time
    #[arg(short, long, alias = "ctx-size", value_name = "N", default_value = "512", requires = "file")]
    #[arg(value_parser = batch, allow_negative_numbers = true)]
    pub(crate) ctx: usize,

    /// Leave out the first chunks: those that --in has seen
    #[arg(long, alias = "chunk", alias = "from-chunk", value_name = "N", default_value = "0", requires = "file")]
    #[arg(value_parser = whole, allow_negative_numbers = true)]
    pub(crate) skip: usize,

    /// The most chunks, or prompts that are no longer than one
    #[arg(long, alias = "chunks", value_name = "N", requires = "file", value_parser = count, allow_negative_numbers = true)]
    pub(crate) max_prompts: Option<usize>,

    /// The most tokens, in whole chunks
    #[arg(long, value_name = "N", requires = "file", value_parser = count, allow_negative_numbers = true)]
    pub(crate) max_tokens: Option<usize>,

    /// Write what there is to FILE.partial after every so many chunks
    #[arg(long, alias = "output-frequency", value_name = "N", requires = "file", value_parser = count, allow_negative_numbers = true)]
    pub(crate) save_every: Option<usize>,

    /// How rows of an expert's down matrix count
    ///
    /// weighted: by the router, as they are multiplied. alike: as llama.cpp's files have it. Such files do not go together.
    #[arg(long, value_name = "HOW", default_value = "weighted", requires = "file")]
    pub(crate) down: Down,

    /// Collect for the matrix that makes logits, too
    #[arg(long, requires = "file")]
    pub(crate) process_output: bool,

    /// Take the names of special tokens in a text, such as <|im_end|>, for the tokens
    #[arg(long, requires = "file")]
    pub(crate) parse_special: bool,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

/// How to write importance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Gguf,
    Dat,
}

/// How rows of `down` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Down {
    Weighted,
    Alike,
}

impl ImatrixArgs {
    /// The format of the result.
    pub(crate) fn format(&self, out: &Path) -> Format {
        let by_name = || if out.extension().is_some_and(|e| e == "dat") { Format::Dat } else { Format::Gguf };
        self.format.unwrap_or_else(by_name)
    }

    /// What is collected, and how.
    pub(crate) fn collect(&self) -> imatrix::Collect {
        let down = match self.down {
            Down::Weighted => imatrix::Rows::Weighted,
            Down::Alike => imatrix::Rows::Alike,
        };
        imatrix::Collect { down, output: self.process_output }
    }
}
