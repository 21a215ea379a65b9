//! A file that is cut short while it is mapped. The test runs itself again in another process, which ends there.

use std::{env, fs::File, process::Command};

use gguf::{Element, Gguf, Writer, explain_lost_pages};
use quant::Format;

const IN_CHILD: &str = "GGUF_TEST_LOST_PAGES";

#[test]
fn a_page_that_is_lost_ends_the_program_with_a_line() {
    if env::var_os(IN_CHILD).is_some() {
        read_what_is_lost();
    }
    let name = "lost::a_page_that_is_lost_ends_the_program_with_a_line";
    let again = Command::new(env::current_exe().unwrap()).args(["--exact", name]).env(IN_CHILD, "1").output().unwrap();
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(String::from_utf8_lossy(&again.stderr).contains("the file is gone\n"), "{again:?}");
}

fn read_what_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let bytes = vec![1; 1 << 20];
    Writer::new().tensor("t", &[1 << 18], Element::Packed(Format::F32), bytes).write(&path).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    explain_lost_pages("the file is gone\n");
    let sum: u32 = gguf.bytes(&gguf.tensors()[0]).as_ref().iter().map(|&b| u32::from(b)).sum();
    unreachable!("the bytes were read: {sum}");
}
