//! The work itself: pieces are taken by threads in order, and tensors are complete in order.

use std::{
    ops::{ControlFlow, Range},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use gguf::Element;
use quant::Format;

use super::{
    Error, Guide, Plan,
    state::{Partial, Stamp, identity},
    wants_importance,
};
use crate::{Source, Weights};

/// Bytes after which complete tensors are made to last.
const LASTING: u64 = 256 << 20;
/// Weights from which a scale might not fit its format.
const LARGE: f32 = 16384.0;

/// How to write a file.
pub struct Options {
    /// Its name.
    pub path: PathBuf,
    /// Threads that pack.
    pub n_threads: usize,
    /// Whether it takes the place of one that is there.
    pub overwrite: bool,
}

/// How far the work is.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Weights that are packed, by this process or one before.
    pub n_weights: u64,
    /// Those of an earlier process.
    pub n_before: u64,
    /// All weights.
    pub n_all: u64,
}

/// Packs a source as planned, and tells `progress` how far it is, from several threads, until that breaks off.
///
/// # Errors
/// All of [`Error`] but those of [`Plan::new`]. What was done remains for the next run where [`Error::can_go_on`].
pub fn run<S: Source>(
    source: &S,
    plan: &Plan,
    guide: Option<&Guide>,
    options: &Options,
    progress: &(dyn Fn(Done) -> ControlFlow<()> + Sync),
) -> Result<(), Error> {
    if !options.overwrite && options.path.exists() {
        return Err(Error::Exists { path: options.path.clone() });
    }
    let stamps = source.files().iter().map(|path| Stamp::of(path)).collect::<Result<Vec<_>, _>>()?;
    let identity = identity(plan, &stamps, &guide.map(Guide::identity).unwrap_or_default());
    let (partial, n_complete) = Partial::begin(&options.path, plan, &identity)?;
    let job = Job::new(source, plan, guide, &partial, n_complete, progress);
    let done = job.run(options.n_threads).and_then(|()| unchanged(&stamps));
    match done {
        Ok(()) => partial.finish(),
        Err(error) if error.can_go_on() => {
            // What cannot be noted now is done again.
            let _ = partial.complete(job.course().n_complete);
            Err(error)
        }
        Err(error) => {
            partial.remove();
            Err(error)
        }
    }
}

fn unchanged(stamps: &[Stamp]) -> Result<(), Error> {
    match stamps.iter().find(|was| !Stamp::of(&was.path).is_ok_and(|is| is == **was)) {
        Some(stamp) => Err(Error::Changed { path: stamp.path.clone() }),
        None => Ok(()),
    }
}

/// Some rows of a matrix.
struct Piece {
    tensor: usize,
    matrix: usize,
    rows: Range<usize>, // of all of the tensor's
}

struct Job<'a, S> {
    source: &'a S,
    plan: &'a Plan,
    guide: Option<&'a Guide>,
    partial: &'a Partial,
    progress: &'a (dyn Fn(Done) -> ControlFlow<()> + Sync),
    pieces: Vec<Piece>,
    next: AtomicUsize,
    stopped: AtomicBool,
    course: Mutex<Course>,
}

/// What is finished.
struct Course {
    /// Pieces of each tensor that are not.
    n_left: Vec<usize>,
    /// Tensors before the first of which a piece is not.
    n_complete: usize,
    /// Bytes that might not outlast the machine.
    n_bytes: u64,
    done: Done,
    error: Option<Error>,
}

/// A thread's memory.
#[derive(Default)]
struct Scratch {
    values: Vec<f32>,
    importance: Vec<f32>,
    bytes: Vec<u8>,
    again: Vec<f32>,
}

