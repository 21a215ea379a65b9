//! What a store keeps: bytes of a session's memory, under the tokens that they belong to.
//!
//! ```text
//! tokens   0 ........ 255 256 ........ 511 512 .... n
//!          |    Rows     |      Rows      |  Tail   |      each hangs from the one before; the first from the root
//! ```
//!
//! A piece's bytes are one allocation, of which blobs are ranges: as it was read from its file, or as it was built.

use std::ops::Range;

use crate::{BLOCK, Name};

/// Bytes of a blob's label.
pub(crate) const LABEL_BYTES: usize = 16;

/// The most blobs of a piece.
pub(crate) const BLOBS_MAX: usize = 4096;

/// What a piece is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What one block of tokens left in the caches that only grow.
    Rows,
    /// What is needed beside the rows of all blocks before to go on behind its tokens.
    Tail,
}

/// Bytes of a session's memory, of some tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    pub(crate) kind: Kind,
    pub(crate) parent: Name,
    pub(crate) n_tokens: u32,
    pub(crate) ids: Vec<u32>,
    pub(crate) has_logits: bool,
    pub(crate) table: Vec<Slot>,
    pub(crate) bytes: Vec<u8>,
}

/// Where a blob is, and what it is said to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slot {
    /// Text, filled up with zeros.
    pub(crate) label: [u8; LABEL_BYTES],
    pub(crate) rows: u32,
    pub(crate) cols: u32,
    /// In the piece's bytes, one blob behind the other.
    pub(crate) range: Range<usize>,
}

/// A matrix of a piece, as it was given. Who reads it checks that it is what it must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blob<'a> {
    /// The type of its elements, or whatever else tells it from others.
    pub label: &'a str,
    /// Its rows.
    pub rows: u32,
    /// Elements of a row.
    pub cols: u32,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl Piece {
    /// The rows of a block whose prefix before it is `parent`, still without any blob. `n_tokens` counts all tokens from
    /// the beginning to the block's end.
    ///
    /// # Panics
    /// Panics unless `ids` is one block, and `n_tokens` ends one.
    pub fn rows(parent: Name, n_tokens: usize, ids: &[u32]) -> Piece {
        Piece::new(Kind::Rows, parent, n_tokens, ids)
    }

    /// What is needed to go on after `n_tokens`, still without any blob: `parent` is the prefix of whole blocks before,
    /// `ids` the tokens since.
    ///
    /// # Panics
    /// Panics unless `ids` are as many as `n_tokens` has behind its last whole block.
    pub fn tail(parent: Name, n_tokens: usize, ids: &[u32]) -> Piece {
        Piece::new(Kind::Tail, parent, n_tokens, ids)
    }

    fn new(kind: Kind, parent: Name, n_tokens: usize, ids: &[u32]) -> Piece {
        let n_tokens = u32::try_from(n_tokens).expect("contexts are shorter than 2^32 tokens");
        assert!(fits(kind, n_tokens, ids.len()), "{kind:?} of {} tokens cannot end at {n_tokens}", ids.len());
        Piece { kind, parent, n_tokens, ids: ids.to_vec(), has_logits: false, table: Vec::new(), bytes: Vec::new() }
    }

    /// Takes memory for blobs that are to come, at once.
    pub fn reserve(&mut self, n_bytes: usize) {
        self.bytes.reserve_exact(n_bytes);
    }

    /// Adds a blob.
    ///
    /// # Panics
    /// Panics if the label is longer than 16 bytes or holds a zero, or if there are 4096 blobs.
    pub fn push(&mut self, label: &str, rows: usize, cols: usize, bytes: &[u8]) {
        self.push_with(label, rows, cols, bytes.len(), |to| to.copy_from_slice(bytes));
    }

    /// Adds a blob that `fill` writes where it is to lie.
    ///
    /// # Panics
    /// Panics if the label is longer than 16 bytes or holds a zero, or if there are 4096 blobs.
    pub fn push_with(&mut self, label: &str, rows: usize, cols: usize, n_bytes: usize, fill: impl FnOnce(&mut [u8])) {
        assert!(label.len() <= LABEL_BYTES && !label.contains('\0'), "`{label}` is no label of a blob");
        assert!(self.table.len() < BLOBS_MAX, "a piece has at most {BLOBS_MAX} blobs");
        let [rows, cols] =
            [rows, cols].map(|n| u32::try_from(n).expect("matrices have fewer than 2^32 rows and columns"));
        let start = self.bytes.len();
        self.bytes.resize(start + n_bytes, 0);
        fill(&mut self.bytes[start..]);
        let mut padded = [0; LABEL_BYTES];
        padded[..label.len()].copy_from_slice(label.as_bytes());
        self.table.push(Slot { label: padded, rows, cols, range: start..start + n_bytes });
    }

    /// Says that the logits behind the last token are among the blobs.
    pub fn with_logits(mut self) -> Piece {
        self.has_logits = true;
        self
    }

    /// Its name: by its kind, its tokens and all before them.
    pub fn name(&self) -> Name {
        Name::of(self.kind, &self.parent, &self.ids)
    }

    /// What it is needed for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The prefix that it hangs from.
    pub fn parent(&self) -> Name {
        self.parent
    }

    /// Tokens from the beginning to its end.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens as usize
    }

    /// Its own tokens, the last of these.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Whether the logits behind its last token are among the blobs.
    pub fn has_logits(&self) -> bool {
        self.has_logits
    }

    /// Its blobs, in the order in which they were added.
    pub fn blobs(&self) -> impl ExactSizeIterator<Item = Blob<'_>> {
        self.table.iter().map(|slot| Blob {
            label: slot.label(),
            rows: slot.rows,
            cols: slot.cols,
            bytes: &self.bytes[slot.range.clone()],
        })
    }

    /// The bytes of all blobs, one behind the other.
    pub(crate) fn data(&self) -> &[u8] {
        let start = self.table.first().map_or(0, |slot| slot.range.start);
        let end = self.table.last().map_or(0, |slot| slot.range.end);
        &self.bytes[start..end]
    }

    /// Bytes of memory that it takes.
    pub(crate) fn n_bytes(&self) -> u64 {
        let n = size_of::<Piece>() + 4 * self.ids.capacity() + size_of::<Slot>() * self.table.capacity();
        (n + self.bytes.capacity()) as u64
    }
}

