//! Grammars that were compiled lately. An agent asks for the same calls, or the same form, turn after turn: they are compiled once,
//! and whose grammar is there waits for nobody else's.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::hold::{Held, Wanted};

/// How many are kept, and the most bytes of what one is made of: it takes about a hundred times as much.
const N_MAX: usize = 8;
const BYTES_MAX: usize = 256 << 10;

/// Grammars by what they are made of; the one that was used last comes last.
#[derive(Default)]
pub(crate) struct Grammars(Mutex<VecDeque<(Wanted, Arc<Held>)>>);

impl Grammars {
    /// The grammar of what is wanted, if it is there.
    pub(crate) fn find(&self, wanted: &Wanted) -> Option<Arc<Held>> {
        let mut kept = self.kept();
        let found = kept.iter().position(|(known, _)| known == wanted).and_then(|i| kept.remove(i))?;
        let held = found.1.clone();
        kept.push_back(found);
        Some(held)
    }

    /// Keeps a grammar in place of the one that was not used for the longest time.
    pub(crate) fn keep(&self, wanted: Wanted, held: Arc<Held>) {
        if wanted.n_bytes() > BYTES_MAX {
            return;
        }
        let mut kept = self.kept();
        kept.retain(|(known, _)| *known != wanted);
        kept.push_back((wanted, held));
        let n_over = kept.len().saturating_sub(N_MAX);
        kept.drain(..n_over);
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Wanted, Arc<Held>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
