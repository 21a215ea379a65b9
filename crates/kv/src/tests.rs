//! Stores on a simulated disk: any order of calls, crashes and faults, held against what must be.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use rand_chacha::{ChaCha8Rng, rand_core::RngCore as _, rand_core::SeedableRng as _};

use crate::{
    BLOCK, Kind, Lasting, Name, Options, Piece, Store,
    file::{self, Head},
    folder::name_of,
    index::OnDisk,
    sim::{Extent, Fault, Sim},
};

const HOUR_MS: u64 = 3_600_000;
const NOW_MS: u64 = 1_800_000_000_000;

fn root() -> Name {
    Name::root(b"model", b"1")
}

fn sim() -> Sim {
    let sim = Sim::default();
    (sim.world().now_ms, sim.world().bytes_max) = (NOW_MS, u64::MAX);
    sim
}

fn options() -> Options {
    let (ram_bytes, disk_bytes, written_bytes_per_day) = (1 << 30, 1 << 30, 1 << 30);
    let dir = Some(PathBuf::from("dir"));
    Options {
        dir,
        model: "m".into(),
        ram_bytes,
        disk_bytes,
        written_bytes_per_day,
        written_today_bytes: 0,
        warn: |_| (),
    }
}

fn open(sim: &Sim, options: &Options) -> Store {
    Store::open_on(root(), options.clone(), Box::new(sim.plugged_in()))
}

/// Tokens of a conversation: each letter is a block of them, each digit a single one.
fn ids(text: &str) -> Vec<u32> {
    let n = |c: char| if c.is_ascii_digit() { 1 } else { BLOCK };
    text.chars().flat_map(|c| std::iter::repeat_n(c as u32, n(c))).collect()
}

/// The piece at the end of a conversation: rows if it ends with a letter and `kind` says so. What it holds tells where it is
/// from, and rows take some bytes more than tails.
fn piece(kind: Kind, text: &str) -> Piece {
    let ids = ids(text);
    let n_own = if kind == Kind::Rows { BLOCK } else { ids.len() % BLOCK };
    let (before, own) = ids.split_at(ids.len() - n_own);
    let parent = before.chunks(BLOCK).fold(root(), |name, block| name.then(block));
    let mut piece = match kind {
        Kind::Rows => Piece::rows(parent, ids.len(), own),
        Kind::Tail => Piece::tail(parent, ids.len(), own),
    };
    piece.push("text", 1, text.len(), text.as_bytes());
    piece.push("filled", 1, 900, &[7; 900]);
    piece
}

fn rows(text: &str) -> Piece {
    piece(Kind::Rows, text)
}

fn tail(text: &str) -> Piece {
    piece(Kind::Tail, text)
}

/// All rows of a conversation and its tail.
fn keep_all(store: &Store, text: &str) {
    let n_blocks = text.chars().filter(char::is_ascii_alphabetic).count();
    (1..=n_blocks).for_each(|n| store.keep(rows(&text[..n]), Lasting::Soon));
    store.keep(tail(text), Lasting::AtEnd);
}

/// Loads all that is found of a conversation, and makes sure that it is what it says. How many blocks, and the tokens of the
/// tails.
fn check(store: &Store, text: &str) -> (usize, Vec<usize>) {
    let ids = ids(text);
    let found = store.find(&ids);
    for (name, n_tokens) in (1..).map(|n| n * BLOCK).zip(&found.blocks).map(|(n, name)| (*name, n)) {
        check_loaded(store, &name, Kind::Rows, &ids[..n_tokens], text);
    }
    for tail in &found.tails {
        check_loaded(store, &tail.name, Kind::Tail, &ids[..tail.n_tokens], text);
        assert!(tail.n_tokens / BLOCK <= found.blocks.len(), "rows before a tail are missing");
    }
    assert!(found.tails.is_sorted_by(|a, b| a.n_tokens > b.n_tokens));
    (found.blocks.len(), found.tails.iter().map(|tail| tail.n_tokens).collect())
}

