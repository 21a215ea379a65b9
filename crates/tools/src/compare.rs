//! How far the weights of one model are from those of another, tensor by tensor.

use gguf::Element;

use crate::{Source, Weights};

/// How far a tensor is from what it was made of.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Its name.
    pub name: String,
    /// Its type in the one.
    pub from: Element,
    /// Its type in the other.
    pub to: Element,
    /// `sqrt(sum (x - y)^2 / n)`
    pub rmse: f64,
    /// `sqrt(sum (x - y)^2 / sum x^2)`; 0 where both are zeros.
    pub relative: f64,
    /// `max |x - y|`
    pub largest: f64,
}

/// Why two models are not compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError<A, B> {
    /// The one cannot be read.
    #[error(transparent)]
    One(A),
    /// The other cannot.
    #[error(transparent)]
    Other(B),
    /// They are not of one model.
    #[error("tensor `{tensor}` has the shape {found:?}, and {expected:?} in the other file")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape in the one.
        found: Vec<usize>,
        /// Its shape in the other.
        expected: Vec<usize>,
    },
}

/// Compares the weights that both have, by their names, and tells `each` of them in the order of `one`; the names that only
/// one of them has, of weights.
///
/// # Errors
/// [`CompareError`].
pub fn compare<A: Source, B: Source>(
    one: &A,
    other: &B,
    each: &mut dyn FnMut(Difference),
) -> Result<Vec<String>, CompareError<A::Error, B::Error>> {
    let index = |name: &str| other.weights().iter().position(|w| w.name == name);
    let mut missing: Vec<String> = Vec::new();
    for (i, weights) in one.weights().iter().enumerate().filter(|(_, w)| matches!(w.element, Element::Packed(_))) {
        match index(&weights.name) {
            Some(j) => each(difference(one, other, i, j)?),
            None => missing.push(weights.name.clone()),
        }
    }
    let is_new = |w: &&Weights| !one.weights().iter().any(|known| known.name == w.name);
    missing.extend(other.weights().iter().filter(is_new).map(|w| w.name.clone()));
    Ok(missing)
}

fn difference<A: Source, B: Source>(
    one: &A,
    other: &B,
    i: usize,
    j: usize,
) -> Result<Difference, CompareError<A::Error, B::Error>> {
    let (a, b) = (&one.weights()[i], &other.weights()[j]);
    if a.shape != b.shape || !matches!(b.element, Element::Packed(_)) {
        let (tensor, found, expected) = (a.name.clone(), a.shape.clone(), b.shape.clone());
        return Err(CompareError::Shape { tensor, found, expected });
    }
    let (n_rows, step) = (a.n_rows(), a.rows_at_a_time());
    let (mut x, mut y) = (Vec::new(), Vec::new());
    let (mut squares, mut errors, mut largest) = (0.0, 0.0, 0f64);
    for start in (0..n_rows).step_by(step) {
        let rows = start..(start + step).min(n_rows);
        x.resize(rows.len() * a.n_cols(), 0.0);
        y.resize(x.len(), 0.0);
        one.read(i, rows.clone(), &mut x).map_err(CompareError::One)?;
        other.read(j, rows, &mut y).map_err(CompareError::Other)?;
        for (&x, &y) in x.iter().zip(&y) {
            let error = f64::from(x) - f64::from(y);
            squares += f64::from(x) * f64::from(x);
            errors += error * error;
            largest = largest.max(error.abs());
        }
    }
    let relative = if errors == 0.0 { 0.0 } else { (errors / squares).sqrt() };
    let rmse = (errors / (n_rows * a.n_cols()) as f64).sqrt();
    Ok(Difference { name: a.name.clone(), from: a.element, to: b.element, rmse, relative, largest })
}
