//! Kernels for AVX-512 with VNNI, VBMI and GFNI.
//!
//! A decoder unpacks 256 weights into four registers of bytes, interleaved like the activations' [`Group`], and two
//! vectors with the factors of `w = a * q - b`; [`dot`] does the rest for one column or four. Here `q` is unsigned, as
//! `vpdpbusd` wants it: 128 is added to signed levels, and taken off again by where the sum of products starts.
//!
//! | file | formats |
//! |---|---|
//! | `float.rs` | `F32`, `F16`, `BF16`, and formats that `quant` decodes |
//! | `q8_0.rs`, `nibbles.rs` | blocks of 32 |
//! | `k_quants.rs` | `Q2_K` to `Q6_K` |
//! | `iq.rs` | `IQ2_XXS`, `IQ3_XXS`, `IQ4_XS` |
//! | `panel.rs` | all but floats, for batches, with vectors |
//! | `amx.rs` | blocks of 32, for batches, with matrix registers |
//! | `groups.rs` | `Q2_K` to `Q6_K`, `IQ2_XXS`, `IQ3_XXS`, `IQ4_XS`, for matrix registers |
//!
//! Every function names all features, needed or not: what has fewer than the closures it takes cannot inline them.
#![allow(clippy::needless_range_loop, reason = "loops over registers index several arrays, and unroll")]

/// The decoders of [`super::dot`], out of parts.
macro_rules! weights {
    ($name:ident, $bytes:literal, $parts:ident => $as:ident($($offset:literal)?)) => {
        #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
        #[inline]
        pub(super) fn $name(w: &[u8; $bytes]) -> Weights {
            $parts(w).$as($($offset)?)
        }
    };
}

mod amx;
mod float;
mod groups;
mod iq;
mod k_quants;
mod nibbles;
mod panel;
mod q8_0;

use std::arch::x86_64::*;

use quant::Format;

use super::{Factors, Kernel, pad, panel::WeightBlock, simd};
use crate::activation::{Activation, Group, groups};
pub(super) use amx::is_available as has_amx;

/// Whether this machine can run these kernels.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("gfni")
}

/// The kernel of an integer format, given how its levels lie and what unpacks 256 weights; if matrix registers can make
/// its panels, also whether they shall.
macro_rules! integer {
    ($activation:ident, $form:ident, $decode:path $(, amx: $amx:expr)?) => {{
        use $decode as decode;
        #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
        fn dot<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
            super::avx512::dot::<N, _, $form>(w, x, |w| decode(w))
        }
        #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
        fn unpack<const START: bool>(w: &[u8], row_bytes: usize, out: &mut [WeightBlock]) {
            panel::unpack::<_, $form, START>(w, row_bytes, out, |w| decode(w));
        }
        // SAFETY: `super::kernel` refuses instruction sets that this machine lacks.
        let panels = panel::panels::<$form>(|w, row_bytes, out| unsafe { unpack::<true>(w, row_bytes, out) });
        $(
            let panels = match $amx {
                // SAFETY: as above.
                true => amx::panels::<$form>(|w, row_bytes, out| unsafe { unpack::<false>(w, row_bytes, out) }),
                false => panels,
            };
        )?
        Kernel { panels: Some(panels), ..simd!($activation, dot) }
    }};
}

/// The kernel of an integer format for matrix registers, of which a group is a sum of integers; given where a group has
/// its factors.
macro_rules! grouped {
    ($form:path, $decode:path, $factors:expr) => {
        grouped!($form, $decode, $factors, |w| groups::split::<{ $form }>($decode(w)))
    };
    ($form:path, $decode:path, $factors:expr, $split:expr) => {{
        use $decode as decode;
        #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
        fn dot<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
            groups::dot::<N, _, { $form }>(w, x, $factors, |w| decode(w))
        }
        #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
        fn unpack(w: &[u8], row_bytes: usize, out: &mut [u8]) {
            groups::unpack::<_, { $form }>(w, row_bytes, out, $split);
        }
        // SAFETY: `super::kernel` refuses instruction sets that this machine lacks.
        let panels = groups::panels::<{ $form }>(|w, row_bytes, out| unsafe { unpack(w, row_bytes, out) });
        Kernel { panels: Some(panels), ..simd!(Q8_K, dot) }
    }};
}

