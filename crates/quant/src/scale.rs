//! Scales that are powers of two, stored as E8M0: one byte `e`, for `2^(e - 127)`.
//!
//! ```text
//! f32   s eeeeeeee mmm...   of a positive number, read as an integer, grows with the number, and by 2^23 per doubling
//! e     the smallest with   max|x| <= 2^(e - 127) * largest
//!       = 127 + ceil((bits(max|x|) - bits(largest)) / 2^23)
//! ```
//!
//! Error: none. The bytes 0 and 255 are never written in rows; they read as 0 and infinity.
//! Source: OCP Microscaling Formats 1.0, section 5.4.1.

/// The exponent of the smallest scale that keeps `x`, and `floor`, within `largest`; NaN counts as the largest number.
pub(crate) fn exponent(x: &[f32], floor: f32, largest: f32) -> u8 {
    let bits = x.iter().fold(floor.to_bits(), |m, v| m.max(v.to_bits() & 0x7fff_ffff));
    ((bits + 1f32.to_bits() - largest.to_bits()).div_ceil(1 << 23)) as u8
}

/// `2^(e - 127)`
pub(crate) fn value(e: u8) -> f32 {
    f32::from_bits(u32::from(e) << 23)
}

/// `2^(127 - e)`, for what [`exponent`] gives.
pub(crate) fn inverse(e: u8) -> f32 {
    f32::from_bits((254 - u32::from(e)) << 23)
}

/// Replaces each value by `nearest` of it in units of the scale `e`.
#[inline]
pub(crate) fn round(x: &mut [f32], e: u8, nearest: impl Fn(f32) -> f32) {
    let (inverse, scale) = (inverse(e), value(e));
    for v in x {
        *v = nearest(*v * inverse) * scale;
    }
}
