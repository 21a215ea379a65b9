//! Sessions that go on from what was kept, and side by side: nobody can tell from their logits.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use engine::{Engine, Kept, Options, Seats, Session};
use models::Part;

const MODELS: [&str; 3] = ["llama/micro.gguf", "qwen2/micro.gguf", "deepseek_v4/micro-flash.gguf"];

fn kept(dir: Option<&Path>) -> Kept {
    let (ram_bytes, disk_bytes, written_bytes_per_day) = (64 << 20, 64 << 20, 1 << 40);
    Kept { dir: dir.map(Path::to_owned), ram_bytes, disk_bytes, written_bytes_per_day }
}

fn open(model: &str, kept: Option<Kept>) -> Engine {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(model);
    let options = Options { threads: Some(2), n_batch: 64, kept, warn: |line| panic!("{line}"), ..Options::new(path) };
    Engine::open(&options).unwrap_or_else(|e| panic!("{model}: {e}"))
}

fn session(engine: &Engine) -> Session {
    engine.session(1024).unwrap_or_else(|e| panic!("{e}"))
}

/// Token `i` of conversation `c`.
fn id(c: u32, i: usize) -> u32 {
    (c * 131 + i as u32 * 17 + i as u32 / 7 + 5) % 300
}

fn ids(c: u32, n: usize) -> Vec<u32> {
    (0..n).map(|i| id(c, i)).collect()
}

/// The logits after each of `n` tokens of conversation `c`.
fn all_logits(engine: &Engine, c: u32, n: usize) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    let mut each = |logits: &[f32]| {
        all.push(logits.to_vec());
        ControlFlow::Continue(())
    };
    session(engine).score(&ids(c, n), 64, &mut each).unwrap_or_else(|e| panic!("{e}"));
    all
}

/// Makes a session hold the first `n` tokens of conversation 0: how many of them were there already.
fn sync(session: &mut Session, expected: &[Vec<f32>], n: usize) -> usize {
    let done = session.sync(&ids(0, n)).unwrap_or_else(|e| panic!("{e}"));
    assert!(session.logits() == expected[n - 1], "{n} tokens, of which {} were there", done.reused);
    done.reused
}

#[test]
fn what_another_session_left_is_gone_on_from() {
    for model in MODELS {
        let engine = open(model, Some(kept(None)));
        let expected = all_logits(&open(model, None), 0, 700);
        for n in [1, 2, 31, 128, 255, 256, 257, 300, 511, 512, 600] {
            let mut first = session(&engine);
            sync(&mut first, &expected, n);
            drop(first);
            let mut second = session(&engine);
            second.sync(&ids(1, 40)).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(sync(&mut second, &expected, n), n, "{model}: its logits were kept");
            for (i, logits) in expected.iter().enumerate().skip(n).take(3) {
                second.push(id(0, i)).unwrap_or_else(|e| panic!("{e}"));
                assert!(second.logits() == logits, "{model}: {n} tokens kept, token {i}");
            }
            assert!(sync(&mut second, &expected, n + 50) >= n + 3);
        }
    }
}

#[test]
fn two_conversations_in_one_session_compute_no_token_twice() {
    for model in MODELS {
        let engine = open(model, Some(kept(None)));
        let expected = all_logits(&open(model, None), 0, 900);
        let mut one = session(&engine);
        let mut n_before = 0;
        for n in (20..900).step_by(97) {
            assert_eq!(sync(&mut one, &expected, n - 5), n_before, "{model}: {n} tokens");
            for i in n - 5..n {
                one.push(id(0, i)).unwrap_or_else(|e| panic!("{e}")); // its answer
            }
            one.sync(&ids(1, n)).unwrap_or_else(|e| panic!("{e}"));
            n_before = n;
        }
    }
}

#[test]
fn another_run_of_the_program_goes_on() {
    for model in MODELS {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let expected = all_logits(&open(model, None), 0, 700);
        let mut n_before = 0;
        for n in [300, 301, 512, 690] {
            let engine = open(model, Some(kept(Some(folder.path()))));
            assert_eq!(sync(&mut session(&engine), &expected, n), n_before, "{model}: {n} tokens");
            n_before = n;
        }
    }
}

