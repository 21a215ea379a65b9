//! What a streamed model leaves for its next run: which experts it used most, and what the SSD had to do.
//!
//! ```text
//! open           the experts used most so far -> Store::warm
//! every 10 s     in use since? -> one more look at which experts are hot
//! every minute   bytes read since -> the ledger of the day
//! every 5 min    what was seen since -> merged into the file of this model
//! drop           the rest of all three
//! ```
//!
//! A thread does it, so that no answer waits for a disk that is busy with experts. Nothing here is worth failing for: what
//! goes wrong is told in one line, and the model runs as if there were no folder.

use std::{
    fmt, io,
    path::Path,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use experts::{Hotlist, Places, Store};

use crate::{
    engine::Learning,
    folder::Folder,
    ledger::{self, Traffic},
};

const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Looks between additions to the ledger.
const LOOKS_PER_COUNT: u32 = 6;

/// Looks between additions to the list of experts.
const LOOKS_PER_SAVE: u32 = 30;

const NOTHING_KEPT: &str = "nothing is kept for the next run";

/// Who is told what went wrong, in a line.
pub(crate) type Warn = fn(&str);

/// Keeps what is worth keeping until it is dropped.
pub(crate) struct Keeper {
    /// The thread ends when this is gone.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Begins with what earlier runs left in a folder for the model that is identified by `model`, and goes on from there;
    /// `None` where nothing can be kept.
    pub(crate) fn open(
        cache_dir: &Path,
        learning: Learning,
        model: String,
        places: &Places,
        store: Arc<Store>,
        warn: Warn,
    ) -> Option<Keeper> {
        let folder = Folder::new(cache_dir);
        let keeps = told(folder.prepare(), warn, |e| format!("{}: {e}; {NOTHING_KEPT}", cache_dir.display()));
        let list = ListFile { name: format!("hotlist-{model}.csv"), model, nothing: Hotlist::new(places) };
        if learning == Learning::Warm {
            // That the folder cannot be used is told once.
            let warn = if keeps.is_some() { warn } else { |_: &str| () };
            list.read(&folder, warn).inspect(|known| store.warm(&known.hottest()));
        }
        let seen = list.nothing.clone();
        let list = (learning != Learning::Off).then_some(list);
        let run = Run { folder, list, seen, store, n_asked: 0, read_bytes: 0, warn, told: Vec::new() };
        keeps.and_then(|()| Keeper::start(run))
    }

    fn start(run: Run) -> Option<Keeper> {
        let warn = run.warn;
        let (end, ended) = channel();
        let work = move || run.keep(|| ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout));
        let thread = thread::Builder::new().name("keeper".into()).spawn(work);
        let thread = told(thread, warn, |e| format!("{e}; {NOTHING_KEPT}"))?;
        Some(Keeper { end: Some(end), thread: Some(thread) })
    }
}

/// What succeeded. What failed is told.
fn told<T>(result: io::Result<T>, warn: Warn, line: impl FnOnce(io::Error) -> String) -> Option<T> {
    result.map_err(|e| warn(&line(e))).ok()
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end.take();
        if let Some(thread) = self.thread.take() {
            // It has nothing to hand over, and a panic of its own has been told.
            let _ = thread.join();
        }
    }
}

/// The file with the experts that a model used most.
struct ListFile {
    name: String,
    model: String,
    /// A list of as many experts, without any heat.
    nothing: Hotlist,
}

impl ListFile {
    /// What is known; nothing if that cannot be read.
    fn read(&self, folder: &Folder, warn: Warn) -> Option<Hotlist> {
        let ignored = |why: &dyn fmt::Display| format!("{}: {why}; it is ignored", folder.path(&self.name).display());
        let bytes = told(folder.read(&self.name, self.nothing.bytes_max()), warn, |e| ignored(&e))??;
        self.nothing.read(&self.model, &bytes).map_err(|e| warn(&ignored(&e))).ok()
    }

    /// Adds what was seen to what is known. What cannot be read makes room.
    fn add(&self, folder: &Folder, seen: &Hotlist) -> io::Result<()> {
        folder.update(&self.name, self.nothing.bytes_max(), |old| {
            let known = old.ok().flatten().and_then(|bytes| self.nothing.read(&self.model, &bytes).ok());
            let mut all = known.unwrap_or_else(|| self.nothing.clone());
            all.merge(seen);
            Ok(all.to_text(&self.model))
        })
    }
}

/// One run of a model.
struct Run {
    folder: Folder,
    /// Where it learns to; nowhere if it does not.
    list: Option<ListFile>,
    /// Seen since the list was last saved.
    seen: Hotlist,
    store: Arc<Store>,
    /// Experts asked for when somebody last looked.
    n_asked: u64,
    /// Bytes that the ledger has.
    read_bytes: u64,
    warn: Warn,
    /// What was told.
    told: Vec<String>,
}

