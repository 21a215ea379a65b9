//! Every format decodes, and where both only round it encodes, as the `gguf` package does, bit for bit.
//!
//! `testdata/quant/make.py` wrote the hashes, and describes the blocks and values that this file makes again.

use quant::{FORMATS, Format};

const BLOCKS: usize = 64;

/// Formats whose encoder searches nothing; of the others `errors.rs` asks how much they err.
const ROUNDED: &[Format] = {
    use Format::*;
    &[F32, F16, BF16, Q8_0, TQ1_0, TQ2_0]
};

#[test]
fn every_format_decodes_as_the_gguf_package_does() {
    for &format in FORMATS {
        let mut random = random_bytes();
        check("decode", format, |_| {
            let mut bytes = take(&mut random, BLOCKS * format.block_bytes());
            bytes[..format.block_bytes()].fill(0);
            let mut values = vec![0.0; BLOCKS * format.block_len()];
            format.decode(&bytes, &mut values);
            fnv(values.iter().map(|v| if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() }))
        });
    }
}

#[test]
fn formats_encode_as_the_gguf_package_does() {
    for &format in ROUNDED {
        let encode = format.encoder().expect("an encoder");
        let mut random = random_bytes();
        check("encode", format, |batch| {
            let mut values: Vec<f32> = (0..BLOCKS * format.block_len()).map(|_| value(&mut random, batch)).collect();
            values[..format.block_len()].fill(0.0);
            let mut bytes = vec![0; BLOCKS * format.block_bytes()];
            encode(&values, None, &mut bytes);
            fnv(bytes.into_iter().map(u32::from))
        });
    }
}

/// Compares the hash of each batch with the line of `what` and `format`.
fn check(what: &str, format: Format, mut hash: impl FnMut(i32) -> u64) {
    let start = format!("{what} {} ", format.name());
    let goldens = include_str!("../../../testdata/quant/goldens.txt");
    let line = goldens.lines().find_map(|line| line.strip_prefix(&start)).expect("a golden for every format");
    for (batch, golden) in (0..).zip(line.split(' ')) {
        assert_eq!(format!("{:016x}", hash(batch)), golden, "{start}batch {batch}");
    }
}

fn random_bytes() -> impl Iterator<Item = u8> {
    let mut state = 0u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    })
}

fn take(random: &mut impl Iterator<Item = u8>, n: usize) -> Vec<u8> {
    random.take(n).collect()
}

fn value(random: &mut impl Iterator<Item = u8>, batch: i32) -> f32 {
    let b = take(random, 3);
    f32::from(i16::from_le_bytes([b[0], b[1]])) * 2f32.powi(i32::from(b[2] & 15) - 20 - 2 * batch)
}

fn fnv(numbers: impl Iterator<Item = u32>) -> u64 {
    numbers.fold(0xcbf2_9ce4_8422_2325, |h, n| (h ^ u64::from(n)).wrapping_mul(0x100_0000_01b3))
}
