//! Models in several files.

use std::{fs, path::PathBuf};

use expect_test::{Expect, expect};
use gguf::{Element, Gguf, Writer};

use crate::message;

/// A model in three files, and what to do to their keys and names before they are written.
struct Split {
    parts: Vec<Writer<'static>>,
    names: Vec<String>,
}

fn split() -> Split {
    let part = |no: u16| {
        let mut w = Writer::new();
        w.set("general.architecture", "test").set("split.no", no).set("split.count", 3_u16);
        w.tensor(&format!("a{no}"), &[2], Element::I8, [no as u8, 1]);
        w.tensor(&format!("b{no}"), &[1], Element::I8, [no as u8]);
        w
    };
    let mut parts: Vec<_> = (0..3).map(part).collect();
    parts[0].set("split.tensors.count", 6_i32).set("general.name", "whole");
    Split { parts, names: (1..=3).map(|i| format!("m-{i:05}-of-00003.gguf")).collect() }
}

fn check(change: impl FnOnce(&mut Split), open: &str, expected: Expect) {
    let mut split = split();
    change(&mut split);
    let folder = tempfile::tempdir().unwrap();
    for (part, name) in split.parts.iter().zip(&split.names) {
        part.write(&folder.path().join(name)).unwrap();
    }
    let error = Gguf::open(&folder.path().join(open)).unwrap_err();
    expected.assert_eq(&format!("{}\n{}", message(&error, folder.path()), error.hint()));
}

const FIRST: &str = "m-00001-of-00003.gguf";

#[test]
fn the_first_part_opens_all() {
    let folder = tempfile::tempdir().unwrap();
    let split = split();
    let paths: Vec<PathBuf> = split.names.iter().map(|name| folder.path().join(name)).collect();
    split.parts.iter().zip(&paths).for_each(|(part, path)| part.write(path).unwrap());
    let model = Gguf::open(&paths[0]).unwrap();
    assert_eq!(model.n_parts(), 3);
    assert_eq!(model.path(), paths[0]);
    assert_eq!(model.metadata().str("general.name").unwrap(), "whole");
    assert_eq!(model.file_bytes(), paths.iter().map(|p| fs::metadata(p).unwrap().len()).sum::<u64>());
    let names: Vec<_> = model.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a0", "b0", "a1", "b1", "a2", "b2"]);
    for (i, t) in model.tensors().iter().enumerate() {
        assert_eq!(model.bytes(t).as_ref()[0] as usize, i / 2);
        assert_eq!(model.place(t).0, paths[i / 2]);
    }
}

#[test]
fn another_part_names_the_first() {
    check(
        |_| {},
        "m-00002-of-00003.gguf",
        expect![[r#"
            m-00002-of-00003.gguf: is part 2 of a model in 3 files; open the first, m-00001-of-00003.gguf
            the other parts are found by themselves; open m-00001-of-00003.gguf"#]],
    );
}

#[test]
fn names_must_be_those_of_parts() {
    check(
        |s| s.names[0] = "flash.gguf".into(),
        "flash.gguf",
        expect![[r#"
        flash.gguf: is part 1 of a model in 3 files, so its name must end in `-00001-of-00003.gguf`
        give the files the names that they were published with"#]],
    );
    check(
        |s| s.names[2] = "x.gguf".into(),
        FIRST,
        expect![[r#"
        m-00003-of-00003.gguf: part 3 of 3 is missing: no such file or directory
        download all parts into one folder"#]],
    );
}

#[test]
fn parts_must_belong_together() {
    check(
        |s| _ = s.parts[1].set("split.no", 2_u16),
        FIRST,
        expect![[r#"
        m-00002-of-00003.gguf: `split.no` is 2, but it should be 1 to fit m-00001-of-00003.gguf
        the parts belong to different models; download them again, into a folder of their own"#]],
    );
    check(
        |s| _ = s.parts[2].set("split.count", 4_u16),
        FIRST,
        expect![[r#"
        m-00003-of-00003.gguf: `split.count` is 4, but it should be 3 to fit m-00001-of-00003.gguf
        the parts belong to different models; download them again, into a folder of their own"#]],
    );
    check(
        |s| s.parts[2] = Writer::new(),
        FIRST,
        expect![[r#"
        m-00003-of-00003.gguf: `split.no` is absent, but it should be 2 to fit m-00001-of-00003.gguf
        the parts belong to different models; download them again, into a folder of their own"#]],
    );
    check(
        |s| _ = s.parts[1].set("general.architecture", "other"),
        FIRST,
        expect![[r#"
        m-00002-of-00003.gguf: `general.architecture` is "other", but it should be "test" to fit m-00001-of-00003.gguf
        the parts belong to different models; download them again, into a folder of their own"#]],
    );
    check(
        |s| _ = s.parts[0].set("split.tensors.count", 7_i32),
        FIRST,
        expect![[r#"
            m-00001-of-00003.gguf: `split.tensors.count` is 7, but the parts have 6 tensors together
            the parts belong to different models; download them again, into a folder of their own"#]],
    );
    check(
        |s| _ = s.parts[2].tensor("a0", &[1], Element::I8, [0]),
        FIRST,
        expect![[r#"
        m-00003-of-00003.gguf: tensor `a0` is in m-00001-of-00003.gguf too
        the parts belong to different models; download them again, into a folder of their own"#]],
    );
}

#[test]
fn places_and_numbers_must_be_possible() {
    check(
        |s| _ = s.parts[0].set("split.no", 3_u16),
        FIRST,
        expect![[r#"
            m-00001-of-00003.gguf: key `split.no` has the value 3; allowed: 0 to 2
            the file may be of another kind than expected, or converted wrongly"#]],
    );
    check(
        |s| _ = s.parts[0].set("split.count", u32::MAX),
        FIRST,
        expect![[r#"
            m-00001-of-00003.gguf: key `split.count` has the value 4294967295; allowed: 1 to 65535
            the file may be of another kind than expected, or converted wrongly"#]],
    );
    check(
        |s| _ = s.parts[0].set("split.count", "3"),
        FIRST,
        expect![[r#"
            m-00001-of-00003.gguf: key `split.count` is a string; expected an integer
            the file may be of another kind than expected, or converted wrongly"#]],
    );
}
