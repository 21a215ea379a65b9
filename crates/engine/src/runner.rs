//! The memory that sessions run on, side by side, and the forward passes on it: one at a time.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use compute::{Row, Step};
use models::{N_LOGITS_MAX, State, StateOptions};

use crate::{Error, engine::Inner};

/// Caches of some sequences, each in a slot of its own, and the buffers of one batch.
pub(crate) struct Runner {
    pub(crate) state: Box<dyn State>,
    step: Step,
    /// Distinguishes recordings on this memory from others'.
    number: u64,
    bytes: Vec<u8>, // logits as they come from the device
}

static N_RUNNERS: AtomicU64 = AtomicU64::new(0);

impl Runner {
    pub(crate) fn new(engine: &Inner, options: &StateOptions) -> Result<Runner, Error> {
        let n_logits = N_LOGITS_MAX.min(options.n_batch) * engine.model.shape().n_vocab;
        Ok(Runner {
            state: engine.model.state(&*engine.dev, options, &engine.routing)?,
            step: Step::new(&*engine.dev, options.n_batch)?,
            number: N_RUNNERS.fetch_add(1, Ordering::Relaxed),
            bytes: vec![0; n_logits * size_of::<f32>()],
        })
    }

    /// The step block of these rows, for [`Self::run`].
    pub(crate) fn place(&self, engine: &Inner, rows: &[Row]) -> Step {
        self.step.set(&*engine.dev, rows)
    }

    /// Runs a step through some layers.
    ///
    /// # Errors
    /// As [`State::forward`].
    pub(crate) fn run(&self, engine: &Inner, step: &Step, layers: Range<usize>) -> Result<(), Error> {
        let dev = &*engine.dev;
        let mut key = DefaultHasher::new();
        (self.number, step.len(), &layers).hash(&mut key);
        let mut done = Ok(());
        let mut forward = || done = self.state.forward(dev, step, layers.clone());
        match engine.routing.reads_choices() {
            // What is queued depends on what is read back, and cannot be replayed.
            true => forward(),
            false => dev.step(key.finish(), &mut forward),
        }
        Ok(done?)
    }

    /// Runs rows through all layers and gives `each` the logits of those that are `wanted`: the row's number, where they are, its
    /// place there, and its position.
    ///
    /// # Errors
    /// As [`Self::run`] and [`Self::logits`], or what `each` returns.
    pub(crate) fn forward(
        &mut self,
        engine: &Inner,
        rows: &[Row],
        wanted: Range<usize>,
        each: &mut dyn FnMut(usize, &Logits, usize, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let step = self.place(engine, rows);
        self.run(engine, &step, 0..engine.model.shape().n_layer)?;
        for first in wanted.clone().step_by(N_LOGITS_MAX) {
            let end = (first + N_LOGITS_MAX).min(wanted.end);
            let logits = self.logits(engine, first..end)?;
            (first..end).try_for_each(|k| each(k, &logits, k - first, rows[k].pos as usize))?;
        }
        Ok(())
    }

    /// The logits of some rows of the last step, at most [`N_LOGITS_MAX`], one row behind the other.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub(crate) fn logits(&mut self, engine: &Inner, rows: Range<usize>) -> Result<Logits<'_>, Error> {
        let dev = &*engine.dev;
        let logits = self.state.logits(dev, rows);
        let bytes = &mut self.bytes[..logits.byte_range().len()];
        dev.read(&logits, bytes)?;
        Ok(Logits { bytes, row_bytes: logits.row_bytes() })
    }
}

/// Rows of logits as they come from the device.
pub(crate) struct Logits<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
}

impl Logits<'_> {
    /// Copies row `i`, the logits of position `pos`.
    ///
    /// # Errors
    /// [`Error::NoNumbers`]; `out` is then empty.
    pub(crate) fn copy(&self, engine: &Inner, i: usize, pos: usize, out: &mut Vec<f32>) -> Result<(), Error> {
        let row = self.bytes[i * self.row_bytes..][..self.row_bytes].as_chunks().0;
        out.clear();
        out.extend(row.iter().map(|b| f32::from_le_bytes(*b)));
        if out.iter().any(|&v| v.is_nan() || v == f32::INFINITY) {
            out.clear();
            return Err(Error::NoNumbers { path: engine.path().to_path_buf(), pos });
        }
        Ok(())
    }
}
