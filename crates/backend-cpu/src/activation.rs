//! How a row of activations is packed before it meets weights.
//!
//! Integer kernels want bytes. All three integer packings share one layout, [`Group`], and differ in what a scale covers
//! and how it is found. A group holds 256 values as eight blocks of 32; its bytes are interleaved so that eight bytes of
//! every block stand side by side:
//!
//! ```text
//! piece p, p in 0..4      block 0        block 1             block 7
//! 64 bytes            x[8p .. 8p+8]  x[32+8p .. +8]  ...  x[224+8p .. +8]
//! ```
//!
//! A 64-byte dot product of bytes into 32-bit lanes, run over the four pieces in turn, then leaves two lanes per block
//! and none of another block, so that scales are applied once per 256 values instead of once per register.
//!
//! | | scale over | `scale` | rounding |
//! |---|---|---|---|
//! | `Q8_0` | 32 | f16 of `max / 127` | nearest even of `x * (127 / max)` |
//! | `Q8_1` | 32 | as `Q8_0` | as `Q8_0`; the sum is `f16(d * sum q) / f16(d)` |
//! | `Q8_K` | 256 | `-m / 127`, `m` the value of largest magnitude | nearest even of `x * (-127 / m)` |
//!
//! Scales and roundings are those of ggml on x86 (`quantize_row_q8_0`, `_q8_1` in `ggml-cpu/arch/x86/quants.c`,
//! `quantize_row_q8_K_ref` in `ggml-quants.c`), so that the same weights answer with the same text.
//! A row ends in a whole group, filled up with zeros.

/// Values per [`Group`].
pub(crate) const GROUP: usize = 256;

/// What a row of f32 becomes before a dot product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the names that formats have everywhere")]
pub(crate) enum Activation {
    /// Left as it is.
    F32,
    /// Bytes with a scale per 32 values.
    Q8_0,
    /// Bytes with a scale and a rounded sum per 32 values, for weights that have a minimum.
    Q8_1,
    /// Bytes with a scale per 256 values and exact sums per 16.
    Q8_K,
}

/// 256 packed values; see the file's head for the order of the bytes.
#[repr(C, align(64))]
#[derive(Clone)]
pub(crate) struct Group {
    /// `q[p][8 b + k]` is value `32 b + 8 p + k`, in -127..=127.
    pub(crate) q: [[i8; 64]; 4],
    /// `scale[i]` belongs to values `16 i .. 16 i + 16`; both halves of a block have the same.
    pub(crate) scale: [f32; 16],
    /// The sum of `q` over values `16 i .. 16 i + 16`; in `Q8_1` a block's rounded sum, then 0.
    pub(crate) sums: [f32; 16],
    /// The sum of both halves of a block, twice.
    pub(crate) totals: [f32; 16],
    /// -128 times the sum of `q`: where a sum of products starts if 128 was added to the weights to make them unsigned.
    pub(crate) start: [i32; 16],
}

impl Group {
    pub(crate) const ZERO: Group =
        Group { q: [[0; 64]; 4], scale: [0.0; 16], sums: [0.0; 16], totals: [0.0; 16], start: [0; 16] };

    /// Byte `i` of the values in their order, for code that is in no hurry.
    pub(crate) fn value(&self, i: usize) -> i8 {
        self.q[i % 32 / 8][i / 32 * 8 + i % 8]
    }
}

/// The first `n` groups of a packed row.
///
/// # Panics
/// If there are fewer, or the row does not start on a cache line.
#[inline]
pub(crate) fn groups(row: &[u8], n: usize) -> &[Group] {
    assert!(row.len() >= n * size_of::<Group>() && row.as_ptr().cast::<Group>().is_aligned(), "a packed row");
    // SAFETY: long enough and aligned; a group is integers and floats without padding, which any bytes make.
    unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), n) }
}

fn groups_mut(row: &mut [u8]) -> &mut [Group] {
    // SAFETY: any bytes make a group, and any group is bytes.
    let (before, groups, _) = unsafe { row.align_to_mut::<Group>() };
    assert!(before.is_empty(), "packed rows start on a cache line");
    groups
}

