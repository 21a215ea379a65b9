//! Memory for experts: mappings of at most 1 GiB, cut into slots.
//!
//! A slot is a range of a mapping that nobody else has, so whoever owns it may write to it, or have it written to. It can
//! be cut, and what was cut can be joined again: parts of an expert are read at the same time, each by the owner of its
//! part. More slots can be taken at any time; the mappings that are there stay where they are.

use std::{io, sync::Arc};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

/// What reads past the page cache must be aligned to, in memory and in the file.
pub(crate) const PAGE: usize = 4096;

/// A mapping's length, at most: the kernel registers no larger buffer. A slot that is larger has one to itself.
const SEGMENT_BYTES_MAX: usize = 1 << 30;

/// One mapping. It stays until the last of its slots is gone.
pub(crate) struct Segment(MmapRaw);

/// A part of a mapping that nobody else has: whoever owns a slot may write to it.
pub(crate) struct Slot {
    segment: Arc<Segment>,
    start: usize,
    len: usize,
}

/// Takes memory for `n` slots of `len` bytes, a whole number of pages each; in large pages where the system has them.
///
/// # Errors
/// If the system does not have so much.
pub(crate) fn slots(n: usize, len: usize) -> io::Result<Vec<Slot>> {
    n.checked_mul(len).ok_or(io::ErrorKind::OutOfMemory)?;
    slots_in(n, len, SEGMENT_BYTES_MAX)
}

fn slots_in(n: usize, len: usize, segment_bytes_max: usize) -> io::Result<Vec<Slot>> {
    assert!(len > 0 && len.is_multiple_of(PAGE), "slots are whole pages");
    let n_per_segment = (segment_bytes_max / len).max(1);
    let mut slots = Vec::new();
    while slots.len() < n {
        let n_more = n_per_segment.min(n - slots.len());
        let segment = Arc::new(Segment::new(n_more * len)?);
        slots.extend((0..n_more).map(|i| Slot { segment: segment.clone(), start: i * len, len }));
    }
    Ok(slots)
}

impl Segment {
    fn new(bytes: usize) -> io::Result<Segment> {
        let mut map = MmapOptions::new().len(bytes).map_anon()?;
        take(&mut map)?;
        Ok(Segment(map.into()))
    }
}

#[cfg(target_os = "linux")]
impl Segment {
    /// Where it is, and its length.
    pub(crate) fn range(&self) -> (*mut u8, usize) {
        (self.0.as_mut_ptr(), self.0.len())
    }
}

/// Has the system give all pages now: memory that is only promised would count as free, and be promised twice.
fn take(map: &mut MmapMut) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        // A wish: without large pages it is a little slower.
        let _ = map.advise(memmap2::Advice::HugePage);
        match map.advise(memmap2::Advice::PopulateWrite) {
            Err(e) if e.kind() == io::ErrorKind::OutOfMemory => return Err(e),
            // Older systems do not know this.
            Err(_) => touch(map),
            Ok(()) => {}
        }
    }
    #[cfg(not(target_os = "linux"))]
    touch(map);
    // A wish, too: memory that is not locked may be swapped out.
    #[cfg(unix)]
    let _ = map.lock();
    Ok(())
}

fn touch(map: &mut MmapMut) {
    map.iter_mut().step_by(PAGE).for_each(|byte| *byte = 0);
}

impl Slot {
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: inside the mapping, which lives as long as the slot. Slots do not overlap and are not cloned, so only
        // `bytes_mut` of this very slot writes here, or the kernel, for a read into it: `io/uring.rs` owns the slot for as
        // long as that may be, whether the mapping is registered as a buffer or not.
        unsafe { std::slice::from_raw_parts(self.segment.0.as_ptr().add(self.start), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.segment.0.as_mut_ptr().add(self.start), self.len) }
    }

    /// The mapping that it is a part of.
    #[cfg(target_os = "linux")]
    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Cuts off what follows the first `n` bytes.
    pub(crate) fn split_off(&mut self, n: usize) -> Slot {
        assert!(n <= self.len, "{n} of {} bytes", self.len);
        let rest = Slot { segment: self.segment.clone(), start: self.start + n, len: self.len - n };
        self.len = n;
        rest
    }

    /// The slot that was cut into these pieces, in any order.
    ///
    /// # Panics
    /// If there are none, or one is missing.
    pub(crate) fn join(pieces: &mut Vec<Slot>) -> Slot {
        pieces.sort_unstable_by_key(|piece| (piece.start, piece.len));
        let join = |mut whole: Slot, next: Slot| {
            let adjacent = whole.start + whole.len == next.start && Arc::ptr_eq(&whole.segment, &next.segment);
            assert!(adjacent, "a piece of a slot is missing");
            whole.len += next.len;
            whole
        };
        pieces.drain(..).reduce(join).expect("a slot has pieces")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_share_nothing_and_start_on_pages() {
        for segment_bytes_max in [PAGE, 4 * PAGE, 5 * PAGE, 1 << 30] {
            let mut slots = slots_in(5, 2 * PAGE, segment_bytes_max).expect("40 KiB");
            assert_eq!(slots.len(), 5);
            for (i, slot) in slots.iter_mut().enumerate() {
                assert!(slot.bytes().as_ptr().cast::<[u8; PAGE]>().addr().is_multiple_of(PAGE));
                slot.bytes_mut().fill(i as u8 + 1);
            }
            for (i, slot) in slots.iter().enumerate() {
                assert!(slot.bytes().len() == 2 * PAGE && slot.bytes().iter().all(|&b| b == i as u8 + 1));
                assert!(slot.segment.0.len() <= segment_bytes_max.max(2 * PAGE));
            }
        }
    }

    #[test]
    fn what_was_cut_is_joined_in_any_order() {
        let mut slots = slots(2, 3 * PAGE).expect("24 KiB");
        let mut head = slots.remove(1);
        head.bytes_mut().iter_mut().enumerate().for_each(|(i, b)| *b = (i % 251) as u8);
        let mut middle = head.split_off(PAGE);
        let mut tail = middle.split_off(PAGE);
        let nothing = tail.split_off(2 * PAGE - PAGE);
        let whole = Slot::join(&mut vec![tail, head, nothing, middle]);
        assert!(
            whole.bytes().iter().enumerate().all(|(i, &b)| b == (i % 251) as u8) && whole.bytes().len() == 3 * PAGE
        );
    }

    #[test]
    #[should_panic(expected = "a piece of a slot is missing")]
    fn a_slot_without_its_middle_is_none() {
        let mut head = slots(1, 3 * PAGE).expect("12 KiB").remove(0);
        let mut middle = head.split_off(PAGE);
        let tail = middle.split_off(PAGE);
        Slot::join(&mut vec![head, tail]);
    }

    #[test]
    fn more_than_there_can_be_is_an_error() {
        assert!(slots(usize::MAX / PAGE, 2 * PAGE).is_err());
        assert!(slots(1, usize::MAX / PAGE * PAGE).is_err());
    }
}
