//! Weights that meet f32 activations: floats, and formats that have no kernel of their own.

use half::{bf16, f16};
use quant::Format;

/// Values per block at most.
pub(in crate::dot) const LONGEST: usize = 256;
/// Partial sums: a register of AVX-512, two of AVX2.
const LANES: usize = 16;

pub(in crate::dot) fn f32<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 4>(w, x, |w| f32::from_le_bytes(*w))
}

pub(in crate::dot) fn f16<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 2>(w, x, |w| f16::from_le_bytes(*w).to_f32())
}

pub(in crate::dot) fn bf16<const N: usize>(w: &[u8], x: [&[u8]; N]) -> [f32; N] {
    dot::<N, 2>(w, x, |w| bf16::from_le_bytes(*w).to_f32())
}

fn dot<const N: usize, const BYTES: usize>(w: &[u8], x: [&[u8]; N], decode: impl Fn(&[u8; BYTES]) -> f32) -> [f32; N] {
    x.map(|x| {
        let mut lanes = [0.0; LANES];
        for (i, (w, x)) in w.as_chunks().0.iter().zip(x.as_chunks().0).enumerate() {
            lanes[i % LANES] += decode(w) * f32::from_ne_bytes(*x);
        }
        lanes.into_iter().sum()
    })
}

/// Any format: `quant` decodes a block, `dot` is the kernel for f32 rows.
pub(in crate::dot) fn by_decoding<const N: usize>(
    format: Format,
    w: &[u8],
    x: [&[u8]; N],
    dot: impl Fn(&[u8], [&[u8]; N]) -> [f32; N],
) -> [f32; N] {
    let n = format.block_len();
    let mut values = [0.0; LONGEST];
    let mut bytes = [0; 4 * LONGEST];
    let mut sums = [0.0; N];
    for (i, w) in w.chunks_exact(format.block_bytes()).enumerate() {
        format.decode(w, &mut values[..n]);
        bytes.as_chunks_mut().0.iter_mut().zip(&values[..n]).for_each(|(b, v)| *b = v.to_ne_bytes());
        let part = dot(&bytes[..4 * n], x.map(|x| &x[4 * n * i..][..4 * n]));
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    sums
}

/// Any format: `quant` decodes a row, or a block, into the bytes of singles, and leaves what follows them.
#[cfg(target_arch = "x86_64")]
pub(in crate::dot) fn decode(format: Format, w: &[u8], out: &mut [u8]) {
    let mut values = [0.0; LONGEST];
    let n = format.block_len();
    for (w, out) in w.chunks_exact(format.block_bytes()).zip(out.chunks_exact_mut(4 * n)) {
        format.decode(w, &mut values[..n]);
        out.as_chunks_mut().0.iter_mut().zip(&values[..n]).for_each(|(b, v)| *b = v.to_ne_bytes());
    }
}
