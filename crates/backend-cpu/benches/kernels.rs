//! How fast are the products with weights, and the attention, on one thread?
//!
//! ```text
//! cargo bench -p backend-cpu --bench kernels                  everything, in about two minutes
//! cargo bench -p backend-cpu --bench kernels -- decode        one kind
//! cargo bench -p backend-cpu --bench kernels -- 'Q4_K AVX2'   one format on one instruction set
//!
//! decode              one row, weights read once from memory that caches do not hold    GB/s
//! sessions            the same for 2, 4 and 8 rows                                      GB/s
//! prefill             256 rows                                                          Gitem/s: GMAC/s
//! attention           of one row to so many, 8 heads of 128 read by 32                  GB/s of cached rows
//! latent_attention    DeepSeek V4's, of so many rows to 128 recent and 512 chosen ones  Gitem/s: GMAC/s
//! ```
//!
//! The first lines tell what bounds them: decode cannot be faster than reading, prefill not faster than multiplying.
//! Other programs only ever make a run slower: look at the fastest, and at the median.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use backend_cpu::{Cpu, Isa};
use compute::{
    Attention, Compressed, Device, F32, HostBytes, Kind, Latent, Memory, Row, Step, Tensor,
    conformance::{Random, weights},
};
use divan::{
    Bencher,
    counter::{BytesCount, ItemsCount},
};
use quant::{FORMATS, Format, RowFormat};

const N_IN: usize = 4096;
/// More than caches hold.
const WEIGHT_BYTES: usize = 1 << 30;
/// What one product reads in decode.
const STEP_BYTES: usize = 1 << 20;
/// Outputs and rows of a product in prefill.
const N_OUT: usize = 128;
const N_ROW: usize = 256;

fn main() {
    for isa in Isa::available() {
        let limits = cpu(isa).limits(WEIGHT_BYTES).expect("a gibibyte of memory");
        println!("{:8} reads {:6.1} GB/s, multiplies {:6.1} GMAC/s", isa.name(), limits.read_gbps, limits.int8_gmacs);
    }
    divan::main();
}

fn cpu(isa: Isa) -> Cpu {
    Cpu::with_isa(1, isa).expect("no more threads than this one")
}

/// A format on an instruction set.
#[derive(Clone, Copy)]
struct Case(Format, Isa);

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.name(), self.1.name())
    }
}

fn cases() -> impl Iterator<Item = Case> {
    FORMATS.iter().flat_map(|&format| Isa::available().map(move |isa| Case(format, isa)))
}

#[divan::bench(args = cases(), sample_size = 1, sample_count = 10_000, max_time = 0.25)]
fn decode(bencher: Bencher, case: Case) {
    read_once::<1>(bencher, case);
}

#[divan::bench(args = cases(), consts = [2, 4, 8], sample_size = 1, sample_count = 10_000, max_time = 0.25)]
fn sessions<const N: usize>(bencher: Bencher, case: Case) {
    read_once::<N>(bencher, case);
}

fn read_once<const N: usize>(bencher: Bencher, Case(format, isa): Case) {
    let dev = cpu(isa);
    let row_bytes = format.row_bytes(N_IN).expect("whole blocks");
    let n_out = STEP_BYTES / row_bytes;
    let n_step = WEIGHT_BYTES / STEP_BYTES;
    let w = dev.load(Kind::Packed(format), &[n_step * n_out, N_IN], gibibyte(format, n_step * n_out));
    let w = w.expect("read in place");
    let (x, y) = (inputs(&dev, N), f32s(&dev, &[N, n_out]));
    let mut steps = (0..n_step).cycle().map(|i| w.slice(i * n_out..(i + 1) * n_out));
    bencher.counter(BytesCount::new(n_out * row_bytes)).bench_local(|| {
        dev.matmul(&y, &steps.next().expect("without end"), &x);
    });
}

#[divan::bench(args = cases(), sample_size = 1, sample_count = 100, max_time = 0.25)]
fn prefill(bencher: Bencher, Case(format, isa): Case) {
    let dev = cpu(isa);
    let w = dev.load(Kind::Packed(format), &[N_OUT, N_IN], Arc::new(rows(format, N_OUT))).expect("read in place");
    let (x, y) = (inputs(&dev, N_ROW), f32s(&dev, &[N_ROW, N_OUT]));
    bencher.counter(ItemsCount::new(N_ROW * N_OUT * N_IN)).bench_local(|| dev.matmul(&y, &w, &x));
}

