//! The flags: one table that the parser, the help and the completions derive from.
//!
//! Names are those that ds4's users know, with llama.cpp's as aliases where the two differ. What ds4 has and this
//! version has not is in [`refused`](crate::refused).

use std::{ops::RangeInclusive, path::PathBuf};

use clap::{
    Args, Parser, Subcommand, ValueEnum, ValueHint,
    builder::{PossibleValuesParser, TypedValueParser},
};
use engine::{Budget, Experts, KvType, Learning, SamplerError, SamplerOptions, sampling_key};
use experts::trace::synth::Choice;
use models::{Chat, ChatOptions, EFFORTS, Effort, WishError, effort_named, grant};

use crate::{bench::Sweep, error::Error, folders, model, routes::Budgets, terminal};

mod imatrix;
mod kept;
mod kv;
mod perplexity;
mod quantize;
mod serve;

pub(crate) use self::{
    imatrix::{Format, ImatrixArgs},
    kept::{KeptArgs, StoreArgs},
    kv::{KvArgs, KvCommand, KvRm},
    perplexity::PerplexityArgs,
    quantize::QuantizeArgs,
    serve::ServeArgs,
};

const AFTER_HELP: &str = "Answers go to stdout, everything else to stderr; ds4 --help tells more.";

const AFTER_LONG_HELP: &str = "\
Prompt: -p, or --prompt-file, or what is piped in. With both a prompt and a pipe, the piped text follows the prompt \
after an empty line, so that `ds4 -m FILE -p 'Explain:' < main.rs` asks about the file. Without any of them, and with \
a terminal to type at, a conversation begins; /help there lists its commands. No more than 64 MiB are \
read from a file or a pipe.

Output: piped, stdout carries the answer and nothing else, byte for byte; --show-thinking puts the reasoning before \
it, between <think> and </think>. On a terminal the reasoning is shown dimmed (between these marks under NO_COLOR), \
and control characters that the model writes are shown as symbols, so that no answer can reprogram the terminal.

Ctrl+C stops the answer: a conversation goes on, a single answer ends with exit status 130. A second Ctrl+C ends the \
program.

Exit status: 0 done, 1 failed, 2 wrong flags or an unusable file, 130 interrupted.";

/// Runs large language models on your own machine.
#[derive(Debug, Parser)]
#[command(name = "ds4", version, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(override_usage = "ds4 [-m FILE] [-p TEXT] [flags]\n       ds4 COMMAND [flags]")]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_LONG_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer clients of OpenAI's interface over HTTP.
    Serve(Box<ServeArgs>),
    /// Look inside a model file.
    Inspect(InspectArgs),
    /// Show how a text becomes tokens, or tokens a text.
    Tokenize(TokenizeArgs),
    /// Write the raw logits of given token ids.
    Logits(LogitsArgs),
    /// Measure how likely models find a text, and how far they are from one of them.
    Perplexity(Box<PerplexityArgs>),
    /// Measure prefill and decode in tokens per second.
    Bench(BenchArgs),
    /// Show what was read from the SSD and written to it, day by day.
    Ssd(SsdArgs),
    /// Tell which experts a cache would have kept, by several rules.
    Routes(RoutesArgs),
    /// Pack the weights of a model into fewer bits, by a recipe.
    Quantize(QuantizeArgs),
    /// Collect what a quantizer should know: how large the inputs of each matrix are, by column.
    Imatrix(Box<ImatrixArgs>),
    /// Look after a folder of what conversations computed.
    Kv(KvArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
}

