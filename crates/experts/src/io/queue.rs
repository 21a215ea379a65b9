//! What is to be read, and in which order: what somebody waits for first, then what may be needed.
//!
//! A lock order: a store holds its own lock when it asks for something, so this lock is never held when the store is told.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use super::{
    DEPTH_MAX, Done, ReadError, Settings,
    clock::Clock,
    part::{Begun, Job, Part},
    source::Source,
};

/// The requests that readers take parts from.
pub(super) struct Queue {
    sources: Arc<Vec<Source>>,
    done: Arc<Done>,
    state: Mutex<State>,
    more: Condvar,
}

struct State {
    settings: Settings,
    demand: Lane,
    ahead: Lane,
    under_way: Vec<UnderWay>,
    clock: Clock,
    landed_bytes: u64,
    closed: bool,
    /// What wakes the ring's thread, as long as a ring reads.
    bell: Option<Box<dyn Fn() + Send>>,
    /// Whether the ring's thread waits, and would miss what is asked for.
    is_dozing: bool,
}

/// A part that is being read.
struct UnderWay {
    job: Arc<Begun>,
    /// Where in memory it goes to: nothing else does until it is back.
    place: usize,
    /// Where in which file it is.
    file: usize,
    offset: u64,
    /// When it began, by the queue's clock.
    began: Duration,
    /// Whether it took too long, so that others no longer wait for their turn because of it.
    is_lost: bool,
}

#[derive(Default)]
struct Lane {
    /// Parts of jobs that have begun.
    parts: VecDeque<Part>,
    jobs: VecDeque<Job>,
}

impl Lane {
    fn pop(&mut self, part_bytes: usize) -> Option<Part> {
        if self.parts.is_empty() {
            self.jobs.pop_front()?.begin(part_bytes, &mut self.parts);
        }
        self.parts.pop_front()
    }

    fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.jobs.is_empty()
    }
}

impl State {
    /// Whether there is a part, and it may be read now.
    fn is_ready(&self) -> bool {
        !self.closed && self.n_busy() < self.settings.depth && !(self.demand.is_empty() && self.ahead.is_empty())
    }

    /// Parts under way, but for those that are lost; of these no more than [`DEPTH_MAX`] are passed over.
    fn n_busy(&self) -> usize {
        let n_lost = self.under_way.iter().filter(|part| part.is_lost).count();
        self.under_way.len() - n_lost.min(DEPTH_MAX)
    }

    /// A part is no longer under way.
    fn end(&mut self, part: &Part) {
        self.under_way.retain(|other| other.place != part.place());
    }

    fn pop(&mut self) -> Option<Part> {
        if !self.is_ready() {
            return None;
        }
        let part_bytes = self.settings.part_bytes;
        let part = self.demand.pop(part_bytes).or_else(|| self.ahead.pop(part_bytes))?;
        let (job, place, file, offset) = (part.job().clone(), part.place(), part.file(), part.offset());
        let began = self.clock.tick(Instant::now());
        self.under_way.push(UnderWay { job, place, file, offset, began, is_lost: false });
        Some(part)
    }
}

