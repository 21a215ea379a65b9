//! The work itself: pieces are taken by threads in order, and tensors are complete in order.

use std::{
    io,
    ops::{ControlFlow, Range},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use gguf::{Element, Stamp};
use quant::Format;

use super::{
    Error, Guide, Plan,
    state::{Partial, check_place, identity},
    wants_importance,
};
use crate::{Source, Weights, source::N_AT_A_TIME};

/// How to write a file.
pub struct Options {
    /// Its name.
    pub path: PathBuf,
    /// Threads that pack.
    pub n_threads: usize,
    /// Whether it takes the place of one that is there.
    pub overwrite: bool,
    /// How the work is cut.
    pub steps: Steps,
}

/// How work is cut; the bytes do not depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// Weights that are read, packed and written at a time, in whole rows.
    pub n_weights: usize,
    /// Bytes after which complete tensors are made to last.
    pub lasting_bytes: u64,
}

impl Default for Steps {
    fn default() -> Steps {
        Steps { n_weights: N_AT_A_TIME, lasting_bytes: 256 << 20 }
    }
}

/// How far the work is.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Weights that are packed, by this process or one before.
    pub n_weights: u64,
    /// Those of an earlier process.
    pub n_before: u64,
    /// Tensors of an earlier process.
    pub n_tensors_before: usize,
    /// All weights.
    pub n_all: u64,
}

