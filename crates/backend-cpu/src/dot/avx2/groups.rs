//! Formats whose blocks have integers for scales, as sums of integers over groups of 256.
//!
//! A group is `d * I - dmin * M` with `I = sum_i scale_i * level_i * x_i` and `M = sum_i min_i * sum_i`, which are the
//! same however they are added up. Products of bytes are added in 16 bits, as many as fit; the instruction that widens
//! them multiplies with the scale as well (`vpmaddwd`), so blocks need no floats.
//!
//! Levels with signs have an offset added, and what that adds to a 16-bit sum is taken off before the sum is widened.
//! Meanwhile the sum may wrap around: only what is left at the end has to fit.

use std::arch::x86_64::*;

use super::{Parts, column_blocks, half_at, load_i8, prefetch, transpose};
use crate::{
    activation::{Group, groups},
    dot::{
        Factors, Square,
        panel::{Groups, Panels, SIDE, prefetch_next_panel},
    },
    memory::{Record, records, records_mut},
};

/// Rows whose sums have registers.
const ROWS: usize = 4;
/// Blocks of 32 in a group.
const BLOCKS: usize = 8;
/// Four neighbours in a block.
const FOURS: usize = 8;
/// The largest magnitude of an activation; see [`Group::q`].
const X_MAX: i16 = 127;
/// Sums of a block that have room for what takes their offset off.
const N_OFFSETS: usize = 4;

/// Levels as they are unpacked. In panels, all with a sign have [`Form::max`] added.
#[derive(Clone, Copy, PartialEq)]
enum Levels {
    Unsigned,
    Signed,
    /// Signed, and the maximum, a power of two, has been added.
    Raised,
}

/// What a format's groups are made of.
#[derive(Clone, Copy)]
pub(super) struct Form {
    /// The largest magnitude of a level.
    max: i16,
    levels: Levels,
    /// Whether the halves of a block have scales of their own.
    by_16: bool,
    /// Whether there are minima, of 16 neighbours each.
    mins: bool,
}

impl Form {
    const fn offset(self) -> i16 {
        if matches!(self.levels, Levels::Unsigned) { 0 } else { self.max }
    }

    /// The largest byte that stands for a level, as [`dot`] has them, or as panels do: the offset included.
    const fn top(self, in_panels: bool) -> i32 {
        match self.levels {
            Levels::Raised => 2 * self.max as i32 - 1,
            Levels::Signed if in_panels => 2 * self.max as i32,
            _ => self.max as i32,
        }
    }

    /// Whether [`dot`] adds up the eight products of four registers in 16 bits, instead of the four of two.
    const fn all_at_once(self) -> bool {
        !self.by_16 && self.max <= 32
    }

    /// Pairs of products that panels add up in 16 bits, within what has one scale.
    const fn pairs(self) -> usize {
        let fit = i16::MAX / (2 * X_MAX * self.max);
        let most = if self.by_16 { FOURS / 2 } else { FOURS };
        if (fit as usize) < most { fit as usize } else { most }
    }

    /// Sums of 16 bits in a block.
    const fn sums(self) -> usize {
        FOURS.div_ceil(self.pairs())
    }
}

pub(super) const IQ2_XXS: usize = 0;
pub(super) const Q2_K: usize = 1;
pub(super) const Q3_K: usize = 2;
pub(super) const Q4_K: usize = 3;
pub(super) const Q5_K: usize = 4;
pub(super) const Q6_K: usize = 5;

/// The forms, by number.
const FORMS: [Form; 6] = {
    use Levels::{Raised, Signed, Unsigned};
    let mut forms = [Form { max: 0, levels: Unsigned, by_16: false, mins: false }; 6];
    forms[IQ2_XXS] = Form { max: 43, levels: Signed, by_16: false, mins: false };
    forms[Q2_K] = Form { max: 3, levels: Unsigned, by_16: true, mins: true };
    forms[Q3_K] = Form { max: 4, levels: Raised, by_16: true, mins: false };
    forms[Q4_K] = Form { max: 15, levels: Unsigned, by_16: false, mins: true };
    forms[Q5_K] = Form { max: 31, levels: Unsigned, by_16: false, mins: true };
    forms[Q6_K] = Form { max: 32, levels: Raised, by_16: true, mins: false };
    forms
};

