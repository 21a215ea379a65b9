//! How many values per second each format decodes and encodes, on one thread: `cargo bench -p quant`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use quant::{FORMATS, RowFormat, fp4, fp8, hadamard};

const N: usize = 1 << 14; // values, within the second-level cache
const TIME_MIN: Duration = Duration::from_millis(50);

fn main() {
    println!("{:24} {:>8} {:>8} {:>8}   Gvalue/s", "", "decode", "encode", "weighted");
    let x: Vec<f32> = (0..N).map(|i| 3.0 * (i as f32).sin()).collect();
    let importance: Vec<f32> = (0..N).map(|i| 1.1 + (0.1 * i as f32).cos()).collect();
    let mut y = vec![0.0; N];
    for &format in FORMATS {
        let mut bytes = vec![0x35; format.row_bytes(N).expect("whole blocks")];
        let encode = format.encoder().map_or(vec![], |encode| {
            [None, Some(&importance[..])].map(|i| speed(|| encode(black_box(&x), i, &mut bytes))).to_vec()
        });
        line(format.name(), speed(|| format.decode(black_box(&bytes), &mut y)), &encode);
    }
    for format in [RowFormat::F16, RowFormat::Fp8 { n_rope: 64 }, RowFormat::Fp4] {
        let mut bytes = vec![0; format.row_bytes(N)];
        let encode = speed(|| format.encode_row(black_box(&x), &mut bytes));
        line(&format!("rows of {format:?}"), speed(|| format.decode_row(black_box(&bytes), &mut y)), &[encode]);
    }
    line("fp8::round_block", speed(|| y.chunks_exact_mut(fp8::BLOCK_LEN).for_each(fp8::round_block)), &[]);
    line("fp4::round_block", speed(|| y.chunks_exact_mut(fp4::BLOCK_LEN).for_each(fp4::round_block)), &[]);
    line("hadamard of 128", speed(|| y.chunks_exact_mut(128).for_each(hadamard)), &[]);
}

fn line(name: &str, decode: f64, encode: &[f64]) {
    let encode: String = encode.iter().map(|s| format!("{s:8.3} ")).collect();
    println!("{name:24} {decode:8.2} {encode}");
}

/// Thousand millions of values per second, of the fastest of many runs.
fn speed(mut run: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < TIME_MIN {
        let once = Instant::now();
        run();
        best = best.min(once.elapsed().as_secs_f64());
    }
    N as f64 / best / 1e9
}
