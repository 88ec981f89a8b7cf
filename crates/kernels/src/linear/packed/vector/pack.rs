//! Laying lanes out so that those of one inner index lie side by side.

use std::arch::x86_64::*;

use super::super::lanes::Lanes;
use super::super::registers::{mask, round, transpose};

/// Lanes of a register of AVX2.
const HALF: usize = 8;

/// [`Vector::pack`](super::Vector::pack), eight numbers at a time.
///
/// # Safety
/// As there, with `avx2`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn half<const ROUND: bool>(lanes: Lanes<'_>, width: usize, out: *mut f32) {
    for first in (0..width).step_by(HALF) {
        let n = lanes.n.saturating_sub(first).min(HALF);
        let room = HALF.min(width - first);
        // The address may lie past the data where no lane is left; it is not read then.
        let start = lanes.start.wrapping_add(first * lanes.lane_step);
        let out = out.wrapping_add(first);
        let at = |lane: usize, p: usize| {
            start.wrapping_add(lane * lanes.lane_step + p * lanes.inner_step)
        };
        // SAFETY: reads lie inside the lanes and their length, writes inside the panel.
        unsafe {
            let mut p = 0;
            while p < lanes.length {
                let to = out.add(p * width);
                if lanes.lane_step == 1 && n == HALF {
                    write::<ROUND>(_mm256_loadu_ps(at(0, p)), room, to);
                    p += 1;
                } else if lanes.lane_step != 1 && p + HALF <= lanes.length {
                    let mut rows = [_mm256_setzero_ps(); HALF];
                    for (lane, row) in rows.iter_mut().enumerate().take(n) {
                        *row = _mm256_loadu_ps(at(lane, p));
                    }
                    transpose_half(&mut rows);
                    for (i, row) in rows.into_iter().enumerate() {
                        write::<ROUND>(row, room, to.add(i * width));
                    }
                    p += HALF;
                } else {
                    for lane in 0..room {
                        let x = if lane < n { seen::<ROUND>(*at(lane, p)) } else { 0.0 };
                        *to.add(lane) = x;
                    }
                    p += 1;
                }
            }
        }
    }
}

/// Writes the first `room` numbers.
///
/// # Safety
/// There is room for them, and the CPU has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn write<const ROUND: bool>(x: __m256, room: usize, to: *mut f32) {
    let mut all = [0.0f32; HALF];
    // SAFETY: the caller's room; `all` is a register long.
    unsafe {
        if room == HALF && !ROUND {
            _mm256_storeu_ps(to, x);
            return;
        }
        _mm256_storeu_ps(all.as_mut_ptr(), x);
        for (i, x) in all.into_iter().enumerate().take(room) {
            *to.add(i) = seen::<ROUND>(x);
        }
    }
}

/// Transposes a matrix of 8 by 8: pairs, then fours, then halves.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_half(r: &mut [__m256; HALF]) {
    let mut t = *r;
    for i in 0..4 {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..2 {
        r[4 * i] = _mm256_shuffle_ps::<0x44>(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm256_shuffle_ps::<0xee>(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm256_shuffle_ps::<0x44>(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm256_shuffle_ps::<0xee>(t[4 * i + 1], t[4 * i + 3]);
    }
    for i in 0..4 {
        t[i] = _mm256_permute2f128_ps::<0x20>(r[i], r[4 + i]);
        t[4 + i] = _mm256_permute2f128_ps::<0x31>(r[i], r[4 + i]);
    }
    *r = t;
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
