//! Threads that run one parallel region after another.
//!
//! A decoded token passes hundreds of regions of some microseconds, so workers wait for the next one by spinning, but
//! only for [`SPIN`]: between answers they are parked and cost nothing. The caller works too, as thread 0.

use std::{
    any::Any,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

/// How long a worker spins for the next region before it parks.
const SPIN: Duration = Duration::from_micros(200);

/// A region's work: called once on every thread, with the thread's number.
type Job<'a> = &'a (dyn Fn(usize) + Sync);

/// A fixed number of threads.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    region: Mutex<()>, // one region at a time
}

struct Shared {
    /// Counts regions; a worker runs the job once for every increment.
    epoch: AtomicU64,
    job: Mutex<Option<Job<'static>>>,
    busy: AtomicUsize,
    parked: Vec<AtomicBool>,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Pool {
    /// A pool of `n_threads`, the caller included.
    pub(crate) fn new(n_threads: usize) -> Pool {
        let n_workers = n_threads.max(1) - 1;
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            job: Mutex::new(None),
            busy: AtomicUsize::new(0),
            parked: (0..n_workers).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let spawn = |i: usize| {
            let shared = shared.clone();
            thread::Builder::new().name(format!("compute-{}", i + 1)).spawn(move || shared.work(i)).ok()
        };
        let workers = (0..n_workers).map_while(spawn).collect();
        Pool { shared, workers, region: Mutex::new(()) }
    }

    /// How many threads take part.
    pub(crate) fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job` on every thread and waits for all of them; a panic in one of them continues here.
    pub(crate) fn run(&self, job: Job<'_>) {
        let _region = self.region.lock().unwrap_or_else(|e| e.into_inner());
        if self.workers.is_empty() {
            return job(0);
        }
        // SAFETY: only the lifetime changes. Workers use the job until they decrement `busy`, and this function does
        // not return, nor unwind, before `busy` is zero and the job is taken back.
        let forever = unsafe { std::mem::transmute::<Job<'_>, Job<'static>>(job) };
        *self.shared.job.lock().expect("no panic while held") = Some(forever);
        self.shared.busy.store(self.workers.len(), Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (parked, worker) in self.shared.parked.iter().zip(&self.workers) {
            unpark(parked, worker.thread());
        }
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        while self.shared.busy.load(Ordering::Acquire) != 0 {
            std::hint::spin_loop();
        }
        *self.shared.job.lock().expect("no panic while held") = None;
        let other = self.shared.panic.lock().expect("no panic while held").take();
        if let Some(panic) = own.err().or(other) {
            resume_unwind(panic);
        }
    }

    /// Cuts `0..n` into pieces of `grain`, taken by whichever thread is free.
    pub(crate) fn split(&self, n: usize, grain: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
        let grain = grain.max(1);
        if n <= grain {
            return if n > 0 {
                work(0..n)
            };
        }
        let next = AtomicUsize::new(0);
        self.run(&|_| {
            loop {
                let start = next.fetch_add(grain, Ordering::Relaxed);
                if start >= n {
                    break;
                }
                work(start..(start + grain).min(n));
            }
        });
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
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (parked, worker) in self.shared.parked.iter().zip(&self.workers) {
            unpark(parked, worker.thread());
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn unpark(parked: &AtomicBool, thread: &Thread) {
    if parked.swap(false, Ordering::SeqCst) {
        thread.unpark();
    }
}

impl Shared {
    fn work(&self, worker: usize) {
        let mut seen = 0;
        loop {
            self.wait(worker, seen);
            seen += 1;
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let job = self.job.lock().expect("no panic while held").expect("a region has a job");
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(worker + 1))) {
                *self.panic.lock().expect("no panic while held") = Some(panic);
            }
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    /// Returns when the epoch has moved on from `seen`: spinning first, parked then.
    fn wait(&self, worker: usize, seen: u64) {
        let moved = || self.epoch.load(Ordering::SeqCst) != seen;
        let start = Instant::now();
        while !moved() {
            for _ in 0..64 {
                std::hint::spin_loop();
            }
            if start.elapsed() > SPIN {
                // Announced before the last look, so that a region begun in between sees it and unparks.
                self.parked[worker].store(true, Ordering::SeqCst);
                while !moved() {
                    thread::park();
                }
                self.parked[worker].store(false, Ordering::SeqCst);
            }
        }
    }
}

/// A slice of which threads write different parts.
#[derive(Clone, Copy)]
pub(crate) struct Shares<'a, T> {
    start: *mut T,
    len: usize,
    _life: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` in disguise; `get` and `set` leave the disjointness to their callers.
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

    /// Writes element `i`.
    ///
    /// # Safety
    /// No other thread touches it meanwhile.
    pub(crate) unsafe fn set(&self, i: usize, value: T) {
        assert!(i < self.len);
        // SAFETY: inside the slice this was made from; unaliased as the caller promises.
        unsafe { self.start.add(i).write(value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_visited_once_for_any_number_of_threads() {
        for n_threads in 1..6 {
            let pool = Pool::new(n_threads);
            for n in [0, 1, 2, 7, 100, 1000] {
                let mut y = vec![0u32; n * 3];
                pool.rows(&mut y, 3, 4, &|i, row| row.iter_mut().for_each(|v| *v += i as u32 + 1));
                assert!(
                    y.chunks(3).enumerate().all(|(i, row)| row == [i as u32 + 1; 3]),
                    "{n_threads} threads, {n} rows"
                );
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for culprit in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(&|i| assert!(i != culprit, "planted"))));
            assert!(result.is_err());
        }
        let sum = AtomicUsize::new(0);
        pool.run(&|i| drop(sum.fetch_add(i + 1, Ordering::Relaxed)));
        assert_eq!(sum.into_inner(), 6);
    }

    #[test]
    fn idle_workers_park() {
        let pool = Pool::new(2);
        pool.run(&|_| ());
        let deadline = Instant::now() + Duration::from_secs(10);
        while !pool.shared.parked[0].load(Ordering::SeqCst) {
            assert!(Instant::now() < deadline, "the worker still spins");
            thread::sleep(Duration::from_millis(1));
        }
        let sum = AtomicUsize::new(0);
        pool.run(&|_| drop(sum.fetch_add(1, Ordering::Relaxed)));
        assert_eq!(sum.into_inner(), 2, "a parked worker wakes");
    }
}
