//! `inspect`, `tokenize`, `logits` and `bench` on the golden models.

mod common;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use common::{Ran, ds4, run, run_with, scratch, testdata};
use expect_test::{Expect, expect};

/// Every model with the logits of its authors' code.
const GOLDENS: [&str; 5] =
    ["llama/micro", "llama/micro-llama3", "qwen2/micro", "deepseek_v4/micro-flash", "deepseek_v4/micro-pro"];

fn file(name: &str) -> String {
    testdata(name).to_str().unwrap().to_owned()
}

fn logits_file(golden: &str, more: &[&str]) -> (Ran, PathBuf) {
    let name = format!("{}{}.f32", golden.replace('/', "-"), more.concat());
    let out = scratch().join(name);
    let (model, tokens) = (file(&format!("{golden}.gguf")), file(&format!("{golden}.tokens")));
    let args = ["logits", "-m", &model, "--tokens", &tokens, "--out", out.to_str().unwrap()];
    (run(&[&args[..], more].concat()), out)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

#[test]
fn logits_are_those_of_the_authors() {
    for golden in GOLDENS {
        let (ran, out) = logits_file(golden, &["--kv-type", "f32"]);
        assert_eq!(ran.status, Some(0), "{}", ran.err);
        let (found, expected) = (fs::read(out).unwrap(), fs::read(file(&format!("{golden}.logits.f32"))).unwrap());
        assert_eq!(found.len(), expected.len());
        let (found, expected) = (floats(&found), floats(&expected));
        let rows = || found.chunks(320).zip(expected.chunks(320));
        let near = |(a, b): (&[f32], &[f32])| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3);
        let n_near = rows().filter(|&row| near(row)).count();
        assert!(n_near * 100 >= 99 * rows().count(), "{golden}: {n_near} of {} rows", rows().count());
        assert!(rows().all(|(a, b)| argmax(a) == argmax(b)), "{golden}");
    }
}

#[test]
fn chunks_do_not_change_logits() {
    for golden in ["llama/micro", "deepseek_v4/micro-flash"] {
        let bytes = |chunk| fs::read(logits_file(golden, &["--chunk", chunk]).1).unwrap();
        let whole = bytes("1000");
        assert!(!whole.is_empty());
        assert!(bytes("1") == whole, "{golden}: one by one");
        assert!(bytes("7") == whole, "{golden}: by seven");
    }
}

#[test]
fn tokens_that_do_not_exist_leave_no_file() {
    let tokens = scratch().join("wrong.tokens");
    fs::write(&tokens, "1 2 320").unwrap();
    let out = scratch().join("wrong.f32");
    let (model, tokens) = (file("llama/micro.gguf"), tokens.to_str().unwrap().to_owned());
    let ran = run(&["logits", "-m", &model, "--tokens", &tokens, "--out", out.to_str().unwrap()]);
    assert_eq!(ran.status, Some(2), "{}", ran.err);
    assert!(ran.err.contains("token 320"), "{}", ran.err);
    assert!(!names().iter().any(|name| name.contains("wrong.f32")), "{:?}", names());
}

fn check(args: &[&str], expect: Expect) {
    let model = file("llama/micro.gguf");
    let ran = run(&[args, &["-m", &model]].concat());
    expect.assert_eq(&ran.show());
}

