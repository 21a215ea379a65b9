//! What the block formats share: walking whole blocks, half-precision fields, and codes of a few bits.
//!
//! Codes lie in planes. Of each `GROUP` bytes, the lowest `BITS` bits are the first `GROUP` codes, the next bits the
//! next `GROUP` codes, and so on:
//!
//! ```text
//! BITS = 4, GROUP = 16        byte  0       1            15
//!                                   16  0   17  1  ...   31  15      codes, high bits left
//! ```
//!
//! Every format with codes of 1, 2 or 4 bits stores them so, with `GROUP` 1, 16, 32 or 64.

use half::f16;
use pulp::{Arch, NullaryFnOnce};

/// Decodes whole blocks with `f`.
pub(crate) fn decode_blocks<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    f: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let ((blocks, bytes), (values, out)) = (bytes.as_chunks(), out.as_chunks_mut());
    assert!(bytes.is_empty() && out.is_empty() && blocks.len() == values.len(), "not whole blocks");
    blocks.iter().zip(values).for_each(|(b, y)| f(b, y));
}

/// Encodes whole blocks with `f`, compiled for the widest registers there are: what is inlined into it is, too. The
/// bytes are the same for all, since nothing is fused and sums have an order of their own.
#[inline(always)]
pub(crate) fn encode_blocks<const BYTES: usize, const LEN: usize>(
    x: &[f32],
    out: &mut [u8],
    f: impl Fn(&[f32; LEN]) -> [u8; BYTES],
) {
    encode_weighted(
        x,
        None,
        out,
        #[inline(always)]
        |x, _| f(x),
    );
}

/// Encodes whole blocks with `f`, given the importance of each value, or that all are alike.
pub(crate) fn encode_weighted<const BYTES: usize, const LEN: usize>(
    x: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
    f: impl Fn(&[f32; LEN], Option<&[f32; LEN]>) -> [u8; BYTES],
) {
    assert!(importance.is_none_or(|i| i.len() == x.len()), "an importance for each value");
    let importance = importance.map(|i| i.as_chunks().0);
    let ((values, x), (blocks, out)) = (x.as_chunks(), out.as_chunks_mut());
    assert!(x.is_empty() && out.is_empty() && values.len() == blocks.len(), "not whole blocks");
    Arch::new().dispatch(Weighted { values, importance, blocks, f });
}

/// Packs by a function of that name, which is `#[inline(always)]`: the closure is, too, as the function's name is not.
macro_rules! weighted {
    ($encode:ident) => {
        |x, i, b| {
            $crate::bits::encode_weighted(
                x,
                i,
                b,
                #[inline(always)]
                |x, i| $encode(x, i),
            )
        }
    };
}
pub(crate) use weighted;

/// The loop of [`encode_weighted`]: a closure of this size would not be inlined, nor compiled for the registers.
struct Weighted<'a, const BYTES: usize, const LEN: usize, F> {
    values: &'a [[f32; LEN]],
    importance: Option<&'a [[f32; LEN]]>,
    blocks: &'a mut [[u8; BYTES]],
    f: F,
}

impl<const BYTES: usize, const LEN: usize, F> NullaryFnOnce for Weighted<'_, BYTES, LEN, F>
where
    F: Fn(&[f32; LEN], Option<&[f32; LEN]>) -> [u8; BYTES],
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (i, (x, b)) in self.values.iter().zip(self.blocks).enumerate() {
            *b = (self.f)(x, self.importance.map(|w| &w[i]));
        }
    }
}

/// The largest number of an f16.
pub(crate) const HALF_MAX: f32 = 65504.0;

/// The f16 at byte `at`.
pub(crate) fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_bits(u16_at(b, at)).to_f32()
}

/// The u16 at byte `at`.
pub(crate) fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

/// The u32 at byte `at`.
pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from(u16_at(b, at)) | u32::from(u16_at(b, at + 2)) << 16
}

/// `x` as the two bytes of an f16.
pub(crate) fn half_bytes(x: f32) -> [u8; 2] {
    f16::from_f32(x).to_le_bytes()
}

/// The most that rounding to f16 changes `x`, or a smaller number.
pub(crate) fn half_error(x: f32) -> f32 {
    (x.abs() / 2048.0).max(2f32.powi(-25))
}

/// The codes in `bytes`.
pub(crate) fn codes<const BITS: usize, const GROUP: usize, const LEN: usize>(bytes: &[u8]) -> [u8; LEN] {
    let mut codes = [0; LEN];
    let groups = codes.chunks_exact_mut(GROUP * 8 / BITS).zip(bytes.chunks_exact(GROUP));
    for (codes, bytes) in groups {
        for (plane, codes) in codes.chunks_exact_mut(GROUP).enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = byte >> (plane * BITS) & (u8::MAX >> (8 - BITS));
            }
        }
    }
    codes
}

/// The bytes whose codes are `codes`, of which only the lowest `BITS` bits count.
pub(crate) fn pack<const BITS: usize, const GROUP: usize, const BYTES: usize>(codes: &[u8]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let groups = bytes.chunks_exact_mut(GROUP).zip(codes.chunks_exact(GROUP * 8 / BITS));
    for (bytes, codes) in groups {
        for (plane, codes) in codes.chunks_exact(GROUP).enumerate() {
            for (byte, code) in bytes.iter_mut().zip(codes) {
                *byte |= (code & (u8::MAX >> (8 - BITS))) << (plane * BITS);
            }
        }
    }
    bytes
}

/// The value of largest magnitude, the first if several are; 0 if there is none.
pub(crate) fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m: f32, &v| if v.abs() > m.abs() { v } else { m })
}

/// The smallest and the largest value.
pub(crate) fn range(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)))
}

/// `1 / d`, or 0 for 0: a block of zeros has no scale.
pub(crate) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_codes_come_back() {
        let seed: [u8; 256] = std::array::from_fn(|i| (i * 151 + 7) as u8);
        assert_eq!(pack::<4, 16, 16>(&codes::<4, 16, 32>(&seed[..16])), seed[..16]);
        assert_eq!(pack::<4, 32, 128>(&codes::<4, 32, 256>(&seed[..128])), seed[..128]);
        assert_eq!(pack::<2, 32, 64>(&codes::<2, 32, 256>(&seed[..64])), seed[..64]);
        assert_eq!(pack::<1, 1, 4>(&codes::<1, 1, 32>(&seed[..4])), seed[..4]);
    }
}
