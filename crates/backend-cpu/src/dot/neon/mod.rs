//! Kernels for ARM with products of bytes: NEON, and `sdot`, which most cores since 2018 have.
//!
//! As in `avx2/`: weights are unpacked 128 at a time, four blocks of 32, and laid out like the halves of a [`Group`]'s
//! pieces, so that a register of sums belongs to a block per lane. But `sdot` takes signed bytes on both sides: levels
//! have their offsets taken off, and only formats with a minimum of their own have something to subtract.
//!
//! | file | formats |
//! |---|---|
//! | `float.rs` | `F32`, `F16`, `BF16` |
//! | `legacy.rs` | blocks of 32: `Q4_0` to `Q8_0`, `IQ4_NL`, `MXFP4` |
//! | `k_quants.rs` | `Q2_K` to `Q6_K` |
//! | `iq.rs` | the formats with a codebook: `IQ2_*`, `IQ3_*`, `IQ4_XS` |
//! | `panel.rs` | all but floats, for batches |
//!
//! Nothing is asked of memory ahead of time: whether that helps was never measured on such a machine.
//!
//! Every function names all features, needed or not: what has fewer than the closures it takes cannot inline them.
#![allow(clippy::needless_range_loop, reason = "loops over registers index several arrays, and unroll")]

mod float;
mod iq;
mod k_quants;
mod legacy;
mod panel;

use std::arch::{aarch64::*, asm, is_aarch64_feature_detected};

use quant::Format;

use super::{Kernel, pad, panel::WeightBlock, simd};
use crate::activation::{Activation, Group, groups};

/// Whether this machine can run these kernels.
pub(super) fn is_available() -> bool {
    is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod")
}

/// The kernel of an integer format, given what its factors belong to, and what unpacks 128 weights.
macro_rules! integer {
    ($activation:ident, $form:ident, $decode:path) => {{
        use $decode as decode;
        #[target_feature(enable = "neon,dotprod")]
        fn dot<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
            super::neon::dot::<N, _, $form>(w, x, |w| decode::<0>(w), |w| decode::<1>(w))
        }
        #[target_feature(enable = "neon,dotprod")]
        fn unpack(w: &[u8], row_bytes: usize, out: &mut [WeightBlock]) {
            panel::unpack(w, row_bytes, out, |w| decode::<0>(w), |w| decode::<1>(w));
        }
        // SAFETY: `super::kernel` refuses instruction sets that this machine lacks.
        let panels = panel::panels::<$form>(|w, row_bytes, out| unsafe { unpack(w, row_bytes, out) });
        Kernel { panels: Some(panels), ..simd!($activation, dot) }
    }};
}

/// The kernel for `format`, if there is one; only for machines where [`is_available`].
pub(super) fn kernel(format: Format) -> Option<Kernel> {
    Some(match format {
        Format::F32 => simd!(F32, float::f32),
        Format::F16 => simd!(F32, float::f16),
        Format::BF16 => simd!(F32, float::bf16),
        Format::Q4_0 => integer!(Q8_0, PLAIN, legacy::q4_0),
        Format::Q4_1 => integer!(Q8_1, MINS, legacy::q4_1),
        Format::Q5_0 => integer!(Q8_0, PLAIN, legacy::q5_0),
        Format::Q5_1 => integer!(Q8_1, MINS, legacy::q5_1),
        Format::Q8_0 => integer!(Q8_0, PLAIN, legacy::q8_0),
        Format::IQ4_NL => integer!(Q8_0, PLAIN, legacy::iq4_nl),
        Format::MXFP4 => integer!(Q8_0, PLAIN, legacy::mxfp4),
        Format::Q2_K => integer!(Q8_K, MINS_16, k_quants::q2_k),
        Format::Q3_K => integer!(Q8_K, BY_16, k_quants::q3_k),
        Format::Q4_K => integer!(Q8_K, MINS, k_quants::q4_k),
        Format::Q5_K => integer!(Q8_K, MINS, k_quants::q5_k),
        Format::Q6_K => integer!(Q8_K, BY_16, k_quants::q6_k),
        Format::IQ2_XXS => integer!(Q8_K, PLAIN, iq::iq2_xxs),
        Format::IQ2_XS => integer!(Q8_K, BY_16, iq::iq2_xs),
        Format::IQ2_S => integer!(Q8_K, BY_16, iq::iq2_s),
        Format::IQ3_XXS => integer!(Q8_K, PLAIN, iq::iq3_xxs),
        Format::IQ3_S => integer!(Q8_K, PLAIN, iq::iq3_s),
        Format::IQ4_XS => integer!(Q8_K, PLAIN, iq::iq4_xs),
        _ => return None,
    })
}

