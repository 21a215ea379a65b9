//! What a streamed model remembers from one run to the next, and that it never says anything else for it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use engine::{Budget, Engine, Experts, Learning, Ledger, Options, Stats};

fn model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/deepseek_v4/micro-flash.gguf")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"))
}

/// What any engine of this program told.
static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn tell(line: &str) {
    TOLD.lock().unwrap_or_else(|e| e.into_inner()).push(line.to_owned());
}

/// What was told of files in a folder.
fn told(folder: &Path) -> Vec<String> {
    let (all, folder) = (TOLD.lock().unwrap_or_else(|e| e.into_inner()), folder.display().to_string());
    all.iter().filter_map(|line| Some(line.strip_prefix(&folder)?.to_owned())).collect()
}

fn open(cache_dir: Option<&Path>, n_slots: usize, learning: Learning) -> Engine {
    let experts = Experts::Streamed(Budget::Count(n_slots));
    let cache_dir = cache_dir.map(Path::to_path_buf);
    let options = Options { threads: Some(2), experts, cache_dir, learning, warn: tell, ..Options::new(model()) };
    Engine::open(&options).unwrap_or_else(|e| panic!("{e}"))
}

/// Logits after a prompt and each of some more tokens, and what that took.
fn run(engine: &Engine) -> (Vec<Vec<f32>>, Stats) {
    let before = engine.expert_stats().unwrap_or_default();
    let mut session = engine.session(64).unwrap_or_else(|e| panic!("{e}"));
    session.sync(&[11, 48, 85, 122]).unwrap_or_else(|e| panic!("{e}"));
    let mut all = vec![session.logits().to_vec()];
    for id in 0..8 {
        session.push(id).unwrap_or_else(|e| panic!("{e}"));
        all.push(session.logits().to_vec());
    }
    (all, engine.expert_stats().unwrap_or_default() - before)
}

fn resident() -> Vec<Vec<f32>> {
    let engine = Engine::open(&Options { threads: Some(2), ..Options::new(model()) });
    run(&engine.unwrap_or_else(|e| panic!("{e}"))).0
}

/// A run that began when what an earlier one left had been read; reading takes a moment that nobody announces.
fn warm_run(folder: &Path, n_slots: usize, enough: impl Fn(Stats) -> bool) -> (Vec<Vec<f32>>, Stats) {
    let began = Instant::now();
    loop {
        let engine = open(Some(folder), n_slots, Learning::Warm);
        thread::sleep(began.elapsed() + Duration::from_millis(50));
        let (logits, stats) = run(&engine);
        if enough(stats) || began.elapsed() > Duration::from_secs(10) {
            return (logits, stats);
        }
    }
}

#[test]
fn what_one_run_used_is_in_memory_before_the_next_ones_first_token() {
    let (expected, folder) = (resident(), folder());
    let (logits, cold) = run(&open(Some(folder.path()), usize::MAX, Learning::Warm));
    assert!(logits == expected && cold.n_misses > 0, "{cold:?}");
    let (logits, warm) = warm_run(folder.path(), usize::MAX, |stats| stats.n_misses == 0);
    assert!(logits == expected && warm.n_misses == 0, "{warm:?} after {cold:?}");
    let (logits, again) = run(&open(Some(folder.path()), usize::MAX, Learning::Cold));
    assert!(logits == expected && again.n_misses > 0, "{again:?} after {cold:?}");
    let (logits, without) = run(&open(None, usize::MAX, Learning::Warm));
    assert!(logits == expected && without.n_misses > 0, "{without:?} after {cold:?}");
    for n_slots in [1, 3, 7] {
        assert!(run(&open(Some(folder.path()), n_slots, Learning::Warm)).0 == expected, "{n_slots} slots");
    }
    assert_eq!(told(folder.path()), [""; 0]);
}

/// The list of experts in a folder.
fn hotlist(folder: &Path) -> PathBuf {
    let names = fs::read_dir(folder).unwrap_or_else(|e| panic!("{e}")).flatten().map(|entry| entry.path());
    let mut lists = names.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("hotlist-")));
    lists.next().unwrap_or_else(|| panic!("no list in {}", folder.display()))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn runs_add_to_the_list_and_learning_can_be_left_out() {
    let folder = folder();
    drop(open(Some(folder.path()), 3, Learning::Warm));
    assert!(fs::read_dir(folder.path()).is_ok_and(|entries| entries.count() == 1), "only the lock: nothing was used");
    run(&open(Some(folder.path()), 3, Learning::Off));
    let n_files = || fs::read_dir(folder.path()).map_or(0, Iterator::count);
    assert_eq!(n_files(), 2, "the lock and the ledger");
    for n_runs in 1..4 {
        run(&open(Some(folder.path()), 3, Learning::Warm));
        let text = read(&hotlist(folder.path()));
        assert!(text.lines().next().is_some_and(|head| head.ends_with(&format!(" n_seen={n_runs}"))), "{text}");
    }
    assert_eq!((n_files(), told(folder.path()).len()), (3, 0));
}