fn check_loaded(store: &Store, name: &Name, kind: Kind, ids: &[u32], text: &str) {
    let Some(piece) = store.load(name) else { return };
    assert_eq!((piece.kind(), piece.n_tokens()), (kind, ids.len()));
    assert!(ids.ends_with(piece.ids()) && piece.name() == *name);
    let said: Vec<_> = piece.blobs().next().expect("its text").bytes.to_vec();
    let said = String::from_utf8(said).expect("its text");
    assert!(text.starts_with(&said) && self::ids(&said) == ids, "{said} is not of {text}");
}

/// Changes a byte of a file, whose checksums are right nevertheless.
fn forge(sim: &Sim, path: &Path, at: usize, change: impl FnOnce(u8) -> u8) {
    let mut world = sim.world();
    let (bytes, _) = world.files.get_mut(path).expect("a file");
    bytes[at] = change(bytes[at]);
    file::seal(bytes);
}

/// Makes sure that every file is whole and hangs from another, down to the root.
fn check_files(sim: &Sim, case: &str) {
    let mut heads = HashMap::new();
    for (path, (bytes, _)) in &sim.world().files {
        let file_name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let name = name_of(file_name).unwrap_or_else(|| panic!("{case}: {file_name} was left"));
        let head: Head = file::read(bytes.clone(), &name).unwrap_or_else(|e| panic!("{case}: {file_name} {e}")).0;
        heads.insert(name, head);
    }
    let is_held = |head: &Head| head.parent == root() || heads.contains_key(&head.parent);
    assert!(heads.values().all(is_held), "{case}: a chain has a hole");
}

#[test]
fn what_was_written_is_there_for_the_next_store() {
    let sim = sim();
    let store = open(&sim, &options());
    keep_all(&store, "abc1");
    keep_all(&store, "abx");
    drop(store);
    let store = open(&sim, &options());
    assert_eq!(check(&store, "abc1"), (3, vec![769]));
    assert_eq!(check(&store, "abx234"), (3, vec![768]));
    assert_eq!(check(&store, "ayc1"), (1, vec![]));
    assert_eq!(store.stats().n_disk, 6);
}

#[test]
fn stores_of_other_models_see_nothing_and_leave_it_alone() {
    let sim = sim();
    keep_all(&open(&sim, &options()), "ab1");
    let other = Store::open_on(Name::root(b"other", b"1"), options(), Box::new(sim.plugged_in()));
    assert_eq!(other.find(&ids("ab1")), Default::default());
    assert!(!other.has(&rows("a").name()) && other.load(&rows("a").name()).is_none());
    assert_eq!(other.stats().n_disk, 3);
    drop(other);
    assert_eq!(check(&open(&sim, &options()), "ab1"), (2, vec![513]));
}

#[test]
fn a_tail_that_a_longer_one_continues_is_not_written() {
    for (shorter, longer, is_written) in
        [("a1", "a12", false), ("a", "ab", false), ("12", "1", true), ("a1", "a2", true), ("a1", "b12", true)]
    {
        let sim = sim();
        let store = open(&sim, &options());
        keep_all(&store, shorter);
        keep_all(&store, longer);
        store.flush();
        assert_eq!(store.is_safe(&tail(shorter).name()), is_written, "{shorter} before {longer}");
        assert!(store.is_safe(&tail(longer).name()) || longer == "1");
    }
}

#[test]
fn a_block_that_begins_like_a_tail_continues_it() {
    let sim = sim();
    let store = open(&sim, &options());
    let block: Vec<u32> = [ids("12"), vec![3; BLOCK - 2]].concat();
    store.keep(tail("12"), Lasting::AtEnd);
    store.keep(Piece::rows(root(), BLOCK, &block), Lasting::Soon);
    store.keep(Piece::tail(root().then(&block), BLOCK, &[]), Lasting::AtEnd);
    store.flush();
    assert!(!store.is_safe(&tail("12").name()));
}