/// Whether so many products of such levels fit 16 bits.
const fn fits(products: i32, level: i32) -> bool {
    products * X_MAX as i32 * level <= i16::MAX as i32
}

/// No sum of any form leaves its 16 bits.
const _: () = {
    let mut i = 0;
    while i < FORMS.len() {
        let form = FORMS[i];
        assert!(form.max > 0, "every number has a form");
        assert!(form.top(true) <= 255 && fits(2, form.top(true)), "a pair is not saturated");
        assert!(fits(if form.all_at_once() { 8 } else { 4 }, form.top(false)), "what `dot` adds up, with its offset");
        assert!(fits(2 * form.pairs() as i32, form.max as i32), "what panels add up, with its offset taken off");
        assert!(!form.by_16 || (FOURS / 2).is_multiple_of(form.pairs()), "a sum has one scale");
        assert!(form.offset() == 0 || form.sums() <= N_OFFSETS, "offsets have room");
        assert!(!matches!(form.levels, Levels::Raised) || (form.max as u16).is_power_of_two(), "an offset is a shift");
        i += 1;
    }
};

/// A group of 16 rows of weights.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct WeightGroup {
    /// The levels of each block and row.
    q: [[[i8; 32]; SIDE]; BLOCKS],
    /// The scales of each block, or of the halves of each, and of each row; twice, in 16 bits.
    scales: [[i32; SIDE]; 2 * BLOCKS],
    /// Pairs of minima, 16 bits each.
    mins: [[i32; SIDE]; BLOCKS],
    d: [f32; SIDE],
    dmin: [f32; SIDE],
}

/// A group of 16 columns.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct ColumnGroup {
    /// `x[b][j][4 c + k]` is value `4 j + k` of block `b` of column `c`.
    x: [[[i8; 4 * SIDE]; FOURS]; BLOCKS],
    /// What takes the offset off each sum of a block.
    offsets: [[[i16; 2 * SIDE]; N_OFFSETS]; BLOCKS],
    /// Pairs of sums of 16 values, 16 bits each, that belong to the pairs of minima.
    sums: [[i32; SIDE]; BLOCKS],
    scale: [f32; SIDE],
    /// How many of the columns there are.
    n_columns: u32,
    /// Up to a whole cache line.
    _unused: [u32; SIDE - 1],
}

// SAFETY: integers and floats; their sizes add up to the struct's.
unsafe impl Record for WeightGroup {}
// SAFETY: as above.
unsafe impl Record for ColumnGroup {}

/// Panels of such a format, given what unpacks weights.
pub(super) fn panels<const FORM: usize>(unpack: fn(&[u8], usize, &mut [u8])) -> Panels {
    Panels::Groups(Groups {
        weight_bytes: size_of::<WeightGroup>(),
        column_bytes: size_of::<ColumnGroup>(),
        unpack,
        // SAFETY: `dot::kernel` refuses instruction sets that this machine lacks.
        gather: |x, out| unsafe { gather::<FORM>(x, records_mut(out)) },
        // SAFETY: as above.
        add: |w, x, out| unsafe { add::<FORM>(records(w), records(x), out) },
        // SAFETY: as above.
        add2: |w, [x, y], [out, out_y]| unsafe {
            add::<FORM>(records(w), records(x), out);
            add::<FORM>(records(w), records(y), out_y);
        },
        // SAFETY: as above.
        transpose: |sums| unsafe { turn(sums) },
        enter: || (),
        leave: || (),
        from: 5,
    })
}

