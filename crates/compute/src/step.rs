//! The step block: what changes from one forward pass to the next, in the device's memory.
//!
//! Operations read tokens, positions and sequences from here and never get them as host integers, so a backend may
//! record the operations of a forward pass once and replay them for the next token.

use crate::{Device, DeviceError, Kind, Tensor};

/// One row of a batch: a token, its absolute position, and the sequence it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The token.
    pub id: u32,
    /// Its position in the sequence, counted from 0.
    pub pos: u32,
    /// The sequence's place in every cache.
    pub slot: u32,
}

/// The rows of a batch as the operations see them. Rows of one slot stand together, in the order of their positions.
#[derive(Clone, Debug)]
pub struct Step {
    /// Token ids, `[t]`.
    pub id: Tensor,
    /// Absolute positions, `[t]`.
    pub pos: Tensor,
    /// Cache slots, `[t]`.
    pub slot: Tensor,
}

impl Step {
    /// A block with room for `n` rows.
    ///
    /// # Errors
    /// When the device has no memory left.
    pub fn new(dev: &dyn Device, n: usize) -> Result<Step, DeviceError> {
        let column = || dev.alloc(Kind::I32, &[n]);
        Ok(Step { id: column()?, pos: column()?, slot: column()? })
    }

    /// Writes `rows` and returns the view of just them.
    pub fn set(&self, dev: &dyn Device, rows: &[Row]) -> Step {
        let write = |column: &Tensor, value: fn(&Row) -> u32| {
            let column = column.slice(0..rows.len());
            dev.write(&column, &rows.iter().flat_map(|r| value(r).to_le_bytes()).collect::<Vec<u8>>());
            column
        };
        Step { id: write(&self.id, |r| r.id), pos: write(&self.pos, |r| r.pos), slot: write(&self.slot, |r| r.slot) }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.id.cols()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
