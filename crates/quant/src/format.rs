//! The list of weight formats.

/// A weight format of the GGUF.
#[allow(non_camel_case_types)] // the names that files and tools use
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS,
    IQ3_S, IQ4_NL, IQ4_XS, MXFP4, IQ1_S, IQ1_M, TQ1_0, TQ2_0,
}
use Format::*;

/// Every format.
pub static FORMATS: &[Format] = &[
    F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS,
    IQ3_S, IQ4_NL, IQ4_XS, MXFP4, IQ1_S, IQ1_M, TQ1_0, TQ2_0,
];

impl Format {
    /// The format that a GGUF calls `id`.
    pub fn from_id(id: u32) -> Option<Format> {
        FORMATS.iter().copied().find(|f| f.id() == id)
    }

    /// The number that a GGUF gives this format.
    pub fn id(self) -> u32 {
        self.row().0
    }

    /// The name that files and tools give this format.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Values per block.
    pub fn block_len(self) -> usize {
        self.row().2
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        self.row().3
    }

    /// Bytes of `n` values; `None` where `n` is no whole number of blocks, or the answer no `usize`.
    pub fn row_bytes(self, n: usize) -> Option<usize> {
        n.is_multiple_of(self.block_len()).then(|| n / self.block_len())?.checked_mul(self.block_bytes())
    }

    /// Unpacks whole blocks.
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(self.row_bytes(out.len()), Some(bytes.len()), "{} blocks", self.name());
        unimplemented!("being written")
    }

    /// The function that packs values, a whole number of blocks, where we have one.
    pub fn encoder(self) -> Option<fn(&[f32], &mut [u8])> {
        None
    }

    fn row(self) -> (u32, &'static str, usize, usize) {
        match self {
            F32 => (0, "F32", 1, 4),
            F16 => (1, "F16", 1, 2),
            BF16 => (30, "BF16", 1, 2),
            Q4_0 => (2, "Q4_0", 32, 18),
            Q4_1 => (3, "Q4_1", 32, 20),
            Q5_0 => (6, "Q5_0", 32, 22),
            Q5_1 => (7, "Q5_1", 32, 24),
            Q8_0 => (8, "Q8_0", 32, 34),
            Q2_K => (10, "Q2_K", 256, 84),
            Q3_K => (11, "Q3_K", 256, 110),
            Q4_K => (12, "Q4_K", 256, 144),
            Q5_K => (13, "Q5_K", 256, 176),
            Q6_K => (14, "Q6_K", 256, 210),
            IQ2_XXS => (16, "IQ2_XXS", 256, 66),
            IQ2_XS => (17, "IQ2_XS", 256, 74),
            IQ2_S => (22, "IQ2_S", 256, 82),
            IQ3_XXS => (18, "IQ3_XXS", 256, 98),
            IQ3_S => (21, "IQ3_S", 256, 110),
            IQ4_NL => (20, "IQ4_NL", 32, 18),
            IQ4_XS => (23, "IQ4_XS", 256, 136),
            MXFP4 => (39, "MXFP4", 32, 17),
            IQ1_S => (19, "IQ1_S", 256, 50),
            IQ1_M => (29, "IQ1_M", 256, 56),
            TQ1_0 => (34, "TQ1_0", 256, 54),
            TQ2_0 => (35, "TQ2_0", 256, 66),
        }
    }
}
