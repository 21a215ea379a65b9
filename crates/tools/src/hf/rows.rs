//! From a folder's tensors to rows of a GGUF's: which stored tensors a tensor is made of, and how their numbers are
//! spelled.
//!
//! ```text
//! stored                                      becomes
//! F32, F16, BF16                              the same
//! F8_E4M3, a scale F8_E8M0 per 128 x 128      BF16: 4 significant bits times a power of two fit into its 8
//! I8, two FP4 each, a scale F8_E8M0 per 32    MXFP4: the same codes and scales, in another order
//! I64, I32                                    I32
//! ```
//!
//! FP4: byte `j` of a stored row holds elements `2j` and `2j + 1`, the first in its low half; byte `j` of a block of MXFP4
//! holds elements `j` and `j + 16`. A scale of 0 means 2^-127 in both, and a code of -0 reads as 0. A scale of 255 is NaN,
//! which MXFP4 does not have: it is refused. So is an FP8 number that BF16 has not, which takes a scale below 2^-124 or
//! above 2^119.
//! Source: OCP Microscaling Formats 1.0; the specification of DeepSeek V4, sections 4.1 and 5.2.

use std::ops::Range;

use gguf::Element;
use half::bf16;
use quant::{Format, fp8};
use safetensors::Dtype;

use super::{Error, shards::Shards};

/// Rows and columns that share a scale of FP8.
pub(super) const FP8_BLOCK: usize = 128;
/// Elements that share a scale of FP4.
pub(super) const FP4_BLOCK: usize = 32;

/// Where the rows of a tensor come from.
pub(super) enum Origin {
    /// Stored tensors of equal shape and type, one after the other.
    Stored { parts: Vec<Part>, spelling: Spelling, order: Order },
    /// Numbers that are computed here.
    Computed(Vec<f32>),
}

/// A stored tensor, and that of its scales, by their numbers in the files.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) tensor: usize,
    pub(super) scales: Option<usize>,
}

/// How numbers are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// As the GGUF has them.
    Same(Format),
    Fp8,
    Fp4,
    I64,
    I32,
}

/// Which stored row is row `i` of a tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Same,
    /// Within each head of `head_dim` rows, row `2i` is the stored row `i` and `2i + 1` the one half a head further: what
    /// turns together become neighbours.
    Interleaved {
        head_dim: usize,
    },
}

impl Spelling {
    /// How numbers of a type are spelled; the bytes of FP4 are the only `I8` among weights.
    pub(super) fn of(dtype: Dtype) -> Option<Spelling> {
        match dtype {
            Dtype::F32 => Some(Spelling::Same(Format::F32)),
            Dtype::F16 => Some(Spelling::Same(Format::F16)),
            Dtype::BF16 => Some(Spelling::Same(Format::BF16)),
            Dtype::F8_E4M3 => Some(Spelling::Fp8),
            Dtype::I8 => Some(Spelling::Fp4),
            Dtype::I64 => Some(Spelling::I64),
            Dtype::I32 => Some(Spelling::I32),
            _ => None,
        }
    }

    /// The type that keeps all of it.
    pub(super) fn element(self) -> Element {
        match self {
            Spelling::Same(format) => Element::Packed(format),
            Spelling::Fp8 => Element::Packed(Format::BF16),
            Spelling::Fp4 => Element::Packed(Format::MXFP4),
            Spelling::I64 | Spelling::I32 => Element::I32,
        }
    }

    /// The stored shape of a tensor of this shape.
    pub(super) fn stored_shape(self, shape: &[usize]) -> Vec<usize> {
        let mut shape = shape.to_vec();
        if self == Spelling::Fp4 {
            let n_cols = shape.last_mut().expect("a tensor has dimensions");
            *n_cols /= 2;
        }
        shape
    }

    /// The shape of the scales of a matrix, if there are any.
    pub(super) fn scales_shape(self, shape: &[usize]) -> Option<Vec<usize>> {
        let (n_cols, outer) = shape.split_last().expect("a tensor has dimensions");
        let n_rows = outer.iter().product::<usize>();
        match self {
            Spelling::Fp8 => Some(vec![n_rows.div_ceil(FP8_BLOCK), n_cols.div_ceil(FP8_BLOCK)]),
            Spelling::Fp4 => Some(vec![n_rows, n_cols / FP4_BLOCK]),
            _ => None,
        }
    }

