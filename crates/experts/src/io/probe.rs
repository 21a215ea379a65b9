//! How to read from this disk: measured for at most two seconds, by reading experts at random.
//!
//! First the number of parts under way is doubled until that brings no more, with parts of middle size; then parts are
//! made larger and smaller. Of what comes within 3 % of the best, the fewest and largest parts are chosen: they cost the
//! least. Reads go past the page cache, so they can be repeated, and what they say is true for the next ones.

use std::{
    cmp::Reverse,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    time::{Duration, Instant},
};

use super::{DEPTH_MAX, Job, ReadError, Readers, Settings, Source};
use crate::{Places, arena::Slot, places};

/// Experts' bytes below which there is nothing to gain.
const BYTES_MIN: u64 = 64 << 20;

/// All measurements together.
const TIME_MAX: Duration = Duration::from_secs(2);

/// A measurement: the time until reads are under way as they will be, and then until it ends.
const SETTLING: Duration = Duration::from_millis(20);
const WINDOW: Duration = Duration::from_millis(120);

/// A longer wait for a read is an error.
const PATIENCE: Duration = Duration::from_secs(20);

/// What differs by less is the same.
const SAME: f64 = 0.97;

/// The size of parts while their number is varied, and sizes that are then tried, after that of a whole matrix.
const PART_BYTES: usize = 1 << 20;
const PARTS_BYTES: [usize; 3] = [2 << 20, 512 << 10, 256 << 10];

/// How experts are read, and how fast that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Reads under way at a time.
    pub depth: usize,
    /// Bytes of one read, at most.
    pub part_bytes: usize,
    /// The disk's rate, for reads of experts in any order.
    pub bytes_per_second: u64,
    /// Whether the kernel reads for one thread, by `io_uring`, rather than many threads by themselves.
    pub ring: bool,
}

/// A rate in bytes per second, with so many parts under way of so many bytes.
#[derive(Clone, Copy, Debug)]
struct Rate {
    depth: usize,
    part_bytes: usize,
    rate: u64,
}

/// Measures how experts are best read into these slots, and says how many bytes that took. `None` if there is little to read,
/// or the page cache would answer.
///
/// # Errors
/// If there are no threads, or a read does not come back.
pub(crate) fn probe(
    sources: &Arc<Vec<Source>>,
    places: &Places,
    slots: &mut Vec<Slot>,
) -> Result<(Option<Probe>, u64), ReadError> {
    let is_worth_it = places.n_experts() as u64 * places.slot_bytes() as u64 >= BYTES_MIN;
    if !is_worth_it || slots.is_empty() || !sources.iter().all(Source::is_direct) {
        return Ok((None, 0));
    }
    let mut bench = Bench::new(sources, places, slots)?;
    bench.warm_up()?;
    bench.vary_depth()?;
    bench.vary_parts()?;
    let ring = bench.readers.has_ring();
    let best = bench.rates.iter().map(|r| r.rate).max();
    let probe = pick(&bench.rates).zip(best).map(|(chosen, bytes_per_second)| {
        let Rate { depth, part_bytes, .. } = chosen;
        Probe { depth, part_bytes, bytes_per_second, ring }
    });
    Ok((probe, bench.readers.landed_bytes()))
}

/// The fewest and then largest parts that are about as fast as the best.
fn pick(rates: &[Rate]) -> Option<Rate> {
    let best = rates.iter().map(|r| r.rate).max().filter(|&rate| rate > 0)?;
    let is_good = |r: &&Rate| r.rate as f64 >= SAME * best as f64;
    rates.iter().filter(is_good).min_by_key(|r| (r.depth, Reverse(r.part_bytes))).copied()
}

/// Readers that read experts at random, over and over.
struct Bench<'a> {
    readers: Readers,
    landed: Receiver<(Slot, Result<(), ReadError>)>,
    sources: &'a [Source],
    places: &'a Places,
    slots: &'a mut Vec<Slot>,
    n_slots: usize,
    random: u64,
    began: Instant,
    rates: Vec<Rate>,
    /// After a read that failed, nothing more is measured: whoever needs those bytes will be told.
    failed: bool,
}

