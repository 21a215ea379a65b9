//! Thousands of files with chance damage: each is refused, or can be used; and the memory taken follows the bytes that
//! are there, which a counting allocator checks.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fs,
    path::{Path, PathBuf},
};

use gguf::{Gguf, Writer};

use crate::{
    models,
    raw::Raw,
    round_trip::{sample, written},
};

/// Counts what each thread holds, and the most that it held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends frees things after its counters are gone; nobody asks for them any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        PEAK.try_with(|peak| peak.set(peak.get().max(held.get())))
    });
}

// SAFETY: every request goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: our caller promises what `alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: our caller promises what `dealloc` asks for, and all memory is the system's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most memory that `f` held at a time, beyond what was held before.
fn peak(f: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    f();
    (PEAK.get() - before) as usize
}

/// `xorshift64*`: damage that is the same everywhere.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

/// Numbers that break careless arithmetic.
const LIES: [u64; 14] = [
    0,
    1,
    2,
    63,
    0x7f,
    0xffff,
    1 << 20,
    (1 << 28) + 1,
    u32::MAX as u64,
    1 << 40,
    1 << 61,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Damages `bytes` within the first `head`.
fn damage(bytes: &mut Vec<u8>, head: usize, rng: &mut Rng) {
    for _ in 0..=rng.below(3) {
        let at = rng.below(head.min(bytes.len()).max(1));
        match rng.below(6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..(at + 1 + rng.below(9)).min(bytes.len()))),
            2 => drop(bytes.splice(at..at, (0..1 + rng.below(9)).map(|i| i as u8))),
            3 => put(bytes, at, &LIES[rng.below(LIES.len())].to_le_bytes()),
            4 => put(bytes, at, &(LIES[rng.below(LIES.len())] as u32).to_le_bytes()),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.below(8);
                }
            }
        }
    }
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..].iter_mut().zip(what).for_each(|(byte, new)| *byte = *new);
}

/// Writes a new file. Many file systems would wait for the disk if the old one were cut to nothing and written again.
fn replace(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path); // there is none at first
    fs::write(path, bytes).unwrap();
}

/// Opens, and uses what opened.
fn try_out(path: &Path) -> bool {
    let model = match Gguf::open(path) {
        Ok(model) => model,
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
            assert!(!error.hint().is_empty());
            return false;
        }
    };
    let mut n_bytes = 0;
    for t in model.tensors() {
        let bytes = model.bytes(t);
        assert_eq!(bytes.as_ref().len(), t.n_bytes());
        assert_eq!(model.tensor(&t.name).map(|found| &found.shape), Some(&t.shape));
        std::hint::black_box(bytes.as_ref().iter().fold(0_u8, |sum, b| sum.wrapping_add(*b)));
        n_bytes += t.n_bytes() as u64;
    }
    assert!(n_bytes <= model.file_bytes());
    model.metadata().iter().for_each(|(_, value)| drop(value.to_string()));
    true
}

/// Damages each file of a model in turn, `n` times, and opens the first. Returns how often it opened.
fn check(files: &[(PathBuf, Vec<u8>)], head: usize, n: usize, seed: u64) -> usize {
    files.iter().for_each(|(path, bytes)| replace(path, bytes));
    let mut opened = 0;
    for i in 0..n {
        let seed = seed + i as u64;
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (path, original) = &files[rng.below(files.len())];
        let mut bytes = original.clone();
        damage(&mut bytes, head, &mut rng);
        replace(path, &bytes);
        let len = files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>().max(bytes.len());
        let mut ok = false;
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| peak(|| ok = try_out(&files[0].0))));
        let peak = result.unwrap_or_else(|_| panic!("seed {seed} panics"));
        assert!(peak <= BYTES_FREE + 8 * len, "seed {seed}: {peak} bytes were held for a file of {len}");
        opened += usize::from(ok);
        replace(path, original);
    }
    opened
}

/// What may be held whatever the length of the file.
const BYTES_FREE: usize = 16 << 10;

#[test]
fn damaged_files_are_refused_or_usable() {
    let folder = tempfile::tempdir().unwrap();
    for version in [2, 3] {
        let whole = written(sample().version(version));
        let head = whole.len() - 300;
        let opened = check(&[(folder.path().join("m.gguf"), whole)], head, 8000, 1);
        assert!((100..7000).contains(&opened), "{opened} of 8000 opened");
    }
}

#[test]
fn damaged_splits_are_refused_or_usable() {
    let folder = tempfile::tempdir().unwrap();
    let part = |no: u16| {
        let mut w = Writer::new();
        w.set("split.no", no).set("split.count", 2_u16).set("split.tensors.count", 2_i32);
        w.tensor(&format!("t{no}"), &[2, 3], gguf::Element::I16, [0; 12]);
        (folder.path().join(format!("m-{:05}-of-00002.gguf", no + 1)), written(&w))
    };
    let opened = check(&[part(0), part(1)], 200, 4000, 1 << 32);
    assert!((50..3500).contains(&opened), "{opened} of 4000 opened");
}

#[test]
fn damaged_golden_models_are_refused_or_usable() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = models::golden().into_iter().min_by_key(|p| fs::metadata(p).map_or(u64::MAX, |m| m.len())) else {
        eprintln!("skipped: no models under testdata");
        return;
    };
    let whole = fs::read(path).unwrap();
    check(&[(folder.path().join("m.gguf"), whole)], 12_000, 300, 1 << 33);
}

/// Each alone is harmless where their sum wraps.
#[test]
fn an_offset_and_a_dimension_may_lie_together() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let (i8s, f32s) = (24, 0);
    for (dim, offset) in LIES.iter().flat_map(|&dim| LIES.iter().map(move |&offset| (dim, offset & !31))) {
        for (dims, id) in [(&[dim][..], i8s), (&[64, dim >> 8], f32s)] {
            let raw = Raw::header(2, 0).tensor("a", &[1], i8s, 32).tensor("b", dims, id, offset);
            replace(&path, &raw.data(128).0);
            let result = std::panic::catch_unwind(|| try_out(&path));
            assert!(result.is_ok(), "{dims:?} of type {id} at {offset} panics");
        }
    }
}

#[test]
fn every_single_bit_may_flip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let whole = written(&sample());
    for bit in 0..8 * whole.len() {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        replace(&path, &bytes);
        try_out(&path);
    }
}

#[cfg(unix)]
#[test]
fn of_a_file_that_claims_terabytes_only_the_head_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let raw = Raw::header(1, 1).key("k", 9).u32(0).u64(1 << 20);
    fs::write(&path, raw.0).unwrap();
    // Sparse: no bytes on the disk. Where the file system does not take such lengths, there is nothing to test.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    if file.set_len(1 << 40).is_err() {
        eprintln!("skipped: no sparse files here");
        return;
    }
    assert!(peak(|| assert!(Gguf::open(&path).is_err())) <= (1 << 20) + BYTES_FREE);
}
