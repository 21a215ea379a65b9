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
use models::{CachePart, Model, State, StateOptions};

use crate::{Error, engine::Inner, runner::Runner, written::Written};

/// Rows' bytes per byte of the tails on the way.
const TAIL_PART: usize = 8;

const LOGITS: &str = "logits";

/// The store of a model's pieces.
pub(crate) struct Pieces {
    pub(crate) store: Store,
    /// Whether more than rows is needed to go on.
    pub(crate) has_frontier: bool,
    /// Tokens from one tail on the way to the next: whole blocks.
    pub(crate) n_between: usize,
    /// Who counts the bytes that are written, if any are.
    written: Option<Written>,
}

/// How a model's memory looks in pieces.
pub(crate) struct Layout {
    has_frontier: bool,
    n_between: usize,
    /// All that bytes of one run must have in common with those of another, to be the same.
    pub(crate) text: String,
}

impl Layout {
    /// The layout of a model's memory, computed by `isa`.
    pub(crate) fn new(model: &dyn Model, options: &StateOptions, isa: &str) -> Result<Layout, DeviceError> {
        // Any context that has a full window of everything looks alike.
        let options = StateOptions { n_ctx: PER_LAYOUT, n_slot: 1, ..*options };
        let state = model.state(&compute::Meter::default(), &options, &experts::Routing::default())?;
        let (rows, frontier) = (state.rows(0, 0..BLOCK), state.frontier(0, PER_LAYOUT));
        let bytes = |parts: &[CachePart]| parts.iter().map(CachePart::n_bytes).sum::<usize>();
        let n_blocks = (TAIL_PART * bytes(&frontier)).div_ceil(bytes(&rows)).max(1);
        let names = rows.iter().chain(&frontier).map(|part| format!("{}x{}", label(part.kind()), part.cols()));
        let text = format!("1 {isa} {}", names.collect::<Vec<_>>().join(" "));
        Ok(Layout { has_frontier: !frontier.is_empty(), n_between: n_blocks * BLOCK, text })
    }
}

/// Tokens after which every family's memory has all that it ever has.
const PER_LAYOUT: usize = 1 << 12;

impl Pieces {
    pub(crate) fn new(store: Store, layout: &Layout, written: Option<Written>) -> Pieces {
        Pieces { store, has_frontier: layout.has_frontier, n_between: layout.n_between, written }
    }

    /// Keeps a piece, and returns at once.
    pub(crate) fn keep(&self, piece: Piece, lasting: Lasting) {
        self.store.keep(piece, lasting);
        self.written.iter().for_each(|written| written.count(self.store.stats().written_bytes));
    }

    /// The rows of the block that ends `ids`.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub(crate) fn cut_rows(
        &self,
        engine: &Inner,
        runner: &Runner,
        slot: u32,
        parent: Name,
        ids: &[u32],
    ) -> Result<Piece, Error> {
        let (n, first) = (ids.len(), ids.len() - BLOCK);
        let mut piece = Piece::rows(parent, n, &ids[first..]);
        cut(&*engine.dev, &mut piece, &runner.state.rows(slot as usize, first..n))?;
        Ok(piece)
    }

    /// What is needed behind all of `ids` beside the rows of whole blocks, and the logits there if they are known.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub(crate) fn cut_tail(
        &self,
        engine: &Inner,
        runner: &Runner,
        slot: u32,
        parent: Name,
        ids: &[u32],
        logits: &[f32],
    ) -> Result<Piece, Error> {
        let (n, first) = (ids.len(), ids.len() / BLOCK * BLOCK);
        let mut piece = Piece::tail(parent, n, &ids[first..]);
        cut(&*engine.dev, &mut piece, &tail_parts(&*runner.state, slot, first, n))?;
        if logits.is_empty() {
            return Ok(piece);
        }
        piece.push(LOGITS, 1, logits.len(), &logits.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        Ok(piece.with_logits())
    }

    /// Puts the rows of a block back; false if they are not what this memory holds.
    pub(crate) fn put_rows(&self, engine: &Inner, runner: &Runner, slot: u32, piece: &Piece) -> bool {
        let n = piece.n_tokens();
        let parts = runner.state.rows(slot as usize, n - BLOCK..n);
        put(&*engine.dev, &parts, &piece.blobs().collect::<Vec<_>>())
    }

    /// Puts a tail back, and its logits if it has them into `logits`; false if it is not what this memory holds.
    pub(crate) fn put_tail(
        &self,
        engine: &Inner,
        runner: &Runner,
        slot: u32,
        piece: &Piece,
        logits: &mut Vec<f32>,
    ) -> bool {
        let (n, n_vocab) = (piece.n_tokens(), engine.model.shape().n_vocab);
        let mut blobs: Vec<Blob> = piece.blobs().collect();
        logits.clear();
        if piece.has_logits() {
            match blobs.pop() {
                Some(b) if b.label == LOGITS && b.bytes.len() == n_vocab * size_of::<f32>() => {
                    logits.extend(b.bytes.as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)));
                }
                _ => return false,
            }
        }
        put(&*engine.dev, &tail_parts(&*runner.state, slot, n / BLOCK * BLOCK, n), &blobs)
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.store.flush();
        self.written.iter().for_each(|written| written.finish(self.store.stats().written_bytes));
    }
}

/// What a tail behind `n` tokens holds, of which `first` end the last whole block.
fn tail_parts(state: &dyn State, slot: u32, first: usize, n: usize) -> Vec<CachePart> {
    let mut parts = state.rows(slot as usize, first..n);
    parts.extend(state.frontier(slot as usize, n));
    parts
}

/// Copies parts of the memory into a piece.
fn cut(dev: &dyn Device, piece: &mut Piece, parts: &[CachePart]) -> Result<(), DeviceError> {
    piece.reserve(parts.iter().map(CachePart::n_bytes).sum());
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
