//! One mapping, cut into slots once and for all.

use std::{io, sync::Arc};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

/// What reads past the page cache must be aligned to, in memory and in the file.
pub(crate) const PAGE: usize = 4096;

/// A part of the mapping that nobody else has: whoever owns a slot may write to it.
pub(crate) struct Slot {
    map: Arc<MmapRaw>,
    start: usize,
    len: usize,
}

/// Takes memory for `n` slots of `len` bytes, a whole number of pages each; in large pages where the system has them.
///
/// # Errors
/// If the system does not have so much.
pub(crate) fn slots(n: usize, len: usize) -> io::Result<Vec<Slot>> {
    assert!(len > 0 && len.is_multiple_of(PAGE), "slots are whole pages");
    let bytes = n.checked_mul(len).ok_or(io::ErrorKind::OutOfMemory)?;
    let mut map = MmapOptions::new().len(bytes.max(PAGE)).map_anon()?;
    take(&mut map)?;
    let map = Arc::new(MmapRaw::from(map));
    Ok((0..n).map(|i| Slot { map: map.clone(), start: i * len, len }).collect())
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
        // SAFETY: inside the mapping, which lives as long as the slot; only `bytes_mut` of this very slot writes here,
        // since slots do not overlap and are not cloned.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.start), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.start), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_share_nothing_and_start_on_pages() {
        let mut slots = slots(3, 2 * PAGE).expect("24 KiB");
        for (i, slot) in slots.iter_mut().enumerate() {
            assert!(slot.bytes().as_ptr().cast::<[u8; PAGE]>().addr().is_multiple_of(PAGE));
            slot.bytes_mut().fill(i as u8 + 1);
        }
        for (i, slot) in slots.iter().enumerate() {
            assert!(slot.bytes().len() == 2 * PAGE && slot.bytes().iter().all(|&b| b == i as u8 + 1));
        }
    }

    #[test]
    fn more_than_there_can_be_is_an_error() {
        assert!(slots(usize::MAX / PAGE, 2 * PAGE).is_err());
    }
}
