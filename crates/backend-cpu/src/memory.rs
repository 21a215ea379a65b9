//! Host memory behind tensors, and the one place where bytes become slices.
//!
//! An operation names its outputs and inputs ([`Access::new`]; experts' weights one by one, [`Access::weights`]). That takes the device's lock, so no other operation
//! or copy runs meanwhile, and checks that no output shares a byte with anything else; each output is then handed out
//! once. Memory that can be written knows its device's lock, so an operation of another device cannot reach it. These
//! four facts are what makes the slices sound.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    any::Any,
    cell::RefCell,
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
};

use compute::{Buffer, F32, HostBytes, Kind, Tensor};
use quant::RowFormat;

/// Every allocation starts on a cache line.
const ALIGN: usize = 64;

/// What a device's operations hold while they run.
pub(crate) type Lock = Arc<Mutex<()>>;

/// A tensor's memory.
pub(crate) enum HostBuffer {
    /// Of the device with this lock; zeroed, and pages are touched when first written.
    Owned(Owned, Lock),
    /// Somebody else's, read only: a mapped file.
    Shared(HostBytes),
}

impl Buffer for HostBuffer {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Zeroed memory. What is large comes straight from the system: pages cost nothing before they are written, and may be
/// large ones, which caches of long contexts need, as their heads lie far apart.
pub(crate) struct Owned {
    start: NonNull<u8>,
    layout: Layout,
}

/// From here on memory comes from the system.
const LARGE: usize = 4 << 20;

// SAFETY: plain bytes; who may touch them when is `Access`'s business.
unsafe impl Send for Owned {}
// SAFETY: as above.
unsafe impl Sync for Owned {}

impl Owned {
    pub(crate) fn new(bytes: usize) -> Option<Owned> {
        let layout = Layout::from_size_align(bytes.max(ALIGN), ALIGN).ok()?;
        #[cfg(target_os = "linux")]
        if bytes >= LARGE {
            return Some(Owned { start: map(bytes)?, layout });
        }
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Owned { start, layout })
    }
}

#[cfg(target_os = "linux")]
fn map(bytes: usize) -> Option<NonNull<u8>> {
    let (access, how) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: new memory, backed by no file, at an address of the system's choice.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, how, -1, 0) };
    if start == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: advice about memory just mapped, which may be ignored.
    unsafe { libc::madvise(start, bytes, libc::MADV_HUGEPAGE) };
    NonNull::new(start.cast())
}

