//! A job is cut into parts, which are read at the same time; the last that lands ends the job.
//!
//! ```text
//! slot    | gate ........... | up ............. | down ........... |
//! parts   | part | part | .. | part | part | .. | part | part | .. |     each owns its piece of the slot while it is read
//! ```

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use super::{ReadError, source::Source};
#[cfg(target_os = "linux")]
use crate::arena::Segment;
use crate::{
    arena::{PAGE, Slot},
    places::Extent,
};

/// How often in a row a read may be interrupted, or told to come again.
const AGAIN_MAX: usize = 50;

/// A request: the matrices of one expert, and the slot they go to.
pub(crate) struct Job {
    /// What the asker knows it by.
    pub(crate) key: usize,
    pub(crate) extents: [Extent; 3],
    pub(crate) slot: Slot,
}

/// What the parts of a job share.
pub(super) struct Begun {
    pub(super) key: usize,
    extents: [Extent; 3],
    rest: Mutex<Rest>,
}

struct Rest {
    n_left: usize, // parts
    /// The slot, as far as nobody reads into it.
    pieces: Vec<Slot>,
    result: Result<(), ReadError>,
    /// Whether a part took too long.
    is_lost: bool,
}

/// Bytes of a file that one read brings, unless it falls short; and the room for them.
pub(crate) struct Part {
    job: Arc<Begun>,
    extent: Extent,
    room: Slot,
    /// Bytes that are there: whole pages.
    n_read: usize,
}

/// A job that has ended, as its asker is told.
pub(super) struct Landed {
    pub(super) key: usize,
    pub(super) slot: Slot,
    pub(super) result: Result<(), ReadError>,
}

impl Job {
    /// Cuts a job into parts of at most `part_bytes`, a whole number of pages, in the order of its matrices.
    pub(super) fn begin(self, part_bytes: usize, parts: &mut VecDeque<Part>) {
        let Job { key, extents, mut slot } = self;
        let stretches: Vec<Extent> = extents.iter().flat_map(|extent| cut(extent, part_bytes)).collect();
        let pieces = Vec::with_capacity(2 * stretches.len() + 1);
        let rest = Rest { n_left: stretches.len(), pieces, result: Ok(()), is_lost: false };
        let job = Arc::new(Begun { key, extents, rest: Mutex::new(rest) });
        // From behind, so that each cut leaves the rest of the slot in front.
        let first = parts.len();
        for extent in stretches.into_iter().rev() {
            let mut room = slot.split_off(extent.room);
            let pages = extent.pages();
            let unused = room.split_off((pages.end - pages.start) as usize);
            job.keep(unused);
            parts.insert(first, Part { job: job.clone(), extent, room, n_read: 0 });
        }
        job.keep(slot);
    }
}

/// Stretches of about equal length and at most `part_bytes` of pages. All but the first begin with a page.
fn cut(extent: &Extent, part_bytes: usize) -> impl Iterator<Item = Extent> {
    let pages = extent.pages();
    let n_pages = ((pages.end - pages.start) as usize / PAGE).max(1);
    let n_parts = n_pages.div_ceil((part_bytes / PAGE).max(1));
    let step = n_pages.div_ceil(n_parts) * PAGE;
    (0..n_pages * PAGE).step_by(step).map(move |at| {
        let start = pages.start + at as u64;
        let offset = start.max(extent.offset);
        let end = (start + step as u64).min(extent.offset + extent.len as u64);
        Extent { file: extent.file, offset, len: (end - offset) as usize, room: extent.room + at }
    })
}

impl Begun {
    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn keep(&self, piece: Slot) {
        self.rest().pieces.push(piece);
    }

    /// One part takes too long. Whether it is the first that does.
    pub(super) fn lose(&self) -> bool {
        !std::mem::replace(&mut self.rest().is_lost, true)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.rest().is_lost
    }

    /// One part is back.
    fn end(&self, piece: Slot, result: Result<(), ReadError>, sources: &[Source]) -> Option<Landed> {
        let mut rest = self.rest();
        rest.pieces.push(piece);
        rest.n_left -= 1;
        if let (Err(e), Ok(())) = (result, &rest.result) {
            rest.result = Err(e);
        }
        if rest.n_left > 0 {
            return None;
        }
        let read = std::mem::replace(&mut rest.result, Ok(()));
        let slot = Slot::join(&mut rest.pieces);
        // Bytes of a file that changed are not used, and why they could not be read is of no interest.
        let result = self.unchanged(sources).and(read);
        Some(Landed { key: self.key, slot, result })
    }

