//! `IQ2_XXS`, `IQ3_XXS`, `IQ4_XS`: weights out of a codebook.
//!
//! The codebooks are small enough for registers once their rows are written as bit planes, a byte per eight weights:
//! the low bits of the eight levels, then the next bits. A permutation looks 64 rows up at once, and a product of bit
//! matrices turns planes, the signs among them, into eight numbers of a level, which a last permutation replaces by
//! the level's value. Nothing is gathered from memory.

use std::arch::x86_64::*;

use super::{Weights, eight, half_at, load_32, load_64, nibbles::look_up, nibbles::split, transpose_bits};
use crate::dot::tables::{IQ2_XXS_GRID, IQ3_XXS_GRID, IQ4};

/// The odd bytes of a register.
const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn iq2_xxs(w: &[u8; 66]) -> Weights {
    static PLANES: [[u8; 256]; 2] = [plane_of_8(0), plane_of_8(1)];
    static VALUES: [u8; 64] = values([8, 25, 43, 0]);
    let (planes, values) = (PLANES.each_ref().map(|plane| Table::new(plane)), load_64(&VALUES, 0));
    // A block in each eight bytes: an index per eight weights, four times seven signs, a scale of four bits.
    let blocks = load_64(w, 2);
    // Word p of a block: plane 1 of its row p, then plane 0.
    let twice = _mm_set_epi64x(0x0b0b_0a0a_0909_0808, 0x0303_0202_0101_0000);
    let indices = _mm512_shuffle_epi8(blocks, _mm512_broadcast_i32x4(twice));
    let rows = _mm512_mask_mov_epi8(planes[1].look_up(indices), ODD, planes[0].look_up(indices));
    // The upper byte of word p: its signs. The lower byte does not matter, as `VALUES` repeats; in words 0 and 2,
    // that is at the low end of a lane, it is the scale.
    let fields = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(0x3500_2e3c_2700_203c), blocks);
    let a = odd_multiples(fields, half_at(w, 0), 0.125);
    let fields = even_signs(fields);
    Weights::signed(std::array::from_fn(|p| level(p, rows, fields, values)), a)
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn iq3_xxs(w: &[u8; 98]) -> Weights {
    static PLANES: [[u8; 256]; 2] = [planes_of_4(1, 0), planes_of_4(2, 2)];
    static VALUES: [u8; 64] = values([4, 12, 20, 28, 36, 44, 52, 62]);
    let (planes, values) = (PLANES.each_ref().map(|plane| Table::new(plane)), load_64(&VALUES, 0));
    // Two indices per eight weights, so word p of a block has those of its eight p.
    let indices = load_64(w, 2);
    // Nibbles, from the low end: planes 1 and 0 of four weights, planes 1 and 0 of the next four. The middle two
    // change places, and there are bytes of planes 1 and 0 of eight weights.
    let rows = planes[0].look_up(indices);
    let up = _mm512_slli_epi16::<4>(_mm512_and_si512(rows, _mm512_set1_epi16(0x00f0)));
    let down = _mm512_and_si512(_mm512_srli_epi16::<4>(rows), _mm512_set1_epi16(0x00f0));
    let rows = select(_mm512_set1_epi16(0x0ff0), _mm512_or_si512(up, down), rows);
    // Plane 2 is there twice per byte, so that the upper byte gets its nibbles from one shift.
    let plane_2 = planes[1].look_up(indices);
    let plane_2 = select(_mm512_set1_epi16(0x0f00), _mm512_slli_epi16::<8>(plane_2), plane_2);
    let blocks = _mm512_cvtepu32_epi64(load_32(w, 66));
    let signs = even_signs(_mm512_multishift_epi64_epi8(_mm512_set1_epi64(0x0015_000e_0007_0000), blocks));
    let upper = _mm512_mask_mov_epi8(signs, ODD, plane_2);
    let scales = _mm512_srli_epi32::<28>(_mm512_shuffle_epi32::<0xa0>(blocks));
    let a = odd_multiples(scales, half_at(w, 0), 0.25);
    Weights::signed(std::array::from_fn(|p| level(p, rows, upper, values)), a)
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn iq4_xs(w: &[u8; 136]) -> Weights {
    let (low, high) = (load_64(w, 8), load_64(w, 72));
    let first = _mm512_permutex2var_epi64(low, eight(|b| 2 * b), high);
    let second = _mm512_permutex2var_epi64(low, eight(|b| 2 * b + 1), high);
    // Six bits per block: four in a field of the word, two more in a field of the half word before it.
    let low = _mm512_set1_epi32(i32::from_le_bytes([w[4], w[5], w[6], w[7]]));
    let low = _mm512_srlv_epi32(low, eight(|b| 4 * b * 0x1_0000_0001));
    let high = _mm512_set1_epi32(i32::from(u16::from_le_bytes([w[2], w[3]])) << 4);
    let high = _mm512_srlv_epi32(high, eight(|b| 2 * b * 0x1_0000_0001));
    let scales = select(_mm512_set1_epi32(15), low, _mm512_and_si512(high, _mm512_set1_epi32(0x30)));
    let scales = _mm512_sub_epi32(scales, _mm512_set1_epi32(32));
    let a = _mm512_mul_ps(_mm512_cvtepi32_ps(scales), half_at(w, 0));
    Weights::signed(look_up(&IQ4, split(first, second)), a)
}

/// 256 bytes in registers.
#[derive(Clone, Copy)]
struct Table([__m512i; 4]);

impl Table {
    #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    fn new(bytes: &[u8; 256]) -> Table {
        Table([load_64(bytes, 0), load_64(bytes, 64), load_64(bytes, 128), load_64(bytes, 192)])
    }

    #[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
    #[inline]
    fn look_up(&self, indices: __m512i) -> __m512i {
        let low = _mm512_permutex2var_epi8(self.0[0], indices, self.0[1]);
        let high = _mm512_permutex2var_epi8(self.0[2], indices, self.0[3]);
        _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(indices), high)
    }
}

