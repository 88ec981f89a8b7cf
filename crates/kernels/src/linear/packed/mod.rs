//! Matrix products of packed panels, by the widest instructions that the CPU has.
//!
//! | engine | CPU | a product of f32 | a product rounded to bf16 |
//! |---|---|---|---|
//! | [`amx`] | AMX | six tile products of three bf16 parts each, in f32 accuracy | one tile product |
//! | [`vector`] | AVX-512, or AVX2 with FMA | one FMA an element | one FMA of rounded factors |
//!
//! An [`Engine`] packs and multiplies; [`product`] cuts the work for the caches and the threads. Each element is a sum over
//! the inner dim in an order that is the engine's alone: the bits do not depend on the thread count or on how the result is
//! cut. The vector engine adds one product after the other, so that a row of the result has the same bits whatever other rows
//! are computed with it.
//!
//! # Reference
//! Blocking as in Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008.
#![allow(unsafe_code)] // strided reads, vector and tile instructions, blocks of one output written by many tasks

mod amx;
mod block;
mod lanes;
mod packing;
mod product;
mod registers;
mod room;
mod vector;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

use super::{Precision, is_large};
use crate::flex_data::{all_f32, tensor, unwritten, written};
use crate::simd::{Isa, isa};
use amx::Amx;
use lanes::{Lanes, Output, Role};
use product::product;
use vector::{Avx2, Avx512, few};

/// bf16 that make an f32.
const SPLIT: usize = 3;

/// How a CPU multiplies, and the sizes that suit it.
trait Engine {
    /// Rows of a panel of the left factor, and of a block of the result.
    const ROWS: usize;
    /// Columns of a panel of the right factor, and of a block of the result.
    const COLUMNS: usize;
    /// Whether [`multiply`](Self::multiply) touches no row behind those that are needed.
    const ANY_ROWS: bool;
    /// What a task packs for itself stays in its cache.
    const OWN_BYTES: usize;
    /// Panels of the side that all tasks share that stay in cache while a task goes through its own.
    const GROUP: usize;
    /// Inner indices that are packed at once for neighbouring panels whose lanes lie side by side, so that memory is read in
    /// longer runs; a multiple of what the engine packs together.
    const STRETCH: usize;
    /// What a thread sets up once.
    type Registers;

    /// How much of an inner dim of `k` is summed up in registers before the result goes to memory.
    fn slice(k: usize) -> usize;

    /// Bytes of a panel of `kc` inner indices.
    fn panel_bytes(role: Role, kc: usize) -> usize;

    /// Sets a thread up; the CPU must have what the engine needs.
    fn registers() -> Self::Registers;

    /// Packs a panel: lanes past the last become zeros.
    ///
    /// # Safety
    /// The CPU has what the engine needs; `out` has room for the panel, is aligned to 64 bytes, and nobody else touches it.
    unsafe fn pack(lanes: Lanes<'_>, role: Role, out: *mut u8);

    /// `c = left right` or `c += left right` for a whole block, of which the first `rows` are needed.
    ///
    /// # Safety
    /// `left` and `right` are panels with `kc` packed; `c` points to `rows` rows of [`COLUMNS`](Self::COLUMNS) floats,
    /// `stride` floats apart, that nobody else touches, or to all rows of a block unless [`ANY_ROWS`](Self::ANY_ROWS).
    #[allow(clippy::too_many_arguments, reason = "a block is its panels and its place")]
    unsafe fn multiply(
        registers: &Self::Registers,
        kc: usize,
        left: *const u8,
        right: *const u8,
        c: *mut f32,
        stride: usize,
        rows: usize,
        add: bool,
    );

    /// Width of a panel.
    fn width(role: Role) -> usize {
        match role {
            Role::Left => Self::ROWS,
            Role::Right => Self::COLUMNS,
        }
    }
}

/// `a b`, for `a: [m, k]` and `b: [k, n]`, where that is faster here than in Burn.
pub(super) fn matrix_product(
    a: &FlexTensor,
    b: &FlexTensor,
    precision: Precision,
) -> Option<FlexTensor> {
    if !all_f32(&[a, b]) {
        return None;
    }
    let is_large = is_large(&a.shape(), &b.shape());
    if is_large && amx::is_available() {
        return Some(match precision {
            Precision::F32 => with(a, b, product::<Amx<SPLIT>>),
            Precision::Bf16 => with(a, b, product::<Amx<1>>),
        });
    }
    let rounds = is_large && precision == Precision::Bf16;
    match (isa(), rounds) {
        _ if !vector::takes(&a.shape(), &b.shape()) => None,
        (Isa::V4, _) if a.shape()[0] <= few::MOST => Some(with(a, b, few::product)),
        (Isa::V4, false) => Some(with(a, b, vector::product::<Avx512, false>)),
        (Isa::V4, true) => Some(with(a, b, vector::product::<Avx512, true>)),
        (Isa::V3, false) => Some(with(a, b, vector::product::<Avx2, false>)),
        (Isa::V3, true) => Some(with(a, b, vector::product::<Avx2, true>)),
        (Isa::Baseline, _) => None,
    }
}

/// `a b` by a function of the rows of `a` and the columns of `b`.
fn with(
    a: &FlexTensor,
    b: &FlexTensor,
    product: impl FnOnce(Lanes<'_>, Lanes<'_>, Output),
) -> FlexTensor {
    let (a, b) = (dense(a), dense(b));
    let (m, n) = (a.shape()[0], b.shape()[1]);
    let mut c = unwritten(m * n);
    product(lanes_of(&a, false), lanes_of(&b, true), Output::new(&mut c, n));
    // SAFETY: every element lies in the block of exactly one task, which wrote it.
    tensor(unsafe { written(c) }, [m, n])
}

/// A view that is contiguous along one of its dims, the only kind that packing reads.
fn dense(t: &FlexTensor) -> FlexTensor {
    let strides = t.layout().strides();
    let good = |long: isize, one: isize| one == 1 && long >= 0;
    if good(strides[0], strides[1]) || good(strides[1], strides[0]) {
        t.clone()
    } else {
        t.to_contiguous()
    }
}

/// The rows of `a`, or the columns of `b`, each running along the inner dim.
fn lanes_of(t: &FlexTensor, columns: bool) -> Lanes<'_> {
    let (shape, strides) = (t.shape(), t.layout().strides().to_vec());
    let (lane, inner) = if columns { (1, 0) } else { (0, 1) };
    let step = |dim: usize| strides[dim].unsigned_abs();
    let data = &t.storage::<f32>()[t.layout().start_offset()..];
    Lanes::new(data, shape[lane], shape[inner], step(lane), step(inner))
}

#[cfg(test)]
mod tests;