/// The dot products of a row of weights with the rows `x`; `first` and `second` unpack 128 each.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn dot<const N: usize, const BYTES: usize, const FORM: usize>(
    w: &[u8],
    x: [&[u8]; N],
    factors: Factors,
    first: impl Fn(&[u8; BYTES]) -> Parts,
    second: impl Fn(&[u8; BYTES]) -> Parts,
) -> [f32; N] {
    let (w, rest) = w.as_chunks::<BYTES>();
    assert!(rest.is_empty(), "rows of whole groups");
    let mut x_groups: [&[Group]; N] = [&[]; N];
    for c in 0..N {
        x_groups[c] = groups(x[c], w.len());
    }
    let mut y = [0.0; N];
    // Four groups at a time, as four registers are added up for the price of two.
    for (i, w) in w.chunks(4).enumerate() {
        let mut sums = [[[_mm256_setzero_si256(); 4]; 2]; N];
        for (k, bytes) in w.iter().enumerate() {
            prefetch(bytes);
            // SAFETY: a column was cut to as many groups. Checks take time here.
            let x = |c: usize| unsafe { x_groups[c].get_unchecked(4 * i + k) };
            // No loop over the halves, so that what both unpack alike is computed once.
            let (w, mut of_first) = (first(bytes), [[_mm256_setzero_si256(); 2]; N]);
            for c in 0..N {
                of_first[c] = half_group::<FORM>(&w, x(c), 0);
            }
            let w = second(bytes);
            for c in 0..N {
                let of_second = half_group::<FORM>(&w, x(c), 1);
                sums[c][0][k] = _mm256_add_epi32(of_first[c][0], of_second[0]);
                sums[c][1][k] = _mm256_add_epi32(of_first[c][1], of_second[1]);
            }
        }
        let (d, dmin) = (_mm_mul_ps(halves(w, factors.d), _mm_set1_ps(factors.unit)), halves(w, factors.dmin));
        for c in 0..N {
            let mut four = _mm_mul_ps(_mm_cvtepi32_ps(reduce(sums[c][0])), d);
            if FORMS[FORM].mins {
                let mins = _mm_srai_epi32::<7>(reduce(sums[c][1])); // negative
                four = _mm_fmadd_ps(_mm_cvtepi32_ps(mins), dmin, four);
            }
            let mut values = [0.0; 4];
            // SAFETY: 16 writable bytes; `storeu` has no alignment requirement.
            unsafe { _mm_storeu_ps(values.as_mut_ptr(), four) };
            let x = &x_groups[c][4 * i..][..w.len()];
            values.iter().zip(x).for_each(|(group, x)| y[c] = group.mul_add(x.scale[0], y[c]));
        }
    }
    y
}

/// The f16 at byte `at` of up to four groups.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn halves<const BYTES: usize>(w: &[[u8; BYTES]], at: usize) -> __m128 {
    let mut halves = [0u16; 8];
    w.iter().zip(&mut halves).for_each(|(w, half)| *half = u16::from_le_bytes([w[at], w[at + 1]]));
    // SAFETY: 16 readable bytes; `loadu` has no alignment requirement.
    _mm_cvtph_ps(unsafe { _mm_loadu_si128(halves.as_ptr().cast()) })
}

/// The sum of the lanes of each of four registers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn reduce(x: [__m256i; 4]) -> __m128i {
    let four = _mm256_hadd_epi32(_mm256_hadd_epi32(x[0], x[1]), _mm256_hadd_epi32(x[2], x[3]));
    _mm_add_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256::<1>(four))
}

