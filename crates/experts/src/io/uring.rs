//! A safe cover for `io_uring`: the kernel writes to memory, and this says to whose.
//!
//! A ring owns each part from the moment it is queued until the kernel has reported its end, and gives it back only then.
//! Parts whose end was never seen are leaked with the ring, and their slots' mappings with them: memory that the kernel
//! may still write to is never freed nor given to anybody else.
//!
//! Mappings are registered when they are first read into, so an arena can grow at any time. Registered memory is pinned
//! once, not at every read; it counts against the limit on locked memory, and where that is too low, reads are plain.
#![allow(unsafe_code, reason = "the kernel writes to slots while this module owns them")]

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
};

use io_uring::{IoUring, Probe, opcode, squeue::Entry, types::Fd};

use super::{part::Part, source::Source};
use crate::arena::Segment;

/// Mappings that can be registered.
const BUFFERS_MAX: u32 = 1024;

/// One read's bytes, at most: more would come in several anyway.
const READ_BYTES_MAX: usize = 1 << 30;

/// Marks the end of a poll; others are indices of parts.
const POLL: u64 = u64::MAX;

/// What the kernel reports.
pub(super) enum Event {
    /// A part's read has ended, with so many bytes.
    Read(Part, io::Result<usize>),
    /// What was polled can be read, or cannot be polled.
    Poll(io::Result<()>),
}

/// Requests that the kernel serves, and what it writes to.
pub(super) struct Ring {
    ring: IoUring,
    sources: Arc<Vec<Source>>,
    parts: Vec<Option<Part>>,
    /// What is queued and not yet taken by the kernel, oldest first.
    queued: VecDeque<u64>,
    /// Mappings that were met, and whether each is registered, under its index.
    buffers: Vec<(Arc<Segment>, bool)>,
}