#[test]
fn whoever_is_worth_least_leaves_the_folder() {
    let sim = sim();
    let room = 4 * file::file_bytes(&rows("ab")) + 100;
    let options = Options { disk_bytes: room, ..options() };
    let store = open(&sim, &options);
    keep_all(&store, "a1"); // two pieces
    store.flush();
    store.load(&tail("a1").name());
    store.load(&rows("a").name());
    store.keep(rows("b"), Lasting::Soon);
    store.keep(rows("bc"), Lasting::Soon);
    store.flush();
    sim.world().now_ms += HOUR_MS;
    store.keep(rows("x"), Lasting::Soon);
    store.flush();
    let safe = ["a", "b", "bc", "x"].map(|text| store.is_safe(&rows(text).name()));
    assert_eq!(safe, [true, true, false, true], "the leaf that was used least has left, and nothing above it");
    assert!(store.is_safe(&tail("a1").name()));
    assert_eq!(store.stats().n_evicted, 1);
}

#[test]
fn nothing_leaves_for_what_is_worth_less() {
    let sim = sim();
    let options = Options { disk_bytes: 2 * file::file_bytes(&rows("ab")), ..options() };
    let store = open(&sim, &options);
    keep_all(&store, "a1");
    store.flush();
    for _ in 0..3 {
        assert!(store.load(&rows("a").name()).is_some() && store.load(&tail("a1").name()).is_some());
    }
    let mut large = Piece::tail(root(), 1, &[5]);
    large.push("large", 1, 1000, &[0; 1000]);
    store.keep(large, Lasting::Soon);
    store.flush();
    assert_eq!((store.stats().n_evicted, store.stats().n_refused, store.stats().n_disk), (0, 1, 2));
}

#[test]
fn a_piece_without_the_one_it_hangs_from_stays_out_of_the_folder() {
    let sim = sim();
    let store = open(&sim, &options());
    store.keep(rows("ab"), Lasting::Soon);
    store.flush();
    assert_eq!(store.stats().n_disk, 0);
    store.keep(rows("a"), Lasting::Soon);
    store.flush();
    assert_eq!(store.stats().n_disk, 2);
}

#[test]
fn a_day_has_so_many_bytes_and_the_next_one_again() {
    let sim = sim();
    let one = file::file_bytes(&rows("a"));
    let options = Options { written_bytes_per_day: 3 * one, written_today_bytes: one, ..options() };
    let store = open(&sim, &options);
    ["a", "b", "c", "d"].iter().for_each(|text| store.keep(rows(text), Lasting::Soon));
    store.flush();
    assert_eq!((store.stats().n_disk, store.stats().written_bytes), (2, 2 * one));
    sim.world().now_ms -= 48 * HOUR_MS;
    store.flush();
    assert_eq!(store.stats().n_disk, 2, "a clock that is set back gives no bytes");
    sim.world().now_ms += 72 * HOUR_MS;
    store.flush();
    assert_eq!((store.stats().n_disk, store.stats().written_bytes), (4, 4 * one));
}

#[test]
fn a_smaller_budget_holds_from_the_start() {
    let sim = sim();
    keep_all(&open(&sim, &options()), "abcdefgh1");
    let options = Options { disk_bytes: 4 * file::file_bytes(&rows("a")), ..options() };
    let store = open(&sim, &options);
    store.flush();
    assert!(store.stats().disk_bytes <= options.disk_bytes);
    drop(store);
    check_files(&sim, "");
    assert!(!sim.world().files.is_empty());
}

