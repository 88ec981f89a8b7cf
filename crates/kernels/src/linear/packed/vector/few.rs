//! Products of up to three rows, as when single tokens are decoded: memory sets the pace, so the right factor is read once,
//! where it lies and in long runs. On AVX-512.

use std::arch::x86_64::*;

use rayon::prelude::*;

use super::super::lanes::{Lanes, Output};
use super::super::registers::{mask, transpose};

/// Rows at once.
pub(in super::super) const MOST: usize = 3;
/// Floats of a register.
const WIDTH: usize = 16;
/// Registers of a row of a right factor whose columns lie side by side.
const SPAN: usize = 8;
/// How many inner indices ahead of its use such a row is fetched.
const AHEAD: usize = 4;
/// Floats of the right factor that are worth a task of their own.
const TASK: usize = 64 * 1024;

/// `c = a b`; the CPU must have AVX-512.
pub(in super::super) fn product(a: Lanes<'_>, b: Lanes<'_>, c: Output) {
    let (m, k) = (a.n, a.length);
    let mut left = vec![0.0; m * k];
    for (p, left) in left.chunks_exact_mut(m).enumerate() {
        for (i, left) in left.iter_mut().enumerate() {
            // SAFETY: inside the lanes.
            *left = unsafe { *a.start.add(i * a.lane_step + p * a.inner_step) };
        }
    }
    let width = if b.lane_step == 1 { SPAN * WIDTH } else { WIDTH };
    let least = TASK.div_ceil(width * k);
    (0..b.n.div_ceil(width)).into_par_iter().with_min_len(least).for_each(|block| {
        let j = block * width;
        let part = b.part(j, width, 0, k);
        for i in (0..m).step_by(MOST) {
            let (to, left) = (c.at(i, j), &left[i..]);
            // SAFETY: the caller's CPU; the block lies inside the result, has up to `m - i` rows, and is this task's.
            unsafe {
                match m - i {
                    1 => multiply::<1>(left, m, part, to, c.columns),
                    2 => multiply::<2>(left, m, part, to, c.columns),
                    _ => multiply::<MOST>(left, m, part, to, c.columns),
                }
            }
        }
    });
}

/// # Safety
/// The CPU has AVX-512; `left` holds `R` floats every `step`, for each inner index; `c` points to `R` rows, `c_step` apart,
/// of as many floats as there are lanes, that nobody else touches.
unsafe fn multiply<const R: usize>(
    left: &[f32],
    step: usize,
    right: Lanes<'_>,
    c: *mut f32,
    c_step: usize,
) {
    // SAFETY: the caller's promises.
    unsafe {
        match right.lane_step {
            1 => across::<R>(left, step, right, c, c_step),
            _ => along::<R>(left, step, right, c, c_step),
        }
    }
}

/// Columns that lie side by side.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f")]
unsafe fn across<const R: usize>(
    left: &[f32],
    step: usize,
    right: Lanes<'_>,
    c: *mut f32,
    c_step: usize,
) {
    let masks: [__mmask16; SPAN] =
        std::array::from_fn(|w| mask(right.n.saturating_sub(w * WIDTH).min(WIDTH)));
    let mut sums = [[_mm512_setzero_ps(); SPAN]; R];
    // SAFETY: reads and writes are masked to the lanes; a prefetch may miss the data.
    unsafe {
        for p in 0..right.length {
            let row = right.start.add(p * right.inner_step);
            let ahead = row.wrapping_add(AHEAD * right.inner_step);
            let x: [__m512; R] = std::array::from_fn(|i| _mm512_set1_ps(left[p * step + i]));
            for w in 0..SPAN {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(w * WIDTH).cast());
                let v = _mm512_maskz_loadu_ps(masks[w], row.wrapping_add(w * WIDTH));
                for (sums, x) in sums.iter_mut().zip(x) {
                    sums[w] = _mm512_fmadd_ps(x, v, sums[w]);
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            for (w, sum) in sums.into_iter().enumerate() {
                let to = c.wrapping_add(i * c_step + w * WIDTH);
                _mm512_mask_storeu_ps(to, masks[w], sum);
            }
        }
    }
}

/// Columns that run along the inner dim: 16 by 16 numbers are transposed on their way.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f")]
unsafe fn along<const R: usize>(
    left: &[f32],
    step: usize,
    right: Lanes<'_>,
    c: *mut f32,
    c_step: usize,
) {
    let mut sums = [_mm512_setzero_ps(); R];
    // SAFETY: reads are masked to the lanes, writes to their number.
    unsafe {
        for first in (0..right.length).step_by(WIDTH) {
            let length = WIDTH.min(right.length - first);
            let mut rows = [_mm512_setzero_si512(); WIDTH];
            for (lane, row) in rows.iter_mut().enumerate().take(right.n) {
                let from = right.start.add(lane * right.lane_step + first);
                *row = _mm512_castps_si512(_mm512_maskz_loadu_ps(mask(length), from));
            }
            transpose(&mut rows);
            for (q, row) in rows.into_iter().enumerate().take(length) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(left[(first + q) * step + i]);
                    *sum = _mm512_fmadd_ps(x, _mm512_castsi512_ps(row), *sum);
                }
            }
        }
        for (i, sum) in sums.into_iter().enumerate() {
            _mm512_mask_storeu_ps(c.add(i * c_step), mask(right.n), sum);
        }
    }
}