impl Ring {
    /// A ring for `n` parts at a time.
    ///
    /// # Errors
    /// If the kernel has none, does not allow it, or it cannot do what is needed.
    pub(super) fn new(sources: Arc<Vec<Source>>, n: usize) -> io::Result<Ring> {
        let ring = IoUring::new(n as u32 + 1)?; // and the poll
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [opcode::Read::CODE, opcode::ReadFixed::CODE, opcode::PollAdd::CODE];
        if !needed.iter().all(|&code| probe.is_supported(code)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // A wish: kernels before 5.19 have no table that can grow.
        let _ = ring.submitter().register_buffers_sparse(BUFFERS_MAX);
        let parts = (0..n).map(|_| None).collect();
        Ok(Ring { ring, sources, parts, queued: VecDeque::with_capacity(n + 1), buffers: Vec::new() })
    }

    /// Whether no part is here.
    pub(super) fn is_idle(&self) -> bool {
        self.parts.iter().all(Option::is_none)
    }

    /// Queues the read of what is missing of a part. The kernel sees it in the next `enter`.
    ///
    /// # Errors
    /// The part, if the ring is full.
    pub(super) fn push(&mut self, mut part: Part) -> Result<(), Part> {
        let Some(i) = self.parts.iter().position(Option::is_none) else { return Err(part) };
        let (fd, buffer) = (Fd(self.sources[part.file()].file().as_raw_fd()), self.buffer(part.segment()));
        let (offset, room) = part.next();
        let (address, len) = (room.as_mut_ptr(), room.len().min(READ_BYTES_MAX) as u32);
        let entry = match buffer {
            Some(buffer) => opcode::ReadFixed::new(fd, address, len, buffer).offset(offset).build(),
            None => opcode::Read::new(fd, address, len).offset(offset).build(),
        };
        self.parts[i] = Some(part);
        if self.queue(entry, i as u64) {
            return Ok(());
        }
        Err(self.parts[i].take().expect("just put there"))
    }

    /// Asks to be told, once, when there is something to read. Whether there was room for that.
    pub(super) fn poll(&mut self, file: &impl AsFd) -> bool {
        let entry = opcode::PollAdd::new(Fd(file.as_fd().as_raw_fd()), libc::POLLIN as u32).build();
        self.queue(entry, POLL)
    }

    /// Whether there was room.
    fn queue(&mut self, entry: Entry, name: u64) -> bool {
        // SAFETY: the entry is a poll, or a read into the room of a part that is in `parts`, where it stays until the
        // kernel has reported the read's end, or for ever; or until `push`, if the entry was not queued. The file is open as long as `sources` has it.
        let is_queued = unsafe { self.ring.submission().push(&entry.user_data(name)) }.is_ok();
        self.queued.extend(is_queued.then_some(name));
        is_queued
    }

    /// The index under which a mapping is registered.
    fn buffer(&mut self, segment: &Arc<Segment>) -> Option<u16> {
        let known = self.buffers.iter().position(|(known, _)| Arc::ptr_eq(known, segment));
        let i = known.unwrap_or_else(|| {
            let is_registered = self.register(segment, self.buffers.len() as u32).is_ok();
            self.buffers.push((segment.clone(), is_registered));
            self.buffers.len() - 1
        });
        self.buffers[i].1.then_some(i as u16)
    }

    fn register(&self, segment: &Segment, i: u32) -> io::Result<()> {
        let (start, len) = segment.range();
        let buffer = libc::iovec { iov_base: start.cast(), iov_len: len };
        // SAFETY: the mapping lives until `buffers` is dropped, which is after the ring. An index is used once.
        unsafe { self.ring.submitter().register_buffers_update(i, &[buffer], None) }
    }

    /// Hands the kernel what is queued and, if wanted, waits until something has ended. Whether it took anything.
    ///
    /// # Errors
    /// What the kernel says. What it did not take stays queued.
    pub(super) fn enter(&mut self, wait: bool) -> io::Result<bool> {
        let entered = self.ring.submit_and_wait(wait.into());
        let n_taken = self.queued.len() - self.ring.submission().len();
        self.queued.drain(..n_taken);
        entered.map(|_| n_taken > 0)
    }

    /// What has ended, one after another.
    pub(super) fn pop(&mut self) -> Option<Event> {
        let entry = self.ring.completion().next()?;
        let result = usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
        if entry.user_data() == POLL {
            return Some(Event::Poll(result.map(|_| ())));
        }
        let part = self.parts[entry.user_data() as usize].take().expect("the kernel reports what was pushed, and once");
        Some(Event::Read(part, result))
    }

    /// No more is handed to the kernel: the parts that it has not taken, and a ring that only waits for the others.
    pub(super) fn close(mut self) -> (Vec<Part>, Rest) {
        let names = std::mem::take(&mut self.queued);
        // The kernel takes entries only in `enter`, which nobody calls from here on.
        let parts = names.iter().filter_map(|&name| self.parts.get_mut(name as usize)?.take()).collect();
        (parts, Rest(self))
    }
}

#[cfg(test)]
impl Ring {
    /// From now on the kernel refuses every call: another file takes the place of the ring's.
    pub(super) fn fail(&self) {
        let other = std::fs::File::open("/dev/null").expect("it is always there");
        // SAFETY: no memory is touched. The kernel keeps the ring itself as long as its memory is mapped.
        let fd = unsafe { libc::dup2(other.as_raw_fd(), self.ring.as_raw_fd()) };
        assert_eq!(fd, self.ring.as_raw_fd());
    }
}

/// A ring that hands nothing more to the kernel.
pub(super) struct Rest(Ring);

impl Rest {
    /// Whether nothing is left that the kernel may write to.
    pub(super) fn is_idle(&self) -> bool {
        self.0.is_idle()
    }

    /// What has ended, one after another.
    pub(super) fn pop(&mut self) -> Option<Event> {
        self.0.pop()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.parts.drain(..).for_each(std::mem::forget);
    }
}