#[test]
fn a_long_prompt_that_another_run_asks_again_is_computed_once() {
    // Longer where more than rows is kept behind it.
    for (model, n) in MODELS.into_iter().zip([900, 900, 3900]) {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let run = || {
            let engine = open(model, Some(kept(Some(folder.path()))));
            let mut session = engine.session(4096).unwrap_or_else(|e| panic!("{e}"));
            let synced = session.sync(&ids(0, n)).unwrap_or_else(|e| panic!("{e}"));
            let logits = session.logits().to_vec();
            for i in n..n + 4 {
                session.push(id(0, i)).unwrap_or_else(|e| panic!("{e}"));
            }
            (synced.computed, logits)
        };
        let (computed, logits) = run();
        assert_eq!(computed, n, "{model}");
        assert!(run() == (0, logits), "{model}");
    }
}

#[test]
fn a_short_prompt_that_was_asked_again_is_known_in_another_run() {
    // Others than DeepSeek V4 compute a part of a block.
    let model = "deepseek_v4/micro-flash.gguf";
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let n_computed = |n_times: u32| {
        let engine = open(model, Some(kept(Some(folder.path()))));
        let mut session = session(&engine);
        let ask = |i: u32| {
            let synced = session.sync(&ids(0, 700)).unwrap_or_else(|e| panic!("{e}"));
            session.push(id(i, 700)).unwrap_or_else(|e| panic!("{e}")); // the answer
            synced.computed
        };
        (0..n_times).map(ask).collect::<Vec<_>>()
    };
    assert_eq!(n_computed(2), [700, 0]);
    assert_eq!(n_computed(1), [0]);
}

#[test]
fn sessions_side_by_side_answer_as_if_alone() {
    for model in MODELS {
        let engine = open(model, None);
        let alone: Vec<Vec<Vec<f32>>> = (0..4).map(|c| run(&mut session(&engine), c)).collect();
        // Whether such small models meet is up to the system's scheduler, too.
        let met = (0..10).any(|_| batches_of_four(model, &alone) < 70);
        assert!(met, "{model}: four sessions never decoded together");
    }
}

/// Runs four sessions at once, whose answers have to be these, of 20 tokens each. Returns in how many batches.
fn batches_of_four(model: &str, alone: &[Vec<Vec<f32>>]) -> u64 {
    let sessions = open(model, None).sessions(4, 128).unwrap_or_else(|e| panic!("{e}"));
    let load = std::thread::scope(|scope| {
        let start = |(c, mut session): (usize, Session)| {
            scope.spawn(move || {
                let logits = run(&mut session, c as u32);
                (logits, session.load())
            })
        };
        let running: Vec<_> = sessions.into_iter().enumerate().map(start).collect();
        let ended = running.into_iter().map(|r| r.join().expect("it ends"));
        let (logits, loads): (Vec<_>, Vec<_>) = ended.unzip();
        assert!(logits == alone, "{model}");
        loads.into_iter().max_by_key(|load| load.n_decoded).expect("there are four")
    });
    assert_eq!(load.n_decoded, 4 * 20);
    load.n_batches
}

/// The logits after a prompt of conversation `c` and after each token that follows it.
fn run(session: &mut Session, c: u32) -> Vec<Vec<f32>> {
    let n = 20 + 25 * c as usize;
    session.sync(&ids(c, n)).unwrap_or_else(|e| panic!("{e}"));
    let mut all = vec![session.logits().to_vec()];
    for i in n..n + 20 {
        session.push(id(c, i)).unwrap_or_else(|e| panic!("{e}"));
        all.push(session.logits().to_vec());
    }
    all
}

#[test]
fn prompts_give_way_to_those_who_decode() {
    for model in MODELS {
        let engine = open(model, None);
        let mut sessions = engine.sessions(2, 1024).unwrap_or_else(|e| panic!("{e}"));
        let (mut reads, mut decodes) = (sessions.remove(0), sessions.remove(0));
        let alone: Vec<f32> = logits_after(&engine, 0, 1000);
        decodes.sync(&ids(1, 5)).unwrap_or_else(|e| panic!("{e}"));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let counts = scope.spawn(|| {
                let mut n = 0;
                while !done.load(Ordering::Relaxed) && n < 500 {
                    decodes.push(id(1, 5 + n)).unwrap_or_else(|e| panic!("{e}"));
                    n += 1;
                }
                n
            });
            // At least one token is decoded before the prompt begins.
            while reads.load().n_decoded == 0 {
                std::thread::yield_now();
            }
            reads.sync(&ids(0, 1000)).unwrap_or_else(|e| panic!("{e}"));
            done.store(true, Ordering::Relaxed);
            let n = counts.join().expect("it ends");
            assert!(n >= 1000 / 64, "{model}: {n} tokens in at least 16 chunks");
        });
        assert!(reads.logits() == alone, "{model}");
    }
}

