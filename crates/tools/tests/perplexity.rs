//! Texts scored by the golden models: what is scored is what was meant, and nothing but the model and the text changes it.

use std::{
    fs::File,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use engine::{Budget, Engine, Experts, Options};
use tokenizer::Special;
use tools::perplexity::{Error, Figures, Files, Head, Mismatch, Passages, Position, Reader, Writer, score};

/// One without a BOS, and one with.
const MODELS: [&str; 2] = ["llama/micro", "deepseek_v4/micro-flash"];

fn engine(name: &str, threads: usize, n_batch: usize) -> Engine {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(format!("{name}.gguf"));
    Engine::open(&Options { threads: Some(threads), n_batch, ..Options::new(path) }).unwrap()
}

fn text() -> String {
    (0..80).map(|i| format!("{} the {}, größer than {}.\n", i * i, i % 7, i * 31 % 17)).collect()
}

fn passages(engine: &Engine, n_ctx: usize, n_chunks: usize) -> Passages {
    let passages = Passages::new(engine.tokenizer().unwrap(), &text(), n_ctx, Some(n_chunks)).unwrap();
    assert_eq!(passages.n_chunks(), n_chunks);
    passages
}

fn run(engine: &Engine, passages: &Passages, files: Files<File>) -> Result<Vec<Position>, Error> {
    let mut positions = Vec::new();
    score(&mut engine.session(passages.n_ctx())?, passages, files, &mut |position| {
        positions.push(position);
        ControlFlow::Continue(())
    })?;
    assert_eq!(positions.len(), passages.n_scored());
    Ok(positions)
}

fn alone(engine: &Engine, passages: &Passages) -> Vec<Position> {
    run(engine, passages, Files { base: None, save: None }).unwrap()
}

fn save(engine: &Engine, passages: &Passages, folder: &Path) -> PathBuf {
    let path = folder.join("base");
    let head = passages.head(&engine.info().name, engine.info().n_vocab);
    let mut writer = Writer::create(File::create(&path).unwrap(), &head).unwrap();
    run(engine, passages, Files { base: None, save: Some(&mut writer) }).unwrap();
    assert_eq!(path.metadata().unwrap().len(), head.file_bytes());
    path
}

fn beside(engine: &Engine, passages: &Passages, base: &Path) -> Vec<Position> {
    let mut base = Reader::open(base).unwrap();
    passages.check(base.head(), engine.info().n_vocab).unwrap();
    run(engine, passages, Files { base: Some(&mut base), save: None }).unwrap()
}

#[test]
fn the_second_half_of_each_chunk_counts() {
    for name in MODELS {
        let engine = engine(name, 2, 512);
        let tokenizer = engine.tokenizer().unwrap();
        let mut tokens: Vec<u32> = tokenizer.bos().into_iter().collect();
        tokens.extend(tokenizer.encode(&text(), Special::Plain));
        let mut expected = Vec::new();
        for chunk in 0..3 {
            let mut ids = tokens[chunk * 33..][..33].to_vec();
            tokenizer.bos().iter().for_each(|&bos| ids[0] = bos);
            let mut place = 0;
            let mut each = |row: &[f32]| {
                if (16..=31).contains(&place) {
                    let sum: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
                    let id = tokens[chunk * 33 + place + 1];
                    expected.push((chunk * 33 + place + 1, id, sum.ln() - f64::from(row[id as usize])));
                }
                place += 1;
                ControlFlow::Continue(())
            };
            engine.session(33).unwrap().score(&ids, 33, &mut each).unwrap();
        }
        let found = alone(&engine, &passages(&engine, 33, 3));
        assert_eq!(found.len(), expected.len());
        for (found, (pos, id, nll)) in found.iter().zip(expected) {
            assert_eq!((found.pos, found.id), (pos, id), "{name}");
            assert!((found.nll - nll).abs() < 1e-5, "{name}, {pos}: {} for {nll}", found.nll);
        }
    }
}

#[test]
fn batches_and_threads_change_nothing() {
    for name in MODELS {
        let expected = engine(name, 1, 512);
        let expected = alone(&expected, &passages(&expected, 64, 3));
        for (threads, n_batch) in [(2, 512), (2, 7), (1, 32), (2, 1)] {
            let engine = engine(name, threads, n_batch);
            assert_eq!(alone(&engine, &passages(&engine, 64, 3)), expected, "{name}, {threads} threads, by {n_batch}");
        }
    }
}

#[test]
fn the_place_of_experts_changes_nothing() {
    let name = "deepseek_v4/micro-flash";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(format!("{name}.gguf"));
    let resident = engine(name, 2, 512);
    let expected = alone(&resident, &passages(&resident, 64, 2));
    for (n_slots, n_batch) in [(1, 512), (3, 7), (usize::MAX, 64)] {
        let experts = Experts::Streamed(Budget::Count(n_slots));
        let options = Options { experts, threads: Some(2), n_batch, ..Options::new(&path) };
        let streamed = Engine::open(&options).unwrap();
        assert_eq!(alone(&streamed, &passages(&streamed, 64, 2)), expected, "{n_slots} slots, by {n_batch}");
    }
}

#[test]
fn chunks_know_nothing_of_each_other() {
    for name in MODELS {
        let engine = engine(name, 2, 512);
        let (one, three) = (passages(&engine, 50, 1), passages(&engine, 50, 3));
        let all = alone(&engine, &three);
        assert_eq!(alone(&engine, &one), all[..24], "{name}");
        // A session that has seen something else.
        let mut session = engine.session(60).unwrap();
        session.sync(&[3; 60]).unwrap();
        let mut found = Vec::new();
        let mut keep = |position| {
            found.push(position);
            ControlFlow::Continue(())
        };
        score(&mut session, &three, Files::<File> { base: None, save: None }, &mut keep).unwrap();
        assert_eq!(found, all, "{name}");
    }
}

#[test]
fn a_model_is_where_its_own_base_is() {
    let folder = tempfile::tempdir().unwrap();
    for name in MODELS {
        let engine = engine(name, 2, 512);
        let three = passages(&engine, 64, 3);
        let base = save(&engine, &three, folder.path());
        let found = beside(&engine, &three, &base);
        for position in &found {
            let base = position.base.unwrap();
            assert_eq!((base.nll, base.rank), (f64::from(position.nll as f32), 1), "{name}");
            assert!((0.0..1e-7).contains(&base.divergence), "{name}: {}", base.divergence);
        }
        let figures = Figures::of(&found).unwrap();
        assert_eq!(figures.distance.unwrap().same_top.value, 1.0);
        // A part of the text is a text.
        let one = passages(&engine, 64, 1);
        assert_eq!(beside(&engine, &one, &base), found[..one.n_scored()]);
    }
}

#[test]
fn another_model_is_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = ["deepseek_v4/micro-flash", "deepseek_v4/micro-pro"].map(|name| engine(name, 2, 512));
    let passages = passages(&one, 64, 3);
    let base = save(&one, &passages, folder.path());
    let found = beside(&other, &passages, &base);
    let by_itself = alone(&other, &passages);
    assert!(found.iter().zip(&by_itself).all(|(a, b)| (a.pos, a.id, a.nll) == (b.pos, b.id, b.nll)));
    let distance = Figures::of(&found).unwrap().distance.unwrap();
    assert!(distance.divergence.value > 0.01, "{distance:?}");
    assert!(distance.same_top.value < 1.0, "{distance:?}");
}

