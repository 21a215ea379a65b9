//! `imatrix`: collected, merged, shown and refused.

mod common;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use common::{Ran, ds4, run, scratch, testdata};
use expect_test::{Expect, expect};
use gguf::Gguf;
use tokenizer::{Special, Tokenizer};

const LLAMA: &str = "llama/micro.gguf";
const MIXTURE: &str = "deepseek_v4/micro-flash.gguf";

fn path(name: &str) -> String {
    scratch().join(name).to_str().unwrap().to_owned()
}

fn written(name: &str, text: &str) -> String {
    fs::write(path(name), text).unwrap();
    path(name)
}

fn text() -> String {
    "Whoever quantises a matrix spends its bits where the inputs are large. ".repeat(20)
}

/// Collects from `corpus` to a file of this name.
fn collected(model: &str, corpus: &str, name: &str, more: &[&str]) -> String {
    let (model, out) = (testdata(model).to_str().unwrap().to_owned(), path(name));
    let ran = run(&[&["imatrix", "-m", &model, "-f", corpus, "--out", &out, "--ctx", "32", "-t", "1"], more].concat());
    assert_eq!((ran.status, ran.out_str()), (Some(0), ""), "{}", ran.err);
    out
}

fn shown(file: &str, more: &[&str]) -> Ran {
    let ran = run(&[&["imatrix", "--show", file], more].concat());
    assert_eq!((ran.status, &*ran.err), (Some(0), ""));
    ran
}

