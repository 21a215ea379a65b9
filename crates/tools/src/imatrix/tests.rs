//! Both formats, read back, merged, broken, and looked up.

use std::{fs, path::PathBuf};

use expect_test::{Expect, expect};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn entry(sums: &[f32], counts: &[u64]) -> Entry {
    Entry::new(sums.into(), counts.into()).unwrap_or_else(|why| panic!("{why}"))
}

fn of(entries: &[(&str, Entry)]) -> Imatrix {
    let entries = entries.iter().map(|(name, entry)| ((*name).to_owned(), entry.clone())).collect();
    Imatrix { entries, datasets: vec!["some.txt".into()], chunk_count: 3, ..Imatrix::new(512) }
}

type Write = fn(&Imatrix, &mut dyn std::io::Write) -> std::io::Result<()>;
const FORMATS: [Write; 2] = [Imatrix::write_gguf, Imatrix::write_legacy];

fn bytes(imatrix: &Imatrix, write: Write) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(imatrix, &mut bytes).unwrap_or_else(|e| panic!("{e}"));
    bytes
}

/// Reads `bytes` from a file, which messages call `file`.
fn read(bytes: &[u8]) -> Result<Imatrix, String> {
    let folder = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let path = folder.path().join("file");
    fs::write(&path, bytes).unwrap_or_else(|e| panic!("{e}"));
    let folder = format!("{}/", folder.path().display());
    Imatrix::read(&path).map_err(|e| {
        assert!(!e.hint().is_empty());
        e.to_string().replace(&folder, "")
    })
}

