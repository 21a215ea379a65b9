//! Sessions' memory in pieces that outlive them: cut out of the runner's caches, and put back.
//!
//! ```text
//! Rows of a block   cut when its last token is computed; on disk soon
//! Tail              cut where one may want to go on: with blocks, behind a prompt, before a slot is given to other tokens,
//!                   at the end; on disk only if nobody goes on from there, and every so often on the way
//! ```
//!
//! A tail holds what the family's frontier needs, and that is as much as a thousand tokens' rows or more for DeepSeek V4. So
//! those that are written on the way are as far apart as keeps them at an eighth of the rows' bytes; where the tokens between
//! cost more than a minute, nearer.

use compute::{Device, DeviceError, Kind};
use kv::{BLOCK, Blob, Lasting, Name, Piece, Store};
use models::{CachePart, Model, StateOptions};

use crate::{Error, engine::Inner, runner::Runner, written::Written};

/// Rows' bytes per byte of the tails on the way.
const TAIL_PART: usize = 8;

/// The same for a tail behind a prompt.
const PROMPT_PART: usize = 4;

/// Counts up whenever kernels, or what is kept, change so that another number comes out: what was kept before is then not
/// what an uninterrupted session holds. The goldens of `tests/golden.rs` that change tell when.
const VERSION: u32 = 1;

/// Tokens after which every family's memory has all that it ever has.
const N_FULL: usize = 1 << 12;

const LOGITS: &str = "logits";

/// The store of a model's pieces.
pub(crate) struct Pieces {
    pub(crate) store: Store,
    pub(crate) layout: Layout,
    /// Who counts the bytes that are written, if any are.
    written: Option<Written>,
}

/// How a model's memory looks in pieces.
pub(crate) struct Layout {
    /// Whether more than rows is needed to go on.
    pub(crate) has_frontier: bool,
    /// Tokens from one tail on the way to the next: whole blocks.
    pub(crate) n_between: usize,
    /// Bytes of a token's rows, and of what a tail has beside them.
    row_bytes: usize,
    beside_bytes: usize,
    /// All that bytes of one run must have in common with those of another, to be the same.
    pub(crate) text: String,
}

impl Layout {
    /// The layout of a model's memory, computed by `isa`.
    pub(crate) fn new(model: &dyn Model, options: &StateOptions, isa: &str) -> Result<Layout, DeviceError> {
        // Any context that has a full window of everything looks alike.
        let options = StateOptions { n_ctx: N_FULL, n_slot: 1, ..*options };
        let state = model.state(&compute::Meter::default(), &options, &experts::Routing::default())?;
        let (rows, frontier) = (state.rows(0, 0..BLOCK), state.frontier(0, N_FULL));
        // A model without full attention has no rows that grow.
        let n_blocks = (TAIL_PART * n_bytes(&frontier)).div_ceil(n_bytes(&rows).max(1)).max(1);
        let names = rows.iter().chain(&frontier).map(|part| format!("{}x{}", label(part.kind()), part.cols()));
        let text = format!("{VERSION} {isa} {}", names.collect::<Vec<_>>().join(" "));
        Ok(Layout {
            has_frontier: !frontier.is_empty(),
            n_between: n_blocks * BLOCK,
            row_bytes: n_bytes(&rows) / BLOCK,
            beside_bytes: n_bytes(&frontier) + size_of::<f32>() * model.shape().n_vocab,
            text,
        })
    }

    /// Whether a tail behind `n` tokens takes little beside the rows of the last `n_computed` of them.
    pub(crate) fn is_little(&self, n: usize, n_computed: usize) -> bool {
        let tail_bytes = self.beside_bytes + n % BLOCK * self.row_bytes;
        PROMPT_PART * tail_bytes <= n_computed * self.row_bytes
    }
}

impl Pieces {
    pub(crate) fn new(store: Store, layout: Layout, written: Option<Written>) -> Pieces {
        Pieces { store, layout, written }
    }

    /// Keeps a piece, and returns at once.
    pub(crate) fn keep(&self, piece: Piece, lasting: Lasting) {
        self.store.keep(piece, lasting);
        self.written.iter().for_each(|written| written.count(self.store.stats().written_bytes));
    }
}

/// A slot of the runner's memory.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) engine: &'a Inner,
    pub(crate) slot: u32,
}

