//! Traces of routes: which experts every row of every batch chose, layer by layer, as text.
//!
//! ```text
//! # routes 1 n_layer=8 n_expert=256 n_used=6 expert_bytes=7077888
//! batch,layer,row,experts
//! 0,0,0,17 201 4 90 33 8          batch 0, layer 0, its first row: the experts that it chose
//! 0,0,1,4 17 9 11 250 3
//! 0,1,0,...                       the next layer of the same batch
//! ```
//!
//! A batch is one pass of the model over some rows: one row where it decodes, many where it reads a prompt.
//! `docs/formats/routes.md` describes every byte.
//!
//! | file | holds |
//! |---|---|
//! | `writer.rs` | what a running model writes with |
//! | `reader.rs` | what reads a stranger's file, batch by batch |
//! | `synth.rs` | traces that are made up |

mod reader;
pub mod synth;
mod writer;

use std::{
    fmt::{self, Write as _},
    io::{self, BufRead},
};

pub use reader::Reader;
pub use writer::Writer;

/// The names of the columns, as in the file.
const COLUMNS: &str = "batch,layer,row,experts";

/// The most experts of all layers together, several times what any model has: the size of every table that a trace asks
/// for.
const KEYS_MAX: usize = 1 << 20;

/// The most experts that a row chooses: such a line is no longer than a reader takes.
const USED_MAX: usize = 1 << 16;

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{source}")]
    Io {
        /// Why.
        #[from]
        source: io::Error,
    },

    /// A line is not as it should be.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
}

/// What holds for a whole trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Layers with experts.
    pub n_layer: usize,
    /// Experts of a layer.
    pub n_expert: usize,
    /// Experts that a row chooses in a layer, all different.
    pub n_used: usize,
    /// What is read for an expert; the mean, where layers differ.
    pub expert_bytes: u64,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Head { n_layer, n_expert, n_used, .. } = self;
        write!(f, "{n_layer} layers of {n_expert} experts, {n_used} per token")
    }
}

impl Head {
    /// Experts of all layers.
    pub fn n_experts(&self) -> usize {
        self.n_layer * self.n_expert
    }

    /// Whether a model may have such numbers.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), String> {
        let Head { n_layer, n_expert, n_used, expert_bytes } = *self;
        let too_many = n_layer.checked_mul(n_expert).is_none_or(|n| n > KEYS_MAX);
        match () {
            () if n_layer == 0 || n_expert == 0 || n_used == 0 || expert_bytes == 0 => {
                Err("n_layer, n_expert, n_used and expert_bytes must be at least 1".into())
            }
            () if too_many => Err(format!("{n_layer} layers of {n_expert} experts are more than {KEYS_MAX} experts")),
            () if n_used > USED_MAX => Err(format!("n_used={n_used} is more than {USED_MAX}")),
            () if n_used > n_expert => Err(format!("n_used={n_used} is more than n_expert={n_expert}")),
            () => Ok(()),
        }
    }

    /// The lines that begin a file.
    pub fn lines(&self) -> String {
        let Head { n_layer, n_expert, n_used, expert_bytes } = *self;
        format!(
            "# routes 1 n_layer={n_layer} n_expert={n_expert} n_used={n_used} expert_bytes={expert_bytes}\n{COLUMNS}\n"
        )
    }
}

/// What the rows of a batch chose in one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Index among the layers that have experts.
    pub layer: usize,
    /// Rows that went through it.
    pub n_rows: usize,
    /// `[n_rows, n_used]`
    pub choices: Vec<i32>,
}

impl Layer {
    /// Its lines in a file.
    pub fn lines(&self, batch: u64) -> String {
        let mut lines = String::new();
        write_lines(&mut lines, batch, self.layer, &self.choices, self.choices.len() / self.n_rows.max(1));
        lines
    }
}

/// Appends a line for every row of a layer.
fn write_lines(lines: &mut String, batch: u64, layer: usize, choices: &[i32], n_used: usize) {
    for (row, chosen) in choices.chunks(n_used.max(1)).enumerate() {
        let _ = write!(lines, "{batch},{layer},{row},{}", chosen[0]);
        chosen[1..].iter().for_each(|e| {
            let _ = write!(lines, " {e}");
        });
        lines.push('\n');
    }
}

/// One pass over some rows: layers, ascending, at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Those that the pass went through.
    pub layers: Vec<Layer>,
}

impl Batch {
    /// Rows that went through the layer with most.
    pub fn n_rows(&self) -> usize {
        self.layers.iter().map(|l| l.n_rows).max().unwrap_or(0)
    }
}

/// A whole trace in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What holds for all of it.
    pub head: Head,
    /// In the order in which they were computed, at least one.
    pub batches: Vec<Batch>,
}

impl Trace {
    /// Reads all of it.
    ///
    /// # Errors
    /// [`Error`], also if there is no batch.
    pub fn read(input: impl BufRead) -> Result<Trace, Error> {
        let mut reader = Reader::new(input)?;
        let batches = reader.by_ref().collect::<Result<Vec<_>, _>>()?;
        match batches.is_empty() {
            true => Err(reader.fails("the trace ends before the first choice".into())),
            false => Ok(Trace { head: reader.head(), batches }),
        }
    }
}
