//! `ds4 quantize` on a golden model.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use common::{Ran, ds4, run, scratch, testdata};
use expect_test::{Expect, expect};

fn micro() -> String {
    testdata("llama/micro.gguf").to_str().unwrap().to_owned()
}

fn out(name: &str) -> String {
    let path = scratch().join(name);
    let _ = fs::remove_file(&path);
    path.to_str().unwrap().to_owned()
}

fn quantize(args: &[&str]) -> Ran {
    let micro = micro();
    run(&[&["quantize", &micro][..], args].concat())
}

fn check(ran: &Ran, expected: &Expect) {
    let shown = ran.show().replace(&micro(), "MICRO").replace(scratch().to_str().unwrap(), "SCRATCH");
    expected.assert_eq(&shown);
}

#[test]
fn a_packed_model_runs_and_answers_nearly_as_before() {
    let path = out("micro-q8.gguf");
    let ran = quantize(&["--recipe", "q8_0", "--out", &path]);
    check(
        &ran,
        &expect![[r#"
        47 tensors, 554.4 KiB in SCRATCH/micro-q8.gguf
        exit 0
    "#]],
    );
    let tokens = testdata("llama/micro.tokens");
    let logits = |model: &str, name: &str| {
        let out = out(name);
        let ran = run(&["logits", "-m", model, "--tokens", tokens.to_str().unwrap(), "--out", &out]);
        assert_eq!(ran.status, Some(0), "{}", ran.err);
        let bytes = fs::read(out).unwrap();
        bytes.as_chunks().0.iter().map(|x| f64::from(f32::from_le_bytes(*x))).collect::<Vec<_>>()
    };
    let (old, new) = (logits(&micro(), "micro-old.f32"), logits(&path, "micro-new.f32"));
    let error: f64 = old.iter().zip(&new).map(|(a, b)| (a - b).powi(2)).sum();
    let size: f64 = old.iter().map(|a| a.powi(2)).sum();
    assert!(error > 0.0 && (error / size).sqrt() < 0.2, "{}", (error / size).sqrt());
}

#[test]
fn a_dry_run_tells_the_size_to_the_byte() {
    let path = out("micro-dry.gguf");
    let dry = quantize(&["--recipe", "q8_0", "--tensor", "blk.*.ffn_down.weight=F16", "--dry-run", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&dry.out).unwrap();
    let ran = quantize(&["--recipe", "q8_0", "--tensor", "blk.*.ffn_down.weight=F16", "--out", &path]);
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    assert_eq!(told["n_bytes"].as_u64(), Some(fs::metadata(&path).unwrap().len()));
    let types: Vec<&str> = told["tensors"].as_array().unwrap().iter().map(|t| t["type"].as_str().unwrap()).collect();
    assert!(types.contains(&"F16") && types.contains(&"Q8_0") && types.contains(&"F32"), "{types:?}");
}

#[test]
fn a_dry_run_in_words() {
    check(
        &quantize(&["--recipe", "q4_k_m", "--dry-run"]),
        &expect![[r#"
            token_embd.weight         [320, 96]  F16  ->  Q8_0  31.9 KiB  for Q6_K
            output_norm.weight        [96]       F32  ->  F32   384 B
            blk.0.attn_norm.weight    [96]       F32  ->  F32   384 B
            blk.0.attn_q.weight       [96, 96]   F16  ->  Q5_0  6.2 KiB   for Q4_K
            blk.0.attn_k.weight       [32, 96]   F16  ->  Q5_0  2.1 KiB   for Q4_K
            blk.0.attn_v.weight       [32, 96]   F16  ->  Q5_0  2.1 KiB   for Q4_K
            blk.0.attn_output.weight  [96, 96]   F16  ->  Q5_0  6.2 KiB   for Q4_K
            blk.0.ffn_norm.weight     [96]       F32  ->  F32   384 B
            blk.0.ffn_gate.weight     [256, 96]  F16  ->  Q5_0  16.5 KiB  for Q4_K
            blk.0.ffn_up.weight       [256, 96]  F16  ->  Q5_0  16.5 KiB  for Q4_K
            blk.0.ffn_down.weight     [96, 256]  F16  ->  Q4_K  13.5 KiB
            blk.1.attn_norm.weight    [96]       F32  ->  F32   384 B
            blk.1.attn_q.weight       [96, 96]   F16  ->  Q5_0  6.2 KiB   for Q4_K
            blk.1.attn_k.weight       [32, 96]   F16  ->  Q5_0  2.1 KiB   for Q4_K
            blk.1.attn_v.weight       [32, 96]   F16  ->  Q5_0  2.1 KiB   for Q4_K
            blk.1.attn_output.weight  [96, 96]   F16  ->  Q5_0  6.2 KiB   for Q4_K
            blk.1.ffn_norm.weight     [96]       F32  ->  F32   384 B
            blk.1.ffn_gate.weight     [256, 96]  F16  ->  Q5_0  16.5 KiB  for Q4_K
            blk.1.ffn_up.weight       [256, 96]  F16  ->  Q5_0  16.5 KiB  for Q4_K
            blk.1.ffn_down.weight     [96, 256]  F16  ->  Q4_K  13.5 KiB
            blk.2.attn_norm.weight    [96]       F32  ->  F32   384 B
            blk.2.attn_q.weight       [96, 96]   F16  ->  Q5_0  6.2 KiB   for Q4_K
            blk.2.attn_k.weight       [32, 96]   F16  ->  Q5_0  2.1 KiB   for Q4_K
            blk.2.attn_v.weight       [32, 96]   F16  ->  Q8_0  3.2 KiB   for Q6_K
            blk.2.attn_output.weight  [96, 96]   F16  ->  Q5_0  6.2 KiB   for Q4_K
            blk.2.ffn_norm.weight     [96]       F32  ->  F32   384 B
            blk.2.ffn_gate.weight     [256, 96]  F16  ->  Q5_0  16.5 KiB  for Q4_K
            blk.2.ffn_up.weight       [256, 96]  F16  ->  Q5_0  16.5 KiB  for Q4_K
            blk.2.ffn_down.weight     [96, 256]  F16  ->  Q6_K  19.7 KiB
            blk.3.attn_norm.weight    [96]       F32  ->  F32   384 B
            blk.3.attn_q.weight       [96, 96]   F16  ->  Q5_0  6.2 KiB   for Q4_K
            blk.3.attn_k.weight       [32, 96]   F16  ->  Q5_0  2.1 KiB   for Q4_K
            blk.3.attn_v.weight       [32, 96]   F16  ->  Q5_0  2.1 KiB   for Q4_K
            blk.3.attn_output.weight  [96, 96]   F16  ->  Q5_0  6.2 KiB   for Q4_K
            blk.3.ffn_norm.weight     [96]       F32  ->  F32   384 B
            blk.3.ffn_gate.weight     [256, 96]  F16  ->  Q5_0  16.5 KiB  for Q4_K
            blk.3.ffn_up.weight       [256, 96]  F16  ->  Q5_0  16.5 KiB  for Q4_K
            blk.3.ffn_down.weight     [96, 256]  F16  ->  Q4_K  13.5 KiB
            blk.4.attn_norm.weight    [96]       F32  ->  F32   384 B
            blk.4.attn_q.weight       [96, 96]   F16  ->  Q5_0  6.2 KiB   for Q4_K
            blk.4.attn_k.weight       [32, 96]   F16  ->  Q5_0  2.1 KiB   for Q4_K
            blk.4.attn_v.weight       [32, 96]   F16  ->  Q8_0  3.2 KiB   for Q6_K
            blk.4.attn_output.weight  [96, 96]   F16  ->  Q5_0  6.2 KiB   for Q4_K
            blk.4.ffn_norm.weight     [96]       F32  ->  F32   384 B
            blk.4.ffn_gate.weight     [256, 96]  F16  ->  Q5_0  16.5 KiB  for Q4_K
            blk.4.ffn_up.weight       [256, 96]  F16  ->  Q5_0  16.5 KiB  for Q4_K
            blk.4.ffn_down.weight     [96, 256]  F16  ->  Q6_K  19.7 KiB

            F32   11 tensors  1.1 K weights    4.1 KiB    32.00 bits each
            Q4_K  3 tensors   73.7 K weights   40.5 KiB   4.50 bits each
            Q5_0  28 tensors  362.5 K weights  243.4 KiB  5.50 bits each
            Q6_K  2 tensors   49.2 K weights   39.4 KiB   6.56 bits each
            Q8_0  3 tensors   36.9 K weights   38.2 KiB   8.50 bits each

            383008 bytes in all, 374.0 KiB
            exit 0
        "#]],
    );
}

#[test]
fn differences_are_told_tensor_by_tensor() {
    let path = out("micro-compared.gguf");
    assert_eq!(quantize(&["--recipe", "q8_0", "--out", &path]).status, Some(0));
    let ran = quantize(&["--compare", &path, "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&ran.out).unwrap();
    for tensor in told.as_array().unwrap() {
        let (to, relative) = (tensor["to"].as_str().unwrap(), tensor["relative"].as_f64().unwrap());
        assert!(if to == "F32" { relative == 0.0 } else { relative > 0.0 && relative < 0.01 }, "{tensor}");
    }
    assert!(quantize(&["--compare", &path]).out_str().starts_with("tensor"));
}

#[test]
fn recipes_are_listed() {
    check(
        &run(&["quantize", "--recipes"]),
        &expect![[r#"
            q2      DeepSeek V4, 2 bits: gate and up IQ2_XXS, down Q2_K; wants an importance matrix
            q2-q4   DeepSeek V4 Flash, 2 bits, experts of layers 37 to 42 Q4_K
            q4      DeepSeek V4, 4 bits: experts Q4_K
            mxfp4   DeepSeek V4, experts MXFP4, as the authors trained them
            pro-q2  DeepSeek V4 PRO, 2 bits: as q2
            pro-q4  DeepSeek V4 PRO, 4 bits: as q4
            v4      DeepSeek V4 without its experts, which stay as they are
            q4_k_m  4 bits, and 6 for what errors hurt most
            q5_k_m  5 bits, and 6 for what errors hurt most
            q6_k    6 bits: hardly any loss
            q8_0    8 bits: no loss that shows
            iq4_xs  4.25 bits with uneven levels: smaller than q4_k_m, slower on some machines
            f16     16 bits each: the usual start of other programs
            copy    every tensor as it is: another container, nothing lost
            exit 0
        "#]],
    );
}

#[test]
fn a_recipe_may_be_a_file() {
    let recipe = scratch().join("own.recipe");
    fs::write(&recipe, "# mine\n*attn_v* F16\nlike q8_0\n").unwrap();
    let ran = quantize(&["--recipe", recipe.to_str().unwrap(), "--dry-run"]);
    assert!(ran.out_str().lines().any(|line| line.contains("attn_v") && line.contains("F16")), "{}", ran.out_str());
}

#[test]
fn what_cannot_be_is_refused_in_a_line() {
    let broken = scratch().join("broken.recipe");
    fs::write(&broken, "* Q8_0\n* Q9\n").unwrap();
    let there = scratch().join("there.gguf");
    fs::write(&there, "x").unwrap();
    let (broken, there) = (broken.to_str().unwrap(), there.to_str().unwrap());
    let copy = out("micro-copy.gguf");
    fs::copy(micro(), &copy).unwrap();
    check(
        &quantize(&["--recipe", "q9", "--dry-run"]),
        &expect![[r#"
        error: no recipe q9, and no file of that name
        help: there are q2, q2-q4, q4, mxfp4, pro-q2, pro-q4, v4, q4_k_m, q5_k_m, q6_k, q8_0, iq4_xs, f16, copy
        exit 2
    "#]],
    );
    check(
        &quantize(&["--recipe", broken, "--dry-run"]),
        &expect![[r#"
            error: SCRATCH/broken.recipe: line 2: `Q9` is no type that can be made; there are copy, F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ4_NL, IQ4_XS, MXFP4, TQ1_0, TQ2_0
            help: docs/quantization.md describes recipes
            exit 2
        "#]],
    );
    check(
        &quantize(&["--recipe", "q8_0", "--out", there]),
        &expect![[r#"
        error: SCRATCH/there.gguf: is there already
        help: choose another name, or replace it with --overwrite
        exit 2
    "#]],
    );
    check(
        &run(&["quantize", &copy, "--recipe", "q8_0", "--out", &copy]),
        &expect![[r#"
        error: SCRATCH/micro-copy.gguf: the result would overwrite what it is made from
        help: choose another name for the result
        exit 2
    "#]],
    );
    check(
        &quantize(&["--recipe", "q2", "--dry-run"]),
        &expect![[r#"
            error: the recipe is for models of the family deepseek4, and this one is of the family "llama"
            help: take another recipe; --recipes lists them
            exit 2
        "#]],
    );
    check(
        &quantize(&["--recipe", "q8_0", "--tensor", "output.weight", "--dry-run"]),
        &expect![[r#"
        error: invalid value 'output.weight' for '--tensor <PATTERN=TYPE>': `output.weight` is not PATTERN=TYPE
        help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        exit 2
    "#]],
    );
    check(
        &quantize(&["--recipe", "q8_0"]),
        &expect![[r#"
        error: the following required arguments were not provided: --out <FILE>
        help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        exit 2
    "#]],
    );
    check(
        &run(&["quantize", "absent.gguf", "--recipe", "q8_0", "--dry-run"]),
        &expect![[r#"
        error: absent.gguf: no such file or directory
        help: check the path
        exit 2
    "#]],
    );
    assert_eq!(fs::read(there).unwrap(), b"x");
}

/// A folder of this name that holds nothing but what is written to it next.
fn folder(name: &str) -> PathBuf {
    let folder = scratch().join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    folder
}

#[cfg(unix)]
#[test]
fn no_input_is_written_to_under_any_name() {
    let folder = folder("inputs");
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    fs::copy(micro(), at("m.gguf.partial")).unwrap();
    fs::write(at("state"), "* Q8_0").unwrap();
    fs::hard_link(at("state"), at("n.gguf.partial.state")).unwrap();
    let refused = |args: &[&str], name: &str| {
        let ran = run(args);
        let told = format!("error: {}: the result would overwrite what it is made from\n", at(name));
        assert!(ran.status == Some(2) && ran.err.starts_with(&told), "{}", ran.err);
    };
    let source = at("m.gguf.partial");
    refused(&["quantize", &source, "-r", "q8_0", "-o", &at("m.gguf")], "m.gguf.partial");
    refused(&["quantize", &micro(), "-r", &at("state"), "-o", &at("n.gguf")], "n.gguf.partial.state");
    assert_eq!(fs::read(source).unwrap(), fs::read(micro()).unwrap());
}

#[test]
fn importance_is_asked_for_and_what_has_none_is_told() {
    let folder = folder("importance");
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    fs::write(at("text"), "Whoever quantises a matrix spends its bits where the inputs are large. ".repeat(20))
        .unwrap();
    let collect = ["imatrix", "-m", &micro(), "-f", &at("text"), "--out", &at("importance"), "--ctx", "32", "-t", "1"];
    assert_eq!(run(&collect).status, Some(0));
    let shown = |ran: &Ran| ran.show().replace(&format!("{}/", folder.display()), "");
    let down = ["--recipe", "q8_0", "--tensor", "*.ffn_down.weight=IQ2_XXS"];
    let ran = quantize(&[&down[..], &["--out", &at("plain")]].concat());
    expect![[r#"
        5 tensors become types that want importance and have none, such as blk.0.ffn_down.weight, which becomes IQ2_XXS: expect a loss that `ds4 imatrix` and --imatrix would spare
        47 tensors, 457.8 KiB in plain
        exit 0
    "#]].assert_eq(&shown(&ran));
    let ran = quantize(&[&down[..], &["--imatrix", &at("importance"), "--out", &at("guided")]].concat());
    expect![[r#"
        importance: has no importance for 1 of 36 tensors that are packed, such as token_embd.weight
        47 tensors, 458.1 KiB in guided
        exit 0
    "#]]
    .assert_eq(&shown(&ran));
    fs::copy(at("importance"), at("over.partial")).unwrap();
    let over = quantize(&["--recipe", "q8_0", "--imatrix", &at("over.partial"), "--out", &at("over")]);
    assert!(over.err.contains("over.partial: the result would overwrite what it is made from"), "{}", over.err);
    let keys = run(&["inspect", &at("guided")]);
    assert!(keys.out_str().contains("quantize.imatrix.file"), "{}", keys.out_str());
    let differ = |name: &str| {
        let told = quantize(&["--compare", &at(name), "--json"]);
        let told: serde_json::Value = serde_json::from_slice(&told.out).unwrap();
        let tensors = told.as_array().unwrap().iter();
        tensors.map(|t| (t["name"].to_string(), t["rmse"].as_f64().unwrap())).collect::<Vec<_>>()
    };
    for ((name, plain), (_, guided)) in differ("plain").into_iter().zip(differ("guided")) {
        assert_eq!(plain != guided, name.contains("ffn_down"), "{name}: {plain} {guided}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_what_the_same_command_goes_on_with() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = folder("interrupted");
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    write_large(&at("large"));
    let args = |out: &str| ["quantize", &at("large"), "-r", &at("recipe"), "-t", "1", "-o", out].map(str::to_owned);
    fs::write(at("recipe"), "*0.weight IQ2_XXS\n* Q4_K\n").unwrap();
    assert_eq!(run(&args(&at("whole"))).status, Some(0));

    let child = ds4().args(args(&at("out"))).stderr(Stdio::piped()).spawn().unwrap();
    // Blocks are there once something was written: more of them than a header takes, once it is the second tensor.
    let is_written = || fs::metadata(at("out.partial")).is_ok_and(|found| found.blocks() > 64);
    while !is_written() {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert!(ran.status == Some(130) && !ran.err.contains("error"), "{}", ran.err);
    assert!(!Path::new(&at("out")).exists() && Path::new(&at("out.partial")).exists());

    let ran = run(&args(&at("out")));
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    let on = |line: &str| line.strip_prefix("goes on after ")?.strip_suffix(" of 21 tensors")?.parse().ok();
    let n: usize = ran.err.lines().find_map(on).unwrap_or_else(|| panic!("{}", ran.err));
    assert!((1..21).contains(&n), "{n}");
    assert!(fs::read(at("whole")).unwrap() == fs::read(at("out")).unwrap());
}

/// A model that takes a second or more to pack, beginning with a tensor that takes no time.
fn write_large(path: &str) {
    let value = |j: usize| (j * 7919 % 1009) as f32 / 504.0 - 1.0;
    let bytes: Vec<u8> = (0..256 * 1024).flat_map(|j| value(j).to_le_bytes()).collect();
    let mut writer = gguf::Writer::new();
    writer.set("general.architecture", "llama".to_string());
    let f32 = gguf::Element::from_id(0).unwrap();
    writer.tensor("first.weight", &[256], f32, &bytes[..1024]);
    for i in 0..20 {
        writer.tensor(&format!("{i}0.weight"), &[1024, 256], f32, &bytes);
    }
    writer.write(Path::new(path)).unwrap();
}

#[test]
fn a_rule_for_no_tensor_is_refused() {
    let ran = quantize(&["--recipe", "q8_0", "--tensor", "blk.*.atn_v.weight=F16", "--dry-run"]);
    assert_eq!(ran.status, Some(2));
    assert!(ran.err.contains("--tensor blk.*.atn_v.weight: no tensor of this model has such a name"), "{}", ran.err);
}

#[test]
fn json_says_what_gave_way() {
    let ran = quantize(&["--recipe", "q4_k_m", "--dry-run", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&ran.out).unwrap();
    let tensors = told["tensors"].as_array().unwrap();
    let of = |name: &str| &tensors.iter().find(|t| t["name"] == name).unwrap()["instead_of"];
    assert_eq!(of("token_embd.weight"), "Q6_K");
    assert_eq!(of("blk.0.ffn_down.weight"), &serde_json::Value::Null);
}