fn logits_after(engine: &Engine, c: u32, n: usize) -> Vec<f32> {
    let mut session = session(engine);
    session.sync(&ids(c, n)).unwrap_or_else(|e| panic!("{e}"));
    session.logits().to_vec()
}

#[test]
fn who_stops_reading_a_prompt_goes_on_where_it_was() {
    for model in MODELS {
        let engine = open(model, Some(kept(None)));
        let expected = logits_after(&open(model, None), 0, 900);
        let mut first = session(&engine);
        let mut stop = |prefill: engine::Prefill| match prefill.done > 600 {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let stopped = first.sync_with(&ids(0, 900), &mut stop).unwrap_or_else(|e| panic!("{e}"));
        assert!(!stopped.complete && stopped.computed >= 512, "{stopped:?}");
        drop(first);
        let mut second = session(&engine);
        let done = second.sync(&ids(0, 900)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(done.reused, stopped.computed, "{model}");
        assert!(second.logits() == expected, "{model}");
    }
}

#[test]
fn seats_are_taken_in_the_order_of_coming_by_who_knows_most() {
    let engine = open(MODELS[0], None);
    let seats = Seats::new(engine.sessions(2, 64).unwrap_or_else(|e| panic!("{e}")));
    let take = |c: u32| seats.take(&ids(c, 8), &|| false).expect("nobody gives up");
    let (mut first, mut second) = (take(1), take(2));
    first.sync(&ids(1, 6)).and_then(|_| second.sync(&ids(2, 6))).unwrap_or_else(|e| panic!("{e}"));
    let order = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for c in [2, 3, 1] {
            let n = seats.n_waiting();
            scope.spawn({
                let (order, take) = (&order, &take);
                move || {
                    let seat = take(c);
                    order.lock().expect("nobody panics").push((c, seat.tokens().to_vec()));
                    drop(seat);
                }
            });
            while seats.n_waiting() == n {
                std::thread::yield_now();
            }
        }
        drop(first);
        while order.lock().expect("nobody panics").len() < 3 {
            std::thread::yield_now();
        }
    });
    let order = order.into_inner().expect("nobody panics");
    assert_eq!(order.iter().map(|o| o.0).collect::<Vec<_>>(), [2, 3, 1]);
    drop(second);
    assert_eq!(take(2).tokens(), ids(2, 6), "it knows most of it");
    assert!(seats.take(&[], &|| true).is_none(), "given up");
}

#[test]
fn a_conversation_that_comes_back_as_text_is_known_by_its_tokens() {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let marker = |text: &str| Part::Marker(text.into());
    let turn = |c: char, n: usize| {
        let text: String = (0..n).flat_map(|i| [c, 't', 'h', 'e', if i % 3 == 0 { '\n' } else { ' ' }]).collect();
        [marker("<|im_start|>"), Part::Text(text), marker("<|im_end|>")]
    };
    let said = [turn('u', 40), turn('a', 90)].concat();
    let all = [said.clone(), turn('q', 9).to_vec()].concat();
    let engine = open("qwen2/micro.gguf", Some(kept(Some(folder.path()))));
    let encode = |parts: &[Part]| engine.encode(parts).unwrap_or_else(|e| panic!("{e}"));
    // As a model may have sampled it: every character by itself.
    let by_itself = |part: &Part| match part {
        Part::Marker(_) => encode(std::slice::from_ref(part)),
        Part::Text(text) => text.chars().flat_map(|c| encode(&[Part::Text(c.into())])).collect(),
    };
    let sampled: Vec<u32> = said.iter().flat_map(by_itself).collect();
    assert!(sampled.len() > 512 && encode(&said).len() < 512);
    session(&engine).sync(&sampled).unwrap_or_else(|e| panic!("{e}"));
    let expected = [sampled.clone(), encode(&turn('q', 9))].concat();
    let after = |engine: &Engine, known: &[u32]| engine.encode_after(known, &all).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(after(&engine, &[]), expected, "it was kept");
    let again = open("qwen2/micro.gguf", None);
    assert_eq!(after(&again, &sampled), expected, "a session has it");
    assert_eq!(after(&again, &[]), again.encode(&all).unwrap_or_else(|e| panic!("{e}")));
    drop(engine);
    let again = open("qwen2/micro.gguf", Some(kept(Some(folder.path()))));
    assert_eq!(after(&again, &[]), expected, "another run kept it");
    let done = session(&again).sync(&expected).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(done.reused, sampled.len());
}