/// Which model, and how to run it.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// The model: a GGUF file, or the first one of a split model [default: Nano, which is in this program]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) model: Option<PathBuf>,

    /// Threads to compute with [default: one per physical core]
    #[arg(short, long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    pub(crate) threads: Option<usize>,

    /// Instruction set to use, such as avx2 [default: the best there is]
    #[arg(long, value_name = "NAME")]
    pub(crate) isa: Option<String>,

    /// Tokens computed at a time while reading the prompt
    #[arg(long, alias = "prefill-chunk", alias = "batch-size", value_name = "N", default_value = "512")]
    #[arg(value_parser = batch, allow_negative_numbers = true)]
    pub(crate) batch: usize,

    /// How the KV cache is stored [default: native]
    ///
    /// f32: as computed; f16: half the memory; native: as the model was trained to store it.
    #[arg(long, value_name = "TYPE", value_parser = kv_types())]
    pub(crate) kv_type: Option<KvType>,

    /// Read a mixture's experts from the SSD when they are chosen [default: if the model does not fit into memory]
    #[arg(long)]
    pub(crate) ssd_streaming: bool,

    /// Memory for experts that are read from the SSD [default: auto]
    ///
    /// So many experts, or so much memory, as in 500MB or 4GB (1MB is 2^20 bytes, 1GB is 2^30), or auto: most of what is
    /// free. Implies --ssd-streaming.
    #[arg(long, value_name = "N|NGB|auto", value_parser = expert_cache, allow_negative_numbers = true)]
    pub(crate) ssd_streaming_cache_experts: Option<Budget>,

    /// Start without the experts that were used most before
    #[arg(long)]
    pub(crate) ssd_streaming_cold: bool,

    #[command(flatten)]
    pub(crate) cache: CacheArgs,

    /// Keep nothing for the next run
    #[arg(long, conflicts_with = "cache_dir")]
    pub(crate) no_cache: bool,

    /// Write down which experts every token chooses
    ///
    /// The file is described in docs/formats/routes.md; the `routes` command says what caches would make of it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) route_trace: Option<PathBuf>,

    /// Where to compute; this version has the CPU only
    #[arg(long, value_name = "NAME", default_value = "cpu", hide = true)]
    pub(crate) backend: Backend,

    /// The same as --backend cpu
    #[arg(long, hide = true)]
    pub(crate) cpu: bool,
}

/// Where to keep what can be learned again.
#[derive(Clone, Debug, Args)]
pub(crate) struct CacheArgs {
    /// Folder for what is kept between runs [default: the system's for caches]
    ///
    /// Of a model whose experts are read from the SSD: which of them it used most, so that the next run starts with these
    /// in memory, and how much was read on which day, which `ds4 ssd` shows. By default that is $XDG_CACHE_HOME/ds4 or
    /// ~/.cache/ds4, on a Mac ~/Library/Caches/ds4.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    cache_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) thinking: ThinkingArgs,
    #[command(flatten)]
    pub(crate) form: FormArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) kept: KeptArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Prompt")]
pub(crate) struct PromptArgs {
    /// Answer this once; -p=TEXT if it begins with a dash
    #[arg(short, long, value_name = "TEXT", conflicts_with = "prompt_file")]
    pub(crate) prompt: Option<String>,

    /// Answer what this file says
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) prompt_file: Option<PathBuf>,

    /// Instructions that come before the conversation (-sys for short)
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub(crate) system: Option<String>,

    /// Continue the text as it is, without a chat template
    #[arg(long, alias = "raw-prompt", conflicts_with_all = ["think", "nothink", "effort", "think_max", "reasoning_budget"])]
    pub(crate) raw: bool,

    /// Room for the conversation, in tokens [default: what the model knows and memory holds]
    #[arg(short, long, alias = "ctx-size", value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub(crate) ctx: Option<usize>,

    /// Longest answer, in tokens, reasoning included [default: until the context is full]
    #[arg(short = 'n', long, alias = "n-predict", alias = "predict", value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub(crate) tokens: Option<usize>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Thinking")]
pub(crate) struct ThinkingArgs {
    /// Reason before answering (the default of models that can)
    #[arg(long)]
    pub(crate) think: bool,

    /// Answer at once
    #[arg(long, alias = "no-think", conflicts_with_all = ["think", "effort", "think_max"])]
    pub(crate) nothink: bool,

    /// How hard to reason
    #[arg(long, value_name = "HOW", value_parser = efforts(), conflicts_with = "think_max")]
    pub(crate) effort: Option<Effort>,

    /// The same as --effort max
    #[arg(long)]
    pub(crate) think_max: bool,

    #[command(flatten)]
    pub(crate) budget: BudgetArgs,

