//! How fast are the products with weights, and the attention?
//!
//! ```text
//! cargo bench -p backend-cpu                      one thread, the best instruction set, the formats that matter
//! cargo bench -p backend-cpu -- 2 AVX2 Q4_K       two threads, one instruction set, one format
//! cargo bench -p backend-cpu -- attention         nothing but that
//!
//! read              f32 sums over as much memory: what decoding is judged against
//! decode            one row, weights read once: GB/s of packed weights
//! prefill           128 rows: GMAC/s
//! ```
//!
//! Runs are short and the best of them counts: other programs only ever make a run slower. Decoding walks through
//! more memory than caches hold, and the quickest quarter of its steps counts.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use backend_cpu::{Cpu, Isa};
use compute::{
    Attention, Compressed, Device, F32, Kind, Latent, Memory, Row, Step, Tensor,
    conformance::{Random, weights},
};
use quant::{FORMATS, Format, RowFormat};

const N_IN: usize = 4096;
const WEIGHT_BYTES: usize = 96 << 20;
const STEP_BYTES: usize = 1 << 20;
const PREFILL: usize = 128;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let n_threads = args.iter().find_map(|a| a.parse().ok()).unwrap_or(1);
    let isas: Vec<Isa> = Isa::available().filter(|isa| args.iter().any(|a| a == isa.name())).collect();
    let isas = if isas.is_empty() { vec![Isa::detect()] } else { isas };
    let named = |f: &&Format| args.iter().any(|a| a == f.name());
    let formats: Vec<Format> = FORMATS.iter().filter(named).copied().collect();
    let formats = if args.iter().any(|a| a == "attention") || !formats.is_empty() { formats } else { FORMATS.to_vec() };
    println!("read: {:.1} GB/s, one thread", read_gbps());
    for isa in isas {
        let dev = Cpu::with_isa(n_threads, isa).expect("the system has that many threads");
        println!("{}", dev.name());
        for &format in &formats {
            let (decode, prefill) = (decode(&dev, format), prefill(&dev, format));
            println!("{:8} decode {decode:6.1} GB/s   prefill {prefill:7.1} GMAC/s", format.name());
        }
        for n_ctx in [2048, 16384] {
            println!("attention of one row to {n_ctx}: {:.1} GB/s of cached rows", attention(&dev, n_ctx));
        }
        for n in [1, 64] {
            println!("latent attention of {n} rows to 128 + 512: {:.1} GMAC/s", latent(&dev, n));
        }
    }
}

/// Bytes per nanosecond of the quickest quarter of `runs`, each given its number, which read `bytes`.
fn gbps(bytes: usize, runs: std::ops::Range<usize>, mut run: impl FnMut(usize)) -> f64 {
    let time = |i| {
        let start = Instant::now();
        run(i);
        start.elapsed()
    };
    let mut times: Vec<Duration> = runs.map(time).collect();
    times.sort();
    bytes as f64 / times[times.len() / 4].as_nanos() as f64
}

/// The shortest run.
fn best(n_runs: usize, mut run: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..n_runs).map(time).min().expect("some run")
}

fn read_gbps() -> f64 {
    let words = vec![1u64; WEIGHT_BYTES / 8];
    let steps: Vec<&[u64]> = words.chunks(STEP_BYTES / 8).collect();
    gbps(STEP_BYTES, 0..2 * steps.len(), |i| {
        let mut lanes = [0u64; 32];
        steps[i % steps.len()].as_chunks::<32>().0.iter().for_each(|c| (0..32).for_each(|i| lanes[i] ^= c[i]));
        black_box(lanes);
    })
}

/// GB/s of weights for one row.
fn decode(dev: &Cpu, format: Format) -> f64 {
    let row_bytes = format.row_bytes(N_IN).expect("whole blocks");
    let n_out = STEP_BYTES / row_bytes;
    let n_steps = WEIGHT_BYTES / STEP_BYTES;
    let (w, x, y) = operands(dev, format, [n_steps * n_out, n_out, 1]);
    gbps(n_out * row_bytes, 0..2 * n_steps, |i| {
        let first = i % n_steps * n_out;
        dev.matmul(&y, &w.slice(first..first + n_out), &x);
    })
}

