//! Which pieces there are, where, and which of them should go first.
//!
//! ```text
//! root - Rows - Rows - Rows - Tail        a piece is of use if all before it are there
//!             \      \ Tail
//!              Rows - Tail
//!
//! worth = (heat + 1) * tokens that would be computed again without it / its bytes
//! ```
//!
//! Only leaves go, the least worth first, among equals the one used longest ago: a chain never gets a hole. Without the rows
//! of a block, its tokens would be computed again; without a tail, those since the tail before it on its chain. What hangs
//! from nothing, since a file broke or another program made it, is worth nothing.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet},
    sync::Arc,
};

use crate::{BLOCK, Found, Kind, Lasting, Name, Piece, Tail, heat::Heat};

/// A parent that nothing is called.
pub(crate) const NOBODY: Name = Name([0; Name::BYTES]);

/// How far a piece is on its way to the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnDisk {
    /// It has no file.
    No,
    /// Its file is being written: it stays in memory until the folder is safe, too.
    Writing,
    /// Its file outlasts everything.
    Yes,
}

/// What is known of a piece.
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) root: Name,
    pub(crate) parent: Name,
    pub(crate) n_tokens: u32,
    /// Its own tokens. Those of rows that were found in the folder are not read until somebody asks for them.
    pub(crate) ids: Vec<u32>,
    pub(crate) has_logits: bool,
    pub(crate) heat: Heat,
    /// Counts up with every use of any piece.
    pub(crate) used: u64,
    /// Whether its heat is other than its file says.
    pub(crate) touched: bool,
    pub(crate) lasting: Lasting,
    /// Whether a budget kept it out of the folder.
    pub(crate) refused: bool,
    pub(crate) ram: Option<Arc<Piece>>,
    pub(crate) on_disk: OnDisk,
    /// Bytes that its file has, or would have.
    pub(crate) file_bytes: u64,
}

impl Entry {
    /// Whether a piece that was cut here is of use where another of its name is not: that is a stranger's, says that it is
    /// elsewhere, or has no logits.
    pub(crate) fn outdoes(&self, other: &Entry) -> bool {
        let is_elsewhere = (self.root, self.n_tokens) != (other.root, other.n_tokens);
        is_elsewhere || self.has_logits && !other.has_logits
    }
}

/// What all pieces add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) n_ram: u64,
    pub(crate) ram_bytes: u64,
    /// Of these, the bytes that have no file.
    pub(crate) unsaved_bytes: u64,
    pub(crate) n_disk: u64,
    pub(crate) disk_bytes: u64,
}

/// All pieces of a store and its folder.
#[derive(Default)]
pub(crate) struct Index {
    entries: HashMap<Name, Entry>,
    /// The tails that hang from each prefix, and the blocks.
    tails: HashMap<Name, Vec<Name>>,
    blocks: HashMap<Name, Vec<Name>>,
    totals: Totals,
    /// What is in memory and on disk, those used longest ago first.
    copies: BTreeSet<(u64, Name)>,
    n_uses: u64,
}

