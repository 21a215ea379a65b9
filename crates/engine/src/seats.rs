//! More conversations than sessions: who comes first is served first, by the free session that knows most of what is said.

use std::{
    collections::VecDeque,
    ops::{Deref, DerefMut},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokenizer::TokenId;

use crate::Session;

/// How often somebody who waits looks whether it is still worth it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Sessions that were opened together, and the line before them.
pub struct Seats {
    line: Mutex<Line>,
    changed: Condvar,
}

struct Line {
    /// The one that was given back first is the first.
    free: VecDeque<Session>,
    waiting: VecDeque<u64>,
    n_tickets: u64,
}

/// A session, until it is dropped.
pub struct Seat<'a> {
    seats: &'a Seats,
    session: Option<Session>,
}

impl Seats {
    /// Gives away these sessions.
    pub fn new(sessions: Vec<Session>) -> Seats {
        let line = Line { free: sessions.into(), waiting: VecDeque::new(), n_tickets: 0 };
        Seats { line: Mutex::new(line), changed: Condvar::new() }
    }

    /// How many are before the next who comes.
    pub fn n_waiting(&self) -> usize {
        self.line().waiting.len()
    }

    /// A session that is to hold `ids`, when all who came before have one; `None` if `given_up` says so meanwhile.
    pub fn take(&self, ids: &[TokenId], given_up: &dyn Fn() -> bool) -> Option<Seat<'_>> {
        let mut line = self.line();
        let ticket = line.n_tickets;
        line.n_tickets += 1;
        line.waiting.push_back(ticket);
        loop {
            let stays = !given_up();
            if !stays || line.waiting.front() == Some(&ticket) && !line.free.is_empty() {
                line.waiting.retain(|&t| t != ticket);
                self.changed.notify_all(); // somebody else is the first
                let session = if stays { line.take(ids) } else { None };
                return session.map(|session| Seat { seats: self, session: Some(session) });
            }
            line = self.changed.wait_timeout(line, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// The free session that has the most of `ids`; of those alike, the one that was free for the longest time.
    fn take(&mut self, ids: &[TokenId]) -> Option<Session> {
        let alike = |i: &usize| self.free[*i].n_alike(ids);
        let best = (0..self.free.len()).rev().max_by_key(alike)?;
        self.free.remove(best)
    }
}

impl Deref for Seat<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session.as_ref().expect("it is given back at the end")
    }
}

impl DerefMut for Seat<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        self.session.as_mut().expect("it is given back at the end")
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.seats.line().free.extend(self.session.take());
        self.seats.changed.notify_all();
    }
}