/// Of half a group, lanes that add up to its part of `I`, and of `-128 M`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn half_group<const FORM: usize>(w: &Parts, x: &Group, half: usize) -> [__m256i; 2] {
    let form = FORMS[FORM];
    let mut pairs = [_mm256_setzero_si256(); 4];
    for p in 0..4 {
        let x = load_i8(&x.q[p], half);
        let x = if form.levels == Levels::Signed { negate(x, w.negative[p]) } else { x };
        pairs[p] = _mm256_maddubs_epi16(w.q[p], x);
    }
    let twice = twice(w.scales);
    let (first, second) = match form.by_16 {
        true => (_mm256_shuffle_epi32::<0xa0>(twice), _mm256_shuffle_epi32::<0xf5>(twice)),
        false => (twice, twice),
    };
    let two = [_mm256_add_epi16(pairs[0], pairs[1]), _mm256_add_epi16(pairs[2], pairs[3])];
    let products = match form.all_at_once() {
        true => _mm256_madd_epi16(_mm256_add_epi16(two[0], two[1]), first),
        false => _mm256_add_epi32(_mm256_madd_epi16(two[0], first), _mm256_madd_epi16(two[1], second)),
    };
    let start = &x.start[8 * half..8 * half + 8]; // -128 times the sums
    // SAFETY: 32 readable bytes; `loadu` has no alignment requirement.
    let start = unsafe { _mm256_loadu_si256(start.as_ptr().cast()) };
    match (form.mins, form.levels) {
        (true, _) => [products, _mm256_mullo_epi32(w.mins, start)],
        (_, Levels::Raised) => {
            let offset = _mm256_sra_epi32(start, _mm_cvtsi32_si128(7 - form.max.ilog2() as i32));
            [_mm256_add_epi32(products, _mm256_mullo_epi32(w.scales, offset)), _mm256_setzero_si256()]
        }
        _ => [products, _mm256_setzero_si256()],
    }
}

/// The bytes `x`, and `-x` where `negative` is 255.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn negate(x: __m256i, negative: __m256i) -> __m256i {
    // -x is !x + 1.
    _mm256_sub_epi8(_mm256_xor_si256(x, negative), negative)
}

/// Each number twice, in 16 bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn twice(numbers: __m256i) -> __m256i {
    _mm256_blend_epi16::<0xaa>(numbers, _mm256_slli_epi32::<16>(numbers))
}

/// See [`Groups::unpack`]; `first` and `second` unpack four blocks each, in the order of the blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn unpack<const BYTES: usize, const FORM: usize>(
    w: &[u8],
    row_bytes: usize,
    out: &mut [u8],
    factors: Factors,
    first: impl Fn(&[u8; BYTES]) -> Parts,
    second: impl Fn(&[u8; BYTES]) -> Parts,
) {
    let single = |bytes: &[u8; BYTES], at| _mm256_cvtss_f32(half_at(bytes, at));
    let n_rows = w.len().div_ceil(row_bytes).min(SIDE);
    let signed = FORMS[FORM].levels == Levels::Signed;
    let offset = _mm256_set1_epi8(if signed { FORMS[FORM].offset() as i8 } else { 0 });
    for (g, out) in records_mut::<WeightGroup>(out).iter_mut().enumerate() {
        for r in 0..n_rows {
            let at = r * row_bytes + g * BYTES;
            prefetch_next_panel::<BYTES>(w, row_bytes, at);
            let bytes = w[at..].first_chunk().expect("a group");
            (out.d[r], out.dmin[r]) = (single(bytes, factors.d) * factors.unit, single(bytes, factors.dmin));
            for half in 0..2 {
                let w = if half == 0 { first(bytes) } else { second(bytes) };
                for (i, (levels, negative)) in w.q.into_iter().zip(w.negative).enumerate() {
                    let levels = if signed { negate(levels, negative) } else { levels };
                    let levels = _mm256_add_epi8(levels, offset);
                    // SAFETY: 32 writable bytes; `storeu` has no alignment requirement.
                    unsafe { _mm256_storeu_si256(out.q[4 * half + i][r].as_mut_ptr().cast(), levels) };
                }
                store_numbers::<FORM>(&w, half, r, out);
            }
        }
    }
}