#[test]
fn memory_keeps_what_is_nowhere_else() {
    let sim = sim();
    let one = open(&sim, &options());
    one.keep(rows("a"), Lasting::Soon);
    let piece_bytes = one.stats().ram_bytes;
    drop(one);
    let options = Options { ram_bytes: 4 * piece_bytes, ..options() };
    let store = open(&sim, &options);
    assert_eq!(check(&store, "a"), (1, vec![]));
    assert_eq!(store.stats().n_ram, 1, "what was read is kept, too");
    let reader = open(&sim, &options);
    ["ab", "abc", "abcd"].iter().for_each(|text| reader.keep(rows(text), Lasting::Soon));
    assert_eq!(check(&reader, "abcde"), (4, vec![]));
    reader.keep(tail("1"), Lasting::AtEnd);
    assert_eq!((check(&reader, "abcde"), reader.stats().n_dropped), ((4, vec![]), 0), "only the copy has left");
    reader.keep(tail("2"), Lasting::AtEnd);
    assert_eq!((check(&reader, "abcde").0, reader.stats().n_dropped), (4, 1));
    assert!(!reader.has(&tail("1").name()), "the one that saves least, and is older, has left");
    assert!(reader.stats().ram_bytes <= options.ram_bytes);
}

#[test]
fn what_no_longer_fits_into_memory_is_written_before_it_goes() {
    let sim = sim();
    let options = Options { ram_bytes: 8 << 10, ..options() };
    let store = open(&sim, &options);
    for text in ["1", "2", "3", "4", "5", "6"] {
        store.keep(tail(text), Lasting::AtEnd);
        while store.stats().n_disk == 0 && text == "6" {
            std::thread::yield_now();
        }
    }
    assert!(store.stats().n_disk > 0 && store.stats().ram_bytes <= options.ram_bytes);
}

#[test]
fn whoever_does_not_write_sees_what_the_other_commits() {
    let sim = sim();
    let writer = open(&sim, &options());
    let reader = open(&sim, &options());
    keep_all(&reader, "xy1");
    keep_all(&writer, "ab1");
    writer.flush();
    reader.flush();
    assert_eq!(check(&reader, "ab1"), (2, vec![513]));
    assert_eq!(check(&reader, "xy1"), (2, vec![513]));
    assert_eq!(check(&writer, "xy1"), (0, vec![]));
    drop(writer);
    reader.flush();
    drop(reader);
    assert_eq!(check(&open(&sim, &options()), "xy1"), (2, vec![513]), "who is alone writes");
}

#[test]
fn files_of_unknown_formats_are_left_alone_until_room_is_needed() {
    let sim = sim();
    keep_all(&open(&sim, &options()), "a");
    let (path, mut file) = sim.world().files.pop_first().expect("a file");
    file.0[8] = 2;
    let n_bytes = file.0.len() as u64;
    sim.world().files.insert(path.clone(), file);
    let store = open(&sim, &options());
    store.flush();
    assert!(store.stats().n_broken == 0 && sim.world().files.contains_key(&path));
    drop(store);
    let used: u64 = sim.world().files.values().map(|(bytes, _)| bytes.len() as u64).sum();
    let store = open(&sim, &Options { disk_bytes: used + file::file_bytes(&rows("x")) - n_bytes / 2, ..options() });
    store.keep(rows("x"), Lasting::Soon);
    store.flush();
    assert!(!sim.world().files.contains_key(&path) && store.is_safe(&rows("x").name()));
}

#[test]
fn a_strangers_file_gives_way_to_a_piece_of_its_name() {
    for place in [8, 40] {
        let sim = sim();
        keep_all(&open(&sim, &options()), "a");
        let path = PathBuf::from(format!("dir/{}.kv", rows("a").name()));
        // Another format, or another root.
        forge(&sim, &path, place, |byte| byte ^ 2);
        let store = open(&sim, &options());
        assert!(!store.is_safe(&rows("a").name()), "what is there is not ours");
        store.keep(rows("a"), Lasting::Soon);
        store.flush();
        assert!(store.is_safe(&rows("a").name()) && store.stats().n_broken == 0);
        drop(store);
        assert_eq!(check(&open(&sim, &options()), "a1").0, 1, "byte {place}");
    }
}

