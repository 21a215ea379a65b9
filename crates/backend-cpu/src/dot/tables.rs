//! Small tables and codes that several kernels read.

/// Codebooks: magnitudes of eight neighbours (`u64`) or of four (`u32`), the first in the lowest byte.
pub(super) use quant::{IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID};

/// The sixteen levels of `IQ4_NL` and `IQ4_XS` (`kvalues_iq4nl` in ggml's `ggml-common.h`).
pub(super) const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The sixteen values of E2M1, doubled so that they are whole.
pub(super) const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of the E8M0 scale `e`, `2^(e - 128)`, to go with the doubled [`E2M1`].
pub(super) const fn e8m0_half(e: u8) -> f32 {
    f32::from_bits(match e {
        0 | 1 => 0x0020_0000 << e, // below the smallest normal f32
        _ => (e as u32 - 1) << 23,
    })
}

/// Seven signs in the low bits of `code`, and an eighth that makes the number of minus signs even.
pub(super) const fn even_signs(code: u32) -> u8 {
    let seven = (code & 127) as u8;
    seven | (seven.count_ones() as u8 & 1) << 7
}