    /// Write the reasoning to stdout even when that is not a terminal
    #[arg(long)]
    pub(crate) show_thinking: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Thinking")]
pub(crate) struct BudgetArgs {
    /// Most tokens of reasoning, 0 for none, -1 for no bound [default: -1]
    ///
    /// Behind so many its end is written for the model, which then answers.
    #[arg(long, value_name = "N", value_parser = budget, allow_negative_numbers = true)]
    reasoning_budget: Option<usize>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Form of the answer")]
pub(crate) struct FormArgs {
    /// Answer in JSON that is valid by this JSON schema, {} for any
    #[arg(short = 'j', long, value_name = "SCHEMA", conflicts_with = "json_schema_file")]
    pub(crate) json_schema: Option<String>,

    /// Answer in JSON that is valid by the schema in this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) json_schema_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Below 1 more certain, above 1 more random, 0 always the likeliest token [default: the model's, or 1]
    #[arg(long, alias = "temperature", value_name = "X", value_parser = number, allow_negative_numbers = true)]
    pub(crate) temp: Option<f32>,

    /// Draw from the N likeliest tokens only, 0 or -1 for all [default: the model's, or 0]
    #[arg(long, value_name = "N", value_parser = budget, allow_negative_numbers = true)]
    pub(crate) top_k: Option<usize>,

    /// Draw from the likeliest tokens that make up this share [default: the model's, or 1]
    #[arg(long, value_name = "X", value_parser = number, allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,

    /// Draw from tokens at least this likely, relative to the likeliest [default: the model's, or 0.05]
    #[arg(long, value_name = "X", value_parser = number, allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,

    /// Divide the logits of recent tokens by this [default: the model's, or 1]
    #[arg(long, value_name = "X", value_parser = number, allow_negative_numbers = true)]
    pub(crate) repeat_penalty: Option<f32>,

    /// Lower the logits of recent tokens by this
    #[arg(long, value_name = "X", default_value = "0", value_parser = number, allow_negative_numbers = true)]
    pub(crate) presence_penalty: f32,

    /// Lower the logits of recent tokens by this for each occurrence
    #[arg(long, value_name = "X", default_value = "0", value_parser = number, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: f32,

    /// How many tokens are recent for these, the prompt's included, -1 for all [default: the model's, or 64]
    #[arg(long, value_name = "N", value_parser = budget, allow_negative_numbers = true)]
    pub(crate) repeat_last_n: Option<usize>,

    /// Let an answer go on that says the same again and again
    #[arg(long)]
    pub(crate) may_repeat: bool,

    /// The same seed gives the same answer [default: a new one each time]
    #[arg(long, value_name = "N", value_parser = seed, allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The GGUF file, or the first one of a split model [default: Nano, which is in this program]
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,

    /// The same, as other commands take it
    #[arg(short, long, value_name = "FILE", conflicts_with = "file", hide = true)]
    pub(crate) model: Option<PathBuf>,

    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,

    /// For programs: everything, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    /// The model whose vocabulary to use [default: Nano's]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) model: Option<PathBuf>,

    /// The text; stdin if absent
    #[arg(value_name = "TEXT")]
    pub(crate) text: Option<String>,

    /// Print ids only, on one line
    #[arg(long)]
    pub(crate) ids: bool,

    /// Take the names of special tokens, such as <|im_end|>, for the tokens
    #[arg(long, conflicts_with = "decode")]
    pub(crate) special: bool,

    /// The other way round: TEXT is token ids, print what they spell
    #[arg(long, conflicts_with = "ids")]
    pub(crate) decode: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogitsArgs {
    /// The ids: decimal numbers in text (also a JSON array), or raw little-endian u32
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tokens: PathBuf,

    /// Where to write little-endian f32, one row of n_vocab per token
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) out: PathBuf,

    /// Tokens computed at a time [default: --batch]
    #[arg(long, value_name = "N", value_parser = batch, allow_negative_numbers = true)]
    pub(crate) chunk: Option<usize>,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Tokens to prefill, 0 for none; several lengths as 128,512
    #[arg(short = 'p', long, value_name = "N,...", default_value = "512")]
    #[arg(value_parser = lengths, allow_negative_numbers = true)]
    pub(crate) n_prompt: Lengths,

    /// Tokens to decode, 0 for none; several lengths as 16,128
    #[arg(short = 'n', long, value_name = "N,...", default_value = "128")]
    #[arg(value_parser = lengths, allow_negative_numbers = true)]
    pub(crate) n_gen: Lengths,

