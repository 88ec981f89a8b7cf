//! The rows of one head, wherever they lie, outputs of parallel tasks, and scratch memory.
#![allow(unsafe_code)] // parallel tasks write disjoint parts of one output

use std::cell::Cell;

use burn::backend::flex::FlexTensor;

use crate::flex_data::Slot;

/// The rows of one head of an f32 tensor `[b, heads, positions, head_dim]` whose last dim is dense.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    storage: &'a [f32],
    start: isize,
    pub(super) stride: isize,
    n: usize,
    width: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn head(t: &'a FlexTensor, b: usize, head: usize) -> Self {
        let (layout, strides) = (t.layout(), t.layout().strides());
        let [_, _, n, width] = layout.shape().dims();
        assert!(strides[3] == 1 || width == 1, "the last dim is dense");
        let offset = b as isize * strides[0] + head as isize * strides[1];
        let start = layout.start_offset() as isize + offset;
        Self { storage: t.storage(), start, stride: strides[2], n, width }
    }

    pub(super) fn skip_rows(self, row: usize) -> Self {
        Self { start: self.start + row as isize * self.stride, n: self.n - row, ..self }
    }

    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        &self.storage[(self.start + row as isize * self.stride) as usize..][..self.width]
    }

    /// The address of a row.
    #[inline(always)]
    pub(super) fn at(&self, row: usize) -> *const f32 {
        self.row(row).as_ptr()
    }

    /// Panics unless there are `n` rows of at least `width` floats. All of them lie within the storage if
    /// the first and the last do.
    #[inline(always)]
    pub(super) fn check(&self, n: usize, width: usize) {
        assert!(n <= self.n && width <= self.width, "rows fit");
        self.row(0);
        self.row(n - 1);
    }
}

/// An output that parallel tasks fill, each its own part.
#[derive(Clone, Copy)]
pub(super) struct SharedSlots {
    ptr: *mut Slot,
    len: usize,
}

// SAFETY: the pointer is only dereferenced in `part`, whose callers promise that no two tasks
// touch the same one.
unsafe impl Send for SharedSlots {}
// SAFETY: as above.
unsafe impl Sync for SharedSlots {}

impl SharedSlots {
    pub(super) fn new(slots: &mut [Slot]) -> Self {
        Self { ptr: slots.as_mut_ptr(), len: slots.len() }
    }

    /// # Safety
    /// The output must outlive the part, and nothing else may touch it meanwhile.
    pub(super) unsafe fn part<'a>(self, start: usize, len: usize) -> &'a mut [Slot] {
        assert!(start + len <= self.len, "part {start}..{} of {}", start + len, self.len);
        // SAFETY: within the bounds; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}

/// Floats of a cache line: the parts of the scratch memory start on one.
const LINE: usize = 16;

thread_local! {
    /// Scratch memory of a thread: allocated once, grown when a task needs more.
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Runs `task` with parts of this thread's scratch memory of the given lengths; their contents are
/// whatever the last task left.
pub(super) fn with_scratch<const N: usize>(lens: [usize; N], task: impl FnOnce([&mut [f32]; N])) {
    let mut memory = SCRATCH.take();
    let needed = lens.iter().map(|len| len.next_multiple_of(LINE)).sum::<usize>() + LINE;
    if memory.len() < needed {
        memory = vec![0.0; needed];
    }
    let skip = memory.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let mut rest = &mut memory[skip..];
    task(lens.map(|len| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(LINE));
        rest = after;
        &mut part[..len]
    }));
    SCRATCH.set(memory);
}
