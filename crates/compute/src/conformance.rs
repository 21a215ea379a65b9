//! Is a device right? Every operation on many shapes, against the reference and against itself.
//!
//! [`check`] runs one list of cases, and asks of each device:
//!
//! ```text
//! the definition    |y - reference| <= tolerance * (|reference| + rms(reference)), element by element; see `Bound`
//! independence      the rows of a batch, computed one by one or seven at a time: the same bits      `Promise::Bits`
//! repetition        all devices of the list, say the same one with more threads: the same bits      `Promise::Bits`
//! ```
//!
//! A device that rounds differently for different batches promises [`Promise::Bounds`] and is held to the definition in
//! every cut. To add an operation, add a line to [`OPERATIONS`].
//!
//! An operation may panic where the caller broke the contract (a wrong shape, a shared buffer) and nowhere else: what
//! comes from files and people has been checked before it gets here.

mod data;
mod experts;
mod lab;
mod rows;
mod sequence;
mod steps;
mod wrong;

use std::{fmt, panic};

pub use data::{Random, weights};
use lab::{Lab, Outcome};

use crate::{Device, Kind, Reference, Tensor, reference};

/// The operations and the function that lists their cases.
const OPERATIONS: &[(&str, fn(&mut Cases))] = &[
    ("memory", rows::memory),
    ("embed", rows::embed),
    ("rms_norm", rows::rms_norm),
    ("matmul", rows::matmul),
    ("matmul_grouped", rows::matmul_grouped),
    ("matmuls", rows::matmuls),
    ("gated", rows::gated),
    ("add", rows::add),
    ("swiglu", rows::swiglu),
    ("rope", rows::rope),
    ("hadamard", rows::hadamard),
    ("round", rows::round),
    ("store", sequence::store),
    ("attention", sequence::attention),
    ("latent_attention", sequence::latent_attention),
    ("compress", sequence::compress),
    ("choose", sequence::choose),
    ("hyper_pre", rows::hyper_pre),
    ("hyper_post", rows::hyper_post),
    ("hyper_head", rows::hyper_head),
    ("route", experts::route),
    ("moe", experts::moe),
    ("a step", steps::steps),
    ("a wrong call", wrong::calls),
];

/// What a device promises about batches and threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// A row's result has the same bits whatever the rest of the batch, and on every device of the list.
    Bits,
    /// A row's result is within the stated bounds, whatever the rest of the batch.
    Bounds,
}

/// How far an output may be from the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// Not at all.
    Exact,
    /// The order of f32 sums and an `exp` of a few units in the last place.
    Float,
    /// As `Float`; also, activations that meet packed weights may be rounded to 8 bits with a scale per 256.
    Rounded,
    /// The same twice in a row.
    RoundedTwice,
}

impl Bound {
    fn tolerance(self) -> f64 {
        match self {
            Bound::Exact => 0.0,
            Bound::Float => 2e-5,
            // For values spread evenly, one rounding moves a sum by 0.4 % of its usual size; the worst of thousands
            // of sums is some five times that.
            Bound::Rounded => 0.025,
            Bound::RoundedTwice => 0.1,
        }
    }
}

/// The cases of one operation as they are collected.
struct Cases(Vec<Case>);

/// An operation on given shapes: makes its inputs, calls the device, returns what it computed.
struct Case {
    name: String,
    run: Box<dyn Fn(&mut Lab) -> Outcome>,
}

impl Cases {
    fn add(&mut self, name: impl fmt::Display, run: impl Fn(&mut Lab) -> Outcome + 'static) {
        self.0.push(Case { name: name.to_string(), run: Box::new(run) });
    }
}

/// A case that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The device's name.
    pub device: String,
    /// Operation and shapes.
    pub case: String,
    /// What [`check`] was given.
    pub seed: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, seed {}, {}: {}", self.device, self.seed, self.case, self.what)
    }
}

/// Runs every case on every device and returns what failed. Inputs follow from `seed`.
pub fn check(devices: &[&dyn Device], promise: Promise, seed: u64) -> Vec<Failure> {
    check_only(&|_| true, devices, promise, seed)
}

/// [`check`] for the operations that `wanted` picks by name.
pub fn check_only(wanted: &dyn Fn(&str) -> bool, devices: &[&dyn Device], promise: Promise, seed: u64) -> Vec<Failure> {
    let mut failures = vec![];
    for (operation, list) in OPERATIONS.iter().filter(|(name, _)| wanted(name)) {
        let mut cases = Cases(vec![]);
        list(&mut cases);
        for case in &cases.0 {
            let mut fail = |dev: &dyn Device, what: String| {
                failures.push(Failure { device: dev.name(), case: format!("{operation} {}", case.name), seed, what });
            };
            check_case(case, devices, promise, seed, &mut fail);
        }
    }
    failures
}

