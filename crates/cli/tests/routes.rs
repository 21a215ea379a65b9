//! `routes`: traces made up, replayed and refused.

mod common;

use std::fs;

use common::{Ran, run, run_with, scratch, testdata};
use expect_test::{Expect, expect};

fn path(name: &str) -> String {
    scratch().join(name).to_str().unwrap().to_owned()
}

/// A trace made up of 3 layers of 16 experts, in a file of this name.
fn made(name: &str, more: &[&str]) -> String {
    let file = path(name);
    let args = ["routes", "synth", "--out", &file, "--layers", "3", "--experts", "16", "--used", "2", "--tokens", "40"];
    let ran = run(&[&args[..], &["--expert-bytes", "1048576"], more].concat());
    assert_eq!((ran.status, ran.out_str(), &*ran.err), (Some(0), "", ""));
    file
}

fn replay(file: &str, more: &[&str]) -> Ran {
    run(&[&["routes", file], more].concat())
}

fn refused(args: &[&str], expect: Expect) {
    let ran = run(args);
    assert_eq!(ran.status, Some(2), "{}", ran.err);
    expect.assert_eq(&ran.show().replace(scratch().to_str().unwrap(), "FOLDER"));
}

#[test]
fn every_rule_is_told_for_every_budget() {
    let file = made("zipf.csv", &["zipf:1.0", "--prompt", "12", "--answer", "20"]);
    let ran = replay(&file, &["--budgets", "10%,24,32MB"]);
    expect![[r#"
        trace    FILE
        experts  3 layers of 16 experts, 48.0 MiB, 1.0 MiB each; a token chooses 2 in a layer
        batches  40 of one token (decode), 2 of more (prefill, 24 tokens)
        choices  384, of 48 different experts; the 5 chosen most often, a tenth of all, are 38 % of them

        decode: experts found in memory, and MiB read per token, where there is room for
                         5 experts        24 experts        32 experts
                           5.0 MiB          24.0 MiB          32.0 MiB
        lru        12.9 %      5.2   68.8 %      1.9   82.1 %      1.1
        lfu-aged   25.8 %      4.5   75.0 %      1.5   82.9 %      1.0
        2q         16.7 %      5.0   70.8 %      1.8   80.4 %      1.2
        s3-fifo    17.5 %      5.0   73.8 %      1.6   83.8 %      1.0
        ours       25.0 %      4.5   75.4 %      1.5   83.8 %      1.0
        belady     35.8 %      3.9   86.2 %      0.8   92.1 %      0.5

        prefill: experts found in memory, and MiB read per token, where there is room for
                         5 experts        24 experts        32 experts
                           5.0 MiB          24.0 MiB          32.0 MiB
        lru         0.0 %      2.7   16.9 %      2.2   32.3 %      1.8
        lfu-aged    0.0 %      2.7   23.1 %      2.1   30.8 %      1.9
        2q          1.5 %      2.7   20.0 %      2.2   24.6 %      2.0
        s3-fifo     0.0 %      2.7   21.5 %      2.1   30.8 %      1.9
        ours        0.0 %      2.7   24.6 %      2.0   33.8 %      1.8
        belady      1.5 %      2.7   32.3 %      1.8   40.0 %      1.6

        lru       least recently used goes
        lfu-aged  least often used goes; counts are halved every 16 tokens
        2q        2Q: two queues, for those used once and those used again
        s3-fifo   S3-FIFO: a small queue as a sieve before the main one
        ours      what this program does: the coldest goes
        belady    the fewest reads there can be, by knowing the future
        exit 0
    "#]]
    .assert_eq(&ran.show().replace(&file, "FILE"));
}

#[test]
fn where_every_token_wants_others_there_are_no_hits() {
    let file = made("cycle.csv", &["cycle"]);
    let ran = replay(&file, &["--budgets", "25%,100%", "--csv"]);
    expect![[r#"
        kind,policy,n_slots,n_tokens,n_chosen,n_misses,hit_rate,bytes_per_token
        decode,lru,12,40,240,240,0.000000,6291456
        decode,lru,48,40,240,48,0.800000,1258291
        decode,lfu-aged,12,40,240,240,0.000000,6291456
        decode,lfu-aged,48,40,240,48,0.800000,1258291
        decode,2q,12,40,240,240,0.000000,6291456
        decode,2q,48,40,240,48,0.800000,1258291
        decode,s3-fifo,12,40,240,240,0.000000,6291456
        decode,s3-fifo,48,40,240,48,0.800000,1258291
        decode,ours,12,40,240,240,0.000000,6291456
        decode,ours,48,40,240,48,0.800000,1258291
        decode,belady,12,40,240,192,0.200000,5033165
        decode,belady,48,40,240,48,0.800000,1258291
        exit 0
    "#]]
    .assert_eq(&ran.show());
}

#[test]
fn programs_get_every_figure() {
    let file = made("json.csv", &["uniform", "--prompt", "4"]);
    let ran = replay(&file, &["--budgets", "24", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&ran.out).unwrap();
    assert_eq!((json["n_layer"].as_u64(), json["n_choices"].as_u64()), (Some(3), Some(44 * 6)));
    let runs = json["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 6);
    for run in runs {
        let (decode, prefill) = (&run["decode"], &run["prefill"]);
        assert_eq!(decode["n_chosen"].as_u64(), Some(240));
        assert_eq!(prefill["n_misses"], prefill["n_chosen"], "nothing is there at first: {run}");
        let bytes = decode["n_misses"].as_f64().unwrap() * 1_048_576.0 / 40.0;
        assert_eq!(decode["bytes_per_token"].as_f64(), Some(bytes));
    }
}

#[test]
fn a_replay_becomes_a_picture() {
    let (file, picture) = (made("drift.csv", &["drift:1.0", "--prompt", "8"]), path("routes.svg"));
    assert_eq!(replay(&file, &["--plot", &picture]).status, Some(0));
    let drawn = fs::read_to_string(&picture).unwrap();
    assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"));
    assert_eq!(drawn.matches("<polyline ").count(), 2 * 6);
    assert_eq!(drawn.matches("<circle ").count(), 2 * 6 * 5);
    assert!(drawn.contains("Of what prefill chose") && !drawn.contains("NaN"));
}

#[test]
fn one_seed_makes_one_trace() {
    let read = |name, seed| fs::read(made(name, &["zipf:0.8", "--seed", seed])).unwrap();
    assert!(read("seed-a.csv", "7") == read("seed-b.csv", "7"));
    assert!(read("seed-a.csv", "7") != read("seed-c.csv", "8"));
}

#[test]
fn what_is_no_trace_is_refused_with_its_line() {
    let file = made("broken.csv", &["cycle"]);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() - 2]).unwrap();
    refused(
        &["routes", &file],
        expect![[r#"
            error: FOLDER/broken.csv: line 122: the file ends in the middle of this line
            help: write one with --route-trace; docs/formats/routes.md describes them
            exit 2
        "#]],
    );
    fs::write(&file, text.replace("1,2,0,2 3\n", "1,2,0,2 16\n")).unwrap();
    refused(
        &["routes", &file],
        expect![[r#"
            error: FOLDER/broken.csv: line 8: there is no expert 16 among 16
            help: write one with --route-trace; docs/formats/routes.md describes them
            exit 2
        "#]],
    );
    fs::write(&file, "GGUF").unwrap();
    refused(
        &["routes", &file],
        expect![[r#"
            error: FOLDER/broken.csv: line 1: the file ends in the middle of this line
            help: write one with --route-trace; docs/formats/routes.md describes them
            exit 2
        "#]],
    );
    refused(
        &["routes", "missing.csv"],
        expect![[r#"
        error: missing.csv: no such file or directory
        help: check the path
        exit 2
    "#]],
    );
    refused(
        &["routes", "/"],
        expect![[r#"
        error: /: is a directory
        help: check the permissions and the disk, and that it is a file
        exit 2
    "#]],
    );
    #[cfg(unix)]
    refused(
        &["routes", "/dev/zero"],
        expect![[r#"
            error: /dev/zero: line 1: longer than 1048576 bytes
            help: write one with --route-trace; docs/formats/routes.md describes them
            exit 2
        "#]],
    );
}

#[test]
fn a_trace_comes_through_a_pipe_as_well() {
    let file = made("pipe.csv", &["uniform"]);
    let piped = run_with(&["routes", "/dev/stdin", "--csv"], &fs::read(&file).unwrap());
    assert_eq!(piped.out_str(), replay(&file, &["--csv"]).out_str());
}

#[test]
fn flags_act_or_are_refused() {
    let file = made("flags.csv", &["uniform"]);
    let out = path("never.csv");
    refused(
        &["routes"],
        expect![[r#"
        error: the following required arguments were not provided: <FILE>
        help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        exit 2
    "#]],
    );
    refused(
        &["routes", &file, "--budgets", "0"],
        expect![[r#"
        error: invalid value '0' for '--budgets <N|NGB|N%,...>': must be numbers of experts, memory as in 500MB or 4GB, or percentages as in 12.5%, with commas between them
        help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        exit 2
    "#]],
    );
    refused(
        &["routes", &file, "--budgets", "49"],
        expect![[r#"
        error: --budgets 49: must be at most 48, all there are
        exit 2
    "#]],
    );
    refused(
        &["routes", &file, "--budgets", "24,1GB"],
        expect![[r#"
        error: --budgets 1GB: must be at most the 48.0 MiB of all experts
        exit 2
    "#]],
    );
    refused(
        &["routes", &file, "--budgets", &vec!["1"; 5000].join(",")],
        expect![[r#"
        error: --budgets has 5000 budgets, but no more than 100 are replayed at a time
        help: give fewer of them
        exit 2
    "#]],
    );
    refused(
        &["routes", &file, "--json", "--csv"],
        expect![[r#"
        error: the argument '--json' cannot be used with '--csv'
        help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        exit 2
    "#]],
    );
    refused(
        &["routes", &file, "--plot", &file],
        expect![[r#"
        error: FOLDER/flags.csv: the result would overwrite what it is made from
        help: choose another name for the result
        exit 2
    "#]],
    );
    refused(
        &["routes", &file, "--plot", "-"],
        expect![[r#"
        error: -: such results are not written to standard output
        help: give a name; ./- is a file that is called so
        exit 2
    "#]],
    );
    refused(
        &["routes", "synth", "hot", "--out", &out],
        expect![[r#"
        error: invalid value 'hot' for '<HOW>': must be uniform, cycle, zipf:S or drift:S, with S from 0 to 10 as in zipf:1.0
        help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        exit 2
    "#]],
    );
    refused(
        &["routes", "synth", "uniform"],
        expect![[r#"
        error: the following required arguments were not provided: --out <FILE>
        help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        exit 2
    "#]],
    );
    refused(
        &["routes", "synth", "uniform", "--out", &out, "--used", "300"],
        expect![[r#"
        error: n_used=300 is more than n_expert=256
        help: lower --layers, --experts or --used
        exit 2
    "#]],
    );
    refused(
        &["routes", "synth", "uniform", "--out", &out, "--layers", "1000000"],
        expect![[r#"
        error: 1000000 layers of 256 experts are more than 1048576 experts
        help: lower --layers, --experts or --used
        exit 2
    "#]],
    );
    refused(
        &["routes", "synth", "uniform", "--out", &out, "--answer", "3"],
        expect![[r#"
        error: the following required arguments were not provided: --prompt <N>
        help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        exit 2
    "#]],
    );
    refused(
        &["routes", "synth", "uniform", "--out", &out, "--tokens", "0"],
        expect![[r#"
        error: there are no tokens to decode
        help: give --tokens at least 1
        exit 2
    "#]],
    );
    refused(
        &["routes", "synth", "uniform", "--out", &out, "--prompt", "65536", "--layers", "4096", "--used", "200"],
        expect![[r#"
            error: a prompt makes too many choices for memory
            help: lower --prompt
            exit 2
        "#]],
    );
    refused(
        &["routes", &file, "synth", "uniform"],
        expect![[r#"
        error: 'synth' follows no flag
        help: a question goes after -p, a model after -m; ds4 --help tells more
        exit 2
    "#]],
    );
    let synth = |flags: &str, expect| {
        let flags: Vec<&str> = flags.split(' ').collect();
        refused(&[&["routes", "synth", "--out", &out], &flags[..]].concat(), expect);
    };
    synth(
        "cycle --keep 0.5",
        expect![[r#"
        error: in a cycle, every token chooses others
        help: leave out --keep and --topics
        exit 2
    "#]],
    );
    synth(
        "uniform --keep 2",
        expect![[r#"
        error: invalid value '2' for '--keep <X>': must be a number, 0 to 1
        help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        exit 2
    "#]],
    );
    synth(
        "uniform --topics 2",
        expect![[r#"
        error: the following required arguments were not provided: --prompt <N> --answer <N>
        help: ds4 --help lists the flags, ds4 COMMAND --help those of a command
        exit 2
    "#]],
    );
    synth(
        "uniform --prompt 1 --answer 1 --topics 1000000",
        expect![[r#"
        error: topics have too many experts for memory
        help: lower --topics
        exit 2
    "#]],
    );
    assert!(!fs::exists(&out).unwrap());
}

#[test]
fn a_running_model_writes_a_trace_and_a_bench_follows_it() {
    let (model, trace) = (testdata("deepseek_v4/micro-flash.gguf"), path("written.csv"));
    let model = model.to_str().unwrap();
    let ask = |more: &[&str]| {
        run(&[&["-m", model, "--no-cache", "--nothink", "-p", "Hi", "-n", "6", "--temp", "0"], more].concat())
    };
    let plain = ask(&[]);
    let resident = ask(&["--route-trace", &trace]);
    let text = fs::read_to_string(&trace).unwrap();
    let streamed = ask(&["--route-trace", &trace, "--ssd-streaming-cache-experts", "5"]);
    assert_eq!([resident.out, streamed.out], [plain.out.clone(), plain.out]);
    assert_eq!(fs::read_to_string(&trace).unwrap(), text, "in memory or not, the same experts are chosen");

    let again = path("again.csv");
    let bench =
        ["bench", "-m", model, "--no-cache", "-p", "0", "-n", "4", "-r", "1", "--ssd-streaming-cache-experts", "5"];
    let ran = run(&[&bench[..], &["--follow-routes", &trace, "--route-trace", &again]].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    // What the first row of the first layer chose.
    let first = |text: &str| text.lines().find_map(|line| line.strip_prefix("0,0,0,").map(String::from));
    let followed = fs::read_to_string(&again).unwrap();
    assert!(first(&text).is_some() && first(&followed) == first(&text), "{followed}");
}

#[test]
fn a_trace_takes_the_place_of_nothing_that_is_needed() {
    let folder = path("over");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    let [model, hard, prompt] = ["model.gguf", "hard.gguf", "prompt.txt"].map(|name| format!("{folder}/{name}"));
    fs::copy(testdata("deepseek_v4/micro-flash.gguf"), &model).unwrap();
    fs::hard_link(&model, &hard).unwrap();
    fs::write(&prompt, "Hi").unwrap();
    for trace in [&model, &hard, &prompt] {
        let ran = run(&["-m", &model, "--no-cache", "-n", "2", "--prompt-file", &prompt, "--route-trace", trace]);
        assert!(ran.err.contains("the result would overwrite what it is made from"), "{}", ran.err);
    }
    assert_eq!(fs::read(&model).unwrap(), fs::read(testdata("deepseek_v4/micro-flash.gguf")).unwrap());

    let llama = testdata("llama/micro.gguf");
    let ran = run(&["-m", llama.to_str().unwrap(), "--raw", "-p", "Hi", "-n", "2", "--route-trace", &prompt]);
    assert_eq!(ran.status, Some(2), "{}", ran.err);
    assert_eq!(fs::read_to_string(&prompt).unwrap(), "Hi", "nothing is begun that cannot be done");
}
