//! What bounds this machine: how fast its threads read memory, and how fast they multiply bytes. Decoding is judged
//! against the first, prefill against the second.
//!
//! Both are measured on the device's own threads and with its instruction set, in steps of some milliseconds. Other
//! programs only ever make a step slower, so the time that a quarter of the steps keep counts.
//!
//! To add an instruction set: an arm in [`Loops::of`].

use std::{
    hint::black_box,
    ops::Range,
    time::{Duration, Instant},
};

use compute::{DeviceError, Kind, Limits, Memory as _};

use crate::{Cpu, Isa};

/// Memory that is read in one step.
const STEP_BYTES: usize = 64 << 20;
/// And by one task, one after another: long enough for the prefetchers.
const TASK_BYTES: usize = 256 << 10;
/// Steps altogether; they walk through the memory as often as it takes.
const N_READS: usize = 64;

/// Tasks of a thread in a step of multiplications, and rounds of each.
const N_TASKS: usize = 64;
const N_ROUNDS: usize = 10_000;
const N_MULTIPLICATIONS: usize = 32;

/// How one instruction set reads and multiplies.
#[derive(Clone, Copy)]
struct Loops {
    /// Reads memory, and returns something that depends on all of it.
    read: fn(&[i32]) -> i32,
    /// Multiplies and adds bytes in registers, so many rounds.
    multiply: fn(usize),
    /// Multiply-adds of a round.
    n_mac: usize,
    /// What does them.
    name: &'static str,
}

impl Loops {
    /// # Panics
    /// The functions do where this machine lacks `isa`.
    fn of(isa: Isa) -> Loops {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::AVX2,
            #[cfg(target_arch = "x86_64")]
            // Matrix registers multiply eight times as fast, but not what has a scale per 32 values: their products leave
            // for vector registers, whose peak stays the measure.
            Isa::Avx512 | Isa::Amx => x86::AVX512,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => arm::NEON,
            _ => plain::LOOPS,
        }
    }
}

/// The limits of `cpu`, its memory read in as many whole steps as `bytes` hold; at least one.
///
/// # Errors
/// If there is no such memory.
pub(crate) fn limits(cpu: &Cpu, bytes: usize) -> Result<Limits, DeviceError> {
    let loops = Loops::of(cpu.isa);
    let n_steps = (bytes / STEP_BYTES).max(1);
    Ok(Limits {
        read_gbps: read_gbps(cpu, loops, n_steps)?,
        read_bytes: n_steps * STEP_BYTES,
        int8_gmacs: int8_gmacs(cpu, loops),
        int8_by: loops.name,
    })
}

fn read_gbps(cpu: &Cpu, loops: Loops, n_steps: usize) -> Result<f64, DeviceError> {
    const TASK: usize = TASK_BYTES / size_of::<i32>();
    let memory = cpu.alloc(Kind::I32, &[n_steps, STEP_BYTES / size_of::<i32>()])?;
    let tensors = [&memory];
    // Pages that nobody has written are all one page of zeros, which a cache holds.
    cpu.pool.rows(cpu.access(&tensors, &[]).out(0), TASK, 1, &|_, part: &mut [i32]| part.fill(1));
    let access = cpu.access(&[], &tensors);
    let steps: Vec<&[i32]> = access.input(0).chunks(STEP_BYTES / size_of::<i32>()).collect();
    let time = quickest_quarter(0..N_READS, |i| {
        let (tasks, _) = steps[i % n_steps].as_chunks::<TASK>();
        cpu.pool.split(tasks.len(), 1, &|taken| {
            black_box(taken.fold(0, |sum, t| sum ^ (loops.read)(&tasks[t])));
        });
    });
    Ok(STEP_BYTES as f64 / time.as_nanos() as f64)
}

fn int8_gmacs(cpu: &Cpu, loops: Loops) -> f64 {
    let n_tasks = N_TASKS * cpu.n_threads();
    let time = quickest_quarter(0..N_MULTIPLICATIONS, |_| {
        cpu.pool.split(n_tasks, 1, &|taken| taken.for_each(|_| (loops.multiply)(N_ROUNDS)));
    });
    (n_tasks * N_ROUNDS * loops.n_mac) as f64 / time.as_nanos() as f64
}

/// The time that a quarter of the steps, each given its number, take at most.
fn quickest_quarter(steps: Range<usize>, mut step: impl FnMut(usize)) -> Duration {
    let time = |i| {
        let start = Instant::now();
        step(i);
        start.elapsed()
    };
    let mut times: Vec<Duration> = steps.map(time).collect();
    times.sort();
    times[times.len() / 4].max(Duration::from_nanos(1))
}

/// The exclusive or of all numbers, `N` at a time, as the compiler does it with what the caller may use; `soon` is told
/// where it is.
#[inline(always)]
fn fold<const N: usize>(memory: &[i32], soon: impl Fn(&[i32; N])) -> i32 {
    let mut lanes = [0; N];
    for part in memory.as_chunks().0 {
        soon(part);
        lanes.iter_mut().zip(part).for_each(|(lane, x)| *lane ^= x);
    }
    lanes.iter().fold(0, |a, b| a ^ b)
}

/// What every machine can do, as the compiler turns it into instructions.
mod plain {
    use super::*;

    pub(super) const LOOPS: Loops =
        Loops { read: |memory| fold::<64>(memory, |_| ()), multiply, n_mac: 64, name: "plain code" };