impl Place<'_> {
    /// The rows of the block that ends `ids`.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub(crate) fn cut_rows(self, runner: &Runner, parent: Name, ids: &[u32]) -> Result<Piece, Error> {
        let (n, first) = (ids.len(), ids.len() - BLOCK);
        let mut piece = Piece::rows(parent, n, &ids[first..]);
        let parts = runner.state.rows(self.slot as usize, first..n);
        piece.reserve(n_bytes(&parts));
        cut(&*self.engine.dev, &mut piece, &parts)?;
        Ok(piece)
    }

    /// What is needed behind all of `ids` beside the rows of whole blocks, and the logits there if they are known.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub(crate) fn cut_tail(self, runner: &Runner, parent: Name, ids: &[u32], logits: &[f32]) -> Result<Piece, Error> {
        let n = ids.len();
        let mut piece = Piece::tail(parent, n, &ids[n / BLOCK * BLOCK..]);
        let parts = self.tail_parts(runner, n);
        piece.reserve(n_bytes(&parts) + size_of_val(logits));
        cut(&*self.engine.dev, &mut piece, &parts)?;
        if logits.is_empty() {
            return Ok(piece);
        }
        piece.push_with(LOGITS, 1, logits.len(), size_of_val(logits), |to| {
            to.as_chunks_mut().0.iter_mut().zip(logits).for_each(|(to, v)| *to = v.to_le_bytes());
        });
        Ok(piece.with_logits())
    }

    /// Puts the rows of the block back that begins at position `first`; false if they are not what this memory holds.
    pub(crate) fn put_rows(self, runner: &Runner, first: usize, piece: &Piece) -> bool {
        let parts = runner.state.rows(self.slot as usize, first..first + BLOCK);
        put(&*self.engine.dev, &parts, &piece.blobs().collect::<Vec<_>>())
    }

    /// Puts the tail behind `n` tokens back, and its logits if it has them into `logits`; false if it is not what this
    /// memory holds.
    pub(crate) fn put_tail(self, runner: &Runner, n: usize, piece: &Piece, logits: &mut Vec<f32>) -> bool {
        let mut blobs: Vec<Blob> = piece.blobs().collect();
        logits.clear();
        if piece.has_logits() {
            let n_bytes = self.engine.model.shape().n_vocab * size_of::<f32>();
            match blobs.pop() {
                Some(b) if b.label == LOGITS && b.bytes.len() == n_bytes => {
                    logits.extend(b.bytes.as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)));
                }
                _ => return false,
            }
        }
        put(&*self.engine.dev, &self.tail_parts(runner, n), &blobs)
    }

    /// What a tail behind `n` tokens holds: rows since the last whole block, and the frontier.
    fn tail_parts(self, runner: &Runner, n: usize) -> Vec<CachePart> {
        let mut parts = runner.state.rows(self.slot as usize, n / BLOCK * BLOCK..n);
        parts.extend(runner.state.frontier(self.slot as usize, n));
        parts
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.store.flush();
        self.written.iter().for_each(|written| written.finish(self.store.stats().written_bytes));
    }
}

fn n_bytes(parts: &[CachePart]) -> usize {
    parts.iter().map(CachePart::n_bytes).sum()
}

/// Copies parts of the memory into a piece.
fn cut(dev: &dyn Device, piece: &mut Piece, parts: &[CachePart]) -> Result<(), DeviceError> {
    for part in parts {
        let mut done = Ok(());
        piece.push_with(&label(part.kind()), part.rows(), part.cols(), part.n_bytes(), |mut to| {
            for view in part.views() {
                let (own, rest) = to.split_at_mut(view.byte_range().len());
                done = std::mem::replace(&mut done, Ok(())).and_then(|()| dev.read(view, own));
                to = rest;
            }
        });
        done?;
    }
    Ok(())
}

/// Copies a piece's blobs into parts of the memory, if they are alike.
fn put(dev: &dyn Device, parts: &[CachePart], blobs: &[Blob]) -> bool {
    let alike = |(part, blob): (&CachePart, &Blob)| {
        (label(part.kind()).as_str(), part.rows(), part.cols(), part.n_bytes())
            == (blob.label, blob.rows as usize, blob.cols as usize, blob.bytes.len())
    };
    if parts.len() != blobs.len() || !parts.iter().zip(blobs).all(alike) {
        return false;
    }
    for (part, blob) in parts.iter().zip(blobs) {
        let mut rest = blob.bytes;
        for view in part.views() {
            let (own, others) = rest.split_at(view.byte_range().len());
            dev.write(view, own);
            rest = others;
        }
    }
    true
}

/// What a kind of element is called in pieces.
fn label(kind: Kind) -> String {
    use quant::RowFormat::{F16, F32, Fp4, Fp8};
    match kind {
        Kind::Cached(F32) => "f32".into(),
        Kind::Cached(F16) => "f16".into(),
        Kind::Cached(Fp4) => "fp4".into(),
        Kind::Cached(Fp8 { n_rope }) => format!("fp8+{n_rope}"),
        Kind::Packed(_) | Kind::I32 => unreachable!("caches hold rows"),
    }
}
