//! Flags, help and messages, as a user sees them.

mod common;

use common::{cut, ds4, run, run_with, scratch, testdata};
use expect_test::{Expect, expect};

fn check(args: &[&str], expect: Expect) {
    expect.assert_eq(&run(args).show());
}

#[test]
fn help_is_short_with_one_dash() {
    check(
        &["-h"],
        expect![[r#"
            Runs large language models on your own machine

            Usage: ds4 [-m FILE] [-p TEXT] [flags]
                   ds4 COMMAND [flags]

            Commands:
              serve        Answer clients of OpenAI's interface over HTTP
              inspect      Look inside a model file
              tokenize     Show how a text becomes tokens, or tokens a text
              logits       Write the raw logits of given token ids
              perplexity   Measure how likely models find a text, and how far they are from one of them
              bench        Measure prefill and decode in tokens per second
              ssd          Show what was read from the SSD and written to it, day by day
              routes       Tell which experts a cache would have kept, by several rules
              quantize     Pack the weights of a model into fewer bits, by a recipe
              imatrix      Collect what a quantizer should know: how large the inputs of each matrix are, by
                           column
              kv           Look after a folder of what conversations computed
              completions  Print a completion script for a shell

            Options:
              -h, --help     Print help (see more with '--help')
              -V, --version  Print version

            Model:
              -m, --model <FILE>
                      The model: a GGUF file, or the first one of a split model [default: Nano, which is in this
                      program]
              -t, --threads <N>
                      Threads to compute with [default: one per physical core]
                  --isa <NAME>
                      Instruction set to use, such as avx2 [default: the best there is]
                  --batch <N>
                      Tokens computed at a time while reading the prompt [default: 512]
                  --kv-type <TYPE>
                      How the KV cache is stored [default: native] [possible values: f32, f16, native]
                  --ssd-streaming
                      Read a mixture's experts from the SSD when they are chosen [default: if the model does not
                      fit into memory]
                  --ssd-streaming-cache-experts <N|NGB|auto>
                      Memory for experts that are read from the SSD [default: auto]
                  --ssd-streaming-cold
                      Start without the experts that were used most before
                  --cache-dir <DIR>
                      Folder for what is kept between runs [default: the system's for caches]
                  --no-cache
                      Keep nothing for the next run
                  --route-trace <FILE>
                      Write down which experts every token chooses

            Prompt:
              -p, --prompt <TEXT>       Answer this once; -p=TEXT if it begins with a dash
                  --prompt-file <FILE>  Answer what this file says
                  --system <TEXT>       Instructions that come before the conversation (-sys for short)
                  --raw                 Continue the text as it is, without a chat template
              -c, --ctx <N>             Room for the conversation, in tokens [default: what the model knows and
                                        memory holds]
              -n, --tokens <N>          Longest answer, in tokens, reasoning included [default: until the
                                        context is full]

            Thinking:
                  --think                 Reason before answering (the default of models that can)
                  --nothink               Answer at once
                  --effort <HOW>          How hard to reason [possible values: low, high, max]
                  --think-max             The same as --effort max
                  --reasoning-budget <N>  Most tokens of reasoning, 0 for none, -1 for no bound [default: -1]
                  --show-thinking         Write the reasoning to stdout even when that is not a terminal

            Form of the answer:
              -j, --json-schema <SCHEMA>     Answer in JSON that is valid by this JSON schema, {} for any
                  --json-schema-file <FILE>  Answer in JSON that is valid by the schema in this file

            Sampling:
                  --temp <X>               Below 1 more certain, above 1 more random, 0 always the likeliest
                                           token [default: the model's, or 1]
                  --top-k <N>              Draw from the N likeliest tokens only, 0 or -1 for all [default: the
                                           model's, or 0]
                  --top-p <X>              Draw from the likeliest tokens that make up this share [default: the
                                           model's, or 1]
                  --min-p <X>              Draw from tokens at least this likely, relative to the likeliest
                                           [default: the model's, or 0.05]
                  --repeat-penalty <X>     Divide the logits of recent tokens by this [default: the model's, or
                                           1]
                  --presence-penalty <X>   Lower the logits of recent tokens by this [default: 0]
                  --frequency-penalty <X>  Lower the logits of recent tokens by this for each occurrence
                                           [default: 0]
                  --repeat-last-n <N>      How many tokens are recent for these, the prompt's included, -1 for
                                           all [default: the model's, or 64]
                  --may-repeat             Let an answer go on that says the same again and again
                  --seed <N>               The same seed gives the same answer [default: a new one each time]

            Memory:
                  --session <NAME>           Go on with the conversation of this name, or begin it
                  --kv-disk-dir <DIR>        Folder for what conversations compute, so that no token is computed
                                             twice
                  --kv-disk-space-mb <N>     The most that is kept there, in MB (2^20 bytes) [default: 4096]
                  --kv-ram-mb <N>            The most of it that is in memory, in MB [default: 256]
                  --kv-write-gb-per-day <N>  The most that is written there in a day, in GB (2^30 bytes)
                                             [default: 64]

            Answers go to stdout, everything else to stderr; ds4 --help tells more.
            exit 0
        "#]],
    );
}

#[test]
fn help_is_whole_with_two() {
    let ran = run(&["--help"]);
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""));
    let mut topics = ["Prompt: ", "Output: ", "Ctrl+C ", "Exit status: ", "  -m, --model <FILE>"].iter();
    assert!(topics.all(|topic| ran.out_str().lines().any(|line| line.starts_with(topic))), "{}", ran.out_str());
    assert!(ran.out_str().lines().all(|line| line.chars().count() <= 100));
}

#[test]
fn help_says_what_units_of_memory_mean() {
    for args in [&["--help"][..], &["routes", "--help"]] {
        let words = run(args).out_str().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("500MB") && words.contains("1MB is 2^20 bytes, 1GB is 2^30"), "{words}");
    }
}

#[test]
fn every_command_has_help() {
    check(
        &["bench", "-h"],
        expect![[r#"
            Measure prefill and decode in tokens per second

            Usage: ds4 bench [OPTIONS]

            Options:
              -p, --n-prompt <N,...>         Tokens to prefill, 0 for none; several lengths as 128,512 [default:
                                             512]
              -n, --n-gen <N,...>            Tokens to decode, 0 for none; several lengths as 16,128 [default:
                                             128]
              -d, --n-depth <N>              Tokens in the context before each measurement [default: 0]
              -r, --reps <N>                 How often to measure [default: 5]
                  --sweep <LENGTHS>          Let one context grow: START..MAX doubles it, START..MAX:STEP adds,
                                             START..MAX:xFACTOR multiplies
                  --sessions <N>             Decode in N contexts side by side, against one alone in the same
                                             run
                  --plot <FILE>              Draw the sweep: t/s against context, as SVG
                  --follow-routes <FILE>     Choose experts as a trace of routes says, not as the model does, to
                                             measure reads and caches
                  --guesses-right <PERCENT>  With --follow-routes: guess at the next layer's experts, so many of
                                             a hundred rightly [default: no guesses]
                  --json                     For programs: the same, as JSON
                  --csv                      For programs: a row per measurement, as CSV
              -h, --help                     Print help (see more with '--help')

            Model:
              -m, --model <FILE>
                      The model: a GGUF file, or the first one of a split model [default: Nano, which is in this
                      program]
              -t, --threads <N>
                      Threads to compute with [default: one per physical core]
                  --isa <NAME>
                      Instruction set to use, such as avx2 [default: the best there is]
                  --batch <N>
                      Tokens computed at a time while reading the prompt [default: 512]
                  --kv-type <TYPE>
                      How the KV cache is stored [default: native] [possible values: f32, f16, native]
                  --ssd-streaming
                      Read a mixture's experts from the SSD when they are chosen [default: if the model does not
                      fit into memory]
                  --ssd-streaming-cache-experts <N|NGB|auto>
                      Memory for experts that are read from the SSD [default: auto]
                  --ssd-streaming-cold
                      Start without the experts that were used most before
                  --cache-dir <DIR>
                      Folder for what is kept between runs [default: the system's for caches]
                  --no-cache
                      Keep nothing for the next run
                  --route-trace <FILE>
                      Write down which experts every token chooses
            exit 0
        "#]],
    );
    check(
        &["logits", "-h"],
        expect![[r#"
            Write the raw logits of given token ids

            Usage: ds4 logits [OPTIONS] --tokens <FILE> --out <FILE>

            Options:
                  --tokens <FILE>  The ids: decimal numbers in text (also a JSON array), or raw little-endian
                                   u32
              -o, --out <FILE>     Where to write little-endian f32, one row of n_vocab per token
                  --chunk <N>      Tokens computed at a time [default: --batch]
              -h, --help           Print help (see more with '--help')

            Model:
              -m, --model <FILE>
                      The model: a GGUF file, or the first one of a split model [default: Nano, which is in this
                      program]
              -t, --threads <N>
                      Threads to compute with [default: one per physical core]
                  --isa <NAME>
                      Instruction set to use, such as avx2 [default: the best there is]
                  --batch <N>
                      Tokens computed at a time while reading the prompt [default: 512]
                  --kv-type <TYPE>
                      How the KV cache is stored [default: native] [possible values: f32, f16, native]
                  --ssd-streaming
                      Read a mixture's experts from the SSD when they are chosen [default: if the model does not
                      fit into memory]
                  --ssd-streaming-cache-experts <N|NGB|auto>
                      Memory for experts that are read from the SSD [default: auto]
                  --ssd-streaming-cold
                      Start without the experts that were used most before
                  --cache-dir <DIR>
                      Folder for what is kept between runs [default: the system's for caches]
                  --no-cache
                      Keep nothing for the next run
                  --route-trace <FILE>
                      Write down which experts every token chooses
            exit 0
        "#]],
    );
    check(
        &["tokenize", "-h"],
        expect![[r#"
            Show how a text becomes tokens, or tokens a text

            Usage: ds4 tokenize [OPTIONS] [TEXT]

            Arguments:
              [TEXT]  The text; stdin if absent

            Options:
              -m, --model <FILE>  The model whose vocabulary to use [default: Nano's]
                  --ids           Print ids only, on one line
                  --special       Take the names of special tokens, such as <|im_end|>, for the tokens
                  --decode        The other way round: TEXT is token ids, print what they spell
              -h, --help          Print help
            exit 0
        "#]],
    );
    check(
        &["ssd", "-h"],
        expect![[r#"
        Show what was read from the SSD and written to it, day by day

        Usage: ds4 ssd [OPTIONS]

        Options:
              --json             For programs: the same in bytes, as JSON
              --cache-dir <DIR>  Folder for what is kept between runs [default: the system's for caches]
          -h, --help             Print help (see more with '--help')
        exit 0
    "#]],
    );
    check(
        &["routes", "-h"],
        expect![[r#"
        Tell which experts a cache would have kept, by several rules

        Usage: ds4 routes [OPTIONS] <FILE>
               ds4 routes synth [OPTIONS] --out <FILE> <HOW>

        Commands:
          synth  Make up a trace

        Arguments:
          <FILE>  A trace of routes, as docs/formats/routes.md describes it

        Options:
              --budgets <N|NGB|N%,...>  Room for experts: so many, so much memory (500MB, 4GB), or a part of
                                        all (12.5%) [default: 5%,10%,25%,50%,75%]
              --plot <FILE>             Draw it: what is found in memory against the room there is, as SVG
              --json                    For programs: the same, as JSON
              --csv                     For programs: a row per kind of batch, rule and budget, as CSV
          -h, --help                    Print help (see more with '--help')
        exit 0
    "#]],
    );
    check(
        &["routes", "synth", "-h"],
        expect![[r#"
            Make up a trace

            Usage: ds4 routes synth [OPTIONS] --out <FILE> <HOW>

            Arguments:
              <HOW>  uniform, cycle, zipf:S or drift:S

            Options:
              -o, --out <FILE>        Where to write it
                  --layers <N>        Layers [default: 8]
                  --experts <N>       Experts of a layer [default: 256]
                  --used <N>          Experts that a token chooses in a layer [default: 6]
                  --expert-bytes <N>  Size of an expert, in bytes [default: 7077888]
              -n, --tokens <N>        Tokens that are decoded [default: 512]
                  --prompt <N>        Tokens of a prompt before every answer, computed together [default: no
                                      prompts]
                  --answer <N>        Tokens of an answer [default: all that are decoded]
                  --keep <X>          Chance of each expert of the token before to be chosen again [default: 0]
                  --topics <N>        Topics that answers have in turn, each with orders of its own [default: 1]
                  --seed <N>          The same seed gives the same trace [default: 1]
              -h, --help              Print help (see more with '--help')
            exit 0
        "#]],
    );
    check(
        &["inspect", "-h"],
        expect![[r#"
            Look inside a model file

            Usage: ds4 inspect [OPTIONS] [FILE]

            Arguments:
              [FILE]  The GGUF file, or the first one of a split model [default: Nano, which is in this program]

            Options:
                  --tensors  List every tensor
                  --json     For programs: everything, as JSON
              -h, --help     Print help
            exit 0
        "#]],
    );
}

#[test]
fn the_version_is_told() {
    check(
        &["--version"],
        expect![[r#"
        ds4 0.1.0
        exit 0
    "#]],
    );
}

#[test]
fn wrong_flags_end_in_two_lines_and_exit_status_2() {
    check(
        &["--wrong"],
        expect![[r#"
            error: unknown flag '--wrong'
            help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
            exit 2
        "#]],
    );
    check(
        &["-m", "x.gguf", "--ssd-streaming-full-layers"],
        expect![[r#"
        error: --ssd-streaming-full-layers is not in this version: the cache of experts fills by itself, beginning with those that were used most before
        help: leave the flag out
        exit 2
    "#]],
    );
    check(
        &["-m", "x.gguf", "-p", "Hi", "--temp", "-1"],
        expect![[r#"
        error: --temp -1: must be a finite number, 0 or more
        exit 2
    "#]],
    );
}

#[test]
fn an_empty_prompt_is_refused_before_the_model_is_read() {
    check(
        &["-m", "missing.gguf", "-p", ""],
        expect![[r#"
        error: the prompt is empty
        help: say something after -p, in the file of --prompt-file, or through a pipe
        exit 2
    "#]],
    );
    check(
        &["-m", "missing.gguf"],
        expect![[r#"
        error: the prompt is empty
        help: say something after -p, in the file of --prompt-file, or through a pipe
        exit 2
    "#]],
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    check(
        &["-m", "missing.gguf", "-p", "Hi"],
        expect![[r#"
        error: missing.gguf: no such file or directory
        help: check the path
        exit 2
    "#]],
    );
    check(
        &["-m", "x.gguf", "--prompt-file", "missing.txt"],
        expect![[r#"
        error: missing.txt: no such file or directory
        help: check the path
        exit 2
    "#]],
    );
    check(
        &["-m", ".", "-p", "Hi"],
        expect![[r#"
        error: .: is a folder, not a file
        help: give the path of a .gguf file
        exit 2
    "#]],
    );
    check(
        &["inspect", "."],
        expect![[r#"
        error: .: is a folder, not a file
        help: give the path of a .gguf file
        exit 2
    "#]],
    );
}

#[test]
fn a_prompt_that_is_not_text_is_refused() {
    let ran = run_with(&["-m", "x.gguf"], b"ab\xff");
    expect![[r#"
        error: standard input: not UTF-8 text: byte 2 is 0xff
        help: convert it to UTF-8 first
        exit 2
    "#]]
    .assert_eq(&ran.show());
}

/// One line says what is wrong, with exit status 2, wherever the file was cut.
#[test]
fn a_truncated_file_is_refused_by_every_command() {
    for len in [0, 3, 100, 5_000, 1_000_000] {
        let path = cut("llama/micro.gguf", len, &format!("cut-{len}.gguf"));
        let path = path.to_str().unwrap();
        for args in
            [&["-p", "Hi", "-m", path][..], &["inspect", path], &["bench", "-m", path], &["tokenize", "-m", path, "Hi"]]
        {
            let ran = run(args);
            let told = ran.err.lines().filter(|line| line.starts_with("error: ")).count();
            assert_eq!((ran.status, told, ran.out.len()), (Some(2), 1, 0), "{args:?}: {}", ran.err);
            assert!(ran.err.lines().count() <= 2, "{}", ran.err);
        }
    }
}

#[test]
fn names_cannot_speak_to_the_terminal() {
    check(
        &["inspect", "\x1b]0;owned\x07\n.gguf"],
        expect![[r#"
        error: \u{1b}]0;owned\u{7}\n.gguf: no such file or directory
        help: check the path
        exit 2
    "#]],
    );
}

#[cfg(unix)]
#[test]
fn arguments_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let ran: common::Ran = ds4().arg("-p").arg(std::ffi::OsStr::from_bytes(b"\xff")).output().unwrap().into();
    expect![[r#"
        error: invalid UTF-8 was detected in one or more arguments
        help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        exit 2
    "#]]
    .assert_eq(&ran.show());
}

#[test]
fn shells_can_complete_the_flags() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(&["completions", shell]);
        assert_eq!(ran.status, Some(0));
        assert!(ran.out_str().contains("prompt-file"), "{shell}");
    }
}

#[test]
fn nothing_is_left_in_the_folder() {
    let before = std::fs::read_dir(scratch()).unwrap().count();
    run(&["-m", "missing.gguf", "-p", "Hi"]);
    run(&["--wrong"]);
    assert!(std::fs::read_dir(scratch()).unwrap().count() >= before);
    assert!(!scratch().join(".local").exists());
}

#[test]
fn where_a_server_writes_is_looked_at_before_the_model() {
    let other = scratch().join("no-trace.txt");
    std::fs::write(&other, "dear diary").unwrap();
    let other = other.to_str().unwrap();
    for (path, why) in
        [(".", ".: is no ordinary file"), ("missing/trace", "no such file"), (other, "not empty, and no trace")]
    {
        let ran = run(&["serve", "-m", "missing.gguf", "--port", "0", "--trace", path]);
        assert!(ran.status == Some(2) && ran.err.contains(why) && ran.err.lines().count() == 2, "{}", ran.err);
    }
    let ran = run(&["serve", "-m", "missing.gguf", "--trace-redact"]);
    assert!(ran.status == Some(2) && ran.err.contains("--trace <FILE>"), "{}", ran.err);
}

#[test]
fn a_certificate_is_looked_at_before_the_model() {
    let file = |name: &str| testdata("tls").join(name).to_str().unwrap().to_owned();
    let serve = |certificate: &str, key: &str| {
        run(&["serve", "-m", "missing.gguf", "--port", "0", "--tls-cert", certificate, "--tls-key", key])
    };
    for (certificate, key, why) in [
        ("localhost.pem", "rsa.key", "is not the key of"),
        ("expired.pem", "localhost.key", "has expired"),
        ("missing.pem", "localhost.key", "missing.pem: no such file"),
        ("localhost.key", "localhost.key", "no certificate in it"),
    ] {
        let ran = serve(&file(certificate), &file(key));
        assert!(ran.status == Some(2) && ran.err.contains(why) && ran.err.lines().count() == 2, "{}", ran.err);
    }
    assert!(serve(&file("localhost.pem"), &file("localhost.key")).err.contains("missing.gguf"));
    let ran = run(&["serve", "-m", "missing.gguf", "--tls-key", &file("localhost.key")]);
    assert!(ran.status == Some(2) && ran.err.contains("--tls-cert <FILE>"), "{}", ran.err);
}