#[test]
fn bases_of_something_else_are_refused_by_name() {
    let engine = engine("llama/micro", 1, 512);
    let (ours, n_vocab) = (passages(&engine, 64, 2), engine.info().n_vocab);
    let head = ours.head("", n_vocab);
    assert_eq!(ours.check(&head, n_vocab), Ok(()));
    let check = |head: Head, n_vocab, expected: Mismatch| assert_eq!(ours.check(&head, n_vocab), Err(expected));
    check(head.clone(), n_vocab + 1, Mismatch::Vocabulary { base: n_vocab, model: n_vocab + 1 });
    check(Head { n_ctx: 32, ..head.clone() }, n_vocab, Mismatch::Context { base: 32, asked: 64 });
    let one = Head { tokens: head.tokens[..64].to_vec(), ..head.clone() };
    check(one, n_vocab, Mismatch::Chunks { base: 1, asked: 2 });
    let mut text = head;
    let token = text.tokens[70];
    text.tokens[70] = 7;
    check(text, n_vocab, Mismatch::Text { at: 70, base: 7, ours: token });
}

#[test]
fn a_text_has_at_least_one_chunk() {
    let engine = engine("llama/micro", 1, 512);
    let tokenizer = engine.tokenizer().unwrap();
    let n_chunks = |text: &str| match Passages::new(tokenizer, text, 4, None) {
        Ok(passages) => Ok(passages.n_chunks()),
        Err(Error::TooShort { n_tokens, .. }) => Err(n_tokens),
        Err(e) => panic!("{e}"),
    };
    assert_eq!(n_chunks(""), Err(0));
    assert_eq!(n_chunks("\n"), Err(0), "a newline at the end is not read");
    assert_eq!(n_chunks("abc"), Err(3));
    assert_eq!(n_chunks("abcd\n"), Ok(1));
    assert_eq!(n_chunks("abcdefghi"), Ok(2));
}
