//! Kernels for AVX2.
//!
//! As in `avx512/`, with registers half as wide: weights are unpacked 128 at a time, four blocks of 32, into four
//! registers of bytes that lie like the halves of a [`Group`]'s pieces. Products of bytes are added in 16 bits, which
//! the largest level must allow; see [`products`].
//!
//! | file | formats |
//! |---|---|
//! | `float.rs` | `F32`, `F16`, `BF16`, and for batches what `quant` decodes |
//! | `legacy.rs` | blocks of 32: `Q4_0` to `Q8_0`, `IQ4_NL`, `MXFP4` |
//! | `k_quants.rs` | `Q2_K` to `Q6_K` |
//! | `iq.rs` | the formats with a codebook: `IQ2_*`, `IQ3_*`, `IQ4_XS` |
//! | `groups.rs` | how `Q2_K` to `Q6_K` and `IQ2_XXS` are multiplied: as sums of integers |
//! | `panel.rs` | the others but floats, for batches |
//! | `wide.rs` | of those, the ones with signed bytes |
//!
//! Every function names all features, needed or not: what has fewer than the closures it takes cannot inline them.
#![allow(clippy::needless_range_loop, reason = "loops over registers index several arrays, and unroll")]

mod float;
mod groups;
mod iq;
mod k_quants;
mod legacy;
mod panel;
mod wide;

use std::arch::x86_64::*;

use quant::Format;

use super::{Kernel, pad, panel::WeightBlock, simd};
use crate::activation::{Activation, Group, groups};

/// Whether this machine can run these kernels.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// The kernel of an integer format, given its largest level, what its factors belong to, and what unpacks 128 weights.
macro_rules! integer {
    ($activation:ident, $max:expr, $form:ident, $decode:path) => {{
        use $decode as decode;
        #[target_feature(enable = "avx2,fma,f16c")]
        fn dot<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
            super::avx2::dot::<N, _, { $max }, $form>(w, x, |w| decode::<0>(w), |w| decode::<1>(w))
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        fn unpack(w: &[u8], row_bytes: usize, out: &mut [WeightBlock]) {
            panel::unpack(w, row_bytes, out, |w| decode::<0>(w), |w| decode::<1>(w));
        }
        // SAFETY: `super::kernel` refuses instruction sets that this machine lacks.
        let panels = panel::panels::<{ $max }, $form>(|w, row_bytes, out| unsafe { unpack(w, row_bytes, out) });
        Kernel { panels: Some(panels), ..simd!($activation, dot) }
    }};
}

/// The kernel of a format of which a group is a sum of integers, given where it has its factors.
macro_rules! grouped {
    ($form:ident, $decode:path, $factors:expr) => {{
        use $decode as decode;
        #[target_feature(enable = "avx2,fma,f16c")]
        fn dot<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
            let (first, second) = (|w: &_| decode::<0, PIECES>(w), |w: &_| decode::<1, PIECES>(w));
            groups::dot::<N, _, { groups::$form }>(w, x, $factors, first, second)
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        fn unpack(w: &[u8], row_bytes: usize, out: &mut [u8]) {
            let (first, second) = (|w: &_| decode::<0, BLOCKS>(w), |w: &_| decode::<1, BLOCKS>(w));
            groups::unpack::<_, { groups::$form }>(w, row_bytes, out, $factors, first, second);
        }
        // SAFETY: `super::kernel` refuses instruction sets that this machine lacks.
        let panels = groups::panels::<{ groups::$form }>(|w, row_bytes, out| unsafe { unpack(w, row_bytes, out) });
        Kernel { panels: Some(panels), ..simd!(Q8_K, dot) }
    }};
}

/// The kernel for `format`, if there is one; only for machines where [`is_available`].
pub(super) fn kernel(format: Format) -> Option<Kernel> {
    Some(match format {
        Format::F32 => float::f32(),
        Format::F16 => float::f16(),
        Format::BF16 => float::bf16(),
        Format::Q4_0 => integer!(Q8_0, 15, MINS, legacy::q4_0),
        Format::Q4_1 => integer!(Q8_1, 15, MINS, legacy::q4_1),
        Format::Q5_0 => integer!(Q8_0, 31, MINS, legacy::q5_0),
        Format::Q5_1 => integer!(Q8_1, 31, MINS, legacy::q5_1),
        Format::Q8_0 => integer!(Q8_0, SIGNED, PLAIN, legacy::q8_0),
        Format::IQ4_NL => integer!(Q8_0, SIGNED, PLAIN, legacy::iq4_nl),
        Format::MXFP4 => integer!(Q8_0, 24, MINS, legacy::mxfp4),
        Format::Q2_K => grouped!(Q2_K, k_quants::q2_k, k_quants::Q2_K),
        Format::Q3_K => grouped!(Q3_K, k_quants::q3_k, k_quants::Q3_K),
        Format::Q4_K => grouped!(Q4_K, k_quants::q4_k, k_quants::Q4_K),
        Format::Q5_K => grouped!(Q5_K, k_quants::q5_k, k_quants::Q4_K),
        Format::Q6_K => grouped!(Q6_K, k_quants::q6_k, k_quants::Q6_K),
        Format::IQ2_XXS => grouped!(IQ2_XXS, iq::iq2_xxs, iq::IQ2_XXS),
        Format::IQ2_XS => integer!(Q8_K, iq::MAX, BY_16, iq::iq2_xs),
        Format::IQ2_S => integer!(Q8_K, iq::MAX, BY_16, iq::iq2_s),
        Format::IQ3_XXS => integer!(Q8_K, iq::MAX, MINS, iq::iq3_xxs),
        Format::IQ3_S => integer!(Q8_K, iq::MAX, MINS, iq::iq3_s),
        Format::IQ4_XS => integer!(Q8_K, SIGNED, PLAIN, iq::iq4_xs),
        _ => return float::decoded(format),
    })
}