/// The scales and minima of half a group of a row.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store_numbers<const FORM: usize>(w: &Parts, half: usize, r: usize, out: &mut WeightGroup) {
    let numbers = |x| {
        let mut numbers = [0i32; 8];
        // SAFETY: 32 writable bytes; `storeu` has no alignment requirement.
        unsafe { _mm256_storeu_si256(numbers.as_mut_ptr().cast(), x) };
        numbers
    };
    let scales = numbers(twice(w.scales));
    let step = if FORMS[FORM].by_16 { 1 } else { 2 };
    for i in (0..8).step_by(step) {
        out.scales[8 * half + i][r] = scales[i];
    }
    if FORMS[FORM].mins {
        let pairs = numbers(_mm256_or_si256(w.mins, _mm256_srli_epi64::<16>(w.mins)));
        (0..4).for_each(|b| out.mins[4 * half + b][r] = pairs[2 * b]);
    }
}

/// See [`Groups::gather`].
#[target_feature(enable = "avx2,fma,f16c")]
fn gather<const FORM: usize>(x: &[&[Group]], out: &mut [ColumnGroup]) {
    for (g, out) in out.iter_mut().enumerate() {
        for first in [0, 8] {
            for b in 0..BLOCKS {
                let fours = transpose(column_blocks(x, first, g, b));
                for (fours, out) in fours.into_iter().zip(&mut out.x[b]) {
                    let out = &mut out[4 * first..4 * first + 32];
                    // SAFETY: 32 writable bytes; `storeu` has no alignment requirement.
                    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), fours) };
                }
                if FORMS[FORM].offset() != 0 {
                    store_offsets::<FORM>(&fours, first, &mut out.offsets[b]);
                }
            }
        }
        out.n_columns = x.len() as u32;
        for c in 0..SIDE {
            let group = x.get(c).map_or(&Group::ZERO, |x| &x[g]);
            out.scale[c] = group.scale[0];
            if FORMS[FORM].mins {
                for (b, out) in out.sums.iter_mut().enumerate() {
                    let pair = [0, 1].map(|half| group.sums[2 * b + half] as i32);
                    out[c] = pair[0] & 0xffff | pair[1] << 16;
                }
            }
        }
    }
}

/// What takes the offset off the sums of a block of eight columns, of which the `first` is given.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store_offsets<const FORM: usize>(fours: &[__m256i; FOURS], first: usize, out: &mut [[i16; 2 * SIDE]; N_OFFSETS]) {
    let form = FORMS[FORM];
    for (fours, out) in fours.chunks(form.pairs()).zip(out) {
        let mut sum = _mm256_setzero_si256();
        for &four in fours {
            sum = _mm256_sub_epi16(sum, _mm256_maddubs_epi16(_mm256_set1_epi8(form.offset() as i8), four));
        }
        let out = &mut out[2 * first..2 * first + 16];
        // SAFETY: 32 writable bytes; `storeu` has no alignment requirement.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), sum) };
    }
}

/// See [`Groups::add`].
#[target_feature(enable = "avx2,fma,f16c")]
fn add<const FORM: usize>(w: &[WeightGroup], x: &[ColumnGroup], out: &mut Square) {
    for (w, x) in w.iter().zip(x) {
        let n_halves = if x.n_columns <= 8 { 1 } else { 2 };
        for first in (0..SIDE).step_by(ROWS) {
            for c in 0..n_halves {
                let mut sums = [_mm256_setzero_si256(); ROWS];
                for b in 0..BLOCKS {
                    for r in 0..ROWS {
                        sums[r] = _mm256_add_epi32(sums[r], block::<FORM>(w, first + r, x, c, b));
                    }
                }
                for r in 0..ROWS {
                    let out = &mut out.0[first + r][8 * c..8 * c + 8];
                    finish::<FORM>(sums[r], w, first + r, x, c, out);
                }
            }
        }
    }
}

