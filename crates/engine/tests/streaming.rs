//! A model whose experts are read from the SSD says what it says with all of them in memory.

use std::{fs, path::PathBuf};

use engine::{Budget, Engine, Experts, Options, Session};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

fn open(path: impl Into<PathBuf>, experts: Experts, n_batch: usize) -> Engine {
    let options = Options { n_batch, threads: Some(2), experts, ..Options::new(path) };
    Engine::open(&options).unwrap_or_else(|e| panic!("{e}"))
}

fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 37 + 11) % 300).collect()
}

/// Logits after a prompt, after each of some more tokens, and after going back and on.
fn logits(engine: &Engine) -> Vec<Vec<f32>> {
    let mut session = engine.session(64).unwrap_or_else(|e| panic!("{e}"));
    let push = |session: &mut Session, id: u32| {
        session.push(id).unwrap_or_else(|e| panic!("{e}"));
        session.logits().to_vec()
    };
    session.sync(&tokens(40)).unwrap_or_else(|e| panic!("{e}"));
    let mut all = vec![session.logits().to_vec()];
    all.extend((0..6).map(|i| push(&mut session, i)));
    session.rewind(43).unwrap_or_else(|e| panic!("{e}"));
    all.extend((7..10).map(|i| push(&mut session, i)));
    all
}

#[test]
fn streamed_logits_are_the_resident_ones() {
    for name in ["deepseek_v4/micro-flash.gguf", "deepseek_v4/micro-pro.gguf"] {
        for n_batch in [1, 7, 64] {
            let expected = logits(&open(file(name), Experts::Auto, n_batch));
            for n_slots in [1, 2, 3, 5, 8, usize::MAX] {
                let engine = open(file(name), Experts::Streamed(Budget::Count(n_slots)), n_batch);
                assert!(logits(&engine) == expected, "{name}, batches of {n_batch}, {n_slots} slots");
                let stats = engine.expert_stats().expect("it streams");
                let n_experts =
                    engine.plan(64).unwrap_or_else(|e| panic!("{e}")).experts.expect("it streams").n_experts;
                assert!(stats.n_misses > 0 && stats.read_bytes > 0);
                assert!(n_slots < usize::MAX || stats.n_misses <= n_experts as u64, "nothing is read twice: {stats:?}");
            }
        }
    }
}

#[test]
fn sessions_share_the_experts_in_memory() {
    let path = file("deepseek_v4/micro-flash.gguf");
    let expected = logits(&open(&path, Experts::Auto, 16));
    for n_slots in [1, 3, 8] {
        let engine = open(&path, Experts::Streamed(Budget::Count(n_slots)), 16);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| logits(&engine))).collect();
            for thread in threads {
                assert!(thread.join().expect("no panic") == expected, "{n_slots} slots");
            }
        });
    }
}

#[test]
fn a_file_that_changes_ends_the_answer_and_not_the_engine() {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let path = folder.path().join("model.gguf");
    fs::copy(file("deepseek_v4/micro-flash.gguf"), &path).unwrap_or_else(|e| panic!("{e}"));
    let engine = open(&path, Experts::Streamed(Budget::Count(3)), 16);
    let mut session = engine.session(64).unwrap_or_else(|e| panic!("{e}"));
    session.sync(&tokens(10)).unwrap_or_else(|e| panic!("{e}"));
    let before = session.logits().to_vec();

    let len = fs::metadata(&path).unwrap_or_else(|e| panic!("{e}")).len();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap_or_else(|e| panic!("{e}"));
    file.set_len(len / 4).unwrap_or_else(|e| panic!("{e}"));
    let error = session.sync(&tokens(30)).expect_err("experts are gone").to_string();
    assert!(error.starts_with(&path.display().to_string()), "{error}");
    assert!(session.push(1).is_err(), "and it stays so");
    assert_eq!(session.tokens(), &tokens(10)[..session.tokens().len()], "no token of the failed step is kept");

    fs::copy(self::file("deepseek_v4/micro-flash.gguf"), &path).unwrap_or_else(|e| panic!("{e}"));
    let error = session.push(1).expect_err("another file, though with the same bytes").to_string();
    assert_eq!(error, format!("{}: changed while it was in use", path.display()));
    assert!(!before.is_empty());
}

#[test]
fn what_cannot_be_streamed_is_refused() {
    let refused = |name: &str, budget| {
        let options = Options { experts: Experts::Streamed(budget), ..Options::new(file(name)) };
        Engine::open(&options).err().expect("refused").to_string()
    };
    let error = refused("llama/micro.gguf", Budget::Auto);
    assert!(error.ends_with("the model has no experts to read from the SSD"), "{error}");
    for budget in [Budget::Count(0), Budget::Bytes(4096)] {
        let error = refused("deepseek_v4/micro-flash.gguf", budget);
        assert!(error.contains(" holds no expert: one takes "), "{error}");
    }
}
