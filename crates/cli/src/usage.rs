//! From arguments to [`Cli`], and from the parser's complaints to one line and one piece of advice.

use std::ffi::OsString;

use clap::{
    CommandFactory as _, Parser as _,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{args::Cli, error::Error, output, refused};

/// Reads the arguments. Prints the help or the version, and ends, where that is what was asked for.
///
/// # Errors
/// Flags that are wrong, or not in this version.
pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Cli, Error> {
    let args: Vec<_> = args.map(spelled_out).collect();
    match Cli::try_parse_from(&args) {
        Ok(cli) => Ok(cli),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            output::print(&e.render().to_string())?;
            std::process::exit(0)
        }
        Err(e) => Err(explain(&e, &args)),
    }
}

/// ds4 spells one flag with one dash and several letters.
fn spelled_out(arg: OsString) -> OsString {
    if arg == "-sys" { "--system".into() } else { arg }
}

/// What a text for `-p` that begins with a dash is taken for: flags.
const DASHED: &str = "a text that begins with a dash is written -p=TEXT";

fn explain(e: &clap::Error, args: &[OsString]) -> Error {
    let context = |kind| match e.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let (arg, value) = (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue));
    let command = context(ContextKind::InvalidSubcommand);
    let word = if command.is_empty() { arg } else { command };
    if let Some(refusal) = refused::refusal(word) {
        return refusal;
    }
    match e.kind() {
        ErrorKind::InvalidSubcommand => Error::Usage {
            what: format!("unknown command '{command}'"),
            help: "a question goes after -p, a model after -m; ds4 --help lists the commands".into(),
        },
        ErrorKind::UnknownArgument if arg.starts_with('-') && is_prompt(args, arg) => {
            Error::Usage { what: format!("unknown flag '{arg}'"), help: DASHED.into() }
        }
        ErrorKind::ArgumentConflict | ErrorKind::UnknownArgument if is_astray(word) => Error::Usage {
            what: format!("'{word}' follows no flag"),
            help: "a question goes after -p, a model after -m; ds4 --help tells more".into(),
        },
        ErrorKind::UnknownArgument if arg.starts_with('-') => {
            Error::Usage { what: format!("unknown flag '{arg}'"), help: tip(e) }
        }
        ErrorKind::InvalidValue if arg.starts_with("--backend") && !value.is_empty() => refused::backend(value),
        ErrorKind::InvalidValue if arg.starts_with("--prompt ") && value.is_empty() => {
            Error::Usage { what: first_paragraph(e), help: DASHED.into() }
        }
        _ => Error::Usage { what: first_paragraph(e), help: tip(e) },
    }
}

/// Whether `word` is neither a flag nor a command of ours.
fn is_astray(word: &str) -> bool {
    !word.is_empty() && !word.starts_with('-') && Cli::command().find_subcommand(word).is_none()
}

/// Whether what was taken for the flag `arg` stands where the text of `-p` belongs.
fn is_prompt(args: &[OsString], arg: &str) -> bool {
    args.windows(2).any(|pair| {
        let begins = pair[1].to_str().is_some_and(|text| text.starts_with(arg));
        (pair[0] == "-p" || pair[0] == "--prompt") && begins
    })
}

