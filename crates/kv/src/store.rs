//! The pieces of one model, for all sessions.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, PoisonError},
    thread::{self, JoinHandle},
};

use crate::{
    Kind, Name, Piece, Refused, Stats,
    file::{self, Head, INTRO_BYTES},
    heat::Heat,
    index::{Entry, OnDisk},
    outside::{Machine, Outside},
    state::{Shared, State},
};

/// Where a store keeps, and how much.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder, of the stores' own; made if need be. Without one, all stays in memory.
    pub dir: Option<PathBuf>,
    /// The model's name for people who list the folder, of which 56 bytes are kept.
    pub model: String,
    /// The most bytes of pieces in memory. What sessions have loaded and still hold is theirs.
    pub ram_bytes: u64,
    /// The most bytes of files in the folder, of all models.
    pub disk_bytes: u64,
    /// The most bytes that are written in a day, by UTC.
    pub written_bytes_per_day: u64,
    /// How many were written today before.
    pub written_today_bytes: u64,
    /// Who is told what went wrong, in a line.
    pub warn: fn(&str),
}

/// When a piece goes to the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lasting {
    /// When memory becomes scarce, or by [`Store::flush`]; never if a longer tail continues it by then.
    AtEnd,
    /// As soon as there is time.
    Soon,
}

/// What is there of a sequence of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The rows of its leading blocks, without a gap.
    pub blocks: Vec<Name>,
    /// Behind which of its tokens one can go on, the most tokens first. All rows before are among `blocks`.
    pub tails: Vec<Tail>,
}

/// A tail that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Its name.
    pub name: Name,
    /// Tokens from the beginning to its end.
    pub n_tokens: usize,
    /// Whether it has the logits behind the last of these.
    pub has_logits: bool,
}

/// The pieces of one model, shared by all sessions and threads.
///
/// No call waits for a file to be written, but for [`Store::flush`] and the end.
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

impl Store {
    /// A store for what hangs from `root`. It opens whatever the folder is like: what that cannot do is told in a line, and
    /// the store goes on without.
    pub fn open(root: Name, options: Options) -> Store {
        Store::open_on(root, options, Box::new(Machine))
    }

    pub(crate) fn open_on(root: Name, options: Options, outside: Box<dyn Outside>) -> Store {
        let shared = Arc::new(Shared::new(root, options, outside));
        let has_folder = shared.options.dir.is_some();
        let writer = has_folder.then(|| Store::start(&shared)).flatten();
        shared.state().is_alone = writer.is_none();
        Store { shared, writer }
    }

    fn start(shared: &Arc<Shared>) -> Option<JoinHandle<()>> {
        shared.open();
        let writes = Arc::clone(shared);
        let writer = thread::Builder::new().name("kv".into()).spawn(move || writes.write());
        let told = |e| shared.tell("thread", || format!("{e}; what sessions remember is not written to the disk"));
        writer.map_err(told).ok()
    }

    /// The name of the empty prefix.
    pub fn root(&self) -> Name {
        self.shared.root
    }

    /// What is there of the sequence `ids`. Loading may find less, where files are broken.
    pub fn find(&self, ids: &[u32]) -> Found {
        self.shared.refresh();
        self.shared.state().index.find(self.shared.root, ids)
    }

    /// What goes on from a prefix, blocks first: the names of its pieces, and their own tokens. For those who know a
    /// conversation only as text. They begin at the root, where it is looked whether the folder has changed.
    pub fn behind(&self, prefix: &Name) -> Vec<(Name, Kind, Vec<u32>)> {
        if *prefix == self.shared.root {
            self.shared.refresh();
        }
        let state = self.shared.state();
        let known = state.index.behind(self.shared.root, prefix);
        let all: Vec<_> = known.map(|(name, entry)| (*name, entry.kind, entry.ids.clone())).collect();
        drop(state);
        let with_ids = |(name, kind, ids): (Name, Kind, Vec<u32>)| match (kind, ids.is_empty()) {
            (Kind::Rows, true) => Some((name, kind, self.ids_of(&name)?)),
            _ => Some((name, kind, ids)),
        };
        all.into_iter().filter_map(with_ids).collect()
    }

    /// The tokens of a block, from its file the first time; nothing where that cannot be read, which loading it will tell.
    fn ids_of(&self, name: &Name) -> Option<Vec<u32>> {
        let (intro, n_bytes) = self.shared.outside.read(&self.shared.path(name), INTRO_BYTES as u64).ok()?;
        let ids = Head::read(&intro, n_bytes, name).ok()?.ids;
        self.shared.state().index.change(name, |entry| entry.ids.clone_from(&ids));
        Some(ids)
    }

