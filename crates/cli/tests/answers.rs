//! One question, one answer, on tiny models whose words mean nothing.

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
};

use common::{Ran, ds4, run, run_with, testdata};

fn model(name: &str) -> String {
    testdata(name).to_str().unwrap().to_owned()
}

/// A greedy answer of at most 24 tokens.
fn answer(name: &str, more: &[&str]) -> Ran {
    let model = model(name);
    run(&[&["-m", &model, "-n", "24", "--temp", "0"], more].concat())
}

#[test]
fn raw_text_is_continued() {
    let ran = answer("llama/micro.gguf", &["--raw", "-p", "the "]);
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    assert!(!ran.out.is_empty());
    assert!(ran.err.contains("memory: ") && ran.err.contains("prefill ") && ran.err.contains("t/s"), "{}", ran.err);
}

#[test]
fn a_conversation_of_one_turn_is_answered() {
    let ran = answer("deepseek_v4/micro-flash.gguf", &["--nothink", "-p", "Hi"]);
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    assert!(!ran.out.is_empty());
}

#[test]
fn the_same_seed_gives_the_same_answer() {
    let model = model("llama/micro.gguf");
    let text = |seed| run(&["-m", &model, "--raw", "-p", "the", "-n", "24", "--seed", seed]).out;
    assert_eq!(text("7"), text("7"));
    assert_ne!(text("7"), text("8"));
}

#[test]
fn a_file_a_flag_and_a_pipe_ask_the_same() {
    let model = model("llama/micro.gguf");
    let flags = ["-m", &model, "--raw", "-n", "16", "--temp", "0"];
    let path = common::scratch().join("question.txt");
    std::fs::write(&path, "the end").unwrap();
    let by_flag = run(&[&flags[..], &["-p", "the end"]].concat()).out;
    assert_eq!(run(&[&flags[..], &["--prompt-file", path.to_str().unwrap()]].concat()).out, by_flag);
    assert_eq!(run_with(&flags, b"the end").out, by_flag);
    let both = run(&[&flags[..], &["-p", "a\n\nb"]].concat()).out;
    assert_eq!(run_with(&[&flags[..], &["-p", "a"]].concat(), b"b").out, both);
}

/// The reasoning of these models never ends, so the answer is empty unless the reasoning is asked for.
#[test]
fn stdout_is_the_answer_alone() {
    let hidden = answer("deepseek_v4/micro-flash.gguf", &["--think", "-p", "Hi"]);
    assert_eq!((hidden.status, hidden.out_str()), (Some(0), ""), "{}", hidden.err);
    let shown = answer("deepseek_v4/micro-flash.gguf", &["--think", "-p", "Hi", "--show-thinking"]);
    assert!(shown.out_str().starts_with("<think>\n"), "{:?}", shown.out_str());
    assert!(shown.out_str().ends_with("\n</think>\n\n"), "{:?}", shown.out_str());
}

#[test]
fn a_prompt_without_room_for_an_answer_is_refused() {
    let ran = answer("llama/micro.gguf", &["--raw", "--ctx", "4", "-p", "more than four"]);
    assert_eq!((ran.status, ran.out.len()), (Some(2), 0));
    assert!(ran.err.contains("error: the prompt has 14 tokens, but the context holds 4"), "{}", ran.err);
}

#[test]
fn a_prompt_far_too_long_is_refused_before_its_tokens_are_counted() {
    let model = model("llama/micro.gguf");
    let ran = run_with(&["-m", &model, "--raw", "--ctx", "4"], &vec![b'a'; 1_100_000]);
    assert_eq!((ran.status, ran.out.len()), (Some(2), 0));
    let line = "error: the prompt has 1100000 bytes, far more than a context of 4 tokens holds\n";
    assert!(ran.err.contains(line), "{}", ran.err);
}

