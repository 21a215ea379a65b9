//! The list of weight formats. A format is a file with an [`Info`], and a line in the list below.
//!
//! ```text
//! row of n values = n / block_len blocks = n / block_len * block_bytes bytes
//! ```
//!
//! Source: `enum ggml_type` in ggml's `ggml.h`; the numbers 4, 5, 31 to 33 and 36 to 38 are retired.

use crate::{
    float, iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k,
    q5_0, q5_1, q5_k, q6_k, q8_0, tq1_0, tq2_0,
};

/// What a format's file says about it.
pub(crate) struct Info {
    pub(crate) id: u32,
    pub(crate) block_len: usize,
    pub(crate) block_bytes: usize,
    pub(crate) decode: fn(&[u8], &mut [f32]),
    pub(crate) encode: Option<Encoder>,
}

/// Packs whole blocks of values into bytes. The importance of each value, positive numbers in any unit, says how much an
/// error there matters; where there is none, all matter alike.
pub type Encode = fn(values: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]);

/// How a format packs.
pub(crate) struct Encoder {
    pub(crate) run: Encode,
    /// The error that the format's file states, of a block.
    pub(crate) error: fn(&[f32]) -> f32,
    /// The largest magnitude that is kept as smaller ones are, whatever lies beside it. Where a scale is searched, half of what
    /// one within f16 reaches: so far beyond the best one searches go.
    pub(crate) largest: f32,
}

/// The version of the encoders: one more with every change to the bytes that any of them makes. Whoever goes on with a
/// file that another program has begun asks for it.
pub const ENCODERS: u32 = 1;

macro_rules! formats {
    ($($name:ident: $info:path,)*) => {
        /// A weight format of the GGUF.
        #[allow(non_camel_case_types, reason = "the names that formats have everywhere")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Format {
            $(#[doc = concat!("`", stringify!($name), "`")] $name,)*
        }

        /// Every format.
        pub static FORMATS: &[Format] = &[$(Format::$name,)*];

        static INFOS: &[Info] = &[$($info,)*]; // as in `FORMATS`

        impl Format {
            /// The name that files and tools give this format.
            pub fn name(self) -> &'static str {
                match self { $(Format::$name => stringify!($name),)* }
            }
        }
    };
}

formats! {
    F32: float::F32,
    F16: float::F16,
    BF16: float::BF16,
    Q4_0: q4_0::INFO,
    Q4_1: q4_1::INFO,
    Q5_0: q5_0::INFO,
    Q5_1: q5_1::INFO,
    Q8_0: q8_0::INFO,
    Q2_K: q2_k::INFO,
    Q3_K: q3_k::INFO,
    Q4_K: q4_k::INFO,
    Q5_K: q5_k::INFO,
    Q6_K: q6_k::INFO,
    IQ2_XXS: iq2_xxs::INFO,
    IQ2_XS: iq2_xs::INFO,
    IQ2_S: iq2_s::INFO,
    IQ3_XXS: iq3_xxs::INFO,
    IQ3_S: iq3_s::INFO,
    IQ4_NL: iq4_nl::INFO,
    IQ4_XS: iq4_xs::INFO,
    MXFP4: mxfp4::INFO,
    IQ1_S: iq1_s::INFO,
    IQ1_M: iq1_m::INFO,
    TQ1_0: tq1_0::INFO,
    TQ2_0: tq2_0::INFO,
}

impl Format {
    /// The format that a GGUF calls `id`.
    pub fn from_id(id: u32) -> Option<Format> {
        FORMATS.iter().copied().find(|f| f.id() == id)
    }

    /// The number that a GGUF gives this format.
    pub fn id(self) -> u32 {
        self.info().id
    }

    /// Values per block.
    pub fn block_len(self) -> usize {
        self.info().block_len
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        self.info().block_bytes
    }

    /// Bytes of `n` values; `None` where `n` is no whole number of blocks, or the answer no `usize`.
    pub fn row_bytes(self, n: usize) -> Option<usize> {
        let whole = n.is_multiple_of(self.block_len());
        whole.then_some(n / self.block_len())?.checked_mul(self.block_bytes())
    }

    /// Unpacks whole blocks, whatever their bytes.
    ///
    /// # Panics
    /// If `bytes` is not as long as `out` needs.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        (self.info().decode)(bytes, out);
    }

    /// The function that packs values, where there is one; it panics as [`Format::decode`] does.
    ///
    /// It is for values up to [`Format::largest`]. A NaN becomes any code, and beyond the largest the whole block may become
    /// smaller, 0, infinite or NaN. Where all importances of a block are 0, its values count alike.
    pub fn encoder(self) -> Option<Encode> {
        self.info().encode.as_ref().map(|e| e.run)
    }

    /// The most that packing changes a value of the block `x`, where there is an encoder and values and scales are
    /// finite; with an importance, the root of the mean square change, weighted by it.
    pub fn error_max(self, x: &[f32]) -> Option<f32> {
        self.info().encode.as_ref().map(|e| (e.error)(x))
    }

    /// The largest magnitude that packing keeps as well as smaller ones, whatever lies beside it, where there is an encoder.
    pub fn largest(self) -> Option<f32> {
        self.info().encode.as_ref().map(|e| e.largest)
    }

    fn info(self) -> &'static Info {
        &INFOS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_formats() {
        for &format in FORMATS {
            assert_eq!(Format::from_id(format.id()), Some(format));
            assert_eq!(format.name(), format!("{format:?}"));
        }
    }

    #[test]
    fn retired_and_unknown_numbers_are_no_formats() {
        for id in [4, 5, 31, 32, 33, 36, 37, 38, 1000, u32::MAX] {
            assert_eq!(Format::from_id(id), None, "{id}");
        }
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(Format::Q8_0.row_bytes(64), Some(68));
        assert_eq!(Format::Q8_0.row_bytes(0), Some(0));
        assert_eq!(Format::Q8_0.row_bytes(33), None);
        assert_eq!(Format::Q8_0.row_bytes(usize::MAX - 31), None);
        assert_eq!(Format::F32.row_bytes(usize::MAX), None);
        assert_eq!(Format::Q2_K.row_bytes(128), None);
    }

    #[test]
    #[should_panic(expected = "blocks")]
    fn half_a_block_is_our_mistake() {
        Format::Q8_0.decode(&[0; 34], &mut [0.0; 16]);
    }
}
