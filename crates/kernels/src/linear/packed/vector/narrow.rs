//! Products of few rows: the left factor is packed once, the right one read once.

use rayon::prelude::*;

use super::super::Engine;
use super::super::block::block_at;
use super::super::lanes::{Lanes, Output, Role};
use super::super::packing::pack_panels;
use super::super::room::Room;
use super::{Fma, Vector};

/// Multiplications that are worth a task of their own.
const TASK: usize = 128 * 1024;
/// What a task packs of the right factor stays in its cache.
const OWN_BYTES: usize = 512 << 10;
/// Rows of the right factor this far apart, in floats, are read where they lie, also more than once.
const NEAR: usize = 4096;
/// Panels of a group: long runs of memory.
const GROUP: usize = 8;

/// `c = a b`, the columns cut among the tasks, each sum from beginning to end in registers.
pub(in super::super) fn product<V: Vector, const ROUND: bool>(
    a: Lanes<'_>,
    b: Lanes<'_>,
    c: Output,
) {
    let k = a.length;
    let n_left = a.n.div_ceil(V::ROWS);
    let left = Room::<Fma<V, ROUND>>::new(Role::Left, n_left, k, k);
    let room = |panel| left.panel(0, panel);
    // SAFETY: the caller chose an engine that the CPU has; nobody else has the room yet.
    unsafe { pack_panels::<Fma<V, ROUND>>(a, Role::Left, 0..n_left, (0, k), room) };

    let panel_bytes = Fma::<V, ROUND>::panel_bytes(Role::Right, k);
    let n_panels = b.n.div_ceil(V::COLUMNS);
    let group = (OWN_BYTES / panel_bytes)
        .clamp(1, GROUP)
        .min(n_panels.div_ceil(rayon::current_num_threads()));
    let least = TASK.div_ceil(a.n * k * V::COLUMNS * group);
    // Packing costs about as much as two blocks; rows far apart are worse, unless each number is used once.
    let in_place = b.lane_step == 1 && !ROUND && (n_left == 1 || b.inner_step <= NEAR);
    (0..n_panels.div_ceil(group)).into_par_iter().with_min_len(least).for_each_init(
        || Room::<Fma<V, ROUND>>::new(Role::Right, group, k, k),
        |own, task| {
            let first = task * group;
            let panels = first..n_panels.min(first + group);
            let is_whole = |panel: usize| (panel + 1) * V::COLUMNS <= b.n;
            let packed = match in_place {
                true => panels.clone().filter(|panel| !is_whole(*panel)).min(),
                false => Some(first),
            };
            let room = |panel: usize| own.panel(0, panel - first);
            if let Some(packed) = packed {
                let panels = packed..panels.end;
                // SAFETY: as above; the room is this thread's.
                unsafe { pack_panels::<Fma<V, ROUND>>(b, Role::Right, panels, (0, k), room) };
            }
            for panel in panels {
                let (right, step) = match packed.is_some_and(|packed| panel >= packed) {
                    true => (room(panel).cast_const().cast::<f32>(), V::COLUMNS),
                    false => {
                        let part = b.part(panel * V::COLUMNS, V::COLUMNS, 0, k);
                        (part.start, part.inner_step)
                    }
                };
                for mine in 0..n_left {
                    let left = left.panel(0, mine).cast_const().cast::<f32>();
                    let multiply = |c: *mut f32, c_step: usize, rows: usize, add: bool| {
                        // SAFETY: both factors have `k` inner indices; the block is this task's.
                        unsafe { V::multiply(k, left, right, step, c, c_step, rows, add) };
                    };
                    let (i, j) = (mine * V::ROWS, panel * V::COLUMNS);
                    // SAFETY: as above.
                    unsafe { block_at::<Fma<V, ROUND>>(&multiply, c, i, j, false) };
                }
            }
        },
    );
}
