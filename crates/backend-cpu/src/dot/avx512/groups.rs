//! K-quants and codebooks as sums of integers over groups of 256, for matrix registers.
//!
//! The scales of these formats' blocks are integers, so a group is `d * I - dmin * M` with integers
//! `I = sum_i scale_i * level_i * x_i` and `M = sum_b min_b * sum_b`, which are the same however they are added up. A
//! product with a matrix register then runs over 64 values instead of 32, and its sums leave for vector registers once
//! per group instead of eight times: with blocks of 32 that costs three quarters of the time.
//!
//! `scale * level` has up to 14 bits. It is split into two bytes, `128 * high + low`, which are multiplied one after
//! the other; those of `Q2_K` are one byte.

use std::{arch::x86_64::*, mem::MaybeUninit};

use super::{
    Parts,
    amx::{self, Products},
    load_f32, load_i8, load_i32,
    panel::{store, transpose},
    prefetch, select,
};
use crate::{
    activation::{Group, groups},
    dot::{
        Factors, Square,
        panel::{Groups, Panels, SIDE, prefetch_next_panel},
    },
    memory::{Record, records, records_mut},
};

/// One byte per level, scale included; minima of 16.
pub(super) const BYTE: u8 = 0;
/// Two bytes; minima of 32.
pub(super) const WIDE: u8 = 1;
/// Two bytes, scales of 16, and 32 stands for 0; no minima.
pub(super) const OFFSET_32: u8 = 2;
/// The same, but 4 stands for 0.
pub(super) const OFFSET_4: u8 = 3;
/// The same, but 128 stands for 0, and both halves of a block have its scale.
pub(super) const OFFSET_128: u8 = 4;

const fn has_mins(form: u8) -> bool {
    matches!(form, BYTE | WIDE)
}

/// What stands for 0, as a power of two.
const fn offset_bits(form: u8) -> u32 {
    match form {
        OFFSET_128 => 7,
        OFFSET_32 => 5,
        _ => 2,
    }
}

/// A group of 16 rows of weights.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct WeightGroup {
    /// Low bytes, then high ones, in the order of [`Group::q`].
    q: [[[[i8; 64]; SIDE]; 4]; 2],
    d: [f32; SIDE],
    dmin: [f32; SIDE],
    /// Pairs of minima, 16 bits each, of every row.
    mins: [[i32; SIDE]; 8],
}

/// A group of 16 columns.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct ColumnGroup {
    /// Four values of each column, in the order of [`Group::q`].
    x: [[[i8; 64]; SIDE]; 4],
    scale: [f32; SIDE],
    /// Pairs of sums, 16 bits each, that belong to the pairs of minima.
    sums: [[i32; SIDE]; 8],
}

// SAFETY: integers and floats; their sizes add up to the struct's.
unsafe impl Record for WeightGroup {}
// SAFETY: as above.
unsafe impl Record for ColumnGroup {}

/// How many pairs of minima there are.
const fn n_pairs(form: u8) -> usize {
    match form {
        BYTE => 8,
        WIDE => 4,
        _ => 0,
    }
}

/// Panels of such a format, given what unpacks weights.
pub(super) fn panels<const FORM: u8>(unpack: fn(&[u8], usize, &mut [u8])) -> Panels {
    Panels::Groups(Groups {
        weight_bytes: size_of::<WeightGroup>(),
        column_bytes: size_of::<ColumnGroup>(),
        unpack,
        // SAFETY: `dot::kernel` refuses instruction sets that this machine lacks.
        gather: |x, out| unsafe { gather::<FORM>(x, records_mut(out)) },
        // SAFETY: as above; a thread runs `enter` before its first product.
        add: |w, x, out| unsafe { add::<FORM>(records(w), records(x), out) },
        // SAFETY: as above.
        add2: |w, x, out| unsafe { add2::<FORM>(records(w), x.map(records), out) },
        // SAFETY: as above.
        transpose: |sums| unsafe { turn(sums) },
        enter: || amx::enter([64, 64], [16, 16]),
        leave: amx::leave,
        from: 5,
    })
}

