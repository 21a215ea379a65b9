//! What a store promises, whoever asks and whatever there is room for.

mod common;

use std::{
    collections::BTreeSet,
    io::{BufReader, Seek as _},
    ops::Range,
    panic::resume_unwind,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use common::{EXPERT_BYTES, Model};
use compute::{Kind, Memory, Reference, Tensor, reference::i32s};
use experts::{
    Foresight, Room, Routing, Script, Store,
    replay::Replay,
    trace::{
        Batch, Head, Layer, Trace, Writer,
        synth::{Choice, Recipe},
    },
};
use proptest::prelude::*;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};

const N_LAYER: usize = 3;
const N_EXPERT: usize = 24;
const N_USED: usize = 4;

const HEAD: Head = Head { n_layer: N_LAYER, n_expert: N_EXPERT, n_used: N_USED, expert_bytes: EXPERT_BYTES };

fn model() -> Model {
    Model::new(N_LAYER, N_EXPERT)
}

fn trace(head: Head, choice: Choice, [n_decode, n_prompt]: [usize; 2], seed: u64) -> Trace {
    let recipe = Recipe { head, choice, n_decode, n_prompt, n_answer: 8, keep: 0.0, n_topic: 1, seed };
    Trace { head, batches: recipe.batches().collect() }
}

/// Lets a batch through all layers.
fn run(model: &Model, store: &Store, batch: &Batch) {
    for l in &batch.layers {
        let (_, result) = model.each(l.layer, store.ask(l.layer, &l.choices, l.n_rows));
        result.unwrap_or_else(|e| panic!("{e}"));
    }
}

/// Ends the test if `body` does not end.
fn in_time(body: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        body();
        done.send(()).expect("somebody waits");
    });
    match ended.recv_timeout(Duration::from_secs(30)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("somebody waits for ever"),
        _ => thread.join().unwrap_or_else(|e| resume_unwind(e)),
    }
}

fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    rng.next_u32() as usize % n
}

/// Asks for anything in any way, and checks what comes.
fn work(model: &Model, store: &Store, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..40 {
        let (layer, n_rows, way) = (below(&mut rng, N_LAYER), 1 + below(&mut rng, 20), below(&mut rng, 10));
        let choices: Vec<i32> = (0..n_rows).map(|_| below(&mut rng, N_EXPERT) as i32).collect();
        match way {
            0 => store.read_ahead(layer, &choices, Foresight::Certain),
            1 => store.read_ahead(layer, &choices, Foresight::Guess),
            2 => store.warm(&choices.iter().map(|&e| (layer, e as usize, 1.0)).collect::<Vec<_>>()),
            3 => drop(store.ask(layer, &choices, n_rows)),
            4 => check(model, store, layer, &(0..N_EXPERT as i32).collect::<Vec<_>>(), false),
            _ => check(model, store, layer, &choices, way % 2 == 0),
        }
    }
}

/// All that is chosen is added in ascending order, up to the first that cannot be read.
fn check(model: &Model, store: &Store, layer: usize, choices: &[i32], early: bool) {
    let mut chosen: Vec<usize> = choices.iter().map(|&e| e as usize).collect();
    chosen.sort_unstable();
    chosen.dedup();
    let ask = store.ask(layer, choices, choices.len());
    let (added, result) = if early { model.each_early(layer, ask, chosen.len()) } else { model.each(layer, ask) };
    let good: Vec<usize> = chosen.iter().copied().take_while(|&e| model.is_whole(layer, e)).collect();
    assert_eq!(added, good, "of {chosen:?}");
    match result {
        Ok(()) => assert_eq!(good, chosen),
        Err(e) => assert!(good != chosen && e.to_string().contains("model.gguf: cannot read 1280 bytes at"), "{e}"),
    }
}

/// Waits for what another thread does.
fn comes_true(what: impl Fn() -> bool) -> bool {
    (0..100).any(|i| {
        thread::sleep(Duration::from_millis(i));
        what()
    })
}