fn counts(file: &str) -> Vec<(String, Vec<u64>)> {
    let json: serde_json::Value = serde_json::from_slice(&shown(file, &["--json"]).out).unwrap();
    let counts = |t: &serde_json::Value| t["counts"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    let tensors = json["tensors"].as_array().unwrap().iter();
    tensors.map(|t| (t["name"].as_str().unwrap().to_owned(), counts(t))).collect()
}

fn refused(args: &[&str], expect: Expect) {
    let ran = run(args);
    assert_eq!(ran.status, Some(2), "{}", ran.err);
    let show = ran.show().replace(scratch().to_str().unwrap(), "FOLDER");
    expect.assert_eq(&show.replace(testdata("").to_str().unwrap(), "DATA/"));
}

#[test]
fn what_a_text_shows_is_shown() {
    let corpus = written("shown.txt", &text());
    let file = collected(LLAMA, &corpus, "shown.gguf", &["--max-prompts", "2"]);
    let show = shown(&file, &[]).show().replace(scratch().to_str().unwrap(), "FOLDER");
    expect![[r#"
        file    FOLDER/shown.gguf
        corpus  FOLDER/shown.txt, 2 chunks of 32 tokens

        tensor                    columns  experts  rows
        blk.0.attn_k.weight       96       1        64
        blk.0.attn_output.weight  96       1        64
        blk.0.attn_q.weight       96       1        64
        blk.0.attn_v.weight       96       1        64
        blk.0.ffn_down.weight     256      1        64
        blk.0.ffn_gate.weight     96       1        64
        blk.0.ffn_up.weight       96       1        64
        blk.1.attn_k.weight       96       1        64
        blk.1.attn_output.weight  96       1        64
        blk.1.attn_q.weight       96       1        64
        blk.1.attn_v.weight       96       1        64
        blk.1.ffn_down.weight     256      1        64
        blk.1.ffn_gate.weight     96       1        64
        blk.1.ffn_up.weight       96       1        64
        blk.2.attn_k.weight       96       1        64
        blk.2.attn_output.weight  96       1        64
        blk.2.attn_q.weight       96       1        64
        blk.2.attn_v.weight       96       1        64
        blk.2.ffn_down.weight     256      1        64
        blk.2.ffn_gate.weight     96       1        64
        blk.2.ffn_up.weight       96       1        64
        blk.3.attn_k.weight       96       1        64
        blk.3.attn_output.weight  96       1        64
        blk.3.attn_q.weight       96       1        64
        blk.3.attn_v.weight       96       1        64
        blk.3.ffn_down.weight     256      1        64
        blk.3.ffn_gate.weight     96       1        64
        blk.3.ffn_up.weight       96       1        64
        blk.4.attn_k.weight       96       1        64
        blk.4.attn_output.weight  96       1        64
        blk.4.attn_q.weight       96       1        64
        blk.4.attn_v.weight       96       1        64
        blk.4.ffn_down.weight     256      1        64
        blk.4.ffn_gate.weight     96       1        64
        blk.4.ffn_up.weight       96       1        64
        exit 0
    "#]]
    .assert_eq(&show);
}

#[test]
fn experts_that_were_rarely_met_are_listed() {
    let corpus = written("mixture.txt", &text());
    let file = collected(MIXTURE, &corpus, "mixture.gguf", &["--max-prompts", "1"]);
    let show = shown(&file, &[]).show();
    let layers = show.split_once("\nlayer ").unwrap().1;
    expect![[r#"
         never met  rarely  rows of an expert         worst
        blk.0  0          0       4 to 11, 8.0 in the mean
        blk.1  0          0       1 to 24, 8.0 in the mean
        blk.2  1          0       0 to 14, 8.0 in the mean  3
        blk.3  0          0       3 to 17, 8.0 in the mean
        blk.4  0          0       2 to 18, 8.0 in the mean
        blk.5  0          0       2 to 16, 8.0 in the mean
        exit 0
    "#]]
    .assert_eq(layers);
}

#[test]
fn parts_go_on_where_others_ended_and_merge_in_either_format() {
    let corpus = written("parts.txt", &text());
    let whole = collected(MIXTURE, &corpus, "whole.gguf", &["--max-prompts", "4", "--save-every", "1"]);
    let first = collected(MIXTURE, &corpus, "first.gguf", &["--max-tokens", "64"]);
    let second = collected(MIXTURE, &corpus, "second.gguf", &["--skip", "2", "--max-prompts", "2"]);
    let on = collected(MIXTURE, &corpus, "on.gguf", &["--in", &first, "--skip", "2", "--max-prompts", "2"]);
    assert_eq!(counts(&on), counts(&whole));
    let merged = path("merged.gguf");
    let ran = run(&["imatrix", "--in", &first, "--in", &second, "--out", &merged]);
    assert_eq!((ran.status, &*ran.err), (Some(0), ""));
    assert_eq!(fs::read(&merged).unwrap(), fs::read(&on).unwrap());
    let [legacy, back] = [path("merged.dat"), path("back.gguf")];
    for (from, to) in [(&merged, &legacy), (&legacy, &back)] {
        assert_eq!(run(&["imatrix", "--in", from, "--out", to]).status, Some(0));
    }
    assert_ne!(&fs::read(&legacy).unwrap()[..4], b"GGUF");
    assert_eq!(counts(&back).len(), counts(&whole).len());
}

#[test]
fn prompts_come_in_lines() {
    let lines = r#"{"rendered": "<｜User｜>Hi<｜Assistant｜></think>", "id": "passed over"}

{"messages": [{"role": "user", "content": "Hi"}]}
{"text": "Hi"}
"#;
    let corpus = written("prompts.jsonl", lines);
    let file = collected(MIXTURE, &corpus, "prompts.gguf", &[]);
    let json: serde_json::Value = serde_json::from_slice(&shown(&file, &["--json"]).out).unwrap();
    assert_eq!(json["down"], "weighted");
    let few = collected(MIXTURE, &corpus, "few.gguf", &["--max-prompts", "1", "--down", "alike"]);
    let rows = |file: &str| counts(file).iter().find(|(name, _)| name == "blk.0.attn_kv.weight").unwrap().1[0];
    assert!(rows(&few) < rows(&file) && rows(&few) > 2, "{} of {}", rows(&few), rows(&file));
}

/// A copy of a model whose embedding of the one token that a text is has no numbers.
fn without_numbers(model: &str, text: &str, name: &str) -> String {
    let file = Gguf::open(&testdata(model)).unwrap();
    let ids = Tokenizer::from_gguf(file.metadata()).unwrap().encode(text, Special::Plain);
    let embd = file.tensor("token_embd.weight").unwrap();
    let row_bytes = embd.n_bytes() / embd.shape[0];
    let start = file.place(embd).1.start as usize + ids[0] as usize * row_bytes;
    let mut bytes = fs::read(testdata(model)).unwrap();
    bytes[start..start + 2].copy_from_slice(&0x7e00u16.to_le_bytes()); // a NaN of f16
    fs::write(path(name), bytes).unwrap();
    path(name)
}

#[test]
fn a_run_that_fails_keeps_what_it_has_and_says_how_to_go_on() {
    let model = without_numbers("llama/micro-llama3.gguf", "~", "no-numbers.gguf");
    let corpus = written("fails.txt", &format!("{}~{}", "a b c d ".repeat(40), "a b c d ".repeat(40)));
    let (out, part) = (path("fails.gguf"), path("fails.gguf.partial"));
    let _ = fs::remove_file(&part);
    fs::write(&out, "an older file").unwrap();
    let args = ["imatrix", "-m", &model, "-f", &corpus, "--out", &out, "--ctx", "32", "-t", "1"];
    let ran = run(&args);
    assert_eq!(ran.status, Some(2), "{}", ran.err);
    let told = "error: what the matrix `blk.0.attn_q.weight` is multiplied with is NaN in column 0";
    assert!(ran.err.contains(told), "{}", ran.err);
    let done = counts(&part)[0].1[0];
    let way = ran.err.lines().find(|line| line.starts_with(&part)).unwrap_or_else(|| panic!("{}", ran.err));
    let skip = way.split_once("--skip ").unwrap().1;
    assert!(way.contains(&format!("go on with --in {part} --skip ")), "{way}");
    assert!(done == 32 * (skip.parse::<u64>().unwrap() - 1) && done > 64, "{done} rows, {way}");
    assert_eq!(fs::read(&out).unwrap(), b"an older file");
    // What waits is not written over by who has forgotten it.
    let again = run(&args);
    assert_eq!(again.status, Some(2));
    assert!(again.err.contains(&format!("{part}: holds what a run before collected")), "{}", again.err);
    let on = run(&[&args[..], &["--in", &part, "--skip", skip, "--max-prompts", "2"]].concat());
    assert_eq!(on.status, Some(0), "{}", on.err);
    assert_eq!(counts(&out)[0].1[0], done + 64);
    fs::remove_file(part).unwrap();
}

#[test]
fn where_no_result_can_be_is_known_before_the_work() {
    let corpus = written("nowhere.txt", &text());
    let out = path("no-such-folder/x.gguf");
    let ran = run(&["imatrix", "-m", "no-such-model.gguf", "-f", &corpus, "--out", &out]);
    assert_eq!(ran.status, Some(1), "{}", ran.err);
    assert!(ran.err.starts_with(&format!("error: {out}: ")), "{}", ran.err);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_part_from_which_another_run_goes_on() {
    let (model, corpus) = (testdata(LLAMA), written("long.txt", &text().repeat(200)));
    let (out, part) = (path("long.gguf"), path("long.gguf.partial"));
    let _ = fs::remove_file(&part);
    fs::write(&out, "an older file").unwrap();
    let args = ["imatrix", "-m", model.to_str().unwrap(), "-f", &corpus, "--out", &out, "--ctx", "32", "-t", "1"];
    let child = ds4().args(args).args(["--save-every", "1"]).stderr(Stdio::piped()).spawn().unwrap();
    while !Path::new(&part).exists() {
        thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.status, Some(130), "{}", ran.err);
    assert_eq!(fs::read(&out).unwrap(), b"an older file");
    let (_, skip) =
        ran.err.split_once(&format!("go on with --in {part} --skip ")).unwrap_or_else(|| panic!("{}", ran.err));
    let skip: usize = skip.trim().parse().unwrap_or_else(|e| panic!("{e}: {}", ran.err));
    let [skip, most] = [skip, skip + 2].map(|n| n.to_string());
    let on = ["--in", &part, "--skip", &skip, "--max-prompts", "2", "--save-every", "1"];
    let on = run(&[&args[..], &on].concat());
    assert_eq!(on.status, Some(0), "{}", on.err);
    assert!(!Path::new(&part).exists(), "what it held is in the result");
    let whole = collected(LLAMA, &corpus, "long-whole.gguf", &["--max-prompts", &most]);
    assert_eq!(counts(&out), counts(&whole));
}

#[test]
fn the_place_of_experts_changes_no_bit() {
    let corpus = written("streamed.txt", &text());
    let whole = collected(MIXTURE, &corpus, "resident.gguf", &["--max-prompts", "2"]);
    let more = ["--max-prompts", "2", "--no-cache", "--ssd-streaming-cache-experts", "2"];
    let streamed = collected(MIXTURE, &corpus, "streamed.gguf", &more);
    assert!(fs::read(whole).unwrap() == fs::read(streamed).unwrap());
}

#[test]
fn what_cannot_be_is_refused() {
    let (model, wider) = (testdata(LLAMA), testdata("llama/micro-llama3.gguf"));
    let [model, wider] = [&model, &wider].map(|model| model.to_str().unwrap());
    let (corpus, short) = (written("refused.txt", &text()), written("short.txt", "short"));
    let lines = written("lines.jsonl", "{\"text\": \"fine\"}\n{\"prompt\": 1}\n");
    let file = collected(LLAMA, &corpus, "refused.gguf", &["--max-prompts", "1"]);
    let mixture = collected(MIXTURE, &corpus, "refused-mixture.gguf", &["--max-prompts", "1"]);
    refused(
        &["imatrix", "--show", model],
        expect![[r#"
        error: DATA/llama/micro.gguf: a GGUF of type "model", not an importance matrix
        help: give the file that was made for this model, `.gguf` or `.dat`
        exit 2
    "#]],
    );
    refused(
        &["imatrix", "--show", &short],
        expect![[r#"
        error: FOLDER/short.txt: neither GGUF nor .dat, not an importance matrix
        help: give the file that was made for this model, `.gguf` or `.dat`
        exit 2
    "#]],
    );
    refused(
        &["imatrix", "--out", &file],
        expect![[r#"
        error: the following required arguments were not provided: <--file <TEXT>|--in <FILE>|--show <FILE>>
        help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        exit 2
    "#]],
    );
    refused(
        &["imatrix", "-m", model, "-f", &corpus],
        expect![[r#"
        error: the following required arguments were not provided: --out <FILE>
        help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        exit 2
    "#]],
    );
    let collect = ["imatrix", "-m", model, "--out", &path("never.gguf"), "-f"];
    refused(
        &[&collect[..], &[&short]].concat(),
        expect![[r#"
        error: FOLDER/short.txt: 5 tokens, which is less than one chunk of 512
        help: give a longer text, or shorter chunks with --ctx
        exit 2
    "#]],
    );
    refused(
        &[&collect[..], &[&lines]].concat(),
        expect![[r#"
        error: FOLDER/lines.jsonl: line 2: has neither `rendered` nor `messages` nor `text`
        help: ds4 imatrix --help says what a line may be
        exit 2
    "#]],
    );
    refused(
        &[&collect[..], &[&corpus, "--skip", "999"]].concat(),
        expect![[r#"
        error: none of 2 chunks is left to read
        help: give a smaller --skip, or a larger --max-tokens
        exit 2
    "#]],
    );
    refused(
        &[&collect[..], &[&corpus, "--in", &mixture, "--down", "alike"]].concat(),
        expect![[r#"
        error: rows of experts' `down` matrices are weighted by the router in one file, and not in the other
        help: merge files that were collected in the same way
        exit 2
    "#]],
    );
    let over = ["imatrix", "-m", model, "-f", &corpus, "--out", &corpus];
    refused(
        &over,
        expect![[r#"
        error: FOLDER/refused.txt: the result would overwrite what it is made from
        help: choose another name for the result
        exit 2
    "#]],
    );
    let other = ["imatrix", "-m", wider, "-f", &corpus, "--in", &file, "--out", &path("never.gguf"), "--ctx", "32"];
    let other = run(&other);
    assert_eq!(other.status, Some(2), "{}", other.err);
    assert!(other.err.contains(&format!("{file}: entry `blk.0.attn_k.weight`: ")), "{}", other.err);
    assert!(other.err.contains("do not go with"), "{}", other.err);
    assert!(["never.gguf", "never.gguf.partial"].iter().all(|name| !scratch().join(name).exists()));
}

#[test]
fn what_only_a_model_obeys_is_refused_without_one() {
    let (one, out) = (collected(LLAMA, &written("flags.txt", &text()), "flags.gguf", &[]), path("flags-all.gguf"));
    let flags: [&[&str]; 8] = [
        &["--ctx", "32"],
        &["--skip", "1"],
        &["--max-prompts", "1"],
        &["--max-tokens", "9"],
        &["--save-every", "1"],
        &["--down", "alike"],
        &["--process-output"],
        &["--parse-special"],
    ];
    for flags in flags {
        let ran = run(&[&["imatrix", "--in", &one, "--out", &out], flags].concat());
        assert_eq!(ran.status, Some(2), "{flags:?}: {}", ran.err);
        assert!(ran.err.contains("--file <TEXT>"), "{flags:?}: {}", ran.err);
    }
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_trace_takes_the_place_of_no_input() {
    let corpus = written("traced.txt", &text());
    let one = collected(MIXTURE, &corpus, "traced.gguf", &[]);
    let before = fs::read(&one).unwrap();
    let (model, out) = (testdata(MIXTURE), path("traced-all.gguf"));
    let model = model.to_str().unwrap();
    let ran = run(&["imatrix", "-m", model, "-f", &corpus, "--in", &one, "--out", &out, "--route-trace", &one]);
    assert_eq!(ran.status, Some(2), "{}", ran.err);
    assert_eq!(fs::read(&one).unwrap(), before);
}