/// Packs a source as planned, and tells `progress` how far it is, at the beginning and then from several threads, until that
/// breaks off.
///
/// # Errors
/// All of [`Error`] but what only [`Plan::new`] finds out. What was done remains for the next run where
/// [`Error::can_go_on`].
pub fn run<S: Source>(
    source: &S,
    plan: &Plan,
    guide: Option<&Guide>,
    options: &Options,
    progress: &(dyn Fn(Done) -> ControlFlow<()> + Sync),
) -> Result<(), Error> {
    check_place(&options.path, options.overwrite)?;
    let files = source.files();
    let identity = identity(plan, &files, &guide.map(Guide::identity).unwrap_or_default());
    let (partial, n_complete) = Partial::begin(&options.path, plan, &identity)?;
    let job = Job::new(source, plan, guide, options.steps, &partial, n_complete, progress);
    let done = job.run(options.n_threads).and_then(|()| unchanged(&files));
    match done {
        Ok(()) => partial.finish(plan.targets.len(), options.overwrite),
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

/// Checks that the paths lead to the files that were read, as they were when they were opened.
fn unchanged(files: &[(PathBuf, Stamp)]) -> Result<(), Error> {
    files.iter().try_for_each(|(path, was)| match Stamp::at(path) {
        Ok(is) if is == *was => Ok(()),
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::Source(Box::new(io::Error::new(e.kind(), format!("{}: {e}", path.display())))))
        }
        _ => Err(Error::Changed { path: path.clone() }),
    })
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
    steps: Steps,
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

impl Course {
    /// A piece of a tensor is finished; how many tensors are complete, where so many bytes are that they should last.
    fn finish(&mut self, tensor: usize, lasting_bytes: u64) -> Option<usize> {
        self.n_left[tensor] -= 1;
        let before = self.n_complete;
        while self.n_left.get(self.n_complete) == Some(&0) {
            self.n_complete += 1;
        }
        if self.n_complete == before || self.n_bytes < lasting_bytes {
            return None;
        }
        self.n_bytes = 0;
        Some(self.n_complete)
    }
}

/// A thread's memory.
#[derive(Default)]
struct Scratch {
    values: Vec<f32>,
    importance: Vec<f32>,
    bytes: Vec<u8>,
}

impl<'a, S: Source> Job<'a, S> {
    fn new(
        source: &'a S,
        plan: &'a Plan,
        guide: Option<&'a Guide>,
        steps: Steps,
        partial: &'a Partial,
        n_complete: usize,
        progress: &'a (dyn Fn(Done) -> ControlFlow<()> + Sync),
    ) -> Job<'a, S> {
        let weights = source.weights();
        let pieces_of = |i: usize| pieces(&weights[i], plan.targets[i].to, i, guide.is_some(), steps);
        let pieces: Vec<Piece> = (n_complete..weights.len()).flat_map(pieces_of).collect();
        let mut n_left = vec![0; weights.len()];
        pieces.iter().for_each(|piece| n_left[piece.tensor] += 1);
        let count = |weights: &[Weights]| weights.iter().map(|w| (w.n_rows() * w.n_cols()) as u64).sum();
        let n_before = count(&weights[..n_complete]);
        let done = Done { n_weights: n_before, n_before, n_tensors_before: n_complete, n_all: count(weights) };
        let course = Mutex::new(Course { n_left, n_complete, n_bytes: 0, done, error: None });
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        Job { source, plan, guide, steps, partial, progress, pieces, next, stopped, course }
    }

    fn run(&self, n_threads: usize) -> Result<(), Error> {
        self.tell(0, 0)?;
        thread::scope(|scope| {
            for _ in 1..n_threads {
                if let Err(source) = thread::Builder::new().spawn_scoped(scope, || self.work()) {
                    self.fail(Error::Threads { n_threads, source });
                    break;
                }
            }
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
                self.fail(error);
            }
        }
    }

    /// Has all threads end.
    fn fail(&self, error: Error) {
        self.stopped.store(true, Ordering::Relaxed);
        self.course().error.get_or_insert(error);
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
        let step = weights.rows_at_a_time(self.steps.n_weights);
        for start in piece.rows.clone().step_by(step) {
            let rows = start..(start + step).min(piece.rows.end);
            scratch.bytes.resize(rows.len() * row_bytes, 0);
            self.pack_rows(piece.tensor, rows, importance.as_deref(), scratch)?;
            let at = self.plan.layout.range(piece.tensor).start + (start * row_bytes) as u64;
            self.partial.write(&scratch.bytes, at)?;
            self.tell(scratch.bytes.len(), n_cols * scratch.bytes.len() / row_bytes)?;
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
        let to = self.plan.targets[i].to;
        if self.source.weights()[i].element == to {
            return self.copy_rows(i, rows, scratch);
        }
        let Element::Packed(format) = to else { unreachable!("whole numbers stay what they are") };
        self.read(i, rows.clone(), format, &mut scratch.values)?;
        let Scratch { values, importance: repeated, bytes } = scratch;
        let importance = importance.map(|one| {
            repeated.clear();
            rows.clone().for_each(|_| repeated.extend(one));
            repeated.as_slice()
        });
        format.encoder().expect("recipes name formats with encoders")(values, importance, bytes);
        Ok(())
    }

    /// Copies rows into the scratch bytes; weights have to be numbers there, too.
    fn copy_rows(&self, i: usize, rows: Range<usize>, scratch: &mut Scratch) -> Result<(), Error> {
        let weights = &self.source.weights()[i];
        let Scratch { values, bytes, .. } = scratch;
        self.source.read_bytes(i, rows.clone(), bytes).map_err(|e| Error::Source(Box::new(e)))?;
        let Element::Packed(format) = weights.element else { return Ok(()) };
        values.resize(rows.len() * weights.n_cols(), 0.0);
        format.decode(bytes, values);
        check(weights, rows.start, values, f32::MAX, format)
    }

    /// Reads rows, which have to be numbers within what a format holds.
    fn read(&self, i: usize, rows: Range<usize>, to: Format, values: &mut Vec<f32>) -> Result<(), Error> {
        let weights = &self.source.weights()[i];
        values.resize(rows.len() * weights.n_cols(), 0.0);
        self.source.read(i, rows.clone(), values).map_err(|e| Error::Source(Box::new(e)))?;
        let largest = to.largest().expect("recipes name formats with encoders");
        check(weights, rows.start, values, largest, to)
    }

    /// How much the columns of a piece's matrix matter.
    fn importance(&self, piece: &Piece, format: Format, scratch: &mut Scratch) -> Result<Option<Vec<f32>>, Error> {
        let weights = &self.source.weights()[piece.tensor];
        let known = self.guide.map_or(Ok(None), |g| g.importance(weights, piece.matrix))?;
        if known.is_some() || !wants_importance(format) {
            return Ok(known);
        }
        let mut sums = vec![0f64; weights.n_cols()];
        let step = weights.rows_at_a_time(self.steps.n_weights);
        for start in piece.rows.clone().step_by(step) {
            self.read(piece.tensor, start..(start + step).min(piece.rows.end), format, &mut scratch.values)?;
            for row in scratch.values.chunks_exact(weights.n_cols()) {
                sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
            }
        }
        Ok(Some(sums.into_iter().map(|sum| sum as f32).collect()))
    }

    /// So much more is written.
    fn tell(&self, n_bytes: usize, n_weights: usize) -> Result<(), Error> {
        let done = {
            let mut course = self.course();
            course.n_bytes += n_bytes as u64;
            course.done.n_weights += n_weights as u64;
            course.done
        };
        match (self.progress)(done) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        }
    }

    /// A piece is written. Others go on while what is complete is made to last.
    fn finished(&self, piece: &Piece) -> Result<(), Error> {
        let complete = self.course().finish(piece.tensor, self.steps.lasting_bytes);
        complete.map_or(Ok(()), |n| self.partial.complete(n))
    }
}

/// The pieces of a tensor. What may be guided by all of a matrix is read as a whole; where nothing guides, all matrices are as
/// one, however many there are.
fn pieces(weights: &Weights, to: Element, tensor: usize, guided: bool, steps: Steps) -> Vec<Piece> {
    let whole = matches!(to, Element::Packed(format) if wants_importance(format));
    let n = if whole || guided && to.has_blocks() { weights.n_matrix_rows() } else { weights.n_rows() };
    let step = if whole { n } else { weights.rows_at_a_time(steps.n_weights) };
    let of_matrix = |matrix: usize| {
        let (first, end) = (matrix * n, (matrix + 1) * n);
        (first..end).step_by(step).map(move |start| Piece { tensor, matrix, rows: start..(start + step).min(end) })
    };
    (0..weights.n_rows() / n).flat_map(of_matrix).collect()
}