#[test]
fn a_tail_with_logits_takes_the_place_of_one_without() {
    for is_written in [false, true] {
        let sim = sim();
        let store = open(&sim, &options());
        keep_all(&store, "a1");
        if is_written {
            store.flush();
        }
        store.keep(tail("a1").with_logits(), Lasting::AtEnd);
        let has_logits = |store: &Store| {
            let found = store.find(&ids("a1")).tails;
            found[0].has_logits && store.load(&found[0].name).is_some_and(|piece| piece.has_logits())
        };
        assert!(has_logits(&store));
        store.keep(tail("a1"), Lasting::AtEnd);
        assert!(has_logits(&store), "and keeps it");
        drop(store);
        assert!(has_logits(&open(&sim, &options())), "written before: {is_written}");
    }
}

#[test]
fn a_file_without_logits_is_no_copy_of_a_tail_that_has_them() {
    let sim = sim();
    let [writer, reader] = [(); 2].map(|()| open(&sim, &options()));
    reader.keep(tail("1").with_logits(), Lasting::Soon);
    reader.keep(tail("2"), Lasting::Soon);
    writer.keep(tail("1"), Lasting::Soon);
    writer.keep(tail("2").with_logits(), Lasting::Soon);
    writer.flush();
    let has_logits = |text: &str| {
        let found = reader.find(&ids(text)).tails;
        found[0].has_logits && reader.load(&found[0].name).is_some_and(|piece| piece.has_logits())
    };
    assert!(has_logits("1") && has_logits("2"));
    assert_eq!(["1", "2"].map(|text| reader.is_safe(&tail(text).name())), [false, true]);
    drop(writer);
    drop(reader);
    let store = open(&sim, &options());
    assert!(["1", "2"].iter().all(|text| store.find(&ids(text)).tails[0].has_logits));
}

#[test]
fn a_tail_that_is_asked_for_again_lasts_as_long_as_the_longest_asked_for() {
    let sim = sim();
    let store = open(&sim, &options());
    assert_eq!(store.promote(&tail("1").name(), Lasting::Soon), None);
    store.keep(tail("1"), Lasting::AtEnd);
    store.keep(tail("12").with_logits(), Lasting::Soon);
    assert_eq!(store.promote(&tail("1").name(), Lasting::Soon), Some(false));
    assert_eq!(store.promote(&tail("12").name(), Lasting::AtEnd), Some(true));
    store.flush();
    assert!(store.is_safe(&tail("1").name()), "though another continues it");
}

#[test]
fn logits_that_come_while_a_tail_is_written_are_written_next() {
    let sim = sim();
    let store = Arc::new(open(&sim, &options()));
    let keeps = store.clone();
    sim.world().meanwhile = Some(Box::new(move || keeps.keep(tail("1").with_logits(), Lasting::AtEnd)));
    store.keep(tail("1"), Lasting::Soon);
    store.flush();
    assert!(sim.world().meanwhile.is_none() && store.find(&ids("1")).tails[0].has_logits);
    drop(store);
    assert!(open(&sim, &options()).find(&ids("1")).tails[0].has_logits);
}

#[test]
fn a_piece_at_another_place_than_its_tokens_is_not_used() {
    let sim = sim();
    keep_all(&open(&sim, &options()), "ab1");
    let path = PathBuf::from(format!("dir/{}.kv", rows("ab").name()));
    forge(&sim, &path, 17, |byte| 2 * byte); // 1024 tokens
    let store = open(&sim, &options());
    assert_eq!(check(&store, "ab1"), (1, vec![]));
    assert!(!store.has(&rows("ab").name()) && store.load(&rows("ab").name()).is_none());
    store.keep(rows("ab"), Lasting::Soon);
    assert_eq!(check(&store, "ab1"), (2, vec![513]));
    drop(store);
    let store = open(&sim, &options());
    forge(&sim, &PathBuf::from(format!("dir/{}.kv", tail("ab1").name())), 17, |byte| 2 * byte);
    assert!(store.load(&tail("ab1").name()).is_none(), "it has changed since");
}