/// A generator of numbers: a stream per seed.
struct Random(u64);

impl Random {
    /// A number below `n`.
    fn below(&mut self, n: usize) -> usize {
        // Knuth's constants (MMIX).
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// A file of the folder, if there is one, with a byte flipped or its end cut off.
fn break_one(dir: &Path, random: &mut Random) {
    let pieces = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|file| file.path());
    let mut pieces: Vec<PathBuf> = pieces.filter(|path| path.extension().is_some_and(|e| e == "kv")).collect();
    pieces.sort();
    if pieces.is_empty() {
        return;
    }
    let path = &pieces[random.below(pieces.len())];
    let mut bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{e}"));
    let at = random.below(bytes.len());
    match random.below(2) {
        0 => bytes[at] ^= 1 << random.below(8),
        _ => bytes.truncate(at),
    }
    std::fs::write(path, bytes).unwrap_or_else(|e| panic!("{e}"));
}

/// Does whatever one can do with two conversations in two sessions, and compares the logits with those of an uninterrupted
/// one.
fn live(model: &str, expected: &[Vec<Vec<f32>>; 2], seed: u64) {
    let random = &mut Random(seed);
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let size = |random: &mut Random| [40 << 10, 400 << 10, 64 << 20][random.below(3)];
    let kept = Kept {
        dir: (random.below(3) > 0).then(|| folder.path().to_owned()),
        ram_bytes: size(random),
        disk_bytes: size(random),
        written_bytes_per_day: [size(random), 1 << 40][random.below(2)],
    };
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(model);
    let open = |random: &mut Random| {
        let n_batch = [7, 32, 300][random.below(3)];
        let options = Options { threads: Some(1), n_batch, kept: Some(kept.clone()), ..Options::new(&path) };
        let engine = Engine::open(&options).unwrap_or_else(|e| panic!("{e}"));
        let sessions = engine.sessions(2, 700).unwrap_or_else(|e| panic!("{e}"));
        (engine, sessions)
    };
    let (mut engine, mut sessions) = open(random);
    let mut said = [0, 1];
    for step in 0..24 {
        let (s, c) = (random.below(2), random.below(2));
        let session = &mut sessions[s];
        match random.below(10) {
            0 => {
                sessions.clear();
                drop(engine);
                break_one(folder.path(), random);
                (engine, sessions) = open(random);
                continue;
            }
            1 => break_one(folder.path(), random),
            2 if !session.tokens().is_empty() => {
                let n_keep = random.below(session.tokens().len()) + 1;
                session.rewind(n_keep).unwrap_or_else(|e| panic!("{e}"));
            }
            3 => {
                let n_stop = random.below(500);
                let mut stop = |prefill: engine::Prefill| match prefill.done > n_stop {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                };
                said[s] = c as u32;
                session.sync_with(&ids(c as u32, 640), &mut stop).unwrap_or_else(|e| panic!("{e}"));
            }
            4..7 if !session.tokens().is_empty() => {
                for i in session.tokens().len()..(session.tokens().len() + random.below(40)).min(690) {
                    session.push(id(said[s], i)).unwrap_or_else(|e| panic!("{e}"));
                }
            }
            _ => {
                let n = random.below(640) + 1;
                said[s] = c as u32;
                session.sync(&ids(c as u32, n)).unwrap_or_else(|e| panic!("{e}"));
            }
        }
        let (c, n) = (said[s], session.tokens().len());
        assert_eq!(session.tokens(), ids(c, n), "{model}, seed {seed}, step {step}");
        if !session.logits().is_empty() {
            assert!(session.logits() == expected[c as usize][n - 1], "{model}, seed {seed}, step {step}: {n} tokens");
        }
    }
}

#[test]
fn whatever_happens_logits_are_those_of_an_uninterrupted_session() {
    for model in MODELS {
        let engine = open(model, None);
        let expected = [0, 1].map(|c| all_logits(&engine, c, 700));
        (0..3).for_each(|seed| live(model, &expected, seed));
    }
}