/// Whether as many experts as there are slots can be here at the same time, once what was under way has ended, and they
/// were chosen often enough.
fn has_all_slots(model: &Model, store: &Store) -> bool {
    let n_slots = store.n_slots();
    comes_true(|| {
        let before = store.stats();
        for layer in 0..N_LAYER {
            let choices: Vec<i32> = (layer..n_slots).step_by(N_LAYER).map(|i| (i / N_LAYER) as i32).collect();
            check(model, store, layer, &choices, false);
        }
        let stats = store.stats() - before;
        (stats.n_hits, stats.n_misses) == (n_slots as u64, 0)
    })
}

proptest! {
    // Threads meet otherwise each time: a failure cannot be made smaller.
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 0, failure_persistence: None, ..Default::default() })]
    #[test]
    fn whatever_threads_ask_for_they_get_and_no_slot_is_lost(
        n_slots in 1usize..12, n_threads in 1u64..5, seed: u64,
    ) {
        in_time(move || {
            let model = model().cut(2);
            let store = model.store(n_slots);
            thread::scope(|s| {
                (0..n_threads).for_each(|i| _ = s.spawn({
                    let (model, store) = (&model, &store);
                    move || work(model, store, seed.wrapping_add(i))
                }));
            });
            assert!(has_all_slots(&model, &store), "a slot is lost");
        });
    }
}

#[test]
fn what_is_read_is_what_a_replay_says() {
    let model = model();
    for choice in [Choice::Uniform, Choice::Zipf(1.0), Choice::Drift(1.2)] {
        // Prompts of three rows choose no more than there are slots, and less than nearly all.
        for (n_prompt, n_slots) in [(0, N_USED), (0, 9), (3, 12), (3, 20), (3, 40), (3, N_LAYER * N_EXPERT)] {
            let (trace, store) = (trace(HEAD, choice, [40, n_prompt], n_slots as u64), model.store(n_slots));
            trace.batches.iter().for_each(|batch| run(&model, &store, batch));
            let (stats, expected) = (store.stats(), Replay::new(&trace).run("ours", n_slots));
            let (decode, prefill) = (expected.decode, expected.prefill);
            let (n_chosen, n_misses) = (decode.n_chosen + prefill.n_chosen, decode.n_misses + prefill.n_misses);
            assert_eq!((stats.n_hits, stats.n_misses), (n_chosen - n_misses, n_misses), "{choice:?}, {n_slots} slots");
            assert_eq!(stats.read_bytes, n_misses * EXPERT_BYTES);
        }
    }
}

/// Hit rates of tokens: before a prompt that chooses everything, of the first two after it, and of these if always the
/// least recently used expert went.
fn around_a_scan(n_slots: usize, seed: u64) -> [f64; 3] {
    let head = Head { n_layer: 16, n_expert: 16, n_used: 3, expert_bytes: EXPERT_BYTES };
    let model = Model::new(head.n_layer, head.n_expert);
    let mut trace = trace(head, Choice::Zipf(1.5), [66, 0], seed);
    let choices: Vec<i32> = (0..64 * head.n_used).map(|i| (i % head.n_expert) as i32).collect();
    let layer = |layer| Layer { layer, n_rows: 64, choices: choices.clone() };
    trace.batches.insert(64, Batch { layers: (0..head.n_layer).map(layer).collect() });
    let store = model.store(n_slots);
    let rate = |batches: Range<usize>| {
        let before = store.stats();
        trace.batches[batches].iter().for_each(|batch| run(&model, &store, batch));
        (store.stats() - before).hit_rate()
    };
    let [_, before, _, after] = [0..48, 48..64, 64..65, 65..67].map(rate);
    let decoded = |n: usize| {
        let trace = Trace { head, batches: trace.batches[..n].to_vec() };
        Replay::new(&trace).run("lru", n_slots).decode
    };
    let (until, all) = (decoded(65), decoded(67));
    [before, after, 1.0 - (all.n_misses - until.n_misses) as f64 / (all.n_chosen - until.n_chosen) as f64]
}

#[test]
fn a_prompt_leaves_what_decoding_lives_on() {
    for seed in 0..3 {
        let [before, after, lru] = around_a_scan(64, seed);
        assert!(after > 0.75 * before && lru < 0.5 * before, "{before:.2} before, {after:.2} after, {lru:.2} by LRU");
    }
}