impl HostBuffer {
    /// Keeps it from being swapped out, where that is allowed: a wish, since limits are often low.
    pub(crate) fn pin(&self) {
        #[cfg(target_os = "linux")]
        if let HostBuffer::Owned(owned, _) = self {
            // SAFETY: memory that is ours, and stays what it is.
            unsafe { libc::mlock(owned.start.as_ptr().cast(), owned.layout.size()) };
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        if self.layout.size() >= LARGE {
            // SAFETY: mapped in `new` with this size, which was at least `ALIGN`; nothing refers to it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.layout.size()) };
            return;
        }
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// A buffer that grows and is used again: what operations need between their inputs and outputs.
#[derive(Default)]
pub(crate) struct Workspace(Option<Owned>);

impl Workspace {
    /// The first `n` elements; what they hold is left over from earlier uses.
    pub(crate) fn get<T: Record>(&mut self, n: usize) -> &mut [T] {
        let bytes = n.checked_mul(size_of::<T>()).expect("a batch fits an address space");
        if self.0.as_ref().is_none_or(|o| o.layout.size() < bytes) {
            self.0 = None;
            self.0 = Some(Owned::new(bytes).expect("the host has memory for a batch"));
        }
        let start = self.0.as_ref().expect("just allocated").start;
        // SAFETY: initialised (zeroed, then written), aligned to a cache line, long enough, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast(), n) }
    }
}

thread_local! {
    /// What a thread needs while it works on a task.
    static OWN: RefCell<Workspace> = RefCell::default();
}

/// Lends `work` the first `n` elements of this thread's workspace; what they hold is left over from earlier uses.
///
/// # Panics
/// If `work` borrows it again.
pub(crate) fn borrow<T: Record, R>(n: usize, work: impl FnOnce(&mut [T]) -> R) -> R {
    OWN.with_borrow_mut(|workspace| work(workspace.get(n)))
}

/// The bytes of some numbers.
pub(crate) fn bytes_of(x: &[f32]) -> &[u8] {
    // SAFETY: f32 has no padding, and bytes no alignment.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), size_of_val(x)) }
}

/// Bytes as whole records.
///
/// # Panics
/// If they are not aligned, or end within one.
pub(crate) fn records<T: Record>(bytes: &[u8]) -> &[T] {
    // SAFETY: any bytes make a `Record`.
    let (before, records, after) = unsafe { bytes.align_to() };
    assert!(before.is_empty() && after.is_empty(), "whole records");
    records
}

/// Bytes as whole records to write.
///
/// # Panics
/// As [`records`].
pub(crate) fn records_mut<T: Record>(bytes: &mut [u8]) -> &mut [T] {
    // SAFETY: any bytes make a `Record`, and it is bytes without padding.
    let (before, records, after) = unsafe { bytes.align_to_mut() };
    assert!(before.is_empty() && after.is_empty(), "whole records");
    records
}

/// Asks for bytes that will be read at once, into the first-level cache.
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has SSE, and a prefetch cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    let _ = bytes;
}

/// Asks for bytes that will be read later, into the second-level cache.
pub(crate) fn prefetch_early(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    let _ = bytes;
}

/// Plain numbers in a struct, without padding: any bytes make one.
///
/// # Safety
/// What the first line says.
pub(crate) unsafe trait Record: Copy + 'static {}

// SAFETY: numbers.
unsafe impl Record for u8 {}
// SAFETY: as above.
unsafe impl Record for f32 {}
// SAFETY: arrays have no padding.
unsafe impl<T: Record, const N: usize> Record for [T; N] {}

/// Plain numbers that any bytes make.
pub(crate) trait Pod: Copy + 'static {
    /// Whether tensors of this kind hold such numbers.
    fn suits(kind: Kind) -> bool;
}

/// The bytes of packed rows, and of everything else.
impl Pod for u8 {
    fn suits(_: Kind) -> bool {
        true
    }
}

impl Pod for f32 {
    fn suits(kind: Kind) -> bool {
        kind == F32 || kind == Kind::Cached(RowFormat::F32)
    }
}

impl Pod for i32 {
    fn suits(kind: Kind) -> bool {
        kind == Kind::I32
    }
}

/// Outputs that an operation can have.
pub(crate) const MOST_OUTPUTS: usize = u32::BITS as usize;

/// The tensors of a running operation.
pub(crate) struct Access<'a> {
    outs: &'a [&'a Tensor],
    ins: &'a [&'a Tensor],
    taken: AtomicU32,
    lock: &'a Lock,
    _held: MutexGuard<'a, ()>,
}