/// `w = a * level`
const PLAIN: u8 = 0;
/// `w = a * level - b`
const MINS: u8 = 1;
/// `w = a * level`, but the halves of a block of 32 have an `a` of their own.
const BY_16: u8 = 2;
/// `w = a * level - b`, but these have an `a` and a `b` of their own.
const MINS_16: u8 = 3;

/// Four blocks of 32 levels, in their order.
type Blocks = [[int8x16_t; 2]; 4];
/// A factor of four blocks, and that of their second halves. Where both are the same only the first is looked at.
type Factors = [float32x4_t; 2];

/// 128 weights, half of a [`Group`]: `w = a * q - b`.
struct Weights {
    q: Blocks,
    a: Factors,
    b: Factors,
}

impl Weights {
    /// [`PLAIN`]
    #[target_feature(enable = "neon,dotprod")]
    #[inline]
    fn plain(q: Blocks, a: float32x4_t) -> Weights {
        Weights::by_16(q, [a; 2])
    }

    /// [`MINS`]
    #[target_feature(enable = "neon,dotprod")]
    #[inline]
    fn mins(q: Blocks, a: float32x4_t, b: float32x4_t) -> Weights {
        Weights { q, a: [a; 2], b: [b; 2] }
    }

    /// [`BY_16`]
    #[target_feature(enable = "neon,dotprod")]
    #[inline]
    fn by_16(q: Blocks, a: Factors) -> Weights {
        Weights { q, a, b: [vdupq_n_f32(0.0); 2] }
    }
}

/// The dot products of a row of weights, `BYTES` per 256 of them, with the rows `x`.
///
/// `first` and `second` unpack 128 each. `FORM` says what factors belong to. A row of blocks of 32 may end within the
/// 256: the rest counts as zeros.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn dot<const N: usize, const BYTES: usize, const FORM: u8>(
    w: &[u8],
    x: [&[u8]; N],
    first: impl Fn(&[u8; BYTES]) -> Weights,
    second: impl Fn(&[u8; BYTES]) -> Weights,
) -> [f32; N] {
    let (whole, rest) = w.as_chunks::<BYTES>();
    let padded;
    let mut last: &[[u8; BYTES]] = &[];
    if !rest.is_empty() {
        padded = [pad(rest)];
        last = &padded;
    }
    let mut x_groups: [&[Group]; N] = [&[]; N];
    for c in 0..N {
        x_groups[c] = groups(x[c], whole.len() + last.len());
    }
    let mut sums = [[vdupq_n_f32(0.0); 2]; N];
    let mut g = 0;
    for part in [whole, last] {
        for bytes in part {
            for half in 0..2 {
                let w = if half == 0 { first(bytes) } else { second(bytes) };
                let pieces = interleave(&w.q);
                for c in 0..N {
                    // SAFETY: a column was cut to as many groups as the parts have together. Checks take time here.
                    let x = unsafe { x_groups[c].get_unchecked(g) };
                    let products = products::<FORM>(&pieces, x, half);
                    let (scale, sums_of_x) = (pairs(&x.scale, half)[0], pairs(&x.sums, half));
                    sums[c][half] = finish::<FORM>(sums[c][half], products, w.a, w.b, scale, sums_of_x);
                }
            }
            g += 1;
        }
    }
    sums.map(|[first, second]| reduce(vaddq_f32(first, second)))
}

/// `q . x` of four blocks: of their halves if `FORM` tells these apart, else of all and nothing.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn products<const FORM: u8>(q: &[[int8x16_t; 4]; 2], x: &Group, half: usize) -> [float32x4_t; 2] {
    // Two blocks have two lanes each.
    let mut sums = [[vdupq_n_s32(0); 2]; 2];
    for j in 0..2 {
        for p in 0..4 {
            let i = if has_halves(FORM) { p / 2 } else { 0 };
            sums[i][j] = sdot(sums[i][j], q[j][p], load_i8(&x.q[p], 32 * half + 16 * j));
        }
    }
    let mut products = [vdupq_n_f32(0.0); 2];
    for i in 0..2 {
        products[i] = vcvtq_f32_s32(vpaddq_s32(sums[i][0], sums[i][1]));
    }
    products
}

