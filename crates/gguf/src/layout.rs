//! Where everything lies in a file that is to be written.
//!
//! ```text
//! header, padded | tensor, padded | tensor, padded | ...      each at a multiple of the alignment
//! ```

use std::ops::Range;

use crate::{
    Element, Value,
    part::{ALIGNMENT_DEFAULT, ALIGNMENT_KEY},
};

/// The header's bytes, and the place of each tensor behind it.
pub struct Layout {
    header: Vec<u8>,
    ranges: Vec<Range<u64>>,
    n_bytes: u64,
}

impl Layout {
    /// Lays out a file of this version, keys and tensors: name, shape (outermost first), elements.
    ///
    /// # Panics
    /// If a tensor's rows are no whole blocks, or it has more bytes than there are: our own mistake.
    pub fn new<'a>(
        version: u32,
        keys: &[(String, Value)],
        tensors: impl ExactSizeIterator<Item = (&'a str, &'a [usize], Element)>,
    ) -> Layout {
        let align = alignment(keys);
        let mut header = head(version, keys, tensors.len());
        let (mut ranges, mut offset) = (Vec::with_capacity(tensors.len()), 0u64);
        for (name, shape, element) in tensors {
            put_name(name, &mut header);
            header.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|&dim| header.extend((dim as u64).to_le_bytes()));
            header.extend(element.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            let end = offset + n_bytes(shape, element);
            ranges.push(offset..end);
            offset = end.next_multiple_of(align);
        }
        header.resize(header.len().next_multiple_of(align as usize), 0);
        let start = header.len() as u64;
        let ranges = ranges.into_iter().map(|r| start + r.start..start + r.end).collect();
        Layout { header, ranges, n_bytes: start + offset }
    }

    /// The file's bytes up to the first tensor.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The bytes of tensor `i` in the file.
    pub fn range(&self, i: usize) -> Range<u64> {
        self.ranges[i].clone()
    }

    /// Length of the file; bytes between tensors are zero.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }
}

fn alignment(keys: &[(String, Value)]) -> u64 {
    match keys.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
        Some((_, Value::U32(n))) if n.is_power_of_two() => u64::from(*n),
        _ => ALIGNMENT_DEFAULT.into(),
    }
}

fn head(version: u32, keys: &[(String, Value)], n_tensors: usize) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(version.to_le_bytes());
    out.extend((n_tensors as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        put_name(key, &mut out);
        out.extend(value.id().to_le_bytes());
        value.put(&mut out);
    }
    out
}

fn n_bytes(shape: &[usize], element: Element) -> u64 {
    let (row, outer) = shape.split_last().expect("a tensor has dimensions");
    let row = element.row_bytes(*row).expect("rows are whole blocks");
    outer.iter().try_fold(row, |n, &dim| n.checked_mul(dim)).expect("a tensor's bytes are a number") as u64
}

fn put_name(name: &str, out: &mut Vec<u8>) {
    out.extend((name.len() as u64).to_le_bytes());
    out.extend(name.as_bytes());
}