#[test]
fn tokens_are_shown_with_what_they_spell() {
    check(
        &["tokenize", "the\n\x1bö"],
        expect![[r#"
            262  "the"
             15  "\n"
             32  "\u{1b}"
            200  "\xc3"
            187  "\xb6"
        exit 0
    "#]],
    );
    check(
        &["tokenize", "<|im_end|>the", "--ids"],
        expect![[r#"
        65 129 110 114 100 106 115 105 129 67 262
        exit 0
    "#]],
    );
    check(
        &["tokenize", "<|im_end|>the", "--special"],
        expect![[r#"
              2  "<|im_end|>"  control
            262  "the"
        exit 0
    "#]],
    );
    check(
        &["tokenize", "--decode", "2 113 320"],
        expect![[r#"
        error: id 2: 320 is outside the vocabulary of 320
        help: write decimal ids separated by spaces, or raw little-endian u32
        exit 2
    "#]],
    );
    check(
        &["tokenize", "--decode", "[2, 77, 106]"],
        expect![[r#"
        <|im_end|>Heexit 0
    "#]],
    );
}

#[test]
fn text_survives_the_way_to_ids_and_back() {
    let model = file("llama/micro.gguf");
    let text = "größer than 😀\n\tthe";
    let ids = run_with(&["tokenize", "-m", &model, "--ids"], text.as_bytes());
    let back = run_with(&["tokenize", "-m", &model, "--decode"], &ids.out);
    assert_eq!(back.out_str(), text);
}

#[test]
fn a_file_is_looked_into() {
    let model = file("llama/micro.gguf");
    let ran = run(&["inspect", &model]);
    let shown = ran.show().replace(&model, "micro.gguf");
    expect![[r#"
        micro.gguf: GGUF version 3, 1.0 MiB, 24 keys, 47 tensors, 523.3 K weights

        general.architecture  "llama"
        general.name  "SmolLM2-micro-5L-f16"
        llama.block_count  5
        llama.context_length  8192
        llama.embedding_length  96
        llama.feed_forward_length  256
        llama.attention.head_count  3
        llama.attention.head_count_kv  1
        llama.rope.freq_base  100000
        llama.attention.layer_norm_rms_epsilon  0.00001
        llama.attention.key_length  32
        llama.attention.value_length  32
        llama.vocab_size  320
        llama.rope.dimension_count  32
        general.file_type  1
        general.quantization_version  2
        tokenizer.ggml.model  "gpt2"
        tokenizer.ggml.pre  "smollm"
        tokenizer.ggml.tokens  ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>", "Ā", "ā", "Ă", … 320 in all]
        tokenizer.ggml.token_type  [3, 3, 3, 3, 3, 1, 1, 1, … 320 in all]
        tokenizer.ggml.merges  ["h e", "t he", "Ġ the"]
        tokenizer.ggml.eos_token_id  2
        tokenizer.ggml.padding_token_id  0
        tokenizer.ggml.add_bos_token  false

        F16  36 tensors  522.2 K weights  1020.0 KiB  16.00 bits each
        F32  11 tensors  1.1 K weights    4.1 KiB     32.00 bits each
        exit 0
    "#]].assert_eq(&shown);
}

#[test]
fn programs_can_look_into_a_file() {
    let ran = run(&["inspect", &file("llama/micro.gguf"), "--json", "--tensors"]);
    let json: serde_json::Value = serde_json::from_slice(&ran.out).unwrap();
    assert_eq!(json["metadata"]["llama.block_count"], 5);
    assert_eq!(json["metadata"]["tokenizer.ggml.tokens"].as_array().unwrap().len(), 320);
    assert_eq!(json["tensors"].as_array().unwrap().len(), 47);
    assert_eq!(json["tensors"][0]["type"], "F16");
}

/// Runs a benchmark of the golden model.
fn bench(args: &[&str]) -> Ran {
    run(&[&["bench", "-m", &file("llama/micro.gguf"), "-t", "1"], args].concat())
}

fn json(ran: &Ran) -> serde_json::Value {
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    serde_json::from_slice(&ran.out).unwrap()
}

/// What was measured: kind, tokens, and those before them.
fn tests(json: &serde_json::Value) -> Vec<(&str, u64, u64)> {
    let number = |t: &serde_json::Value, key: &str| t[key].as_u64().unwrap();
    let tests = json["tests"].as_array().unwrap().iter();
    tests.map(|t| (t["kind"].as_str().unwrap(), number(t, "n"), number(t, "n_depth"))).collect()
}

#[test]
fn speed_is_measured_with_its_range_and_its_limits() {
    let json = json(&bench(&["-p", "32,5", "-n", "8,0", "-d", "16", "-r", "3", "--json"]));
    assert_eq!(tests(&json), [("prefill", 32, 16), ("prefill", 5, 16), ("decode", 8, 16)]);
    for test in json["tests"].as_array().unwrap() {
        let figure = |key: &str| test[key].as_f64().unwrap();
        assert_eq!(test["seconds"].as_array().unwrap().len(), 3);
        assert!(0.0 < figure("min_tps"));
        assert!(figure("min_tps") <= figure("median_tps") && figure("median_tps") <= figure("max_tps"));
        assert!(figure("share") > 0.0 && figure("work") > 0.0);
    }
    // 5 layers of 3 * 32 + 2 * 32 + 96 rows of 96 weights and three of 256 by 96, as halves; the embeddings make logits.
    let (layers, logits) = (5 * (256 * 96 + 3 * 256 * 96), 320 * 96);
    let token = &json["token"];
    assert_eq!(token["macs"], layers);
    assert_eq!(token["logits_macs"], logits);
    assert_eq!(token["weight_bytes"], 2 * (layers + logits));
    assert_eq!(token["kv_bytes"], 5 * 2 * 32 * 2);
    assert!(
        json["limits"]["read_gbps"].as_f64().unwrap() > 0.0 && json["limits"]["int8_gmacs"].as_f64().unwrap() > 0.0
    );
    let ran = bench(&["-p", "8", "-n", "0", "-r", "1"]);
    assert!(ran.out_str().contains("prefill 8") && !ran.out_str().contains("decode"), "{}", ran.show());
    assert!(ran.out_str().contains(" % of int8\n"), "{}", ran.show());
}

#[test]
fn a_context_grows_and_goes_back_behind_each_probe() {
    let model = file("deepseek_v4/micro-flash.gguf");
    let ran = run(&["bench", "-m", &model, "--sweep", "40..250:100", "-n", "50", "--json"]);
    let grown = json(&ran);
    // Of 50 tokens that were decoded, this model could not drop all.
    let expected = [
        [("prefill", 40, 0), ("decode", 31, 40)],
        [("prefill", 100, 40), ("decode", 31, 140)],
        [("prefill", 100, 140), ("decode", 31, 240)],
        [("prefill", 10, 240), ("decode", 31, 250)],
    ];
    assert_eq!(tests(&grown), expected.concat());
    assert!(ran.err.contains("can drop no more than 31 tokens again: so many are decoded, not 50\n"), "{}", ran.err);
    let ran = bench(&["--sweep", "20..40:x2", "-n", "50", "--json"]);
    let expected = [("prefill", 20, 0), ("decode", 50, 20), ("prefill", 20, 20), ("decode", 50, 40)];
    assert_eq!(tests(&json(&ran)), expected);
    assert!(!ran.err.contains("drop"), "{}", ran.err);
}

#[test]
fn a_sweep_becomes_rows_and_a_picture() {
    let picture = scratch().join("sweep.svg");
    let ran = bench(&["--sweep", "16..64", "-n", "0", "--csv", "--plot", picture.to_str().unwrap()]);
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    let rows: Vec<Vec<&str>> = ran.out_str().lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 4, "{}", ran.out_str());
    assert!(rows.iter().all(|row| row.len() == rows[0].len()));
    assert_eq!(rows[3][..4], ["prefill", "32", "32", "1"]);
    let drawn = fs::read_to_string(picture).unwrap();
    assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"));
    assert_eq!(drawn.matches("<circle").count(), 3);
}

#[test]
fn sessions_side_by_side_are_measured_against_one_alone() {
    let args = ["--sessions", "3", "-n", "6,0,4", "-d", "8", "-r", "3"];
    let figures = json(&bench(&[&args[..], &["--json"]].concat()));
    let all = figures["tests"].as_array().unwrap();
    assert_eq!(all.iter().map(|t| t["n"].as_u64().unwrap()).collect::<Vec<_>>(), [6, 4]);
    for test in all {
        let of = |key: &str| ["min", "median", "max"].map(|which| test[key][which].as_f64().unwrap());
        for key in ["alone_tps", "each_tps", "total_tps", "ratio"] {
            let [min, median, max] = of(key);
            assert!(0.0 < min && min <= median && median <= max, "{test}");
        }
        assert_eq!((&test["n_sessions"], &test["n_depth"]), (&3.into(), &8.into()));
        let runs = test["runs"].as_array().unwrap();
        assert!(runs.len() == 3 && runs.iter().all(|run| run["each_seconds"].as_array().unwrap().len() == 3));
    }
    let csv = bench(&[&args[..], &["--csv"]].concat());
    let rows: Vec<Vec<&str>> = csv.out_str().lines().map(|line| line.split(',').collect()).collect();
    assert!(rows.len() == 3 && rows.iter().all(|row| row.len() == 12), "{}", csv.show());
    assert_eq!((rows[0][0], &rows[1][..4]), ("n_sessions", &["3", "8", "6", "3"][..]));
    let text = bench(&args);
    for line in ["1 session, decode 6 behind 8 ", "each of 3 sessions ", "all 3 together ", "times one session "] {
        assert!(text.out_str().lines().any(|l| l.starts_with(line)), "{}", text.show());
    }
    let refused = |args: &[&str], why: &str| {
        let ran = bench(args);
        assert!(ran.status == Some(2) && ran.err.contains(why), "{}", ran.err);
    };
    refused(&["--sessions", "0"], "must be a whole number, 1 to 64");
    refused(&["--sessions", "2", "-n", "0"], "nothing to measure");
    for other in [["--sweep", "1..2"], ["--plot", "x.svg"], ["-p", "2"]] {
        refused(&[&["--sessions", "2"], &other[..]].concat(), "cannot be used with");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_with_the_range() {
    let most = "1073741824";
    let ran = bench(&["-p", most, "-d", most]);
    assert_eq!(ran.status, Some(2), "{}", ran.err);
    assert!(ran.err.contains("a context of 2147483648 tokens"), "{}", ran.err);
    assert!(
        ran.err.contains("help: measure fewer tokens: lower -p, -n and -d, --sweep or --sessions\n"),
        "{}",
        ran.err
    );
    let line = |args: &[&str]| {
        let ran = bench(args);
        assert_eq!((ran.status, &ran.out[..]), (Some(2), &[][..]), "{}", ran.err);
        ran.err.lines().next().unwrap().to_owned()
    };
    let lengths = "must be whole numbers, 0 to 1073741824, with commas between them";
    for wrong in ["0,", ",", "", "1;2", "-1", "18446744073709551615"] {
        let name = "error: invalid value";
        assert_eq!(line(&[&format!("-p={wrong}")]), format!("{name} '{wrong}' for '--n-prompt <N,...>': {lengths}"));
    }
    assert_eq!(line(&["-p", "0,0", "-n", "0"]), "error: nothing to measure");
    assert_eq!(line(&["--sweep", "1..2", "-n", "1,2"]), "error: a sweep decodes as many tokens at every length");
    let sweep = line(&["--sweep", "9..2"]);
    assert!(sweep.starts_with("error: invalid value '9..2' for '--sweep <LENGTHS>': must be START..MAX,"), "{sweep}");
    let both = line(&["--sweep", "1..2", "-p", "3"]);
    assert!(both.contains("'--sweep <LENGTHS>' cannot be used with '--n-prompt <N,...>'"), "{both}");
    let alone = line(&["--plot", "x.svg"]);
    assert!(alone.contains("not provided: --sweep <LENGTHS>"), "{alone}");
    assert!(line(&["--ctx-start", "2048"]).starts_with("error: --ctx-start is not in this version"));
    let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    for name in ["z80", foreign] {
        let expected = format!("error: this machine has no instruction set `{name}`; it has scalar");
        assert!(line(&["--isa", name]).starts_with(&expected));
    }
}

#[test]
fn a_picture_has_a_place_before_anything_is_measured() {
    let model = testdata("llama/micro.gguf");
    let before = fs::read(&model).unwrap();
    for (path, status, told) in [
        (scratch().join("no/such/folder.svg"), 1, "folder.svg: no such file or directory\n"),
        (scratch(), 1, ": is a directory\n"),
        (model.clone(), 2, "the result would overwrite what it is made from\n"),
    ] {
        let ran = bench(&["--sweep", "8..8", "--plot", path.to_str().unwrap()]);
        assert_eq!((ran.status, &ran.out[..]), (Some(status), &[][..]), "{}", ran.err);
        assert!(ran.err.starts_with("error: ") && ran.err.contains(told), "{}", ran.err);
    }
    assert!(fs::read(&model).unwrap() == before);
}

#[test]
fn every_instruction_set_tells_the_same_logits() {
    let run_on = |isa: &str| logits_file("llama/micro", &["--kv-type", "f32", "--isa", isa]);
    let logits = |out: PathBuf| floats(&fs::read(out).unwrap());
    let (ran, out) = run_on("scalar");
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    let scalar = logits(out);
    assert!(!scalar.is_empty());
    for isa in ["avx2", "AVX-512", "amx", "neon"] {
        let (ran, out) = run_on(isa);
        if ran.err.contains("error: this machine has no instruction set") {
            eprintln!("skipped: this machine has no {isa}");
            continue;
        }
        assert_eq!(ran.status, Some(0), "{}", ran.err);
        let found = logits(out);
        assert_eq!(found.len(), scalar.len());
        assert!(scalar.iter().zip(found).all(|(a, b)| (a - b).abs() < 1e-3), "{isa}");
    }
    let named = bench(&["-p", "1", "-n", "0", "-r", "1", "--isa", "scalar"]);
    assert!(named.out_str().contains("CPU (scalar, 1 threads)"), "{}", named.show());
}

#[test]
fn a_result_never_replaces_what_it_is_made_from() {
    let (model, tokens) = (file("llama/micro.gguf"), file("llama/micro.tokens"));
    for input in [&model, &tokens] {
        let before = fs::read(input).unwrap();
        let ran = run(&["logits", "-m", &model, "--tokens", &tokens, "--out", input]);
        assert_eq!(ran.status, Some(2), "{}", ran.err);
        assert!(ran.err.contains("the result would overwrite what it is made from"), "{}", ran.err);
        assert_eq!(fs::read(input).unwrap(), before);
    }
}

/// Writes the model in two files, half of the tensors each.
fn split(model: &str, stem: &str) -> [PathBuf; 2] {
    let whole = gguf::Gguf::open(&testdata(model)).unwrap();
    let half = whole.tensors().len() / 2;
    [0, 1].map(|no| {
        let mut part = gguf::Writer::new();
        if no == 0 {
            whole.metadata().iter().for_each(|(key, value)| _ = part.set(key, value.clone()));
            part.set("split.tensors.count", whole.tensors().len() as i32);
        }
        part.set("split.no", no as u16).set("split.count", 2_u16);
        for t in if no == 0 { &whole.tensors()[..half] } else { &whole.tensors()[half..] } {
            part.tensor(&t.name, &t.shape, t.element, whole.bytes(t));
        }
        let path = scratch().join(format!("{stem}-{:05}-of-00002.gguf", no + 1));
        part.write(&path).unwrap();
        path
    })
}

#[test]
fn a_result_never_replaces_a_part_of_the_model() {
    let parts = split("llama/micro.gguf", "split");
    let (model, tokens) = (parts[0].to_str().unwrap(), file("llama/micro.tokens"));
    for part in &parts {
        let before = fs::read(part).unwrap();
        let ran = run(&["logits", "-m", model, "--tokens", &tokens, "--out", part.to_str().unwrap()]);
        assert_eq!(ran.status, Some(2), "{}", ran.err);
        assert!(ran.err.contains("the result would overwrite what it is made from"), "{}", ran.err);
        assert!(fs::read(part).unwrap() == before);
    }
}

#[test]
fn logits_are_not_written_to_stdout_nor_to_a_dash() {
    let (model, tokens) = (file("llama/micro.gguf"), file("llama/micro.tokens"));
    let ran = run(&["logits", "-m", &model, "--tokens", &tokens, "-o", "-"]);
    expect![[r#"
        error: -: such results are not written to standard output
        help: give a name; ./- is a file that is called so
        exit 2
    "#]]
    .assert_eq(&ran.show());
    assert!(!scratch().join("-").exists());
}

#[test]
fn a_word_among_ids_is_named() {
    let tokens = scratch().join("words.tokens");
    fs::write(&tokens, "1,2,abc,").unwrap();
    let (model, tokens) = (file("llama/micro.gguf"), tokens.to_str().unwrap().to_owned());
    let ran = run(&["logits", "-m", &model, "--tokens", &tokens, "-o", "words.f32"]);
    assert_eq!(ran.status, Some(2));
    assert!(ran.err.contains("words.tokens: id 2 is no whole number: abc\n"), "{}", ran.err);
}

#[cfg(unix)]
#[test]
fn ids_come_through_a_pipe_as_well() {
    let pipe = scratch().join("ids.fifo");
    let _ = fs::remove_file(&pipe);
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (model, out) = (file("llama/micro.gguf"), scratch().join("fifo.f32"));
    let args = ["logits", "-m", &model, "--tokens", pipe.to_str().unwrap(), "-o", out.to_str().unwrap()];
    let child = ds4().args(args).stderr(Stdio::piped()).spawn().unwrap();
    fs::write(&pipe, "1 2 3").unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    assert_eq!(fs::metadata(&out).unwrap().len(), 3 * 320 * 4);
}

#[cfg(target_os = "linux")]
#[test]
fn what_has_no_end_is_refused() {
    let model = file("llama/micro.gguf");
    let zero = || fs::File::open("/dev/zero").unwrap();
    let line = |ran: Ran| {
        assert_eq!((ran.status, ran.out.len()), (Some(2), 0), "{}", ran.err);
        ran.err.lines().next().unwrap().to_owned()
    };
    let (device, stdin) = (
        "error: /dev/zero: longer than 64.0 MiB, the most that is read",
        "error: standard input: longer than 64.0 MiB, the most that is read",
    );
    assert_eq!(line(run(&["logits", "-m", &model, "--tokens", "/dev/zero", "-o", "zero.f32"])), device);
    assert_eq!(line(run(&["-m", &model, "--raw", "--prompt-file", "/dev/zero"])), device);
    for args in [&["-m", &model, "--raw"][..], &["tokenize", "-m", &model], &["tokenize", "-m", &model, "--decode"]] {
        assert_eq!(line(ds4().args(args).stdin(zero()).output().unwrap().into()), stdin);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told() {
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let (model, tokens) = (file("llama/micro.gguf"), file("llama/micro.tokens"));
    let trace = scratch().join("full.csv").to_str().unwrap().to_owned();
    assert_eq!(run(&["routes", "synth", "uniform", "-n", "2", "--out", &trace]).status, Some(0));
    for args in [
        &["inspect", &model][..],
        &["inspect", "--json", &model],
        &["tokenize", "-m", &model, "Hi"],
        &["bench", "-m", &model, "--json", "-p", "2", "-n", "0", "-r", "1"],
        &["routes", &trace],
        &["ssd"],
        &["completions", "bash"],
        &["--help"],
        &["-m", &model, "--raw", "-p", "the", "-n", "1"],
    ] {
        let ran: Ran = ds4().args(args).stdout(full()).output().unwrap().into();
        expect![[r#"
            error: standard output: no space left on device
            exit 1
        "#]]
        .assert_eq(&ran.show());
    }
    let ran = run(&["logits", "-m", &model, "--tokens", &tokens, "--out", "/dev/full"]);
    assert_eq!(ran.status, Some(1), "{}", ran.err);
    assert!(ran.err.contains("error: /dev/full: no space left on device"), "{}", ran.err);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_no_half_of_a_file() {
    let tokens = scratch().join("many.tokens");
    fs::write(&tokens, "1 2 3 ".repeat(2500)).unwrap();
    let out = scratch().join("many.f32");
    let (model, tokens) = (file("llama/micro.gguf"), tokens.to_str().unwrap().to_owned());
    for signals in [1, 2] {
        let args = ["logits", "-m", &model, "--tokens", &tokens, "--chunk", "1", "--out", out.to_str().unwrap()];
        let child = ds4().args(args).stderr(Stdio::piped()).spawn().unwrap();
        let partial = || names().into_iter().any(|name| name.contains("many.f32") && name.contains("partial"));
        while !partial() {
            thread::sleep(Duration::from_millis(5));
        }
        for _ in 0..signals {
            let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
            assert!(kill.success());
        }
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert_eq!(ran.status, Some(130), "{}", ran.err);
        assert!(!partial() && !out.exists());
    }
}

/// As under `nohup`: who started the program wants it to outlive the terminal.
#[cfg(unix)]
#[test]
fn signals_that_were_ignored_stay_ignored() {
    for signal in ["HUP", "INT"] {
        let tokens = scratch().join(format!("{signal}.tokens"));
        fs::write(&tokens, "1 2 3 ".repeat(1000)).unwrap();
        let out = scratch().join(format!("{signal}.f32"));
        let script = format!("trap '' {signal}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_ds4"), "logits", "-m", &file("llama/micro.gguf")]);
        command.args(["--chunk", "1", "--tokens", tokens.to_str().unwrap(), "-o", out.to_str().unwrap()]);
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let partial = format!(".{signal}.f32.");
        while !names().iter().any(|name| name.starts_with(&partial)) {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(
            Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success()
        );
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert_eq!(ran.status, Some(0), "{signal}: {}", ran.err);
        assert!(out.exists());
    }
}

fn names() -> Vec<String> {
    let names = fs::read_dir(scratch()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.collect()
}