/// `sum + scale * (a * (q . x) - b * (1 . x))`, given the last of these for both halves.
///
/// Lanes are blocks in a dot product, columns in a panel: written once, so that both round alike.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn finish<const FORM: u8>(
    sum: float32x4_t,
    products: [float32x4_t; 2],
    a: Factors,
    b: Factors,
    scale: float32x4_t,
    sums: [float32x4_t; 2],
) -> float32x4_t {
    let mut total = vmulq_f32(products[0], a[0]);
    if has_halves(FORM) {
        total = vfmaq_f32(total, products[1], a[1]);
    }
    total = match FORM {
        MINS => vfmsq_f32(total, vaddq_f32(sums[0], sums[1]), b[0]),
        MINS_16 => vfmsq_f32(vfmsq_f32(total, sums[0], b[0]), sums[1], b[1]),
        _ => total,
    };
    vfmaq_f32(sum, total, scale)
}

/// Whether the halves of a block have factors of their own.
const fn has_halves(form: u8) -> bool {
    matches!(form, BY_16 | MINS_16)
}

/// Four blocks of 32 to eight bytes of each: the pieces of the first two, and of the others.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn interleave(blocks: &Blocks) -> [[int8x16_t; 4]; 2] {
    let mut pieces = [[vdupq_n_s8(0); 4]; 2];
    for j in 0..2 {
        for p in 0..4 {
            let [a, b] = [blocks[2 * j][p / 2], blocks[2 * j + 1][p / 2]].map(|q| vreinterpretq_s64_s8(q));
            pieces[j][p] = vreinterpretq_s8_s64(if p % 2 == 0 { vzip1q_s64(a, b) } else { vzip2q_s64(a, b) });
        }
    }
    pieces
}

/// Adds to each lane of `sum` four products of bytes. Rust 1.95 has the instruction, but not yet its intrinsic.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(crate) fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: works on registers alone, and the feature is there.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// [`sdot`] of `a` and four bytes of `b`, those of lane `LANE`.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn sdot_lane<const LANE: u32>(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: as in `sdot`.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{lane}]", inout(vreg) sum, in(vreg) a, in(vreg) b,
            lane = const LANE, options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// The sum of all lanes, in the order of [`super::panel::sum`].
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn reduce(sum: float32x4_t) -> f32 {
    vpadds_f32(vadd_f32(vget_low_f32(sum), vget_high_f32(sum)))
}

/// Four pairs of values: the first of each, and the second.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn pairs(values: &[f32; 16], half: usize) -> [float32x4_t; 2] {
    let values = &values[8 * half..8 * half + 8];
    // SAFETY: 32 readable bytes.
    let float32x4x2_t(first, second) = unsafe { vld2q_f32(values.as_ptr()) };
    [first, second]
}

/// The 16 bytes from `at` on.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn load(bytes: &[u8], at: usize) -> uint8x16_t {
    let bytes = &bytes[at..at + 16];
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// The same of signed bytes.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn load_i8(bytes: &[i8], at: usize) -> int8x16_t {
    let bytes = &bytes[at..at + 16];
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_s8(bytes.as_ptr()) }
}

/// The eight bytes from `at` on.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn load_8(bytes: &[u8], at: usize) -> uint8x8_t {
    let bytes = &bytes[at..at + 8];
    // SAFETY: eight readable bytes.
    unsafe { vld1_u8(bytes.as_ptr()) }
}

/// The four bytes from `at` on.
#[inline]
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The f16 at byte `at`.
#[inline]
fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The f16 at byte `at`, in all lanes.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn half_at(bytes: &[u8], at: usize) -> float32x4_t {
    vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half(bytes, at))))
}

/// Four whole numbers.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn floats(values: [u32; 4]) -> float32x4_t {
    vcvtq_f32_u32(words(values))
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
fn words(values: [u32; 4]) -> uint32x4_t {
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_u32(values.as_ptr()) }
}

/// Eight signed bytes: those of the first halves of four blocks, and those of the second halves.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn by_halves(bytes: int8x8_t) -> Factors {
    let pairs = vmovl_s16(vreinterpret_s16_s8(bytes));
    [vcvtq_f32_s32(vshrq_n_s32::<24>(vshlq_n_s32::<24>(pairs))), vcvtq_f32_s32(vshrq_n_s32::<8>(pairs))]
}

/// The 32 nibbles of 16 bytes: the low ones, then the high ones.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn nibbles(bytes: uint8x16_t) -> [uint8x16_t; 2] {
    [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)]
}

/// `table[q]`
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn look_up(table: &[i8; 16], q: uint8x16_t) -> int8x16_t {
    vqtbl1q_s8(load_i8(table, 0), q)
}

/// Levels that had `offset` added to them.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn signed(q: [uint8x16_t; 2], offset: i8) -> [int8x16_t; 2] {
    q.map(|q| vsubq_s8(vreinterpretq_s8_u8(q), vdupq_n_s8(offset)))
}
