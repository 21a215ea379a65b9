//! `ds4 quantize` on a golden model.

mod common;

use std::fs;

use common::{Ran, run, scratch, testdata};
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
