//! Files that lie, one lie each, and the line that each is refused with.

use std::fs;

use expect_test::{Expect, expect};
use gguf::Gguf;

use crate::{message, raw::Raw};

fn check(bytes: &[u8], expected: Expect) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, bytes).unwrap();
    let refused = match Gguf::open(&path) {
        Ok(model) => format!("opened: {} keys, {} tensors", model.metadata().len(), model.tensors().len()),
        Err(error) => message(&error, folder.path()),
    };
    assert!(!refused.contains(char::is_control), "{refused:?}");
    expected.assert_eq(&refused);
}

/// A file with one key, whose value `raw` is.
fn key(id: u32, value: impl FnOnce(Raw) -> Raw, expected: Expect) {
    check(&value(Raw::header(0, 1).key("k", id)).0, expected);
}

/// A file with one tensor and 64 bytes of data.
fn tensor(name: &str, dims: &[u64], id: u32, offset: u64, expected: Expect) {
    check(&Raw::header(1, 0).tensor(name, dims, id, offset).data(64).0, expected);
}

/// A file with two tensors of bytes and 128 bytes of data.
fn pair(names: [&str; 2], offsets: [u64; 2], lens: [u64; 2], expected: Expect) {
    let raw =
        Raw::header(2, 0).tensor(names[0], &lens[..1], 24, offsets[0]).tensor(names[1], &lens[1..], 24, offsets[1]);
    check(&raw.data(128).0, expected);
}

fn aligned(id: u32, value: impl FnOnce(Raw) -> Raw, expected: Expect) {
    check(&value(Raw::header(0, 1).key("general.alignment", id)).0, expected);
}

const U8: u32 = 0;
const U32: u32 = 4;
const I32: u32 = 5;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;

