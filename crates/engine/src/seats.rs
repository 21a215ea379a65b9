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
        let ticket = Ticket::draw(self);
        while !given_up() {
            let mut line = self.line();
            if line.waiting.front() == Some(&ticket.number)
                && let Some(session) = line.take(ids)
            {
                return Some(Seat { seats: self, session: Some(session) });
            }
            drop(self.changed.wait_timeout(line, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner));
        }
        None
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the line, until it is dropped.
struct Ticket<'a> {
    seats: &'a Seats,
    number: u64,
}

impl Ticket<'_> {
    fn draw(seats: &Seats) -> Ticket<'_> {
        let mut line = seats.line();
        let number = line.n_tickets;
        line.n_tickets += 1;
        line.waiting.push_back(number);
        Ticket { seats, number }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.seats.line().waiting.retain(|&number| number != self.number);
        self.seats.changed.notify_all(); // somebody else may be the first
    }
}

impl Line {
    /// The free session that has the most of `ids` beyond what it would lose; of those alike, the one that was free for the
    /// longest time.
    fn take(&mut self, ids: &[TokenId]) -> Option<Session> {
        let gain = |i: &usize| {
            let n_alike = self.free[*i].n_alike(ids) as i64;
            n_alike - (self.free[*i].tokens().len() as i64 - n_alike)
        };
        let best = (0..self.free.len()).rev().max_by_key(gain)?;
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
