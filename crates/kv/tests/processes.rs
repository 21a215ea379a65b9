//! Processes that are killed while they write, and several at once on one folder.
//!
//! The test program is its own child: with a folder in `KV_CHILD_DIR`, the test `child` keeps pieces there until somebody
//! kills it, and prints a line for each that is safe. `KV_KILL_ROUNDS` says how many are killed.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use kv::{BLOCK, Lasting, Name, Options, Piece, Store};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};
use tempfile::TempDir;

const DIR: &str = "KV_CHILD_DIR";
const SEED: &str = "KV_CHILD_SEED";
const DISK_BYTES: &str = "KV_CHILD_DISK_BYTES";

/// Blocks that a child keeps at most.
const N_BLOCKS: usize = 120;

/// Held by each test: what one thread starts holds all locks of this process until it is another program, so a lock that was
/// let go at that moment would seem to be held.
static ALONE: Mutex<()> = Mutex::new(());

fn root() -> Name {
    Name::root(b"model", b"1")
}

fn options(dir: &Path, disk_bytes: u64, warn: fn(&str)) -> Options {
    let (dir, model) = (Some(dir.to_owned()), "model".into());
    let (ram_bytes, written_bytes_per_day, written_today_bytes) = (1 << 24, 1 << 40, 0);
    Options { dir, model, ram_bytes, disk_bytes, written_bytes_per_day, written_today_bytes, warn }
}

/// A folder in memory where there is one: who is killed leaves all that it gave to the system, and a disk is slower only.
fn temporary() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a folder")
}

/// The tokens of a child's conversation.
fn ids(seed: u32, n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| seed ^ i).collect()
}

/// The `i`-th piece of a child: rows and tails in turn. Its bytes follow from the seed, up to 16 KiB of them.
fn piece(seed: u32, i: usize) -> Piece {
    let (n_blocks, is_tail) = (i / 2 + 1, i % 2 == 1);
    let n_tokens = n_blocks * BLOCK + if is_tail { i % BLOCK } else { 0 };
    let ids = ids(seed, n_tokens);
    let n_before = if is_tail { n_blocks } else { n_blocks - 1 };
    let parent = ids.chunks(BLOCK).take(n_before).fold(root(), |name, block| name.then(block));
    let own = &ids[n_before * BLOCK..];
    let mut piece = if is_tail { Piece::tail(parent, n_tokens, own) } else { Piece::rows(parent, n_tokens, own) };
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(seed) << 32 | i as u64);
    let mut bytes = vec![0; rng.next_u32() as usize % (16 << 10)];
    rng.fill_bytes(&mut bytes);
    piece.push("noise", 1, bytes.len(), &bytes);
    piece
}

fn assert_same(loaded: &Piece, kept: &Piece) {
    assert_eq!((loaded.kind(), loaded.n_tokens(), loaded.ids()), (kept.kind(), kept.n_tokens(), kept.ids()));
    assert!(loaded.blobs().eq(kept.blobs()), "other bytes came back");
}

/// No test, but the child.
#[test]
fn child() {
    let Some(dir) = env::var_os(DIR) else { return };
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok()).expect("set by the parent");
    let store = Store::open(root(), options(Path::new(&dir), number(DISK_BYTES), |line| eprintln!("child: {line}")));
    let seed = number(SEED) as u32;
    let mut stdout = io::stdout();
    let mut unsafe_yet = Vec::new();
    for i in 0..2 * N_BLOCKS {
        let piece = piece(seed, i);
        unsafe_yet.push((i, piece.name()));
        store.keep(piece, Lasting::Soon);
        if i % 7 == 6 {
            store.flush();
        }
        unsafe_yet.retain(|(i, name)| {
            let is_safe = store.is_safe(name);
            if is_safe {
                stdout.write_all(format!("safe {i}\n").as_bytes()).expect("the parent listens");
            }
            !is_safe
        });
    }
    stdout.write_all(b"end\n").expect("the parent listens");
    // It goes on holding the folder's lock.
    loop {
        thread::park();
    }
}