#[test]
fn what_is_no_gguf_is_named() {
    check(b"", expect!["m.gguf: magic at byte 0 needs 4 bytes, but the file ends at byte 0"]);
    check(b"GG", expect!["m.gguf: magic at byte 0 needs 4 bytes, but the file ends at byte 2"]);
    check(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        expect![
            "m.gguf: not a GGUF file: it looks like a Git LFS pointer, which stands for a file that was not downloaded"
        ],
    );
    check(
        b"<!DOCTYPE html>",
        expect!["m.gguf: not a GGUF file: it looks like a web page, perhaps an error message saved as a model"],
    );
    check(
        b"PK\x03\x04abc",
        expect!["m.gguf: not a GGUF file: it looks like a zip archive, such as a PyTorch checkpoint"],
    );
    check(
        b"\x80\x02}q",
        expect!["m.gguf: not a GGUF file: it looks like a Python pickle, such as a PyTorch checkpoint"],
    );
    check(b"\x10\0\0\0\0\0\0\0{\"a\":1}", expect!["m.gguf: not a GGUF file: it looks like safetensors"]);
    check(
        b"tjgg\x03\0\0\0",
        expect!["m.gguf: not a GGUF file: it looks like a model in the format before GGUF (GGJT)"],
    );
    check(b"\x1b[31m", expect![[r#"m.gguf: not a GGUF file: it starts with `\x1b[31`"#]]);
}

#[test]
fn other_versions_and_byte_orders_are_named() {
    for (version, expected) in [
        (0, expect!["m.gguf: version at byte 4 is 0; allowed: 2, 3"]),
        (1, expect!["m.gguf: version at byte 4 is 1; allowed: 2, 3"]),
        (4, expect!["m.gguf: version at byte 4 is 4; allowed: 2, 3"]),
        (u32::MAX, expect!["m.gguf: version at byte 4 is 4294967295; allowed: 2, 3"]),
        (
            3_u32.swap_bytes(),
            expect![
                "m.gguf: a big-endian GGUF (version at byte 4 is 0x03000000); only little-endian files are supported"
            ],
        ),
    ] {
        check(&Raw(b"GGUF".to_vec()).u32(version).u64(0).u64(0).0, expected);
    }
}

#[test]
fn counts_are_bounded_by_the_bytes_that_follow() {
    check(&Raw::header(0, 0).0, expect!["opened: 0 keys, 0 tensors"]);
    check(
        &Raw::header(1 << 63, 0).0,
        expect![
            "m.gguf: tensor count at byte 8 is 9223372036854775808; allowed: at most 0, for which there is room in the 8 bytes that follow"
        ],
    );
    check(
        &Raw::header(u64::MAX, 0).data(1000).0,
        expect![
            "m.gguf: tensor count at byte 8 is 18446744073709551615; allowed: at most 30, for which there is room in the 1016 bytes that follow"
        ],
    );
    check(
        &Raw::header(0, u64::MAX).0,
        expect![
            "m.gguf: key count at byte 16 is 18446744073709551615; allowed: at most 0, for which there is room in the 0 bytes that follow"
        ],
    );
    check(
        &Raw::header(0, 2).key("k", U32).u32(1).u8(0).0,
        expect![
            "m.gguf: key count at byte 16 is 2; allowed: at most 1, for which there is room in the 18 bytes that follow"
        ],
    );
    check(
        &Raw::header(0, 2).key("k", U32).u32(1).data(64).0,
        expect!["m.gguf: name of key 1 at byte 41 is ``; allowed: one or more printable characters"],
    );
    check(
        &Raw::header(0, 70_000).bytes(&[0; 1_000_000]).0,
        expect!["m.gguf: key count at byte 16 is 70000; allowed: at most 65536"],
    );
    check(
        &Raw::header(70_000, 0).bytes(&[0; 3_000_000]).0,
        expect!["m.gguf: tensor count at byte 8 is 70000; allowed: at most 65536"],
    );
}

#[test]
fn names_of_keys_are_printable_and_unique() {
    check(
        &Raw::header(0, 1).key("", U32).u32(1).0,
        expect!["m.gguf: name of key 0 at byte 24 is ``; allowed: one or more printable characters"],
    );
    check(
        &Raw::header(0, 1).key("a\0\x1b[2J\n", U32).u32(1).0,
        expect![[
            r#"m.gguf: name of key 0 at byte 24 is `a\u{0}\u{1b}[2J\n`; allowed: one or more printable characters"#
        ]],
    );
    check(
        &Raw::header(0, 1).u64(2).bytes(b"\xffa").u32(U32).u32(1).0,
        expect!["m.gguf: name of key 0 at byte 32 is `�a`; allowed: UTF-8"],
    );
    check(
        &Raw::header(0, 1).u64(u64::MAX).u32(U32).u32(1).data(0).0,
        expect!["m.gguf: length of name of key 0 at byte 24 is 18446744073709551615; allowed: at most 268435456"],
    );
    check(
        &Raw::header(0, 1).u64(100).u32(U32).u32(1).data(0).0,
        expect!["m.gguf: name of key 0 at byte 32 needs 100 bytes, but the file ends at byte 64"],
    );
    check(
        &Raw::header(0, 2).key("k", U32).u32(1).key("k", U8).u8(1).0,
        expect!["m.gguf: key `k` at byte 41 is a repetition of the one at byte 24"],
    );
}

#[test]
fn values_are_of_known_types_and_complete() {
    key(13, |r| r.u64(0), expect!["m.gguf: type of key 0 (`k`) at byte 33 is 13; allowed: 0 to 12"]);
    key(u32::MAX, |r| r.u64(0), expect!["m.gguf: type of key 0 (`k`) at byte 33 is 4294967295; allowed: 0 to 12"]);
    key(
        U64,
        |r| r.u32(0),
        expect!["m.gguf: value of key 0 (`k`) at byte 37 needs 8 bytes, but the file ends at byte 41"],
    );
    key(BOOL, |r| r.u8(2), expect!["m.gguf: value of key 0 (`k`) at byte 37 is 2; allowed: 0, 1"]);
    key(
        STRING,
        |r| r.u64(9).bytes(b"12345678"),
        expect!["m.gguf: value of key 0 (`k`) at byte 45 needs 9 bytes, but the file ends at byte 53"],
    );
    key(
        STRING,
        |r| r.u64(u64::MAX).bytes(b"12345678"),
        expect![
            "m.gguf: length of value of key 0 (`k`) at byte 37 is 18446744073709551615; allowed: at most 268435456"
        ],
    );
    key(
        STRING,
        |r| r.u64((1 << 28) + 1),
        expect!["m.gguf: length of value of key 0 (`k`) at byte 37 is 268435457; allowed: at most 268435456"],
    );
    key(
        STRING,
        |r| r.u64(3).bytes(b"\xf0\x9f\x99"),
        expect!["m.gguf: value of key 0 (`k`) at byte 45 is `�`; allowed: UTF-8"],
    );
}

#[test]
fn arrays_are_flat_and_all_there() {
    key(
        ARRAY,
        |r| r.u32(ARRAY).u64(1).u32(U8).u64(0),
        expect!["m.gguf: element type of key 0 (`k`) at byte 37 is 9 (array); allowed: 0 to 8, 10 to 12"],
    );
    key(
        ARRAY,
        |r| r.u32(13).u64(1 << 60),
        expect!["m.gguf: element type of key 0 (`k`) at byte 37 is 13; allowed: 0 to 8, 10 to 12"],
    );
    key(
        ARRAY,
        |r| r.u32(U8).u64(1 << 60),
        expect!["m.gguf: length of value of key 0 (`k`) at byte 41 is 1152921504606846976; allowed: at most 268435456"],
    );
    key(
        ARRAY,
        |r| r.u32(U64).u64(1 << 28).u64(0),
        expect!["m.gguf: value of key 0 (`k`) at byte 49 needs 2147483648 bytes, but the file ends at byte 57"],
    );
    key(
        ARRAY,
        |r| r.u32(STRING).u64(1 << 40).u64(0),
        expect!["m.gguf: length of value of key 0 (`k`) at byte 41 is 1099511627776; allowed: at most 268435456"],
    );
    key(
        ARRAY,
        |r| r.u32(STRING).u64(2).u64(0),
        expect!["m.gguf: value of key 0 (`k`) at byte 49 needs 16 bytes, but the file ends at byte 57"],
    );
    key(
        ARRAY,
        |r| r.u32(STRING).u64(2).str("abcdefgh").u64(1),
        expect!["m.gguf: element 1 of key 0 (`k`) at byte 73 needs 1 bytes, but the file ends at byte 73"],
    );
    key(
        ARRAY,
        |r| r.u32(STRING).u64(2).str("").u64(1).bytes(b"\xff"),
        expect!["m.gguf: element 1 of key 0 (`k`) at byte 65 is `�`; allowed: UTF-8"],
    );
    key(
        ARRAY,
        |r| r.u32(BOOL).u64(3).bytes(&[0, 1, 7]),
        expect!["m.gguf: value of key 0 (`k`) at byte 51 is 7; allowed: 0, 1"],
    );
}

#[test]
fn alignments_are_powers_of_two_in_bounds() {
    for (n, expected) in [
        (0, expect!["m.gguf: key `general.alignment` has the value 0; allowed: powers of two from 8 to 1048576"]),
        (1, expect!["m.gguf: key `general.alignment` has the value 1; allowed: powers of two from 8 to 1048576"]),
        (31, expect!["m.gguf: key `general.alignment` has the value 31; allowed: powers of two from 8 to 1048576"]),
        (
            1 << 31,
            expect![
                "m.gguf: key `general.alignment` has the value 2147483648; allowed: powers of two from 8 to 1048576"
            ],
        ),
        (
            u32::MAX,
            expect![
                "m.gguf: key `general.alignment` has the value 4294967295; allowed: powers of two from 8 to 1048576"
            ],
        ),
        (1 << 20, expect!["opened: 1 keys, 0 tensors"]),
    ] {
        aligned(U32, |r| r.u32(n), expected);
    }
    aligned(U64, |r| r.u64(64), expect!["opened: 1 keys, 0 tensors"]);
    aligned(
        I32,
        |r| r.u32(u32::MAX),
        expect!["m.gguf: key `general.alignment` has the value -1; allowed: 0 to 4294967295"],
    );
    aligned(STRING, |r| r.str("32"), expect!["m.gguf: key `general.alignment` is a string; expected an integer"]);
}

#[test]
fn names_of_tensors_are_short_printable_and_unique() {
    tensor("", &[1], 24, 0, expect!["m.gguf: name of tensor 0 at byte 24 is ``; allowed: 1 to 63 bytes, printable"]);
    tensor(&"n".repeat(63), &[1], 24, 0, expect!["opened: 0 keys, 1 tensors"]);
    tensor(
        &"n".repeat(100),
        &[1],
        24,
        0,
        expect![
            "m.gguf: name of tensor 0 at byte 24 is `nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn…`; allowed: 1 to 63 bytes, printable"
        ],
    );
    tensor(
        "a\0b",
        &[1],
        24,
        0,
        expect![[r#"m.gguf: name of tensor 0 at byte 24 is `a\u{0}b`; allowed: 1 to 63 bytes, printable"#]],
    );
    tensor(
        "a\u{202e}b",
        &[1],
        24,
        0,
        expect![[r#"m.gguf: name of tensor 0 at byte 24 is `a\u{202e}b`; allowed: 1 to 63 bytes, printable"#]],
    );
    tensor("../x", &[1], 24, 0, expect!["opened: 0 keys, 1 tensors"]);
    pair(["a", "a"], [0, 32], [1, 1], expect!["m.gguf: tensor `a` at byte 57 is a repetition of the one at byte 24"]);
}

#[test]
fn shapes_are_possible() {
    tensor("t", &[], 0, 0, expect!["m.gguf: number of dimensions of tensor 0 (`t`) at byte 33 is 0; allowed: 1 to 4"]);
    tensor(
        "t",
        &[1; 5],
        0,
        0,
        expect!["m.gguf: number of dimensions of tensor 0 (`t`) at byte 33 is 5; allowed: 1 to 4"],
    );
    tensor("t", &[4, 0], 0, 0, expect!["m.gguf: dimension 1 of tensor 0 (`t`) at byte 45 is 0; allowed: 1 and more"]);
    tensor(
        "t",
        &[u64::MAX],
        0,
        0,
        expect![
            "m.gguf: dimension 0 of tensor 0 (`t`) at byte 37 is 18446744073709551615; allowed: at most 9223372036854775807 elements and bytes"
        ],
    );
    tensor(
        "t",
        &[1 << 32, 1 << 31],
        24,
        0,
        expect![
            "m.gguf: dimension 1 of tensor 0 (`t`) at byte 45 is 2147483648; allowed: at most 9223372036854775807 elements and bytes"
        ],
    );
    tensor(
        "t",
        &[1 << 31, 1 << 31],
        0,
        0,
        expect![
            "m.gguf: shape of tensor 0 (`t`) at byte 33 is [2147483648, 2147483648]; allowed: at most 9223372036854775807 elements and bytes"
        ],
    );
    tensor(
        "t",
        &[1 << 62, 1],
        28,
        0,
        expect![
            "m.gguf: shape of tensor 0 (`t`) at byte 33 is [1, 4611686018427387904]; allowed: rows of whole blocks, 1 values each in F64"
        ],
    );
    tensor(
        "t",
        &[(1 << 62) - 1],
        24,
        0,
        expect!["m.gguf: tensor `t` needs bytes 64..4611686018427387967, but the file ends at byte 128"],
    );
    check(
        &Raw::header(1, 0).str("t").u32(u32::MAX).data(64).0,
        expect!["m.gguf: number of dimensions of tensor 0 (`t`) at byte 33 is 4294967295; allowed: 1 to 4"],
    );
}

#[test]
fn types_are_known_and_rows_whole_blocks() {
    tensor("t", &[32, 1], 8, 0, expect!["opened: 0 keys, 1 tensors"]);
    tensor(
        "t",
        &[33, 1],
        8,
        0,
        expect![
            "m.gguf: shape of tensor 0 (`t`) at byte 33 is [1, 33]; allowed: rows of whole blocks, 32 values each in Q8_0"
        ],
    );
    tensor(
        "t",
        &[1, 32],
        8,
        0,
        expect![
            "m.gguf: shape of tensor 0 (`t`) at byte 33 is [32, 1]; allowed: rows of whole blocks, 32 values each in Q8_0"
        ],
    );
    tensor(
        "t",
        &[32],
        4,
        0,
        expect![
            "m.gguf: type of tensor 0 (`t`) at byte 45 is 4 (Q4_2, retired); allowed: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ4_NL, IQ4_XS, MXFP4, IQ1_S, IQ1_M, TQ1_0, TQ2_0, I8, I16, I32, I64, F64"
        ],
    );
    tensor(
        "t",
        &[32],
        u32::MAX,
        0,
        expect![
            "m.gguf: type of tensor 0 (`t`) at byte 45 is 4294967295; allowed: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ4_NL, IQ4_XS, MXFP4, IQ1_S, IQ1_M, TQ1_0, TQ2_0, I8, I16, I32, I64, F64"
        ],
    );
}

#[test]
fn data_lies_in_the_file() {
    tensor("t", &[64], 24, 0, expect!["opened: 0 keys, 1 tensors"]);
    tensor("t", &[65], 24, 0, expect!["m.gguf: tensor `t` needs bytes 64..129, but the file ends at byte 128"]);
    tensor(
        "t",
        &[32],
        24,
        33,
        expect![
            "m.gguf: offset of tensor 0 (`t`) at byte 49 is 33; allowed: multiples of 32 up to 9223372036854775807"
        ],
    );
    tensor("t", &[32], 24, 64, expect!["m.gguf: tensor `t` needs bytes 128..160, but the file ends at byte 128"]);
    tensor(
        "t",
        &[32],
        24,
        u64::MAX - 31,
        expect![
            "m.gguf: offset of tensor 0 (`t`) at byte 49 is 18446744073709551584; allowed: multiples of 32 up to 9223372036854775807"
        ],
    );
    // Data, offset and length make 2^64 and a little: a sum that wraps is a place in the file.
    let i64_max = i64::MAX as u64;
    tensor(
        "t",
        &[i64_max],
        24,
        i64_max - 31,
        expect![
            "m.gguf: tensor `t` needs bytes 9223372036854775840..18446744073709551615, but the file ends at byte 128"
        ],
    );
    let raw = Raw::header(1, 1).key("k", STRING).str(&"x".repeat(300));
    check(
        &raw.tensor("t", &[64, (1 << 55) - 1], 0, i64_max - 31).data(1024).0,
        expect![
            "m.gguf: tensor `t` needs bytes 9223372036854776192..18446744073709551615, but the file ends at byte 1440"
        ],
    );
    let whole = Raw::header(1, 0).tensor("t", &[64], 24, 0).data(64).0;
    check(&whole[..whole.len() - 1], expect!["m.gguf: tensor `t` needs bytes 64..128, but the file ends at byte 127"]);
    check(&whole[..60], expect!["m.gguf: tensor `t` needs bytes 64..128, but the file ends at byte 60"]);
}

#[test]
fn tensors_share_no_byte() {
    pair(["a", "b"], [0, 64], [64, 64], expect!["opened: 0 keys, 2 tensors"]);
    pair(["a", "b"], [64, 0], [1, 1], expect!["opened: 0 keys, 2 tensors"]);
    pair(
        ["a", "b"],
        [0, 32],
        [33, 1],
        expect!["m.gguf: tensor `b` starts at byte 128, inside tensor `a`, which ends at byte 129"],
    );
    pair(
        ["a", "b"],
        [0, 0],
        [1, 128],
        expect!["m.gguf: tensor `b` starts at byte 96, inside tensor `a`, which ends at byte 97"],
    );
    pair(
        ["a", "b"],
        [32, 0],
        [32, 128],
        expect!["m.gguf: tensor `a` starts at byte 128, inside tensor `b`, which ends at byte 224"],
    );
}

#[test]
fn every_beginning_of_a_file_is_refused_with_the_field_at_the_cut() {
    let raw = Raw::header(1, 2).key("a", STRING).str("x").key("b", ARRAY).u32(STRING).u64(1).str("y");
    let whole = raw.tensor("t", &[1], 24, 0).data(1).0;
    crate::open(&whole).unwrap();
    for len in 0..whole.len() {
        let error = crate::open(&whole[..len]).unwrap_err().to_string();
        assert!(error.contains("but the file ends at byte") || error.contains("bytes that follow"), "{len}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let looping = folder.path().join("loop");
    std::os::unix::fs::symlink(&looping, &looping).unwrap();
    for (path, expected) in [
        (folder.path().join("absent\n.gguf"), expect![[r#"absent\n.gguf: no such file or directory; check the path"#]]),
        (folder.path().join("."), expect![".: is a folder, not a file; give the path of a .gguf file"]),
        (socket, expect!["socket: is a socket, not a file; give the path of a .gguf file"]),
        (looping, expect!["loop: too many levels of symbolic links; check the permissions and the disk"]),
        ("/dev/null".into(), expect!["/dev/null: is a device, not a file; give the path of a .gguf file"]),
    ] {
        let error = Gguf::open(&path).unwrap_err();
        expected.assert_eq(&format!("{}; {}", message(&error, folder.path()), error.hint()));
    }
}