/// Checks rows of a tensor, from the row `first` on: all are numbers, and none is beyond what it becomes.
fn check(weights: &Weights, first: usize, values: &[f32], largest: f32, to: Format) -> Result<(), Error> {
    let Some(at) = values.iter().position(|x| x.is_nan() || x.abs() > largest) else { return Ok(()) };
    let (tensor, value) = (weights.name.clone(), values[at]);
    let (row, column) = (first + at / weights.n_cols(), at % weights.n_cols());
    Err(match value.is_finite() {
        true => Error::TooLarge { tensor, row, column, value, format: to.name() },
        false => Error::NotFinite { tensor, row, column, value },
    })
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, fs};

    use gguf::Value;

    use super::*;
    use crate::recipe::Recipe;

    /// Tensors of numbers, from no file.
    struct Numbers(Vec<Weights>);

    impl Numbers {
        fn new() -> Numbers {
            let element = Element::Packed(Format::F32);
            let of = |i: usize| Weights { name: format!("{i}.weight"), shape: vec![8, 64], element };
            Numbers((0..8).map(of).collect())
        }
    }

    impl Source for Numbers {
        type Error = Infallible;

        fn files(&self) -> Vec<(PathBuf, Stamp)> {
            Vec::new()
        }

        fn keys(&self) -> &[(String, Value)] {
            &[]
        }

        fn weights(&self) -> &[Weights] {
            &self.0
        }

        fn read(&self, i: usize, rows: Range<usize>, out: &mut [f32]) -> Result<(), Infallible> {
            let first = 64 * (8 * i + rows.start);
            out.iter_mut().enumerate().for_each(|(j, x)| *x = ((first + j) * 7919 % 1009) as f32);
            Ok(())
        }

        fn read_bytes(&self, _: usize, _: Range<usize>, _: &mut [u8]) -> Result<(), Infallible> {
            unreachable!("nothing is copied")
        }
    }

    /// A piece for each of them would be more than the weights themselves.
    #[test]
    fn matrices_of_a_few_values_are_packed_together() {
        let weights = Weights { name: "x".into(), shape: vec![1 << 20, 1, 1], element: Element::Packed(Format::F32) };
        for guided in [false, true] {
            let pieces = pieces(&weights, Element::Packed(Format::F16), 0, guided, Steps::default());
            assert_eq!(pieces.len(), 1);
            assert_eq!(pieces[0].rows, 0..1 << 20);
        }
    }

    #[test]
    fn what_was_done_before_a_write_failed_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let source = Numbers::new();
        let recipe = Recipe::parse("* Q8_0").unwrap_or_else(|e| panic!("{e}"));
        let plan = Plan::new(&source, &recipe, None).unwrap_or_else(|e| panic!("{e}"));
        let steps = Steps { n_weights: 100, lasting_bytes: 0 };
        let options = |name: &str| Options { path: folder.path().join(name), n_threads: 1, overwrite: false, steps };
        let go_on = |_| ControlFlow::Continue(());
        let (whole, failed) = (options("whole"), options("failed"));
        run(&source, &plan, None, &whole, &go_on).unwrap_or_else(|e| panic!("{e}"));

        let half = |done: Done| match 2 * done.n_weights < done.n_all {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        };
        assert!(matches!(run(&source, &plan, None, &failed, &half), Err(Error::Interrupted)));
        let identity = identity(&plan, &[], &[0; 32]);
        let (mut partial, n) = Partial::begin(&failed.path, &plan, &identity).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(n, 3);
        partial.break_writes();
        let ended = Job::new(&source, &plan, None, steps, &partial, n, &go_on).run(2);
        assert!(ended.is_err_and(|error| error.can_go_on()));
        drop(partial);

        let first = Mutex::new(None);
        let note = |done: Done| {
            first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(done);
            ControlFlow::Continue(())
        };
        run(&source, &plan, None, &failed, &note).unwrap_or_else(|e| panic!("{e}"));
        let first = first.into_inner().unwrap_or_else(PoisonError::into_inner).expect("it was told");
        assert_eq!((first.n_tensors_before, first.n_weights), (3, 3 * 8 * 64));
        assert!(fs::read(&whole.path).is_ok_and(|whole| whole == fs::read(&failed.path).unwrap_or_default()));
    }

    #[test]
    fn tensors_are_complete_in_order_and_last_when_there_is_enough_of_them() {
        let done = Done { n_weights: 0, n_before: 0, n_tensors_before: 0, n_all: 0 };
        let mut course = Course { n_left: vec![1, 2, 1, 1], n_complete: 0, n_bytes: 0, done, error: None };
        let mut finish = |tensor, n_bytes| {
            course.n_bytes += n_bytes;
            course.finish(tensor, 100)
        };
        assert_eq!(finish(2, 60), None, "there are others before");
        assert_eq!(finish(0, 30), None, "so little is made again");
        assert_eq!(finish(1, 30), None);
        assert_eq!(finish(1, 0), Some(3));
        assert_eq!(finish(3, 99), None);
    }
}
