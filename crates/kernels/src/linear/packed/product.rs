//! Cutting a product for the caches and the threads.

use rayon::prelude::*;

use super::Engine;
use super::block::block_at;
use super::lanes::{Lanes, Output, Role};
use super::packing::pack_panels;
use super::room::Room;

/// What all tasks share, packed before they start.
const SHARED_BYTES: usize = 32 << 20;

/// `c = a b`. The longer side of `c` is cut among the tasks, each of which packs its own share; the shorter side is packed
/// once for all.
pub(super) fn product<E: Engine>(a: Lanes<'_>, b: Lanes<'_>, c: Output) {
    let k = a.length;
    let rows_are_long = a.n >= b.n;
    let (long, short) = if rows_are_long { (a, b) } else { (b, a) };
    let (long_role, short_role) =
        if rows_are_long { (Role::Left, Role::Right) } else { (Role::Right, Role::Left) };
    let (long_width, short_width) = (E::width(long_role), E::width(short_role));
    let n_panels = short.n.div_ceil(short_width);
    let slice_len = E::slice(k);
    let chunk = chunk_of::<E>(long.n, long_role, slice_len.min(k));
    // The inner dim in pieces whose shared side fits; whole slices, so the sums stay the same.
    let per_slice = E::panel_bytes(short_role, slice_len.min(k)) * n_panels;
    let piece = (SHARED_BYTES / per_slice).max(1) * slice_len;
    for k0 in (0..k).step_by(piece) {
        let piece = piece.min(k - k0);
        let shared = Room::<E>::new(short_role, n_panels, piece, slice_len);
        let n_slices = piece.div_ceil(slice_len);
        let kc_of = |slice: usize| slice_len.min(piece - slice * slice_len);
        let n_groups = n_panels.div_ceil(E::GROUP);
        (0..n_groups * n_slices).into_par_iter().for_each(|i| {
            let (slice, first) = (i / n_groups, i % n_groups * E::GROUP);
            let panels = first..n_panels.min(first + E::GROUP);
            let inner = (k0 + slice * slice_len, kc_of(slice));
            let room = |panel| shared.panel(slice, panel);
            // SAFETY: the caller chose an engine that the CPU has; each task packs other panels.
            unsafe { pack_panels::<E>(short, short_role, panels, inner, room) };
        });
        let n_tasks = long.n.div_ceil(chunk);
        (0..n_tasks).into_par_iter().with_max_len(1).for_each_init(
            || {
                let n_own = chunk.div_ceil(long_width);
                (Room::<E>::new(long_role, n_own, slice_len.min(piece), slice_len), E::registers())
            },
            |(own, registers), task| {
                let first = task * chunk;
                let n_own = chunk.min(long.n - first).div_ceil(long_width);
                for slice in 0..n_slices {
                    let (kc, inner) = (kc_of(slice), k0 + slice * slice_len);
                    let before = first / long_width;
                    let room = |panel| own.panel_of(kc, panel - before);
                    let panels = before..before + n_own;
                    // SAFETY: as above; `own` belongs to this task.
                    unsafe { pack_panels::<E>(long, long_role, panels, (inner, kc), room) };
                    let add = inner > 0;
                    for group in (0..n_panels).step_by(E::GROUP) {
                        for mine in 0..n_own {
                            for other in group..n_panels.min(group + E::GROUP) {
                                let (p, q) = (own.panel_of(kc, mine), shared.panel(slice, other));
                                let (i, j) = (first + mine * long_width, other * short_width);
                                let ((i, left), (j, right)) =
                                    if rows_are_long { ((i, p), (j, q)) } else { ((j, q), (i, p)) };
                                let multiply =
                                    |c: *mut f32, step: usize, rows: usize, add: bool| {
                                        // SAFETY: both panels hold `kc` packed; the block is this task's.
                                        unsafe {
                                            E::multiply(
                                                registers, kc, left, right, c, step, rows, add,
                                            );
                                        }
                                    };
                                // SAFETY: as above.
                                unsafe { block_at::<E>(&multiply, c, i, j, add) };
                            }
                        }
                    }
                }
            },
        );
    }
}

/// Lanes of the long side that one task takes: as many as fit its cache, evenly for the threads.
fn chunk_of<E: Engine>(long: usize, role: Role, slice: usize) -> usize {
    let width = E::width(role);
    let most = (E::OWN_BYTES / E::panel_bytes(role, slice)).max(1) * width;
    let n_tasks = long.div_ceil(most).next_multiple_of(rayon::current_num_threads());
    long.div_ceil(n_tasks).next_multiple_of(width)
}