    /// Tokens in the context before each measurement
    #[arg(short = 'd', long, value_name = "N", default_value = "0")]
    #[arg(value_parser = tokens, allow_negative_numbers = true)]
    pub(crate) n_depth: usize,

    /// How often to measure
    #[arg(short, long, value_name = "N", default_value = "5", value_parser = count, allow_negative_numbers = true)]
    pub(crate) reps: usize,

    /// Let one context grow: START..MAX doubles it, START..MAX:STEP adds, START..MAX:xFACTOR multiplies
    ///
    /// At each length the tokens that are new are prefilled, then -n tokens are decoded behind them and dropped again.
    /// 2048..32768 measures at 2048, 4096, 8192, 16384 and 32768. ds4's --ctx-start, --ctx-max, --step-incr, --step-mul
    /// and --gen-tokens in one.
    #[arg(long, value_name = "LENGTHS", conflicts_with_all = ["n_prompt", "n_depth", "reps"])]
    pub(crate) sweep: Option<Sweep>,

    /// Decode in N contexts side by side, against one alone in the same run
    #[arg(long, value_name = "N", value_parser = sessions, allow_negative_numbers = true)]
    #[arg(conflicts_with_all = ["n_prompt", "sweep", "plot"])]
    pub(crate) sessions: Option<usize>,

    /// Draw the sweep: t/s against context, as SVG
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "sweep")]
    pub(crate) plot: Option<PathBuf>,

    /// Choose experts as a trace of routes says, not as the model does, to measure reads and caches
    ///
    /// Layers go through their rows one by one, and begin again after the last one.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) follow_routes: Option<PathBuf>,

    /// With --follow-routes: guess at the next layer's experts, so many of a hundred rightly [default: no guesses]
    #[arg(long, value_name = "PERCENT", requires = "follow_routes", value_parser = percent, allow_negative_numbers = true)]
    pub(crate) guesses_right: Option<u8>,

    /// For programs: the same, as JSON
    #[arg(long, conflicts_with = "csv")]
    pub(crate) json: bool,

    /// For programs: a row per measurement, as CSV
    ///
    /// Columns: kind (prefill or decode); n_depth, tokens in the context before; n, tokens measured; runs; median_tps,
    /// min_tps and max_tps, tokens per second; work, what a token costs: multiply-adds with weights in prefill, bytes
    /// read in decode; share of the limit, 0 to 1; read_gbps and int8_gmacs, the limits, measured in this run;
    /// kv_bytes_per_token, what a token of context takes. Of experts that are streamed: expert_hit_rate, the part that
    /// was in memory when chosen; expert_bytes_per_token; stalled_share, the part of the time spent waiting; ssd_share, of
    /// what the SSD delivers; guesses_per_token, experts read before their layer had chosen; guesses_right, the part that
    /// it then chose. With --sessions: n_sessions, n_depth, n, runs; alone_tps of one session alone, each_tps of each side by
    /// side, total_tps of all together with min_total_tps and max_total_tps; ratio of all together and one alone, with
    /// min_ratio and max_ratio.
    #[arg(long)]
    pub(crate) csv: bool,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, disable_help_subcommand = true)]
#[command(override_usage = "ds4 routes [OPTIONS] <FILE>\n       ds4 routes synth [OPTIONS] --out <FILE> <HOW>")]
pub(crate) struct RoutesArgs {
    #[command(subcommand)]
    pub(crate) command: Option<RoutesCommand>,

