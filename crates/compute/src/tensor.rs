//! A tensor is a view: a device's buffer, a byte offset, a shape and a kind of element.
//!
//! Shapes are written outermost first, `[rows, cols]`; elements are contiguous. A view can drop rows at either end or
//! change its shape, never its layout, so that every operation sees plain rows.

use std::{any::Any, fmt, ops::Range, sync::Arc};

use quant::{Format, RowFormat};

/// Memory of some device. Only the device that made it can look inside, by downcasting.
pub trait Buffer: Any + Send + Sync {
    /// This buffer as `Any`, for the device's downcast.
    fn as_any(&self) -> &dyn Any;
}

/// What the elements of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Weights in a format of the GGUF; activations are `Packed(Format::F32)`, spelt [`F32`].
    Packed(Format),
    /// Row numbers, positions, token ids.
    I32,
    /// Rows of a cache, packed one by one.
    Cached(RowFormat),
}

/// The kind of activations.
pub const F32: Kind = Kind::Packed(Format::F32);

impl Kind {
    /// Bytes of one row of `n` elements.
    ///
    /// # Panics
    /// If `n` is no whole number of blocks: shapes are checked when a file is opened.
    pub fn row_bytes(self, n: usize) -> usize {
        match self {
            Kind::Packed(format) => format.row_bytes(n).expect("rows are whole blocks"),
            Kind::I32 => 4 * n,
            Kind::Cached(format) => format.row_bytes(n),
        }
    }

    /// Bytes of a tensor of this shape; `None` where an address space does not hold them.
    ///
    /// # Panics
    /// As [`Self::row_bytes`], and if there are no dimensions.
    pub fn bytes(self, shape: &[usize]) -> Option<usize> {
        let (&cols, outer) = shape.split_last().expect("a tensor has dimensions");
        // No kind takes as much as 8 bytes for a value. Empty dimensions must not hide what the others amount to, as
        // views multiply some of them.
        shape.iter().try_fold(8usize, |n, &d| n.checked_mul(d.max(1)))?;
        Some(outer.iter().product::<usize>() * self.row_bytes(cols))
    }
}

const MAX_DIMS: usize = 4;

/// A view of a device's memory; cloning it copies the view. Its bytes fit an address space, which is checked where a
/// shape is given: what is computed from sizes does not wrap.
#[derive(Clone)]
pub struct Tensor {
    buffer: Arc<dyn Buffer>,
    start: usize, // bytes
    dims: [usize; MAX_DIMS],
    n_dims: usize,
    kind: Kind,
}

impl Tensor {
    /// The whole of `buffer` as a tensor; for devices.
    pub fn new(buffer: Arc<dyn Buffer>, kind: Kind, shape: &[usize]) -> Tensor {
        let (dims, n_dims) = pack(kind, shape);
        Tensor { buffer, start: 0, dims, n_dims, kind }
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.dims[..self.n_dims]
    }

    /// The size of the innermost dimension.
    pub fn cols(&self) -> usize {
        self.dims[self.n_dims - 1]
    }

    /// How many rows of [`Self::cols`] elements there are, all outer dimensions together.
    pub fn rows(&self) -> usize {
        self.dims[..self.n_dims - 1].iter().product()
    }

    /// What the elements are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.kind.row_bytes(self.cols())
    }

    /// The bytes of the buffer that this view covers.
    pub fn byte_range(&self) -> Range<usize> {
        self.start..self.start + self.rows() * self.row_bytes()
    }

    /// The memory behind the view; for devices.
    pub fn buffer(&self) -> &Arc<dyn Buffer> {
        &self.buffer
    }

    /// Entries `range` of the outermost dimension.
    pub fn slice(&self, range: Range<usize>) -> Tensor {
        assert!(range.start <= range.end && range.end <= self.dims[0], "slice {range:?} of {self:?}");
        assert!(self.n_dims > 1 || self.kind == F32 || self.kind == Kind::I32, "a packed row has no parts");
        let entry_bytes = match self.n_dims {
            1 => 4,
            _ => self.row_bytes() * self.dims[1..self.n_dims - 1].iter().product::<usize>(),
        };
        let mut view = self.clone();
        view.start += range.start * entry_bytes;
        view.dims[0] = range.len();
        view
    }

    /// The same elements in another shape; rows of packed kinds keep their length.
    pub fn reshape(&self, shape: &[usize]) -> Tensor {
        let (dims, n_dims) = pack(self.kind, shape);
        let view = Tensor { buffer: self.buffer.clone(), start: self.start, dims, n_dims, kind: self.kind };
        assert_eq!(view.rows() * view.cols(), self.rows() * self.cols(), "reshape {self:?} to {shape:?}");
        assert!(view.cols() == self.cols() || matches!(self.kind, F32 | Kind::I32), "reshape {self:?} to {shape:?}");
        view
    }

    /// Whether two views share a byte.
    pub fn overlaps(&self, other: &Tensor) -> bool {
        let (a, b) = (self.byte_range(), other.byte_range());
        Arc::ptr_eq(&self.buffer, &other.buffer) && a.start < b.end && b.start < a.end
    }
}

fn pack(kind: Kind, shape: &[usize]) -> ([usize; MAX_DIMS], usize) {
    assert!((1..=MAX_DIMS).contains(&shape.len()), "a tensor has 1 to {MAX_DIMS} dimensions, not {shape:?}");
    assert!(kind.bytes(shape).is_some(), "no address space holds {kind:?} {shape:?}");
    let mut dims = [1; MAX_DIMS];
    dims[..shape.len()].copy_from_slice(shape);
    (dims, shape.len())
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.kind, self.shape())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Buffer for Nothing {
        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    #[test]
    fn sizes_that_wrap_are_none() {
        let half = usize::MAX / 2 + 1;
        for shape in [&[half, 2][..], &[2, half], &[0, half, 2], &[half, 2, 0], &[1 << 31, 1 << 31, 1]] {
            assert_eq!(F32.bytes(shape), None, "{shape:?}");
            assert_eq!(Kind::Cached(RowFormat::F16).bytes(shape), None, "{shape:?}");
        }
        assert_eq!(F32.bytes(&[3, 0, 5]), Some(0));
        assert_eq!(Kind::Packed(Format::Q8_0).bytes(&[3, 2, 64]), Some(3 * 2 * 68));
    }

    #[test]
    #[should_panic = "no address space holds"]
    fn a_shape_whose_size_wraps_is_no_view() {
        let _ = Tensor::new(std::sync::Arc::new(Nothing), F32, &[1, 4]).reshape(&[usize::MAX / 2 + 1, 2, 1, 4]);
    }
}