/// A child, which is killed when this is dropped.
struct Writing {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Writing {
    fn start(dir: &Path, seed: u32, disk_bytes: u64) -> Writing {
        let mut child = Command::new(env::current_exe().expect("a test is a program"))
            .args(["--exact", "child", "--nocapture", "--quiet"])
            .env(DIR, dir)
            .env(SEED, seed.to_string())
            .env(DISK_BYTES, disk_bytes.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a test can be started");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Writing { child, lines }
    }

    /// The next piece that is safe; `None` when there are no more.
    fn next(&mut self) -> Option<usize> {
        loop {
            let mut line = String::new();
            // Of a line that was cut, nobody knows what it said.
            if self.lines.read_line(&mut line).ok()? == 0 || !line.ends_with('\n') || line == "end\n" {
                return None;
            }
            if let Some((_, i)) = line.split_once("safe ") {
                return i.trim().parse().ok();
            }
        }
    }

    /// Kills it, and returns what it had said to be safe.
    fn kill(mut self) -> Vec<usize> {
        self.child.kill().expect("it is ours");
        let rest = std::iter::from_fn(|| self.next()).collect();
        self.child.wait().expect("it is ours");
        rest
    }
}

/// Everything that is served of a child's conversation is what it kept. How many pieces.
fn check_served(store: &Store, seed: u32) -> usize {
    let found = store.find(&ids(seed, (N_BLOCKS + 1) * BLOCK));
    for (k, name) in found.blocks.iter().enumerate() {
        assert_same(&store.load(name).expect("it was found"), &piece(seed, 2 * k));
    }
    for tail in &found.tails {
        let i = 2 * (tail.n_tokens / BLOCK - 1) + 1;
        let i = if piece(seed, i).n_tokens() == tail.n_tokens { i } else { panic!("a tail that nobody kept") };
        assert_same(&store.load(&tail.name).expect("it was found"), &piece(seed, i));
    }
    found.blocks.len() + found.tails.len()
}

fn kill_in_rounds(n_rounds: u32, disk_bytes: u64, loses_nothing: bool) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut folder = temporary();
    let (mut n_safe, mut all_safe) = (0, Vec::new());
    for round in 0..n_rounds {
        if round % 50 == 0 {
            check_all(folder.path(), disk_bytes, &all_safe);
            all_safe.clear();
            folder = temporary();
        }
        let mut rng = ChaCha8Rng::seed_from_u64(u64::from(round));
        let seed = rng.next_u32();
        let mut writing = Writing::start(folder.path(), seed, disk_bytes);
        let mut safe: Vec<_> = (0..rng.next_u32() % 4).map_while(|_| writing.next()).collect();
        thread::sleep(Duration::from_micros(u64::from(rng.next_u32() % 5000)));
        safe.extend(writing.kill());
        n_safe += safe.len();
        let store = Store::open(root(), options(folder.path(), disk_bytes, |line| panic!("{line}")));
        let stats = store.stats();
        assert!(stats.n_broken == 0 && stats.disk_bytes <= disk_bytes, "round {round}: {stats:?}");
        check_served(&store, seed);
        if loses_nothing {
            let safe: Vec<_> = safe.into_iter().map(|i| (seed, i)).collect();
            check_safe(&store, &safe);
            all_safe.extend(safe);
        }
    }
    check_all(folder.path(), disk_bytes, &all_safe);
    println!("{n_rounds} processes were killed, {n_safe} pieces had been safe");
}

fn check_all(dir: &Path, disk_bytes: u64, safe: &[(u32, usize)]) {
    check_safe(&Store::open(root(), options(dir, disk_bytes, |line| panic!("{line}"))), safe);
}

fn check_safe(store: &Store, safe: &[(u32, usize)]) {
    for &(seed, i) in safe {
        let kept = piece(seed, i);
        let loaded = store.load(&kept.name());
        assert_same(&loaded.unwrap_or_else(|| panic!("piece {i} of seed {seed} was safe and is gone")), &kept);
    }
}

fn n_rounds() -> u32 {
    env::var("KV_KILL_ROUNDS").map_or(500, |text| text.parse().expect("KV_KILL_ROUNDS is a number"))
}

#[test]
fn a_killed_process_loses_nothing_that_was_safe() {
    kill_in_rounds(n_rounds() * 3 / 5, 1 << 40, true);
}

#[test]
fn a_process_that_is_killed_while_it_evicts_leaves_whole_pieces() {
    kill_in_rounds(n_rounds() * 2 / 5, 150 << 10, false);
}

#[test]
fn one_process_writes_and_others_read_it() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = temporary();
    let mut writing = Writing::start(folder.path(), 1, 1 << 40);
    let mut newest = (0..20).map_while(|_| writing.next()).max().expect("something is safe");
    let store = Store::open(
        root(),
        options(folder.path(), 1 << 40, |line| {
            assert!(line.contains("another process writes there"), "{line}");
        }),
    );
    for _ in 0..5 {
        assert!(check_served(&store, 1) > newest, "what was said to be safe is found");
        newest = writing.next().unwrap_or(newest).max(newest);
    }
    let own = piece(2, 0);
    store.keep(own.clone(), Lasting::Soon);
    store.flush();
    assert!(store.has(&own.name()) && !store.is_safe(&own.name()), "the other one writes");
    writing.kill();
    store.flush();
    assert!(store.is_safe(&own.name()), "the lock of who is gone is free");
}