/// Whether a piece with so many tokens of its own can end there.
pub(crate) fn fits(kind: Kind, n_tokens: u32, n_ids: usize) -> bool {
    let behind = n_tokens as usize % BLOCK;
    match kind {
        Kind::Rows => n_ids == BLOCK && behind == 0 && n_tokens > 0,
        Kind::Tail => n_ids == behind,
    }
}

impl Slot {
    fn label(&self) -> &str {
        let n = self.label.iter().position(|&c| c == 0).unwrap_or(LABEL_BYTES);
        // Both who pushes a blob and who reads a file make sure that it is text.
        str::from_utf8(&self.label[..n]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_come_back_as_they_were_given() {
        let mut piece = Piece::tail(Name::root(b"m", b"1"), 2, &[7, 8]).with_logits();
        piece.push("f16", 1, 2, &[1, 2, 3, 4]);
        piece.push("", 0, 0, &[]);
        piece.push_with("sixteen bytes ok", 1, 1, 1, |to| to[0] = 9);
        let blobs: Vec<_> = piece.blobs().map(|b| (b.label, b.rows, b.cols, b.bytes)).collect();
        assert_eq!(blobs, [("f16", 1, 2, &[1, 2, 3, 4][..]), ("", 0, 0, &[]), ("sixteen bytes ok", 1, 1, &[9])]);
        assert_eq!((piece.data(), piece.has_logits()), (&[1, 2, 3, 4, 9][..], true));
    }

    #[test]
    fn pieces_end_where_their_kind_can() {
        let all = [(Kind::Rows, 0, 0), (Kind::Rows, 256, 256), (Kind::Rows, 300, 256), (Kind::Rows, 512, 0)];
        assert_eq!(all.map(|(kind, n_tokens, n_ids)| fits(kind, n_tokens, n_ids)), [false, true, false, false]);
        let all = [(Kind::Tail, 0, 0), (Kind::Tail, 256, 256), (Kind::Tail, 300, 44), (Kind::Tail, 512, 0)];
        assert_eq!(all.map(|(kind, n_tokens, n_ids)| fits(kind, n_tokens, n_ids)), [true, false, true, true]);
    }
}