/// Rows per call: all, one, and a few.
const CUTS: [usize; 3] = [usize::MAX, 1, 7];

fn check_case(
    case: &Case,
    devices: &[&dyn Device],
    promise: Promise,
    seed: u64,
    fail: &mut dyn FnMut(&dyn Device, String),
) {
    let expected = match run(case, &Reference, CUTS[0], promise, seed) {
        Ok(expected) => expected,
        Err(what) => return fail(&Reference, what),
    };
    let mut first: Option<Vec<Vec<u8>>> = None;
    for &dev in devices {
        for cut in CUTS {
            let how = if cut == CUTS[0] { "all at once".to_string() } else { format!("{cut} at a time") };
            let outputs = match run(case, dev, cut, promise, seed) {
                Ok(outputs) => outputs,
                Err(what) => {
                    fail(dev, format!("{how}: {what}"));
                    continue;
                }
            };
            if promise == Promise::Bounds || first.is_none() {
                let wrong = outputs
                    .iter()
                    .zip(&expected)
                    .enumerate()
                    .find_map(|(i, (y, e))| compare(y, e).map(|what| format!("{how}, output {i}: {what}")));
                wrong.into_iter().for_each(|what| fail(dev, what));
            }
            let bytes: Vec<Vec<u8>> = outputs.into_iter().map(|y| y.bytes).collect();
            match &first {
                None => first = Some(bytes),
                Some(first) if promise == Promise::Bits && *first != bytes => {
                    fail(dev, format!("{how}: other bits than {}, all at once", devices[0].name()));
                }
                Some(_) => {}
            }
        }
    }
}

/// An output, copied to the host.
struct Output {
    bound: Bound,
    bytes: Vec<u8>,
    values: Vec<f32>, // numbers of an I32 tensor, too
    cols: usize,
}

/// Runs a case in cuts of `cut` rows.
fn run(case: &Case, dev: &dyn Device, cut: usize, promise: Promise, seed: u64) -> Result<Vec<Output>, String> {
    let body = || {
        let mut lab = Lab::new(dev, cut, promise, seed, &case.name);
        let outcome = (case.run)(&mut lab);
        let read = |(bound, y): (Bound, Tensor)| {
            let mut bytes = vec![0; y.byte_range().len()];
            dev.read(&y, &mut bytes).map_err(|e| e.to_string())?;
            let values = match y.kind() {
                Kind::I32 => reference::i32s(dev, &y).into_iter().map(|v| v as f32).collect(),
                _ => reference::f32s(dev, &y),
            };
            Ok(Output { bound, bytes, values, cols: y.cols() })
        };
        let outputs = outcome.into_iter().map(read).collect::<Result<Vec<Output>, String>>()?;
        lab.claims.into_iter().next().map_or(Ok(outputs), Err)
    };
    panic::catch_unwind(panic::AssertUnwindSafe(body)).unwrap_or_else(|e| {
        let text = e.downcast_ref::<String>().cloned().or_else(|| e.downcast_ref::<&str>().map(|s| s.to_string()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

/// What counts as much as nothing where everything else is nothing, too: an `exp` may stop at some smallest value.
const NOTHING: f64 = 1e-30;

/// What is wrong with `y`, if anything is.
fn compare(y: &Output, expected: &Output) -> Option<String> {
    let finite = expected.values.iter().filter(|v| v.is_finite());
    let rms = (finite.map(|&v| f64::from(v).powi(2)).sum::<f64>() / expected.values.len().max(1) as f64).sqrt();
    let wrong = |(&y, &e): (&f32, &f32)| {
        let error = (f64::from(y) - f64::from(e)).abs();
        let allowed = expected.bound.tolerance() * (f64::from(e).abs() + rms + NOTHING);
        // Written so that a NaN is wrong.
        !(error <= allowed || y.to_bits() == e.to_bits())
    };
    let n_wrong = y.values.iter().zip(&expected.values).filter(|p| wrong(*p)).count();
    let i = y.values.iter().zip(&expected.values).position(wrong)?;
    let (row, col) = (i / y.cols, i % y.cols);
    let (bound, n) = (expected.bound, y.values.len());
    let (y, e) = (y.values[i], expected.values[i]);
    Some(format!("{n_wrong} of {n} beyond {bound:?}; [{row}, {col}] is {y}, not {e}, where the rms is {rms}"))
}

#[cfg(test)]
mod tests;