/// The kernel for `format`, if there is one; only for machines where [`is_available`], and [`has_amx`] if `amx`.
pub(super) fn kernel(format: Format, amx: bool) -> Option<Kernel> {
    Some(match format {
        Format::F32 => float::f32(),
        Format::F16 => float::f16(),
        Format::BF16 => float::bf16(),
        Format::Q8_0 => integer!(Q8_0, SIGNED, q8_0::q8_0, amx: amx),
        Format::Q4_0 => integer!(Q8_0, SIGNED, nibbles::q4_0, amx: amx),
        Format::Q4_1 => integer!(Q8_1, MINS, nibbles::q4_1, amx: amx),
        Format::Q5_0 => integer!(Q8_0, SIGNED, nibbles::q5_0, amx: amx),
        Format::Q5_1 => integer!(Q8_1, MINS, nibbles::q5_1, amx: amx),
        Format::IQ4_NL => integer!(Q8_0, SIGNED, nibbles::iq4_nl, amx: amx),
        Format::MXFP4 => integer!(Q8_0, SIGNED, nibbles::mxfp4, amx: amx),
        Format::Q2_K if amx => grouped!(groups::BYTE, k_quants::q2_k_parts, Factors::at(80, 82)),
        Format::Q3_K if amx => grouped!(groups::OFFSET_4, k_quants::q3_k_parts, Factors::of(108)),
        Format::Q4_K if amx => grouped!(groups::WIDE, k_quants::q4_k_parts, Factors::at(0, 2)),
        Format::Q5_K if amx => grouped!(groups::WIDE, k_quants::q5_k_parts, Factors::at(0, 2)),
        Format::Q6_K if amx => grouped!(groups::OFFSET_32, k_quants::q6_k_parts, Factors::of(208)),
        Format::IQ2_XXS if amx => {
            grouped!(groups::OFFSET_128, iq::iq2_xxs_parts, iq::IQ2_XXS, |w| iq::iq2_xxs_split(w))
        }
        Format::IQ3_XXS if amx => grouped!(groups::OFFSET_128, iq::iq3_xxs_parts, iq::IQ3_XXS),
        Format::IQ4_XS if amx => grouped!(groups::OFFSET_128, iq::iq4_xs_parts, Factors::of(0)),
        Format::Q2_K => integer!(Q8_K, MINS_16, k_quants::q2_k),
        Format::Q3_K => integer!(Q8_K, BY_16, k_quants::q3_k),
        Format::Q4_K => integer!(Q8_K, MINS, k_quants::q4_k),
        Format::Q5_K => integer!(Q8_K, MINS, k_quants::q5_k),
        Format::Q6_K => integer!(Q8_K, BY_16, k_quants::q6_k),
        Format::IQ2_XXS => integer!(Q8_K, SIGNED, iq::iq2_xxs),
        Format::IQ3_XXS => integer!(Q8_K, SIGNED, iq::iq3_xxs),
        Format::IQ4_XS => integer!(Q8_K, SIGNED, iq::iq4_xs),
        _ => return float::decoded(format),
    })
}

/// How far ahead of the arithmetic weights are asked for, in bytes.
const AHEAD: usize = 6 << 10;

/// Levels are signed, with 128 added to them, and `w = a * level`.
const SIGNED: u8 = 0;
/// The same, but the halves of a block of 32 have an `a` of their own.
const BY_16: u8 = 1;
/// Levels are unsigned, and `w = a * level - b`.
const MINS: u8 = 2;
/// The same, but the halves of a block of 32 have a `b` of their own.
const MINS_16: u8 = 3;

/// 256 weights. Levels lie as in [`Group`]; lane `i` of `a` and `b` holds the factors of weights `16 i .. 16 i + 16`.
struct Weights {
    q: [__m512i; 4],
    a: __m512,
    b: __m512,
}

impl Weights {
    #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    fn signed(q: [__m512i; 4], a: __m512) -> Weights {
        Weights { q, a, b: _mm512_setzero_ps() }
    }

    /// The last `n` of the eight blocks as the first ones, and nothing behind them: a block is 64 bits of each
    /// register.
    #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    fn last(self, n: usize) -> Weights {
        let from = _mm512_add_epi64(eight(|b| b), _mm512_set1_epi64(8 - n as i64));
        let present = (1 << n) - 1;
        let shift = |v| _mm512_maskz_permutexvar_epi64(present, from, v);
        let shift_ps = |v| _mm512_castsi512_ps(shift(_mm512_castps_si512(v)));
        Weights { q: self.q.map(shift), a: shift_ps(self.a), b: shift_ps(self.b) }
    }
}

/// 256 weights before scales meet `d`. Lane `i` of `scales` and `mins` belongs to weights `16 i .. 16 i + 16`:
/// `w = d * scale * (level - offset) - dmin * min`, where the format has an offset, or minima.
pub(super) struct Parts {
    /// Levels from 0 on, as in [`Weights`].
    pub(super) q: [__m512i; 4],
    pub(super) scales: __m512i,
    pub(super) mins: __m512i,
    pub(super) d: __m512,
    pub(super) dmin: __m512,
}

