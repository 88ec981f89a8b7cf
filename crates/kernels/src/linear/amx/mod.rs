//! The matrix product on AMX, whose tiles multiply bf16 and add in f32: of f32 in f32 accuracy, or of
//! f32 rounded to bf16.
//!
//! # In f32
//! An f32 has 24 significant bits, a bf16 has 8, so each factor is exactly (up to its last bit) the
//! sum of three bf16: `a = a0 + a1 + a2`. Of the nine products the six largest are added,
//! `a0 b0 + a0 b1 + a1 b0 + a1 b1 + a0 b2 + a2 b0`; what is left out is below `2^-25 |a| |b|`, less
//! than the rounding of the additions that every f32 product has. So this is an f32 product in f32
//! accuracy, not a mixed-precision one; the tests hold it to the error of the FMA product against
//! float64. Six tile products still take less than half the time of one on AVX-512 FMA.
//!
//! # In bf16
//! Each factor is its nearest bf16, and one tile product a step is enough: the product of the rounded
//! factors is exact in f32, so what is lost is their rounding, `2^-9` of each, and that of the sums.
//!
//! # In both
//! Infinite factors give NaN in f32 (`inf - inf` in the split), and results below the smallest normal f32
//! are flushed to zero; training is over in the first case and blind to the second.
//!
//! Each element is a sum over slices of [`KC`] of the inner dim, in order, each slice in the order
//! of the tile instruction: the bits do not depend on the thread count or on how `m` and `n` are cut.
//!
//! # Reference
//! Henry, Tang, Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For
//! Higher-Precision Computations", 2019, section III (three-way split, six products);
//! Intel Architecture Instruction Set Extensions Programming Reference, chapter 3 (AMX);
//! blocking as in Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008.
#![allow(unsafe_code)] // strided reads, tile instructions, blocks of one output written by many tasks

mod one;
mod pack;
mod three;
mod tile;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use crate::flex_data::{Slot, all_f32, tensor, unwritten, written};
use pack::{Lanes, Packed, Role, pack_panel};
use tile::Tiles;

use super::{Precision, is_large};

/// Slice of the inner dim that is summed up in tile registers before the result goes to memory. Twice as
/// much or half of it was slower, for three parts and for one.
const KC: usize = 512;
/// Of one part of one element.
const BF16_BYTES: usize = 2;
/// bf16 that make an f32.
const SPLIT: usize = 3;
/// Lanes of a packed panel, and rows and columns of the block of the result in tile registers.
const PANEL: usize = 32;
/// What a task packs for itself: well inside the second-level cache of the CPUs with AMX (2 MiB).
const OWN_BYTES: usize = 768 << 10;
/// What all tasks share, packed before they start.
const SHARED_BYTES: usize = 32 << 20;
/// Panels of the shared side that stay in cache while a task goes through its own.
const GROUP: usize = 8;
/// Whether the product of these two is done here.
pub(super) fn takes(a: &FlexTensor, b: &FlexTensor) -> bool {
    is_large(&a.shape(), &b.shape()) && all_f32(&[a, b]) && tile::is_available()
}

/// `a b`, for `a: [m, k]` and `b: [k, n]` that [`takes`] accepted.
pub(super) fn matrix_product(a: &FlexTensor, b: &FlexTensor, precision: Precision) -> FlexTensor {
    let (a, b) = (dense(a), dense(b));
    let (m, k, n) = (a.shape()[0], a.shape()[1], b.shape()[1]);
    let mut c = unwritten(m * n);
    let (rows, columns, output) = (lanes_of(&a, false), lanes_of(&b, true), Output::new(&mut c, n));
    match precision {
        Precision::F32 => product::<SPLIT>(rows, columns, k, output),
        Precision::Bf16 => product::<1>(rows, columns, k, output),
    }
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

/// The result, written in disjoint blocks by many tasks.
#[derive(Clone, Copy)]
struct Output {
    start: *mut f32,
    rows: usize,
    columns: usize,
}

// SAFETY: tasks write disjoint blocks.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    fn new(slots: &mut [Slot], columns: usize) -> Self {
        Self { start: slots.as_mut_ptr().cast(), rows: slots.len() / columns, columns }
    }
}

