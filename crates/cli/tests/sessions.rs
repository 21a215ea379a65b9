//! Conversations with a name, and the folder of what was computed for them.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{Ran, ds4, run, scratch, testdata};

/// A folder of one test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = scratch().join(format!("sessions-{name}"));
    let _ = fs::remove_dir_all(&folder);
    folder
}

/// A turn of the conversation in a folder, or of none.
fn turn(dir: &Path, question: &str, more: &[&str]) -> Ran {
    let model = testdata("deepseek_v4/micro-flash.gguf");
    let args = ["-m", model.to_str().unwrap(), "--temp", "0", "-n", "8", "-p", question, "--kv-disk-dir"];
    run(&[&args[..], &[dir.to_str().unwrap()], more].concat())
}

/// Tokens that were computed for a prompt, known from before, and decoded.
fn counts(ran: &Ran) -> (usize, usize, usize) {
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    let line = ran.err.lines().find(|line| line.starts_with("prefill ")).unwrap();
    let (prefill, decode) = line.split_once("decode ").unwrap();
    let number = |text: &str| text.split(' ').next().unwrap().parse().unwrap();
    let known = prefill.split_once('(').map_or(0, |(_, known)| number(known));
    (number(&prefill["prefill ".len()..]), known, number(decode))
}

fn saved(dir: &Path, name: &str) -> serde_json::Value {
    serde_json::from_slice(&fs::read(dir.join(format!("sessions/{name}.json"))).unwrap()).unwrap()
}

#[test]
fn a_conversation_goes_on_in_another_run_without_computing_anything_again() {
    let dir = folder("twice");
    let named = ["--session", "work", "--nothink"];
    let first = turn(&dir, &"What is this? ".repeat(40), &named);
    let (prefill, known, decode) = counts(&first);
    assert!(known == 0 && first.err.lines().any(|line| line == "session work: new"), "{}", first.err);
    let held = saved(&dir, "work");
    assert_eq!((held["messages"].as_array().unwrap().len(), &held["thinking"]), (2, &false.into()));
    assert_eq!(held["tokens"].as_array().unwrap().len(), prefill + decode);
    let elsewhere = folder("elsewhere");
    fs::create_dir_all(elsewhere.join("sessions")).unwrap();
    fs::copy(dir.join("sessions/work.json"), elsewhere.join("sessions/work.json")).unwrap();

    let second = turn(&dir, "And that?", &named[..2]);
    assert!(prefill > 256 && counts(&second).1 == prefill + decode, "{}", second.err);
    let line = format!("session work: 2 messages, {} tokens, last used ", prefill + decode);
    assert!(second.err.lines().any(|l| l.starts_with(&line)), "{}", second.err);
    assert_eq!(saved(&dir, "work")["messages"].as_array().unwrap().len(), 4);
    let computed = turn(&elsewhere, "And that?", &named[..2]);
    assert_eq!((counts(&computed).1, &computed.out), (0, &second.out), "the same, when all of it is computed");
}

#[test]
fn a_file_that_is_broken_is_set_aside() {
    let dir = folder("broken");
    fs::create_dir_all(dir.join("sessions")).unwrap();
    fs::write(dir.join("sessions/a.json"), "{").unwrap();
    let ran = turn(&dir, "Hi", &["--session", "a", "--nothink"]);
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    assert!(ran.err.contains("a.json.broken, and the conversation begins afresh"), "{}", ran.err);
    assert_eq!(fs::read_to_string(dir.join("sessions/a.json.broken")).unwrap(), "{");
    assert_eq!(saved(&dir, "a")["messages"].as_array().unwrap().len(), 2);
}

#[test]
fn another_model_reads_the_text_anew() {
    let dir = folder("model");
    counts(&turn(&dir, "Hi", &["--session", "a", "--nothink"]));
    let model = testdata("deepseek_v4/micro-pro.gguf");
    let args =
        ["-m", model.to_str().unwrap(), "--temp", "0", "-n", "4", "-p", "And?", "--session", "a", "--kv-disk-dir"];
    let ran = run(&[&args[..], &[dir.to_str().unwrap()]].concat());
    assert_eq!(counts(&ran).1, 0);
    assert!(ran.err.lines().any(|line| line.starts_with("it was held with ")), "{}", ran.err);
    assert_eq!(saved(&dir, "a")["messages"].as_array().unwrap().len(), 4);
}

#[test]
fn flags_act_on_a_conversation_that_is_gone_on_with() {
    let dir = folder("flags");
    counts(&turn(&dir, "Hi", &["--session", "a", "--nothink", "--system", "Be brief."]));
    let ran = turn(&dir, "Hi", &["--session", "a", "--system", "Be verbose."]);
    counts(&ran);
    assert!(ran.err.contains("other instructions take the place"), "{}", ran.err);
    let texts: Vec<_> = saved(&dir, "a")["messages"].as_array().unwrap().iter().map(|m| m["text"].clone()).collect();
    assert_eq!((texts.len(), &texts[0]), (5, &"Be verbose.".into()));
    assert_eq!(saved(&dir, "a")["thinking"], false);
    // Its reasoning never ends, so there is no answer.
    let ran = turn(&dir, "Hi", &["--session", "a", "--think"]);
    assert!(ran.err.contains("session a: there was no answer, so nothing is added"), "{}", ran.err);
    assert_eq!(saved(&dir, "a")["messages"].as_array().unwrap().len(), 5);
}

