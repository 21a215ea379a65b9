//! Threads that run one parallel region after another.
//!
//! A decoded token passes hundreds of regions of some microseconds, so workers wait for the next one awake, but only for
//! [`AWAKE`]: between answers they are parked and cost nothing. The caller works too. A region closes when the caller
//! finds no task left, and then waits for the workers that came in, not for all: one that the system let sleep, or
//! that runs elsewhere, holds nobody up.
//!
//! ```text
//! state    | epoch, 47 bits | open, 1 bit | workers inside, 16 bits |
//! caller   job = ...; epoch + 1, open      tasks ...      close; wait until nobody is inside; take the job back
//! worker              sees the epoch; if open, inside + 1; tasks ...; inside - 1
//! ```

use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    io,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

/// How long a worker waits for the next region before it parks.
const AWAKE: Duration = Duration::from_micros(200);
/// Looks at the state, some 30 ns each, before a waiting thread begins to offer its core to others.
const LOOKS: usize = 500;

/// A region's work: takes tasks until none is left.
type Job<'a> = &'a (dyn Fn() + Sync);

/// A fixed number of threads.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    region: Mutex<()>, // one region at a time
}

const INSIDE: u64 = (1 << 16) - 1;
const OPEN: u64 = 1 << 16;
const EPOCH: u64 = 1 << 17;

