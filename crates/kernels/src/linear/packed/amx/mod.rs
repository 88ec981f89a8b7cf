//! Products on AMX, whose tiles multiply bf16 and add in f32: of f32 in f32 accuracy, or of f32 rounded to bf16.
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
//! of the tile instruction.
//!
//! # Reference
//! Henry, Tang, Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For
//! Higher-Precision Computations", 2019, section III (three-way split, six products);
//! Intel Architecture Instruction Set Extensions Programming Reference, chapter 3 (AMX).

mod one;
mod pack;
mod three;
mod tile;

use super::Engine;
use super::lanes::{Lanes, Role};
use pack::{STEP, pack_panel, step_bytes};
use tile::Tiles;

pub(super) use tile::is_available;

/// Slice of the inner dim that is summed up in tile registers before the result goes to memory. Twice as
/// much or half of it was slower, for three parts and for one.
const KC: usize = 512;
/// Lanes of a packed panel, and rows and columns of the block of the result in tile registers.
const PANEL: usize = 32;

/// The engine that splits each number into `P` bf16.
pub(super) struct Amx<const P: usize>;

impl<const P: usize> Engine for Amx<P> {
    const ROWS: usize = PANEL;
    const COLUMNS: usize = PANEL;
    const ANY_ROWS: bool = false;
    /// Well inside the second-level cache of the CPUs with AMX (2 MiB).
    const OWN_BYTES: usize = 768 << 10;
    const GROUP: usize = 8;
    const STRETCH: usize = KC;
    type Registers = Tiles;

    fn slice(_: usize) -> usize {
        KC
    }

    fn panel_bytes(_: Role, kc: usize) -> usize {
        kc.div_ceil(STEP) * step_bytes(P)
    }

    fn registers() -> Tiles {
        Tiles::new()
    }

    unsafe fn pack(lanes: Lanes<'_>, role: Role, out: *mut u8) {
        // SAFETY: the caller's promises.
        unsafe { pack_panel::<P>(lanes, role, out) };
    }

    unsafe fn multiply(
        tiles: &Tiles,
        kc: usize,
        left: *const u8,
        right: *const u8,
        c: *mut f32,
        stride: usize,
        _: usize,
        add: bool,
    ) {
        // SAFETY: the caller's promises.
        unsafe { tiles.multiply::<P>(kc, left, right, c, stride, add) };
    }
}
