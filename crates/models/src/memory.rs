//! What a sequence has in a state's caches, as parts that can be read out and put back: into another slot, another state or
//! another run of the program.

use std::ops::Range;

use compute::{Kind, Tensor};

/// Rows of one cache, in the order of their positions.
#[derive(Clone, Debug)]
pub struct CachePart {
    views: Vec<Tensor>, // a ring's rows may lie in two places
    kind: Kind,
    rows: usize,
    cols: usize,
}

impl CachePart {
    /// Rows `positions` of a slot of a cache `[n_slot, n_row, width]`, where position `p` lies in row `p mod n_row`.
    ///
    /// # Panics
    /// If there are more positions than rows.
    pub(crate) fn new(cache: &Tensor, slot: usize, positions: Range<usize>) -> CachePart {
        let &[_, n_row, cols] = cache.shape() else { panic!("a cache has slots, rows and columns, not {cache:?}") };
        let (first, n) = (positions.start % n_row, positions.len());
        assert!(n <= n_row, "{n} positions of {cache:?}");
        let own = cache.slice(slot..slot + 1).reshape(&[n_row, cols]);
        let wrapped = (first + n).saturating_sub(n_row);
        let views = [first..first + n - wrapped, 0..wrapped].into_iter().filter(|rows| !rows.is_empty());
        CachePart { views: views.map(|rows| own.slice(rows)).collect(), kind: cache.kind(), rows: n, cols }
    }

    /// The memory, in order: nothing, one place or two.
    pub fn views(&self) -> &[Tensor] {
        &self.views
    }

    /// What its elements are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Its bytes.
    pub fn n_bytes(&self) -> usize {
        self.rows * self.kind.row_bytes(self.cols)
    }
}

#[cfg(test)]
mod tests {
    use compute::{F32, Memory, Reference};

    use super::*;

    #[test]
    fn positions_of_a_ring_come_in_their_order() {
        let cache = Reference.alloc(F32, &[2, 5, 3]).unwrap_or_else(|e| panic!("{e}"));
        for (positions, expected) in [(0..5, "0..5"), (7..9, "2..4"), (8..12, "3..5 0..2"), (9..10, "4..5"), (6..6, "")]
        {
            let part = CachePart::new(&cache, 1, positions.clone());
            // Rows of 12 bytes, behind the 5 of another slot.
            let rows = part.views().iter().map(|view| {
                let bytes = view.byte_range();
                format!("{}..{}", bytes.start / 12 - 5, bytes.end / 12 - 5)
            });
            assert_eq!(rows.collect::<Vec<_>>().join(" "), expected, "{positions:?}");
            assert_eq!(part.n_bytes(), 12 * positions.len());
        }
    }

    #[test]
    #[should_panic = "6 positions of"]
    fn a_ring_has_no_more_positions_than_rows() {
        CachePart::new(&Reference.alloc(F32, &[1, 5, 3]).unwrap_or_else(|e| panic!("{e}")), 0, 3..9);
    }
}
