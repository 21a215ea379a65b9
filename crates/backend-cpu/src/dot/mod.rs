//! Dot products of packed rows of weights with rows of activations, per format and instruction set.
//!
//! [`scalar`] says what is computed; the other folders say it again for wider registers. Integer sums are the same
//! everywhere; the order in which f32 products are added belongs to the instruction set. A kernel for four columns does
//! per column what the kernel for one does: every kernel is one generic function, taken for 1 and for 4.
//!
//! | folder | needs |
//! |---|---|
//! | `scalar/` | nothing |
//! | `avx2/` | AVX2, FMA, F16C: x86 since 2013 |
//! | `avx512/` | AVX-512 with VNNI, VBMI, GFNI: Intel since Ice Lake, AMD since Zen 4; for batches AMX, where it is |
//! | `neon/` | NEON with `sdot`: ARM since 2018 |
//!
//! To add a format: its levels in `scalar/`, a line in [`scalar_kernel`]; where it should be fast, a decoder in
//! `avx2/`, `avx512/` and `neon/` and a line in their tables. A format without any of these is decoded by `quant`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod panel;
mod scalar;
mod tables;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::sdot;
use panel::{Panels, SIDE};
use quant::Format;

use crate::{activation::Activation, memory::Record};

/// How to multiply rows of one format.
///
/// `w` is a packed row of weights; its length says how many blocks there are. Every `x` is a row of as many values,
/// packed as `activation` and, but for `F32`, starting on a cache line; what follows it in the slice is ignored. Only a
/// [`Tile`] wants zeros behind a row of `F32`, up to a whole cache line.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// What the activations must be packed as.
    pub(crate) activation: Activation,
    /// `sum_i w[i] * x[i]`
    pub(crate) dot: fn(w: &[u8], x: &[u8]) -> f32,
    /// `dot` of every row of `w`, `row_bytes` each.
    pub(crate) rows: fn(w: &[u8], row_bytes: usize, x: &[u8], y: &mut [f32]),
    /// Four times `dot`, bit for bit, for the price of unpacking the weights once.
    pub(crate) dot4: fn(w: &[u8], x: [&[u8]; 4]) -> [f32; 4],
    /// What is faster from some eight columns on, where there is such a thing: for floats,
    pub(crate) tile: Option<Tile>,
    /// and for bytes.
    pub(crate) panels: Option<Panels>,
}

/// Sums that a dot product keeps apart until its end: one per block of 32 in a group of 256.
pub(crate) const LANES: usize = 8;

/// Products of 16 rows with 16 columns.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Square(pub(crate) [[f32; SIDE]; SIDE]);

// SAFETY: numbers without padding.
unsafe impl Record for Square {}

impl Square {
    pub(crate) const ZERO: Square = Square([[0.0; SIDE]; SIDE]);
}

/// Where a group of weights has its factors, for kernels that sum integers over groups.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Factors {
    /// The bytes at which there are `d` and `dmin`, f16 both.
    d: usize,
    dmin: usize,
    /// What `d` is multiplied with.
    unit: f32,
}

#[cfg(target_arch = "x86_64")]
impl Factors {
    /// With minima.
    const fn at(d: usize, dmin: usize) -> Factors {
        Factors { d, dmin, unit: 1.0 }
    }

    /// Without minima.
    const fn of(d: usize) -> Factors {
        Factors::at(d, d)
    }
}

/// Products of many rows of floats with many columns: each row of weights is unpacked once.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// Unpacks a row of weights into `out`, [`Tile::row_bytes`] long and on a cache line.
    pub(crate) unpack: fn(w: &[u8], out: &mut [u8]),
    /// `[r][c]` is [`Kernel::dot`] of row `r`, which is unpacked here, and column `c`, bit for bit.
    pub(crate) dot: FourByFour,
    /// The same for a part of the rows and columns, whole registers: adds to what has been found before.
    pub(crate) add: fn(w: [&[u8]; 4], x: [&[u8]; 4], sums: &mut TileSums),
    /// What the parts of a product come to.
    pub(crate) sum: fn(&[f32; 16]) -> f32,
    /// Unpacked rows come in blocks of so many weights, and as many bytes.
    pub(crate) block: (usize, usize),
}

/// Unfinished products of four rows with four columns, a register each.
pub(crate) type TileSums = [[[f32; 16]; 4]; 4];

/// Four rows of weights, four columns, their products.
pub(crate) type FourByFour = fn(w: [&[u8]; 4], x: [&[u8]; 4]) -> [[f32; 4]; 4];

impl Tile {
    /// Bytes of an unpacked row of `n` weights.
    pub(crate) fn row_bytes(self, n: usize) -> usize {
        n.div_ceil(self.block.0) * self.block.1
    }
}

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What every machine has.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 with VNNI, VBMI and GFNI.
    Avx512,
    /// The same, and AMX with bytes.
    Amx,
    /// NEON with products of bytes (`sdot`).
    Neon,
}

impl Isa {
    /// Of each architecture the best last.
    pub(crate) const ALL: [Isa; 5] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx, Isa::Neon];

    /// The best that this machine has.
    pub fn detect() -> Isa {
        Isa::available().last().expect("scalar code runs everywhere")
    }

    /// All that this machine has, the best one last.
    pub fn available() -> impl DoubleEndedIterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// As messages spell it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "AVX2",
            Isa::Avx512 => "AVX-512",
            Isa::Amx => "AMX",
            Isa::Neon => "NEON",
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            Isa::Avx2 => avx2::is_available(),
            Isa::Avx512 => avx512::is_available() && avx2::is_available(),
            Isa::Amx => Isa::Avx512.is_available() && avx512::has_amx(),
            Isa::Neon => false,
        }
    }

    #[cfg(target_arch = "aarch64")]
    pub(crate) fn is_available(self) -> bool {
        self == Isa::Scalar || self == Isa::Neon && neon::is_available()
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(crate) fn is_available(self) -> bool {
        self == Isa::Scalar
    }
}