struct Shared {
    /// See the file's head.
    state: AtomicU64,
    job: UnsafeCell<Option<Job<'static>>>,
    parked: Vec<AtomicBool>,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: all fields but `job` are `Sync`; it is written by the holder of `Pool::region` while the region is closed and
// nobody inside, and read by workers inside.
unsafe impl Sync for Shared {}

thread_local! {
    /// Whether this thread works on a region.
    static WORKING: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// A pool of `n_threads`, the caller included.
    ///
    /// # Errors
    /// If the system refuses one of them.
    pub(crate) fn new(n_threads: usize) -> io::Result<Pool> {
        let n_workers = (n_threads.max(1) - 1).min(INSIDE as usize);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            parked: (0..n_workers).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Pool { shared, workers: Vec::with_capacity(n_workers), region: Mutex::new(()) };
        for i in 0..n_workers {
            let shared = pool.shared.clone();
            let worker = thread::Builder::new().name(format!("compute-{}", i + 1)).spawn(move || shared.work(i));
            pool.workers.push(worker?); // refused: dropping the pool ends those that run
        }
        Ok(pool)
    }

    /// How many threads take part.
    pub(crate) fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job` here and on up to `n_helpers` workers and more that happen to be awake; it must leave nothing to do.
    /// A panic in any of them continues here.
    fn run(&self, job: Job<'_>, n_helpers: usize) {
        let _region = self.region.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: only the lifetime changes. Workers use the job while they are inside, and this function does not
        // return, nor unwind, before the region is closed and nobody is inside.
        let forever = unsafe { std::mem::transmute::<Job<'_>, Job<'static>>(job) };
        // SAFETY: the last region was closed and left by all, and `_region` makes this the only caller.
        unsafe { *self.shared.job.get() = Some(forever) };
        let opened = (self.shared.state.load(Ordering::Relaxed) + EPOCH) | OPEN;
        self.shared.state.store(opened, Ordering::SeqCst);
        for (parked, worker) in self.shared.parked.iter().zip(&self.workers).take(n_helpers) {
            unpark(parked, worker.thread());
        }
        let own = catch_unwind(AssertUnwindSafe(|| working(job)));
        self.shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        wait_until(|| self.shared.state.load(Ordering::Acquire) & INSIDE == 0, || true);
        // SAFETY: the region is closed and left by all, and `_region` makes this the only caller.
        unsafe { *self.shared.job.get() = None };
        let other = self.shared.panic.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(panic) = own.err().or(other) {
            resume_unwind(panic);
        }
    }

    /// Cuts `0..n` into pieces of `grain` or more, taken by whichever thread is free. First pieces are large, so that a thread
    /// reads memory in long runs; they become smaller, so that threads end together (Polychronopoulos & Kuck 1987).
    ///
    /// # Panics
    /// If `work` panics, or this is called from within `work`: regions do not nest.
    pub(crate) fn split(&self, n: usize, grain: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
        assert!(!WORKING.get(), "a region within a region");
        let grain = grain.max(1);
        let next = AtomicUsize::new(0);
        let end = |start: usize| {
            let share = (n - start) / (2 * self.n_threads()) / grain * grain;
            (start + share.max(grain)).min(n)
        };
        let take = |start: usize| (start < n).then(|| end(start));
        let job = || {
            while let Ok(start) = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                work(start..end(start));
            }
        };
        match n.div_ceil(grain) {
            0 => {}
            n_tasks if n_tasks == 1 || self.workers.is_empty() => working(&job),
            n_tasks => self.run(&job, n_tasks - 1),
        }
    }

    /// Gives every row of `cols` elements to some thread, `grain` rows at a time.
    pub(crate) fn rows<T: Send>(
        &self,
        y: &mut [T],
        cols: usize,
        grain: usize,
        work: &(dyn Fn(usize, &mut [T]) + Sync),
    ) {
        let n = y.len() / cols;
        let y = Shares::new(y);
        self.split(n, grain, &|rows| {
            for i in rows {
                // SAFETY: `split` hands out every index once, and rows do not overlap.
                work(i, unsafe { y.get(i * cols..(i + 1) * cols) });
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.state.fetch_add(EPOCH, Ordering::SeqCst);
        for (parked, worker) in self.shared.parked.iter().zip(&self.workers) {
            unpark(parked, worker.thread());
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// Runs a job, noting that this thread does.
fn working(job: Job<'_>) {
    struct Done;
    impl Drop for Done {
        fn drop(&mut self) {
            WORKING.set(false);
        }
    }
    WORKING.set(true);
    let _done = Done;
    job();
}

fn unpark(parked: &AtomicBool, thread: &Thread) {
    if parked.load(Ordering::SeqCst) && parked.swap(false, Ordering::SeqCst) {
        thread.unpark();
    }
}

/// Waits, awake, until `done` or no longer `patient`, which is asked now and then. Returns whether it is done.
fn wait_until(done: impl Fn() -> bool, patient: impl Fn() -> bool) -> bool {
    for _ in 0..LOOKS {
        if done() {
            return true;
        }
        std::hint::spin_loop();
    }
    while !done() {
        if !patient() {
            return false;
        }
        thread::yield_now();
    }
    true
}

impl Shared {
    fn work(&self, worker: usize) {
        let mut seen = 0;
        loop {
            seen = self.next_epoch(worker, seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            if !self.enter() {
                continue;
            }
            // SAFETY: inside, so that the caller leaves the job alone.
            let job = unsafe { *self.job.get() }.expect("an open region has a job");
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| working(job))) {
                *self.panic.lock().unwrap_or_else(|e| e.into_inner()) = Some(panic);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Goes inside, if the region is open.
    fn enter(&self) -> bool {
        let inside = |state: u64| (state & OPEN != 0).then_some(state + 1);
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, inside).is_ok()
    }

    /// Waits for another epoch than `seen` and returns it: awake first, parked then.
    fn next_epoch(&self, worker: usize, seen: u64) -> u64 {
        let epoch = || self.state.load(Ordering::SeqCst) / EPOCH;
        let start = Instant::now();
        if !wait_until(|| epoch() != seen, || start.elapsed() < AWAKE) {
            // Announced before the last look, so that a region begun in between sees it and unparks.
            self.parked[worker].store(true, Ordering::SeqCst);
            while epoch() == seen {
                thread::park();
                self.parked[worker].store(true, Ordering::SeqCst); // spurious wake-ups happen
            }
            self.parked[worker].store(false, Ordering::SeqCst);
        }
        epoch()
    }
}

/// A slice of which threads write different parts.
#[derive(Clone, Copy)]
pub(crate) struct Shares<'a, T> {
    start: *mut T,
    len: usize,
    _life: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` in disguise; `get` leaves the disjointness to its callers.
unsafe impl<T: Send> Send for Shares<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shares<'_, T> {}

impl<'a, T> Shares<'a, T> {
    pub(crate) fn new(x: &'a mut [T]) -> Self {
        Shares { start: x.as_mut_ptr(), len: x.len(), _life: std::marker::PhantomData }
    }

    /// Part `range`.
    ///
    /// # Safety
    /// No other live reference covers an element of it.
    pub(crate) unsafe fn get(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of {}", self.len);
        // SAFETY: inside the slice this was made from; unaliased as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_visited_once_for_any_number_of_threads() {
        for n_threads in 1..6 {
            let pool = pool(n_threads);
            for n in [0, 1, 2, 7, 100, 1000] {
                let mut y = vec![0u32; n * 3];
                pool.rows(&mut y, 3, 4, &|i, row| row.iter_mut().for_each(|v| *v += i as u32 + 1));
                let right = y.chunks(3).enumerate().all(|(i, row)| row == [i as u32 + 1; 3]);
                assert!(right, "{n_threads} threads, {n} rows");
            }
        }
    }

    #[test]
    fn pieces_cover_everything_once_and_shrink() {
        for n_threads in 1..5 {
            let pool = pool(n_threads);
            for n in [0, 1, 2, 7, 100, 5_000] {
                let mut y = vec![0u32; n];
                let shares = Shares::new(&mut y);
                let sizes = Mutex::new(vec![]);
                pool.split(n, 3, &|part| {
                    sizes.lock().expect("nothing panics here").push((part.start, part.len()));
                    // SAFETY: a piece is handed out once, which is what this test asks.
                    unsafe { shares.get(part) }.iter_mut().for_each(|v| *v += 1);
                });
                assert!(y.iter().all(|&v| v == 1), "{n_threads} threads, {n}");
                let mut sizes = sizes.into_inner().expect("nothing panics here");
                sizes.sort();
                assert!(sizes.is_sorted_by_key(|&(_, len)| std::cmp::Reverse(len)), "{sizes:?}");
                assert!(sizes.iter().all(|&(start, len)| len >= 3 || start + len == n), "{sizes:?}");
            }
        }
    }

    #[test]
    fn thousands_of_regions_lose_no_task() {
        let pool = pool(3);
        let sum = AtomicUsize::new(0);
        for _ in 0..5_000 {
            pool.split(7, 2, &|tasks| {
                sum.fetch_add(tasks.len(), Ordering::Relaxed);
            });
        }
        assert_eq!(sum.into_inner(), 35_000);
    }

    #[test]
    fn the_job_is_taken_back_even_from_a_panic() {
        let pool = pool(3);
        for planted in [false, true] {
            let work = |_: Range<usize>| assert!(!planted, "planted");
            assert_eq!(catch_unwind(AssertUnwindSafe(|| pool.split(8, 1, &work))).is_err(), planted);
            // SAFETY: no region is open.
            assert!(unsafe { (*pool.shared.job.get()).is_none() });
        }
    }

    #[test]
    fn several_threads_may_use_one_pool() {
        let (pool, sum) = (pool(2), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.split(10, 1, &|tasks| {
                            sum.fetch_add(tasks.len(), Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 6_000);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        for n_threads in 1..4 {
            let pool = pool(n_threads);
            for culprit in 0..8 {
                let work = |tasks: Range<usize>| {
                    thread::sleep(Duration::from_micros(100)); // so that others come in
                    assert!(!tasks.contains(&culprit), "planted");
                };
                let panic = catch_unwind(AssertUnwindSafe(|| pool.split(8, 1, &work))).expect_err("a planted panic");
                assert!(panic.downcast_ref::<&str>().is_some_and(|text| text.contains("planted")));
            }
            let mut y = [0; 100];
            pool.rows(&mut y, 1, 1, &|i, y| y[0] = i);
            assert!(y.iter().enumerate().all(|(i, &y)| i == y));
        }
    }

    #[test]
    fn a_region_within_a_region_is_our_mistake() {
        for n_threads in 1..3 {
            let pool = pool(n_threads);
            let nested = || pool.split(4, 1, &|_| pool.split(4, 1, &|_| ()));
            assert!(catch_unwind(AssertUnwindSafe(nested)).is_err(), "{n_threads} threads");
            pool.split(4, 1, &|_| ());
        }
    }

    #[test]
    fn a_parked_worker_wakes() {
        let pool = pool(2);
        until("the worker still waits awake", || pool.shared.parked[0].load(Ordering::SeqCst));
        let helped = AtomicBool::new(false);
        let caller = thread::current().id();
        pool.split(2, 1, &|_| {
            if thread::current().id() == caller {
                until("the worker does not come", || helped.load(Ordering::SeqCst));
            } else {
                helped.store(true, Ordering::SeqCst);
            }
        });
    }

    fn pool(n_threads: usize) -> Pool {
        Pool::new(n_threads).expect("the system has some threads")
    }

    fn until(what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_idle_pool_costs_no_processor_time() {
        use std::os::unix::thread::JoinHandleExt;

        let used = |worker: &JoinHandle<()>| {
            let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
            // SAFETY: the thread lives, as it has not been joined; both results are ours to write.
            let errors = unsafe {
                libc::pthread_getcpuclockid(worker.as_pthread_t(), &mut clock) + libc::clock_gettime(clock, &mut time)
            };
            assert_eq!(errors, 0);
            Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
        };
        let pool = pool(4);
        pool.split(100, 1, &|_| ());
        until("workers park", || pool.shared.parked.iter().all(|p| p.load(Ordering::SeqCst)));
        let before: Duration = pool.workers.iter().map(used).sum();
        thread::sleep(Duration::from_millis(300));
        let after: Duration = pool.workers.iter().map(used).sum();
        assert!(after - before < Duration::from_millis(3), "{:?}", after - before);
    }
}
