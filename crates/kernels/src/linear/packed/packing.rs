//! Packing neighbouring panels.

use std::ops::Range;

use super::Engine;
use super::lanes::{Lanes, Role};

/// Packs the panels `panels` of `kc` inner indices from `inner` on, each into `room(panel)`.
///
/// # Safety
/// As [`Engine::pack`], for every panel.
pub(super) unsafe fn pack_panels<E: Engine>(
    lanes: Lanes<'_>,
    role: Role,
    panels: Range<usize>,
    (inner, kc): (usize, usize),
    room: impl Fn(usize) -> *mut u8,
) {
    let width = E::width(role);
    // Lanes that run along the inner dim are read in long runs anyway.
    let stretch = if lanes.lane_step == 1 { E::STRETCH } else { kc };
    for first in (0..kc).step_by(stretch) {
        for panel in panels.clone() {
            let length = stretch.min(kc - first);
            let part = lanes.part(panel * width, width, inner + first, length);
            // SAFETY: the caller's promises; a panel is packed inner index by inner index.
            unsafe { E::pack(part, role, room(panel).add(E::panel_bytes(role, first))) };
        }
    }
}