    /// A trace of routes, as docs/formats/routes.md describes it
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath, required = true)]
    pub(crate) file: Option<PathBuf>,

    /// Room for experts: so many, so much memory (500MB, 4GB), or a part of all (12.5%)
    ///
    /// 1MB is 2^20 bytes, 1GB is 2^30. No more than all experts; a part is rounded, to one at least.
    #[arg(long, value_name = "N|NGB|N%,...", default_value = "5%,10%,25%,50%,75%", allow_negative_numbers = true)]
    pub(crate) budgets: Budgets,

    /// Draw it: what is found in memory against the room there is, as SVG
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) plot: Option<PathBuf>,

    /// For programs: the same, as JSON
    #[arg(long, conflicts_with = "csv")]
    pub(crate) json: bool,

    /// For programs: a row per kind of batch, rule and budget, as CSV
    ///
    /// Columns: kind (decode or prefill); policy, the rule; n_slots, experts that there is room for; n_tokens; n_chosen,
    /// experts that batches chose, each once in a layer; n_misses, those that were read; hit_rate, 0 to 1;
    /// bytes_per_token, what is read for a token.
    #[arg(long)]
    pub(crate) csv: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoutesCommand {
    /// Make up a trace.
    Synth(SynthArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SynthArgs {
    /// uniform, cycle, zipf:S or drift:S
    ///
    /// uniform: all experts are equally likely; zipf:S: the r-th of a layer has weight r^-S, in an order of the layer's
    /// own; drift:S: the same, and with every token two of them change places; cycle: one after another, so that every
    /// token wants others.
    #[arg(value_name = "HOW")]
    pub(crate) choice: Choice,

    /// Where to write it
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) out: PathBuf,

    /// Layers
    #[arg(long, value_name = "N", default_value = "8", value_parser = count, allow_negative_numbers = true)]
    pub(crate) layers: usize,

    /// Experts of a layer
    #[arg(long, value_name = "N", default_value = "256", value_parser = count, allow_negative_numbers = true)]
    pub(crate) experts: usize,

    /// Experts that a token chooses in a layer
    #[arg(long, value_name = "N", default_value = "6", value_parser = count, allow_negative_numbers = true)]
    pub(crate) used: usize,

    /// Size of an expert, in bytes
    #[arg(long, value_name = "N", default_value = "7077888", value_parser = count, allow_negative_numbers = true)]
    pub(crate) expert_bytes: usize,

    /// Tokens that are decoded
    #[arg(short = 'n', long, value_name = "N", default_value = "512")]
    #[arg(value_parser = tokens, allow_negative_numbers = true)]
    pub(crate) tokens: usize,

    /// Tokens of a prompt before every answer, computed together [default: no prompts]
    #[arg(long, value_name = "N", value_parser = batch, allow_negative_numbers = true)]
    pub(crate) prompt: Option<usize>,

    /// Tokens of an answer [default: all that are decoded]
    #[arg(long, value_name = "N", requires = "prompt", value_parser = count, allow_negative_numbers = true)]
    pub(crate) answer: Option<usize>,

    /// Chance of each expert of the token before to be chosen again [default: 0]
    #[arg(long, value_name = "X", value_parser = chance, allow_negative_numbers = true)]
    pub(crate) keep: Option<f64>,

    /// Topics that answers have in turn, each with orders of its own [default: 1]
    #[arg(long, value_name = "N", requires = "answer", value_parser = count, allow_negative_numbers = true)]
    pub(crate) topics: Option<usize>,

    /// The same seed gives the same trace
    #[arg(long, value_name = "N", default_value = "1", value_parser = seed, allow_negative_numbers = true)]
    pub(crate) seed: u64,
}

/// Numbers of tokens, with commas between them.
#[derive(Clone, Debug)]
pub(crate) struct Lengths(pub(crate) Vec<usize>);

#[derive(Debug, Args)]
pub(crate) struct SsdArgs {
    /// For programs: the same in bytes, as JSON
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) cache: CacheArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    pub(crate) shell: clap_complete::Shell,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    Cpu,
}

impl ModelArgs {
    /// The options that the engine opens with.
    pub(crate) fn options(&self) -> engine::Options {
        engine::Options {
            threads: self.threads,
            isa: self.isa.clone(),
            kv: self.kv_type,
            n_batch: self.batch,
            experts: self.experts(),
            learning: if self.ssd_streaming_cold { Learning::Cold } else { Learning::Warm },
            cache_dir: if self.no_cache { None } else { self.cache.folder() },
            warn: terminal::note,
            ..engine::Options::new(model::origin(self.model.as_deref()))
        }
    }

    fn experts(&self) -> Experts {
        match self.ssd_streaming_cache_experts {
            Some(budget) => Experts::Streamed(budget),
            None if self.ssd_streaming => Experts::Streamed(Budget::Auto),
            None => Experts::Auto,
        }
    }
}

impl CacheArgs {
    /// The folder, unless nobody says where it could be.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        self.cache_dir.clone().or_else(folders::cache)
    }
}