impl Index {
    pub(crate) fn get(&self, name: &Name) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Name, &Entry)> {
        self.entries.iter()
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether a piece ends where its tokens do, as far as it is known where they begin: no name says so.
    pub(crate) fn fits(&self, entry: &Entry) -> bool {
        let n_own = match entry.kind {
            Kind::Rows => BLOCK as u32,
            Kind::Tail => entry.n_tokens % BLOCK as u32,
        };
        let parent = || self.get(&entry.parent).map(|parent| parent.n_tokens);
        let n_before = if entry.parent == entry.root { Some(0) } else { parent() };
        n_before.is_none_or(|n| n.checked_add(n_own) == Some(entry.n_tokens))
    }

    /// Adds a piece that is not there yet.
    pub(crate) fn insert(&mut self, name: Name, mut entry: Entry) {
        self.n_uses += 1;
        entry.used = self.n_uses;
        self.behind_mut(entry.kind).entry(entry.parent).or_default().push(name);
        self.totals.add(&entry);
        let old = self.entries.insert(name, entry);
        debug_assert!(old.is_none(), "{name:?} was there already");
    }

    /// Changes what is known of a piece, and forgets it if it is nowhere any more.
    pub(crate) fn change(&mut self, name: &Name, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        self.totals.take(entry);
        self.copies.remove(&(entry.used, *name));
        change(entry);
        self.totals.add(entry);
        if entry.ram.is_some() && entry.on_disk == OnDisk::Yes {
            self.copies.insert((entry.used, *name));
        }
        if entry.ram.is_none() && entry.on_disk == OnDisk::No {
            self.remove(name);
        }
    }

    /// Forgets a piece, wherever it is.
    pub(crate) fn forget(&mut self, name: &Name) {
        self.change(name, |entry| (entry.ram, entry.on_disk) = (None, OnDisk::No));
    }

    fn remove(&mut self, name: &Name) {
        let Some(Entry { kind, parent, .. }) = self.entries.remove(name) else { return };
        let behind = self.behind_mut(kind);
        if let Some(names) = behind.get_mut(&parent) {
            if let Some(at) = names.iter().position(|other| other == name) {
                names.swap_remove(at);
            }
            if names.is_empty() {
                behind.remove(&parent);
            }
        }
    }

    fn behind_mut(&mut self, kind: Kind) -> &mut HashMap<Name, Vec<Name>> {
        match kind {
            Kind::Rows => &mut self.blocks,
            Kind::Tail => &mut self.tails,
        }
    }

    /// The pieces of `root` that hang from a prefix, blocks first.
    pub(crate) fn behind(&self, root: Name, prefix: &Name) -> impl Iterator<Item = (&Name, &Entry)> {
        let names = [&self.blocks, &self.tails].into_iter().filter_map(|map| map.get(prefix)).flatten();
        names.filter_map(move |name| Some((name, self.entries.get(name).filter(|entry| entry.root == root)?)))
    }

    /// Counts a use.
    pub(crate) fn touch(&mut self, name: &Name, now_ms: u64) {
        self.n_uses += 1;
        let used = self.n_uses;
        self.change(name, |entry| {
            entry.heat.add(now_ms);
            (entry.used, entry.touched) = (used, true);
        });
    }

    /// What is there of the sequence `ids` behind `root`.
    pub(crate) fn find(&self, root: Name, ids: &[u32]) -> Found {
        let (mut found, mut prefix) = (Found::default(), root);
        for k in 0.. {
            let rest = &ids[k * BLOCK..];
            let tails = self.tails.get(&prefix).into_iter().flatten();
            found.tails.extend(tails.filter_map(|name| self.tail(name, root, rest, k * BLOCK)));
            let Some(block) = rest.get(..BLOCK) else { break };
            prefix = prefix.then(block);
            let is_there = |entry: &Entry| entry.root == root && entry.n_tokens as usize == (k + 1) * BLOCK;
            if !self.entries.get(&prefix).is_some_and(is_there) {
                break;
            }
            found.blocks.push(prefix);
        }
        found.tails.sort_by_key(|tail| Reverse(tail.n_tokens));
        found
    }

    /// The tail, if the tokens after the first `n_before` go on as it does.
    fn tail(&self, name: &Name, root: Name, rest: &[u32], n_before: usize) -> Option<Tail> {
        let entry = self.entries.get(name)?;
        let n_tokens = n_before + entry.ids.len();
        let fits = entry.root == root && entry.n_tokens as usize == n_tokens && rest.starts_with(&entry.ids);
        fits.then_some(Tail { name: *name, n_tokens, has_logits: entry.has_logits })
    }

    /// What is in memory only and should be on disk at the end, parents first: all but tails that a longer one continues.
    pub(crate) fn unsaved(&self, lasting_from: Lasting) -> Vec<Name> {
        let above = self.above_tails();
        let mut all: Vec<_> = self.entries.iter().collect();
        all.retain(|(name, entry)| {
            let wanted = entry.on_disk == OnDisk::No && entry.lasting >= lasting_from;
            wanted && (entry.lasting == Lasting::Soon || !self.is_continued(name, entry, &above))
        });
        all.sort_by_key(|(_, entry)| (entry.n_tokens, entry.used));
        all.into_iter().map(|(name, _)| *name).collect()
    }

    /// For each prefix, the rows that hang from it and lead to a tail.
    fn above_tails(&self) -> HashMap<Name, Vec<Name>> {
        let mut above: HashMap<Name, Vec<Name>> = HashMap::new();
        let mut seen = HashSet::new();
        for mut at in self.tails.keys() {
            while let Some(entry) = self.entries.get(at).filter(|_| seen.insert(*at)) {
                above.entry(entry.parent).or_default().push(*at);
                at = &entry.parent;
            }
        }
        above
    }

    /// Whether it is a tail with whose tokens a longer tail begins: one beside it, or below rows beside it.
    fn is_continued(&self, name: &Name, entry: &Entry, above: &HashMap<Name, Vec<Name>>) -> bool {
        let beside = [&self.tails, above].into_iter().filter_map(|map| map.get(&entry.parent)).flatten();
        let mut others = beside.filter(|other| *other != name).filter_map(|other| self.entries.get(other));
        let goes_on = |other: &Entry| other.n_tokens > entry.n_tokens && other.ids.starts_with(&entry.ids);
        entry.kind == Kind::Tail && others.any(goes_on)
    }

    /// Who should leave a place so that there is room, and whether that is enough. Where it is for a piece's sake, nobody
    /// leaves who is worth more than it.
    pub(crate) fn victims(&self, place: Place, need: Need, favour: Option<&Name>, now_ms: u64) -> (Vec<Name>, bool) {
        let (mut victims, mut bytes) = (Vec::new(), 0);
        if need.is_nothing() {
            return (victims, true);
        }
        let mut leaving = Leaving::new(self, place, now_ms);
        let rank_max = favour.and_then(|name| self.get(name)).map(|entry| leaving.worth.of(entry));
        while let Some((name, _)) = leaving.next().filter(|(_, rank)| rank_max.is_none_or(|max| *rank < max)) {
            let with_it = bytes + self.get(&name).map_or(0, |entry| place.bytes(entry));
            if bytes >= need.bytes && with_it > need.bytes_max {
                break;
            }
            bytes = with_it;
            victims.push(name);
        }
        (victims, bytes >= need.bytes)
    }

    /// The piece in memory and on disk that was used longest ago.
    pub(crate) fn oldest_copy(&self) -> Option<Name> {
        self.copies.first().map(|(_, name)| *name)
    }
}

