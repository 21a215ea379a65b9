//! What a session takes, to the byte, against what its plan says, by an allocator that counts. The models are so small that
//! it sees all of it: only from 4 MiB on do devices map memory.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ops::ControlFlow,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use engine::{Engine, Options};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls go to the system's allocator as they come.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Ordering::SeqCst) + layout.size(), Ordering::SeqCst);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most that is allocated at once while a session opens, reads a long prompt and goes on.
fn peak_bytes(engine: &Engine, n_ctx: usize, n_tokens: usize) -> usize {
    let before = NOW.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    let mut session = engine.session(n_ctx).unwrap_or_else(|e| panic!("{e}"));
    let ids: Vec<u32> = (0..n_tokens as u32).map(|i| i * 7 % 300).collect();
    session.score(&ids, 512, &mut |_| ControlFlow::Continue(())).unwrap_or_else(|e| panic!("{e}"));
    (0..5).for_each(|id| session.push(id).unwrap_or_else(|e| panic!("{e}")));
    PEAK.load(Ordering::SeqCst) - before
}

#[test]
fn a_session_takes_no_more_than_planned() {
    for name in ["deepseek_v4/micro-flash", "deepseek_v4/micro-pro", "llama/micro", "qwen2/micro"] {
        for n_batch in [1, 7, 512] {
            for (n_ctx, n_tokens) in [(200, 150), (4000, 1500)] {
                let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../testdata/{name}.gguf"));
                let options = Options { n_batch, threads: Some(2), ..Options::new(path) };
                let engine = Engine::open(&options).unwrap_or_else(|e| panic!("{e}"));
                let plan = engine.plan(n_ctx).unwrap_or_else(|e| panic!("{e}"));
                let peak = peak_bytes(&engine, n_ctx, n_tokens.min(n_batch * 300)) as u64;
                let of = format!("{name}, batch {n_batch}, context {n_ctx}: {peak} of {plan:?}");
                assert!(peak <= plan.session_bytes(), "{of}");
                assert!(peak >= plan.kv_bytes, "caches are allocated when a session opens: {of}");
            }
        }
    }
}
