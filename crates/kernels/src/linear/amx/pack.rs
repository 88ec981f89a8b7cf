//! Turning f32 into `P` bf16 and laying them out as tiles: three parts that together are the number,
//! or one, the nearest bf16.
//!
//! A panel is 32 lanes (rows of the left factor or columns of the right one) by `kc`. It is stored
//! step by step of 32 along `kc`; a step is `P` parts, a part two tiles of 16 lanes. A tile of the
//! left factor has a lane per row, one of the right factor a pair of inner indices per row.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::{KC, PANEL};

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
const fn step_bytes(parts: usize) -> usize {
    parts * 2 * TILE_BYTES
}

/// Lanes of equal length in memory; one of the two steps is 1.
#[derive(Clone, Copy)]
pub(super) struct Lanes<'a> {
    start: *const f32,
    n: usize,
    length: usize,
    lane_step: usize,
    inner_step: usize,
    _data: PhantomData<&'a [f32]>,
}

// SAFETY: it is a shared view of a slice of floats.
unsafe impl Send for Lanes<'_> {}
// SAFETY: as above.
unsafe impl Sync for Lanes<'_> {}

impl<'a> Lanes<'a> {
    /// `n` lanes of `length` elements of `data`.
    ///
    /// # Panics
    /// If the lanes reach past the data or neither step is 1.
    pub(super) fn new(
        data: &'a [f32],
        n: usize,
        length: usize,
        lane_step: usize,
        inner_step: usize,
    ) -> Self {
        assert!(lane_step == 1 || inner_step == 1, "one dim is contiguous");
        assert!(
            (n - 1) * lane_step + (length - 1) * inner_step < data.len(),
            "the lanes lie inside the data"
        );
        Self { start: data.as_ptr(), n, length, lane_step, inner_step, _data: PhantomData }
    }

    /// How many lanes.
    pub(super) fn len(&self) -> usize {
        self.n
    }

    /// Up to `n` lanes from `first` on, of each `length` elements from `inner` on.
    pub(super) fn part(self, first: usize, n: usize, inner: usize, length: usize) -> Self {
        assert!(first < self.n && inner + length <= self.length, "the part lies inside");
        let offset = first * self.lane_step + inner * self.inner_step;
        // SAFETY: its first element lies inside the data, as checked here and in `new`.
        Self { start: unsafe { self.start.add(offset) }, n: n.min(self.n - first), length, ..self }
    }
}

/// Which factor a panel belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Rows of the left factor.
    Left,
    /// Columns of the right factor.
    Right,
}

/// Room for the panels of slices of the inner dim, each of [`KC`](super::KC) but the last; every
/// panel is written before it is read.
pub(super) struct Packed<const P: usize> {
    start: *mut u8,
    layout: Layout,
    n_panels: usize,
    length: usize,
}

// SAFETY: plain memory; tasks write disjoint panels.
unsafe impl<const P: usize> Send for Packed<P> {}
// SAFETY: as above.
unsafe impl<const P: usize> Sync for Packed<P> {}

impl<const P: usize> Packed<P> {
    /// Room for `n_panels` panels of `length` inner indices.
    pub(super) fn new(n_panels: usize, length: usize) -> Self {
        let bytes = n_panels * length.div_ceil(STEP) * step_bytes(P);
        let layout = Layout::from_size_align(bytes.max(64), 64).expect("a size that fits memory");
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        Self { start, layout, n_panels, length }
    }

    /// The panel of a slice, slices one after the other.
    pub(super) fn panel(&self, slice: usize, panel: usize) -> *mut u8 {
        let before = slice * KC / STEP * self.n_panels;
        let steps = (self.length - slice * KC).min(KC).div_ceil(STEP);
        self.at(before + panel * steps)
    }

    /// The panel where each has `kc` inner indices.
    pub(super) fn panel_of(&self, kc: usize, panel: usize) -> *mut u8 {
        self.at(panel * kc.div_ceil(STEP))
    }

    fn at(&self, step: usize) -> *mut u8 {
        assert!(step * step_bytes(P) < self.layout.size(), "a panel inside the room");
        // SAFETY: just checked.
        unsafe { self.start.add(step * step_bytes(P)) }
    }
}

impl<const P: usize> Drop for Packed<P> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start, self.layout) };
    }
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
            unsafe { pack_tiles::<P>(Lanes { start, n, length, ..lanes }, role, tile) };
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

/// The nearest bf16, ties to even, as f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn round(x: __m512) -> __m512 {
    let bits = _mm512_castps_si512(x);
    let odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    let up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(!0xffff)))
}

/// Transposes a 16 by 16 matrix of 32-bit elements: pairs, then fours, then 128-bit blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose(r: &mut [__m512i; 16]) {
    let mut t = *r;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..4 {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for i in 0..4 {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
    for i in 0..4 {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}
