//! `ds4 routes synth`: writes a trace that is made up.

use experts::trace::{
    Head,
    synth::{Choice, Recipe},
};

use crate::{
    args::SynthArgs,
    error::Error,
    output::{self, NewFile},
};

/// What one batch, or the orders of all topics, may take in memory: so many numbers.
const NUMBERS_MAX: usize = 1 << 28;

/// Writes what `args` asks for.
pub(super) fn run(args: &SynthArgs) -> Result<(), Error> {
    output::check_name(&args.out)?;
    let recipe = recipe(args)?;
    let mut out = NewFile::create(&args.out)?;
    out.text(&recipe.head.lines())?;
    for (number, batch) in (0..).zip(recipe.batches()) {
        batch.layers.iter().try_for_each(|layer| out.text(&layer.lines(number)))?;
    }
    out.finish()
}

fn recipe(args: &SynthArgs) -> Result<Recipe, Error> {
    let refuse = |wrong: bool, what: &str, help: &str| match wrong {
        true => Err(Error::Usage { what: what.into(), help: help.into() }),
        false => Ok(()),
    };
    let (n_layer, n_expert, n_used) = (args.layers, args.experts, args.used);
    let head = Head { n_layer, n_expert, n_used, expert_bytes: args.expert_bytes as u64 };
    head.check().or_else(|what| refuse(true, &what, "lower --layers, --experts or --used"))?;
    let is_tied = args.keep.is_some() || args.topics.is_some();
    let (n_prompt, n_topic) = (args.prompt.unwrap_or(0), args.topics.unwrap_or(1));
    let too_many = |a: usize, b: usize| a.saturating_mul(b) > NUMBERS_MAX;
    refuse(args.tokens == 0, "there are no tokens to decode", "give --tokens at least 1")?;
    refuse(too_many(n_prompt, n_layer * n_used), "a prompt makes too many choices for memory", "lower --prompt")?;
    refuse(too_many(n_topic, head.n_experts()), "topics have too many experts for memory", "lower --topics")?;
    let is_cycle = args.choice == Choice::Cycle;
    refuse(is_cycle && is_tied, "in a cycle, every token chooses others", "leave out --keep and --topics")?;
    Ok(Recipe {
        head,
        choice: args.choice,
        n_decode: args.tokens,
        n_prompt,
        n_answer: args.answer.unwrap_or(args.tokens),
        keep: args.keep.unwrap_or(0.0),
        n_topic,
        seed: args.seed,
    })
}
