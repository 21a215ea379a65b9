//! f16 to f32 with the processor's own conversion, as compilers do not find it in [`super`]'s loop.

use std::arch::x86_64::*;

/// Little-endian halves. Every AVX2 machine that [`crate::dot::Isa`] accepts has F16C.
pub(super) fn unpack(bytes: &[u8], out: &mut [f32]) {
    // SAFETY: private to `vector`, where `Vector::new` hands it out for an instruction set that it found.
    unsafe { compiled(bytes, out) }
}

#[target_feature(enable = "avx2,f16c")]
fn compiled(bytes: &[u8], out: &mut [f32]) {
    let (eights, rest) = out.as_chunks_mut::<8>();
    let (halves, last) = bytes.as_chunks::<16>();
    for (out, halves) in eights.iter_mut().zip(halves) {
        // SAFETY: 16 readable and 32 writable bytes; neither has an alignment requirement.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast()))) };
    }
    super::unpack_f16(last, rest);
}
