//! Laying lanes out so that those of one inner index lie side by side.

use std::arch::x86_64::*;

use super::super::lanes::Lanes;
use super::super::registers::{round, transpose};

/// Inner indices that are copied lane by lane before the next ones: a few cache lines of the panel.
const STRETCH: usize = 16;

/// [`Vector::pack`](super::Vector::pack), one number at a time.
///
/// # Safety
/// `out` has room for `width` times the lanes' length, and nobody else touches it.
pub(super) unsafe fn plain<const ROUND: bool>(lanes: Lanes<'_>, width: usize, out: *mut f32) {
    let Lanes { start, n, length, lane_step, inner_step, .. } = lanes;
    // SAFETY: all reads lie inside the lanes, all writes inside the panel.
    unsafe {
        if n < width {
            std::slice::from_raw_parts_mut(out, width * length).fill(0.0);
        }
        if lane_step == 1 {
            for p in 0..length {
                let from = std::slice::from_raw_parts(start.add(p * inner_step), n);
                let to = std::slice::from_raw_parts_mut(out.add(p * width), n);
                for (to, from) in to.iter_mut().zip(from) {
                    *to = seen::<ROUND>(*from);
                }
            }
            return;
        }
        for first in (0..length).step_by(STRETCH) {
            let stretch = STRETCH.min(length - first);
            for lane in 0..n {
                let from = std::slice::from_raw_parts(start.add(lane * lane_step + first), stretch);
                let to = out.add(first * width + lane);
                for (p, from) in from.iter().enumerate() {
                    *to.add(p * width) = seen::<ROUND>(*from);
                }
            }
        }
    }
}

/// The number, or the nearest bf16, ties to even.
#[inline(always)]
fn seen<const ROUND: bool>(x: f32) -> f32 {
    if !ROUND || x.is_nan() {
        return x;
    }
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// Lanes of a register.
const WIDTH: usize = 16;

/// [`Vector::pack`](super::Vector::pack), a register at a time.
///
/// # Safety
/// As there, with `avx512f`.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn wide<const ROUND: bool>(lanes: Lanes<'_>, width: usize, out: *mut f32) {
    for first in (0..width).step_by(WIDTH) {
        let n = lanes.n.saturating_sub(first).min(WIDTH);
        let (here, there) = (mask(n), mask(WIDTH.min(width - first)));
        // The address may lie past the data where no lane is left; it is not read then.
        let start = lanes.start.wrapping_add(first * lanes.lane_step);
        let out = out.wrapping_add(first);
        // SAFETY: reads are masked to the lanes and their length, writes to the panel's width.
        unsafe {
            if lanes.lane_step == 1 {
                for p in 0..lanes.length {
                    let from = start.wrapping_add(p * lanes.inner_step);
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD * lanes.inner_step).cast());
                    let x = seen_wide::<ROUND>(_mm512_maskz_loadu_ps(here, from));
                    _mm512_mask_storeu_ps(out.add(p * width), there, x);
                }
                continue;
            }
            for p in (0..lanes.length).step_by(WIDTH) {
                let length = WIDTH.min(lanes.length - p);
                let mut rows = [_mm512_setzero_si512(); WIDTH];
                for (lane, row) in rows.iter_mut().enumerate().take(n) {
                    let from = start.add(lane * lanes.lane_step + p);
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(4 * WIDTH).cast());
                    let x = seen_wide::<ROUND>(_mm512_maskz_loadu_ps(mask(length), from));
                    *row = _mm512_castps_si512(x);
                }
                transpose(&mut rows);
                for (i, row) in rows.into_iter().enumerate().take(length) {
                    _mm512_mask_storeu_ps(
                        out.add((p + i) * width),
                        there,
                        _mm512_castsi512_ps(row),
                    );
                }
            }
        }
    }
}

/// How many inner indices ahead of its use a row across the lanes is fetched.
const AHEAD: usize = 16;

/// The first `n` of 16.
fn mask(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as u16
}

/// As [`seen`], of a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn seen_wide<const ROUND: bool>(x: __m512) -> __m512 {
    if !ROUND {
        return x;
    }
    let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    _mm512_mask_mov_ps(round(x), is_nan, x)
}
