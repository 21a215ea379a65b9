//! What ds4's users know and this version has not. Such a flag is refused by name, with the reason: it is never
//! ignored, for who asks for streaming and gets a machine out of memory has been lied to.

use crate::error::Error;

const STREAMING: &str = "the cache of experts fills by itself, beginning with those that were used most before";
const MEMORY: &str = "free memory is measured, and the cache of experts can be given a size";
const KV_BLOCKS: &str = "what is computed is kept as it comes, in blocks of 256 tokens";
const KV_MODELS: &str = "what another model or format has left is never used";
const DRAFTS: &str = "tokens are not drafted ahead yet";
const GPU: &str = "it computes on the CPU";
const MACHINES: &str = "it runs on one machine";
const SERVER: &str = "the server has other means";
const STEERING: &str = "activations are not steered yet";
const IMAGES: &str = "models read text only";
const AGENT: &str = "there is no coding agent yet";
const PACE: &str = "it always computes at full speed, by exact kernels, in the folder it was started in";

/// Flags and commands by reason. A name that ends in `-` stands for all flags that begin like it.
const REFUSED: [(&str, &[&str]); 13] = [
    (STREAMING, &["--ssd-streaming-full-layers", "--ssd-streaming-preload-experts", "--expert-profile"]),
    (MEMORY, &["--simulate-used-memory"]),
    (KV_MODELS, &["--kv-cache-reject-different-quant"]),
    (KV_BLOCKS, &["--kv-cache-"]),
    (DRAFTS, &["--mtp", "--mtp-", "--glm-mtp", "--glm-mtp-timing", "--dspark", "--dspark-"]),
    (GPU, &["--metal", "--cuda", "--rocm", "--gpu-vram", "--gpu-devices", "--cuda-tensor-parallel"]),
    (
        MACHINES,
        &["--role", "--layers", "--listen", "--coordinator", "--dist-", "--tensor-parallel", "--tensor-parallel-"],
    ),
    (MACHINES, &["--transport", "--rdma-", "--debug-hash", "worker"]),
    (SERVER, &["--mixed-prefill-quantum"]),
    (STEERING, &["--dir-steering-"]),
    (IMAGES, &["--vision", "--ui-logo"]),
    (AGENT, &["agent", "--non-interactive", "--edit-upto", "--tool-memory-max-ids"]),
    (PACE, &["--power", "--quality", "--warm-weights", "--chdir"]),
];

/// How a benchmark's growing context is asked for.
const SWEEP: &str = "ds4 bench --sweep START..MAX:STEP lets a context grow, -n says how many tokens are decoded";

/// How importance is collected.
const IMATRIX: &str = "ds4 imatrix -m FILE -f TEXT --out FILE collects importance";

/// What this version does in another way, and how.
const ELSEWHERE: [(&str, &str); 26] = [
    ("--server", "ds4 serve is the server"),
    ("--batched-session", "--sessions says how many conversations are answered at the same time"),
    ("--inspect", "ds4 inspect FILE looks inside a model"),
    ("--dump-tokens", "ds4 tokenize -m FILE TEXT shows the tokens of a text"),
    ("--dump-logits", "ds4 logits writes them, as raw floats"),
    ("--dump-logprobs", "ds4 logits writes the logits they come from"),
    ("--logprobs-top-k", "ds4 logits writes the logits they come from"),
    ("--perplexity-file", "ds4 perplexity -m MODEL -f FILE measures it"),
    ("--prefix-file", "pipe the earlier turns in as text, or talk in a conversation"),
    ("--think-level", "--effort low, high or max says how hard to reason"),
    ("--ctx-start", SWEEP),
    ("--ctx-max", SWEEP),
    ("--step-incr", SWEEP),
    ("--step-mul", SWEEP),
    ("--gen-tokens", SWEEP),
    ("--imatrix-dataset", IMATRIX),
    ("--imatrix-out", IMATRIX),
    ("--imatrix-max-prompts", "ds4 imatrix has --max-prompts"),
    ("--imatrix-max-tokens", "ds4 imatrix has --max-tokens"),
    ("--imatrix-min-expert-samples", "ds4 imatrix --show FILE tells which experts were rarely met"),
    ("pull", "download a GGUF file yourself and pass it with -m"),
    ("list", "models are files: pass one with -m"),
    ("rm", "models are files: delete them as such"),
    ("plan", "the memory plan is printed before anything is allocated"),
    ("eval", "ds4 logits writes logits, for programs that judge them"),
    ("doctor", "ds4 inspect FILE checks a file, ds4 bench the machine"),
];

/// The refusal of `arg`, if it is known.
pub(crate) fn refusal(arg: &str) -> Option<Error> {
    let name = arg.split_once('=').map_or(arg, |(name, _)| name);
    let stands_for = |known: &&str| name == *known || known.ends_with('-') && name.starts_with(*known);
    if let Some((_, instead)) = ELSEWHERE.iter().find(|(known, _)| *known == name) {
        return Some(Error::NotYet { what: name.into(), reason: None, help: (*instead).into() });
    }
    let (reason, _) = REFUSED.iter().find(|(_, names)| names.iter().any(stands_for))?;
    let help = if name.starts_with('-') { "leave the flag out" } else { "ds4 --help lists what there is" };
    Some(Error::NotYet { what: name.into(), reason: Some(reason), help: help.into() })
}

/// The refusal of a place to compute that is not the CPU.
pub(crate) fn backend(name: &str) -> Error {
    let help = "leave the flag out".into();
    Error::NotYet { what: format!("--backend {name}"), reason: Some(GPU), help }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn what_ds4_has_is_refused_with_the_reason() {
        let line = |arg| refusal(arg).map(|e| e.to_string());
        assert_eq!(
            line("--ssd-streaming-preload-experts=32").unwrap(),
            format!("--ssd-streaming-preload-experts is not in this version: {STREAMING}")
        );
        assert_eq!(line("--mtp").unwrap(), format!("--mtp is not in this version: {DRAFTS}"));
        assert_eq!(line("--dump-tokens").unwrap(), "--dump-tokens is not in this version");
        assert_eq!(line("--mtpx"), None);
        assert_eq!(line("--tmp"), None);
    }

    #[test]
    fn nothing_that_exists_is_refused() {
        let cli = crate::args::Cli::command();
        for arg in cli.get_arguments().flat_map(|a| a.get_long_and_visible_aliases().unwrap_or_default()) {
            assert!(refusal(&format!("--{arg}")).is_none(), "--{arg}");
        }
        for command in cli.get_subcommands() {
            assert!(refusal(command.get_name()).is_none(), "{}", command.get_name());
        }
    }
}