/// The products of a block of a row with eight columns, scaled.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn block<const FORM: usize>(w: &WeightGroup, row: usize, x: &ColumnGroup, c: usize, b: usize) -> __m256i {
    let form = FORMS[FORM];
    let mut total = _mm256_setzero_si256();
    for i in 0..form.sums() {
        let js = i * form.pairs()..((i + 1) * form.pairs()).min(FOURS);
        let mut sum = _mm256_setzero_si256();
        for j in js.clone() {
            let four = w.q[b][row].as_chunks::<4>().0[j].map(|q| q as u8);
            let four = _mm256_set1_epi32(i32::from_ne_bytes(four));
            let pair = _mm256_maddubs_epi16(four, load_i8(&x.x[b][j], c));
            sum = if j == js.start { pair } else { _mm256_add_epi16(sum, pair) };
            if j == js.start && form.offset() != 0 {
                sum = _mm256_add_epi16(sum, load_offsets(&x.offsets[b][i], c));
            }
        }
        let scale = if form.by_16 { 2 * b + js.start / (FOURS / 2) } else { 2 * b };
        let wide = _mm256_madd_epi16(sum, _mm256_set1_epi32(w.scales[scale][row]));
        total = if i == 0 { wide } else { _mm256_add_epi32(total, wide) };
    }
    total
}

/// Adds a group's products as [`dot`] does.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn finish<const FORM: usize>(sum: __m256i, w: &WeightGroup, row: usize, x: &ColumnGroup, c: usize, out: &mut [f32]) {
    let mut group = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(w.d[row]));
    if FORMS[FORM].mins {
        let mut mins = _mm256_setzero_si256();
        for b in 0..BLOCKS {
            // SAFETY: 32 readable bytes; `loadu` has no alignment requirement.
            let sums = unsafe { _mm256_loadu_si256(x.sums[b][8 * c..8 * c + 8].as_ptr().cast()) };
            mins = _mm256_add_epi32(mins, _mm256_madd_epi16(sums, _mm256_set1_epi32(w.mins[b][row])));
        }
        group = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(mins), _mm256_set1_ps(w.dmin[row]), group);
    }
    assert!(out.len() == 8, "eight columns");
    // SAFETY: 32 readable and writable bytes each; `loadu` and `storeu` have no alignment requirement.
    unsafe {
        let scale = _mm256_loadu_ps(x.scale[8 * c..8 * c + 8].as_ptr());
        _mm256_storeu_ps(out.as_mut_ptr(), _mm256_fmadd_ps(group, scale, _mm256_loadu_ps(out.as_ptr())));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_offsets(offsets: &[i16; 2 * SIDE], c: usize) -> __m256i {
    let offsets = &offsets[16 * c..16 * c + 16];
    // SAFETY: 32 readable bytes; `loadu` has no alignment requirement.
    unsafe { _mm256_loadu_si256(offsets.as_ptr().cast()) }
}

/// See [`Groups::transpose`].
#[target_feature(enable = "avx2,fma,f16c")]
fn turn(sums: &mut Square) {
    let corner = |sums: &Square, r: usize, c: usize| {
        let mut rows = [_mm256_setzero_si256(); 8];
        for (i, row) in rows.iter_mut().enumerate() {
            // SAFETY: 32 readable bytes; `loadu` has no alignment requirement.
            *row = unsafe { _mm256_loadu_si256(sums.0[r + i][c..c + 8].as_ptr().cast()) };
        }
        transpose(rows)
    };
    let old = *sums;
    for (r, c) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
        for (i, row) in corner(&old, c, r).into_iter().enumerate() {
            // SAFETY: 32 writable bytes; `storeu` has no alignment requirement.
            unsafe { _mm256_storeu_si256(sums.0[r + i][c..c + 8].as_mut_ptr().cast(), row) };
        }
    }
}