/// How far ahead of the arithmetic weights are asked for, in bytes.
const AHEAD: usize = 1536;

/// `w = a * level`
const PLAIN: u8 = 0;
/// `w = a * level - b`
const MINS: u8 = 1;
/// The same, but the halves of a block of 32 have an `a` and a `b` of their own.
const BY_16: u8 = 2;

/// 128 weights, half of a [`Group`]: `w = a * q - b`. Lane `i` of `a` and `b` is for weights `16 i .. 16 i + 16`.
struct Weights {
    q: [__m256i; 4],
    a: __m256,
    b: __m256,
}

/// The order of four registers of levels: those of a [`Group`]'s pieces, or a block each.
const PIECES: u8 = 0;
const BLOCKS: u8 = 1;

/// 128 weights before scales meet `d`, in either order: `w = d * scale * q - dmin * min`. Lane `i` of `scales` and
/// `mins` belongs to weights `16 i .. 16 i + 16`.
struct Parts {
    q: [__m256i; 4],
    /// 255 where a level is `-q`, of formats whose levels have signs.
    negative: [__m256i; 4],
    scales: __m256i,
    mins: __m256i,
}

/// The dot products of a row of weights, `BYTES` per 256 of them, with the rows `x`.
///
/// `first` and `second` unpack 128 each. Levels are at most `MAX`, see [`products`]. `FORM` says what factors belong
/// to. A row of blocks of 32 may end within the 256: the rest counts as zeros.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn dot<const N: usize, const BYTES: usize, const MAX: usize, const FORM: u8>(
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
    let mut sums = [[_mm256_setzero_ps(); 2]; N];
    let mut g = 0;
    for part in [whole, last] {
        for bytes in part {
            prefetch(bytes);
            // SAFETY: a column was cut to as many groups as the parts have together. Checks take time here.
            let x = |c: usize| unsafe { x_groups[c].get_unchecked(g) };
            // No loop over the halves, so that sums stay in registers.
            let w = first(bytes);
            for c in 0..N {
                sums[c][0] = add_half::<MAX, FORM>(sums[c][0], &w, x(c), 0);
            }
            let w = second(bytes);
            for c in 0..N {
                sums[c][1] = add_half::<MAX, FORM>(sums[c][1], &w, x(c), 1);
            }
            g += 1;
        }
    }
    sums.map(|[first, second]| reduce_pairs(_mm256_add_ps(first, second)))
}

/// `sum + scale * (a * (q . x) - b * (1 . x))`, where a pair of lanes has a block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_half<const MAX: usize, const FORM: u8>(sum: __m256, w: &Weights, x: &Group, half: usize) -> __m256 {
    let pairs = |lanes| _mm256_cvtepi32_ps(_mm256_add_epi32(lanes, _mm256_shuffle_epi32::<0xb1>(lanes)));
    let [first, second] = products::<MAX, FORM>(&w.q, [0, 1, 2, 3].map(|p| load_i8(&x.q[p], half)));
    let first = pairs(first);
    let mins = || {
        let halves = _mm256_mul_ps(load_f32(&x.sums, half), w.b);
        _mm256_add_ps(halves, _mm256_permute_ps::<0xb1>(halves))
    };
    let total = match FORM {
        PLAIN => _mm256_mul_ps(first, w.a),
        MINS => _mm256_fnmadd_ps(load_f32(&x.totals, half), w.b, _mm256_mul_ps(first, w.a)),
        _ => {
            let second = _mm256_mul_ps(pairs(second), _mm256_movehdup_ps(w.a));
            _mm256_sub_ps(_mm256_fmadd_ps(first, _mm256_moveldup_ps(w.a), second), mins())
        }
    };
    _mm256_fmadd_ps(total, load_f32(&x.scale, half), sum)
}

