//! Loops over f32 that are not matrix products: written once as plain Rust, compiled for every instruction set.
//!
//! Each loop keeps a fixed number of lanes, so its result does not depend on how the compiler cuts it; instruction
//! sets differ only in fused multiply-adds.

use crate::dot::Isa;

/// Lanes of a sum: one AVX-512 register, two of AVX2.
const LANES: usize = 16;
/// Columns that [`Vector::mix4`] keeps in registers for each head.
const TILE: usize = 32;

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
    /// `y[h] = sum_j p[h][j] * rows[j]` for four heads over rows of `y[h].len()` elements, `stride` apart
    pub(crate) mix4: fn([&mut [f32]; 4], [&[f32]; 4], &[f32], usize),
    /// Element by element over rows of the same length: `y = sum_s softmax_s(gate_s) * kv_s`
    pub(crate) pool: fn(&mut [f32], &[(&[f32], &[f32])]),
}

impl Vector {
    pub(crate) fn new(isa: Isa) -> Vector {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::VECTOR,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::VECTOR,
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
        let x = g.min(limit);
        *g = x / (1.0 + exp::<FMA>(-x)) * u.clamp(-limit, limit) * scale;
    }
}

#[inline(always)]
fn mix4<const FMA: bool>(y: [&mut [f32]; 4], p: [&[f32]; 4], rows: &[f32], stride: usize) {
    let width = y[0].len();
    let [y0, y1, y2, y3] = y;
    let mut start = 0;
    while start + TILE <= width {
        let mut sums = [[0.0f32; TILE]; 4];
        for j in 0..p[0].len() {
            let row: &[f32; TILE] = rows[j * stride + start..][..TILE].try_into().expect("TILE long");
            for (sum, p) in sums.iter_mut().zip(p) {
                let p = p[j];
                for i in 0..TILE {
                    sum[i] = madd::<FMA>(p, row[i], sum[i]);
                }
            }
        }
        for (y, sum) in [&mut *y0, &mut *y1, &mut *y2, &mut *y3].into_iter().zip(&sums) {
            y[start..start + TILE].copy_from_slice(sum);
        }
        start += TILE;
    }
    for (y, p) in [y0, y1, y2, y3].into_iter().zip(p) {
        for i in start..width {
            y[i] = (0..p.len()).fold(0.0, |sum, j| madd::<FMA>(p[j], rows[j * stride + i], sum));
        }
    }
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
            instance!(@loop $fma, $feature, sum_sq(x: &[f32]) -> f32);
            instance!(@loop $fma, $feature, axpy(y: &mut [f32], a: f32, x: &[f32]) -> ());
            instance!(@loop $fma, $feature, exp_sum(x: &mut [f32], max: f32) -> f32);
            instance!(@loop $fma, $feature, swiglu(gate: &mut [f32], up: &[f32], limit: f32, scale: f32) -> ());
            instance!(@loop $fma, $feature, mix4(y: [&mut [f32]; 4], p: [&[f32]; 4], rows: &[f32], stride: usize) -> ());
            instance!(@loop $fma, $feature, pool(y: &mut [f32], slots: &[(&[f32], &[f32])]) -> ());
            pub(super) const VECTOR: super::Vector = super::Vector { sum_sq, axpy, exp_sum, swiglu, mix4, pool };
        }
    };
    (@loop $fma:literal, $feature:literal, $f:ident($($arg:ident: $t:ty),*) -> $ret:ty) => {
        fn $f($($arg: $t),*) -> $ret {
            #[target_feature(enable = $feature)]
            fn compiled($($arg: $t),*) -> $ret {
                super::$f::<$fma>($($arg),*)
            }
            // SAFETY: `Vector::new` hands this out only for an instruction set that was detected.
            unsafe { compiled($($arg),*) }
        }
    };
}

instance!(avx2, true, "avx2,fma");
instance!(avx512, true, "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma");

mod scalar {
    use super::{Vector, axpy, exp_sum, mix4, pool, sum_sq, swiglu};

    pub(super) const VECTOR: Vector = Vector {
        sum_sq: sum_sq::<false>,
        axpy: axpy::<false>,
        exp_sum: exp_sum::<false>,
        swiglu: swiglu::<false>,
        mix4: mix4::<false>,
        pool: pool::<false>,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
