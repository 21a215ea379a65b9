//! What a session takes, to the byte, against what its plan says, by an allocator that counts. The models are so small that
//! it sees all of it: only from 4 MiB on do devices map memory.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use engine::{Budget, Engine, Experts, Options};

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

/// Held by the test that counts.
static ALONE: Mutex<()> = Mutex::new(());

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../testdata/{name}.gguf"))
}

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
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for name in ["deepseek_v4/micro-flash", "deepseek_v4/micro-pro", "llama/micro", "qwen2/micro"] {
        for n_batch in [1, 7, 512] {
            for (n_ctx, n_tokens) in [(200, 150), (4000, 1500)] {
                let options = Options { n_batch, threads: Some(2), ..Options::new(file(name)) };
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

#[test]
fn a_cache_without_room_for_an_expert_is_refused_before_weights_are_read() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let open = |budget| {
        let before = NOW.load(Ordering::SeqCst);
        PEAK.store(before, Ordering::SeqCst);
        let experts = Experts::Streamed(budget);
        let engine =
            Engine::open(&Options { experts, threads: Some(2), ..Options::new(file("deepseek_v4/micro-flash")) });
        (engine, (PEAK.load(Ordering::SeqCst) - before) as u64)
    };
    let (engine, peak_bytes) = open(Budget::Count(1));
    let weights_bytes = engine.and_then(|e| e.plan(64)).unwrap_or_else(|e| panic!("{e}")).weights_bytes;
    for budget in [Budget::Count(0), Budget::Bytes(4096)] {
        let (refused, refused_bytes) = open(budget);
        assert!(refused.is_err());
        assert!(
            refused_bytes + weights_bytes <= peak_bytes,
            "{refused_bytes} of {peak_bytes}, weights {weights_bytes}"
        );
    }
}
