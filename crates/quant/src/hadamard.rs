//! The normalised Walsh-Hadamard transform, in Sylvester's order and in place.
//!
//! ```text
//! H[1] = [1]      H[2n] = [ H[n]  H[n] ]      y = H[n] x / sqrt(n)
//!                         [ H[n] -H[n] ]
//! ```
//!
//! `log2(n)` passes of butterflies: sums and differences of values 1, 2, 4, ... apart. The matrix is symmetric and
//! orthogonal, so that twice the transform is the identity, up to the rounding of `log2(n)` additions and one product
//! each time.
//! Source: DeepSeek V4's reference code transforms indexer rows of 128 values this way before it rounds them to FP4.

/// Replaces `x` by its transform.
///
/// # Panics
/// If the length is no power of two.
pub fn hadamard(x: &mut [f32]) {
    assert!(x.len().is_power_of_two(), "{} is no power of two", x.len());
    let mut half = 1;
    while half < x.len() {
        x.chunks_exact_mut(2 * half).for_each(butterflies);
        half *= 2;
    }
    let norm = (x.len() as f32).sqrt().recip();
    x.iter_mut().for_each(|v| *v *= norm);
}

/// `(a, b) = (a + b, a - b)`, where `a` and `b` are the halves of `x`.
fn butterflies(x: &mut [f32]) {
    let (a, b) = x.split_at_mut(x.len() / 2);
    for (a, b) in a.iter_mut().zip(b) {
        (*a, *b) = (*a + *b, *a - *b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of `H[n] / sqrt(n)`.
    fn matrix(n: usize) -> Vec<Vec<f32>> {
        let unit = |row| (0..n).map(|i| if i == row { 1.0 } else { 0.0 }).collect();
        let mut rows: Vec<Vec<f32>> = (0..n).map(unit).collect();
        rows.iter_mut().for_each(|row| hadamard(row));
        rows
    }

    /// In Sylvester's order, an entry is negative where row and column share an odd number of bits.
    #[test]
    fn the_matrix_is_that_of_sylvester() {
        for n in [1, 2, 4, 64, 128] {
            let size = (n as f32).sqrt().recip();
            for (i, row) in matrix(n).iter().enumerate() {
                for (j, &v) in row.iter().enumerate() {
                    let sign = if (i & j).count_ones() % 2 == 0 { 1.0 } else { -1.0 };
                    assert_eq!(v, sign * size, "{i}, {j} of {n}");
                }
            }
        }
    }

    #[test]
    fn rows_are_orthogonal() {
        let rows = matrix(128);
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate() {
                let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((dot - expected).abs() < 1e-5, "{i}, {j}: {dot}");
            }
        }
    }

    #[test]
    fn twice_is_the_identity() {
        let x: [f32; 128] = std::array::from_fn(|i| 3.0 * (i as f32).sin());
        let mut y = x;
        hadamard(&mut y);
        hadamard(&mut y);
        for (x, y) in x.iter().zip(y) {
            assert!((x - y).abs() < 1e-5, "{x} became {y}");
        }
    }

    #[test]
    #[should_panic(expected = "96 is no power of two")]
    fn other_lengths_are_our_mistake() {
        hadamard(&mut [0.0; 96]);
    }
}