impl<'a, S: Source> Job<'a, S> {
    fn new(
        source: &'a S,
        plan: &'a Plan,
        guide: Option<&'a Guide>,
        partial: &'a Partial,
        n_complete: usize,
        progress: &'a (dyn Fn(Done) -> ControlFlow<()> + Sync),
    ) -> Job<'a, S> {
        let weights = source.weights();
        let pieces: Vec<Piece> = (n_complete..weights.len()).flat_map(|i| pieces(&weights[i], plan, i)).collect();
        let mut n_left = vec![0; weights.len()];
        pieces.iter().for_each(|piece| n_left[piece.tensor] += 1);
        let count = |weights: &[Weights]| weights.iter().map(|w| (w.n_rows() * w.n_cols()) as u64).sum();
        let n_before = count(&weights[..n_complete]);
        let done = Done { n_weights: n_before, n_before, n_all: count(weights) };
        let course = Mutex::new(Course { n_left, n_complete, n_bytes: 0, done, error: None });
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        Job { source, plan, guide, partial, progress, pieces, next, stopped, course }
    }

    fn run(&self, n_threads: usize) -> Result<(), Error> {
        std::thread::scope(|scope| {
            (1..n_threads).for_each(|_| _ = scope.spawn(|| self.work()));
            self.work();
        });
        let error = self.course().error.take();
        error.map_or(Ok(()), Err)
    }

    fn work(&self) {
        let mut scratch = Scratch::default();
        while !self.stopped.load(Ordering::Relaxed) {
            let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = self.pack(piece, &mut scratch).and_then(|()| self.finished(piece)) {
                self.stopped.store(true, Ordering::Relaxed);
                self.course().error.get_or_insert(error);
            }
        }
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Packs and writes a piece, some rows at a time.
    fn pack(&self, piece: &Piece, scratch: &mut Scratch) -> Result<(), Error> {
        let (weights, to) = (&self.source.weights()[piece.tensor], self.plan.targets[piece.tensor].to);
        let n_cols = weights.n_cols();
        let importance = match to {
            Element::Packed(format) if weights.element != to => self.importance(piece, format, scratch)?,
            _ => None,
        };
        let row_bytes = to.row_bytes(n_cols).expect("planned rows are whole blocks");
        let step = weights.rows_at_a_time();
        for start in piece.rows.clone().step_by(step) {
            let rows = start..(start + step).min(piece.rows.end);
            scratch.bytes.resize(rows.len() * row_bytes, 0);
            self.pack_rows(piece.tensor, rows, importance.as_deref(), scratch)?;
            let at = self.plan.layout.range(piece.tensor).start + (start * row_bytes) as u64;
            self.partial.write(&scratch.bytes, at)?;
            self.tell(&scratch.bytes, n_cols * scratch.bytes.len() / row_bytes)?;
        }
        Ok(())
    }

    /// Packs rows into the scratch bytes, which are as many as that takes.
    fn pack_rows(
        &self,
        i: usize,
        rows: Range<usize>,
        importance: Option<&[f32]>,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        let (weights, to) = (&self.source.weights()[i], self.plan.targets[i].to);
        if weights.element == to {
            return self.copy_rows(i, rows, scratch);
        }
        self.read(i, rows.clone(), &mut scratch.values)?;
        let Scratch { values, importance: repeated, bytes, again } = scratch;
        let Element::Packed(format) = to else { unreachable!("whole numbers stay what they are") };
        let importance = importance.map(|one| {
            repeated.clear();
            rows.clone().for_each(|_| repeated.extend(one));
            repeated.as_slice()
        });
        format.encoder().expect("recipes name formats with encoders")(values, importance, bytes);
        fits(weights, rows.start, format, values, bytes, again)
    }

    /// Copies rows into the scratch bytes; weights have to be numbers there, too.
    fn copy_rows(&self, i: usize, rows: Range<usize>, scratch: &mut Scratch) -> Result<(), Error> {
        let weights = &self.source.weights()[i];
        let Scratch { values, bytes, .. } = scratch;
        self.source.read_bytes(i, rows.clone(), bytes).map_err(|e| Error::Source(Box::new(e)))?;
        let Element::Packed(format) = weights.element else { return Ok(()) };
        values.resize(rows.len() * weights.n_cols(), 0.0);
        format.decode(bytes, values);
        are_numbers(weights, rows.start, values)
    }

    /// Reads rows, which have to be numbers.
    fn read(&self, i: usize, rows: Range<usize>, values: &mut Vec<f32>) -> Result<(), Error> {
        let weights = &self.source.weights()[i];
        values.resize(rows.len() * weights.n_cols(), 0.0);
        self.source.read(i, rows.clone(), values).map_err(|e| Error::Source(Box::new(e)))?;
        are_numbers(weights, rows.start, values)
    }

    /// How much the columns of a piece's matrix matter.
    fn importance(&self, piece: &Piece, format: Format, scratch: &mut Scratch) -> Result<Option<Vec<f32>>, Error> {
        let weights = &self.source.weights()[piece.tensor];
        let known = self.guide.map_or(Ok(None), |g| g.importance(&weights.name, piece.matrix, weights.n_cols()))?;
        if known.is_some() || !wants_importance(format) {
            return Ok(known);
        }
        let mut sums = vec![0f64; weights.n_cols()];
        let step = weights.rows_at_a_time();
        for start in piece.rows.clone().step_by(step) {
            self.read(piece.tensor, start..(start + step).min(piece.rows.end), &mut scratch.values)?;
            for row in scratch.values.chunks_exact(weights.n_cols()) {
                sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
            }
        }
        Ok(Some(sums.into_iter().map(|sum| sum as f32).collect()))
    }

    fn tell(&self, written: &[u8], n_weights: usize) -> Result<(), Error> {
        let done = {
            let mut course = self.course();
            course.n_bytes += written.len() as u64;
            course.done.n_weights += n_weights as u64;
            course.done
        };
        match (self.progress)(done) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        }
    }

    fn finished(&self, piece: &Piece) -> Result<(), Error> {
        let mut course = self.course();
        course.n_left[piece.tensor] -= 1;
        let before = course.n_complete;
        while course.n_left.get(course.n_complete) == Some(&0) {
            course.n_complete += 1;
        }
        if course.n_complete > before && course.n_bytes >= LASTING {
            course.n_bytes = 0;
            self.partial.complete(course.n_complete)?;
        }
        Ok(())
    }
}