impl Queue {
    pub(super) fn new(sources: Arc<Vec<Source>>, settings: Settings, done: Arc<Done>) -> Queue {
        let settings = Settings { depth: settings.depth.clamp(1, DEPTH_MAX), ..settings };
        let (demand, ahead) = Default::default();
        let state = State {
            settings,
            demand,
            ahead,
            under_way: Vec::new(),
            clock: Clock::new(Instant::now()),
            landed_bytes: 0,
            closed: false,
            bell: None,
            is_dozing: false,
        };
        Queue { sources, done, state: Mutex::new(state), more: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Cuts jobs that have not begun otherwise, and has more or fewer parts under way.
    pub(super) fn tune(&self, depth: usize, part_bytes: usize) {
        let mut state = self.lock();
        state.settings = Settings { depth: depth.clamp(1, DEPTH_MAX), part_bytes, ..state.settings };
        drop(state);
        self.more.notify_all();
    }

    /// Bytes that were read.
    pub(super) fn landed_bytes(&self) -> u64 {
        self.lock().landed_bytes
    }

    /// A ring reads, whose thread can be woken.
    #[cfg(any(target_os = "linux", test))]
    pub(super) fn enter_ring(&self, bell: Box<dyn Fn() + Send>) {
        self.lock().bell = Some(bell);
    }

    /// Whether a ring reads.
    pub(super) fn has_ring(&self) -> bool {
        self.lock().bell.is_some()
    }

    #[cfg(target_os = "linux")]
    pub(super) fn sources(&self) -> &Arc<Vec<Source>> {
        &self.sources
    }

    pub(super) fn push(&self, job: Job) {
        let mut state = self.lock();
        state.demand.jobs.push_back(job);
        self.tell(state);
    }

    pub(super) fn push_ahead(&self, job: Job) {
        let mut state = self.lock();
        state.ahead.jobs.push_back(job);
        self.tell(state);
    }

    /// Tells somebody who reads that there is more to read.
    fn tell(&self, mut state: MutexGuard<State>) {
        self.more.notify_one();
        if state.is_dozing
            && state.is_ready()
            && let Some(ring) = &state.bell
        {
            ring();
            state.is_dozing = false;
        }
    }

    pub(super) fn hurry(&self, keys: &[usize]) {
        let State { demand, ahead, .. } = &mut *self.lock();
        move_to(&mut demand.jobs, &mut ahead.jobs, keys, |job| job.key);
        move_to(&mut demand.parts, &mut ahead.parts, keys, Part::key);
    }

    pub(super) fn take_back(&self, which: &dyn Fn(usize) -> bool) -> Vec<Job> {
        let mut lanes = self.lock();
        let (back, rest): (VecDeque<Job>, _) = lanes.ahead.jobs.drain(..).partition(|job| which(job.key));
        lanes.ahead.jobs = rest;
        back.into()
    }

    pub(super) fn take_back_last(&self, which: &dyn Fn(usize) -> bool) -> Option<Job> {
        let jobs = &mut self.lock().ahead.jobs;
        let i = jobs.iter().rposition(|job| which(job.key))?;
        jobs.remove(i)
    }

    /// Jobs of which a part has been under way for longer than `patience` are lost: others take the turns of their parts. How
    /// many parts that are, and the keys of jobs that were not lost before, with what is wrong. What comes back after all ends
    /// as others do.
    pub(super) fn give_up(&self, patience: Duration) -> (usize, Vec<(usize, ReadError)>) {
        let mut state = self.lock();
        let now = state.clock.tick(Instant::now());
        let (mut n_lost, mut jobs) = (0, Vec::new());
        for part in state.under_way.iter().filter(|part| !part.is_lost && now - part.began > patience) {
            if part.job.lose() {
                jobs.push((part.job.key, self.sources[part.file].stalled(part.offset, patience)));
            }
        }
        for part in state.under_way.iter_mut().filter(|part| !part.is_lost && part.job.is_lost()) {
            part.is_lost = true;
            n_lost += 1;
        }
        if n_lost > 0 {
            self.tell(state);
        }
        (n_lost, jobs)
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.more.notify_all();
    }

    /// The next part, once there is one; `None` when there will be none.
    pub(super) fn next(&self) -> Option<Part> {
        let mut state = self.lock();
        while !state.closed {
            if let Some(part) = state.pop() {
                if state.is_ready() {
                    self.more.notify_one();
                }
                return Some(part);
            }
            state = self.more.wait(state).unwrap_or_else(|e| e.into_inner());
        }
        None
    }

    /// The next part, if there is one.
    #[cfg(any(target_os = "linux", test))]
    pub(super) fn try_next(&self) -> Option<Part> {
        self.lock().pop()
    }

    /// Reads a part, on this thread. Whether that worked.
    pub(super) fn read(&self, mut part: Part) -> bool {
        // A slot must come back, whatever happens: it would be missing for ever.
        let result = catch_unwind(AssertUnwindSafe(|| part.read(&self.sources)));
        let result = result.unwrap_or_else(|_| Err(io::Error::other("the reader panicked")));
        let is_read = result.is_ok();
        self.land(part, result);
        is_read
    }

    /// A part has been read, or cannot be.
    pub(super) fn land(&self, part: Part, result: io::Result<()>) {
        let mut state = self.lock();
        state.end(&part);
        state.landed_bytes += if result.is_ok() { part.len() as u64 } else { 0 };
        if state.is_ready() {
            self.more.notify_one();
        }
        drop(state);
        if let Some(job) = part.end(result, &self.sources) {
            (self.done)(job.key, job.slot, job.result);
        }
    }
}

/// Appends those of `from` that have one of `keys`, ascending.
fn move_to<T>(to: &mut VecDeque<T>, from: &mut VecDeque<T>, keys: &[usize], key: impl Fn(&T) -> usize) {
    if !from.iter().any(|x| keys.binary_search(&key(x)).is_ok()) {
        return;
    }
    let (mut moved, rest): (Vec<T>, Vec<T>) = from.drain(..).partition(|x| keys.binary_search(&key(x)).is_ok());
    *from = rest.into();
    moved.sort_by_key(key);
    to.extend(moved);
}

/// What the ring's thread says and asks.
#[cfg(target_os = "linux")]
impl Queue {
    /// A ring no longer reads.
    pub(super) fn leave_ring(&self) {
        self.lock().bell = None;
    }

    /// The thread is about to wait, and wants to be woken when there is more. Whether it may: there is no more now.
    pub(super) fn doze(&self) -> bool {
        let mut state = self.lock();
        state.is_dozing = !state.is_ready();
        state.is_dozing
    }

    /// The thread does not wait any more.
    pub(super) fn wake(&self) {
        self.lock().is_dozing = false;
    }

    pub(super) fn depth(&self) -> usize {
        self.lock().settings.depth
    }

    /// Parts that were not read after all.
    pub(super) fn put_back(&self, parts: Vec<Part>) {
        let mut state = self.lock();
        for part in parts.into_iter().rev() {
            state.end(&part);
            state.demand.parts.push_front(part);
        }
        drop(state);
        self.more.notify_all();
    }
}