/// `c = a b`, each factor as `P` bf16. The longer side of `c` is cut among the tasks, each of which packs its own share; the
/// shorter side is packed once for all.
fn product<const P: usize>(a: Lanes<'_>, b: Lanes<'_>, k: usize, c: Output) {
    let rows_are_long = a.len() >= b.len();
    let (long, short) = if rows_are_long { (a, b) } else { (b, a) };
    let (long_role, short_role) =
        if rows_are_long { (Role::Left, Role::Right) } else { (Role::Right, Role::Left) };
    let n_panels = short.len().div_ceil(PANEL);
    let chunk = chunk_of(long.len(), k, P);
    // The inner dim in pieces whose shared side fits; whole slices, so the sums stay the same.
    let piece = (SHARED_BYTES / (P * BF16_BYTES * short.len())).max(KC) / KC * KC;
    for k0 in (0..k).step_by(piece) {
        let piece = piece.min(k - k0);
        let shared = Packed::<P>::new(n_panels, piece);
        (0..n_panels * piece.div_ceil(KC)).into_par_iter().for_each(|i| {
            let (slice, panel) = (i / n_panels, i % n_panels);
            let part =
                short.part(panel * PANEL, PANEL, k0 + slice * KC, KC.min(piece - slice * KC));
            // SAFETY: `isa` of `takes` found AVX-512; each task packs another panel.
            unsafe { pack_panel::<P>(part, short_role, shared.panel(slice, panel)) };
        });
        let n_tasks = long.len().div_ceil(chunk);
        (0..n_tasks).into_par_iter().with_max_len(1).for_each_init(
            || (Packed::<P>::new(chunk.div_ceil(PANEL), KC.min(piece)), Tiles::new()),
            |(own, tiles), task| {
                let first = task * chunk;
                let n_own = chunk.min(long.len() - first).div_ceil(PANEL);
                for slice in 0..piece.div_ceil(KC) {
                    let kc = KC.min(piece - slice * KC);
                    for panel in 0..n_own {
                        let part = long.part(first + panel * PANEL, PANEL, k0 + slice * KC, kc);
                        // SAFETY: as above; `own` belongs to this task.
                        unsafe { pack_panel::<P>(part, long_role, own.panel_of(kc, panel)) };
                    }
                    let add = k0 + slice > 0;
                    for group in (0..n_panels).step_by(GROUP) {
                        for mine in 0..n_own {
                            for other in group..n_panels.min(group + GROUP) {
                                let (p, q) = (own.panel_of(kc, mine), shared.panel(slice, other));
                                let (i, j) = (first + mine * PANEL, other * PANEL);
                                let ((i, left), (j, right)) =
                                    if rows_are_long { ((i, p), (j, q)) } else { ((j, q), (i, p)) };
                                // SAFETY: both panels hold `kc` packed; the block is this task's.
                                unsafe { block::<P>(tiles, left, right, kc, c, i, j, add) };
                            }
                        }
                    }
                }
            },
        );
    }
}

/// Lanes of the long side that one task takes: as many as fit its cache, evenly for the threads.
fn chunk_of(long: usize, k: usize, parts: usize) -> usize {
    let most = (OWN_BYTES / (parts * BF16_BYTES * k.min(KC))).max(PANEL);
    let n_tasks = long.div_ceil(most).next_multiple_of(rayon::current_num_threads());
    long.div_ceil(n_tasks).next_multiple_of(PANEL)
}

/// One block of at most [`PANEL`] squared of the result; at the edges by way of a whole one.
///
/// # Safety
/// `left` and `right` are panels of `kc`, and nobody else touches the block at `(i, j)`.
#[allow(clippy::too_many_arguments, reason = "a block is its panels and its place")]
unsafe fn block<const P: usize>(
    tiles: &Tiles,
    left: *const u8,
    right: *const u8,
    kc: usize,
    c: Output,
    i: usize,
    j: usize,
    add: bool,
) {
    let (rows, columns) = (PANEL.min(c.rows - i), PANEL.min(c.columns - j));
    // SAFETY: the block begins inside the result.
    let at = unsafe { c.start.add(i * c.columns + j) };
    if rows == PANEL && columns == PANEL {
        // SAFETY: the whole block lies inside the result.
        unsafe { tiles.multiply::<P>(kc, left, right, at, c.columns, add) };
        return;
    }
    let mut edge = [0f32; PANEL * PANEL];
    for row in 0..rows {
        for column in 0..columns {
            if add {
                // SAFETY: inside the result, and written by the slices before.
                edge[row * PANEL + column] = unsafe { *at.add(row * c.columns + column) };
            }
        }
    }
    // SAFETY: `edge` is a whole block.
    unsafe { tiles.multiply::<P>(kc, left, right, edge.as_mut_ptr(), PANEL, add) };
    for row in 0..rows {
        for column in 0..columns {
            // SAFETY: inside the result.
            unsafe { *at.add(row * c.columns + column) = edge[row * PANEL + column] };
        }
    }
}

#[cfg(test)]
mod tests;
