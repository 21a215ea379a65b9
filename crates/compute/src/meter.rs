//! A device that only counts: what would be allocated on another one. A memory plan made with it cannot disagree with
//! the allocations, because the same code makes both.

use std::{
    any::Any,
    sync::{Arc, Mutex},
};

use crate::{Buffer, Device, DeviceError, HostBytes, Kind, Memory, Tensor};

/// Counts bytes; nothing can be computed on it.
#[derive(Debug, Default)]
pub struct Meter(Mutex<Counts>);

/// Bytes by their use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows of caches: what grows with the context.
    pub cache_bytes: usize,
    /// Everything else that is allocated.
    pub other_bytes: usize,
}

impl Meter {
    /// What was allocated so far.
    pub fn counts(&self) -> Counts {
        *self.0.lock().expect("counting does not panic")
    }
}

struct Nothing;

impl Buffer for Nothing {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Memory for Meter {
    fn alloc(&self, kind: Kind, shape: &[usize]) -> Result<Tensor, DeviceError> {
        let refused = |bytes: usize| DeviceError::OutOfMemory { device: self.name(), bytes };
        let bytes = kind.bytes(shape).ok_or_else(|| refused(usize::MAX))?;
        let mut counts = self.0.lock().expect("counting does not panic");
        let count = match kind {
            Kind::Cached(_) => &mut counts.cache_bytes,
            _ => &mut counts.other_bytes,
        };
        *count = count.checked_add(bytes).ok_or_else(|| refused(bytes))?;
        Ok(Tensor::new(Arc::new(Nothing), kind, shape))
    }

    fn load(&self, kind: Kind, shape: &[usize], _: HostBytes) -> Result<Tensor, DeviceError> {
        Ok(Tensor::new(Arc::new(Nothing), kind, shape))
    }

    fn write(&self, _: &Tensor, _: &[u8]) {}

    fn read(&self, t: &Tensor, _: &mut [u8]) -> Result<(), DeviceError> {
        panic!("{t:?} has no elements: this device only counts")
    }
}

impl Device for Meter {
    fn name(&self) -> String {
        "meter".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::F32;
    use quant::RowFormat;

    #[test]
    fn caches_and_buffers_are_counted_apart() {
        let meter = Meter::default();
        meter.alloc(F32, &[3, 5]).expect("counting needs no memory");
        meter.alloc(Kind::Cached(RowFormat::F16), &[2, 7, 8]).expect("counting needs no memory");
        assert_eq!(meter.counts(), Counts { cache_bytes: 2 * 7 * 8 * 2, other_bytes: 60 });
    }
}