/// A copy of a model under this name, that says something else of a key.
fn saying(name: &str, key: &str, value: impl Into<gguf::Value>) -> String {
    let whole = gguf::Gguf::open(&testdata("llama/micro.gguf")).unwrap();
    let mut copy = gguf::Writer::new();
    whole.metadata().iter().for_each(|(key, value)| _ = copy.set(key, value.clone()));
    copy.set(key, value);
    for t in whole.tensors() {
        copy.tensor(&t.name, &t.shape, t.element, whole.bytes(t));
    }
    let path = common::scratch().join(name);
    copy.write(&path).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn tokens_are_chosen_as_the_file_recommends_unless_a_flag_says_otherwise() {
    let ran = |model: &str, more: &[&str]| run(&[&["-m", model, "--raw", "-p", "the", "-n", "24"], more].concat());
    let greedy = saying("greedy.gguf", "general.sampling.temp", 0.0f32);
    let text = |more: &[&str]| ran(&greedy, more).out;
    assert_eq!(text(&["--seed", "7"]), text(&["--seed", "8"]));
    assert_eq!(text(&["--seed", "7"]), ran(&model("llama/micro.gguf"), &["--temp", "0"]).out);
    assert_ne!(text(&["--seed", "7"]), text(&["--seed", "7", "--temp", "1"]));

    let wrong = saying("wrong.gguf", "general.sampling.top_p", 1.5f32);
    let refused = ran(&wrong, &[]);
    let lines = "error: general.sampling.top_p of the model is 1.5, but must be above 0, up to 1\nhelp: choose another by --top-p\n";
    assert!(refused.status == Some(2) && refused.err.contains(lines), "{}", refused.err);
    assert_eq!(ran(&wrong, &["--top-p", "1"]).status, Some(0));
}

#[test]
fn a_template_that_makes_nothing_of_a_question_is_told() {
    let silent = saying("silent.gguf", "tokenizer.chat_template", "");
    let ran = run(&["-m", &silent, "-p", "Hi"]);
    assert_eq!((ran.status, ran.out.len()), (Some(2), 0));
    let lines =
        "error: the chat template of this model makes nothing of what was said\nhelp: complete raw text with --raw";
    assert!(ran.err.contains(lines), "{}", ran.err);
}

#[test]
fn a_context_that_is_full_is_told() {
    let model = model("llama/micro.gguf");
    let ran = run(&["-m", &model, "--raw", "--ctx", "8", "-p", "the", "--temp", "0"]);
    assert_eq!(ran.status, Some(0));
    assert!(ran.err.contains("the context is full"), "{}", ran.err);
    let ran = run(&["-m", &model, "--raw", "--ctx", "9000", "-p", "the", "-n", "1"]);
    assert!(ran.err.contains("the model was trained for 8192 tokens"), "{}", ran.err);
    let ran = run(&["-m", &model, "--raw", "--ctx", "999999999", "-p", "the", "-n", "1"]);
    assert_eq!((ran.status, ran.out.len()), (Some(1), 0), "memory: {}", ran.err);
    assert!(ran.err.contains("error: a context of 999999999 tokens needs "), "{}", ran.err);
}

#[test]
fn a_model_without_a_template_says_what_to_do() {
    let ran = answer("llama/micro.gguf", &["-p", "Hi"]);
    assert_eq!((ran.status, ran.out.len()), (Some(2), 0));
    assert!(ran.err.contains("complete raw text with --raw"), "{}", ran.err);
}

#[test]
fn a_reader_that_leaves_ends_the_program_quietly() {
    let model = model("llama/micro.gguf");
    let mut command = ds4();
    command.args(["-m", &model, "--raw", "-p", "the", "--seed", "1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.status, Some(0));
    assert!(!ran.err.contains("error"), "{}", ran.err);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_an_answer_with_status_130() {
    let model = model("llama/micro.gguf");
    let mut command = ds4();
    // Who prefers what was just said says it until the context is full.
    command.args(["-m", &model, "--raw", "-p", "the", "--temp", "0", "--frequency-penalty", "-5"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0]).unwrap();
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.status, Some(130), "{}", ran.err);
    assert!(!ran.err.contains("error"), "{}", ran.err);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_reading_of_a_prompt() {
    let model = model("llama/micro.gguf");
    let path = common::scratch().join("long.txt");
    std::fs::write(&path, "never ending ".repeat(600)).unwrap();
    let mut command = ds4();
    command.args(["-m", &model, "--raw", "--batch", "1", "--prompt-file", path.to_str().unwrap()]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(400));
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.status, ran.out.len()), (Some(130), 0), "{}", ran.err);
}

#[test]
fn the_program_needs_no_environment() {
    let model = model("llama/micro.gguf");
    let mut command = ds4();
    command.env_clear().args(["-m", &model, "--raw", "-p", "the", "-n", "2"]);
    let ran: Ran = command.output().unwrap().into();
    assert_eq!(ran.status, Some(0), "{}", ran.err);
}

#[test]
fn waiting_for_a_pipe_is_told() {
    let model = model("llama/micro.gguf");
    let mut command = ds4();
    command.args(["-m", &model, "--raw", "-p", "the", "-n", "2"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut told = String::new();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    err.read_line(&mut told).unwrap();
    assert!(told.starts_with("waiting for standard input to end"), "{told}");
    drop(child.stdin.take());
    err.read_to_string(&mut told).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{told}");
}

#[test]
fn wishes_about_reasoning_act_or_are_refused() {
    let effort = |how: &str| answer("deepseek_v4/micro-flash.gguf", &["--effort", how, "-p", "Hi"]);
    let tokens =
        |ran: &Ran| ran.err.split("prefill ").nth(1).unwrap().split(' ').next().unwrap().parse::<usize>().unwrap();
    assert!(tokens(&effort("low")) < tokens(&effort("max")));
    let both = answer("deepseek_v4/micro-flash.gguf", &["--think", "--nothink", "-p", "Hi"]);
    assert_eq!(both.status, Some(2));
    assert!(both.err.contains("'--think' cannot be used with '--nothink'"), "{}", both.err);
}

#[test]
fn an_answer_is_json_by_the_schema_that_was_given() {
    let schema = r#"{"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 2]}},
        "required": ["ok", "n"], "additionalProperties": false}"#;
    let path = common::scratch().join("schema.json");
    std::fs::write(&path, schema).unwrap();
    let file = path.to_str().unwrap();
    for (name, flags) in [
        ("llama/micro.gguf", &["--raw", "-j", schema][..]),
        ("deepseek_v4/micro-flash.gguf", &["--nothink", "--json-schema", schema]),
        ("deepseek_v4/micro-flash.gguf", &["--nothink", "--json-schema-file", file]),
    ] {
        let model = model(name);
        let ran = run(&[&["-m", &model, "-n", "200", "--temp", "0", "-p", "Hi"], flags].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.err);
        let value: serde_json::Value =
            serde_json::from_str(ran.out_str()).unwrap_or_else(|e| panic!("{e}: {}", ran.out_str()));
        assert!(value["ok"].is_boolean() && value["n"].is_u64(), "{value}");
    }
}

#[test]
fn a_schema_that_cannot_be_kept_is_refused_by_name() {
    let ran = answer("llama/micro.gguf", &["--raw", "-p", "a", "-j", r#"{"properties": {"a": {"not": {}}}}"#]);
    assert_eq!((ran.status, ran.out.len()), (Some(2), 0));
    let lines = "error: `not` at `#/properties/a` is not supported\nhelp: leave the keyword out, and check the answer";
    assert!(ran.err.contains(lines), "{}", ran.err);
}