    fn unchanged(&self, sources: &[Source]) -> Result<(), ReadError> {
        for (i, extent) in self.extents.iter().enumerate() {
            let (source, seen) = (&sources[extent.file], self.extents[..i].iter().any(|e| e.file == extent.file));
            if !seen && !source.is_unchanged().map_err(|e| source.error(extent, e))? {
                return Err(ReadError::Changed { path: source.path().to_owned() });
            }
        }
        Ok(())
    }
}

impl Part {
    /// The key of its job.
    pub(crate) fn key(&self) -> usize {
        self.job.key
    }

    /// Bytes that were asked for.
    pub(super) fn len(&self) -> usize {
        self.extent.len
    }

    /// Index of the file.
    pub(super) fn file(&self) -> usize {
        self.extent.file
    }

    pub(super) fn job(&self) -> &Arc<Begun> {
        &self.job
    }

    /// Where in the file it begins.
    pub(super) fn offset(&self) -> u64 {
        self.extent.offset
    }

    /// Where in memory it goes to.
    pub(super) fn place(&self) -> usize {
        self.room.bytes().as_ptr().addr()
    }

    /// The mapping that it is read to.
    #[cfg(target_os = "linux")]
    pub(super) fn segment(&self) -> &Arc<Segment> {
        self.room.segment()
    }

    /// Where reading goes on: in the file, and in the room, both at a page.
    pub(super) fn next(&mut self) -> (u64, &mut [u8]) {
        (self.extent.pages().start + self.n_read as u64, &mut self.room.bytes_mut()[self.n_read..])
    }

    /// A read brought `n` more bytes. Whether that was all.
    pub(super) fn advance(&mut self, n: usize) -> io::Result<bool> {
        let n_needed = self.extent.range().end - self.extent.room;
        if self.n_read + n >= n_needed {
            return Ok(true);
        }
        // Reads go on at a page; what does not reach the next one is the file's end.
        if n < PAGE {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.n_read += n / PAGE * PAGE;
        Ok(false)
    }

    /// Reads what is missing. What fails is tried once more.
    pub(super) fn read(&mut self, sources: &[Source]) -> io::Result<()> {
        let source = &sources[self.file()];
        self.read_on(source).or_else(|_| self.read_on(source))
    }

    fn read_on(&mut self, source: &Source) -> io::Result<()> {
        let mut n_again = 0;
        loop {
            let (offset, room) = self.next();
            match source.read_at(room, offset) {
                Ok(n) if self.advance(n)? => return Ok(()),
                Ok(_) => n_again = 0,
                Err(e) if is_passing(&e) && n_again < AGAIN_MAX => {
                    n_again += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Gives the room back to its job. Returns the job if this was its last part.
    pub(super) fn end(self, result: io::Result<()>, sources: &[Source]) -> Option<Landed> {
        let result = result.map_err(|e| sources[self.file()].error(&self.extent, e));
        self.job.end(self.room, result, sources)
    }
}

/// Whether the same call may succeed in a moment.
pub(super) fn is_passing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_the_extent_cut_at_pages() {
        for offset in [0, 1, 4095, 4096, 123_456] {
            for len in [1, 4096, 4097, 70_000, 1 << 20] {
                for part_bytes in [1, PAGE, 3 * PAGE, 1 << 16, 1 << 30] {
                    let whole = Extent { file: 2, offset, len, room: 5 * PAGE };
                    let (mut at, mut room) = (offset, whole.room);
                    for part in cut(&whole, part_bytes) {
                        assert_eq!((part.file, part.offset, part.room), (2, at, room), "{whole:?} by {part_bytes}");
                        let pages = part.pages();
                        assert!(pages.end - pages.start <= part_bytes.max(PAGE) as u64 && part.len > 0);
                        (at, room) = (part.offset + part.len as u64, room + (pages.end - pages.start) as usize);
                    }
                    assert_eq!(at, offset + len as u64);
                }
            }
        }
    }
}