/// The parser's complaint on one line.
fn first_paragraph(e: &clap::Error) -> String {
    let text = e.render().to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let text = lines.collect::<Vec<_>>().join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

/// The parser's guess at what was meant, else where to look.
fn tip(e: &clap::Error) -> String {
    let text = e.render().to_string();
    let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    tip.unwrap_or("ds4 --help lists the flags, ds4 COMMAND --help those of a command").to_owned()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(args: &[&str], expect: Expect) {
        let args = ["ds4"].iter().chain(args).map(OsString::from);
        expect.assert_eq(&parse(args).unwrap_err().report());
    }

    #[test]
    fn a_wrong_flag_is_named() {
        check(
            &["--tmp", "1"],
            expect![[r#"
                error: unknown flag '--tmp'
                help: a similar argument exists: '--temp'
            "#]],
        );
        check(
            &["--ctx", "8K5"],
            expect![[r#"
            error: invalid value '8K5' for '--ctx <N>': must be a whole number, at least 1
            help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        "#]],
        );
        check(
            &["--ctx", "-1"],
            expect![[r#"
                error: invalid value '-1' for '--ctx <N>': must be a whole number, at least 1
                help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
            "#]],
        );
        check(
            &["-t", "0"],
            expect![[r#"
                error: invalid value '0' for '--threads <N>': must be a whole number, 1 to 1024
                help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
            "#]],
        );
        check(
            &["-t", "20000"],
            expect![[r#"
                error: invalid value '20000' for '--threads <N>': must be a whole number, 1 to 1024
                help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
            "#]],
        );
        check(
            &["--batch", "65537"],
            expect![[r#"
                error: invalid value '65537' for '--batch <N>': must be a whole number, 1 to 65536
                help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
            "#]],
        );
        check(
            &["logits", "--chunk", "65537"],
            expect![[r#"
                error: invalid value '65537' for '--chunk <N>': must be a whole number, 1 to 65536
                help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
            "#]],
        );
        check(
            &["--seed", "99999999999999999999"],
            expect![[r#"
                error: invalid value '99999999999999999999' for '--seed <N>': must be a whole number, 0 to 18446744073709551615
                help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
            "#]],
        );
        check(
            &["--effort", "extreme"],
            expect![[r#"
            error: invalid value 'extreme' for '--effort <HOW>' [possible values: low, high, max]
            help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        "#]],
        );
        check(
            &["-m"],
            expect![[r#"
            error: a value is required for '--model <FILE>' but none was supplied
            help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        "#]],
        );
        check(
            &["-p", "--nothink"],
            expect![[r#"
            error: a value is required for '--prompt <TEXT>' but none was supplied
            help: a text that begins with a dash is written -p=TEXT
        "#]],
        );
        check(
            &["-p", "a", "-p", "b"],
            expect![[r#"
            error: the argument '--prompt <TEXT>' cannot be used multiple times
            help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        "#]],
        );
        check(
            &["-p", "a", "--prompt-file", "b"],
            expect![[r#"
            error: the argument '--prompt <TEXT>' cannot be used with '--prompt-file <FILE>'
            help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        "#]],
        );
        check(
            &["--nothink", "--effort", "low"],
            expect![[r#"
            error: the argument '--nothink' cannot be used with '--effort <HOW>'
            help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        "#]],
        );
        check(
            &["--raw", "--think"],
            expect![[r#"
            error: the argument '--raw' cannot be used with '--think'
            help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        "#]],
        );
    }

    #[test]
    fn what_is_no_flag_is_named() {
        check(
            &["Hello"],
            expect![[r#"
            error: unknown command 'Hello'
            help: a question goes after -p, a model after -m; ds4 --help lists the commands
        "#]],
        );
        check(
            &["agent"],
            expect![[r#"
            error: agent is not in this version: there is no coding agent yet
            help: ds4 --help lists what there is
        "#]],
        );
        check(
            &["logits", "-m", "x.gguf"],
            expect![[r#"
            error: the following required arguments were not provided: --tokens <FILE> --out <FILE>
            help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        "#]],
        );
        check(
            &["routes"],
            expect![[r#"
            error: the following required arguments were not provided: <FILE>
            help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        "#]],
        );
        check(
            &["-m", "x.gguf", "inspect", "y.gguf"],
            expect![[r#"
            error: the subcommand 'inspect' cannot be used with '--model <FILE>'
            help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        "#]],
        );
        check(
            &["\x1b[31m"],
            expect![[r#"
            error: unknown command '\u{1b}[31m'
            help: a question goes after -p, a model after -m; ds4 --help lists the commands
        "#]],
        );
    }

    #[test]
    fn negative_numbers_are_refused_under_the_names_of_their_flags() {
        for (args, range) in [
            (&["--seed", "-1"][..], "'--seed <N>': must be a whole number, 0 to 18446744073709551615"),
            (&["bench", "-p", "-1"], "'--n-prompt <N,...>': must be whole numbers, 0 to 1073741824, with"),
            (&["bench", "-n", "-1"], "'--n-gen <N,...>': must be whole numbers, 0 to 1073741824, with"),
            (&["bench", "-d", "-1"], "'--n-depth <N>': must be a whole number, 0 to 1073741824"),
            (&["bench", "-r", "-1"], "'--reps <N>': must be a whole number, at least 1"),
        ] {
            let report = parse(["ds4"].iter().chain(args).map(OsString::from)).unwrap_err().report();
            assert!(report.starts_with(&format!("error: invalid value '-1' for {range}")), "{report}");
        }
        let report = parse(["ds4", "--top-k", "-2"].map(OsString::from).into_iter()).unwrap_err().report();
        let range = "must be a whole number, 0 to 18446744073709551615, or -1\n";
        assert!(report.starts_with(&format!("error: invalid value '-2' for '--top-k <N>': {range}")), "{report}");
        let report = parse(["ds4", "--temp", "warm"].map(OsString::from).into_iter()).unwrap_err().report();
        assert!(report.starts_with("error: invalid value 'warm' for '--temp <X>': must be a number\n"), "{report}");
    }

    #[test]
    fn a_question_in_the_wrong_place_is_led_to_its_flag() {
        check(
            &["-m", "x.gguf", "Why?"],
            expect![[r#"
                error: 'Why?' follows no flag
                help: a question goes after -p, a model after -m; ds4 --help tells more
            "#]],
        );
        check(
            &["-p", "Hi", "-m", "x.gguf", "inspect", "Why?", "again"],
            expect![[r#"
            error: the subcommand 'inspect' cannot be used with: --prompt <TEXT> --model <FILE>
            help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        "#]],
        );
        check(
            &["bench", "Why?"],
            expect![[r#"
            error: 'Why?' follows no flag
            help: a question goes after -p, a model after -m; ds4 --help tells more
        "#]],
        );
        check(
            &["-p", "-x"],
            expect![[r#"
            error: unknown flag '-x'
            help: a text that begins with a dash is written -p=TEXT
        "#]],
        );
        check(
            &["-m", "x.gguf", "-x"],
            expect![[r#"
            error: unknown flag '-x'
            help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        "#]],
        );
    }

    #[test]
    fn commands_of_other_versions_are_refused_by_name() {
        let commands = "doctor eval agent pull list rm plan worker";
        for command in commands.split(' ') {
            for args in [&["ds4", command][..], &["ds4", "-m", "x.gguf", command], &["ds4", command, "x.gguf"]] {
                let report = parse(args.iter().map(OsString::from)).unwrap_err().report();
                assert!(report.starts_with(&format!("error: {command} is not in this version")), "{report}");
            }
        }
    }

    #[test]
    fn nobody_is_shown_a_megabyte() {
        let long = ["ds4".into(), "x".repeat(1 << 20)].map(OsString::from);
        let report = parse(long.into_iter()).unwrap_err().report();
        assert!(report.len() < 1000 && report.lines().count() == 2, "{report}");
    }

    #[test]
    fn what_ds4_has_is_refused_by_name() {
        check(
            &["-m", "x.gguf", "--ssd-streaming-full-layers", "-p", "Hi"],
            expect![[r#"
            error: --ssd-streaming-full-layers is not in this version: the cache of experts fills by itself, beginning with those that were used most before
            help: leave the flag out
        "#]],
        );
        check(
            &["--ssd-streaming-cache-experts", "0GB"],
            expect![[r#"
                error: invalid value '0GB' for '--ssd-streaming-cache-experts <N|NGB|auto>': must be a number of experts, memory as in 500MB or 4GB, or auto
                help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
            "#]],
        );
        check(
            &["--kv-disk-dir=/tmp", "--kv-cache-min-tokens=512"],
            expect![[r#"
            error: --kv-cache-min-tokens is not in this version: what is computed is kept as it comes, in blocks of 256 tokens
            help: leave the flag out
        "#]],
        );
        check(
            &["--kv-disk-dir=/tmp", "--kv-cache-reject-different-quant"],
            expect![[r#"
            error: --kv-cache-reject-different-quant is not in this version: what another model or format has left is never used
            help: leave the flag out
        "#]],
        );
        check(
            &["--mtp"],
            expect![[r#"
            error: --mtp is not in this version: tokens are not drafted ahead yet
            help: leave the flag out
        "#]],
        );
        check(
            &["--backend", "cuda"],
            expect![[r#"
            error: --backend cuda is not in this version: it computes on the CPU
            help: leave the flag out
        "#]],
        );
        check(
            &["--dump-tokens"],
            expect![[r#"
            error: --dump-tokens is not in this version
            help: ds4 tokenize -m FILE TEXT shows the tokens of a text
        "#]],
        );
    }

    #[test]
    fn the_system_prompt_is_spelled_as_in_ds4() {
        let args = ["ds4", "-m", "x", "-sys", "Be brief.", "--backend", "cpu"].map(OsString::from);
        let cli = parse(args.into_iter()).unwrap();
        assert_eq!(cli.chat.prompt.system.as_deref(), Some("Be brief."));
    }
}