    /// A piece that is there, every byte as it was kept. A file that is not whole is told of, and no longer there.
    pub fn load(&self, name: &Name) -> Option<Arc<Piece>> {
        let now_ms = self.shared.outside.now_ms();
        let mut state = self.shared.state();
        let Entry { ram, n_tokens, .. } = self.shared.ours(&state, name)?;
        let (ram, n_tokens) = (ram.clone(), *n_tokens);
        state.index.touch(name, now_ms);
        if ram.is_some() {
            state.counts.n_ram_hits += 1;
            return ram;
        }
        drop(state);
        self.load_file(name, n_tokens).map(|piece| self.cache(name, piece))
    }

    fn load_file(&self, name: &Name, n_tokens: u32) -> Option<Piece> {
        let path = self.shared.path(name);
        match self.shared.outside.read(&path, u64::MAX) {
            Ok((bytes, _)) => match file::read(bytes, name) {
                Ok((head, piece)) if (head.root, piece.n_tokens) == (self.shared.root, n_tokens) => Some(piece),
                Ok(_) => self.shared.refuse(name, &path, &Refused::Field { field: "place" }),
                Err(refused) => self.shared.refuse(name, &path, &refused),
            },
            // The one who writes has removed it for a better one.
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.shared.lose(name, 0),
            Err(e) => {
                self.shared.tell("read", || format!("{}: {e}; what it remembers is computed again", path.display()));
                let n_bytes = self.shared.state().index.get(name).map_or(0, |entry| entry.file_bytes);
                self.shared.lose(name, n_bytes)
            }
        }
    }

    /// Keeps what was read in memory, too, if that has room beside what is nowhere else.
    fn cache(&self, name: &Name, piece: Piece) -> Arc<Piece> {
        let piece = Arc::new(piece);
        let mut state = self.shared.state();
        state.counts.n_disk_hits += 1;
        let fits = state.index.totals().unsaved_bytes + piece.n_bytes() <= self.shared.options.ram_bytes;
        if fits {
            state.index.change(name, |entry| entry.ram = Some(Arc::clone(&piece)));
            self.shared.shrink(&mut state);
        }
        piece
    }

    /// Whether a piece is there, so that nobody cuts it out again.
    pub fn has(&self, name: &Name) -> bool {
        self.shared.ours(&self.shared.state(), name).is_some()
    }

    /// Whether a piece is on the disk and stays there, whatever happens to this process or the machine.
    pub fn is_safe(&self, name: &Name) -> bool {
        self.shared.ours(&self.shared.state(), name).is_some_and(|entry| entry.on_disk == OnDisk::Yes)
    }

    /// Asks that a piece lasts so long, so that nobody cuts it out again. Whether it has logits; `None` if it is not there.
    pub fn promote(&self, name: &Name, lasting: Lasting) -> Option<bool> {
        let mut state = self.shared.state();
        let has_logits = self.shared.ours(&state, name)?.has_logits;
        state.index.change(name, |entry| entry.lasting = lasting.max(entry.lasting));
        self.shared.want(&mut state, name);
        self.shared.work.notify_all();
        Some(has_logits)
    }

    /// Keeps a piece, and returns at once. What is there already stays, as long as anybody asked for, unless it is another
    /// model's or has no logits while the new one has; what does not fit, and is worth less than the rest, is gone.
    pub fn keep(&self, piece: Piece, lasting: Lasting) {
        let (name, now_ms) = (piece.name(), self.shared.outside.now_ms());
        let entry = self.shared.entry(piece, lasting, now_ms);
        let mut state = self.shared.state();
        state.kept_bytes += entry.file_bytes;
        self.shared.put(&mut state, name, entry);
        self.shared.shrink(&mut state);
        self.shared.work.notify_all();
    }

    /// Writes all that is in memory only, but for tails that a longer one continues, and waits until it is safe on the disk
    /// or cannot be. Dropping a store does so, too.
    pub fn flush(&self) {
        let mut state = self.shared.state();
        state.n_asked += 1;
        let asked = state.n_asked;
        self.shared.work.notify_all();
        while state.n_answered < asked && !state.is_alone {
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What it holds, and what it did.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }
}

impl Shared {
    /// Adds a piece that was just kept, or what it is better at to the one that is there.
    pub(crate) fn put(&self, state: &mut State, name: Name, mut new: Entry) {
        match state.index.get(&name) {
            None => state.index.insert(name, new),
            Some(old) if !new.outdoes(old) => {
                state.index.touch(&name, self.outside.now_ms());
                state.index.change(&name, |old| old.lasting = old.lasting.max(new.lasting));
            }
            Some(old) if old.on_disk == OnDisk::Writing => state.late.push((name, new)),
            Some(old) => {
                if old.root == new.root {
                    // What had a file is to have one again.
                    let lasting = if old.on_disk == OnDisk::Yes { Lasting::Soon } else { old.lasting };
                    (new.heat, new.lasting) = (old.heat, lasting.max(new.lasting));
                }
                state.condemn(name);
                state.index.forget(&name);
                state.index.insert(name, new);
            }
        }
        self.want(state, &name);
    }