/// The kernel for `format`; there is one for every format and instruction set.
///
/// # Panics
/// If this machine lacks `isa`.
pub(crate) fn kernel(format: Format, isa: Isa) -> Kernel {
    assert!(isa.is_available(), "this machine has no {}", isa.name());
    let simd = match isa {
        Isa::Scalar => None,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::kernel(format),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => avx512::kernel(format, isa == Isa::Amx).or_else(|| avx2::kernel(format)),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::kernel(format),
        _ => None,
    };
    simd.unwrap_or_else(|| scalar_kernel(format))
}

/// `y[i] = dot(row i)` for the rows of `w`.
#[inline(always)]
fn each_row(w: &[u8], row_bytes: usize, y: &mut [f32], dot: impl Fn(&[u8]) -> f32) {
    w.chunks_exact(row_bytes).zip(y).for_each(|(w, y)| *y = dot(w));
}

/// `bytes`, and zeros behind them.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn pad<const BYTES: usize>(bytes: &[u8]) -> [u8; BYTES] {
    let mut padded = [0; BYTES];
    padded[..bytes.len()].copy_from_slice(bytes);
    padded
}

/// `BYTES` bytes of a row from `at` on; of a row that ends within them a copy with zeros behind, which `room` holds.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn padded<'a, const BYTES: usize>(row: &'a [u8], at: usize, room: &'a mut Option<[u8; BYTES]>) -> &'a [u8; BYTES] {
    match row[at..].first_chunk() {
        Some(bytes) => bytes,
        None => room.insert(pad(&row[at..])),
    }
}

/// A kernel out of a safe function that is generic in the number of columns.
macro_rules! safe {
    ($activation:ident, $f:path) => {{
        use $f as f;
        Kernel {
            activation: Activation::$activation,
            dot: |w, x| f::<1>(w, [x])[0],
            rows: |w, row_bytes, x, y| $crate::dot::each_row(w, row_bytes, y, |w| f::<1>(w, [x])[0]),
            dot4: |w, x| f::<4>(w, x),
            tile: None,
            panels: None,
        }
    }};
}

/// The same out of a function that needs more than every machine has.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! simd {
    ($activation:ident, $f:path) => {{
        use $f as f;
        Kernel {
            activation: Activation::$activation,
            // SAFETY: `super::kernel` refuses instruction sets that this machine lacks.
            dot: |w, x| unsafe { f::<1>(w, [x])[0] },
            // SAFETY: as above.
            rows: |w, row_bytes, x, y| $crate::dot::each_row(w, row_bytes, y, |w| unsafe { f::<1>(w, [x])[0] }),
            // SAFETY: as above.
            dot4: |w, x| unsafe { f::<4>(w, x) },
            tile: None,
            panels: None,
        }
    }};
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use simd;

/// A kernel that lets `quant` decode and multiplies f32.
macro_rules! decoded {
    ($format:path) => {
        Kernel {
            activation: Activation::F32,
            dot: |w, x| scalar::by_decoding($format, w, [x], scalar::f32::<1>)[0],
            rows: |w, row_bytes, x, y| {
                $crate::dot::each_row(w, row_bytes, y, |w| scalar::by_decoding($format, w, [x], scalar::f32::<1>)[0])
            },
            dot4: |w, x| scalar::by_decoding($format, w, x, scalar::f32::<4>),
            tile: None,
            panels: None,
        }
    };
}

fn scalar_kernel(format: Format) -> Kernel {
    match format {
        Format::F32 => safe!(F32, scalar::f32),
        Format::F16 => safe!(F32, scalar::f16),
        Format::BF16 => safe!(F32, scalar::bf16),
        Format::Q4_0 => safe!(Q8_0, scalar::q4_0),
        Format::Q4_1 => safe!(Q8_1, scalar::q4_1),
        Format::Q5_0 => safe!(Q8_0, scalar::q5_0),
        Format::Q5_1 => safe!(Q8_1, scalar::q5_1),
        Format::Q8_0 => safe!(Q8_0, scalar::q8_0),
        Format::Q2_K => safe!(Q8_K, scalar::q2_k),
        Format::Q3_K => safe!(Q8_K, scalar::q3_k),
        Format::Q4_K => safe!(Q8_K, scalar::q4_k),
        Format::Q5_K => safe!(Q8_K, scalar::q5_k),
        Format::Q6_K => safe!(Q8_K, scalar::q6_k),
        Format::IQ2_XXS => safe!(Q8_K, scalar::iq2_xxs),
        Format::IQ2_XS => safe!(Q8_K, scalar::iq2_xs),
        Format::IQ2_S => safe!(Q8_K, scalar::iq2_s),
        Format::IQ3_XXS => safe!(Q8_K, scalar::iq3_xxs),
        Format::IQ3_S => safe!(Q8_K, scalar::iq3_s),
        Format::IQ4_NL => safe!(Q8_0, scalar::iq4_nl),
        Format::IQ4_XS => safe!(Q8_K, scalar::iq4_xs),
        Format::MXFP4 => safe!(Q8_0, scalar::mxfp4),
        Format::IQ1_S => decoded!(Format::IQ1_S),
        Format::IQ1_M => decoded!(Format::IQ1_M),
        Format::TQ1_0 => decoded!(Format::TQ1_0),
        Format::TQ2_0 => decoded!(Format::TQ2_0),
    }
}
