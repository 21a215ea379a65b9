//! Sums of squares, in memory or still in their file. Those of a large mixture take gigabytes, of which a quantiser wants a few
//! kilobytes at a time: the file stays mapped, what is asked for is copied, and its pages are given back.

use std::{borrow::Cow, ops::Range};

use gguf::Bytes;

/// Sums that are looked at together where all of them are.
pub(super) const BLOCK: usize = 1 << 16;

/// Sums, one after another.
#[derive(Clone, Debug)]
pub(super) enum Sums {
    /// In memory.
    Here(Vec<f32>),
    /// In a file, as little-endian floats.
    There {
        bytes: Bytes,
        /// What each float is multiplied with.
        factor: f32,
    },
}

impl Sums {
    pub(super) fn len(&self) -> usize {
        match self {
            Sums::Here(sums) => sums.len(),
            Sums::There { bytes, .. } => bytes.as_ref().len() / size_of::<f32>(),
        }
    }

    /// Some of them.
    pub(super) fn get(&self, range: Range<usize>) -> Cow<'_, [f32]> {
        match self {
            Sums::Here(sums) => Cow::Borrowed(&sums[range]),
            Sums::There { bytes, factor } => {
                let (floats, _) = bytes.as_ref().as_chunks();
                let sums = floats[range].iter().map(|x| f32::from_le_bytes(*x) * factor).collect();
                bytes.release(); // all, as the system reads some around what is asked for
                Cow::Owned(sums)
            }
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> Cow<'_, [f32]> {
        self.get(0..self.len())
    }

    /// All of them, in memory from now on.
    pub(super) fn to_mut(&mut self) -> &mut [f32] {
        if let Sums::There { .. } = self {
            *self = Sums::Here(self.all().into_owned());
        }
        match self {
            Sums::Here(sums) => sums,
            Sums::There { .. } => unreachable!("just replaced"),
        }
    }

    /// Checks that what is still in a file is what it was when it was checked.
    pub(super) fn check_unchanged(&self) -> Result<(), gguf::Error> {
        match self {
            Sums::Here(_) => Ok(()),
            Sums::There { bytes, .. } => bytes.check_unchanged(),
        }
    }
}
