//! What a store holds, and what happened to it.

/// What a store holds now, and what it did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Pieces in memory.
    pub n_ram: u64,
    /// Bytes that they take.
    pub ram_bytes: u64,
    /// Pieces of any model in the folder.
    pub n_disk: u64,
    /// Bytes of all files there that count: pieces, and what is being written.
    pub disk_bytes: u64,
    /// Pieces that were loaded from memory.
    pub n_ram_hits: u64,
    /// Pieces that were loaded from the folder.
    pub n_disk_hits: u64,
    /// Bytes that were written to the folder, also in vain.
    pub written_bytes: u64,
    /// Pieces in the folder that were found broken, and not used.
    pub n_broken: u64,
    /// Pieces that were removed from the folder for better ones.
    pub n_evicted: u64,
    /// Pieces that left memory without being in the folder.
    pub n_dropped: u64,
    /// Pieces that a budget kept out of the folder.
    pub n_refused: u64,
}