#[test]
fn a_tail_that_ends_before_it_begins_is_worth_nothing() {
    let sim = sim();
    let store = open(&sim, &options());
    keep_all(&store, "123");
    keep_all(&store, "a1");
    drop(store);
    let path = PathBuf::from(format!("dir/{}.kv", tail("a1").name()));
    forge(&sim, &path, 17, |_| 0); // one token
    let disk_bytes: u64 = sim.world().files.values().map(|(bytes, _)| bytes.len() as u64).sum();
    let store = open(&sim, &Options { disk_bytes, ..options() });
    store.keep(tail("x1"), Lasting::Soon);
    store.keep(tail("4"), Lasting::Soon);
    store.flush();
    assert!(!sim.world().files.contains_key(&path));
    assert!(store.is_safe(&tail("4").name()) && store.stats().n_evicted == 1);
}

#[test]
fn a_look_at_the_folder_does_not_undo_what_is_written_meanwhile() {
    let sim = sim();
    let store = open(&sim, &options());
    let shared = store.shared.clone();
    sim.world().meanwhile = Some(Box::new(move || {
        let mut state = shared.state();
        state.index.insert(rows("a").name(), shared.entry(rows("a"), Lasting::Soon, NOW_MS));
        state.index.change(&rows("a").name(), |entry| entry.on_disk = OnDisk::Yes);
    }));
    store.shared.scan(Path::new("dir"), false).expect("no fault");
    assert!(store.is_safe(&rows("a").name()));
}

#[test]
fn a_file_that_went_while_it_was_read_does_not_stop_the_next() {
    let sim = sim();
    keep_all(&open(&sim, &options()), "a");
    let store = open(&sim, &options());
    let (shared, name) = (store.shared.clone(), rows("a").name());
    let path = shared.path(&name);
    let disk = sim.clone();
    sim.world().meanwhile = Some(Box::new(move || {
        disk.world().files.remove(&path);
        let mut state = shared.state();
        state.index.forget(&name);
        state.index.insert(name, shared.entry(rows("a"), Lasting::Soon, NOW_MS));
        state.index.change(&name, |entry| entry.on_disk = OnDisk::Writing);
    }));
    assert!(store.load(&name).is_none());
    let on_disk = store.shared.state().index.get(&name).map(|entry| entry.on_disk);
    assert_eq!(on_disk, Some(OnDisk::Writing));
}

#[test]
fn whoever_walks_a_chain_again_reads_nothing() {
    let sim = sim();
    keep_all(&open(&sim, &options()), "abc1");
    let [_writer, reader] = [(); 2].map(|()| open(&sim, &options()));
    let walk = || {
        let n_ops = sim.world().n_ops;
        let behind = |name| reader.behind(&name).first().map(|(name, _, _)| *name);
        assert_eq!(std::iter::successors(Some(root()), |name| behind(*name)).count(), 5);
        sim.world().n_ops - n_ops
    };
    assert!(walk() > 1);
    sim.world().now_ms += HOUR_MS;
    walk();
    assert_eq!(walk(), 1, "whether the folder has changed is looked at once");
}

#[test]
fn room_is_made_for_some_pieces_at_once() {
    let small = |id: u32| Piece::tail(root(), 1, &[id]);
    let sim = sim();
    let one = {
        let store = open(&sim, &options());
        store.keep(small(0), Lasting::AtEnd);
        store.stats().ram_bytes
    };
    sim.world().files.clear();
    let in_memory = Store::open(root(), Options { dir: None, ram_bytes: 64 * one, ..options() });
    let options = Options { disk_bytes: 64 * file::file_bytes(&small(0)), ..options() };
    let on_disk = open(&sim, &options);
    let n_gone = [0..64, 64..65, 65..69].map(|some| {
        some.for_each(|id| [&in_memory, &on_disk].iter().for_each(|store| store.keep(small(id), Lasting::Soon)));
        on_disk.flush();
        sim.world().now_ms += HOUR_MS;
        (in_memory.stats().n_dropped, on_disk.stats().n_evicted)
    });
    assert_eq!(n_gone, [(0, 0), (5, 5), (5, 5)]);
}

