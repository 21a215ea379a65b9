//! Loops over f32 that are not matrix products: written once as plain Rust, compiled for every instruction set of x86.
//! Elsewhere the target's own features count.
//!
//! Each loop keeps a fixed number of lanes, so its result does not depend on how the compiler cuts it; instruction
//! sets differ only in fused multiply-adds.

use quant::{RowFormat, fp4, fp8};

use crate::dot::Isa;

#[cfg(target_arch = "x86_64")]
mod halves;
#[cfg(target_arch = "x86_64")]
mod mix;

/// Lanes of a sum: one AVX-512 register, two of AVX2.
const LANES: usize = 16;

/// The loops for one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Vector {
    /// `sum_i x[i]^2`
    pub(crate) sum_sq: fn(&[f32]) -> f32,
    /// `y += a * x`
    pub(crate) axpy: fn(&mut [f32], f32, &[f32]),
    /// `x = e^(x - max)`; returns the sum
    pub(crate) exp_sum: fn(&mut [f32], f32) -> f32,
    /// `gate = scale * silu(min(gate, limit)) * clamp(up, -limit, limit)`
    pub(crate) swiglu: fn(&mut [f32], &[f32], f32, f32),
    /// `y[h * y_stride ..] += sum_j p[h * p_stride + j] * rows[j]` over rows of `width` elements, for up to four heads
    /// as long as `y` goes: `y, y_stride, p, p_stride, rows, width`
    pub(crate) mix: fn(&mut [f32], usize, &[f32], usize, &[f32], usize),
    /// What [`RowFormat::decode_row`] does.
    pub(crate) unpack: fn(RowFormat, &[u8], &mut [f32]),
    /// Element by element over rows of the same length: `y = sum_s softmax_s(gate_s) * kv_s`
    pub(crate) pool: fn(&mut [f32], &[(&[f32], &[f32])]),
}

impl Vector {
    /// # Panics
    /// If this machine lacks `isa`.
    pub(crate) fn new(isa: Isa) -> Vector {
        assert!(isa.is_available(), "this machine has no {}", isa.name());
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::VECTOR,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512::VECTOR,
            _ => scalar::VECTOR,
        }
    }
}

/// `a * b + c`, fused where the instruction set can.
#[inline(always)]
fn madd<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The sum of all lanes, always in the same order.
#[inline(always)]
fn reduce(mut lanes: [f32; LANES]) -> f32 {
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
    }
    lanes[0]
}

/// `e^x` to 2 units in the last place: `2^n * e^r` with `|r| <= ln 2 / 2` and a polynomial for `e^r`.
#[inline(always)]
fn exp<const FMA: bool>(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4; // 355/512: `n * LN2_HIGH` is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = madd::<FMA>(n, -LN2_LOW, madd::<FMA>(n, -LN2_HIGH, x));
    let mut p = 1.987_569_2e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5, 1.0, 1.0] {
        p = madd::<FMA>(p, r, c);
    }
    // `n` is a small whole number: shifted by 1.5 * 2^23 it stands in the low bits.
    let bits = (n + 12_582_912.0).to_bits().wrapping_add(127) << 23;
    p * f32::from_bits(bits)
}

#[inline(always)]
fn sum_sq<const FMA: bool>(x: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = madd::<FMA>(chunk[i], chunk[i], lanes[i]);
        }
    }
    rest.iter().enumerate().for_each(|(i, &x)| lanes[i] = madd::<FMA>(x, x, lanes[i]));
    reduce(lanes)
}

#[inline(always)]
fn axpy<const FMA: bool>(y: &mut [f32], a: f32, x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = madd::<FMA>(a, x, *y));
}

#[inline(always)]
fn exp_sum<const FMA: bool>(x: &mut [f32], max: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = exp::<FMA>(chunk[i] - max);
            lanes[i] += chunk[i];
        }
    }
    for (i, x) in rest.iter_mut().enumerate() {
        *x = exp::<FMA>(*x - max);
        lanes[i] += *x;
    }
    reduce(lanes)
}

#[inline(always)]
fn swiglu<const FMA: bool>(gate: &mut [f32], up: &[f32], limit: f32, scale: f32) {
    for (g, &u) in gate.iter_mut().zip(up) {
        let x = if *g > limit { limit } else { *g }; // `min` would make a number of NaN
        let odd = 0.0 * *g + 0.0 * u; // 0, or NaN where the limit would make a number of infinity
        *g = x / (1.0 + exp::<FMA>(-x)) * u.clamp(-limit, limit) * scale + odd;
    }
}

/// For machines without wide registers; the others have [`mix`].
fn plain_mix(y: &mut [f32], y_stride: usize, p: &[f32], p_stride: usize, rows: &[f32], width: usize) {
    for (y, p) in y.chunks_mut(y_stride).zip(p.chunks(p_stride)) {
        for (row, &p) in rows.chunks_exact(width).zip(p) {
            axpy::<false>(&mut y[..width], p, row);
        }
    }
}

