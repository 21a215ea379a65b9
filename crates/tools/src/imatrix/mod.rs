//! Importance: how large the inputs of each matrix are, column by column, as a corpus showed it. Whoever quantises the
//! matrix spends its bits where the inputs are large.
//!
//! ```text
//! y[o] = sum_i w[o, i] x[i]        an error d[o, i] of the weights costs, on average, sum_i d[o, i]^2 E[x[i]^2]
//! sums[i] = sum_t x[t, i]^2        over the rows t that met the matrix; of experts, one after another
//! counts[e]                        how many rows those were, E[x[i]^2] = sums[i] / counts
//! ```
//!
//! Two formats hold this, told apart by their first bytes: GGUF (`container.rs`), which keeps sums and counts, and the older
//! one of `.dat` files (`legacy.rs`), which keeps means and one count for all experts together.
//!
//! | file | holds |
//! |---|---|
//! | `entry.rs` | what is known of one matrix |
//! | `sums.rs` | its numbers, in memory or in their file |
//! | `container.rs`, `legacy.rs` | the formats |
//! | `collect.rs` | sums while a model runs |
//! | `corpus.rs` | what it reads |
//! | `coverage.rs` | experts that the corpus rarely or never met |
//! | `error.rs` | what can be wrong with files |
//!
//! Source: `tools/imatrix/imatrix.cpp` and `common/imatrix-loader.cpp` in llama.cpp; `imatrix_find` in the
//! quantiser of antirez's DS4.

mod collect;
mod container;
pub mod corpus;
mod coverage;
mod entry;
mod error;
mod legacy;
mod sums;

use std::{collections::BTreeMap, fs::File, io::Read as _, path::Path};

pub use collect::{Collect, Collector};
pub use coverage::Coverage;
pub use entry::{Entry, Importance};
pub use error::Error;

/// Tokens of a chunk where nobody says: what llama.cpp takes.
pub const CHUNK_SIZE: u32 = 512;

/// Matrices whose rows each meet one of several parts of the input, in names of tensors. What each part is multiplied with counts for
/// the same columns.
const GROUPED: [&str; 1] = ["attn_output_a.weight"];

fn is_grouped(name: &str) -> bool {
    GROUPED.iter().any(|end| name.ends_with(end))
}

/// What of an entry is about a matrix.
enum Part {
    /// One of so many equal parts.
    Of([usize; 2]),
    /// All groups of columns together.
    Groups,
}

/// How rows count that an expert's `down` matrix meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// As the product sees them: times the weight that the router gives the expert. What antirez's DS4 collects.
    Weighted,
    /// All alike, which is what llama.cpp collects, as it weighs after the product.
    Alike,
}

/// What a corpus showed of a model's matrices.
#[derive(Clone, Debug, PartialEq)]
pub struct Imatrix {
    /// What is known of each, by the tensor's name.
    pub entries: BTreeMap<String, Entry>,
    /// Names of the texts.
    pub datasets: Vec<String>,
    /// Chunks that the texts were cut into.
    pub chunk_count: u32,
    /// Tokens of each; at least one.
    pub chunk_size: u32,
    /// How rows of `down` count, where the file says.
    pub down: Option<Rows>,
}

impl Imatrix {
    /// Nothing known, of chunks of so many tokens.
    ///
    /// # Panics
    /// If that is none.
    pub fn new(chunk_size: u32) -> Imatrix {
        assert!(chunk_size > 0, "chunks have tokens");
        Imatrix { entries: BTreeMap::new(), datasets: Vec::new(), chunk_count: 0, chunk_size, down: None }
    }

    /// Reads a file of either format. Sums stay in it until they are asked for, so it must stay as it is.
    ///
    /// # Errors
    /// What is wrong with it, and with which of its entries.
    pub fn read(path: &Path) -> Result<Imatrix, Error> {
        let io = |source| Error::Io { path: path.into(), source };
        let mut first = Vec::new();
        if std::fs::metadata(path).map_err(io)?.is_file() {
            File::open(path).map_err(io)?.take(4).read_to_end(&mut first).map_err(io)?;
        }
        if first == b"GGUF" { container::read(path) } else { legacy::read(path) }
    }

