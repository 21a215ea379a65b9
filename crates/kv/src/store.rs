//! The pieces of one model, for all sessions.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{BLOCK, Kind, Name, Piece, Stats};

/// Where a store keeps, and how much.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder, of this store's own; made if need be. Without one, all stays in memory.
    pub dir: Option<PathBuf>,
    /// The model's name for people who list the folder, of which 56 bytes are kept.
    pub model: String,
    /// The most bytes of pieces in memory.
    pub ram_bytes: u64,
    /// The most bytes of files in the folder.
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
    /// When it no longer fits into memory, or by [`Store::flush`], unless a longer tail was kept since.
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
pub struct Store {
    root: Name,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pieces: HashMap<Name, Arc<Piece>>,
    tails: HashMap<Name, Vec<Name>>,
    stats: Stats,
}

impl Store {
    /// A store for what hangs from `root`. It opens whatever the folder is like: what that cannot do is told in a line, and
    /// the store goes on without.
    pub fn open(root: Name, _options: Options) -> Store {
        Store { root, state: Mutex::default() }
    }

    /// The name of the empty prefix.
    pub fn root(&self) -> Name {
        self.root
    }

    /// What is there of the sequence `ids`. Loading may find less, where files are broken.
    pub fn find(&self, ids: &[u32]) -> Found {
        let state = self.state();
        let (mut found, mut prefix) = (Found::default(), self.root);
        for k in 0.. {
            let rest = &ids[k * BLOCK..];
            for name in state.tails.get(&prefix).into_iter().flatten() {
                let piece = &state.pieces[name];
                if rest.starts_with(&piece.ids) {
                    let (n_tokens, has_logits) = (k * BLOCK + piece.ids.len(), piece.has_logits);
                    found.tails.push(Tail { name: *name, n_tokens, has_logits });
                }
            }
            let Some(block) = rest.get(..BLOCK) else { break };
            prefix = prefix.then(block);
            if !state.pieces.contains_key(&prefix) {
                break;
            }
            found.blocks.push(prefix);
        }
        found.tails.sort_by_key(|tail| std::cmp::Reverse(tail.n_tokens));
        found
    }

    /// A piece that is there.
    pub fn load(&self, name: &Name) -> Option<Arc<Piece>> {
        let mut state = self.state();
        let piece = state.pieces.get(name).cloned()?;
        state.stats.n_ram_hits += 1;
        Some(piece)
    }

    /// Whether a piece is there, so that nobody cuts it out again.
    pub fn has(&self, name: &Name) -> bool {
        self.state().pieces.contains_key(name)
    }

    /// Keeps a piece, and returns at once. What is there already stays; it lasts as long as anybody asked for.
    pub fn keep(&self, piece: Piece, _lasting: Lasting) {
        let mut state = self.state();
        let name = piece.name();
        if state.pieces.contains_key(&name) {
            return;
        }
        if piece.kind == Kind::Tail {
            state.tails.entry(piece.parent).or_default().push(name);
        }
        state.stats.n_ram += 1;
        state.stats.ram_bytes += piece.n_bytes();
        state.pieces.insert(name, Arc::new(piece));
    }

    /// Writes what was to be written at the end, except tails that a longer one continues, and waits until all is safe on
    /// the disk, or cannot be. Dropping a store does so, too.
    pub fn flush(&self) {}

    /// What it holds, and what it did.
    pub fn stats(&self) -> Stats {
        self.state().stats
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changes are made one after another and leave it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        let (ram_bytes, disk_bytes, written_bytes_per_day) = (1 << 20, 1 << 20, 1 << 20);
        let (dir, model, warn) = (None, "model".into(), |line: &str| panic!("{line}"));
        Options { dir, model, ram_bytes, disk_bytes, written_bytes_per_day, written_today_bytes: 0, warn }
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
}