/// How many bytes have to leave, and how many may so that not every piece has victims looked for: that takes a look at all.
pub(crate) struct Need {
    bytes: u64,
    bytes_max: u64,
}

impl Need {
    /// The bytes of a place beyond its bound, and up to a sixteenth of this more.
    pub(crate) fn beyond(bound_bytes: u64, bytes: u64) -> Need {
        let bytes = bytes.saturating_sub(bound_bytes);
        Need { bytes, bytes_max: bytes.saturating_add(bound_bytes / 16) }
    }

    pub(crate) fn is_nothing(&self) -> bool {
        self.bytes == 0
    }
}

/// From where pieces go for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Memory, if they have no file.
    Ram,
    /// The folder, and then memory, too.
    Disk,
}

impl Place {
    fn may_go(self, entry: &Entry) -> bool {
        match self {
            Place::Ram => entry.on_disk == OnDisk::No,
            Place::Disk => entry.on_disk == OnDisk::Yes,
        }
    }

    /// Whether who hangs from a piece holds it there. What has a file while its parent has none was an orphan before.
    fn holds(self, entry: &Entry) -> bool {
        self == Place::Disk || entry.on_disk != OnDisk::Yes
    }

    fn bytes(self, entry: &Entry) -> u64 {
        match self {
            Place::Ram => entry.ram.as_ref().map_or(0, |piece| piece.n_bytes()),
            Place::Disk => entry.file_bytes,
        }
    }
}

impl Totals {
    fn add(&mut self, entry: &Entry) {
        self.count(entry, u64::checked_add);
    }

    fn take(&mut self, entry: &Entry) {
        self.count(entry, u64::checked_sub);
    }

    fn count(&mut self, entry: &Entry, count: fn(u64, u64) -> Option<u64>) {
        let change = |total: &mut u64, by: u64| *total = count(*total, by).expect("what is taken was added before");
        if let Some(piece) = &entry.ram {
            change(&mut self.n_ram, 1);
            change(&mut self.ram_bytes, piece.n_bytes());
            if entry.on_disk != OnDisk::Yes {
                change(&mut self.unsaved_bytes, piece.n_bytes());
            }
        }
        if entry.on_disk != OnDisk::No {
            change(&mut self.n_disk, u64::from(entry.on_disk == OnDisk::Yes));
            change(&mut self.disk_bytes, entry.file_bytes);
        }
    }
}