    /// Adds what another corpus, or another part of it, showed: sums and counts add up, so each file weighs as many rows
    /// as it counted. A legacy file counts chunks only, which are taken for [`CHUNK_SIZE`] tokens (those of antirez's DS4 say 1,
    /// whatever they saw), and gives all experts that count but those whose columns are all 1, which stands for none.
    ///
    /// # Errors
    /// If no tensor is in both, one has other lengths there, or rows of `down` count in another way. Some entries may be added then.
    pub fn merge(&mut self, other: Imatrix) -> Result<(), Error> {
        if let (Some(one), Some(two)) = (self.entries.keys().next(), other.entries.keys().next())
            && !self.entries.keys().any(|name| other.entries.contains_key(name))
        {
            return Err(Error::Unrelated { one: one.clone(), other: two.clone() });
        }
        if self.is_empty() {
            self.chunk_size = other.chunk_size;
        }
        self.down = match (self.is_empty(), other.is_empty()) {
            (true, _) => other.down.or(self.down),
            (_, true) => self.down,
            _ => Rows::common(self.down, other.down)?,
        };
        for (name, mut entry) in other.entries {
            match self.entries.get_mut(&name) {
                Some(mine) => {
                    if is_grouped(&name) {
                        let n_cols = mine.n_sums().min(entry.n_sums());
                        (*mine, entry) = (mine.fold(n_cols), entry.fold(n_cols));
                    }
                    mine.add(entry).map_err(|why| Error::Merge { entry: name, why })?;
                }
                None => _ = self.entries.insert(name, entry),
            }
        }
        let tokens = |count: u32, size: u32| u64::from(count) * u64::from(size);
        let all = tokens(self.chunk_count, self.chunk_size).saturating_add(tokens(other.chunk_count, other.chunk_size));
        self.chunk_count = u32::try_from(all.div_ceil(self.chunk_size.into())).unwrap_or(u32::MAX);
        self.datasets.extend(other.datasets);
        Ok(())
    }

    /// Bytes of all sums and counts in a file.
    pub fn data_bytes(&self) -> u64 {
        self.entries.values().map(|entry| 4 * (entry.n_sums() + entry.counts().len()) as u64).sum()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The importance of a tensor's columns, for a matrix `of` so many: `[expert, n_experts]`, 0 of 1 where there are none. It is
    /// looked for under `NAME.expert.E`, `NAME.expert_E`, and as the expert's part of what `NAME` has, or as all that `NAME` has. None if
    /// there is nothing under any of these names. Nothing is known either where [`Importance::count`] is 0.
    ///
    /// # Errors
    /// If what is there has another length, or its file was written to since it was read.
    pub fn importance(&self, name: &str, n_cols: usize, of: [usize; 2]) -> Result<Option<Importance>, Error> {
        let Some((entry, part)) = self.find(name, n_cols, of)? else { return Ok(None) };
        let known = match part {
            Part::Of([i, n]) => entry.part(i, n),
            Part::Groups => entry.fold(n_cols).part(0, 1),
        };
        entry.check_unchanged()?;
        Ok(Some(known))
    }

    /// Whether [`Imatrix::importance`] is there. No sums are read.
    ///
    /// # Errors
    /// If what is there has another length.
    pub fn has(&self, name: &str, n_cols: usize, of: [usize; 2]) -> Result<bool, Error> {
        Ok(self.find(name, n_cols, of)?.is_some())
    }

    /// The entry for a matrix, and which part of it that is.
    fn find(
        &self,
        name: &str,
        n_cols: usize,
        [expert, n_experts]: [usize; 2],
    ) -> Result<Option<(&Entry, Part)>, Error> {
        let own = [format!("{name}.expert.{expert}"), format!("{name}.expert_{expert}")];
        let own = own.iter().find_map(|name| self.entries.get_key_value(name));
        let Some((name, entry)) = own.or_else(|| self.entries.get_key_value(name)) else { return Ok(None) };
        let found = entry.n_sums();
        let n = found.checked_div(n_cols).filter(|n| n * n_cols == found);
        let i = if n == Some(1) { 0 } else { expert };
        match n {
            Some(n) if is_grouped(name) && entry.has_parts(n) => Ok(Some((entry, Part::Groups))),
            Some(n) if entry.has_parts(n) && (n == 1 || own.is_none() && n == n_experts) => {
                Ok(Some((entry, Part::Of([i, n]))))
            }
            _ => Err(Error::Length { entry: name.clone(), found, n_cols, n_experts }),
        }
    }

    /// The experts that the corpus rarely or never met, of each tensor that counts them apart, by name.
    pub fn coverage(&self) -> impl Iterator<Item = (&str, Coverage)> {
        self.entries.iter().filter_map(|(name, entry)| Some((name.as_str(), Coverage::of(entry)?)))
    }
}

impl Rows {
    /// What both say; nothing where one does not.
    fn common(a: Option<Rows>, b: Option<Rows>) -> Result<Option<Rows>, Error> {
        match (a, b) {
            (Some(a), Some(b)) if a != b => Err(Error::Rows),
            (Some(a), Some(_)) => Ok(Some(a)),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