impl Activation {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Activation; 4] = [Activation::F32, Activation::Q8_0, Activation::Q8_1, Activation::Q8_K];

    /// Bytes of a packed row of `n` values.
    pub(crate) fn row_bytes(self, n: usize) -> usize {
        match self {
            Activation::F32 => 4 * n,
            _ => n.div_ceil(GROUP) * size_of::<Group>(),
        }
    }

    /// Packs the row `x` into `out`, [`Self::row_bytes`] long and, but for `F32`, on a cache line.
    pub(crate) fn pack(self, x: &[f32], out: &mut [u8]) {
        assert_eq!(out.len(), self.row_bytes(x.len()), "a packed row of {} values", x.len());
        if self == Activation::F32 {
            out.as_chunks_mut().0.iter_mut().zip(x).for_each(|(out, x)| *out = x.to_ne_bytes());
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: just detected.
            return unsafe { self.pack_avx2(x, groups_mut(out)) };
        }
        self.pack_groups(x, groups_mut(out));
    }

    /// The same code, compiled for wider registers; the result is the same bit for bit, as nothing is fused.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn pack_avx2(self, x: &[f32], out: &mut [Group]) {
        self.pack_groups(x, out);
    }

    #[inline(always)]
    fn pack_groups(self, x: &[f32], out: &mut [Group]) {
        let (whole, rest) = x.as_chunks();
        // Loops, not closures: those would be compiled without the features of `pack_avx2`.
        for (x, group) in whole.iter().zip(&mut *out) {
            self.pack_group(x, group);
        }
        if !rest.is_empty() {
            let mut x = [0.0; GROUP];
            x[..rest.len()].copy_from_slice(rest);
            self.pack_group(&x, &mut out[whole.len()]);
        }
    }

    #[inline(always)]
    fn pack_group(self, x: &[f32; GROUP], group: &mut Group) {
        *group = Group::ZERO;
        let blocks: &[[f32; 32]; 8] = x.as_chunks().0.try_into().expect("256 values are eight blocks");
        if self == Activation::Q8_K {
            let (scale, inverse) = scale_of_256(x);
            group.scale = [scale; 16];
            for (b, x) in blocks.iter().enumerate() {
                pack_block(x, inverse, b, group);
            }
            return;
        }
        for (b, x) in blocks.iter().enumerate() {
            let max = max_magnitude(x);
            let (exact, inverse) = if max == 0.0 { (0.0, 0.0) } else { (max / 127.0, 127.0 / max) };
            let scale = round_to_f16(exact);
            group.scale[2 * b..2 * b + 2].fill(scale);
            pack_block(x, inverse, b, group);
            if self == Activation::Q8_1 {
                let sum = round_to_f16(exact * (group.sums[2 * b] + group.sums[2 * b + 1]));
                group.sums[2 * b] = if scale == 0.0 { 0.0 } else { sum / scale };
                group.sums[2 * b + 1] = 0.0;
                group.totals[2 * b..2 * b + 2].fill(group.sums[2 * b]);
            }
        }
    }
}

/// Rounds block `b` and adds up its halves.
#[inline(always)]
fn pack_block(x: &[f32; 32], inverse: f32, b: usize, group: &mut Group) {
    // Adding 1.5 * 2^23 rounds to the nearest whole number, ties to even, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    for i in 0..2 {
        let mut sum = 0;
        for p in 2 * i..2 * i + 2 {
            let (x, out) = (&x[8 * p..8 * p + 8], &mut group.q[p][8 * b..8 * b + 8]);
            for k in 0..8 {
                let q = (x[k] * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
                let q = q.clamp(-127, 127);
                out[k] = q as i8;
                sum += q;
            }
        }
        group.sums[2 * b + i] = sum as f32;
        group.start[2 * b + i] = -128 * sum;
    }
    group.totals[2 * b..2 * b + 2].fill(group.sums[2 * b] + group.sums[2 * b + 1]);
}

/// The largest magnitude; as integers, floats without a sign keep their order.
#[inline(always)]
fn max_magnitude(x: &[f32]) -> f32 {
    let mut max = 0;
    for x in x {
        max = max.max(x.abs().to_bits());
    }
    f32::from_bits(max)
}