#[test]
fn a_list_that_is_none_is_told_ignored_and_replaced() {
    let (expected, folder) = (resident(), folder());
    run(&open(Some(folder.path()), 8, Learning::Warm));
    let list = hotlist(folder.path());
    let whole = read(&list);
    let damages = [
        (String::new(), "line 1: no list of experts of this model, in this version's format"),
        (
            whole.replacen("experts 1", "experts 2", 1),
            "line 1: no list of experts of this model, in this version's format",
        ),
        (
            whole.clone() + "99,0,1\n",
            &format!("line {}: no expert of this model with its heat", whole.lines().count() + 1),
        ),
        ("x".repeat(1 << 20), "is too long"),
    ];
    for (i, (text, why)) in damages.iter().enumerate() {
        fs::write(&list, text).unwrap_or_else(|e| panic!("{e}"));
        let (logits, _) = run(&open(Some(folder.path()), 8, Learning::Warm));
        assert!(logits == expected);
        let told = told(folder.path());
        assert_eq!(told.len(), i + 1, "{told:?}");
        assert!(told[i].ends_with(&format!(".csv: {why}; it is ignored")), "{told:?}");
        assert!(read(&list).starts_with("# experts 1 model="), "mended");
    }
}

#[test]
fn a_folder_that_cannot_be_had_is_told_once_and_that_is_all() {
    let (expected, root) = (resident(), folder());
    let file = root.path().join("file");
    fs::write(&file, "").unwrap_or_else(|e| panic!("{e}"));
    let (logits, _) = run(&open(Some(&file.join("below")), 8, Learning::Warm));
    assert!(logits == expected);
    let lines = told(&file.join("below"));
    assert!(matches!(&lines[..], [line] if line.ends_with("; nothing is kept for the next run")), "{lines:?}");
}

#[test]
fn a_folder_that_may_only_be_read_warms_and_keeps_nothing() {
    let root = folder();
    run(&open(Some(root.path()), usize::MAX, Learning::Warm));
    // Even who may write everywhere cannot write into a folder.
    fs::remove_file(root.path().join("lock"))
        .and_then(|()| fs::create_dir(root.path().join("lock")))
        .unwrap_or_else(|e| panic!("{e}"));
    let before = read(&hotlist(root.path()));
    let (_, stats) = warm_run(root.path(), usize::MAX, |stats| stats.n_misses == 0);
    assert!(stats.n_misses == 0 && read(&hotlist(root.path())) == before);
    let lines = told(root.path());
    assert!(
        !lines.is_empty() && lines.iter().all(|line| line.ends_with("; nothing is kept for the next run")),
        "{lines:?}"
    );
}

#[test]
fn every_byte_is_in_the_ledger_though_engines_write_it_at_once() {
    let root = folder();
    let read_bytes: u64 = thread::scope(|scope| {
        let one = || {
            let engine = open(Some(root.path()), 3, Learning::Cold);
            run(&engine);
            engine.expert_stats().unwrap_or_default().read_bytes
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).sum()
    });
    let ledger = Ledger::open(root.path()).unwrap_or_else(|e| panic!("{e}"));
    // A guess that nobody needs may still have been read when a run looked.
    let total = ledger.total().read_bytes;
    assert!(read_bytes > 0 && (read_bytes..2 * read_bytes).contains(&total), "{total} of {read_bytes}");
    assert_eq!(ledger.total().written_bytes, 0);
    let recent: u64 = ledger.recent(30).map(|(_, traffic)| traffic.read_bytes).sum();
    assert_eq!(recent, total);
    assert!(read(&hotlist(root.path())).lines().next().is_some_and(|head| head.ends_with(" n_seen=4")));
}

#[test]
fn a_damaged_ledger_is_told_and_left_alone() {
    let root = folder();
    let path = root.path().join("ssd-ledger.csv");
    fs::write(&path, "day,read_bytes,written_bytes\nyesterday,much,0\n").unwrap_or_else(|e| panic!("{e}"));
    run(&open(Some(root.path()), 3, Learning::Warm));
    let lines = told(root.path());
    assert_eq!(lines, ["/ssd-ledger.csv: line 2 is not `day,read_bytes,written_bytes`; nothing is added to it"]);
    assert!(read(&path).ends_with("yesterday,much,0\n") && Ledger::open(root.path()).is_err());
}
