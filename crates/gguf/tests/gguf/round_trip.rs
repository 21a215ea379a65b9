//! What is written is what is read.

use std::fs;

use gguf::{Element, Gguf, Inside, Origin, Value, Writer};
use quant::Format;

/// A file with a key of every type, and tensors of several.
pub(crate) fn sample<'a>() -> Writer<'a> {
    let mut w = Writer::new();
    w.set("general.architecture", "test").set("u8", 1_u8).set("i8", -1_i8).set("u16", 2_u16).set("i16", -2_i16);
    w.set("u32", 3_u32).set("i32", -3_i32).set("f32", 0.5_f32).set("bool", true).set("u64", u64::MAX);
    w.set("i64", i64::MIN).set("f64", 0.25_f64).set("string", "größe\n").set("none", Vec::<u32>::new());
    w.set("u8s", vec![1_u8, 2]).set("i16s", vec![-1_i16, 2]).set("bools", vec![true, false]);
    w.set("f32s", vec![0.5_f32, -0.5]).set("u64s", vec![u64::MAX]).set("strings", vec!["", "a", "▁b"]);
    w.tensor("token_embd.weight", &[3, 64], Element::Packed(Format::Q8_0), pattern(3 * 68));
    w.tensor("norm", &[5], Element::Packed(Format::F32), pattern(20));
    w.tensor("table", &[1, 2, 3, 1], Element::I32, pattern(24));
    w
}

/// `n` bytes, all different from their neighbours.
pub(crate) fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + n) as u8).collect()
}

pub(crate) fn written(w: &Writer) -> Vec<u8> {
    let mut bytes = Vec::new();
    w.write_to(&mut bytes).unwrap();
    bytes
}

#[test]
fn keys_and_tensors_come_back() {
    for version in [2, 3] {
        let model = crate::open(&written(sample().version(version))).unwrap();
        assert_eq!((model.version(), model.n_parts()), (version, 1));
        let keys = model.metadata();
        assert_eq!(keys.len(), 20);
        assert_eq!(keys.get("i64"), Some(&Value::I64(i64::MIN)));
        assert_eq!(keys.str("string").unwrap(), "größe\n");
        assert_eq!(keys.strs("strings").unwrap(), ["", "a", "▁b"]);
        assert_eq!(keys.f32s("f32s").unwrap(), [0.5, -0.5]);
        assert_eq!(keys.u32s("none").unwrap(), []);
        let names: Vec<_> = model.tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["token_embd.weight", "norm", "table"]);
        let table = model.tensor("table").unwrap();
        assert_eq!((&*table.shape, table.element, table.n_elements()), (&[1, 2, 3, 1][..], Element::I32, 6));
        for t in model.tensors() {
            assert_eq!(model.bytes(t).as_ref(), pattern(t.n_bytes()));
        }
        assert!(model.tensor("absent").is_none());
    }
}

#[test]
fn all_keys_are_read_as_they_were_set() {
    let mut again = Writer::new();
    let model = crate::open(&written(&sample())).unwrap();
    for (key, value) in model.metadata().iter() {
        again.set(key, value.clone());
    }
    for t in model.tensors() {
        again.tensor(&t.name, &t.shape, t.element, model.bytes(t));
    }
    assert!(written(&again) == written(&sample()));
}

#[test]
fn bytes_outlive_the_model() {
    let model = crate::open(&written(&sample())).unwrap();
    let bytes = model.bytes(model.tensor("table").unwrap());
    drop(model);
    bytes.prefetch();
    assert_eq!(bytes.as_ref(), pattern(24));
    assert_eq!(bytes.slice(4..8).slice(1..2).as_ref(), &pattern(24)[5..6]);
}

#[test]
fn tensors_start_at_multiples_of_the_alignment() {
    let mut w = sample();
    w.set("general.alignment", 4096_u32);
    let model = crate::open(&written(&w)).unwrap();
    for t in model.tensors() {
        assert_eq!(model.place(t).1.start % 4096, 0);
        assert_eq!(model.bytes(t).as_ref(), pattern(t.n_bytes()));
    }
}

#[test]
fn a_file_appears_when_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    sample().write(&path).unwrap();
    assert_eq!(Gguf::open(&path).unwrap().file_bytes(), written(&sample()).len() as u64);

    let mut failing = sample();
    failing.tensor_with("late", &[4], Element::I8, |_| Err(std::io::Error::other("torn")));
    assert!(failing.write(&path).unwrap_err().to_string().ends_with("m.gguf: torn"));
    assert!(fs::read(&path).unwrap() == written(&sample()));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
#[should_panic(expected = "bytes of tensor `short`")]
fn data_of_the_wrong_length_is_our_mistake() {
    let mut w = Writer::new();
    w.tensor("short", &[4], Element::I32, vec![0; 15]);
    written(&w);
}

#[test]
fn another_file_under_the_same_name_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let [path, other] = ["a.gguf", "b.gguf"].map(|name| folder.path().join(name));
    for path in [&path, &other] {
        Writer::new().write(path).expect("written");
    }
    let model = Gguf::open(&path).expect("opened");
    assert!(model.is_there().is_ok());
    std::fs::rename(&other, &path).expect("renamed");
    assert!(matches!(model.is_there(), Err(gguf::Error::Changed { .. })));
}

#[test]
fn a_model_inside_the_program_is_what_its_file_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m.gguf");
    sample().write(&path).expect("written");
    let bytes = at_a_cache_line(&fs::read(&path).expect("a file"));
    let (file, inside) = (open(path.as_path()), open(Inside { name: "mine", bytes }));
    let keys = |model: &Gguf| Vec::from_iter(model.metadata().iter().map(|(key, value)| format!("{key} {value}")));
    assert_eq!(keys(&file), keys(&inside));
    for (a, b) in file.tensors().iter().zip(inside.tensors()) {
        assert_eq!((&a.name, &a.shape, a.element), (&b.name, &b.shape, b.element));
        let there = inside.bytes(b);
        there.prefetch();
        there.release();
        assert!(file.bytes(a).as_ref() == there.as_ref());
    }
    assert_eq!((file.tensors().len(), file.file_bytes()), (inside.tensors().len(), inside.file_bytes()));
    assert!(file.is_file() && !inside.is_file());
    assert_eq!((file.paths().count(), inside.paths().count(), inside.path().to_str()), (1, 0, Some("mine")));
    assert!(inside.is_there().is_ok());

    let cut = Inside { name: "mine", bytes: &bytes[..bytes.len() - 64] };
    let error = Gguf::open_from(&cut.into()).expect_err("bytes are missing").to_string();
    assert!(error.starts_with("mine: "), "{error}");
}

fn at_a_cache_line(bytes: &[u8]) -> &'static [u8] {
    let room = Vec::leak(vec![0; bytes.len() + 64]);
    let start = room.as_ptr().align_offset(64);
    room[start..start + bytes.len()].copy_from_slice(bytes);
    &room[start..start + bytes.len()]
}

fn open(origin: impl Into<Origin>) -> Gguf {
    Gguf::open_from(&origin.into()).unwrap_or_else(|e| panic!("{e}"))
}
