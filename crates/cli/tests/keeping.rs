//! What is kept between runs of a model whose experts are read from the SSD, and where.

mod common;

use std::{fs, path::PathBuf};

use common::{Ran, ds4, run, scratch, testdata};

/// A folder of one test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = scratch().join(format!("keeping-{name}"));
    let _ = fs::remove_dir_all(&folder);
    folder
}

/// A streamed answer of a few tokens.
fn answer(more: &[&str]) -> Ran {
    let model = testdata("deepseek_v4/micro-flash.gguf");
    let args = ["-m", model.to_str().unwrap(), "--ssd-streaming-cache-experts", "6", "--nothink", "-p", "Hi"];
    run(&[&args[..], &["-n", "8", "--temp", "0"], more].concat())
}

fn names(folder: &PathBuf) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .map(|entries| entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

#[test]
fn the_line_after_an_answer_tells_what_was_read() {
    let ran = answer(&["--no-cache"]);
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    let line = ran.err.lines().find(|line| line.starts_with("prefill ")).unwrap();
    let parts = [" with ", " % of experts in memory, ", " per token at ", " GB/s", " ms waited each"];
    assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    let model = testdata("deepseek_v4/micro-flash.gguf");
    let ran = run(&["-m", model.to_str().unwrap(), "--nothink", "-p", "Hi", "-n", "8", "--temp", "0"]);
    assert!(ran.err.contains("decode 7 tokens") && !ran.err.contains("experts"), "{}", ran.err);
}

#[test]
fn runs_leave_a_list_and_a_ledger_and_say_the_same() {
    let folder = folder("runs");
    let dir = folder.to_str().unwrap();
    let plain = answer(&["--no-cache"]);
    for more in [&[][..], &[], &["--ssd-streaming-cold"]] {
        let ran = answer(&[&["--cache-dir", dir], more].concat());
        assert_eq!((ran.status, &ran.out), (Some(0), &plain.out), "{}", ran.err);
        assert_eq!(ran.err.lines().count(), plain.err.lines().count(), "{}", ran.err);
    }
    let names = names(&folder);
    assert!(matches!(&names[..], [list, _, _] if list.starts_with("hotlist-") && list.ends_with(".csv")), "{names:?}");
    assert_eq!(names[1..], ["lock", "ssd-ledger.csv"]);

    let shown = run(&["ssd", "--cache-dir", dir]);
    assert_eq!((shown.status, shown.err.as_str()), (Some(0), ""));
    let json: serde_json::Value = serde_json::from_slice(&run(&["ssd", "--json", "--cache-dir", dir]).out).unwrap();
    let sum = &json["total"];
    assert!(sum["read_bytes"].as_u64() > Some(0) && sum == &json["last_30_days"], "{json}");
    assert_eq!(shown.out_str().lines().count(), json["days"].as_array().unwrap().len() + 3, "{}", shown.out_str());
}

#[test]
fn things_are_kept_where_the_system_keeps_caches() {
    let home = folder("home");
    let model = testdata("deepseek_v4/micro-flash.gguf");
    let answer = |more: &[&str]| {
        let mut command = ds4();
        command.env("HOME", &home).args(["-m", model.to_str().unwrap(), "--raw", "-p", "the", "-n", "3"]);
        let ran: Ran = command.args(more).output().unwrap().into();
        assert_eq!(ran.status, Some(0), "{}", ran.err);
    };
    answer(&[]);
    answer(&["--ssd-streaming", "--no-cache"]);
    assert!(!home.exists(), "nothing is kept of what is in memory, nor against the user's will");
    answer(&["--ssd-streaming"]);
    let below = if cfg!(target_os = "macos") { "Library/Caches/ds4" } else { ".cache/ds4" };
    assert_eq!(names(&home.join(below)).len(), 3);
    let ran: Ran = ds4().env("HOME", &home).arg("ssd").output().unwrap().into();
    assert!(ran.out_str().starts_with("day (UTC) ") && ran.out_str().lines().count() > 3, "{}", ran.show());
}

#[test]
fn benchmarks_are_counted_and_teach_nothing() {
    let folder = folder("bench");
    let model = testdata("deepseek_v4/micro-flash.gguf");
    let args = ["bench", "-m", model.to_str().unwrap(), "--ssd-streaming", "-p", "8", "-n", "2", "-r", "1"];
    let ran = run(&[&args[..], &["--cache-dir", folder.to_str().unwrap()]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    assert_eq!(names(&folder), ["lock", "ssd-ledger.csv"]);
}

#[test]
fn a_folder_that_cannot_be_written_costs_one_line() {
    let file = folder("file");
    fs::write(&file, "").unwrap();
    let (plain, name) = (answer(&["--no-cache"]), file.to_str().unwrap());
    for dir in [name, &format!("{name}/below/it")] {
        let ran = answer(&["--cache-dir", dir]);
        assert_eq!((ran.status, &ran.out), (Some(0), &plain.out), "{}", ran.err);
        let told = format!("{name}: is no folder; nothing is kept for the next run; name a folder with --cache-dir");
        assert_eq!(ran.err.lines().filter(|line| *line == told).count(), 1, "{}", ran.err);
        assert_eq!(ran.err.lines().count(), plain.err.lines().count() + 1);
        let ran = run(&["ssd", "--cache-dir", dir]);
        let told = format!("error: {name}: is no folder\nhelp: name a folder with --cache-dir\n");
        assert_eq!((ran.status, ran.err), (Some(2), told));
    }
    fs::remove_file(file).unwrap();
}

#[test]
fn the_ledger_of_nothing_is_empty_and_a_damaged_one_is_told() {
    let folder = folder("ledger");
    let args = ["ssd", "--cache-dir", folder.to_str().unwrap()];
    let shown = run(&args);
    assert_eq!((shown.status, shown.out_str().lines().count()), (Some(0), 3), "{}", shown.show());
    assert!(!folder.exists(), "looking leaves nothing");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("ssd-ledger.csv"), "day,read_bytes,written_bytes\n2026-11-31,1,0\n").unwrap();
    let ran = run(&args);
    let line = "ssd-ledger.csv: line 2 is not `day,read_bytes,written_bytes`\n";
    assert_eq!(ran.status, Some(1));
    assert!(
        ran.err.starts_with("error: ") && ran.err.contains(line) && ran.err.contains("\nhelp: mend"),
        "{}",
        ran.err
    );
    let ran: Ran = ds4().env_remove("HOME").arg("ssd").output().unwrap().into();
    assert_eq!((ran.status, ran.err.lines().count()), (Some(2), 2), "{}", ran.err);
    assert!(ran.err.contains("--cache-dir DIR"), "{}", ran.err);
}