impl<'a> Bench<'a> {
    fn new(
        sources: &'a Arc<Vec<Source>>,
        places: &'a Places,
        slots: &'a mut Vec<Slot>,
    ) -> Result<Bench<'a>, ReadError> {
        let n_slots = slots.len();
        let (land, landed) = sync_channel(n_slots);
        // Nobody listens any more when a read did not come back in time.
        let done = Arc::new(move |_, slot, result| _ = land.send((slot, result)));
        let settings = Settings { ring: true, depth: DEPTH_MAX, part_bytes: PART_BYTES };
        let bytes = n_slots * places.slot_bytes();
        let readers = Readers::new(sources.clone(), settings, done);
        let readers = readers.map_err(|source| ReadError::Arena { bytes, source })?;
        // Other experts each time: disks have caches, too.
        let random = RandomState::new().hash_one(n_slots) | 1;
        let (began, rates, failed) = (Instant::now(), Vec::new(), false);
        Ok(Bench { readers, landed, sources, places, slots, n_slots, random, began, rates, failed })
    }

    /// Reads until slots are registered and the disk is awake.
    fn warm_up(&mut self) -> Result<(), ReadError> {
        self.read_for(DEPTH_MAX, SETTLING);
        self.settle()
    }

    /// Doubles the number of parts under way until twice in a row that brought nothing.
    fn vary_depth(&mut self) -> Result<(), ReadError> {
        let (mut best, mut n_idle, mut depth) = (0, 0, 1);
        while depth <= DEPTH_MAX && n_idle < 2 {
            let Some(rate) = self.measure(depth, PART_BYTES)? else { break };
            n_idle = if (best as f64) < SAME * rate as f64 { 0 } else { n_idle + 1 };
            (best, depth) = (best.max(rate), 2 * depth);
        }
        Ok(())
    }

    /// Tries larger parts, and smaller ones if those were worse.
    fn vary_parts(&mut self) -> Result<(), ReadError> {
        let Some(Rate { depth, .. }) = pick(&self.rates) else { return Ok(()) };
        let matrices = self.places.layers.iter().flatten().map(|m| places::room(m.bytes));
        let whole = matrices.max().unwrap_or(PART_BYTES);
        for part_bytes in [whole].into_iter().chain(PARTS_BYTES.into_iter().filter(|&bytes| bytes < whole)) {
            let is_settled = pick(&self.rates).is_some_and(|best| best.part_bytes > PART_BYTES.max(part_bytes));
            if is_settled || self.measure(depth, part_bytes)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Bytes per second with these settings; `None` when there is no time for another measurement.
    fn measure(&mut self, depth: usize, part_bytes: usize) -> Result<Option<u64>, ReadError> {
        if self.failed || self.began.elapsed() + 2 * (SETTLING + WINDOW) > TIME_MAX {
            return Ok(None);
        }
        self.readers.tune(depth, part_bytes);
        self.read_for(depth, SETTLING);
        let (began, before) = (Instant::now(), self.readers.landed_bytes());
        self.read_for(depth, WINDOW);
        let bytes = self.readers.landed_bytes() - before;
        let rate = (bytes as f64 / began.elapsed().as_secs_f64()) as u64;
        self.settle()?;
        if self.failed {
            return Ok(None);
        }
        self.rates.push(Rate { depth, part_bytes, rate });
        Ok(Some(rate))
    }

    /// Keeps enough jobs waiting for `depth` parts, for a while.
    fn read_for(&mut self, depth: usize, time: Duration) {
        let end = Instant::now() + time;
        // A job is at least three parts, and there is always another to begin.
        let n_jobs = (depth / 3 + 2).min(self.n_slots);
        loop {
            while self.n_slots - self.slots.len() < n_jobs
                && let Some(slot) = self.slots.pop()
            {
                let job = self.job(slot);
                self.readers.push_ahead(job);
            }
            match self.landed.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(landed) => self.take(landed),
                Err(_) => return,
            }
        }
    }

    /// Waits for what has begun.
    fn settle(&mut self) -> Result<(), ReadError> {
        self.slots.extend(self.readers.take_back(&|_| true).into_iter().map(|job| job.slot));
        while self.slots.len() < self.n_slots {
            match self.landed.recv_timeout(PATIENCE) {
                Ok(landed) => self.take(landed),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Err(self.stalled()),
            }
        }
        Ok(())
    }

    fn take(&mut self, (slot, result): (Slot, Result<(), ReadError>)) {
        self.slots.push(slot);
        self.failed |= result.is_err();
    }

    fn stalled(&self) -> ReadError {
        let first = &self.places.layers[0][0];
        self.sources[first.file].stalled(first.offset, PATIENCE)
    }

    /// A read of some expert.
    fn job(&mut self, slot: Slot) -> Job {
        // Marsaglia, "Xorshift RNGs" (2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let i = (self.random % self.places.n_experts() as u64) as usize;
        let extents = self.places.extents(i / self.places.n_expert, i % self.places.n_expert);
        Job { key: i, extents, slot }
    }
}

