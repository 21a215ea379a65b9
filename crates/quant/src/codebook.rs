//! What the codebook formats share: grids, signs.
//!
//! A grid is a table of rows of 4 or 8 magnitudes; a weight group is a row, a byte of signs and a scale. The grids are
//! data of the file format (ggml, MIT). Files `grids/*.hex` hold them as the PyPI package `gguf` (MIT, `quants.py`)
//! packs them:
//!
//! ```text
//! two hexadecimal digits = one byte = 4 levels of two bits (up to 4 levels), or 2 of four bits, lowest bits first
//! level -> magnitude     = 0, 1, 2 -> 8, 25, 43 and the like: see each format
//! ```
//!
//! Signs: bit j of the byte set means that value j is negative. Where only seven bits are stored, the eighth makes the
//! number of minus signs even.
//! Source: `ksigns_iq2xs` and the grids in ggml's `ggml-common.h`.

/// The eight signs that the seven low bits of `code` stand for: an even number of them is set.
pub const fn sign_byte(code: u8) -> u8 {
    let seven = code & 127;
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// `y[j] = scale * row[j]`, negative where bit `j` of `signs` is set.
pub(crate) fn signed_row(y: &mut [f32], scale: f32, row: &[u8], signs: u8) {
    for (j, (y, &magnitude)) in y.iter_mut().zip(row).enumerate() {
        let value = scale * f32::from(magnitude);
        *y = if signs >> j & 1 != 0 { -value } else { value };
    }
}

/// The rows of a grid, of `W` values each.
pub(crate) const fn rows<const LEVELS: usize, const W: usize, const N: usize>(
    hex: &[u8],
    levels: [u8; LEVELS],
) -> [[u8; W]; N] {
    let bits = if LEVELS <= 4 { 2 } else { 4 };
    let mut rows = [[0; W]; N];
    let (mut at, mut i) = (0, 0);
    while i < W * N {
        while hex[at].is_ascii_whitespace() {
            at += 1;
        }
        let byte = digit(hex[at]) << 4 | digit(hex[at + 1]);
        let mut shift = 0;
        while shift < 8 {
            rows[i / W][i % W] = levels[(byte >> shift & ((1 << bits) - 1)) as usize];
            i += 1;
            shift += bits;
        }
        at += 2;
    }
    rows
}

const fn digit(c: u8) -> u8 {
    match c {
        b'0'..=b'9' => c - b'0',
        b'a'..=b'f' => c - b'a' + 10,
        _ => panic!("not a hexadecimal digit"),
    }
}

/// Rows of eight values as words whose lowest byte is the first value: what vector kernels load.
pub(crate) const fn words_of_8<const N: usize>(rows: &[[u8; 8]; N]) -> [u64; N] {
    let mut words = [0; N];
    let mut i = 0;
    while i < N {
        words[i] = u64::from_le_bytes(rows[i]);
        i += 1;
    }
    words
}

/// Rows of four values as words whose lowest byte is the first value.
pub(crate) const fn words_of_4<const N: usize>(rows: &[[u8; 4]; N]) -> [u32; N] {
    let mut words = [0; N];
    let mut i = 0;
    while i < N {
        words[i] = u32::from_le_bytes(rows[i]);
        i += 1;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_are_even() {
        for code in 0..=255 {
            assert_eq!(sign_byte(code) & 127, code & 127);
            assert_eq!(sign_byte(code).count_ones() % 2, 0, "{code}");
        }
    }
}