impl ThinkingArgs {
    /// What was asked for: `None` leaves it to the model.
    pub(crate) fn wanted(&self) -> Option<bool> {
        let asked = self.think || self.think_max || self.effort.is_some();
        (asked || self.nothink).then_some(!self.nothink)
    }

    pub(crate) fn effort(&self) -> Option<Effort> {
        self.think_max.then_some(Effort::Max).or(self.effort)
    }

    /// Whether anything was.
    pub(crate) fn says(&self) -> bool {
        self.wanted().is_some() || self.budget.most() == Some(0)
    }

    /// How the model is asked.
    ///
    /// # Errors
    /// What it cannot do. Only one that always reasons is asked for nothing else: its reasoning is ended at once.
    pub(crate) fn granted(&self, chat: &dyn Chat) -> Result<ChatOptions, WishError> {
        let without = (self.budget.most() == Some(0)).then(|| grant(chat, Some(false), None));
        match without {
            None | Some(Err(WishError::AlwaysThinks)) => grant(chat, self.wanted(), self.effort()),
            Some(granted) => granted,
        }
    }
}

impl BudgetArgs {
    /// The most tokens of reasoning, if there is a bound.
    pub(crate) fn most(&self) -> Option<usize> {
        self.reasoning_budget.filter(|&n| n < usize::MAX)
    }
}

impl SamplingArgs {
    /// Whether the values mean something, which is known before a model is opened.
    ///
    /// # Errors
    /// A value outside its range, under the flag's name.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.options(&SamplerOptions::default()).map(|_| ())
    }

    /// The sampler's options, checked, with a seed: those of the model where no flag says otherwise.
    ///
    /// # Errors
    /// A value outside its range, under the flag's name.
    pub(crate) fn options(&self, of_model: &SamplerOptions) -> Result<SamplerOptions, Error> {
        let options = SamplerOptions {
            temperature: self.temp.unwrap_or(of_model.temperature),
            top_k: self.top_k.unwrap_or(of_model.top_k),
            top_p: self.top_p.unwrap_or(of_model.top_p),
            min_p: self.min_p.unwrap_or(of_model.min_p),
            repetition_penalty: self.repeat_penalty.unwrap_or(of_model.repetition_penalty),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            penalty_last_n: self.repeat_last_n.unwrap_or(of_model.penalty_last_n),
            seed: self.seed.unwrap_or_else(fresh_seed),
            may_repeat: self.may_repeat,
        };
        options.check().map_err(|e| self.refused(&e))?;
        Ok(options)
    }

    /// A value outside its range, and who gave it.
    fn refused(&self, e: &SamplerError) -> Error {
        let (value, flag) = (e.value.to_string(), flag_of(e.field));
        let is_the_models = match e.field {
            "temperature" => self.temp.is_none(),
            "top_p" => self.top_p.is_none(),
            "min_p" => self.min_p.is_none(),
            "repetition_penalty" => self.repeat_penalty.is_none(),
            _ => false,
        };
        match is_the_models {
            true => Error::Recommended { key: sampling_key(e.field), value, allowed: e.allowed, flag },
            false => Error::Value { flag, value, allowed: e.allowed.into() },
        }
    }
}

/// The flag that sets a field of [`SamplerOptions`].
fn flag_of(field: &str) -> String {
    match field {
        "temperature" => "--temp".into(),
        "repetition_penalty" => "--repeat-penalty".into(),
        other => format!("--{}", other.replace('_', "-")),
    }
}

/// A seed short enough to be typed again.
fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    RandomState::new().build_hasher().finish() >> 32
}

fn kv_types() -> impl TypedValueParser<Value = KvType> {
    PossibleValuesParser::new(KvType::ALL.map(|(name, _)| name))
        .map(|name| KvType::from_name(&name).expect("no other name passes"))
}

fn efforts() -> impl TypedValueParser<Value = Effort> {
    PossibleValuesParser::new(EFFORTS.map(Effort::name)).map(|name| effort_named(&name).expect("no other name passes"))
}

/// A number of things, at least one.
fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("must be a whole number, at least 1".into()),
    }
}

/// A number of things, or none.
fn whole(text: &str) -> Result<usize, String> {
    between(text, 0..=usize::MAX)
}