    /// Bytes of `n` stored elements.
    fn bytes(self, n: usize) -> usize {
        match self {
            Spelling::Same(format) => n * format.block_bytes(),
            Spelling::Fp8 => n,
            Spelling::Fp4 => n / 2,
            Spelling::I64 => 8 * n,
            Spelling::I32 => 4 * n,
        }
    }
}

impl Order {
    /// The stored row, and how many of the rows from `row` to `end` follow on it there.
    fn run(self, row: usize, end: usize) -> (usize, usize) {
        match self {
            Order::Same => (row, end - row),
            Order::Interleaved { head_dim } => {
                let (head, i) = (row / head_dim, row % head_dim);
                (head * head_dim + i / 2 + i % 2 * (head_dim / 2), 1)
            }
        }
    }
}

impl Origin {
    /// The bytes of rows of a tensor of `shape`, as the GGUF has them.
    pub(super) fn read(
        &self,
        files: &Shards,
        shape: &[usize],
        rows: Range<usize>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let (&n_cols, outer) = shape.split_last().expect("a tensor has dimensions");
        let (parts, spelling, order) = match self {
            Origin::Stored { parts, spelling, order } => (parts, *spelling, *order),
            Origin::Computed(values) => {
                let of_rows = &values[rows.start * n_cols..rows.end * n_cols];
                out.copy_from_slice(&of_rows.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
                return Ok(());
            }
        };
        let rows_per_part = outer.iter().product::<usize>() / parts.len();
        let row_bytes = spelling.element().row_bytes(n_cols).expect("checked when it was opened");
        assert_eq!(out.len(), row_bytes * rows.len(), "room for {rows:?}");
        let mut row = rows.start;
        while row < rows.end {
            let part = row / rows_per_part;
            let (first, end) = (part * rows_per_part, rows.end.min((part + 1) * rows_per_part));
            let (stored, n) = order.run(row - first, end - first);
            let place = (row - rows.start) * row_bytes;
            let stored = Rows { files, part: parts[part], n_cols, rows: stored..stored + n };
            stored.read(spelling, &mut out[place..][..n * row_bytes])?;
            row += n;
        }
        Ok(())
    }
}

/// Rows of a stored tensor that follow on each other.
struct Rows<'a> {
    files: &'a Shards,
    part: Part,
    n_cols: usize,
    rows: Range<usize>,
}

impl Rows<'_> {
    fn read(&self, spelling: Spelling, out: &mut [u8]) -> Result<(), Error> {
        let row_bytes = spelling.bytes(self.n_cols);
        let start = (self.rows.start * row_bytes) as u64;
        if let Spelling::Same(_) | Spelling::I32 = spelling {
            return self.files.read(self.part.tensor, start, out);
        }
        let mut stored = vec![0; row_bytes * self.rows.len()];
        self.files.read(self.part.tensor, start, &mut stored)?;
        match spelling {
            Spelling::Fp8 => self.fp8(&stored, out),
            Spelling::Fp4 => self.fp4(&stored, out),
            _ => self.i64(&stored, out),
        }
    }

    /// Scales of rows of blocks, `n` to a row.
    fn scales(&self, rows: Range<usize>, n: usize) -> Result<Vec<u8>, Error> {
        let mut scales = vec![0; rows.len() * n];
        let tensor = self.part.scales.expect("found when it was opened");
        self.files.read(tensor, (rows.start * n) as u64, &mut scales)?;
        Ok(scales)
    }

    fn fp8(&self, stored: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let (first, n) = (self.rows.start / FP8_BLOCK, self.n_cols.div_ceil(FP8_BLOCK));
        let scales = self.scales(first..self.rows.end.div_ceil(FP8_BLOCK), n)?;
        let rows = stored.chunks(self.n_cols).zip(out.chunks_mut(2 * self.n_cols));
        for (row, (codes, out)) in self.rows.clone().zip(rows) {
            let scales = &scales[(row / FP8_BLOCK - first) * n..][..n];
            let blocks = codes.chunks(FP8_BLOCK).zip(out.chunks_mut(2 * FP8_BLOCK)).zip(scales);
            for ((codes, out), &e) in blocks {
                let scale = e8m0(e);
                for (&code, out) in codes.iter().zip(out.as_chunks_mut().0) {
                    let value = fp8::decode(code) * scale;
                    let short = bf16::from_f32(value);
                    if short.to_f32() != value && !value.is_nan() || value.is_infinite() {
                        let found = format!("the FP8 number 0x{code:02x} with the scale {e}");
                        return Err(self.entry(row, found, "a number that BF16 has: of scales, 3 to 246"));
                    }
                    *out = short.to_le_bytes();
                }
            }
        }
        Ok(())
    }

    fn fp4(&self, stored: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let n = self.n_cols / FP4_BLOCK;
        let scales = self.scales(self.rows.clone(), n)?;
        let blocks = stored.as_chunks::<{ FP4_BLOCK / 2 }>().0.iter().zip(out.as_chunks_mut().0);
        for (i, ((codes, out), &e)) in blocks.zip(&scales).enumerate() {
            if e == 255 {
                return Err(self.entry(self.rows.start + i / n, "the scale 255, NaN".into(), "0 to 254"));
            }
            *out = mxfp4(codes, e);
        }
        Ok(())
    }

    fn i64(&self, stored: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let numbers = stored.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b));
        for (i, (number, out)) in numbers.zip(out.as_chunks_mut().0).enumerate() {
            let Ok(short) = i32::try_from(number) else {
                let row = self.rows.start + i / self.n_cols;
                return Err(self.entry(row, number.to_string(), "numbers of 32 bits"));
            };
            *out = short.to_le_bytes();
        }
        Ok(())
    }

    fn entry(&self, row: usize, found: String, allowed: &str) -> Error {
        Error::Entry {
            path: self.files.path(self.part.tensor).to_owned(),
            tensor: self.files.stored(self.part.tensor).name.clone(),
            row,
            found,
            allowed: allowed.into(),
        }
    }
}