/// Eight levels of each block: planes 0 and 1 are the bytes of word `p` of `rows`, from the upper one down; plane 2 and
/// then 3 are those of `more`.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn level(p: usize, rows: __m512i, more: __m512i, values: __m512i) -> __m512i {
    let words = eight(|b| (4 * b + p as i64) << 48 | (32 + 4 * b + p as i64) << 32);
    let planes = _mm512_permutex2var_epi16(rows, words, more);
    _mm512_permutexvar_epi8(transpose_bits(planes), values)
}

/// Bytes whose highest bit makes the number of ones even; what it was does not matter.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn even_signs(codes: __m512i) -> __m512i {
    // A matrix with a row per bit of the result, that of bit 0 in the highest byte.
    _mm512_gf2p8affine_epi64_epi8::<0>(codes, _mm512_set1_epi64(0x0102_0408_1020_407f))
}

/// `(2 * scale + 1) * unit * d` for the low four bits of each lane
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn odd_multiples(scales: __m512i, d: __m512, unit: f32) -> __m512 {
    let odd = _mm512_setr_ps(1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0, 19.0, 21.0, 23.0, 25.0, 27.0, 29.0, 31.0);
    _mm512_mul_ps(_mm512_permutexvar_ps(scales, _mm512_mul_ps(odd, _mm512_set1_ps(unit))), d)
}

/// `x` where `mask` has ones, `y` elsewhere.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn select(mask: __m512i, x: __m512i, y: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xca>(mask, x, y)
}

/// Bit `bit` of the levels of `IQ2_XXS`: magnitudes 8, 25, 43 are levels 0, 1, 2.
const fn plane_of_8(bit: u32) -> [u8; 256] {
    let mut plane = [0; 256];
    let mut i = 0;
    while i < 256 * 8 {
        let magnitude = (IQ2_XXS_GRID[i / 8] >> (i % 8 * 8)) as u8;
        plane[i / 8] |= ((magnitude / 16) >> bit & 1) << (i % 8);
        i += 1;
    }
    plane
}

/// Bits `low` and `high` of the levels of `IQ3_XXS`, in the low and high nibbles: magnitudes 4, 12, ..., 52, 62 are
/// levels 0 to 7.
const fn planes_of_4(low: u32, high: u32) -> [u8; 256] {
    let mut planes = [0; 256];
    let mut i = 0;
    while i < 256 * 4 {
        let level = (IQ3_XXS_GRID[i / 4] >> (i % 4 * 8)) as u8 / 8;
        planes[i / 4] |= (level >> low & 1) << (i % 4) | (level >> high & 1) << (4 + i % 4);
        i += 1;
    }
    planes
}

/// The levels' magnitudes, then their negatives, all plus 128, and again up to 64 entries.
const fn values<const LEVELS: usize>(magnitudes: [u8; LEVELS]) -> [u8; 64] {
    let mut values = [0; 64];
    let mut i = 0;
    while i < 64 {
        let magnitude = magnitudes[i % LEVELS];
        values[i] = if (i / LEVELS).is_multiple_of(2) { 128 + magnitude } else { 128 - magnitude };
        i += 1;
    }
    values
}
