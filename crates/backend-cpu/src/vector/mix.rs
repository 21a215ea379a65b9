//! Mixtures of rows, where attention spends half of its time: with intrinsics, as compilers leave the sums of
//! [`super`]'s loop in memory.
//!
//! ```text
//! y[h] += sum_j p[h][j] * rows[j]        some columns of up to four heads stay in registers while j runs
//! ```
//!
//! Each element is one chain of fused multiply-adds in the order of the rows.

/// One instruction set's version of [`crate::vector::Vector::mix`].
macro_rules! mix {
    ($name:ident, $feature:literal, $lanes:literal, $registers:literal, $zero:ident, $load:ident, $store:ident,
     $broadcast:ident, $fmadd:ident) => {
        pub(super) mod $name {
            use std::arch::x86_64::*;

            /// See [`crate::vector::Vector::mix`].
            pub(in crate::vector) fn mix(
                y: &mut [f32],
                y_stride: usize,
                p: &[f32],
                p_stride: usize,
                rows: &[f32],
                width: usize,
            ) {
                let n = rows.len() / width;
                let n_head = y.len().div_ceil(y_stride);
                assert!((n_head - 1) * y_stride + width <= y.len() && (n_head - 1) * p_stride + n <= p.len());
                // SAFETY: private to `vector`, where `Vector::new` hands it out for an instruction set that it found; the
                // sizes were just checked.
                unsafe {
                    match n_head {
                        1 => heads::<1>(y, y_stride, p, p_stride, rows, width),
                        2 => heads::<2>(y, y_stride, p, p_stride, rows, width),
                        3 => heads::<3>(y, y_stride, p, p_stride, rows, width),
                        4 => heads::<4>(y, y_stride, p, p_stride, rows, width),
                        _ => unreachable!("one to four heads"),
                    }
                }
            }

            /// # Safety
            /// The instruction set is there; `y` has `H` heads of `width` elements, `y_stride` apart, and `p` as many
            /// weights as there are rows for each, `p_stride` apart.
            #[target_feature(enable = $feature)]
            unsafe fn heads<const H: usize>(
                y: &mut [f32],
                y_stride: usize,
                p: &[f32],
                p_stride: usize,
                rows: &[f32],
                width: usize,
            ) {
                let mut start = 0;
                while start + $registers * $lanes <= width {
                    // SAFETY: these columns are there, and the rest is the caller's promise.
                    unsafe { columns::<H, $registers>(y, y_stride, p, p_stride, rows, width, start) };
                    start += $registers * $lanes;
                }
                while start + $lanes <= width {
                    // SAFETY: as above.
                    unsafe { columns::<H, 1>(y, y_stride, p, p_stride, rows, width, start) };
                    start += $lanes;
                }
                for h in 0..H {
                    for i in start..width {
                        let mut sum = y[h * y_stride + i];
                        for (j, row) in rows.chunks_exact(width).enumerate() {
                            sum = p[h * p_stride + j].mul_add(row[i], sum);
                        }
                        y[h * y_stride + i] = sum;
                    }
                }
            }

            /// `C` registers of columns from `start` on.
            ///
            /// # Safety
            /// As for [`heads`]; these columns are there.
            #[target_feature(enable = $feature)]
            #[inline]
            unsafe fn columns<const H: usize, const C: usize>(
                y: &mut [f32],
                y_stride: usize,
                p: &[f32],
                p_stride: usize,
                rows: &[f32],
                width: usize,
                start: usize,
            ) {
                let mut sums = [[$zero(); C]; H];
                for h in 0..H {
                    for c in 0..C {
                        // SAFETY: inside head `h` of `y`.
                        sums[h][c] = unsafe { $load(y.as_ptr().add(h * y_stride + start + c * $lanes)) };
                    }
                }
                for j in 0..rows.len() / width {
                    let mut row = [$zero(); C];
                    for c in 0..C {
                        // SAFETY: inside row `j`.
                        row[c] = unsafe { $load(rows.as_ptr().add(j * width + start + c * $lanes)) };
                    }
                    for h in 0..H {
                        // SAFETY: one of head `h`'s weights.
                        let p = $broadcast(unsafe { *p.get_unchecked(h * p_stride + j) });
                        for c in 0..C {
                            sums[h][c] = $fmadd(p, row[c], sums[h][c]);
                        }
                    }
                }
                for h in 0..H {
                    for c in 0..C {
                        // SAFETY: inside head `h` of `y`.
                        unsafe { $store(y.as_mut_ptr().add(h * y_stride + start + c * $lanes), sums[h][c]) };
                    }
                }
            }
        }
    };
}

mix!(avx2, "avx2,fma", 8, 2, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps);
mix!(
    avx512,
    "avx512f,fma",
    16,
    4,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps
);