/// A store that may grow from so many slots to 24, by three at a time, after tokens that wait for reads.
fn grown(n_slots: usize, is_free: fn(u64) -> bool) -> (Model, Store) {
    let model = model();
    let store = Store::new(model.places.clone(), Room { n_slots, n_slots_max: 24, is_free }).expect("memory");
    for token in 0..40 {
        (0..N_LAYER).for_each(|layer| check(&model, &store, layer, &[token % N_EXPERT as i32], true));
    }
    (model, store)
}

#[test]
fn an_arena_grows_while_tokens_wait_for_reads() {
    // One step: whether another pays would depend on what else the machine does.
    let (model, store) = grown(21, |_| true);
    assert!(comes_true(|| store.n_slots() == 24), "{} slots", store.n_slots());
    assert!(has_all_slots(&model, &store));
}

#[test]
fn an_arena_does_not_grow_where_memory_is_short() {
    static ASKED_BYTES: AtomicU64 = AtomicU64::new(0);
    let (model, store) = grown(15, |bytes| {
        ASKED_BYTES.fetch_add(bytes, Ordering::Relaxed);
        false
    });
    assert!(comes_true(|| ASKED_BYTES.load(Ordering::Relaxed) > 0));
    assert_eq!(ASKED_BYTES.load(Ordering::Relaxed), 3 * model.places.slot_bytes() as u64, "it is not asked again");
    assert!(store.n_slots() == 15 && has_all_slots(&model, &store));
}

fn script(trace: &Trace, n_right: Option<u8>) -> Option<Arc<Script>> {
    Some(Arc::new(Script::new(trace.clone(), n_right).expect("all layers choose")))
}

/// Room for what rows choose; what their router wrote there.
fn chosen(n_rows: usize) -> Tensor {
    Reference.alloc(Kind::I32, &[n_rows, N_USED]).expect("memory")
}

#[test]
fn a_script_chooses_in_the_place_of_routers_and_is_written_down() {
    let (model, trace) = (model(), trace(HEAD, Choice::Zipf(1.0), [20, 5], 1));
    let mut file = tempfile::tempfile().expect("a file");
    let writer = Writer::create(file.try_clone().expect("the same"), HEAD).expect("written");
    let writer = Arc::new(Mutex::new(Some(writer)));
    let store = Some(Arc::new(model.store(9)));
    let routing = Routing { store, trace: Some(writer.clone()), script: script(&trace, None), never_guesses: false };
    for l in trace.batches.iter().flat_map(|batch| &batch.layers) {
        let chosen = chosen(l.n_rows);
        let ask = routing.meet(&Reference, l.layer, &chosen).expect("host memory").expect("there is a store");
        assert_eq!(i32s(&Reference, &chosen), l.choices);
        let expected: BTreeSet<usize> = l.choices.iter().map(|&e| e as usize).collect();
        assert!(model.each(l.layer, ask).0.into_iter().eq(expected));
    }
    let writer = writer.lock().expect("nobody panicked").take().expect("it is there");
    writer.finish().expect("written");
    file.rewind().expect("a file");
    assert_eq!(Trace::read(BufReader::new(file)).expect("a trace"), trace);
}

#[test]
fn what_a_script_will_choose_can_be_read_before() {
    let trace = trace(HEAD, Choice::Uniform, [3, 0], 1);
    for (foresight, n_right) in [(Foresight::Certain, None), (Foresight::Guess, Some(100))] {
        let store = Arc::new(model().store(2 * N_USED));
        let routing =
            Routing { store: Some(store.clone()), trace: None, script: script(&trace, n_right), never_guesses: false };
        assert!(routing.looks_ahead(1, foresight) && !routing.looks_ahead(2, foresight));
        assert_eq!(routing.looks_ahead(1, Foresight::Guess), n_right.is_some());
        let chosen = chosen(1);
        (0..2).for_each(|_| routing.foresee(&Reference, 1, &chosen, foresight).expect("host memory"));
        assert_eq!(i32s(&Reference, &chosen), [0; N_USED], "nothing is chosen yet");
        assert!(comes_true(|| store.stats().read_bytes == N_USED as u64 * EXPERT_BYTES));
        routing.meet(&Reference, 1, &chosen).expect("host memory");
        assert_eq!(i32s(&Reference, &chosen), trace.batches[0].layers[1].choices, "the first row is still the next");
        assert_eq!(store.stats().read_bytes, N_USED as u64 * EXPERT_BYTES, "nothing was missing");
    }
}