/// The dot products of a row of weights with the rows `x`.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn dot<const N: usize, const BYTES: usize, const FORM: u8>(
    w: &[u8],
    x: [&[u8]; N],
    factors: Factors,
    decode: impl Fn(&[u8; BYTES]) -> Parts,
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
        let mut sums = [[[_mm512_setzero_si512(); 4]; 2]; N];
        for (k, bytes) in w.iter().enumerate() {
            if N == 1 {
                prefetch(bytes);
            }
            let w = decode(bytes);
            for c in 0..N {
                // SAFETY: a column was cut to as many groups. Checks would take a tenth of the time.
                let x = unsafe { x_groups[c].get_unchecked(4 * i + k) };
                [sums[c][0][k], sums[c][1][k]] = parts_of_sums::<FORM>(&w, x);
            }
        }
        let (d, dmin) = (_mm_mul_ps(halves(w, factors.d), _mm_set1_ps(factors.unit)), halves(w, factors.dmin));
        for c in 0..N {
            let mut four = _mm_mul_ps(_mm_cvtepi32_ps(reduce(sums[c][0])), d);
            if has_mins(FORM) {
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
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn halves<const BYTES: usize>(w: &[[u8; BYTES]], at: usize) -> __m128 {
    let mut halves = [0u16; 8];
    w.iter().zip(&mut halves).for_each(|(w, half)| *half = u16::from_le_bytes([w[at], w[at + 1]]));
    // SAFETY: 16 readable bytes; `loadu` has no alignment requirement.
    _mm_cvtph_ps(unsafe { _mm_loadu_si128(halves.as_ptr().cast()) })
}

/// The sum of the lanes of each of four registers.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn reduce(x: [__m512i; 4]) -> __m128i {
    let pair = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (ab, cd) = (pair(x[0], x[1]), pair(x[2], x[3]));
    let four = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let two = _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64::<1>(four));
    _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256::<1>(two))
}

/// Of a group, lanes that add up to `I`, and to `-128 M`.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn parts_of_sums<const FORM: u8>(w: &Parts, x: &Group) -> [__m512i; 2] {
    let start = load_i32(&x.start); // -128 times the sums
    let mut products = match FORM {
        OFFSET_128 => [start, _mm512_setzero_si512()],
        // What the offset takes off: of the first halves of blocks, and the second.
        OFFSET_32 | OFFSET_4 => {
            let offset = match FORM {
                OFFSET_32 => _mm512_srai_epi32::<2>(start),
                _ => _mm512_srai_epi32::<5>(start),
            };
            [_mm512_maskz_mov_epi32(0x5555, offset), _mm512_maskz_mov_epi32(0xaaaa, offset)]
        }
        _ => [_mm512_setzero_si512(); 2],
    };
    for p in 0..4 {
        let half = if matches!(FORM, OFFSET_32 | OFFSET_4) { p / 2 } else { 0 };
        products[half] = _mm512_dpbusd_epi32(products[half], w.q[p], load_i8(&x.q[p]));
    }
    match FORM {
        BYTE => [products[0], _mm512_mullo_epi32(w.mins, start)],
        OFFSET_128 => [_mm512_mullo_epi32(products[0], w.scales), _mm512_setzero_si512()],
        WIDE => [_mm512_mullo_epi32(products[0], w.scales), _mm512_mullo_epi32(w.mins, start)],
        _ => {
            let first = _mm512_mullo_epi32(products[0], _mm512_shuffle_epi32::<0xa0>(w.scales));
            let second = _mm512_mullo_epi32(products[1], _mm512_shuffle_epi32::<0xf5>(w.scales));
            [_mm512_add_epi32(first, second), _mm512_setzero_si512()]
        }
    }
}

/// 256 weights, their scales in two bytes of each.
pub(super) struct Split {
    /// Low bytes, of seven bits but in [`BYTE`], then high ones; as in [`Group`].
    pub(super) bytes: [[__m512i; 4]; 2],
    pub(super) mins: __m512i,
    pub(super) d: __m512,
    pub(super) dmin: __m512,
}

/// See [`crate::dot::panel::Lanes::unpack`].
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn unpack<const BYTES: usize, const FORM: u8>(
    w: &[u8],
    row_bytes: usize,
    out: &mut [u8],
    decode: impl Fn(&[u8; BYTES]) -> Split,
) {
    let out = records_mut::<WeightGroup>(out);
    let n_rows = w.len().div_ceil(row_bytes).min(SIDE);
    let mut mins = [_mm512_setzero_ps(); SIDE];
    for (g, out) in out.iter_mut().enumerate() {
        for r in 0..n_rows {
            let at = r * row_bytes + g * BYTES;
            prefetch_next_panel::<BYTES>(w, row_bytes, at);
            let Split { bytes: [low, high], mins: min, d, dmin } = decode(w[at..].first_chunk().expect("a group"));
            (out.d[r], out.dmin[r]) = (_mm512_cvtss_f32(d), _mm512_cvtss_f32(dmin));
            mins[r] = _mm512_castsi512_ps(min);
            for p in 0..4 {
                store_i8(&mut out.q[0][p][r], low[p]);
                if FORM != BYTE {
                    store_i8(&mut out.q[1][p][r], high[p]);
                }
            }
        }
        if has_mins(FORM) {
            store_pairs::<FORM>(&mut out.mins, transpose(mins));
        }
    }
}