/// Sums of four products per lane of each register: those of the first two and the last two if [`BY_16`], else of all
/// and nothing.
///
/// Products of bytes come in pairs of 16 bits, at most `2 * 127 * MAX`. Levels up to 32 let four pairs be added before
/// they need 32 bits, levels up to 64 two, levels up to 128 none. [`SIGNED`] levels lend their sign to the activations.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn products<const MAX: usize, const FORM: u8>(w: &[__m256i; 4], x: [__m256i; 4]) -> [__m256i; 2] {
    let mut pairs = x;
    for p in 0..4 {
        pairs[p] = match MAX {
            SIGNED => _mm256_maddubs_epi16(_mm256_abs_epi8(w[p]), _mm256_sign_epi8(x[p], w[p])),
            _ => _mm256_maddubs_epi16(w[p], x[p]),
        };
    }
    let widen = |pairs| _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    let two = |i: usize| match MAX {
        ..=64 => widen(_mm256_add_epi16(pairs[i], pairs[i + 1])),
        _ => _mm256_add_epi32(widen(pairs[i]), widen(pairs[i + 1])),
    };
    match (FORM, MAX) {
        (BY_16, _) => [two(0), two(2)],
        (_, ..=32) => {
            let four = _mm256_add_epi16(_mm256_add_epi16(pairs[0], pairs[1]), _mm256_add_epi16(pairs[2], pairs[3]));
            [widen(four), _mm256_setzero_si256()]
        }
        (_, _) => [_mm256_add_epi32(two(0), two(2)), _mm256_setzero_si256()],
    }
}

/// Instead of a largest level: levels are signed bytes.
const SIGNED: usize = 255;

/// Four blocks of 32 to eight bytes of each.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn interleave(blocks: [__m256i; 4]) -> [__m256i; 4] {
    let [b0, b1, b2, b3] = blocks;
    let even = (_mm256_unpacklo_epi64(b0, b1), _mm256_unpacklo_epi64(b2, b3));
    let odd = (_mm256_unpackhi_epi64(b0, b1), _mm256_unpackhi_epi64(b2, b3));
    [
        _mm256_permute2x128_si256::<0x20>(even.0, even.1),
        _mm256_permute2x128_si256::<0x20>(odd.0, odd.1),
        _mm256_permute2x128_si256::<0x31>(even.0, even.1),
        _mm256_permute2x128_si256::<0x31>(odd.0, odd.1),
    ]
}

/// Block `b` of each of eight columns, of `x` from `first` on; of columns that are missing, zeros.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn column_blocks(x: &[&[Group]], first: usize, g: usize, b: usize) -> [__m256i; 8] {
    let mut blocks = [_mm256_setzero_si256(); 8];
    for (i, block) in blocks.iter_mut().enumerate() {
        if let Some(x) = x.get(first + i) {
            let [p, q, r, s] = [0, 1, 2, 3].map(|p| {
                let eight = x[g].q[p][8 * b..].first_chunk::<8>().expect("eight blocks");
                i64::from_le_bytes(eight.map(|q| q as u8))
            });
            *block = _mm256_setr_epi64x(p, q, r, s);
        }
    }
    blocks
}

/// A square of 32-bit numbers, its rows to columns.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let mut x = rows;
    // Squares of 4 x 4 within halves: x[4 i + j] has columns j and 4 + j of rows 4 i ...
    for i in [0, 4] {
        let [a, b, c, d] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        x[i] = _mm256_unpacklo_epi64(ab, cd);
        x[i + 1] = _mm256_unpackhi_epi64(ab, cd);
        x[i + 2] = _mm256_unpacklo_epi64(ab_high, cd_high);
        x[i + 3] = _mm256_unpackhi_epi64(ab_high, cd_high);
    }
    let mut y = x;
    for j in 0..4 {
        y[j] = _mm256_permute2x128_si256::<0x20>(x[j], x[4 + j]);
        y[4 + j] = _mm256_permute2x128_si256::<0x31>(x[j], x[4 + j]);
    }
    y
}

/// The sum of what pairs of lanes both hold, in the order of `crate::dot::panel::sum`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn reduce_pairs(pairs: __m256) -> f32 {
    let two = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehl_ps(two, two)))
}

/// The sum of all lanes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn reduce(sum: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// Asks for the weights that come [`AHEAD`] of `bytes`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn prefetch<const BYTES: usize>(bytes: &[u8; BYTES]) {
    for line in 0..BYTES.div_ceil(64) {
        _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(AHEAD + 64 * line).cast());
    }
}

/// Half of a piece.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_i8(bytes: &[i8; 64], half: usize) -> __m256i {
    let bytes = &bytes[32 * half..32 * half + 32];
    // SAFETY: 32 readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_f32(values: &[f32; 16], half: usize) -> __m256 {
    let values = &values[8 * half..8 * half + 8];
    // SAFETY: 32 readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

/// The 32 bytes from `at` on.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_32(bytes: &[u8], at: usize) -> __m256i {
    let bytes = &bytes[at..at + 32];
    // SAFETY: 32 readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The 16 bytes from `at` on.
#[inline]
fn load_16(bytes: &[u8], at: usize) -> __m128i {
    let bytes = &bytes[at..at + 16];
    // SAFETY: 16 readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// The `N` bytes from `at` on.
#[inline]
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

/// The f16 at byte `at`, in all lanes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn half_at(bytes: &[u8], at: usize) -> __m256 {
    let half = i16::from_le_bytes(bytes_at(bytes, at));
    _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(half))))
}

/// Four lanes, each in two.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn twice(lanes: __m128) -> __m256 {
    _mm256_permutevar8x32_ps(_mm256_castps128_ps256(lanes), _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3))
}