#[test]
fn what_hangs_from_a_piece_is_written_after_it_in_whatever_order_they_come() {
    let sim = sim();
    let store = open(&sim, &options());
    store.keep(rows("abc"), Lasting::Soon);
    store.keep(rows("ab"), Lasting::Soon);
    store.flush();
    assert_eq!((store.stats().n_disk, store.stats().n_refused), (0, 0));
    store.keep(rows("a"), Lasting::Soon);
    let until = Instant::now() + Duration::from_secs(10);
    while !store.is_safe(&rows("abc").name()) && Instant::now() < until {
        thread::yield_now();
    }
    assert_eq!(store.stats().n_disk, 3);
}

#[test]
fn a_broken_file_is_removed_and_the_rest_goes_on() {
    let sim = sim();
    keep_all(&open(&sim, &options()), "ab1");
    let path = PathBuf::from(format!("dir/{}.kv", rows("ab").name()));
    let store = open(&sim, &options());
    sim.world().files.get_mut(&path).expect("kept").0[1300] ^= 1;
    assert_eq!(store.find(&ids("ab1")).blocks.len(), 2);
    assert!(store.load(&rows("ab").name()).is_none());
    assert_eq!(check(&store, "ab1"), (1, vec![]));
    store.flush();
    assert!(store.stats().n_broken == 1 && !sim.world().files.contains_key(&path));
    store.keep(rows("ab"), Lasting::Soon);
    assert_eq!(check(&store, "ab1"), (2, vec![513]), "the hole is filled");
}

#[test]
fn a_full_disk_keeps_what_is_worth_most() {
    let sim = sim();
    let one = file::file_bytes(&rows("a"));
    sim.world().bytes_max = 3 * one + one / 2;
    let store = open(&sim, &options());
    for text in ["a", "b", "c", "d"] {
        sim.world().now_ms += HOUR_MS;
        store.keep(rows(text), Lasting::Soon);
        store.flush();
    }
    assert_eq!(["a", "b", "c", "d"].map(|text| store.is_safe(&rows(text).name())), [false, true, true, true]);
    drop(store);
    check_files(&sim, "");
}

/// The conversations of [`live`].
const LIFE: [&str; 3] = ["abc1", "abd2", "xyz3"];

/// A life with keeps, reads, evictions and flushes, on a disk that may fail. The pieces that it said were safe.
fn live(sim: &Sim) -> BTreeMap<Name, String> {
    let options = Options { disk_bytes: 9 * file::file_bytes(&rows("ab")), ..options() };
    let mut safe = BTreeMap::new();
    let store = open(sim, &options);
    for text in LIFE {
        sim.world().now_ms += HOUR_MS;
        keep_all(&store, text);
        store.flush();
        check(&store, text);
        let pieces = (1..text.len()).map(|n| rows(&text[..n])).chain([tail(text)]).map(|piece| piece.name());
        safe.extend(pieces.filter(|name| store.is_safe(name)).map(|name| (name, text.to_owned())));
    }
    safe.retain(|name, _| store.is_safe(name));
    safe
}