impl<'a> Access<'a> {
    /// # Panics
    /// If an output shares memory with another output or an input, or there are more than [`MOST_OUTPUTS`].
    pub(crate) fn new(lock: &'a Lock, outs: &'a [&'a Tensor], ins: &'a [&'a Tensor]) -> Access<'a> {
        assert!(outs.len() <= MOST_OUTPUTS, "{} outputs", outs.len());
        for (i, out) in outs.iter().enumerate() {
            let clash = outs[..i].iter().chain(ins).find(|t| t.overlaps(out));
            assert!(clash.is_none(), "output {out:?} shares memory with {:?}", clash.expect("just seen"));
        }
        // A panic while an operation ran leaves numbers, not broken invariants.
        let held = lock.lock().unwrap_or_else(|e| e.into_inner());
        Access { outs, ins, taken: AtomicU32::new(0), lock, _held: held }
    }

    /// The elements of output `i`; each output can be asked for once.
    #[allow(clippy::mut_from_ref, reason = "the memory is not this struct's, and `taken` hands each output out once")]
    pub(crate) fn out<T: Pod>(&self, i: usize) -> &mut [T] {
        assert_eq!(self.taken.fetch_or(1 << i, Ordering::Relaxed) & 1 << i, 0, "output {i} taken twice");
        let t = self.outs[i];
        let HostBuffer::Owned(owned, _) = self.buffer(t) else { panic!("{t:?} is read only") };
        let range = t.byte_range();
        assert!(range.end <= owned.layout.size());
        // SAFETY: inside the allocation.
        let start = unsafe { owned.start.as_ptr().add(range.start) };
        check::<T>(t, start);
        // SAFETY: inside the allocation; plain numbers, aligned; the module's four facts make it the only live
        // reference.
        unsafe { std::slice::from_raw_parts_mut(start.cast(), range.len() / size_of::<T>()) }
    }

    /// The elements of input `i`.
    pub(crate) fn input<T: Pod>(&self, i: usize) -> &[T] {
        let t = self.ins[i];
        let bytes = self.bytes(t);
        check::<T>(t, bytes.as_ptr());
        // SAFETY: aligned, plain numbers, and nobody writes while the device's lock is held.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
    }

    /// The bytes of one more input, of which there may be many: an expert's weights.
    ///
    /// # Panics
    /// If it shares memory with an output.
    pub(crate) fn weights<'s>(&'s self, t: &'s Tensor) -> &'s [u8] {
        assert!(!self.outs.iter().any(|out| out.overlaps(t)), "an output shares memory with {t:?}");
        self.bytes(t)
    }

    fn bytes<'t>(&self, t: &'t Tensor) -> &'t [u8] {
        let range = t.byte_range();
        match self.buffer(t) {
            HostBuffer::Owned(owned, _) => {
                assert!(range.end <= owned.layout.size());
                // SAFETY: inside the allocation; these bytes are not written while the lock is held, see `input`.
                // Others may be: an output is often another part of the same buffer.
                unsafe { std::slice::from_raw_parts(owned.start.as_ptr().add(range.start), range.len()) }
            }
            HostBuffer::Shared(s) => &(**s).as_ref()[range],
        }
    }

    fn buffer<'t>(&self, t: &'t Tensor) -> &'t HostBuffer {
        let buffer = t.buffer().as_any().downcast_ref().expect("a tensor of this device");
        let ours = !matches!(buffer, HostBuffer::Owned(_, lock) if !Arc::ptr_eq(lock, self.lock));
        assert!(ours, "{t:?} is no tensor of this device");
        buffer
    }
}

/// `T` is what the tensor, whose bytes begin at `start`, holds.
fn check<T: Pod>(t: &Tensor, start: *const u8) {
    assert!(T::suits(t.kind()), "{t:?} as other numbers");
    assert!(start.cast::<T>().is_aligned(), "{t:?} is not aligned");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic = "fits an address space"]
    fn a_workspace_is_never_shorter_than_asked_for() {
        Workspace::default().get::<f32>(usize::MAX / 4 + 2);
    }

    /// Miri's question: an input must not cover the output beside it.
    #[test]
    fn parts_of_one_buffer_are_input_and_output() {
        let owned = Owned::new(64).expect("64 bytes");
        let lock = Lock::default();
        let whole = Tensor::new(Arc::new(HostBuffer::Owned(owned, lock.clone())), F32, &[4, 4]);
        let (out, input) = (whole.slice(0..1), whole.slice(1..2));
        let (outs, ins) = ([&out], [&input]);
        let access = Access::new(&lock, &outs, &ins);
        let y = access.out::<f32>(0);
        let x = access.input::<f32>(0);
        y.copy_from_slice(x);
        assert_eq!(y, [0.0; 4]);
    }
}