impl Parts {
    /// Levels without minima.
    #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    fn plain(q: [__m512i; 4], scales: __m512i, d: __m512) -> Parts {
        Parts { q, scales, mins: _mm512_setzero_si512(), d, dmin: _mm512_setzero_ps() }
    }

    /// The levels with 128 added and `offset` taken off.
    #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    fn signed(self, offset: i8) -> Weights {
        let q = self.q.map(|q| _mm512_add_epi8(q, _mm512_set1_epi8((-128i8).wrapping_sub(offset))));
        Weights::signed(q, _mm512_mul_ps(_mm512_cvtepi32_ps(self.scales), self.d))
    }

    #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    fn with_mins(self) -> Weights {
        let product = |x, d| _mm512_mul_ps(_mm512_cvtepi32_ps(x), d);
        Weights { q: self.q, a: product(self.scales, self.d), b: product(self.mins, self.dmin) }
    }
}

/// The dot products of a row of weights, `BYTES` per 256 of them, with the rows `x`.
///
/// `FORM` is one of [`SIGNED`], [`BY_16`], [`MINS`] and [`MINS_16`]. A row of blocks of 32 may end within the 256: the
/// rest counts as zeros.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn dot<const N: usize, const BYTES: usize, const FORM: u8>(
    w: &[u8],
    x: [&[u8]; N],
    decode: impl Fn(&[u8; BYTES]) -> Weights,
) -> [f32; N] {
    let (whole, rest) = w.as_chunks::<BYTES>();
    let n = whole.len() + usize::from(!rest.is_empty());
    let mut x_groups: [&[Group]; N] = [&[]; N];
    for c in 0..N {
        x_groups[c] = groups(x[c], n);
    }
    let mut sums = [_mm512_setzero_ps(); N];
    for g in 0..n {
        let weights = match whole.get(g) {
            Some(bytes) => {
                if N == 1 {
                    prefetch(bytes);
                }
                decode(bytes)
            }
            // A copy with zeros behind it would cost as much as four whole groups.
            None => match w.last_chunk() {
                Some(bytes) => decode(bytes).last(rest.len() * 8 / BYTES),
                None => decode(&pad(rest)),
            },
        };
        for c in 0..N {
            // SAFETY: a column was cut to as many groups as the row has. Checks would take a tenth of the time.
            sums[c] = add_group::<FORM>(sums[c], &weights, unsafe { x_groups[c].get_unchecked(g) });
        }
    }
    sums.map(|sum| reduce(sum))
}

/// The sum of what pairs of lanes both hold, in the order of `panel::sum`.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn reduce(pairs: __m512) -> f32 {
    let four = _mm256_add_ps(_mm512_castps512_ps256(pairs), _mm512_extractf32x8_ps::<1>(pairs));
    let two = _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps::<1>(four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehl_ps(two, two)))
}

/// `sum + scale * (a * (q . x) - b * (1 . x))`, where a pair of lanes has a block
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn add_group<const FORM: u8>(sum: __m512, w: &Weights, x: &Group) -> __m512 {
    let mut products = start::<FORM>(x);
    for p in 0..4 {
        let half = if FORM == BY_16 { p / 2 } else { 0 };
        products[half] = _mm512_dpbusd_epi32(products[half], w.q[p], load_i8(&x.q[p]));
    }
    let [first, second] = products.map(|products| _mm512_cvtepi32_ps(pairs(products)));
    let total = match FORM {
        SIGNED => _mm512_mul_ps(first, w.a),
        BY_16 => _mm512_fmadd_ps(first, _mm512_moveldup_ps(w.a), _mm512_mul_ps(second, _mm512_movehdup_ps(w.a))),
        MINS => _mm512_fnmadd_ps(load_f32(&x.totals), w.b, _mm512_mul_ps(first, w.a)),
        _ => {
            let halves = _mm512_mul_ps(load_f32(&x.sums), w.b);
            _mm512_fmsub_ps(first, w.a, _mm512_add_ps(halves, _mm512_permute_ps::<0xb1>(halves)))
        }
    };
    _mm512_fmadd_ps(total, load_f32(&x.scale), sum)
}

/// What the sums of products start from; those of the second halves of blocks are apart if [`BY_16`].
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn start<const FORM: u8>(x: &Group) -> [__m512i; 2] {
    let start = load_i32(&x.start);
    match FORM {
        SIGNED => [start, _mm512_setzero_si512()],
        BY_16 => [_mm512_maskz_mov_epi32(0x5555, start), _mm512_maskz_mov_epi32(0xaaaa, start)],
        _ => [_mm512_setzero_si512(); 2],
    }
}

/// The sums of pairs of lanes, in both.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn pairs(lanes: __m512i) -> __m512i {
    _mm512_add_epi32(lanes, _mm512_shuffle_epi32::<0xb1>(lanes))
}