/// A number of tokens, or -1 for as many as there are.
fn budget(text: &str) -> Result<usize, String> {
    if text == "-1" { Ok(usize::MAX) } else { whole(text).map_err(|allowed| format!("{allowed}, or -1")) }
}

fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("must be a whole number, 0 to {}", u64::MAX))
}

/// The most tokens to measure with: as many as the longest context holds, so that their sums are numbers too.
pub(crate) const TOKENS_MAX: usize = 1 << 30;

fn tokens(text: &str) -> Result<usize, String> {
    between(text, 0..=TOKENS_MAX)
}

fn lengths(text: &str) -> Result<Lengths, String> {
    let all = text.split(',').map(tokens).collect::<Result<_, _>>();
    all.map(Lengths).map_err(|_| format!("must be whole numbers, 0 to {TOKENS_MAX}, with commas between them"))
}

fn number(text: &str) -> Result<f32, String> {
    text.parse().map_err(|_| "must be a number".into())
}

fn chance(text: &str) -> Result<f64, String> {
    let chance = text.parse().ok().filter(|x| (0.0..=1.0).contains(x));
    chance.ok_or_else(|| "must be a number, 0 to 1".into())
}

/// More threads than any machine has cores; many more, and the system refuses to start them.
fn threads(text: &str) -> Result<usize, String> {
    between(text, 1..=1024)
}

/// The engine computes no more at a time.
fn batch(text: &str) -> Result<usize, String> {
    between(text, 1..=65536)
}

/// Contexts side by side: more would take more memory than they are worth.
fn sessions(text: &str) -> Result<usize, String> {
    between(text, 1..=64)
}

fn percent(text: &str) -> Result<u8, String> {
    between(text, 0..=100).map(|n| n as u8)
}

/// `auto`, a number of experts, or of bytes in MB (2^20) or GB (2^30).
pub(crate) fn expert_cache(text: &str) -> Result<Budget, String> {
    let lower = text.to_lowercase();
    let bytes = |n: &str, unit: u64| n.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).map(Budget::Bytes);
    let budget = match (&*lower, lower.strip_suffix("gb"), lower.strip_suffix("mb")) {
        ("auto", ..) => Some(Budget::Auto),
        (_, Some(n), _) => bytes(n, 1 << 30),
        (_, _, Some(n)) => bytes(n, 1 << 20),
        (n, ..) => n.parse().ok().map(Budget::Count),
    };
    let none = [Budget::Count(0), Budget::Bytes(0)];
    budget
        .filter(|b| !none.contains(b))
        .ok_or_else(|| "must be a number of experts, memory as in 500MB or 4GB, or auto".into())
}