/// GMAC/s for many rows.
fn prefill(dev: &Cpu, format: Format) -> f64 {
    let n_out = 64 * dev.n_threads();
    let (w, x, y) = operands(dev, format, [n_out, n_out, PREFILL]);
    let time = best(20, || dev.matmul(&y, &w, &x));
    (PREFILL * n_out * N_IN) as f64 / time.as_nanos() as f64
}

fn operands(dev: &Cpu, format: Format, [n_rows, n_out, n]: [usize; 3]) -> (Tensor, Tensor, Tensor) {
    let some = weights(format, 64 * N_IN, &mut Random::new(1, format.name()));
    let bytes = some.iter().copied().cycle().take(n_rows * some.len() / 64).collect::<Vec<u8>>();
    let w = dev.load(Kind::Packed(format), &[n_rows, N_IN], Arc::new(bytes)).expect("memory");
    let (x, y) = (dev.alloc(F32, &[n, N_IN]).expect("memory"), dev.alloc(F32, &[n, n_out]).expect("memory"));
    let mut random = Random::new(2, "x");
    dev.write(&x, &(0..n * N_IN).flat_map(|_| random.unit().to_le_bytes()).collect::<Vec<u8>>());
    (w, x, y)
}

/// GB/s of keys and values, 8 heads of 128 read by 32.
fn attention(dev: &Cpu, n_ctx: usize) -> f64 {
    let width = 8 * 128;
    let kind = Kind::Cached(RowFormat::F16);
    let [k, v] = [0, 1].map(|_| dev.alloc(kind, &[1, n_ctx, width]).expect("memory"));
    let [q, y] = [0, 1].map(|_| dev.alloc(F32, &[1, 32 * 128]).expect("memory"));
    let step = Step::new(dev, 1).expect("memory").set(dev, &[Row { id: 0, pos: n_ctx as u32 - 1, slot: 0 }]);
    let a = Attention { n_head: 32, n_head_kv: 8, scale: 0.1 };
    [&k, &v].into_iter().for_each(|t| dev.write(t, &vec![0x30; t.byte_range().len()]));
    dev.write(&q, &vec![0x3c; q.byte_range().len()]);
    let time = best(20, || dev.attention(&y, &q, &k, &v, &a, &step));
    (2 * n_ctx * kind.row_bytes(width)) as f64 / time.as_nanos() as f64
}

/// GMAC/s of DeepSeek V4's attention: 64 heads, 128 recent and 512 chosen rows.
fn latent(dev: &Cpu, n: usize) -> f64 {
    let (n_head, width, kind) = (64, 512, Kind::Cached(RowFormat::Fp8 { n_rope: 64 }));
    let [ring, rows] = [128 + n, 2048].map(|n_row| dev.alloc(kind, &[1, n_row, width]).expect("memory"));
    [&ring, &rows].into_iter().for_each(|t| dev.write(t, &vec![0x75; t.byte_range().len()]));
    let [q, y] = [0, 1].map(|_| dev.alloc(F32, &[n, n_head * width]).expect("memory"));
    let sinks = dev.alloc(F32, &[n_head]).expect("memory");
    let chosen = dev.alloc(Kind::I32, &[n, 512]).expect("memory");
    dev.write(&chosen, &(0..n).flat_map(|_| (0..512).flat_map(|w| i32::to_le_bytes(3 * w))).collect::<Vec<u8>>());
    let batch: Vec<Row> = (0..n).map(|t| Row { id: 0, pos: (8192 + t) as u32, slot: 0 }).collect();
    let step = Step::new(dev, n).expect("memory").set(dev, &batch);
    let compressed = Some(Compressed { rows, ratio: 4, chosen: Some(chosen) });
    let a = Latent { ring, window: 128, compressed, sinks, scale: 0.04 };
    let time = best(20, || dev.latent_attention(&y, &q, &a, &step));
    (n * n_head * (128 + 512) * 2 * width) as f64 / time.as_nanos() as f64
}