fn again(imatrix: &Imatrix, write: Write) -> Imatrix {
    read(&bytes(imatrix, write)).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(bytes: &[u8], why: Expect) {
    why.assert_eq(&read(bytes).err().unwrap_or_else(|| "it was read".into()));
}

fn columns(imatrix: &Imatrix, name: &str, n_cols: usize, expert: [usize; 2]) -> Vec<f32> {
    let found = imatrix.importance(name, n_cols, expert).unwrap_or_else(|e| panic!("{e}"));
    found.map_or(Vec::new(), |found| found.columns)
}

/// Entries with some experts that were met, and others that were not.
fn entries() -> impl Strategy<Value = Entry> {
    let counts = prop::collection::vec(prop_oneof![1 => Just(0u64), 3 => 1u64..5000], 1..6);
    let counts = counts.prop_filter("one was met", |counts| counts.iter().any(|&count| count > 0));
    (counts, 1usize..5).prop_flat_map(|(counts, n_cols)| {
        let sums = prop::collection::vec(0f32..1e6, counts.len() * n_cols);
        sums.prop_map(move |mut sums| {
            sums.iter_mut().enumerate().filter(|(i, _)| counts[i / n_cols] == 0).for_each(|(_, sum)| *sum = 0.0);
            entry(&sums, &counts)
        })
    })
}

fn imatrices() -> impl Strategy<Value = Imatrix> {
    let names = prop::collection::btree_map("blk\\.[0-9]\\.[a-z_]{1,12}\\.weight", entries(), 1..5);
    let down = prop_oneof![Just(None), Just(Some(Rows::Weighted)), Just(Some(Rows::Alike))];
    (names, prop::collection::vec("[a-zß ]{0,9}", 0..3), 0u32..9999, 1u32..4096, down).prop_map(
        |(entries, datasets, chunk_count, chunk_size, down)| Imatrix {
            entries,
            datasets,
            chunk_count,
            chunk_size,
            down,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_gguf_gives_back_everything(imatrix in imatrices()) {
        prop_assert_eq!(again(&imatrix, Imatrix::write_gguf), imatrix);
    }

    #[test]
    fn a_legacy_file_gives_back_importance_and_then_itself(imatrix in imatrices()) {
        let back = again(&imatrix, Imatrix::write_legacy);
        for (name, entry) in &imatrix.entries {
            let n_cols = entry.sums().len() / entry.counts().len();
            let n = entry.counts().len();
            for e in 0..n {
                let [a, b] = [&imatrix, &back].map(|of| columns(of, name, n_cols, [e, n]));
                for (a, b) in a.into_iter().zip(b) {
                    prop_assert!((a - b).abs() <= a * 1e-6, "{name} {e}: {a} {b}");
                }
            }
        }
        prop_assert_eq!(bytes(&again(&back, Imatrix::write_legacy), Imatrix::write_legacy), bytes(&back, Imatrix::write_legacy));
    }

    #[test]
    fn a_file_that_was_cut_short_or_flipped_is_refused_or_read(imatrix in imatrices(), at: prop::sample::Index, bit in 0u8..8) {
        for write in FORMATS {
            let mut bytes = bytes(&imatrix, write);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let _ = read(&bytes); // it must come back; what a flipped bit of a sum says is not known
            let _ = read(&bytes[..at]);
        }
    }

    #[test]
    fn merging_adds_up_in_any_order(a in imatrices(), b in entries(), c in entries()) {
        let sums = |entry: &Entry, by: f32| entry.sums().iter().map(|x| x * by).collect::<Vec<_>>();
        let name = a.entries.keys().next().cloned().unwrap_or_default();
        let [once, twice] = [1.0, 2.0].map(|by| Imatrix {
            entries: [(name.clone(), Entry::new(sums(&a.entries[&name], by), a.entries[&name].counts().into()))]
                .into_iter().map(|(name, entry)| (name, entry.unwrap_or_else(|e| panic!("{e}")))).collect(),
            ..Imatrix::new(512)
        });
        let merged = |parts: [&Imatrix; 2]| {
            let mut all = Imatrix::new(512);
            parts.into_iter().for_each(|part| all.merge(part.clone()).unwrap_or_else(|e| panic!("{e}")));
            all
        };
        prop_assert_eq!(merged([&once, &twice]), merged([&twice, &once]));
        for (sum, one) in merged([&once, &twice]).entries[&name].sums().iter().zip(&*once.entries[&name].sums()) {
            prop_assert!((sum - 3.0 * one).abs() <= sum * 1e-6);
        }
        let lengths = |e: &Entry| (e.sums().len(), e.counts().len());
        if lengths(&b) != lengths(&c) && b.counts().len() > 1 && c.counts().len() > 1 {
            prop_assert!(of(&[("x", b)]).merge(of(&[("x", c)])).is_err());
        }
    }
}

#[test]
fn importance_is_the_mean_of_squares_and_one_where_nothing_was_counted() {
    let imatrix = of(&[("x", entry(&[2.0, 8.0, 0.0, 0.0, 9.0, 0.0], &[2, 0, 3])), ("y", entry(&[6.0, 3.0], &[3]))]);
    for write in FORMATS {
        let back = again(&imatrix, write);
        assert_eq!(columns(&back, "x", 2, [0, 3]), [1.0, 4.0]);
        assert_eq!(columns(&back, "x", 2, [2, 3]), [3.0, 0.0]);
        assert_eq!(columns(&back, "y", 2, [0, 1]), [2.0, 1.0]);
        assert_eq!(
            back.importance("x", 2, [1, 3]).ok().flatten(),
            Some(Importance { columns: vec![1.0; 2], count: 0 })
        );
        assert_eq!(back.importance("z", 2, [0, 1]).ok(), Some(None));
    }
}

#[test]
fn an_experts_own_entry_comes_first_and_one_for_all_last() {
    let imatrix = of(&[
        ("x.expert.1", entry(&[1.0, 1.0], &[1])),
        ("x.expert_2", entry(&[2.0, 2.0], &[1])),
        ("x", entry(&[3.0, 3.0], &[1])),
    ]);
    let found: Vec<_> = (0..3).map(|e| columns(&imatrix, "x", 2, [e, 3])).collect();
    assert_eq!(found, [[3.0, 3.0], [1.0, 1.0], [2.0, 2.0]]);
}

#[test]
fn another_models_entry_is_named() {
    let imatrix = of(&[("x", entry(&[1.0; 6], &[1, 2, 3])), ("x.expert.0", entry(&[1.0; 6], &[1]))]);
    let check = |n_cols, expert: [usize; 2], shown: Expect| match imatrix.importance("x", n_cols, expert) {
        Err(e) => shown.assert_eq(&e.to_string()),
        Ok(found) => panic!("{found:?}"),
    };
    check(4, [1, 3], expect!["entry `x` has 6 sums, but the tensor has 3 times 4 columns"]);
    check(3, [1, 3], expect!["entry `x` has 6 sums, but the tensor has 3 times 3 columns"]);
    check(2, [1, 2], expect!["entry `x` has 6 sums, but the tensor has 2 times 2 columns"]);
    check(2, [0, 3], expect!["entry `x.expert.0` has 6 sums, but the tensor has 3 times 2 columns"]);
    check(0, [1, 3], expect!["entry `x` has 6 sums, but the tensor has 3 times 0 columns"]);
    // Twice as wide, and for a model without experts.
    let wide = of(&[("x", entry(&[1.0; 4], &[1]))]);
    let refused = wide.importance("x", 2, [0, 1]).map_err(|e| e.to_string()).unwrap_err();
    assert_eq!(refused, "entry `x` has 4 sums, but the tensor has 1 times 2 columns");
}

#[test]
fn experts_that_a_legacy_file_does_not_tell_apart_take_its_count_but_those_that_no_row_met() {
    let legacy = again(&of(&[("x", entry(&[1024.0, 2048.0, 0.0, 0.0], &[512, 0]))]), Imatrix::write_legacy);
    assert_eq!(legacy.entries["x"].counts(), [512]);
    let more = of(&[("x", entry(&[10.0; 4], &[2, 5]))]);
    for [mut first, second] in [[legacy.clone(), more.clone()], [more, legacy]] {
        first.merge(second).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(first.entries["x"], entry(&[1034.0, 2058.0, 10.0, 10.0], &[514, 5]));
        assert_eq!((first.chunk_count, first.datasets.len()), (6, 2));
    }
}

#[test]
fn files_that_count_in_different_ways_do_not_go_together() {
    let with = |down| Imatrix { down, ..of(&[("x", entry(&[1.0], &[1]))]) };
    let merged = |a, b| with(a).merge(with(b)).map_err(|e| e.to_string());
    assert!(merged(Some(Rows::Alike), Some(Rows::Weighted)).is_err());
    let mut known = with(Some(Rows::Alike));
    known.merge(with(None)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(known.down, None, "who does not say how it counted leaves it open for both");
    let mut none = Imatrix::new(512);
    none.merge(with(Some(Rows::Alike))).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(none.down, Some(Rows::Alike));
}

#[test]
fn files_of_different_models_do_not_go_together() {
    let [a, b] = ["x", "y"].map(|name| of(&[(name, entry(&[1.0], &[1]))]));
    let mut all = a.clone();
    let refused = all.merge(b).map_err(|e| e.to_string());
    expect!["of one model there is `x`, of the other `y`, and no entry is of both"].assert_eq(&refused.unwrap_err());
    assert_eq!(all, a);
}

/// As llama.cpp counts them: the groups one after another, each of which met every row.
#[test]
fn groups_count_for_the_same_columns_whoever_kept_them_apart() {
    let name = "blk.0.attn_output_a.weight";
    let together = of(&[(name, entry(&[12.0, 30.0], &[6]))]);
    for (sums, counts) in [(entry(&[3.0, 10.0, 4.0, 10.0, 5.0, 10.0], &[2]), 2), (entry(&[12.0, 30.0], &[6]), 6)] {
        let apart = of(&[(name, sums)]);
        assert_eq!(
            apart.importance(name, 2, [0, 1]).unwrap(),
            together.importance(name, 2, [0, 1]).unwrap(),
            "{counts}"
        );
        for [mut a, b] in [[&apart, &together], [&together, &apart]].map(|pair| pair.map(Imatrix::clone)) {
            a.merge(b).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(a.entries[name], entry(&[24.0, 60.0], &[12]));
        }
    }
    // Some of its builds call a matrix that they cut by another name.
    let cut = of(&[("blk.0.attn_output_a.weight (reshaped)", entry(&[3.0, 10.0, 9.0, 20.0], &[3]))]);
    let cut = again(&cut, Imatrix::write_gguf);
    assert_eq!(columns(&cut, name, 2, [0, 1]), [2.0, 5.0]);
}

#[test]
fn sums_stay_in_their_file_which_has_to_stay_as_it_is() {
    let imatrix = of(&[("x", entry(&[1.0, 2.0, 3.0, 4.0], &[1, 2])), ("y", entry(&[1.0], &[1]))]);
    for write in FORMATS {
        let file = tempfile::NamedTempFile::new().unwrap_or_else(|e| panic!("{e}"));
        fs::write(file.path(), bytes(&imatrix, write)).unwrap_or_else(|e| panic!("{e}"));
        let read = Imatrix::read(file.path()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(columns(&read, "x", 2, [1, 2]), [1.5, 2.0]);
        let appended = fs::File::options().append(true).open(file.path());
        appended.and_then(|mut file| std::io::Write::write_all(&mut file, b"more")).unwrap_or_else(|e| panic!("{e}"));
        let refused = read.importance("x", 2, [1, 2]).map_err(|e| e.to_string()).unwrap_err();
        assert!(refused.contains("changed"), "{refused}");
    }
}

#[test]
fn experts_that_were_rarely_met_are_told() {
    let mut counts = vec![1000; 10];
    (counts[3], counts[5], counts[7]) = (0, 6, 2);
    let imatrix = of(&[("x", entry(&[0.0; 10], &counts)), ("y", entry(&[1.0], &[1]))]);
    let found: Vec<_> = imatrix.coverage().collect();
    let expected = Coverage { never: vec![3], rarely: vec![7, 5], range: [0, 1000], mean: 700.8 };
    assert_eq!(found, [("x", expected)]);
}

#[test]
fn what_is_wrong_with_a_gguf_is_said_with_its_entry() {
    let f32s = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let check = |kind: &str, tensors: &[(&str, [usize; 2], &[f32])], shown: Expect| {
        let mut file = gguf::Writer::new();
        file.set("general.type", kind);
        for (name, shape, data) in tensors {
            file.tensor(name, shape, gguf::Element::Packed(quant::Format::F32), f32s(data));
        }
        let mut bytes = Vec::new();
        file.write_to(&mut bytes).unwrap_or_else(|e| panic!("{e}"));
        refused(&bytes, shown);
    };
    let sums = ("x.in_sum2", [2, 2], &[1.0, 2.0, 3.0, 4.0][..]);
    let counts = |counts: &'static [f32]| ("x.counts", [counts.len(), 1], counts);
    check("model", &[], expect![[r#"file: a GGUF of type "model", not an importance matrix"#]]);
    check("imatrix", &[], expect!["file: a GGUF without sums, not an importance matrix"]);
    check("imatrix", &[sums], expect!["file: entry `x`: has `x.in_sum2`, but no `x.counts`"]);
    check("imatrix", &[counts(&[1.0])], expect!["file: a GGUF without sums, not an importance matrix"]);
    let other = ("y.counts", [1, 1], &[1.0][..]);
    check(
        "imatrix",
        &[sums, counts(&[1.0, 1.0]), other],
        expect!["file: entry `y`: has `y.counts`, but no `y.in_sum2`"],
    );
    check("imatrix", &[sums, counts(&[1.0])], expect!["file: entry `x`: sums of 2 matrices, but 1 counts"]);
    check(
        "imatrix",
        &[sums, counts(&[1.0, 0.0])],
        expect!["file: entry `x`: sum 2 is 3, but no row of expert 1 was counted"],
    );
    check(
        "imatrix",
        &[sums, counts(&[1.0, -1.0])],
        expect!["file: entry `x`: count 1 is -1; allowed: whole numbers from 0 to 2^63"],
    );
    check(
        "imatrix",
        &[sums, counts(&[f32::NAN, 1.0])],
        expect!["file: entry `x`: count 0 is NaN; allowed: whole numbers from 0 to 2^63"],
    );
    check(
        "imatrix",
        &[sums, counts(&[1.5, 1.0])],
        expect!["file: entry `x`: count 0 is 1.5; allowed: whole numbers from 0 to 2^63"],
    );
    let none = ("x.in_sum2", [2, 1], &[0.0, 0.0][..]);
    check("imatrix", &[none, counts(&[0.0, 0.0])], expect!["file: entry `x`: no row was counted"]);
    for (bad, shown) in [
        (f32::NAN, expect!["file: entry `x`: sum 1 is NaN; allowed: 0 and more, and finite"]),
        (f32::INFINITY, expect!["file: entry `x`: sum 1 is inf; allowed: 0 and more, and finite"]),
        (-1.0, expect!["file: entry `x`: sum 1 is -1; allowed: 0 and more, and finite"]),
    ] {
        check("imatrix", &[("x.in_sum2", [1, 2], &[1.0, bad]), counts(&[1.0])], shown);
    }
}

#[test]
fn what_is_wrong_with_a_legacy_file_is_said_with_its_entry() {
    let i32s = |x: &[i32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let file = |n: i32, name: &[u8], n_call: i32, n_val: i32, values: &[f32], tail: &[u8]| {
        let values = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        [i32s(&[n, name.len() as i32]), name.to_vec(), i32s(&[n_call, n_val]), values, tail.to_vec()].concat()
    };
    let good = file(1, b"x", 1, 2, &[1.0, 2.0], &[]);
    assert!(read(&good).is_ok_and(|good| good.chunk_count == 0 && good.datasets.is_empty()));
    for none in [
        b"no matrix at all, but words".to_vec(),
        Vec::new(),
        file(-1, b"x", 1, 2, &[1.0, 2.0], &[]),
        file(2, b"x", 1, 3, &[1.0; 5], &[]),
        file(1, b"", 1, 2, &[1.0, 2.0], &[]),
        file(1, b"\x1b[m", 1, 2, &[1.0, 2.0], &[]),
    ] {
        refused(&none, expect!["file: neither GGUF nor .dat, not an importance matrix"]);
    }
    let second = |name: &[u8]| {
        let file = [good.clone(), file(1, name, 1, 2, &[1.0, 2.0], &[])[4..].to_vec()].concat();
        [i32s(&[2]), file[4..].to_vec()].concat()
    };
    refused(&second(b""), expect!["file: length of the name of entry 1 at byte 25 is 0; allowed: 1 to 256"]);
    refused(
        &second(b"\x1b[m"),
        expect!["file: name of entry 1 at byte 29 is something else; allowed: printable UTF-8"],
    );
    refused(
        &file(1, b"x", 0, 2, &[1.0, 2.0], &[]),
        expect!["file: ncall of entry `x` at byte 9 is 0; allowed: 1 to 2147483647"],
    );
    refused(
        &file(1, b"x", 1, 9, &[1.0, 2.0], &[]),
        expect!["file: nval of entry `x` at byte 13 is 9; allowed: 1 to 2"],
    );
    refused(
        &file(1, b"x", 1, 2, &[1.0, f32::NAN], &[]),
        expect!["file: entry `x`: sum 1 is NaN; allowed: 0 and more, and finite"],
    );
    refused(
        &file(1, b"x", 1, 1, &[-2.0], &[]),
        expect!["file: entry `x`: sum 0 is -1024; allowed: 0 and more, and finite"],
    );
    refused(
        &file(1, b"x", 1, 1, &[2.0], &i32s(&[-1])),
        expect!["file: number of chunks at byte 21 is -1; allowed: 0 to 2147483647"],
    );
    refused(
        &file(1, b"x", 1, 1, &[2.0], &i32s(&[1, 5])),
        expect!["file: length of the text's name at byte 25 is 5; allowed: 0 to 0"],
    );
    refused(
        &file(1, b"x", 1, 1, &[2.0], &i32s(&[1, 0, 7])),
        expect!["file: the end at byte 29 is 4 bytes too early; allowed: the end of the file"],
    );
    let twice = [i32s(&[2]), good[4..].to_vec(), good[4..].to_vec()].concat();
    refused(&twice, expect!["file: entry `x`: is there twice"]);
    let no_file = Imatrix::read(&PathBuf::from("/nowhere/at/all")).map_err(|e| e.to_string());
    expect!["/nowhere/at/all: No such file or directory (os error 2)"].assert_eq(&no_file.err().unwrap_or_default());
}

#[test]
fn names_that_a_gguf_has_no_room_for_are_refused() {
    let name = |n: usize| "n".repeat(n);
    let one = |n| of(&[(&name(n), entry(&[1.0], &[1]))]);
    assert_eq!(again(&one(55), Imatrix::write_gguf), one(55));
    let error = one(56).write_gguf(&mut Vec::new()).unwrap_err().to_string();
    assert_eq!(error, format!("`{}` is longer than names in a GGUF may be; the format dat has room for it", name(56)));
}

#[test]
fn counts_stay_such_as_are_read_again() {
    let mut all = of(&[("x", entry(&[1.0], &[1 << 62]))]);
    for _ in 0..3 {
        all.merge(of(&[("x", entry(&[1.0], &[1 << 62]))])).unwrap_or_else(|e| panic!("{e}"));
    }
    assert_eq!(again(&all, Imatrix::write_gguf).entries["x"].counts(), [1 << 62]);
}
