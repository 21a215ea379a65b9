//! A model whose experts are read from the SSD says what it says with all of them in memory.

use std::{fs, ops::ControlFlow, path::PathBuf, time::SystemTime};

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

/// A model file that can be damaged and mended behind the back of whoever has it open.
struct Disk {
    path: PathBuf,
    bytes: Vec<u8>,
    modified: SystemTime,
    _folder: tempfile::TempDir,
}

impl Disk {
    fn new(name: &str) -> Disk {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let (path, bytes) = (folder.path().join("model.gguf"), fs::read(file(name)).unwrap_or_else(|e| panic!("{e}")));
        fs::write(&path, &bytes).unwrap_or_else(|e| panic!("{e}"));
        let modified = fs::metadata(&path).and_then(|m| m.modified()).unwrap_or_else(|e| panic!("{e}"));
        Disk { path, bytes, modified, _folder: folder }
    }

    fn cut(&self) {
        let file = fs::OpenOptions::new().write(true).open(&self.path).unwrap_or_else(|e| panic!("{e}"));
        file.set_len(0).unwrap_or_else(|e| panic!("{e}"));
    }

    /// As it was, the time of its last change included: to the store, reads failed and now do not.
    fn mend(&self) {
        fs::write(&self.path, &self.bytes).unwrap_or_else(|e| panic!("{e}"));
        let file = fs::OpenOptions::new().write(true).open(&self.path).unwrap_or_else(|e| panic!("{e}"));
        file.set_modified(self.modified).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn reads_that_fail_end_the_answer_and_harm_no_other() {
    let disk = Disk::new("deepseek_v4/micro-flash.gguf");
    for (n_batch, n_slots) in [(1, 3), (16, 3), (64, 3), (64, usize::MAX)] {
        let resident = open(file("deepseek_v4/micro-flash.gguf"), Experts::Auto, n_batch);
        let engine = open(&disk.path, Experts::Streamed(Budget::Count(n_slots)), n_batch);
        let [mut session, mut expected] = [&engine, &resident].map(|e| e.session(64).unwrap_or_else(|e| panic!("{e}")));
        for session in [&mut session, &mut expected] {
            session.sync(&tokens(3)).unwrap_or_else(|e| panic!("{e}"));
        }
        // With room for all, the first layers have theirs: what fails is a layer behind them.
        let mut other = engine.session(64).unwrap_or_else(|e| panic!("{e}"));
        let mut n_layers = 0;
        let first_layers = &mut |_| {
            n_layers += 1;
            if n_layers < 4 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        other.sync_with(&tokens(60), first_layers).unwrap_or_else(|e| panic!("{e}"));
        disk.cut();
        let error = session.sync(&tokens(60)).expect_err("experts are gone").to_string();
        assert_eq!(error, format!("{}: changed while it was in use", disk.path.display()));
        disk.mend();

        // What was said before the failure is still known, though a batch has run over it.
        let n = session.tokens().len();
        assert!(n >= 3 && session.tokens() == &tokens(60)[..n]);
        expected.sync(&tokens(n as u32)).unwrap_or_else(|e| panic!("{e}"));
        for id in [5, 6, 7, 8, 9] {
            session.push(id).unwrap_or_else(|e| panic!("{e}"));
            expected.push(id).unwrap_or_else(|e| panic!("{e}"));
            assert!(session.logits() == expected.logits(), "batches of {n_batch}, {n_slots} slots, after {n} tokens");
        }
        assert!(logits(&engine) == logits(&resident), "batches of {n_batch}, {n_slots} slots: another session");
    }
}

#[test]
fn a_file_that_somebody_wrote_to_is_not_read() {
    let disk = Disk::new("deepseek_v4/micro-flash.gguf");
    let engine = open(&disk.path, Experts::Streamed(Budget::Count(3)), 16);
    let mut session = engine.session(64).unwrap_or_else(|e| panic!("{e}"));
    let later = disk.modified + std::time::Duration::from_secs(7);
    let file = fs::OpenOptions::new().write(true).open(&disk.path).unwrap_or_else(|e| panic!("{e}"));
    file.set_modified(later).unwrap_or_else(|e| panic!("{e}"));
    let error = session.sync(&tokens(10)).expect_err("another file, for all we know").to_string();
    assert_eq!(error, format!("{}: changed while it was in use", disk.path.display()));
}

#[test]
fn what_cannot_be_streamed_is_refused() {
    let refused = |name: &str, budget| {
        let options = Options { experts: Experts::Streamed(budget), ..Options::new(file(name)) };
        Engine::open(&options).err().expect("refused").to_string()
    };
    let error = refused("llama/micro.gguf", Budget::Auto);
    assert!(error.ends_with("the model has no experts to choose from"), "{error}");
    for budget in [Budget::Count(0), Budget::Bytes(4096)] {
        let error = refused("deepseek_v4/micro-flash.gguf", budget);
        assert!(error.contains(" holds no expert: one takes "), "{error}");
    }
}

#[test]
fn memory_that_an_arena_will_grow_into_is_not_offered_to_sessions() {
    for (budget, is_grown) in [(Budget::Auto, false), (Budget::Count(3), true)] {
        let engine = open(file("deepseek_v4/micro-flash.gguf"), Experts::Streamed(budget), 16);
        let plan = engine.plan(64).unwrap_or_else(|e| panic!("{e}"));
        let arena = plan.experts.expect("it streams");
        assert_eq!(arena.taken_bytes == arena.bytes, is_grown, "{arena:?}");
        let room = plan.available_bytes.map(|bytes| bytes - (arena.bytes - arena.taken_bytes));
        assert_eq!(plan.room_bytes(), room);
    }
}
