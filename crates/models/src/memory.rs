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
        let start = |slot: usize, row: usize| (slot * 5 + row) * 12;
        for (positions, expected) in [
            (0..5, &[start(1, 0)..start(1, 5)][..]),
            (7..9, &[start(1, 2)..start(1, 4)]),
            (8..12, &[start(1, 3)..start(1, 5), start(1, 0)..start(1, 2)]),
            (9..10, &[start(1, 4)..start(1, 5)]),
            (6..6, &[]),
        ] {
            let part = CachePart::new(&cache, 1, positions.clone());
            let found: Vec<_> = part.views().iter().map(Tensor::byte_range).collect();
            assert_eq!(found, expected, "{positions:?}");
            assert_eq!(part.n_bytes(), 12 * positions.len());
        }
    }

    #[test]
    #[should_panic = "6 positions of"]
    fn a_ring_has_no_more_positions_than_rows() {
        CachePart::new(&Reference.alloc(F32, &[1, 5, 3]).unwrap_or_else(|e| panic!("{e}")), 0, 3..9);
    }
}
