//! Sixteen floats at a time, for the register tiles of the matrix products.
#![allow(unsafe_code)] // loads and stores through pointers, vector instructions

/// Sixteen floats in vector registers.
///
/// # Safety
/// The methods may only run on a CPU that has the implementation's instructions.
pub(super) unsafe trait Lanes: Copy {
    /// Rows of a register tile.
    const ROWS: usize;
    /// The most vectors of a register tile's row.
    const VECTORS: usize;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self * b + c`.
    unsafe fn madd(self, b: Self, c: Self) -> Self;
}

/// Compiled for the baseline: four SSE2 or NEON registers.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 16]);

// SAFETY: needs no instructions beyond the baseline.
unsafe impl Lanes for Plain {
    const ROWS: usize = 4;
    const VECTORS: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 16])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has 16 floats there; an array of floats has their alignment.
        Self(unsafe { from.cast::<[f32; 16]>().read() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<[f32; 16]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn madd(self, b: Self, c: Self) -> Self {
        const FMA: bool = cfg!(target_arch = "aarch64");
        Self(std::array::from_fn(|i| crate::simd::madd::<FMA>(self.0[i], b.0[i], c.0[i])))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
    };

    use super::Lanes;

    /// One AVX-512 register; a tile of 8 x 3 leaves 8 of 32 for the operands.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512);

    // SAFETY: every method is one instruction of AVX-512F.
    unsafe impl Lanes for Avx512 {
        const ROWS: usize = 8;
        const VECTORS: usize = 3;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller's CPU has AVX-512F.
            Self(unsafe { _mm512_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above; the caller has 16 floats there.
            Self(unsafe { _mm512_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn madd(self, b: Self, c: Self) -> Self {
            // SAFETY: the caller's CPU has AVX-512F.
            Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
        }
    }

    /// Two AVX2 registers; a tile of 4 x 1 takes 8 of 16.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256, __m256);

    // SAFETY: every method is two instructions of AVX or FMA.
    unsafe impl Lanes for Avx2 {
        const ROWS: usize = 4;
        const VECTORS: usize = 1;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller's CPU has AVX2 and FMA.
            unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above; the caller has 16 floats there.
            unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above.
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn madd(self, b: Self, c: Self) -> Self {
            // SAFETY: the caller's CPU has AVX2 and FMA.
            unsafe { Self(_mm256_fmadd_ps(self.0, b.0, c.0), _mm256_fmadd_ps(self.1, b.1, c.1)) }
        }
    }
}