    /// Queues a piece that is to be written as soon as there is time.
    pub(crate) fn want(&self, state: &mut State, name: &Name) {
        let is_due = |entry: &Entry| entry.lasting == Lasting::Soon && entry.on_disk == OnDisk::No;
        if state.lock.is_some() && state.index.get(name).is_some_and(is_due) {
            state.queue.push_back(*name);
        }
    }

    /// What there is to know of a piece that was just kept.
    pub(crate) fn entry(&self, piece: Piece, lasting: Lasting, now_ms: u64) -> Entry {
        Entry {
            kind: piece.kind,
            root: self.root,
            parent: piece.parent,
            n_tokens: piece.n_tokens,
            ids: piece.ids.clone(),
            has_logits: piece.has_logits,
            heat: Heat::once(now_ms),
            used: 0,
            touched: false,
            lasting,
            refused: false,
            file_bytes: file::file_bytes(&piece),
            ram: Some(Arc::new(piece)),
            on_disk: OnDisk::No,
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.flush();
        self.shared.state().is_ending = true;
        self.shared.work.notify_all();
        if let Some(writer) = self.writer.take() {
            // It has nothing to hand over, and a panic of its own has been told.
            let _ = writer.join();
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Store").field("root", &self.root()).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Mutex};

    use super::*;

    fn options() -> Options {
        let (ram_bytes, disk_bytes, written_bytes_per_day) = (1 << 20, 1 << 20, 1 << 20);
        let (dir, model, warn) = (None, "model".into(), |line: &str| panic!("{line}"));
        Options { dir, model, ram_bytes, disk_bytes, written_bytes_per_day, written_today_bytes: 0, warn }
    }

    #[test]
    fn what_goes_on_from_a_prefix_is_known_with_its_tokens() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let options = Options { dir: Some(folder.path().into()), ..options() };
        let ids: Vec<u32> = (0..600).collect();
        for run in 0..2 {
            let store = Store::open(Name::root(b"m", b"1"), options.clone());
            let first = store.root().then(&ids[..256]);
            if run == 0 {
                store.keep(Piece::rows(store.root(), 256, &ids[..256]), Lasting::Soon);
                store.keep(Piece::rows(first, 512, &ids[256..512]), Lasting::Soon);
                store.keep(Piece::tail(first, 258, &ids[256..258]), Lasting::Soon);
            }
            assert_eq!(store.behind(&store.root()), [(first, Kind::Rows, ids[..256].to_vec())]);
            let behind = store.behind(&first);
            let tokens: Vec<_> = behind.iter().map(|(_, kind, ids)| (*kind, &ids[..])).collect();
            assert_eq!(tokens, [(Kind::Rows, &ids[256..512]), (Kind::Tail, &ids[256..258])]);
            assert_eq!(store.behind(&behind[0].0), []);
        }
    }

    #[test]
    fn what_was_kept_is_found_and_loaded() {
        let store = Store::open(Name::root(b"m", b"1"), options());
        let ids: Vec<u32> = (0..600).collect();
        let first = store.root().then(&ids[..256]);
        let second = first.then(&ids[256..512]);
        store.keep(Piece::rows(first, 512, &ids[256..512]), Lasting::Soon);
        store.keep(Piece::tail(second, 520, &ids[512..520]), Lasting::AtEnd);
        assert_eq!(store.find(&ids), Found::default(), "the first block is missing");
        store.keep(Piece::rows(store.root(), 256, &ids[..256]), Lasting::Soon);
        store.keep(Piece::tail(first, 256, &[]).with_logits(), Lasting::AtEnd);
        let found = store.find(&ids);
        assert_eq!(found.blocks, [first, second]);
        let tails: Vec<_> = found.tails.iter().map(|t| (t.n_tokens, t.has_logits)).collect();
        assert_eq!(tails, [(520, false), (256, true)]);
        let loaded = store.load(&found.tails[0].name).expect("kept");
        assert_eq!((loaded.n_tokens(), loaded.ids()), (520, &ids[512..520]));
        assert_eq!(store.find(&ids[..519]).tails.len(), 1);
        assert_eq!(store.find(&ids[1..]), Found::default());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_told_and_does_no_harm() {
        static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let root = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = root.path().join("file");
        fs::write(&path, "").unwrap_or_else(|e| panic!("{e}"));
        let warn = |line: &str| TOLD.lock().unwrap_or_else(PoisonError::into_inner).push(line.into());
        let store = Store::open(Name::root(b"m", b"1"), Options { dir: Some(path.join("kv")), warn, ..options() });
        store.keep(Piece::tail(store.root(), 1, &[1]), Lasting::Soon);
        store.flush();
        assert_eq!(store.find(&[1, 2]).tails.len(), 1);
        drop(store);
        let told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(told.len() == 1 && told[0].starts_with(&path.display().to_string()), "{told:?}");
    }
}