impl Run {
    /// Keeps what happens, as long as `wait` says that there is more to come.
    fn keep(mut self, mut wait: impl FnMut() -> bool) {
        for n_looks in 1.. {
            let more = wait();
            self.look();
            if !more || n_looks % LOOKS_PER_COUNT == 0 {
                self.count();
            }
            if !more || n_looks % LOOKS_PER_SAVE == 0 {
                self.save();
            }
            if !more {
                break;
            }
        }
    }

    /// Sees which experts are hot, if any was asked for since.
    fn look(&mut self) {
        let stats = self.store.stats();
        let n_asked = stats.n_hits + stats.n_misses;
        if n_asked > self.n_asked && self.list.is_some() {
            self.seen.see(&self.store.heat());
        }
        self.n_asked = n_asked;
    }

    fn count(&mut self) {
        let read_bytes = self.store.stats().read_bytes;
        let traffic = Traffic { read_bytes: read_bytes - self.read_bytes, written_bytes: 0 };
        if traffic.read_bytes > 0 {
            let added = ledger::add(&self.folder, traffic).map(|()| self.read_bytes = read_bytes);
            self.tell(ledger::NAME, added.map_err(|e| e.to_string()));
        }
    }

    fn save(&mut self) {
        let Some(list) = self.list.as_ref().filter(|_| !self.seen.is_empty()) else { return };
        let (added, name) = (list.add(&self.folder, &self.seen), list.name.clone());
        self.seen = list.nothing.clone();
        self.tell(&name, added.map_err(|e| e.to_string()));
    }

    /// Tells each failure once: it will come again every minute.
    fn tell(&mut self, name: &str, result: Result<(), String>) {
        let Err(why) = result else { return };
        let line = format!("{}: {why}; nothing is added to it", self.folder.path(name).display());
        if !self.told.contains(&line) {
            (self.warn)(&line);
            self.told.push(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{Budget, Engine, Experts, Ledger, Options};

    /// A run of a small model that keeps in `root`.
    fn run(root: &Path, warn: Warn) -> (Engine, Run) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/deepseek_v4/micro-flash.gguf");
        let experts = Experts::Streamed(Budget::Count(3));
        let engine = Engine::open(&Options { experts, threads: Some(1), ..Options::new(path) });
        let engine = engine.unwrap_or_else(|e| panic!("{e}"));
        let nothing = Hotlist::new(engine.0.model.places().expect("it has experts"));
        let list = ListFile { name: "hotlist-m.csv".into(), model: "m".into(), nothing: nothing.clone() };
        let store = engine.0.routing.store.clone().expect("they are streamed");
        let (folder, told) = (Folder::new(root), Vec::new());
        (engine, Run { folder, list: Some(list), seen: nothing, store, n_asked: 0, read_bytes: 0, warn, told })
    }

    #[test]
    fn each_failure_is_told_once() {
        static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let root = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let (_engine, mut run) = run(root.path(), |line| TOLD.lock().expect("nobody panicked").push(line.into()));
        for why in ["full", "full", "damaged", "full"] {
            run.tell("a", Err(why.into()));
            run.tell("b", Err("full".into()));
        }
        let told = TOLD.lock().expect("nobody panicked");
        let ends = ["a: full", "b: full", "a: damaged"].map(|end| format!("/{end}; nothing is added to it"));
        assert!(told.len() == ends.len() && told.iter().zip(ends).all(|(line, end)| line.ends_with(&end)), "{told:?}");
    }

    #[test]
    fn a_long_run_keeps_what_it_learned_before_it_ends() {
        let root = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let (engine, run) = run(root.path(), |_| ());
        let mut session = engine.session(64).unwrap_or_else(|e| panic!("{e}"));
        let (mut n_waits, mut read_bytes) = (0, 0);
        let all_bytes = || engine.expert_stats().unwrap_or_default().read_bytes;
        run.keep(|| {
            (n_waits, read_bytes) = (n_waits + 1, all_bytes());
            let has = |name: &str| root.path().join(name).exists();
            assert_eq!(has(ledger::NAME), n_waits > LOOKS_PER_COUNT, "after {} looks", n_waits - 1);
            assert_eq!(has("hotlist-m.csv"), n_waits > LOOKS_PER_SAVE, "after {} looks", n_waits - 1);
            // Nobody asks in the last third.
            (n_waits <= 20).then(|| session.push(n_waits).unwrap_or_else(|e| panic!("{e}")));
            n_waits <= LOOKS_PER_SAVE
        });
        let kept = std::fs::read_to_string(root.path().join("hotlist-m.csv")).unwrap_or_default();
        assert!(kept.lines().next().is_some_and(|head| head.ends_with(" n_seen=20")), "{kept}");
        let total = Ledger::open(root.path()).unwrap_or_else(|e| panic!("{e}")).total();
        // A guess that nobody needs may still be read.
        assert!(0 < read_bytes && (read_bytes..=all_bytes()).contains(&total.read_bytes), "{total:?}");
    }
}