/// The pieces of a tensor. What may be guided by all of a matrix is read as a whole.
fn pieces(weights: &Weights, plan: &Plan, tensor: usize) -> Vec<Piece> {
    let n = weights.n_matrix_rows();
    let whole = matches!(plan.targets[tensor].to, Element::Packed(format) if wants_importance(format));
    let step = if whole { n } else { weights.rows_at_a_time() };
    let of_matrix = |matrix: usize| {
        let (first, end) = (matrix * n, (matrix + 1) * n);
        (first..end).step_by(step).map(move |start| Piece { tensor, matrix, rows: start..(start + step).min(end) })
    };
    (0..weights.n_rows() / n).flat_map(of_matrix).collect()
}

/// Checks rows of a tensor, from the row `first` on.
fn are_numbers(weights: &Weights, first: usize, values: &[f32]) -> Result<(), Error> {
    match values.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::NotFinite {
            tensor: weights.name.clone(),
            row: first + at / weights.n_cols(),
            column: at % weights.n_cols(),
            value: values[at],
        }),
    }
}

/// Checks that large weights came out as numbers.
fn fits(
    weights: &Weights,
    first: usize,
    format: Format,
    values: &[f32],
    bytes: &[u8],
    again: &mut Vec<f32>,
) -> Result<(), Error> {
    if values.iter().all(|x| x.abs() < LARGE) {
        return Ok(());
    }
    again.resize(values.len(), 0.0);
    format.decode(bytes, again);
    match again.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(at) => {
            let row = at / weights.n_cols();
            let of_row = &values[row * weights.n_cols()..][..weights.n_cols()];
            let value = of_row.iter().fold(0f32, |m, x| if x.abs() > m.abs() { *x } else { m });
            Err(Error::TooLarge { tensor: weights.name.clone(), row: first + row, value, format: format.name() })
        }
    }
}
