//! Spells a file byte by byte, right or wrong.

/// The bytes so far.
#[derive(Clone)]
pub(crate) struct Raw(pub(crate) Vec<u8>);

impl Raw {
    /// A header of version 3.
    pub(crate) fn header(n_tensors: u64, n_keys: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(3).u64(n_tensors).u64(n_keys)
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Raw {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn u8(self, x: u8) -> Raw {
        self.bytes(&[x])
    }

    pub(crate) fn u32(self, x: u32) -> Raw {
        self.bytes(&x.to_le_bytes())
    }

    pub(crate) fn u64(self, x: u64) -> Raw {
        self.bytes(&x.to_le_bytes())
    }

    pub(crate) fn str(self, text: &str) -> Raw {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    /// The start of a key: its name and the number of its type.
    pub(crate) fn key(self, name: &str, id: u32) -> Raw {
        self.str(name).u32(id)
    }

    /// An entry of the directory; `dims` innermost first.
    pub(crate) fn tensor(self, name: &str, dims: &[u64], id: u32, offset: u64) -> Raw {
        let raw = self.str(name).u32(dims.len() as u32);
        dims.iter().fold(raw, |raw, &dim| raw.u64(dim)).u32(id).u64(offset)
    }

    /// Padding to a multiple of 32, then `n` bytes of data.
    pub(crate) fn data(mut self, n: usize) -> Raw {
        self.0.resize(self.0.len().next_multiple_of(32) + n, 0);
        self
    }
}
