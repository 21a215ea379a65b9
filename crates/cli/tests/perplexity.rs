//! `perplexity` on the golden models.

mod common;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use common::{Ran, ds4, run, scratch, testdata};
use serde_json::Value;

fn model(name: &str) -> String {
    testdata(name).to_str().unwrap().to_owned()
}

/// A file for one test.
fn file(name: &str) -> String {
    scratch().join(name).to_str().unwrap().to_owned()
}

fn text(name: &str) -> String {
    let path = file(name);
    let lines = (0..60).map(|i| format!("{} the {}, größer than {}.\n", i * i, i % 7, i * 31 % 17));
    fs::write(&path, lines.collect::<String>()).unwrap();
    path
}

fn perplexity(args: &[&str]) -> Ran {
    run(&[&["perplexity", "-t", "1", "-c", "64"], args].concat())
}

fn json(args: &[&str]) -> Value {
    let ran = perplexity(&[args, &["--json"]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    serde_json::from_slice(&ran.out).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The line that says what is wrong, of a run that does nothing.
fn refused(args: &[&str]) -> String {
    let ran = run(&[&["perplexity"], args].concat());
    assert_eq!((ran.status, &ran.out[..]), (Some(2), &[][..]), "{}", ran.err);
    let line = ran.err.lines().find(|line| line.starts_with("error: "));
    line.unwrap_or_else(|| panic!("{}", ran.err)).to_owned()
}

#[test]
fn figures_are_of_the_positions_that_count() {
    let (model, text) = (model("llama/micro.gguf"), text("figures.txt"));
    let figures = json(&["-m", &model, "-f", &text, "--chunks", "3"]);
    let figures = &figures["models"][0];
    assert_eq!((&figures["n_ctx"], &figures["n_chunks"], &figures["n_scored"]), (&64.into(), &3.into(), &93.into()));
    assert_eq!((&figures["complete"], &figures["base"]), (&true.into(), &Value::Null));
    let (nll, ppl) = (&figures["nll"], &figures["ppl"]);
    assert!((number(&ppl["mean"]) / number(&nll["mean"]).exp() - 1.0).abs() < 1e-9);
    assert!((number(&ppl["error"]) / number(&ppl["mean"]) - number(&nll["error"])).abs() < 1e-9);
    let all = json(&["-m", &model, "-f", &text]);
    assert!(number(&all["models"][0]["n_chunks"]) > 3.0);
}

#[test]
fn models_are_rows_of_a_table_in_any_order() {
    let [one, other] = ["llama/micro.gguf", "qwen2/micro.gguf"].map(model);
    let text = text("table.txt");
    let ran = perplexity(&["-m", &one, &other, "-f", &text]);
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    let lines: Vec<&str> = ran.out_str().lines().collect();
    assert!(lines[0].starts_with(&format!("text   {text}: ")), "{}", ran.out_str());
    assert_eq!(
        lines[2].split_whitespace().collect::<Vec<_>>(),
        ["model", "perplexity", "nats", "per", "token", "seconds"]
    );
    assert_eq!(lines.len(), 5, "{}", ran.out_str());
    let without_seconds = |all: &Value| {
        let all = all["models"].as_array().unwrap().iter();
        all.map(|m| (m["file"].clone(), m["ppl"].clone())).collect::<Vec<_>>()
    };
    let there = without_seconds(&json(&["-m", &one, &other, "-f", &text]));
    let mut back = without_seconds(&json(&["-m", &other, &one, "-f", &text]));
    back.reverse();
    assert_eq!(there, back);
}

#[test]
fn a_model_is_compared_with_a_base() {
    let [one, other] = ["deepseek_v4/micro-flash.gguf", "deepseek_v4/micro-pro.gguf"].map(model);
    let (text, base, detail) = (text("base.txt"), file("compared.base"), file("detail.tsv"));
    let ran = perplexity(&["-m", &one, "-f", &text, "--chunks", "2", "--save-base", &base]);
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    let bytes = fs::metadata(&base).unwrap().len();
    assert!(ran.err.contains(&format!("{base}: will take {:.1} KiB", bytes as f64 / 1024.0)), "{}", ran.err);

    let args = ["-m", &one, &other, "-f", &text, "--base", &base];
    let all = json(&[&args[..], &["--detail", &detail]].concat());
    assert_eq!(all["base"]["n_vocab"], 320);
    let [itself, different] = [0, 1].map(|i| &all["models"][i]["base"]);
    assert!(number(&itself["kl"]["max"]) < 1e-7 && itself["same_top"]["mean"] == 1.0, "{itself}");
    assert!((number(&itself["ppl_ratio"]["mean"]) - 1.0).abs() < 1e-6, "{itself}");
    assert!(number(&different["kl"]["mean"]) > 1e-3, "{different}");
    let parts = ["median", "p90", "p95", "p99", "max"].map(|part| number(&different["kl"][part]));
    assert!(parts.is_sorted() && parts[4] > 0.0, "{different}");

    let rows = fs::read_to_string(&detail).unwrap();
    let rows: Vec<Vec<&str>> = rows.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows[0], ["model", "pos", "id", "text", "nll", "base_nll", "kl", "top", "rank"]);
    assert_eq!(rows.len(), 1 + 2 * 62);
    assert!(rows.iter().all(|row| row.len() == 9));
    assert_eq!((rows[1][0], rows[1][1], rows[1][8]), ("\"micro-flash\"", "33", "1"));
    let kl = |rows: &[Vec<&str>]| rows.iter().map(|row| row[6].parse::<f64>().unwrap()).sum::<f64>() / 62.0;
    assert!((kl(&rows[63..]) - number(&different["kl"]["mean"])).abs() < 1e-6);

    let ran = perplexity(&args);
    assert!(ran.out_str().contains(&format!("base   {base}: ")), "{}", ran.out_str());
    assert!(ran.out_str().contains("100.00 ±0.00 %"), "{}", ran.out_str());
}

#[test]
fn bases_that_do_not_fit_are_refused_by_name() {
    let (model, base, text) = (model("llama/micro.gguf"), file("fits.base"), text("fits.txt"));
    let other = file("another.txt");
    fs::write(&other, "not that text at all ".repeat(40)).unwrap();
    let saved = perplexity(&["-m", &model, "-f", &text, "--chunks", "2", "--save-base", &base]);
    assert_eq!(saved.status, Some(0), "{}", saved.err);
    let with =
        |text: &str, base: &str, more: &[&str]| refused(&[&["-m", &model, "-f", text, "--base", base], more].concat());
    let about = |what: &str| format!("error: {base}: {what}");
    assert!(with(&other, &base, &[]).starts_with(&about("is of another text: its token 0 is ")));
    assert_eq!(with(&text, &base, &["-c", "32"]), about("has chunks of 64 tokens, and not of 32"));
    assert_eq!(with(&text, &base, &["--chunks", "3"]), about("has 2 chunks, and not 3"));
    let cut = file("cut.base");
    let bytes = fs::read(&base).unwrap();
    fs::write(&cut, &bytes[..bytes.len() - 100]).unwrap();
    let lengths = format!("has {} bytes, and should have {}", bytes.len() - 100, bytes.len());
    assert_eq!(with(&text, &cut, &[]), format!("error: {cut}: {lengths}"));
    assert_eq!(with(&text, &text, &[]), format!("error: {text}: is no file of log-probabilities"));
    assert!(with(&text, &file("none.base"), &[]).contains("no such file"));
    let mut flipped = bytes;
    let at = flipped.len() - 100;
    flipped[at] ^= 1;
    fs::write(&cut, flipped).unwrap();
    assert_eq!(with(&text, &cut, &[]), format!("error: {cut}: has a wrong checksum of its positions"));
}

#[test]
fn texts_that_cannot_be_scored_are_refused() {
    let model = model("llama/micro.gguf");
    let (path, text) = (file("unfit.txt"), text("whole.txt"));
    let of = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        refused(&["-m", &model, "-f", &path])
    };
    assert_eq!(of(b""), format!("error: {path}: the text has 0 tokens, and a chunk has 512"));
    assert_eq!(of(b"abc"), format!("error: {path}: the text has 3 tokens, and a chunk has 512"));
    assert_eq!(of(b"abc\xff"), format!("error: {path}: not UTF-8 text: byte 3 is 0xff"));
    assert!(refused(&["-m", &model, "-f", &text, "--chunks", "0"]).ends_with("must be at least 1"));
    assert!(refused(&["-m", &model, "-f", &text, "-c", "3"]).ends_with("must be a whole number, 4 to 1073741824"));
    assert!(refused(&["-m", &model]).contains("--file <FILE>"));
}

#[test]
fn results_never_take_the_place_of_what_they_are_made_of() {
    let (model, text, base) = (model("llama/micro.gguf"), text("kept.txt"), file("kept.base"));
    for out in ["--save-base", "--detail"] {
        for input in [&model, &text] {
            let line = refused(&["-m", &model, "-f", &text, out, input]);
            assert_eq!(line, format!("error: {input}: the result would overwrite what it is made from"));
        }
    }
    let both = refused(&["-m", &model, "-f", &text, "--save-base", &base, "--detail", &base]);
    assert!(both.contains("the result would overwrite"), "{both}");
    let two = refused(&["-m", &model, "-f", &text, "--save-base", &base, "--", &model]);
    assert!(two.contains("cannot be used with"), "{two}");
    assert!(!PathBuf::from(&base).exists());
}

/// A model that opens and cannot be run: one of its keys is another's.
fn headless(name: &str) -> String {
    let bytes = fs::read(testdata("llama/micro.gguf")).unwrap();
    let key = b"llama.block_count";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
    let mut broken = bytes;
    broken[at..at + key.len()].copy_from_slice(b"other.block_count");
    fs::write(file(name), broken).unwrap();
    file(name)
}

#[test]
fn what_was_measured_is_told_whatever_comes_after_it() {
    let (model, text, detail) = (model("llama/micro.gguf"), text("fails.txt"), file("fails.tsv"));
    let broken = headless("headless.gguf");
    let args = ["-m", &model, &broken, "-f", &text, "--chunks", "1", "--detail", &detail];
    let ran = perplexity(&[&args[..], &["--json"]].concat());
    assert_eq!(ran.status, Some(2), "{}", ran.err);
    assert!(ran.err.contains("block_count"), "{}", ran.err);
    let all: Value = serde_json::from_slice(&ran.out).unwrap();
    assert_eq!((all["models"].as_array().unwrap().len(), &all["models"][0]["complete"]), (1, &true.into()));
    assert_eq!(fs::read_to_string(&detail).unwrap().lines().count(), 1 + 31);
    fs::remove_file(&detail).unwrap();
    // Alone, there is nothing to tell.
    refused(&["-m", &broken, "-f", &text, "-c", "64", "--detail", &detail, "--json"]);
    assert!(!PathBuf::from(&detail).exists());
}

#[test]
fn all_models_are_there_before_the_first_is_measured() {
    let (model, text) = (model("llama/micro.gguf"), text("typo.txt"));
    let typo = file("no-such-model.gguf");
    assert!(refused(&["-m", &model, &typo, "-f", &text, "-c", "64"]).starts_with(&format!("error: {typo}: ")));
}

#[test]
fn models_of_one_name_are_told_apart_by_their_paths() {
    let folders = ["one", "other"].map(|name| {
        fs::create_dir_all(file(name)).unwrap();
        fs::copy(testdata("llama/micro.gguf"), format!("{}/same.gguf", file(name))).unwrap();
        format!("{}/same.gguf", file(name))
    });
    let (third, text, detail) = (model("llama/micro-llama3.gguf"), text("alike.txt"), file("alike.tsv"));
    let args = ["-m", &folders[0], &folders[1], &third, "-f", &text, "--chunks", "1", "--detail", &detail];
    let ran = perplexity(&args);
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    let rows = fs::read_to_string(&detail).unwrap();
    for name in [&*folders[0], &folders[1], "micro-llama3"] {
        assert!(ran.out_str().lines().any(|line| line.starts_with(&format!("{name} "))), "{}", ran.out_str());
        assert_eq!(rows.lines().filter(|row| row.starts_with(&format!("\"{name}\"\t"))).count(), 31, "{name}");
    }
}

#[test]
fn models_that_read_other_tokens_are_told() {
    let [one, same, other] = ["llama/micro.gguf", "llama/micro.gguf", "deepseek_v4/micro-flash.gguf"].map(model);
    let text = text("tokens.txt");
    let ran = perplexity(&["-m", &one, &same, &other, "-f", &text, "--chunks", "2", "--json"]);
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    let all: Value = serde_json::from_slice(&ran.out).unwrap();
    assert_eq!([0, 1, 2].map(|i| all["models"][i]["same_tokens"] == true), [true, true, false]);
    let notes: Vec<&str> = ran.err.lines().filter(|line| line.contains("as other tokens than")).collect();
    assert_eq!(notes.len(), 1, "{}", ran.err);
    assert!(notes[0].starts_with("micro-flash reads the text as other tokens than "), "{}", notes[0]);
}

#[test]
fn the_place_of_experts_changes_no_figure() {
    let (model, text) = (model("deepseek_v4/micro-flash.gguf"), text("streamed.txt"));
    let (resident, streamed) = (file("resident.base"), file("streamed.base"));
    let saved = |base: &str, more: &[&str]| {
        let ran = perplexity(&[&["-m", &model, "-f", &text, "--chunks", "2", "--save-base", base], more].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.err);
    };
    saved(&resident, &[]);
    saved(&streamed, &["--no-cache", "--ssd-streaming-cache-experts", "2"]);
    // The model's line tells no place either, so every byte is the same.
    assert!(fs::read(resident).unwrap() == fs::read(streamed).unwrap());
}

#[cfg(unix)]
#[test]
fn ctrl_c_tells_the_figures_so_far() {
    let (model, path, base) = (model("llama/micro.gguf"), file("long.txt"), file("long.base"));
    let lines = (0..4000).map(|i| format!("{} the {}, größer.\n", i * i, i % 7));
    fs::write(&path, lines.collect::<String>()).unwrap();
    let args = ["perplexity", "-m", &model, "-f", &path, "-t", "1", "--json", "--save-base", &base];
    let child = ds4().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let partial = || {
        let files = fs::read_dir(scratch()).unwrap().map(|entry| entry.unwrap());
        files.into_iter().find(|file| file.file_name().to_string_lossy().starts_with(".long.base."))
    };
    // Positions have been scored once some of them are on the disk.
    while !partial().is_some_and(|file| file.metadata().is_ok_and(|found| found.len() > 0)) {
        thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.status, Some(130), "{}", ran.err);
    let all: Value = serde_json::from_slice(&ran.out).unwrap();
    let figures = &all["models"][0];
    assert_eq!(figures["complete"], false);
    assert!(number(&figures["n_scored"]) > 100.0 && number(&figures["ppl"]["mean"]) > 1.0, "{figures}");
    assert!(ran.err.contains(&format!("stopped after {} of ", figures["n_scored"])), "{}", ran.err);
    assert!(partial().is_none() && !PathBuf::from(&base).exists());
}

#[cfg(unix)]
#[test]
fn a_pipe_is_no_base_and_nobody_waits_for_it() {
    let pipe = file("base-pipe");
    let _ = fs::remove_file(&pipe);
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let line = refused(&["-m", &model("llama/micro.gguf"), "-f", &text("pipe.txt"), "--base", &pipe]);
    assert!(line.ends_with("is no file of log-probabilities"), "{line}");
}