#[test]
fn what_cannot_be_kept_is_told_before_a_model_is_opened() {
    let dir = folder("refused");
    let refused = |args: &[&str], status: i32, line: &str| {
        let ran = run(&[&["-m", "/nowhere.gguf", "-p", "Hi"], args].concat());
        assert!(ran.status == Some(status) && ran.err.contains(line), "{}", ran.show());
    };
    refused(&["--session", "a/b"], 2, "a name is 1 to 64 letters");
    refused(&["--session", ".a"], 2, "begins with no dot");
    refused(&["--session", "a", "--raw"], 2, "cannot be used with");
    refused(&["--session", "a", "--no-cache"], 2, "cannot be used with");
    refused(&["--kv-disk-space-mb", "1"], 2, "--kv-disk-space-mb is about what is kept of conversations");
    fs::write(&dir, "").unwrap();
    refused(&["--session", "a", "--kv-disk-dir", dir.to_str().unwrap()], 1, "sessions-refused");
    fs::remove_file(&dir).unwrap();
    let ran: Ran = ds4().env_remove("HOME").args(["-m", "x", "-p", "Hi", "--session", "a"]).output().unwrap().into();
    assert!(ran.status == Some(2) && ran.err.contains("--kv-disk-dir DIR"), "{}", ran.err);
}

#[test]
fn without_a_name_texts_share_what_they_begin_with() {
    let dir = folder("unnamed");
    let model = testdata("llama/micro.gguf");
    let begin = "What is this? ".repeat(60);
    let args = |text: &str| {
        let args = ["-m", model.to_str().unwrap(), "--raw", "--temp", "0", "-n", "4", "-p", text, "--kv-disk-dir"];
        run(&[&args[..], &[dir.to_str().unwrap()]].concat())
    };
    assert_eq!(counts(&args(&format!("{begin} A sparrow."))).1, 0);
    let known = counts(&args(&format!("{begin} An owl."))).1;
    assert!(known >= 256 && known.is_multiple_of(256), "{known}");
    assert!(!dir.join("sessions").exists());
}

#[test]
fn a_folder_is_looked_after() {
    let dir = folder("kv");
    counts(&turn(&dir, &"What is this? ".repeat(60), &["--nothink", "--session", "a"]));
    let name = dir.to_str().unwrap();
    let kv = |args: &[&str]| run(&[&["kv"], args].concat());
    let json = |args: &[&str]| serde_json::from_slice::<serde_json::Value>(&kv(args).out).unwrap();

    let listed = json(&["ls", name, "--json"]);
    let n = listed.as_array().unwrap().len();
    let text = kv(&["ls", name]);
    assert!(n >= 2 && text.out_str().lines().count() == n + 1, "{}", text.show());
    let columns: Vec<_> = text.out_str().lines().next().unwrap().split_whitespace().collect();
    assert_eq!(columns, ["piece", "kind", "tokens", "size", "age", "heat", "model"]);
    assert!(listed.as_array().unwrap().iter().any(|piece| piece["kind"] == "rows" && piece["tokens"] == 256));

    let stats = json(&["stats", name, "--json"]);
    assert_eq!(stats["all"]["rows"].as_u64().unwrap() + stats["all"]["tails"].as_u64().unwrap(), n as u64);
    let model = stats["models"][0]["model"].as_str().unwrap().to_owned();
    let text = kv(&["stats", name]);
    assert!(text.out_str().contains(&model) && text.out_str().lines().count() == 3, "{}", text.show());

    let whole = kv(&["verify", name]);
    assert!(whole.status == Some(0) && whole.out_str().starts_with(&format!("{n} of {n} pieces are whole")));
    let file = format!("{}.kv", listed[0]["name"].as_str().unwrap());
    let mut bytes = fs::read(dir.join(&file)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(dir.join(&file), bytes).unwrap();
    let broken = kv(&["verify", name]);
    assert_eq!((broken.status, broken.out_str().lines().count()), (Some(1), 2), "{}", broken.show());
    assert!(broken.out_str().starts_with(&file), "{}", broken.show());
    assert!(broken.err.starts_with(&format!("error: 1 of {n} pieces are broken\n")), "{}", broken.err);
    assert_eq!(json(&["verify", name, "--json"])["broken"][0]["name"], listed[0]["name"]);

    assert_eq!(kv(&["rm", name, "--model", "no such"]).status, Some(2));
    assert_eq!(kv(&["rm", name, "--older-than", "1"]).out_str(), "removed 0 pieces, 0 B\n");
    let removed = kv(&["rm", name, "--model", &model]);
    assert!(removed.out_str().starts_with(&format!("removed {n} pieces, ")), "{}", removed.show());
    assert_eq!(json(&["ls", name, "--json"]), serde_json::json!([]));
    assert_eq!(saved(&dir, "a")["messages"].as_array().unwrap().len(), 2, "the conversation stays");
}

#[test]
fn what_is_no_folder_of_pieces_is_left_alone() {
    let dir = folder("other");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    for path in [dir.clone(), dir.join("none"), dir.join("file"), dir.join("file/below")] {
        let name = path.to_str().unwrap();
        for args in [&["ls", name][..], &["verify", name], &["stats", name], &["rm", name, "--all"]] {
            let ran = run(&[&["kv"], args].concat());
            let line = format!("error: {name}: is no folder of what conversations computed\n");
            assert!(ran.status == Some(2) && ran.err.starts_with(&line), "{}", ran.show());
        }
    }
    let ran = run(&["kv", "rm", dir.to_str().unwrap()]);
    assert!(ran.status == Some(2) && ran.err.contains("--older-than"), "{}", ran.err);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}

#[test]
fn nothing_is_removed_while_somebody_writes() {
    let dir = folder("busy");
    counts(&turn(&dir, "Hi", &["--nothink"]));
    let lock = fs::File::options().write(true).open(dir.join("writer.lock")).unwrap();
    lock.lock().unwrap();
    let ran = run(&["kv", "rm", dir.to_str().unwrap(), "--all"]);
    assert!(ran.status == Some(1) && ran.err.contains("another process writes there"), "{}", ran.show());
}