impl From<Probe> for Settings {
    fn from(probe: Probe) -> Settings {
        Settings { ring: probe.ring, depth: probe.depth, part_bytes: probe.part_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::tests::skipped;

    fn check(rates: &[(usize, usize, u64)], expected: Option<(usize, usize, u64)>) {
        let rates: Vec<Rate> =
            rates.iter().map(|&(depth, part_bytes, rate)| Rate { depth, part_bytes, rate }).collect();
        assert_eq!(pick(&rates).map(|r| (r.depth, r.part_bytes, r.rate)), expected, "{rates:?}");
    }

    #[test]
    fn the_cheapest_of_the_fast_is_picked() {
        check(&[], None);
        check(&[(1, 1, 0), (2, 1, 0)], None);
        check(&[(1, 1, 50), (2, 1, 90), (4, 1, 100), (8, 1, 101)], Some((4, 1, 100)));
        check(&[(1, 1, 97), (2, 1, 100), (4, 1, 99)], Some((1, 1, 97)));
        check(&[(1, 1, 96), (2, 1, 100), (4, 1, 99)], Some((2, 1, 100)));
        check(&[(4, 2, 100), (4, 4, 98), (4, 8, 90), (4, 1, 100)], Some((4, 4, 98)));
        check(&[(8, 8, 100), (4, 1, 97)], Some((4, 1, 97)));
    }

    /// What is found for a file of holes, with so many experts of 3 MiB.
    fn probe_experts(n_expert: usize) -> Option<Probe> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let file = std::fs::File::create(&path).expect("created");
        file.set_len((n_expert as u64 * 3) << 20).expect("there are holes");
        let matrix = |i: u64| crate::Matrix {
            name: String::new(),
            file: 0,
            offset: (i * n_expert as u64) << 20,
            kind: compute::F32,
            shape: [512, 512],
            bytes: 1 << 20,
        };
        let places = Places { files: vec![path.clone()], layers: vec![[0, 1, 2].map(matrix)], n_expert };
        let sources = Arc::new(vec![Source::open(&path).expect("opened")]);
        let mut slots = crate::arena::slots(3, places.slot_bytes()).expect("memory");
        let began = Instant::now();
        let (found, read_bytes) = probe(&sources, &places, &mut slots).expect("read");
        assert!(began.elapsed() < 2 * TIME_MAX, "{:?}", began.elapsed());
        assert_eq!(slots.len(), 3, "all slots are given back");
        assert_eq!(read_bytes > 0, found.is_some());
        if sources[0].is_direct() { found } else { None }
    }

    #[test]
    fn large_files_are_measured_and_small_ones_not() {
        assert_eq!(probe_experts(20), None);
        match probe_experts(30) {
            Some(Probe { depth, bytes_per_second, .. }) => {
                assert!((1..=DEPTH_MAX).contains(&depth) && bytes_per_second > 0);
            }
            None => skipped("this file system reads through its page cache"),
        }
    }
}
