//! Flags of `ds4 perplexity`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use tools::perplexity::N_CTX_MIN;

use super::{ModelArgs, TOKENS_MAX, between, count};

#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    /// The text
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,

    /// More models, one after the other, for a table; Nano is not in it without its file
    #[arg(value_name = "MODEL", value_hint = ValueHint::FilePath)]
    pub(crate) more: Vec<PathBuf>,

    /// Tokens of a chunk, of which the second half counts [default: 512, or as the base has them]
    #[arg(short, long, alias = "ctx-size", value_name = "N", value_parser = context, allow_negative_numbers = true)]
    pub(crate) ctx: Option<usize>,

    /// Most chunks to read [default: all of the text, or as many as the base has]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub(crate) chunks: Option<usize>,

    /// Compare with what another model made of the same text: a file of --save-base, or of llama.cpp's
    ///
    /// How far a model is from the base at a position is the Kullback-Leibler divergence, sum p_base ln(p_base / p) over
    /// the vocabulary, in nats.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) base: Option<PathBuf>,

    /// Write what --base reads: two bytes for each word of the vocabulary and each position
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "more")]
    pub(crate) save_base: Option<PathBuf>,

    /// Write a row per position, as TSV
    ///
    /// Columns: model; pos, the token's place in the text, counted in tokens; id, the token; text, what it spells, as a
    /// JSON string; nll, its -ln p. With --base also: base_nll; kl, the divergence at this position; top, the word that the
    /// base finds likeliest; rank, its place for the model, from 1 on.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) detail: Option<PathBuf>,

    /// For programs: the same, as JSON
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

fn context(text: &str) -> Result<usize, String> {
    between(text, N_CTX_MIN..=TOKENS_MAX)
}