/// What pieces are worth, at one moment.
struct Worth<'a> {
    index: &'a Index,
    now_ms: u64,
    /// For a prefix, how many of its tokens the tails on its chain cover; `None` behind a hole.
    reached: HashMap<Name, Option<u32>>,
    /// Tokens of the tails that hang from a prefix, ascending.
    lengths: HashMap<Name, Vec<u32>>,
}

/// Tokens per byte, whose bits are in the order of what they mean since there are no negative ones, and the order of uses
/// where these are equal: never of two pieces the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(u64, u64);

impl Worth<'_> {
    fn of(&mut self, entry: &Entry) -> Rank {
        let per_byte = f64::from(self.tokens(entry)) / entry.file_bytes.max(1) as f64;
        Rank(((entry.heat.at(self.now_ms) + 1.0) * per_byte).to_bits(), entry.used)
    }

    /// How many tokens would have to be computed again without it.
    fn tokens(&mut self, entry: &Entry) -> u32 {
        if entry.n_tokens == 0 || self.reached(entry.parent, entry.root).is_none() {
            return 0;
        }
        match entry.kind {
            Kind::Rows => BLOCK as u32,
            // Tails further up count whether or not their own tokens are on this chain: most are.
            Kind::Tail => {
                let above = self.index.get(&entry.parent).and_then(|rows| self.reached(rows.parent, entry.root));
                let known = above.unwrap_or(0).max(self.longest_tail(&entry.parent, entry.n_tokens));
                // Where files say what cannot be.
                entry.n_tokens.saturating_sub(known)
            }
        }
    }

    /// The most tokens below `n_tokens` of a tail that hangs from a prefix.
    fn longest_tail(&mut self, prefix: &Name, n_tokens: u32) -> u32 {
        let lengths = self.lengths.entry(*prefix).or_insert_with(|| {
            let tails = self.index.tails.get(prefix).into_iter().flatten();
            let mut lengths: Vec<_> = tails.filter_map(|tail| self.index.get(tail)).map(|tail| tail.n_tokens).collect();
            lengths.sort_unstable();
            lengths
        });
        let shorter = lengths.partition_point(|&n| n < n_tokens);
        lengths[..shorter].last().copied().unwrap_or(0)
    }

    fn reached(&mut self, prefix: Name, root: Name) -> Option<u32> {
        let (mut path, mut at) = (Vec::new(), prefix);
        let mut reached = loop {
            if let Some(known) = self.reached.get(&at) {
                break *known;
            }
            path.push(at);
            match self.index.get(&at) {
                Some(entry) => at = entry.parent,
                None => break (at == root).then_some(0),
            }
        };
        for name in path.into_iter().rev() {
            reached = reached.map(|n| n.max(self.longest_tail(&name, u32::MAX)));
            self.reached.insert(name, reached);
        }
        reached
    }
}

/// Leaves of a place, the least worth first. Who was taken counts as gone.
struct Leaving<'a> {
    index: &'a Index,
    worth: Worth<'a>,
    place: Place,
    /// How many pieces hang from each.
    n_below: HashMap<Name, u32>,
    leaves: BinaryHeap<Reverse<(Rank, Name)>>,
}

impl<'a> Leaving<'a> {
    fn new(index: &'a Index, place: Place, now_ms: u64) -> Leaving<'a> {
        let mut n_below: HashMap<Name, u32> = HashMap::new();
        let holding = index.entries.values().filter(|entry| place.holds(entry));
        holding.for_each(|entry| *n_below.entry(entry.parent).or_default() += 1);
        let worth = Worth { index, now_ms, reached: HashMap::new(), lengths: HashMap::new() };
        let mut leaving = Leaving { index, worth, place, n_below, leaves: BinaryHeap::new() };
        index.entries.keys().for_each(|name| leaving.push(*name));
        leaving
    }

    /// Adds a piece, if it may go and is a leaf.
    fn push(&mut self, name: Name) {
        let Some(entry) = self.index.get(&name) else { return };
        if self.place.may_go(entry) && self.n_below.get(&name).is_none_or(|n| *n == 0) {
            self.leaves.push(Reverse((self.worth.of(entry), name)));
        }
    }

    fn next(&mut self) -> Option<(Name, Rank)> {
        let Reverse((rank, name)) = self.leaves.pop()?;
        let parent = self.index.get(&name)?.parent;
        if let Some(n) = self.n_below.get_mut(&parent) {
            *n -= 1;
            self.push(parent);
        }
        Some((name, rank))
    }
}
