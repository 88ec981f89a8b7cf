//! The factors as they lie in memory, and the result.

use std::marker::PhantomData;

use crate::flex_data::Slot;

/// Which factor a panel belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Rows of the left factor.
    Left,
    /// Columns of the right factor.
    Right,
}

/// Lanes of equal length in memory; one of the two steps is 1.
#[derive(Clone, Copy)]
pub(super) struct Lanes<'a> {
    pub(super) start: *const f32,
    pub(super) n: usize,
    pub(super) length: usize,
    pub(super) lane_step: usize,
    pub(super) inner_step: usize,
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

    /// Lanes with the same steps elsewhere in the data; whoever reads them answers for the place.
    pub(super) fn placed(self, start: *const f32, n: usize, length: usize) -> Self {
        Self { start, n, length, ..self }
    }

    /// Up to `n` lanes from `first` on, of each `length` elements from `inner` on.
    pub(super) fn part(self, first: usize, n: usize, inner: usize, length: usize) -> Self {
        assert!(first < self.n && inner + length <= self.length, "the part lies inside");
        let offset = first * self.lane_step + inner * self.inner_step;
        // SAFETY: its first element lies inside the data, as checked here and in `new`.
        Self { start: unsafe { self.start.add(offset) }, n: n.min(self.n - first), length, ..self }
    }
}

/// The result, written in disjoint blocks by many tasks.
#[derive(Clone, Copy)]
pub(super) struct Output {
    start: *mut f32,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

// SAFETY: tasks write disjoint blocks.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    pub(super) fn new(slots: &mut [Slot], columns: usize) -> Self {
        Self { start: slots.as_mut_ptr().cast(), rows: slots.len() / columns, columns }
    }

    /// Where the element of row `i` and column `j` lies.
    pub(super) fn at(self, i: usize, j: usize) -> *mut f32 {
        self.start.wrapping_add(i * self.columns + j)
    }
}