/// For machines that do not convert halves themselves; the others have [`halves`].
fn plain_unpack(format: RowFormat, bytes: &[u8], out: &mut [f32]) {
    match format {
        RowFormat::F16 => unpack_f16(bytes, out),
        _ => unpack_codes::<false>(format, bytes, out),
    }
}

#[inline(always)]
fn unpack_codes<const FMA: bool>(format: RowFormat, bytes: &[u8], out: &mut [f32]) {
    match format {
        RowFormat::Fp8 { n_rope } => {
            let n = out.len() - n_rope;
            let (out, positional) = out.split_at_mut(n);
            let (codes, bytes) = bytes.split_at(n);
            let (exponents, singles) = bytes.split_at(n.div_ceil(fp8::BLOCK_LEN));
            for ((out, codes), &e) in out.chunks_mut(fp8::BLOCK_LEN).zip(codes.chunks(fp8::BLOCK_LEN)).zip(exponents) {
                let scale = f32::from_bits(u32::from(e) << 23); // 2^(e - 127)
                for (out, &code) in out.iter_mut().zip(codes) {
                    *out = e4m3(code) * scale;
                }
            }
            RowFormat::F32.decode_row(singles, positional);
        }
        RowFormat::Fp4 => {
            let (codes, exponents) = bytes.split_at(out.len().div_ceil(2));
            let blocks = out.chunks_mut(fp4::BLOCK_LEN).zip(codes.chunks(fp4::BLOCK_LEN / 2));
            for ((out, codes), &e) in blocks.zip(exponents) {
                let scale = f32::from_bits(u32::from(e) << 23); // 2^(e - 127)
                let (pairs, last) = out.as_chunks_mut::<2>();
                for (pair, &byte) in pairs.iter_mut().zip(codes) {
                    *pair = [e2m1(byte & 15) * scale, e2m1(byte >> 4) * scale];
                }
                last.iter_mut().for_each(|v| *v = e2m1(codes[codes.len() - 1] & 15) * scale);
            }
        }
        RowFormat::F16 | RowFormat::F32 => format.decode_row(bytes, out),
    }
}

/// See [`fp4::decode`].
#[inline(always)]
fn e2m1(code: u8) -> f32 {
    let (magnitude, sign) = (u32::from(code & 7), u32::from(code & 8) << 28);
    let normal = (magnitude << 22) + (126 << 23);
    let small = (magnitude as f32 * 0.5).to_bits();
    f32::from_bits(if magnitude < 2 { small } else { normal } | sign)
}

/// Little-endian halves: bits moved and the exponent's bias changed, or for the smallest a whole number scaled.
#[inline(always)]
fn unpack_f16(bytes: &[u8], out: &mut [f32]) {
    for (out, half) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        let half = u32::from(u16::from_le_bytes(*half));
        let (magnitude, sign) = (half & 0x7fff, (half & 0x8000) << 16);
        let normal = (magnitude << 13) + (112 << 23);
        let small = (magnitude as f32 * (1.0 / 16_777_216.0)).to_bits();
        let endless = magnitude << 13 | 0x7f80_0000;
        let bits = if magnitude < 0x0400 { small } else { normal };
        let bits = if magnitude >= 0x7c00 { endless } else { bits };
        *out = f32::from_bits(bits | sign);
    }
}

/// See [`fp8::decode`].
#[inline(always)]
fn e4m3(code: u8) -> f32 {
    let (magnitude, sign) = (u32::from(code & 127), u32::from(code & 128) << 24);
    let normal = (magnitude << 20) + (120 << 23);
    let small = (magnitude as f32 * (1.0 / 512.0)).to_bits();
    let bits = if magnitude < 8 { small } else { normal };
    let bits = if magnitude == 127 { f32::NAN.to_bits() } else { bits };
    f32::from_bits(bits | sign)
}

#[inline(always)]
fn pool<const FMA: bool>(y: &mut [f32], slots: &[(&[f32], &[f32])]) {
    let mut start = 0;
    while start < y.len() {
        let n = LANES.min(y.len() - start);
        let (mut max, mut sum, mut mixed) = ([f32::NEG_INFINITY; LANES], [0.0f32; LANES], [0.0f32; LANES]);
        for (_, gate) in slots {
            (0..n).for_each(|i| max[i] = max[i].max(gate[start + i]));
        }
        for (kv, gate) in slots {
            for i in 0..n {
                let e = exp::<FMA>(gate[start + i] - max[i]);
                sum[i] += e;
                mixed[i] = madd::<FMA>(e, kv[start + i], mixed[i]);
            }
        }
        (0..n).for_each(|i| y[start + i] = mixed[i] / sum[i]);
        start += n;
    }
}

