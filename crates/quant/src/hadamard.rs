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