/// The f16 nearest to `x`, ties to even, as f32: without a call, and so in registers.
#[inline(always)]
fn round_to_f16(x: f32) -> f32 {
    const SMALLEST_NORMAL: f32 = 1.0 / 16_384.0;
    const TOO_LARGE: f32 = 65_536.0;
    let magnitude = x.abs();
    let bits = magnitude.to_bits();
    let rounded = if magnitude < SMALLEST_NORMAL {
        (magnitude + 0.5) - 0.5 // leaves multiples of 2^-24
    } else {
        f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff)
    };
    if rounded >= TOO_LARGE { f32::INFINITY.copysign(x) } else { rounded.copysign(x) }
}

/// The scale that takes the first value of largest magnitude to -127, and its inverse.
#[inline(always)]
fn scale_of_256(x: &[f32; GROUP]) -> (f32, f32) {
    let max = max_magnitude(x);
    // By bits, so that what is no number is found, too, and makes a scale that is none.
    let extreme = x.iter().copied().find(|x| x.abs().to_bits() == max.to_bits()).unwrap_or(0.0);
    if extreme == 0.0 {
        return (0.0, 0.0);
    }
    let inverse = -127.0 / extreme;
    (1.0 / inverse, inverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of packed bytes on a cache line.
    fn pack(activation: Activation, x: &[f32]) -> Vec<Group> {
        let mut out = vec![Group::ZERO; x.len().div_ceil(GROUP)];
        // SAFETY: a group may be written as bytes.
        let bytes = unsafe { out.align_to_mut::<u8>().1 };
        activation.pack(x, bytes);
        out
    }

    fn wave(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.7).sin() * (1.0 + (i % 37) as f32)).collect()
    }

    #[test]
    fn packing_errs_by_half_a_step() {
        let x = wave(800);
        for activation in [Activation::Q8_0, Activation::Q8_1, Activation::Q8_K] {
            let packed = pack(activation, &x);
            for (i, &x) in x.iter().enumerate() {
                let group = &packed[i / GROUP];
                let scale = group.scale[i % GROUP / 16];
                let y = scale * f32::from(group.value(i % GROUP));
                // Half a step, and what rounding the scale to f16 moves 127 steps.
                assert!((x - y).abs() <= scale.abs() * (0.5 + 127.0 / 2048.0), "{activation:?} {i}: {x} {y}");
            }
        }
    }

    #[test]
    fn sums_are_those_of_the_bytes() {
        let x = wave(512);
        for group in pack(Activation::Q8_K, &x) {
            for i in 0..16 {
                let sum: i32 = (0..16).map(|k| i32::from(group.value(16 * i + k))).sum();
                assert_eq!(group.sums[i], sum as f32);
            }
        }
    }

    #[test]
    fn what_is_no_number_makes_a_scale_that_is_none() {
        for activation in [Activation::Q8_0, Activation::Q8_1, Activation::Q8_K] {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = wave(256);
                x[5] = bad;
                assert!(!pack(activation, &x)[0].scale[0].is_finite(), "{activation:?} {bad}");
            }
        }
    }

    #[test]
    fn scales_round_as_f16_do() {
        for i in 0..100_000u32 {
            let x = f32::from_bits(i.wrapping_mul(2_654_435_761));
            let expected = half::f16::from_f32(x).to_f32();
            let actual = round_to_f16(x);
            assert!(
                actual.to_bits() == expected.to_bits() || x.is_nan() && !actual.is_finite(),
                "{x}: {actual}, not {expected}"
            );
        }
    }

    #[test]
    fn halves_round_to_even_and_the_largest_value_becomes_minus_127() {
        let mut x = [0.0; 256];
        x[..4].copy_from_slice(&[127.0, 0.5, 1.5, -2.5]);
        let group = &pack(Activation::Q8_0, &x)[0];
        assert_eq!([0, 1, 2, 3].map(|i| group.value(i)), [127, 0, 2, -2]);
        let group = &pack(Activation::Q8_K, &x)[0];
        assert_eq!([0, 1, 2, 3].map(|i| group.value(i)), [-127, 0, -2, 2]);
        assert_eq!(group.scale[0], -1.0);
    }

    #[test]
    fn zeros_and_what_lies_past_the_end_pack_to_zeros() {
        for activation in [Activation::Q8_0, Activation::Q8_1, Activation::Q8_K] {
            let packed = pack(activation, &[0.0; 32]);
            assert!(packed.iter().all(|g| g.q == [[0; 64]; 4] && g.scale == [0.0; 16] && g.sums == [0.0; 16]));
        }
    }
}