fn between(text: &str, allowed: RangeInclusive<usize>) -> Result<usize, String> {
    let n = text.parse().ok().filter(|n| allowed.contains(n));
    n.ok_or_else(|| format!("must be a whole number, {} to {}", allowed.start(), allowed.end()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn a_cache_of_experts_is_a_number_or_memory() {
        let budget = |text: &str| expert_cache(text).ok();
        assert_eq!(budget("auto"), Some(Budget::Auto));
        assert_eq!(budget("96"), Some(Budget::Count(96)));
        assert_eq!(budget("32GB"), Some(Budget::Bytes(32 << 30)));
        assert_eq!(budget("500mb"), Some(Budget::Bytes(500 << 20)));
        for wrong in ["", "0", "0GB", "-1", "1.5GB", "GB", "4 GB", "4TB", "99999999999999GB", "all"] {
            assert_eq!(budget(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_table_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sampling_values_are_the_models_or_of_flags_and_refused_under_their_names() {
        let of_model = SamplerOptions { temperature: 0.5, top_k: 9, ..SamplerOptions::default() };
        let options = |args: &[&str]| {
            let cli = Cli::parse_from(["ds4"].iter().chain(args));
            cli.chat.sampling.options(&of_model).map_err(|e| e.to_string())
        };
        assert_eq!(options(&["--seed", "7"]).unwrap(), SamplerOptions { seed: 7, ..of_model.clone() });
        let hot = options(&["--seed", "7", "--temp", "2"]).unwrap();
        assert_eq!(hot, SamplerOptions { seed: 7, temperature: 2.0, ..of_model.clone() });
        assert_eq!(options(&["--repeat-last-n", "-1"]).unwrap().penalty_last_n, usize::MAX);
        assert_eq!(options(&["--temp", "-1"]).unwrap_err(), "--temp -1: must be a finite number, 0 or more");
        assert_eq!(
            options(&["--repeat-penalty", "0"]).unwrap_err(),
            "--repeat-penalty 0: must be a finite number above 0"
        );
        assert_eq!(options(&["--temp", "inf"]).unwrap_err(), "--temp inf: must be a finite number, 0 or more");
        assert!(options(&["--top-p", "1e-45", "--repeat-penalty", "1e-45"]).is_ok());
        assert_eq!(options(&["--top-p", "nan"]).unwrap_err(), "--top-p NaN: must be above 0, up to 1");
    }

    #[test]
    fn what_a_model_recommends_is_refused_unless_a_flag_puts_it_right() {
        let of_model = SamplerOptions { top_p: 1.5, ..SamplerOptions::default() };
        let options = |args: &[&str]| Cli::parse_from(["ds4"].iter().chain(args)).chat.sampling.options(&of_model);
        let refused = options(&[]).unwrap_err();
        assert_eq!(refused.to_string(), "general.sampling.top_p of the model is 1.5, but must be above 0, up to 1");
        assert!(refused.report().contains("--top-p"), "{}", refused.report());
        assert!(options(&["--top-p", "0.9"]).is_ok());
    }

    #[test]
    fn the_defaults_that_help_tells_are_those_of_the_sampler() {
        let default = SamplerOptions::default();
        let command = Cli::command();
        let told = |flag: &str| {
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag)).unwrap();
            let help = arg.get_help().unwrap().to_string();
            help.split_once("[default: the model's, or ").unwrap().1.trim_end_matches(']').to_owned()
        };
        assert_eq!(told("temp"), default.temperature.to_string());
        assert_eq!(told("top-k"), default.top_k.to_string());
        assert_eq!(told("top-p"), default.top_p.to_string());
        assert_eq!(told("min-p"), default.min_p.to_string());
        assert_eq!(told("repeat-penalty"), default.repetition_penalty.to_string());
        assert_eq!(told("repeat-last-n"), default.penalty_last_n.to_string());
    }

    #[test]
    fn thinking_is_left_to_the_model_unless_asked_for() {
        let wanted = |args: &[&str]| {
            let cli = Cli::parse_from(["ds4"].iter().chain(args));
            (cli.chat.thinking.wanted(), cli.chat.thinking.effort())
        };
        assert_eq!(wanted(&[]), (None, None));
        assert_eq!(wanted(&["--think"]), (Some(true), None));
        assert_eq!(wanted(&["--nothink"]), (Some(false), None));
        assert_eq!(wanted(&["--think-max"]), (Some(true), Some(Effort::Max)));
        assert_eq!(wanted(&["--effort", "low"]), (Some(true), Some(Effort::Low)));
    }

    #[test]
    fn no_reasoning_may_be_asked_for_as_a_budget() {
        let template = |source: &str| models::Template::new(source, "", "", []).unwrap();
        let (may, always) = (template("{% if thinking %}<think>{% endif %}"), template("<think>"));
        let granted = |chat: &models::Template, args: &[&str]| {
            let cli = Cli::parse_from(["ds4"].iter().chain(args));
            (cli.chat.thinking.granted(chat).unwrap().thinking, cli.chat.thinking.budget.most())
        };
        assert_eq!(granted(&may, &["--reasoning-budget", "0"]), (false, Some(0)));
        assert_eq!(granted(&may, &["--reasoning-budget", "0", "--think"]), (false, Some(0)));
        assert_eq!(granted(&may, &["--reasoning-budget", "9"]), (true, Some(9)));
        assert_eq!(granted(&may, &["--reasoning-budget=-1"]), (true, None));
        assert_eq!(granted(&always, &["--reasoning-budget", "0"]), (true, Some(0)), "it is ended at once");
        let wrong = Cli::try_parse_from(["ds4", "--reasoning-budget", "-2"]).unwrap_err().to_string();
        assert!(wrong.contains("or -1"), "{wrong}");
    }
}
