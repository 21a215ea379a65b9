//! Two agents at one session in turn, each sending its whole conversation every time, as clients do: what is computed and
//! written for that.
//!
//! `MODEL=FILE cargo test --release -p engine --test agents -- --ignored --nocapture` does it with a model of yours.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use compute::Meter;
use engine::{Engine, Kept, Options};
use experts::Routing;
use gguf::Gguf;
use models::{CachePart, KvType, Residency, StateOptions};

/// What an agent's conversation is like, in tokens.
#[derive(Clone, Copy)]
struct Script {
    n_turns: usize,
    /// Its instructions and tools, which both agents have in common.
    n_system: usize,
    /// A question or a tool's result, from and to.
    n_asked: (usize, usize),
    n_answered: (usize, usize),
    n_vocab: u32,
}

impl Script {
    /// Tokens that the conversations of two agents have in the end.
    fn n_ctx(&self) -> usize {
        self.n_system + self.n_turns * (self.n_asked.1 + self.n_answered.1) + 1
    }

    /// The turns of agent `a`: what is asked, and what is answered.
    fn turns(&self, a: u32) -> Vec<(Vec<u32>, Vec<u32>)> {
        let mut random = 12345 + 977 * a;
        let mut next = move || {
            // Numerical Recipes' generator: any will do.
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random >> 8
        };
        let mut tokens = |(low, high): (usize, usize)| {
            let n = low + next() as usize % (high - low + 1);
            (0..n).map(|_| next() % self.n_vocab).collect::<Vec<u32>>()
        };
        (0..self.n_turns).map(|_| (tokens(self.n_asked), tokens(self.n_answered))).collect()
    }
}

/// What two agents cost.
#[derive(Debug)]
struct Cost {
    /// Tokens that were asked, and so had to be computed once.
    n_new: usize,
    /// Tokens that were computed before an answer began.
    n_prefilled: usize,
    /// The longest that an agent waited for the first token of an answer, but for its first.
    wait_seconds: f64,
    written_bytes: u64,
    /// What the two conversations' memory takes in the end, each in one piece.
    state_bytes: u64,
}

fn run(model: &Path, script: Script, dir: &Path) -> Cost {
    let (ram_bytes, disk_bytes, written_bytes_per_day) = (256 << 20, 4 << 30, 1 << 40);
    let kept = Kept { dir: Some(dir.into()), ram_bytes, disk_bytes, written_bytes_per_day };
    let options = Options { kept: Some(kept), warn: |line| panic!("{line}"), ..Options::new(model) };
    let engine = Engine::open(&options).unwrap_or_else(|e| panic!("{e}"));
    let mut session = engine.session(script.n_ctx()).unwrap_or_else(|e| panic!("{e}"));
    let system: Vec<u32> = (0..script.n_system as u32).map(|i| (i * 7 + 3) % script.n_vocab).collect();
    let scripts = [0, 1].map(|a| script.turns(a));
    let mut said = [system.clone(), system];
    let mut cost = Cost { n_new: script.n_system, n_prefilled: 0, wait_seconds: 0.0, written_bytes: 0, state_bytes: 0 };
    for turn in 0..script.n_turns {
        for (said, turns) in said.iter_mut().zip(&scripts) {
            let (asked, answered) = &turns[turn];
            said.extend(asked);
            let began = Instant::now();
            cost.n_prefilled += session.sync(said).unwrap_or_else(|e| panic!("{e}")).computed;
            cost.n_new += asked.len();
            if turn > 0 {
                cost.wait_seconds = cost.wait_seconds.max(began.elapsed().as_secs_f64());
            }
            for &id in answered {
                session.push(id).unwrap_or_else(|e| panic!("{e}"));
                said.push(id);
            }
        }
    }
    let n_tokens: usize = said.iter().map(Vec::len).sum();
    drop(session);
    engine.flush();
    cost.written_bytes = engine.kept_stats().expect("there is a store").written_bytes;
    cost.state_bytes = said.iter().map(|said| state_bytes(model, said.len())).sum();
    println!("{n_tokens} tokens: {cost:?}");
    cost
}

/// What the memory of `n` tokens takes when it is kept once, its logits included.
fn state_bytes(path: &Path, n: usize) -> u64 {
    let meter = Meter::default();
    let gguf = Gguf::open(path).unwrap_or_else(|e| panic!("{e}"));
    let model = models::open(&gguf, &meter, Residency::All).unwrap_or_else(|e| panic!("{e}"));
    let options = StateOptions { n_ctx: n, n_slot: 1, n_batch: 512.min(n), kv: KvType::Native };
    let state = model.state(&meter, &options, &Routing::default()).unwrap_or_else(|e| panic!("{e}"));
    let parts = [state.rows(0, 0..n), state.frontier(0, n)].concat();
    (parts.iter().map(CachePart::n_bytes).sum::<usize>() + model.shape().n_vocab * size_of::<f32>()) as u64
}

fn check(cost: &Cost) {
    assert!(cost.n_prefilled as f64 <= 1.05 * cost.n_new as f64, "{cost:?}");
    assert!(cost.written_bytes as f64 <= 1.2 * cost.state_bytes as f64, "{cost:?}");
}

#[test]
fn agents_in_turn_cost_what_they_say_once() {
    for model in ["llama/micro.gguf", "qwen2/micro.gguf", "deepseek_v4/micro-flash.gguf"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(model);
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let script = Script { n_turns: 40, n_system: 300, n_asked: (5, 60), n_answered: (5, 40), n_vocab: 300 };
        check(&run(&path, script, folder.path()));
    }
}

#[test]
#[ignore = "takes a model, and minutes"]
fn agents_in_turn_with_a_model_of_yours() {
    let model = std::env::var("MODEL").expect("MODEL names a file");
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let script = Script { n_turns: 40, n_system: 2000, n_asked: (20, 200), n_answered: (10, 60), n_vocab: 32000 };
    check(&run(Path::new(&model), script, folder.path()));
}