    fn multiply(n_rounds: usize) {
        let (mut w, mut x) = ([1i8; 64], [2i8; 64]);
        let mut sum = 0i32;
        for _ in 0..n_rounds {
            let (w, x) = (black_box(&mut w), black_box(&mut x));
            sum += w.iter().zip(x).map(|(&w, &mut x)| i32::from(w) * i32::from(x)).sum::<i32>();
        }
        black_box(sum);
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    use super::*;
    use crate::dot::sdot;

    /// Sums that no instruction waits for: more than its latency times how many start per cycle.
    const N_SUMS: usize = 16;

    pub(super) const NEON: Loops = Loops {
        read: |memory| fold::<64>(memory, |_| ()),
        // SAFETY: a `Cpu` with this instruction set exists only where the machine has it.
        multiply: |n| unsafe { multiply(n) },
        n_mac: N_SUMS * 16,
        name: "sdot",
    };

    #[target_feature(enable = "neon,dotprod")]
    fn multiply(n_rounds: usize) {
        let (w, x) = (vdupq_n_s8(black_box(1)), vdupq_n_s8(black_box(2)));
        let mut sums = [vdupq_n_s32(0); N_SUMS];
        for _ in 0..n_rounds {
            for sum in &mut sums {
                *sum = sdot(*sum, w, x);
            }
        }
        black_box(sums.into_iter().fold(vdupq_n_s32(0), |a, b| vaddq_s32(a, b)));
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::{asm, x86_64::*};

    use super::*;

    /// Sums that no instruction waits for: more than the latency of the instructions times how many start per cycle.
    const N_SUMS: usize = 8;

    pub(super) const AVX2: Loops = Loops {
        // SAFETY: a `Cpu` with this instruction set exists only where the machine has it.
        read: |memory| unsafe { read_avx2(memory) },
        // SAFETY: as above.
        multiply: |n| unsafe { multiply_avx2(n) },
        n_mac: N_SUMS * 32,
        name: "vpmaddubsw, vpmaddwd, vpaddd",
    };

    pub(super) const AVX512: Loops = Loops {
        // SAFETY: as above.
        read: |memory| unsafe { read_avx512(memory) },
        // SAFETY: as above.
        multiply: |n| unsafe { multiply_avx512(n) },
        n_mac: 2 * N_SUMS * 64,
        name: "vpdpbusd",
    };

    #[target_feature(enable = "avx2")]
    fn read_avx2(memory: &[i32]) -> i32 {
        fold::<64>(memory, prefetch)
    }

    #[target_feature(enable = "avx512f")]
    fn read_avx512(memory: &[i32]) -> i32 {
        fold::<128>(memory, prefetch)
    }

    /// Asks for what comes a kibibyte later: up to a sixth faster than what the hardware asks for by itself.
    #[inline(always)]
    fn prefetch<const N: usize>(part: &[i32; N]) {
        const AHEAD: usize = 1024 / size_of::<i32>();
        for line in (0..N).step_by(16) {
            // SAFETY: every x86-64 has SSE, and a prefetch cannot fault, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(part.as_ptr().wrapping_add(AHEAD + line).cast()) };
        }
    }

    #[target_feature(enable = "avx2")]
    fn multiply_avx2(n_rounds: usize) {
        let (mut w, x, ones) = (_mm256_set1_epi8(black_box(1)), _mm256_set1_epi8(black_box(2)), _mm256_set1_epi16(1));
        let mut sums = [_mm256_setzero_si256(); N_SUMS];
        for _ in 0..n_rounds {
            for sum in &mut sums {
                // SAFETY: no instruction at all. The compiler has to take `w` for another one, and so cannot multiply
                // once for all rounds.
                unsafe { asm!("/* {0} */", inout(ymm_reg) w, options(pure, nomem, nostack, preserves_flags)) };
                let pairs = _mm256_maddubs_epi16(w, x);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        black_box(sums.into_iter().fold(_mm256_setzero_si256(), |a, b| _mm256_add_epi32(a, b)));
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn multiply_avx512(n_rounds: usize) {
        let (w, x) = (_mm512_set1_epi8(black_box(1)), _mm512_set1_epi8(black_box(2)));
        let mut sums = [_mm512_setzero_si512(); 2 * N_SUMS];
        for _ in 0..n_rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbusd_epi32(*sum, w, x));
        }
        black_box(sums.into_iter().fold(_mm512_setzero_si512(), |a, b| _mm512_add_epi32(a, b)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_read() {
        for isa in Isa::available() {
            let mut memory = vec![0; 512];
            for i in 0..memory.len() {
                memory[i] = 1 << (i % 31);
                assert_eq!((Loops::of(isa).read)(&memory), memory[i], "{} at {i}", isa.name());
                memory[i] = 0;
            }
        }
    }

    /// Work of which the compiler has done away with a part would be done in no time.
    #[test]
    fn more_rounds_take_longer() {
        for isa in Isa::available() {
            let multiply = Loops::of(isa).multiply;
            let [once, often] = [1, 16].map(|n| quickest_quarter(0..40, |_| multiply(n * 1000)));
            assert!(often > 4 * once, "{}: {once:?}, {often:?}", isa.name());
        }
    }

    #[test]
    fn a_machine_has_limits_on_every_instruction_set() {
        for isa in Isa::available() {
            let cpu = Cpu::with_isa(2, isa).expect("the system has two threads");
            let limits = limits(&cpu, 0).expect("64 MiB");
            assert_eq!(limits.read_bytes, STEP_BYTES);
            assert!(limits.read_gbps > 0.1 && limits.int8_gmacs > 0.1, "{limits:?}");
            eprintln!("{}: {limits:?}", isa.name());
        }
    }
}
