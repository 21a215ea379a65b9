//! The ledger's other column: what stores of pieces write. Their budget by day outlasts the program by it.

use std::{
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{
    folder::Folder,
    ledger::{self, Ledger, Traffic},
};

/// How often bytes are added while the program runs; a crash forgets those since.
const COUNT_EVERY: Duration = Duration::from_secs(60);

/// Bytes that were written, on their way to the ledger of a folder.
pub(crate) struct Written {
    folder: Folder,
    /// What was added so far, and when.
    counted: Mutex<(u64, Instant)>,
}

impl Written {
    /// Counts into the ledger of a folder from now on, and tells what was written today before.
    pub(crate) fn open(folder: &Path) -> (Written, u64) {
        // A ledger that cannot be read limits nothing; who shows it says what is wrong with it.
        let today = Ledger::open(folder).map_or(0, |ledger| ledger.today().written_bytes);
        (Written { folder: Folder::new(folder), counted: Mutex::new((0, Instant::now())) }, today)
    }

    /// From time to time, adds what is new of `total_bytes` since the start, beside whoever asks.
    pub(crate) fn count(&self, total_bytes: u64) {
        if let Some(new_bytes) = self.take(total_bytes, COUNT_EVERY) {
            let folder = self.folder.clone();
            // Without a thread, these bytes are forgotten, as after a crash.
            let _ = std::thread::Builder::new().name("ledger".into()).spawn(move || add(&folder, new_bytes));
        }
    }

    /// Adds the rest.
    pub(crate) fn finish(&self, total_bytes: u64) {
        if let Some(new_bytes) = self.take(total_bytes, Duration::ZERO) {
            add(&self.folder, new_bytes);
        }
    }

    /// What is new, if it is time to add it.
    fn take(&self, total_bytes: u64, every: Duration) -> Option<u64> {
        let mut counted = self.counted.lock().unwrap_or_else(|e| e.into_inner());
        let new_bytes = total_bytes.saturating_sub(counted.0); // somebody else may have been faster
        if new_bytes == 0 || counted.1.elapsed() < every {
            return None;
        }
        *counted = (total_bytes, Instant::now());
        Some(new_bytes)
    }
}

fn add(folder: &Folder, written_bytes: u64) {
    // Nobody's answer depends on it, and whoever looks at a broken ledger is told.
    let _ = ledger::add(folder, Traffic { read_bytes: 0, written_bytes });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_known_in_the_next_run() {
        let root = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        for before in [0, 100] {
            let (written, today) = Written::open(root.path());
            assert_eq!(today, before);
            written.count(70); // a minute has not passed
            written.finish(100);
            written.finish(100);
        }
        assert_eq!(Written::open(root.path()).1, 200);
    }
}
