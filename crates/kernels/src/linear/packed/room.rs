//! Memory for packed panels.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;

use super::Engine;
use super::lanes::Role;

/// Of a cache line, which every panel begins at.
const LINE: usize = 64;

/// Room for the panels of slices of the inner dim, all of one length but the last; every panel is written before it is
/// read.
pub(super) struct Room<E> {
    start: *mut u8,
    layout: Layout,
    role: Role,
    n_panels: usize,
    length: usize,
    slice: usize,
    _engine: PhantomData<fn() -> E>,
}

// SAFETY: plain memory; tasks write disjoint panels.
unsafe impl<E> Send for Room<E> {}
// SAFETY: as above.
unsafe impl<E> Sync for Room<E> {}

impl<E: Engine> Room<E> {
    /// Room for `n_panels` panels of `length` inner indices, in slices of `slice`.
    pub(super) fn new(role: Role, n_panels: usize, length: usize, slice: usize) -> Self {
        let (whole, rest) = (length / slice, length % slice);
        let bytes = n_panels * (whole * bytes_of::<E>(role, slice) + bytes_of::<E>(role, rest));
        let layout = Layout::from_size_align(bytes.max(LINE), LINE).expect("a size that fits");
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        Self { start, layout, role, n_panels, length, slice, _engine: PhantomData }
    }

    /// The panel of a slice, slices one after the other.
    pub(super) fn panel(&self, slice: usize, panel: usize) -> *mut u8 {
        let kc = (self.length - slice * self.slice).min(self.slice);
        let before = slice * self.n_panels * bytes_of::<E>(self.role, self.slice);
        self.at(before + panel * bytes_of::<E>(self.role, kc))
    }

    /// The panel where each has `kc` inner indices.
    pub(super) fn panel_of(&self, kc: usize, panel: usize) -> *mut u8 {
        self.at(panel * bytes_of::<E>(self.role, kc))
    }

    fn at(&self, byte: usize) -> *mut u8 {
        assert!(byte < self.layout.size(), "a panel inside the room");
        // SAFETY: just checked.
        unsafe { self.start.add(byte) }
    }
}

fn bytes_of<E: Engine>(role: Role, kc: usize) -> usize {
    E::panel_bytes(role, kc).next_multiple_of(LINE)
}

impl<E> Drop for Room<E> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start, self.layout) };
    }
}