/// Asks for the weights that come [`AHEAD`] of `bytes`, into the second-level cache: the first has room for few lines
/// under way.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn prefetch<const BYTES: usize>(bytes: &[u8; BYTES]) {
    for line in 0..BYTES.div_ceil(64) {
        let at = bytes.as_ptr().wrapping_add(AHEAD + 64 * line);
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn load_i8(bytes: &[i8; 64]) -> __m512i {
    // SAFETY: 64 readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn load_f32(values: &[f32; 16]) -> __m512 {
    // SAFETY: 64 readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn load_i32(values: &[i32; 16]) -> __m512i {
    // SAFETY: 64 readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

/// The 64 bytes from `at` on.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn load_64(bytes: &[u8], at: usize) -> __m512i {
    let bytes = &bytes[at..at + 64];
    // SAFETY: 64 readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// The 32 bytes from `at` on.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn load_32(bytes: &[u8], at: usize) -> __m256i {
    let bytes = &bytes[at..at + 32];
    // SAFETY: 32 readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The 16 bytes from `at` on.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn load_16(bytes: &[u8], at: usize) -> __m128i {
    let bytes = &bytes[at..at + 16];
    // Not `loadu`: the compiler would take it for two halves and put them together with shuffles.
    // SAFETY: 16 readable bytes; `lddqu` has no alignment requirement.
    unsafe { _mm_lddqu_si128(bytes.as_ptr().cast()) }
}

/// The f16 at byte `AT` of eight blocks of `STRIDE` bytes, each in two lanes.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn halves<const STRIDE: usize, const AT: usize>(w: &[u8]) -> __m512 {
    let picks = const { &Picks::new(STRIDE, AT, 1) };
    _mm512_cvtph_ps(_mm512_castsi512_si256(picks.pick(w)))
}

/// Where in eight blocks of 32 weights the 16-bit words of a register come from.
///
/// 64 bytes have those of two to four blocks, so that two permutations find all: faster than loading them one by one.
struct Picks {
    /// The byte at which each of four loads starts.
    loads: [usize; 4],
    /// For each word of the result, which of the 64 words of the first two loads, or of the last two.
    index: [u16; 32],
    /// The words that come from the last two loads.
    late: u32,
}

impl Picks {
    /// `run` words from byte `at` on of each block, and again, before those of the next; `stride` is a block's bytes.
    const fn new(stride: usize, at: usize, run: usize) -> Picks {
        let mut picks = Picks { loads: [0; 4], index: [0; 32], late: 0 };
        let per_load = (64 - at - 2 * run) / stride + 1;
        let mut r = 0;
        while r < 4 {
            // At a block, but not so late that the load would end past the eighth.
            let (start, last) = (r * per_load * stride, 8 * stride - 64);
            picks.loads[r] = if start < last { start } else { last };
            r += 1;
        }
        let mut i = 0;
        while i < 16 * run {
            let block = i / run / 2;
            let r = block / per_load;
            let byte = block * stride + at + 2 * (i % run) - picks.loads[r];
            picks.index[i] = (byte / 2 + r % 2 * 32) as u16;
            picks.late |= (r as u32 / 2) << i;
            i += 1;
        }
        picks
    }

    #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    fn pick(&self, w: &[u8]) -> __m512i {
        // SAFETY: 64 readable bytes; `loadu` has no alignment requirement.
        let index = unsafe { _mm512_loadu_si512(self.index.as_ptr().cast()) };
        let load = |r: usize| load_64(w, self.loads[r]);
        let early = _mm512_permutex2var_epi16(load(0), index, load(1));
        if self.late == 0 {
            return early;
        }
        _mm512_mask_mov_epi16(early, self.late, _mm512_permutex2var_epi16(load(2), index, load(3)))
    }
}

/// The f16 at byte `at`, in all lanes.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn half_at(bytes: &[u8], at: usize) -> __m512 {
    let half = i16::from_le_bytes([bytes[at], bytes[at + 1]]);
    _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(half as i32)))
}

/// `x` where `mask` has ones, `y` elsewhere.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn select(mask: __m512i, x: __m512i, y: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xca>(mask, x, y)
}

/// Bit `k` of byte `7 - j` to bit `j` of byte `k`, in each eight bytes.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn transpose_bits(rows: __m512i) -> __m512i {
    // A product of bit matrices: byte k of this one has but bit k.
    let identity = _mm512_set1_epi64(0x8040_2010_0804_0201_u64 as i64);
    _mm512_gf2p8affine_epi64_epi8::<0>(identity, rows)
}

/// Eight numbers, usually constants.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn eight(f: impl Fn(i64) -> i64) -> __m512i {
    _mm512_setr_epi64(f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7))
}