/// `2^(e - 127)`; 255 is NaN.
fn e8m0(e: u8) -> f32 {
    match e {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(e) << 23),
    }
}

/// A block of MXFP4 of 32 stored codes.
fn mxfp4(codes: &[u8; FP4_BLOCK / 2], e: u8) -> [u8; 1 + FP4_BLOCK / 2] {
    let code = |i: usize| codes[i / 2] >> (4 * (i % 2)) & 15;
    let mut block = [e; 1 + FP4_BLOCK / 2];
    for (j, byte) in block[1..].iter_mut().enumerate() {
        *byte = code(j) | code(j + FP4_BLOCK / 2) << 4;
    }
    block
}

#[cfg(test)]
mod tests {
    use quant::fp4;

    use super::*;

    #[test]
    fn every_fp4_number_is_the_same_in_mxfp4_for_every_scale_but_nan() {
        let codes: [u8; 16] = std::array::from_fn(|j| (2 * j % 16) as u8 | (((2 * j + 1) % 16) << 4) as u8);
        for e in 0..255 {
            let mut found = [0.0; 32];
            Format::MXFP4.decode(&mxfp4(&codes, e), &mut found);
            let expected: Vec<f32> = (0..32).map(|i| fp4::decode(i as u8) * e8m0(e)).collect();
            assert_eq!(found.to_vec(), expected, "scale {e}");
        }
    }

    #[test]
    fn every_fp8_number_is_the_same_in_bf16_for_the_scales_that_are_allowed() {
        for e in 3..=246 {
            for code in (0..=255).filter(|c| c & 127 != 127) {
                let value = fp8::decode(code) * e8m0(e);
                assert!(value.is_finite() && bf16::from_f32(value).to_f32() == value, "code {code}, scale {e}");
            }
        }
        let lost = |code, e| bf16::from_f32(fp8::decode(code) * e8m0(e)).to_f32() != fp8::decode(code) * e8m0(e);
        assert!(lost(1, 2), "the smallest FP8 number");
        assert!((fp8::decode(0x7e) * e8m0(247)).is_infinite(), "the largest");
    }

    #[test]
    fn heads_are_interleaved() {
        let order = Order::Interleaved { head_dim: 6 };
        let rows: Vec<_> = (0..12).map(|row| order.run(row, 12)).collect();
        assert!(rows.iter().all(|(_, n)| *n == 1));
        let rows: Vec<_> = rows.iter().map(|(row, _)| *row).collect();
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }
}
