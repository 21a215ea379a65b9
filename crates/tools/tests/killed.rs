//! A file that is packed by processes that are killed, one after the other, is that of one that was not.
//!
//! The test program is its own child: with a folder in `QUANTIZE_CHILD_DIR`, the test `child` packs the model there, in small
//! pieces, each complete tensor of which is safe. `QUANTIZE_KILL_ROUNDS` says how many files are made so.

use std::{
    env, fs,
    ops::ControlFlow,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use gguf::{Element, Writer};
use quant::Format;
use tempfile::TempDir;
use tools::{
    GgufSource,
    quantize::{Options, Plan, Steps, names, run},
    recipe::Recipe,
};

const DIR: &str = "QUANTIZE_CHILD_DIR";

/// What a child has to do takes so many tensors.
const N_TENSORS: usize = 60;

/// A folder in memory where there is one: who is killed leaves all that it gave to the system, and a disk is slower only.
fn temporary() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a folder")
}

fn write_model(path: &Path) {
    let mut writer = Writer::new();
    writer.set("general.architecture", "llama".to_string());
    for i in 0..N_TENSORS {
        let value = |j: usize| ((i * 131 + j * 7919) % 1009) as f32 / 504.0 - 1.0;
        let bytes: Vec<u8> = (0..16 * 256).flat_map(|j| value(j).to_le_bytes()).collect();
        writer.tensor(&format!("{i}.weight"), &[16, 256], Element::Packed(Format::F32), bytes);
    }
    writer.write(path).expect("a model");
}

/// Packs the model of a folder; the tensors that were there before.
fn pack(dir: &Path) -> usize {
    let source = GgufSource::open(&dir.join("model.gguf")).expect("a model");
    let recipe = Recipe::parse("*5.weight IQ2_XXS\n* Q4_K").expect("a recipe");
    let plan = Plan::new(&source, &recipe, None).expect("a plan");
    let steps = Steps { n_weights: 1000, lasting_bytes: 0 };
    let options = Options { path: dir.join("out.gguf"), n_threads: 2, overwrite: true, steps };
    let before = std::sync::OnceLock::new();
    let note = |done: tools::quantize::Done| {
        before.get_or_init(|| done.n_tensors_before);
        ControlFlow::Continue(())
    };
    run(&source, &plan, None, &options, &note).expect("it can be made");
    before.into_inner().expect("it was told")
}

/// No test, but the child.
#[test]
fn child() {
    if let Some(dir) = env::var_os(DIR) {
        pack(Path::new(&dir));
    }
}

fn start(dir: &Path) -> Child {
    let mut command = Command::new(env::current_exe().expect("a test is a program"));
    command.args(["--exact", "child", "--quiet"]).env(DIR, dir).stdout(Stdio::null());
    command.spawn().expect("a test can be started")
}

#[test]
fn files_of_killed_processes_are_those_of_one_that_was_not() {
    let n_rounds: u64 = env::var("QUANTIZE_KILL_ROUNDS").map_or(40, |text| text.parse().expect("a number of rounds"));
    let folder = temporary();
    let [out, partial, state] = names(&folder.path().join("out.gguf"));
    write_model(&folder.path().join("model.gguf"));
    let begun = Instant::now();
    assert_eq!(pack(folder.path()), 0);
    let (expected, micros) = (fs::read(&out).expect("a file"), begun.elapsed().as_micros() as u64);
    let (mut n_killed, mut n_resumed) = (0, 0);
    for round in 0..n_rounds {
        fs::remove_file(&out).expect("it is there");
        for i in 0..4 {
            let mut child = start(folder.path());
            // From when it has begun, which takes longer than what it does, to some time before it is done.
            while !state.exists() && child.try_wait().expect("it is ours").is_none() {
                thread::yield_now();
            }
            thread::sleep(Duration::from_micros((round * 7919 + i * 104_729) % 1009 * micros / 2000));
            child.kill().expect("it is ours");
            n_killed += usize::from(!child.wait().expect("it is ours").success());
        }
        n_resumed += usize::from(pack(folder.path()) > 0);
        assert!(fs::read(&out).expect("a file") == expected, "round {round}");
        assert!(!partial.exists() && !state.exists());
    }
    println!("{n_killed} processes were killed, {n_resumed} of {n_rounds} files were gone on with");
    assert!(n_killed > 0 && n_resumed > 0);
}
