//! Turning f32 into `P` bf16 and laying them out as tiles: three parts that together are the number,
//! or one, the nearest bf16.
//!
//! A panel is 32 lanes (rows of the left factor or columns of the right one) by `kc`. It is stored
//! step by step of 32 along `kc`; a step is `P` parts, a part two tiles of 16 lanes. A tile of the
//! left factor has a lane per row, one of the right factor a pair of inner indices per row.

use std::arch::x86_64::*;

use super::super::lanes::{Lanes, Role};
use super::super::registers::{round, transpose};
use super::PANEL;

/// Inner indices per step: a tile row holds 32 bf16.
pub(super) const STEP: usize = 32;
/// 16 rows of 64 bytes.
const TILE_BYTES: usize = 1024;
/// Lanes of a tile.
const HALF: usize = 16;
/// How far ahead of its use a lane is fetched, in elements: two steps.
const AHEAD_ALONG: usize = 2 * STEP;
/// How far ahead of its use a row across the lanes is fetched, in rows: one step.
const AHEAD_ACROSS: usize = STEP;
/// A step of a panel: two tiles for each of `parts` parts.
pub(super) const fn step_bytes(parts: usize) -> usize {
    parts * 2 * TILE_BYTES
}

/// Packs a panel: lanes past the last and inner indices past the end become zeros.
///
/// # Safety
/// The CPU has AVX-512 F and BW; `out` has room for the panel and nobody else touches it.
pub(super) unsafe fn pack_panel<const P: usize>(lanes: Lanes<'_>, role: Role, out: *mut u8) {
    debug_assert!(lanes.n <= PANEL);
    for step in 0..lanes.length.div_ceil(STEP) {
        let length = (lanes.length - step * STEP).min(STEP);
        for half in 0..PANEL / HALF {
            // SAFETY: inside the panel.
            let tile = unsafe { out.add(step * step_bytes(P) + half * TILE_BYTES) };
            let n = lanes.n.saturating_sub(half * HALF).min(HALF);
            // The address may lie past the data where no lane is left; it is not read then.
            let start = lanes
                .start
                .wrapping_add(half * HALF * lanes.lane_step + step * STEP * lanes.inner_step);
            // SAFETY: the caller's promises; `n` lanes of `length` from there lie inside the data.
            unsafe { pack_tiles::<P>(lanes.placed(start, n, length), role, tile) };
        }
    }
}

/// Packs up to 16 lanes by 32 into `P` tiles, [`TILE_BYTES`] times two apart.
///
/// What is read along the inner dim has a lane per row, the form of the left factor; what is read
/// across the lanes has a pair of inner indices per row, the form of the right one. The other way
/// round the rows are transposed on their way out.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_tiles<const P: usize>(lanes: Lanes<'_>, role: Role, out: *mut u8) {
    let along = lanes.inner_step == 1;
    if along == (role == Role::Left) {
        for row in 0..HALF {
            // SAFETY: the caller's promises.
            let parts: [_; P] = unsafe { if along { lane(lanes, row) } else { pair(lanes, row) } };
            for (i, part) in parts.into_iter().enumerate() {
                // SAFETY: the caller's room; tiles are 64-byte aligned.
                unsafe { _mm512_store_si512(out.add(i * 2 * TILE_BYTES + row * 64).cast(), part) };
            }
        }
        return;
    }
    let mut parts = [[_mm512_setzero_si512(); HALF]; P];
    for row in 0..HALF {
        // SAFETY: the caller's promises.
        let here: [_; P] = unsafe { if along { lane(lanes, row) } else { pair(lanes, row) } };
        for (part, here) in parts.iter_mut().zip(here) {
            part[row] = here;
        }
    }
    for (i, part) in parts.iter_mut().enumerate() {
        transpose(part);
        for (row, pairs) in part.iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_store_si512(out.add(i * 2 * TILE_BYTES + row * 64).cast(), *pairs) };
        }
    }
}

/// The 16 pairs of inner indices of one lane, zeros past the end and for a lane that is not there.
///
/// # Safety
/// As [`pack_panel`], and the lanes are contiguous along the inner dim.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn lane<const P: usize>(lanes: Lanes<'_>, lane: usize) -> [__m512i; P] {
    if lane >= lanes.n {
        return [_mm512_setzero_si512(); P];
    }
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    let mask = u32::MAX >> (STEP - lanes.length);
    // Rows lie too far apart for the hardware to guess the next ones; a prefetch may miss the data.
    _mm_prefetch::<_MM_HINT_T0>(
        lanes.start.wrapping_add(lane * lanes.lane_step + AHEAD_ALONG).cast(),
    );
    _mm_prefetch::<_MM_HINT_T0>(
        lanes.start.wrapping_add(lane * lanes.lane_step + AHEAD_ALONG + 16).cast(),
    );
    // SAFETY: masked to the lane's elements.
    let (low, high) = unsafe {
        let at = lanes.start.add(lane * lanes.lane_step);
        (
            _mm512_maskz_loadu_ps(mask as u16, at),
            _mm512_maskz_loadu_ps((mask >> 16) as u16, at.wrapping_add(16)),
        )
    };
    split(_mm512_permutex2var_ps(low, even, high), _mm512_permutex2var_ps(low, odd, high))
}

/// One pair of inner indices of 16 lanes, zeros past the end and for lanes that are not there.
///
/// # Safety
/// As [`pack_panel`], and neighbouring lanes lie side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pair<const P: usize>(lanes: Lanes<'_>, pair: usize) -> [__m512i; P] {
    let mask = ((1u32 << lanes.n) - 1) as u16;
    let row = |i: usize| {
        if i >= lanes.length {
            return _mm512_setzero_ps();
        }
        _mm_prefetch::<_MM_HINT_T0>(
            lanes.start.wrapping_add((i + AHEAD_ACROSS) * lanes.inner_step).cast(),
        );
        // SAFETY: masked to the lanes; the index lies inside them.
        unsafe { _mm512_maskz_loadu_ps(mask, lanes.start.add(i * lanes.inner_step)) }
    };
    split(row(2 * pair), row(2 * pair + 1))
}

/// Splits 16 pairs of f32 into `P` vectors of 16 pairs of bf16, the even one in the lower half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split<const P: usize>(mut even: __m512, mut odd: __m512) -> [__m512i; P] {
    let mut parts = [_mm512_setzero_si512(); P];
    for part in &mut parts {
        let (e, o) = (round(even), round(odd));
        *part =
            _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(e), 16), _mm512_castps_si512(o));
        // Exact: the difference of a number and its rounding has no more bits than the number.
        (even, odd) = (_mm512_sub_ps(even, e), _mm512_sub_ps(odd, o));
    }
    parts
}