#[test]
fn after_any_fault_only_whole_pieces_are_served() {
    let n_ops = {
        let sim = sim();
        live(&sim);
        sim.world().n_ops
    };
    let kinds =
        [io::ErrorKind::Other, io::ErrorKind::StorageFull, io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
    for at in 1..=n_ops {
        for (i, extent) in [Extent::Nothing, Extent::Half, Extent::All].into_iter().enumerate() {
            for lasts in [false, true] {
                let (sim, kind) = (sim(), kinds[(at as usize + i) % kinds.len()]);
                sim.world().fault = Some((at, Fault { kind, extent, lasts }));
                live(&sim);
                sim.world().fault = None;
                let store = open(&sim, &options());
                for text in LIFE {
                    check(&store, text);
                }
                keep_all(&store, "new4");
                drop(store);
                check_files(&sim, &format!("{at} {extent:?} {lasts} {kind}"));
                assert_eq!(check(&open(&sim, &options()), "new4"), (3, vec![769]), "{at} {extent:?} {lasts}");
            }
        }
    }
}

#[test]
fn after_a_fault_and_loss_of_power_what_was_safe_is_there() {
    for seed in 0..300 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let sim = sim();
        let (kind, extent) = (io::ErrorKind::Other, [Extent::Nothing, Extent::Half, Extent::All][seed as usize % 3]);
        let lasts = rng.next_u32() % 2 == 0;
        sim.world().fault = Some((u64::from(rng.next_u32() % 80), Fault { kind, extent, lasts }));
        let safe = live(&sim.plugged_in());
        sim.crash(|| rng.next_u32() % 2 == 0);
        let store = open(&sim, &options());
        for (name, text) in &safe {
            assert!(store.load(name).is_some(), "seed {seed}: a piece of {text} is gone");
        }
        for text in LIFE {
            check(&store, text);
        }
    }
}

#[derive(Clone, Debug)]
enum Call {
    Rows(String),
    Tail(String, Lasting),
    Check(String),
    Flush,
    Reopen,
    Crash(u64),
    Wait(u64),
}

fn call() -> impl Strategy<Value = Call> {
    let lasting = prop_oneof![Just(Lasting::AtEnd), Just(Lasting::Soon)];
    prop_oneof![
        6 => "[ab]{1,5}".prop_map(Call::Rows),
        4 => ("[ab]{0,5}[12]{0,3}", lasting).prop_map(|(text, lasting)| Call::Tail(text, lasting)),
        4 => "[ab]{0,6}[12]{0,4}".prop_map(Call::Check),
        1 => Just(Call::Flush),
        1 => Just(Call::Reopen),
        1 => any::<u64>().prop_map(Call::Crash),
        1 => (0..48 * HOUR_MS).prop_map(Call::Wait),
    ]
}

proptest! {
    #[test]
    fn any_order_of_calls_serves_what_was_kept_within_the_budgets(
        calls in prop::collection::vec(call(), 1..60),
        (ram, disk, day) in (1_u64..12, 1_u64..12, 5_u64..60),
    ) {
        let sim = sim();
        let one = file::file_bytes(&rows("a"));
        let (ram_bytes, disk_bytes, written_bytes_per_day) = (ram * 4096, disk * one, day * one);
        let options = Options { ram_bytes, disk_bytes, written_bytes_per_day, ..options() };
        let mut store = Some(open(&sim, &options));
        for call in calls {
            let open_store = store.as_ref().expect("open");
            match call {
                Call::Rows(text) => open_store.keep(rows(&text), Lasting::Soon),
                Call::Tail(text, lasting) => open_store.keep(tail(&text), lasting),
                Call::Check(text) => _ = check(open_store, &text),
                Call::Flush => open_store.flush(),
                Call::Wait(ms) => sim.world().now_ms += ms,
                Call::Reopen => {
                    drop(store.take());
                    check_files(&sim, "");
                    store = Some(open(&sim, &options));
                }
                Call::Crash(seed) => {
                    let mut rng = ChaCha8Rng::seed_from_u64(seed);
                    sim.crash(|| rng.next_u32() % 2 == 0);
                    let new = store.insert(open(&sim, &options));
                    // What was removed may have come back.
                    new.flush();
                    sim.world().peak_bytes = 0;
                }
            }
            let stats = store.as_ref().expect("open").stats();
            prop_assert!(stats.ram_bytes <= ram_bytes && stats.disk_bytes <= disk_bytes, "{stats:?}");
        }
        drop(store);
        let peak_bytes = sim.world().peak_bytes;
        prop_assert!(peak_bytes <= disk_bytes, "{peak_bytes} of {disk_bytes}");
    }
}