/// The loops compiled with the features of one instruction set.
macro_rules! instance {
    ($name:ident, $fma:literal, $feature:literal) => {
        #[cfg(target_arch = "x86_64")]
        mod $name {
            use quant::RowFormat;

            instance!(@loop $fma, $feature, sum_sq(x: &[f32]) -> f32);
            instance!(@loop $fma, $feature, axpy(y: &mut [f32], a: f32, x: &[f32]) -> ());
            instance!(@loop $fma, $feature, exp_sum(x: &mut [f32], max: f32) -> f32);
            instance!(@loop $fma, $feature, swiglu(gate: &mut [f32], up: &[f32], limit: f32, scale: f32) -> ());
            instance!(@loop $fma, $feature, unpack_codes(format: RowFormat, bytes: &[u8], out: &mut [f32]) -> ());
            instance!(@loop $fma, $feature, pool(y: &mut [f32], slots: &[(&[f32], &[f32])]) -> ());
            fn unpack(format: RowFormat, bytes: &[u8], out: &mut [f32]) {
                match format {
                    RowFormat::F16 => super::halves::unpack(bytes, out),
                    _ => unpack_codes(format, bytes, out),
                }
            }
            pub(super) const VECTOR: super::Vector =
                super::Vector { sum_sq, axpy, exp_sum, swiglu, mix: super::mix::$name::mix, unpack, pool };
        }
    };
    (@loop $fma:literal, $feature:literal, $f:ident($($arg:ident: $t:ty),*) -> $ret:ty) => {
        fn $f($($arg: $t),*) -> $ret {
            #[target_feature(enable = $feature)]
            fn compiled($($arg: $t),*) -> $ret {
                super::$f::<$fma>($($arg),*)
            }
            // SAFETY: private to `vector`, where `Vector::new` hands it out for an instruction set that it found.
            unsafe { compiled($($arg),*) }
        }
    };
}

instance!(avx2, true, "avx2,fma");
instance!(avx512, true, "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma");

mod scalar {
    use super::{Vector, axpy, exp_sum, plain_mix, plain_unpack, pool, sum_sq, swiglu};

    pub(super) const VECTOR: Vector = Vector {
        sum_sq: sum_sq::<false>,
        axpy: axpy::<false>,
        exp_sum: exp_sum::<false>,
        swiglu: swiglu::<false>,
        mix: plain_mix,
        unpack: plain_unpack,
        pool: pool::<false>,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_handed_out_for_what_this_machine_has() {
        for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Neon] {
            let handed_out = std::panic::catch_unwind(|| Vector::new(isa)).is_ok();
            assert_eq!(handed_out, isa.is_available(), "{isa:?}");
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for isa in Isa::available() {
            for i in -8700..8800 {
                let (x, mut y) = (i as f32 / 100.0, [i as f32 / 100.0]);
                let (sum, exact) = ((Vector::new(isa).exp_sum)(&mut y, 0.0), f64::from(x).exp());
                assert!((f64::from(sum) - exact).abs() <= exact * 2.5e-7, "{isa:?}: e^{x} = {sum}, not {exact}");
            }
        }
    }

    #[test]
    fn pooling_is_a_softmax_per_element() {
        let gate = [[0.0, 1.0, -80.0].repeat(7), [0.0, -1.0, 80.0].repeat(7)];
        let kv = [[1.0; 21], [3.0; 21]];
        for isa in Isa::available() {
            let mut y = [0.0; 21];
            (Vector::new(isa).pool)(&mut y, &[(&kv[0], &gate[0]), (&kv[1], &gate[1])]);
            for y in y.chunks(3) {
                let two = 1.0 + 2.0 / (1.0 + 2f32.exp());
                assert!((y[0] - 2.0).abs() < 1e-6 && (y[1] - two).abs() < 1e-6 && y[2] == 3.0, "{isa:?}: {y:?}");
            }
        }
    }

    #[test]
    fn rows_unpack_as_quant_says_whatever_their_bytes() {
        let bits = |x: &[f32]| x.iter().map(|v| if v.is_nan() { 0 } else { v.to_bits() }).collect::<Vec<u32>>();
        let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let codes: Vec<u8> = (0..4).flat_map(|_| 0..=255).collect();
        let exponents = (0..16).map(|i| i * 17);
        let fp8: Vec<u8> = codes.iter().copied().chain(exponents).chain(halves[..4 * 32].iter().copied()).collect();
        let fp4_codes: Vec<u8> = (0..=255).chain((0..16).map(|i| i * 17)).collect();
        let odd: Vec<u8> = (0..17).chain([120, 130]).collect();
        for (format, bytes, n) in [
            (RowFormat::F16, &halves, 1 << 16),
            (RowFormat::Fp8 { n_rope: 32 }, &fp8, 1024 + 32),
            (RowFormat::Fp4, &fp4_codes, 512),
            (RowFormat::Fp4, &odd, 33),
        ] {
            let mut expected = vec![0.0; n];
            format.decode_row(bytes, &mut expected);
            for isa in Isa::available() {
                let mut actual = vec![0.0; n];
                (Vector::new(isa).unpack)(format, bytes, &mut actual);
                assert!(bits(&actual) == bits(&expected), "{format:?} {isa:?}");
            }
        }
    }
}