/// `scale * (level - offset)` as low and high bytes.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn split<const FORM: u8>(w: Parts) -> Split {
    let bytes = if FORM == BYTE { [w.q, w.q] } else { products::<FORM>(&w) };
    Split { bytes, mins: w.mins, d: w.d, dmin: w.dmin }
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn products<const FORM: u8>(w: &Parts) -> [[__m512i; 4]; 2] {
    // The scale of a block, or of one of its halves, in the four words of its eight bytes.
    let first = 0x0100_0100_0100_0100_i64;
    let words = |half: i64| {
        let lane = _mm_set_epi64x(first + 0x0808_0808_0808_0808 + half, first + half);
        _mm512_shuffle_epi8(w.scales, _mm512_broadcast_i32x4(lane))
    };
    let scales = [words(0), words(0x0404_0404_0404_0404)];
    let offset = _mm512_set1_epi16(if has_mins(FORM) { 0 } else { 1 << offset_bits(FORM) });
    let mut bytes = [[_mm512_setzero_si512(); 4]; 2];
    for p in 0..4 {
        let scale = scales[p / 2];
        let even = _mm512_and_si512(w.q[p], _mm512_set1_epi16(0xff));
        let odd = _mm512_srli_epi16::<8>(w.q[p]);
        let [even, odd] = [even, odd].map(|q| _mm512_mullo_epi16(_mm512_sub_epi16(q, offset), scale));
        let low = select(_mm512_set1_epi16(0xff), even, _mm512_slli_epi16::<8>(odd));
        bytes[0][p] = _mm512_and_si512(low, _mm512_set1_epi8(0x7f));
        let high = [_mm512_srai_epi16::<7>(even), _mm512_slli_epi16::<1>(odd)];
        bytes[1][p] = select(_mm512_set1_epi16(0xff), high[0], high[1]);
    }
    bytes
}

/// From numbers of each half of a block, the halves in turn, to pairs of halves; where these have the same number, to
/// pairs of blocks.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn store_pairs<const FORM: u8>(out: &mut [[i32; SIDE]; 8], halves: [__m512; SIDE]) {
    let step = if FORM == BYTE { 1 } else { 2 };
    for (i, out) in out.iter_mut().take(n_pairs(FORM)).enumerate() {
        let [low, high] = [2 * step * i, 2 * step * i + step].map(|i| _mm512_castps_si512(halves[i]));
        let pair = select(_mm512_set1_epi32(0xffff), low, _mm512_slli_epi32::<16>(high));
        // SAFETY: 64 writable bytes; `storeu` has no alignment requirement.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), pair) };
    }
}

