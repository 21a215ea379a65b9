//! What a tensor consists of: the packed formats of weights, and the plain numbers of lookup tables.
//!
//! Source: `enum ggml_type` in ggml's `ggml.h`.

use quant::{FORMATS, Format};

/// The type of a tensor's elements.
#[allow(missing_docs, reason = "the plain types say what they are")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// Weights, blocks of them if the format has blocks.
    Packed(Format),
    I8,
    I16,
    I32,
    I64,
    F64,
}

use Element::{F64, I8, I16, I32, I64, Packed};

/// The types that are no weights: number in the file, name, bytes.
const PLAIN: [(Element, u32, &str, usize); 5] =
    [(I8, 24, "I8", 1), (I16, 25, "I16", 2), (I32, 26, "I32", 4), (I64, 27, "I64", 8), (F64, 28, "F64", 8)];

/// Types that exist, or did, and are not supported; for messages.
const OTHERS: [(u32, &str); 13] = [
    (4, "Q4_2, retired"),
    (5, "Q4_3, retired"),
    (9, "Q8_1, for activations"),
    (15, "Q8_K, for activations"),
    (31, "Q4_0_4_4, retired"),
    (32, "Q4_0_4_8, retired"),
    (33, "Q4_0_8_8, retired"),
    (36, "IQ4_NL_4_4, retired"),
    (37, "IQ4_NL_4_8, retired"),
    (38, "IQ4_NL_8_8, retired"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (42, "Q2_0"),
];

impl Element {
    /// The type that a file calls `id`.
    pub fn from_id(id: u32) -> Option<Element> {
        let plain = PLAIN.iter().find(|p| p.1 == id).map(|p| p.0);
        plain.or_else(|| Format::from_id(id).map(Packed))
    }

    /// The number that a file gives this type.
    pub fn id(self) -> u32 {
        match self {
            Packed(format) => format.id(),
            plain => plain.row().1,
        }
    }

    /// The name that files and tools give this type.
    pub fn name(self) -> &'static str {
        match self {
            Packed(format) => format.name(),
            plain => plain.row().2,
        }
    }

    /// Elements per block.
    pub fn block_len(self) -> usize {
        match self {
            Packed(format) => format.block_len(),
            _ => 1,
        }
    }

    /// Whether elements share what is stored, in blocks: the formats of fewer bits than a number has.
    pub fn has_blocks(self) -> bool {
        self.block_len() > 1
    }

    /// Bytes of `n` elements; `None` where `n` is no whole number of blocks, or the answer no `usize`.
    pub fn row_bytes(self, n: usize) -> Option<usize> {
        match self {
            Packed(format) => format.row_bytes(n),
            plain => n.checked_mul(plain.row().3),
        }
    }

    /// The line of a plain type.
    fn row(self) -> &'static (Element, u32, &'static str, usize) {
        PLAIN.iter().find(|p| p.0 == self).expect("all but the packed are in the list")
    }
}

/// What `id` means, for messages about types that are not supported.
pub(crate) fn describe(id: u32) -> String {
    match OTHERS.iter().find(|o| o.0 == id) {
        Some((_, name)) => format!("{id} ({name})"),
        None => id.to_string(),
    }
}

/// The names of all supported types.
pub(crate) fn supported() -> String {
    let packed = FORMATS.iter().map(|f| f.name());
    packed.chain(PLAIN.iter().map(|p| p.2)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_types() {
        for id in 0..100 {
            if let Some(element) = Element::from_id(id) {
                assert_eq!(element.id(), id, "{}", element.name());
            }
        }
        assert_eq!(Element::from_id(26), Some(I32));
        assert_eq!(Element::from_id(8), Some(Packed(Format::Q8_0)));
    }

    #[test]
    fn what_is_described_as_unsupported_is_not_supported() {
        for (id, name) in OTHERS {
            assert_eq!(Element::from_id(id), None, "{name}");
        }
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(I16.row_bytes(3), Some(6));
        assert_eq!(F64.row_bytes(usize::MAX), None);
        assert_eq!(Packed(Format::Q8_0).row_bytes(64), Some(68));
        assert_eq!(Packed(Format::Q8_0).row_bytes(33), None);
    }
}
