//! Blocks of 6 by 16 in AVX2 registers: 12 for the block, two for the right factor, one for the left.

use std::arch::x86_64::*;

use super::super::lanes::Lanes;
use super::{Vector, pack};

/// The instructions of `avx2` and `fma`.
pub(in super::super) struct Avx2;

/// Floats of a register.
const WIDTH: usize = 8;

impl Vector for Avx2 {
    const ROWS: usize = 6;
    const COLUMNS: usize = 2 * WIDTH;

    unsafe fn pack<const ROUND: bool>(lanes: Lanes<'_>, width: usize, out: *mut f32) {
        // SAFETY: the caller's promises.
        unsafe { pack::half::<ROUND>(lanes, width, out) };
    }

    unsafe fn multiply(
        kc: usize,
        left: *const f32,
        right: *const f32,
        right_step: usize,
        c: *mut f32,
        c_step: usize,
        rows: usize,
        add: bool,
    ) {
        macro_rules! by_rows {
            ($($n:literal)*) => {
                match rows {
                    // SAFETY: the caller's promises.
                    $($n => unsafe { block::<$n>(kc, left, right, right_step, c, c_step, add) },)*
                    _ => unreachable!("a block has 1 to 6 rows, not {rows}"),
                }
            };
        }
        by_rows!(1 2 3 4 5 6);
    }
}

/// # Safety
/// As [`Vector::multiply`].
#[target_feature(enable = "avx2,fma")]
unsafe fn block<const R: usize>(
    kc: usize,
    left: *const f32,
    right: *const f32,
    right_step: usize,
    c: *mut f32,
    c_step: usize,
    add: bool,
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    // SAFETY: the caller's promises; a prefetch may miss the data.
    unsafe {
        if add {
            for (i, [low, high]) in sums.iter_mut().enumerate() {
                let row = c.add(i * c_step);
                (*low, *high) = (_mm256_loadu_ps(row), _mm256_loadu_ps(row.add(WIDTH)));
            }
        }
        let (mut a, mut b) = (left, right);
        for _ in 0..kc {
            let (low, high) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(WIDTH)));
            _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD * right_step).cast());
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*a.add(i));
                sums[0] = _mm256_fmadd_ps(x, low, sums[0]);
                sums[1] = _mm256_fmadd_ps(x, high, sums[1]);
            }
            (a, b) = (a.add(Avx2::ROWS), b.wrapping_add(right_step));
        }
        for (i, [low, high]) in sums.into_iter().enumerate() {
            let row = c.add(i * c_step);
            _mm256_storeu_ps(row, low);
            _mm256_storeu_ps(row.add(WIDTH), high);
        }
    }
}

/// How many inner indices ahead of its use a row of the right factor is fetched.
const AHEAD: usize = 8;