#[divan::bench(args = [2048, 16384], sample_size = 1, sample_count = 1000, max_time = 0.5)]
fn attention(bencher: Bencher, n_ctx: usize) {
    let dev = cpu(Isa::detect());
    let (width, kind) = (8 * 128, Kind::Cached(RowFormat::F16));
    let [k, v] = [0, 1].map(|_| filled(&dev, kind, &[1, n_ctx, width], 0x30));
    let (q, y) = (filled(&dev, F32, &[1, 32 * 128], 0x3c), f32s(&dev, &[1, 32 * 128]));
    let step = Step::new(&dev, 1).expect("memory").set(&dev, &[Row { id: 0, pos: n_ctx as u32 - 1, slot: 0 }]);
    let a = Attention { n_head: 32, n_head_kv: 8, scale: 0.1 };
    let bytes = 2 * n_ctx * kind.row_bytes(width);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| dev.attention(&y, &q, &k, &v, &a, &step));
}

#[divan::bench(args = [1, 64], sample_size = 1, sample_count = 1000, max_time = 0.5)]
fn latent_attention(bencher: Bencher, n: usize) {
    let dev = cpu(Isa::detect());
    let (n_head, width, kind) = (64, 512, Kind::Cached(RowFormat::Fp8 { n_rope: 64 }));
    let [ring, rows] = [128 + n, 2048].map(|n_row| filled(&dev, kind, &[1, n_row, width], 0x75));
    let [q, y] = [0, 1].map(|_| f32s(&dev, &[n, n_head * width]));
    let chosen = dev.alloc(Kind::I32, &[n, 512]).expect("memory");
    dev.write(&chosen, &(0..n).flat_map(|_| (0..512).flat_map(|w| i32::to_le_bytes(3 * w))).collect::<Vec<u8>>());
    let batch: Vec<Row> = (0..n).map(|t| Row { id: 0, pos: (8192 + t) as u32, slot: 0 }).collect();
    let step = Step::new(&dev, n).expect("memory").set(&dev, &batch);
    let compressed = Some(Compressed { rows, ratio: 4, chosen: Some(chosen) });
    let a = Latent { ring, window: 128, compressed, sinks: f32s(&dev, &[n_head]), scale: 0.04 };
    let n_mac = n * n_head * (128 + 512) * 2 * width;
    bencher.counter(ItemsCount::new(n_mac)).bench_local(|| dev.latent_attention(&y, &q, &a, &step));
}

/// Packed rows, of which 64 are different.
fn rows(format: Format, n: usize) -> Vec<u8> {
    let some = weights(format, 64 * N_IN, &mut Random::new(1, format.name()));
    let mut bytes = some.repeat(n.div_ceil(64));
    bytes.truncate(n * some.len() / 64);
    bytes
}

/// As many rows as decoding walks through; kept until another format's are asked for.
fn gibibyte(format: Format, n: usize) -> HostBytes {
    static LAST: Mutex<Option<(Format, HostBytes)>> = Mutex::new(None);
    let mut last = LAST.lock().expect("making rows does not panic");
    match &*last {
        Some((same, bytes)) if *same == format => bytes.clone(),
        _ => {
            *last = None; // there need not be memory for two
            let bytes: HostBytes = Arc::new(rows(format, n));
            *last = Some((format, bytes.clone()));
            bytes
        }
    }
}

fn f32s(dev: &Cpu, shape: &[usize]) -> Tensor {
    dev.alloc(F32, shape).expect("memory")
}

fn filled(dev: &Cpu, kind: Kind, shape: &[usize], byte: u8) -> Tensor {
    let t = dev.alloc(kind, shape).expect("memory");
    dev.write(&t, &vec![byte; t.byte_range().len()]);
    t
}

/// Random activations.
fn inputs(dev: &Cpu, n: usize) -> Tensor {
    let (x, mut random) = (f32s(dev, &[n, N_IN]), Random::new(2, "x"));
    dev.write(&x, &(0..n * N_IN).flat_map(|_| random.unit().to_le_bytes()).collect::<Vec<u8>>());
    x
}
