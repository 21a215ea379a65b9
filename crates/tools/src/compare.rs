//! How far the weights of one model are from those of another, tensor by tensor.

use gguf::Element;

use crate::{Source, Weights, source::N_AT_A_TIME};

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
    /// `max |x - y|`; like the others, not a number where a weight is none.
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
    /// Only one of them has weights there.
    #[error("tensor `{tensor}` is of {}, and of {} in the other file", found.name(), expected.name())]
    Kind {
        /// The tensor.
        tensor: String,
        /// Its type in the one.
        found: Element,
        /// Its type in the other.
        expected: Element,
    },
    /// Nothing is in both.
    #[error("no tensor of weights is in both files")]
    Strangers,
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
    let (mut missing, mut n_compared) = (Vec::new(), 0);
    for (i, weights) in one.weights().iter().enumerate() {
        let twin = other.weights().iter().position(|w| w.name == weights.name);
        match twin {
            Some(j) if is_packed(weights) || is_packed(&other.weights()[j]) => {
                each(difference(one, other, i, j)?);
                n_compared += 1;
            }
            None if is_packed(weights) => missing.push(weights.name.clone()),
            _ => {}
        }
    }
    if n_compared == 0 {
        return Err(CompareError::Strangers);
    }
    let is_new = |w: &&Weights| is_packed(w) && !one.weights().iter().any(|known| known.name == w.name);
    missing.extend(other.weights().iter().filter(is_new).map(|w| w.name.clone()));
    Ok(missing)
}

fn is_packed(weights: &Weights) -> bool {
    matches!(weights.element, Element::Packed(_))
}

fn difference<A: Source, B: Source>(
    one: &A,
    other: &B,
    i: usize,
    j: usize,
) -> Result<Difference, CompareError<A::Error, B::Error>> {
    let (a, b) = (&one.weights()[i], &other.weights()[j]);
    let tensor = a.name.clone();
    if a.shape != b.shape {
        return Err(CompareError::Shape { tensor, found: a.shape.clone(), expected: b.shape.clone() });
    }
    if !is_packed(a) || !is_packed(b) {
        return Err(CompareError::Kind { tensor, found: a.element, expected: b.element });
    }
    let (n_rows, step) = (a.n_rows(), a.rows_at_a_time(N_AT_A_TIME));
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
            if error.is_nan() || error.abs() > largest {
                largest = error.abs();
            }
        }
    }
    let relative = if errors == 0.0 { 0.0 } else { (errors / squares).sqrt() };
    let rmse = (errors / (n_rows * a.n_cols()) as f64).sqrt();
    Ok(Difference { name: tensor, from: a.element, to: b.element, rmse, relative, largest })
}

#[cfg(test)]
mod tests {
    use gguf::Writer;
    use quant::Format;
    use tempfile::TempDir;

    use super::*;
    use crate::GgufSource;

    /// A file of one tensor of two values.
    fn file(folder: &TempDir, name: &str, tensor: &str, element: Element, values: [[u8; 4]; 2]) -> GgufSource {
        let path = folder.path().join(name);
        Writer::new().tensor(tensor, &[2], element, values.concat()).write(&path).unwrap();
        GgufSource::open(&path).unwrap()
    }

    fn of(values: [f32; 2]) -> [[u8; 4]; 2] {
        values.map(f32::to_le_bytes)
    }

    fn told(one: &GgufSource, other: &GgufSource) -> Result<Vec<Difference>, String> {
        let mut all = Vec::new();
        compare(one, other, &mut |difference| all.push(difference)).map_err(|e| e.to_string())?;
        Ok(all)
    }

    #[test]
    fn weights_that_are_no_numbers_are_no_small_errors() {
        let folder = TempDir::new().unwrap();
        let one = file(&folder, "one", "x", Element::Packed(Format::F32), of([1.0, 2.0]));
        for values in [[f32::NAN, 2.0], [1.0, f32::NAN]] {
            let other = file(&folder, "other", "x", Element::Packed(Format::F32), of(values));
            let [difference] = &told(&one, &other).unwrap()[..] else { panic!("there is one tensor") };
            assert!(difference.largest.is_nan() && difference.rmse.is_nan(), "{difference:?}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_no_success() {
        let folder = TempDir::new().unwrap();
        let one = file(&folder, "one", "x", Element::Packed(Format::F32), of([1.0, 2.0]));
        let numbers = file(&folder, "numbers", "x", Element::I32, of([1.0, 2.0]));
        let stranger = file(&folder, "stranger", "y", Element::Packed(Format::F32), of([1.0, 2.0]));
        assert_eq!(told(&one, &numbers).unwrap_err(), "tensor `x` is of F32, and of I32 in the other file");
        assert_eq!(told(&numbers, &one).unwrap_err(), "tensor `x` is of I32, and of F32 in the other file");
        assert_eq!(told(&one, &stranger).unwrap_err(), "no tensor of weights is in both files");
    }
}
