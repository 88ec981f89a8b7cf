//! Matrix views over strided memory, their products on one thread, and scratch memory.
#![allow(unsafe_code)] // raw views, so that tasks may write disjoint parts of one output

use std::cell::Cell;

use burn::backend::flex::FlexTensor;

use crate::flex_data::Slot;

/// A view `[rows, cols]` of floats that something else owns.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) ptr: *const f32,
    pub(super) row_stride: isize,
    pub(super) col_stride: isize,
}

impl Matrix {
    /// `[positions, head_dim]` of one head of an f32 tensor `[b, heads, positions, head_dim]`.
    pub(super) fn head(t: &FlexTensor, b: usize, head: usize) -> Self {
        let (layout, strides) = (t.layout(), t.layout().strides());
        let offset = b as isize * strides[0] + head as isize * strides[1];
        let storage = t.storage::<f32>();
        Self {
            ptr: storage.as_ptr().wrapping_offset(layout.start_offset() as isize + offset),
            row_stride: strides[2],
            col_stride: strides[3],
        }
    }

    /// The rows of `width` floats one after the other.
    pub(super) fn dense(values: &[f32], width: usize) -> Self {
        Self { ptr: values.as_ptr(), row_stride: width as isize, col_stride: 1 }
    }

    pub(super) fn transposed(self) -> Self {
        Self { ptr: self.ptr, row_stride: self.col_stride, col_stride: self.row_stride }
    }

    pub(super) fn from_row(self, row: usize) -> Self {
        Self { ptr: self.ptr.wrapping_offset(row as isize * self.row_stride), ..self }
    }
}

/// What a product does with what lies in its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    Replace,
    Add,
}

/// `out[m, n] = scale * a[m, k] b[k, n]`, or added to `out`, whose rows are dense.
///
/// On the calling thread alone: the tasks around it are parallel, and the order of sums must not
/// depend on threads.
///
/// # Safety
/// The views `a` and `b` must cover their sizes and not overlap `out`.
pub(super) unsafe fn product(
    [m, n, k]: [usize; 3],
    out: &mut [f32],
    fill: Fill,
    a: Matrix,
    b: Matrix,
    scale: f32,
) {
    assert_eq!(out.len(), m * n, "the output of a product must fit");
    // SAFETY: the caller's promise for `a` and `b`; `out` was checked.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            fill == Fill::Add,
            a.ptr,
            a.col_stride,
            a.row_stride,
            b.ptr,
            b.col_stride,
            b.row_stride,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// An output that parallel tasks fill, each its own part.
#[derive(Clone, Copy)]
pub(super) struct SharedSlots {
    ptr: *mut Slot,
    len: usize,
}

// SAFETY: the pointer is only dereferenced through the unsafe methods, whose callers promise
// that no two tasks touch the same part.
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
