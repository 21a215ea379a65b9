//! Where experts are: in the file, and in a slot.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use compute::Kind;
use gguf::{Gguf, TensorInfo};

use crate::arena::PAGE;

/// One matrix of all experts of a layer: they lie one after another, `[n_expert, rows, cols]`.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The tensor that they are.
    pub(crate) name: String,
    /// Index into the store's files.
    pub(crate) file: usize,
    pub(crate) offset: u64,
    pub(crate) kind: Kind,
    pub(crate) shape: [usize; 2], // of one expert
    pub(crate) bytes: usize,      // of one expert
}

/// Gate, up and down of the experts of every layer, and the files that hold them.
#[derive(Clone, Debug, Default)]
pub struct Places {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) layers: Vec<[Matrix; 3]>,
    pub(crate) n_expert: usize,
}

/// Bytes of a file that go to a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) file: usize,
    pub(crate) offset: u64,
    pub(crate) len: usize,
    /// Where the room for them begins: a whole page.
    pub(crate) room: usize,
}

impl Extent {
    /// The pages of the file that hold it.
    pub(crate) fn pages(&self) -> Range<u64> {
        let page = PAGE as u64;
        self.offset / page * page..(self.offset + self.len as u64).next_multiple_of(page)
    }

    /// Where in a slot the bytes themselves are.
    pub(crate) fn range(&self) -> Range<usize> {
        let start = self.room + (self.offset - self.pages().start) as usize;
        start..start + self.len
    }
}

/// Room in a slot for `bytes` from anywhere in a file.
pub(crate) fn room(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE) + PAGE
}

impl Places {
    /// Adds a layer's experts, given the tensors of their matrices, `[n_expert, rows, cols]`, and the kind of these.
    ///
    /// # Panics
    /// If the tensors are not as many matrices each, or not as many as in other layers.
    pub fn push(&mut self, gguf: &Gguf, matrices: [(&TensorInfo, Kind); 3]) {
        let n_expert = matrices[0].0.shape[0];
        assert!(self.layers.is_empty() || self.n_expert == n_expert, "layers have as many experts");
        self.n_expert = n_expert;
        let layer = matrices.map(|(info, kind)| {
            let [n, rows, cols] = *info.shape else { panic!("{} is no stack of matrices", info.name) };
            assert_eq!(n, n_expert, "{}", info.name);
            let (path, range) = gguf.place(info);
            Matrix {
                name: info.name.clone(),
                file: self.file(path),
                offset: range.start,
                kind,
                shape: [rows, cols],
                bytes: info.n_bytes() / n,
            }
        });
        self.layers.push(layer);
    }

    fn file(&mut self, path: &Path) -> usize {
        let known = self.files.iter().position(|p| p == path);
        known.unwrap_or_else(|| {
            self.files.push(path.to_owned());
            self.files.len() - 1
        })
    }

    /// Experts of all layers.
    pub fn n_experts(&self) -> usize {
        self.layers.len() * self.n_expert
    }

    /// Bytes of a slot: room for the largest expert.
    pub fn slot_bytes(&self) -> usize {
        self.layers.iter().map(|m| m.iter().map(|m| room(m.bytes)).sum()).max().unwrap_or(PAGE)
    }

    /// What is read for expert `e` of a layer.
    pub(crate) fn extents(&self, layer: usize, e: usize) -> [Extent; 3] {
        let mut start = 0;
        self.layers[layer].each_ref().map(|m| {
            let offset = m.offset + (e * m.bytes) as u64;
            let extent = Extent { file: m.file, offset, len: m.bytes, room: start };
            start += room(m.bytes);
            extent
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_from_anywhere_fit_the_room_they_get() {
        for offset in [0, 1, 32, 4095, 4096, 4097, 123_456] {
            for len in [1, 31, 4095, 4096, 4097, 70_000] {
                let extent = Extent { file: 0, offset, len, room: 3 * PAGE };
                let (pages, range) = (extent.pages(), extent.range());
                assert!(pages.end - pages.start <= room(len) as u64, "{extent:?}");
                assert_eq!(pages.start + (range.start - extent.room) as u64, offset);
                assert!(range.len() == len && range.end <= extent.room + room(len));
            }
        }
    }
}