/// See [`crate::dot::panel::Lanes::gather`].
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
fn gather<const FORM: u8>(x: &[&[Group]], out: &mut [ColumnGroup]) {
    for (g, out) in out.iter_mut().enumerate() {
        let columns = |part: &dyn Fn(&Group) -> __m512| {
            let mut columns = [part(&Group::ZERO); SIDE];
            x.iter().zip(&mut columns).for_each(|(x, column)| *column = part(&x[g]));
            columns
        };
        for p in 0..4 {
            let four = transpose(columns(&|x| _mm512_castsi512_ps(load_i8(&x.q[p]))));
            four.into_iter().zip(&mut out.x[p]).for_each(|(four, out)| store_i8(out, _mm512_castps_si512(four)));
        }
        out.scale = [0.0; SIDE];
        x.iter().zip(&mut out.scale).for_each(|(x, scale)| *scale = x[g].scale[0]);
        if has_mins(FORM) {
            let sums = if FORM == BYTE { |x: &Group| x.sums } else { |x: &Group| x.totals };
            let sums = columns(&|x| _mm512_castsi512_ps(_mm512_cvtps_epi32(load_f32(&sums(x)))));
            store_pairs::<FORM>(&mut out.sums, transpose(sums));
        }
    }
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn store_i8(out: &mut [i8; 64], values: __m512i) {
    // SAFETY: 64 writable bytes; `storeu` has no alignment requirement.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), values) };
}

/// See [`Groups::add`].
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
fn add<const FORM: u8>(w: &[WeightGroup], x: &[ColumnGroup], out: &mut Square) {
    let mut products = [const { MaybeUninit::<Products>::uninit() }; 2];
    for (w, x) in w.iter().zip(x) {
        multiply::<FORM>(w, x, products.each_mut());
        // SAFETY: just written, but for the second if `BYTE`, which then is not read.
        let products = [0, if FORM == BYTE { 0 } else { 1 }].map(|i| unsafe { products[i].assume_init_ref() });
        finish::<FORM>(products, w, x, out);
    }
}

/// See [`Groups::add2`].
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
fn add2<const FORM: u8>(w: &[WeightGroup], [x, y]: [&[ColumnGroup]; 2], out: [&mut Square; 2]) {
    let mut products = [const { MaybeUninit::<Products>::uninit() }; 4];
    for ((w, x), y) in w.iter().zip(x).zip(y) {
        multiply2::<FORM>(w, [x, y], products.each_mut());
        // SAFETY: just written, but for the third and fourth if `BYTE`, which then are not read.
        let products = |i: usize| unsafe { products[i].assume_init_ref() };
        let high = if FORM == BYTE { 0 } else { 2 };
        finish::<FORM>([products(0), products(high)], w, x, out[0]);
        finish::<FORM>([products(1), products(high + 1)], w, y, out[1]);
    }
}

/// The products of a group, those of high bytes apart.
#[inline]
fn multiply<const FORM: u8>(w: &WeightGroup, x: &ColumnGroup, [low, high]: [&mut MaybeUninit<Products>; 2]) {
    // SAFETY: `amx::enter([64, 64], [16, 16])` ran on this thread, as `Groups::enter` of `panels`, so that all
    // registers have 16 rows of 64 bytes, which is what the arrays and `Products` are made of. Compilers do not use
    // these registers.
    unsafe {
        amx::zero!("tmm0", "tmm1");
        for p in 0..4 {
            amx::load!("tmm6", &x.x[p]);
            amx::load!("tmm4", &w.q[0][p]);
            amx::multiply!("tmm0", "tmm4", "tmm6");
            if FORM != BYTE {
                amx::load!("tmm5", &w.q[1][p]);
                amx::multiply!("tmm1", "tmm5", "tmm6");
            }
        }
        amx::store_tile!("tmm0", low);
        if FORM != BYTE {
            amx::store_tile!("tmm1", high);
        }
    }
}

/// The same for two columns: low bytes, then high ones. Loads take as long as products, so they are shared.
#[inline]
fn multiply2<const FORM: u8>(w: &WeightGroup, x: [&ColumnGroup; 2], out: [&mut MaybeUninit<Products>; 4]) {
    // SAFETY: as of `multiply`.
    unsafe {
        amx::zero!("tmm0", "tmm1");
        if FORM != BYTE {
            amx::zero!("tmm2", "tmm3");
        }
        for p in 0..4 {
            amx::load!("tmm4", &w.q[0][p]);
            amx::load!("tmm6", &x[0].x[p]);
            amx::multiply!("tmm0", "tmm4", "tmm6");
            amx::load!("tmm7", &x[1].x[p]);
            amx::multiply!("tmm1", "tmm4", "tmm7");
            if FORM != BYTE {
                amx::load!("tmm5", &w.q[1][p]);
                amx::multiply!("tmm2", "tmm5", "tmm6");
                amx::multiply!("tmm3", "tmm5", "tmm7");
            }
        }
        amx::store_tile!("tmm0", out[0]);
        amx::store_tile!("tmm1", out[1]);
        if FORM != BYTE {
            amx::store_tile!("tmm2", out[2]);
            amx::store_tile!("tmm3", out[3]);
        }
    }
}

/// Adds a group's products as [`dot`] does.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn finish<const FORM: u8>(products: [&Products; 2], w: &WeightGroup, x: &ColumnGroup, out: &mut Square) {
    let scale = load_f32(&x.scale);
    for r in 0..SIDE {
        let low = load_i32(&products[0].0[r]);
        let sum = match FORM {
            BYTE => low,
            _ => _mm512_add_epi32(low, _mm512_slli_epi32::<7>(load_i32(&products[1].0[r]))),
        };
        let mut group = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(w.d[r]));
        if has_mins(FORM) {
            let mut mins = _mm512_setzero_si512();
            for i in 0..n_pairs(FORM) {
                mins = _mm512_dpwssd_epi32(mins, load_i32(&x.sums[i]), _mm512_set1_epi32(w.mins[i][r]));
            }
            group = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(mins), _mm512_set1_ps(w.dmin[r]), group);
        }
        let sums = _mm512_fmadd_ps(group, scale, load_f32(&out.0[r]));
        store(&mut out.0[r], sums);
    }
}

/// See [`Groups::transpose`].
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
fn turn(sums: &mut Square) {
    let mut rows = [_mm512_setzero_ps(); SIDE];
    rows.iter_mut().zip(&sums.0).for_each(|(row, sums)| *row = load_f32(sums));
    transpose(rows).into_iter().zip(&mut sums.0).for_each(|(column, out)| store(out, column));
}
