//! `IQ2_XXS`, `IQ3_XXS`, `IQ4_XS`: weights out of a codebook.
//!
//! The codebooks are small enough for registers once their rows are written as bit planes, a byte per eight weights:
//! the low bits of the eight levels, then the next bits. A permutation looks 64 rows up at once, and a product of bit
//! matrices turns planes, the signs among them, into eight numbers of a level, which a last permutation replaces by
//! the level's value. Nothing is gathered from memory.

use std::arch::x86_64::*;

use super::{
    Parts, Weights, eight, groups::Split, half_at, load_32, load_64, nibbles::look_up, nibbles::split, select,
    transpose_bits,
};
use crate::dot::{
    Factors,
    tables::{IQ2_XXS_GRID, IQ3_XXS_GRID, IQ4},
};

/// Scales count eighths and quarters of `d`.
pub(super) const IQ2_XXS: Factors = Factors { d: 0, dmin: 0, unit: 0.125 };
pub(super) const IQ3_XXS: Factors = Factors { d: 0, dmin: 0, unit: 0.25 };
/// The odd bytes of a register.
const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn iq2_xxs_parts(w: &[u8; 66]) -> Parts {
    static VALUES: [u8; 64] = values([8, 25, 43, 0]);
    let values = load_64(&VALUES, 0);
    let (levels, blocks) = iq2_xxs_levels(w);
    let scales = _mm512_srli_epi32::<28>(_mm512_shuffle_epi32::<0xf5>(blocks));
    let d = _mm512_mul_ps(half_at(w, 0), _mm512_set1_ps(IQ2_XXS.unit));
    Parts::plain(levels.map(|level| _mm512_permutexvar_epi8(level, values)), odd(scales), d)
}

/// Levels times scales are looked up, both bytes of them.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn iq2_xxs_split(w: &[u8; 66]) -> Split {
    static LOW: [u8; 128] = multiples([8, 25, 43, 0], 0);
    static HIGH: [u8; 128] = multiples([8, 25, 43, 0], 1);
    let (levels, blocks) = iq2_xxs_levels(w);
    // The scale at bits 3 to 6 of all bytes of its block.
    let scales = _mm512_multishift_epi64_epi8(_mm512_set1_epi8(57), blocks);
    let low = [load_64(&LOW, 0), load_64(&LOW, 64)];
    let high = [load_64(&HIGH, 0), load_64(&HIGH, 64)];
    let mut bytes = [levels; 2];
    for p in 0..4 {
        let index = select(_mm512_set1_epi8(7), levels[p], scales);
        bytes[0][p] = _mm512_permutex2var_epi8(low[0], index, low[1]);
        bytes[1][p] = _mm512_permutex2var_epi8(high[0], index, high[1]);
    }
    let d = _mm512_mul_ps(half_at(w, 0), _mm512_set1_ps(IQ2_XXS.unit));
    Split { bytes, mins: _mm512_setzero_si512(), d, dmin: _mm512_setzero_ps() }
}

/// The low three bits of each byte: a magnitude's number, then a sign; and the eight blocks: an index per eight
/// weights, four times seven signs, a scale of four bits.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn iq2_xxs_levels(w: &[u8; 66]) -> ([__m512i; 4], __m512i) {
    static PLANES: [[u8; 256]; 2] = [plane_of_8(0), plane_of_8(1)];
    let planes = PLANES.each_ref().map(|plane| Table::new(plane));
    let blocks = load_64(w, 2);
    // Word p of a block: plane 1 of its row p, then plane 0.
    let twice = _mm_set_epi64x(0x0b0b_0a0a_0909_0808, 0x0303_0202_0101_0000);
    let indices = _mm512_shuffle_epi8(blocks, _mm512_broadcast_i32x4(twice));
    let rows = _mm512_mask_mov_epi8(planes[1].look_up(indices), ODD, planes[0].look_up(indices));
    // The upper byte of word p: its signs. The lower byte does not matter.
    let signs = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(0x3500_2e00_2700_2000), blocks);
    (levels(rows, even_signs(signs)), blocks)
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn iq3_xxs_parts(w: &[u8; 98]) -> Parts {
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
    let d = _mm512_mul_ps(half_at(w, 0), _mm512_set1_ps(IQ3_XXS.unit));
    let levels = levels(rows, upper).map(|level| _mm512_permutexvar_epi8(level, values));
    Parts::plain(levels, odd(scales), d)
}

#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
pub(super) fn iq4_xs_parts(w: &[u8; 136]) -> Parts {
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
    Parts::plain(look_up(&IQ4, split(first, second)), scales, half_at(w, 0))
}

weights!(iq2_xxs, 66, iq2_xxs_parts => signed(-128));
weights!(iq3_xxs, 98, iq3_xxs_parts => signed(-128));
weights!(iq4_xs, 136, iq4_xs_parts => signed(-128));

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

/// Bit by bit, eight numbers per block and piece `p`: bits 0 and 1 are the bytes of word `p` of a block in `rows`, from
/// the upper one down; bits 2 and 3 are those in `more`. Higher bits are left over.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn levels(rows: __m512i, more: __m512i) -> [__m512i; 4] {
    // Two words of each block, those of `more` below those of `rows`.
    let two = |words: i64| {
        let lane = _mm512_broadcast_i32x4(_mm_set_epi64x(words + 0x0808_0808_0808_0808, words));
        _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(rows, lane), 0x3333_3333_3333_3333, more, lane)
    };
    let (early, late) = (two(0x0302_0302_0100_0100), two(0x0706_0706_0504_0504));
    let [first, third] = [early, late].map(|two| _mm512_slli_epi64::<32>(two));
    [first, early, third, late].map(|planes| transpose_bits(planes))
}

/// Bytes whose highest bit makes the number of ones even; what it was does not matter.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn even_signs(codes: __m512i) -> __m512i {
    // A matrix with a row per bit of the result, that of bit 0 in the highest byte.
    _mm512_gf2p8affine_epi64_epi8::<0>(codes, _mm512_set1_epi64(0x0102_0408_1020_407f))
}

/// `2 * scale + 1` for the low four bits of each lane.
#[target_feature(enable = "avx512vl,avx512dq,avx512vnni,avx512vbmi,gfni")]
#[inline]
fn odd(scales: __m512i) -> __m512i {
    let twice = _mm512_and_si512(_mm512_slli_epi32::<1>(scales), _mm512_set1_epi32(30));
    _mm512_or_si512(twice, _mm512_set1_epi32(1))
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

/// Byte `byte`, of seven bits if it is the first, of `2 * scale + 1` times each of `magnitudes`, then of their
/// negatives; for one scale after another.
const fn multiples(magnitudes: [i16; 4], byte: usize) -> [u8; 128] {
    let mut bytes = [0; 128];
    let mut i = 0;
    while i < 128 {
        let magnitude = magnitudes[i % 4] * (2 * (i as i16 / 8) + 1);
        let value = if i / 4 % 2 == 0 { magnitude } else { -magnitude };
        bytes[i] = if byte == 0 { value & 0x7f } else { value >> 7 } as u8;
        i += 1;
    }
    bytes
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
