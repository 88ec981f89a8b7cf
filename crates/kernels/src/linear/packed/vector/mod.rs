//! Products on AVX-512 or AVX2, with one fused multiply-add for each pair of factors.
//!
//! Each element is `fma(.. fma(fma(0, a0, b0), a1, b1) ..)` over the inner dim in order: the same bits on both instruction
//! sets, for any number of threads, and for a row alone or among others.

mod avx2;
mod avx512;
mod block;
pub(super) mod few;
pub(super) mod narrow;
mod pack;

use std::marker::PhantomData;

use burn::tensor::Shape;

use super::Engine;
use super::lanes::{Lanes, Output, Role};
use crate::simd::{Isa, isa};

pub(super) use avx2::Avx2;
pub(super) use avx512::Avx512;

/// Slice of the inner dim whose panel of the right factor stays in the first-level cache.
const KC: usize = 256;
/// Below this many multiplications a call is over before cutting it pays.
const SMALLEST: usize = 16 * 1024;
/// Without AVX-512, products of fewer rows are those of a matrix and a vector or two, which Burn does better.
const FEWEST: usize = 4;
/// With more rows than this the right factor is worth packing for all of them.
const NARROW: usize = 64;

/// An instruction set with registers of floats.
pub(super) trait Vector: Send + Sync {
    /// Rows of a block.
    const ROWS: usize;
    /// Columns of a block.
    const COLUMNS: usize;

    /// Packs a panel of `width` lanes: inner index by inner index, zeros for lanes that are not there; rounded to bf16 where
    /// `ROUND` is true.
    ///
    /// # Safety
    /// The CPU has the instructions. `out` has room for `width` times the lanes' length, and nobody else touches it.
    unsafe fn pack<const ROUND: bool>(lanes: Lanes<'_>, width: usize, out: *mut f32);

    /// `c = left right` or `c += left right` for `rows` rows of a block.
    ///
    /// # Safety
    /// The CPU has the instructions. `left` holds `kc` times [`ROWS`](Self::ROWS) floats; `right` `kc` rows of
    /// [`COLUMNS`](Self::COLUMNS), `right_step` floats apart; `c` `rows` rows of them, `c_step` apart, that nobody else touches.
    #[allow(clippy::too_many_arguments, reason = "a block is its panels and its place")]
    unsafe fn multiply(
        kc: usize,
        left: *const f32,
        right: *const f32,
        right_step: usize,
        c: *mut f32,
        c_step: usize,
        rows: usize,
        add: bool,
    );
}

/// The engine of an instruction set; it rounds the factors to bf16 where `ROUND` is true.
pub(super) struct Fma<V, const ROUND: bool>(PhantomData<V>);

impl<V: Vector, const ROUND: bool> Engine for Fma<V, ROUND> {
    const ROWS: usize = V::ROWS;
    const COLUMNS: usize = V::COLUMNS;
    const ANY_ROWS: bool = true;
    const OWN_BYTES: usize = 512 << 10;
    const GROUP: usize = 8;
    const STRETCH: usize = 16;
    type Registers = ();

    fn slice(k: usize) -> usize {
        k.div_ceil(k.div_ceil(KC))
    }

    fn panel_bytes(role: Role, kc: usize) -> usize {
        kc * Self::width(role) * size_of::<f32>()
    }

    fn registers() {}

    unsafe fn pack(lanes: Lanes<'_>, role: Role, out: *mut u8) {
        // SAFETY: the caller's promises.
        unsafe { V::pack::<ROUND>(lanes, Self::width(role), out.cast()) };
    }

    unsafe fn multiply(
        (): &(),
        kc: usize,
        left: *const u8,
        right: *const u8,
        c: *mut f32,
        stride: usize,
        rows: usize,
        add: bool,
    ) {
        // SAFETY: the caller's promises.
        unsafe {
            V::multiply(kc, left.cast(), right.cast(), V::COLUMNS, c, stride, rows, add);
        }
    }
}

/// Whether `[m, k] x [k, n]` is worth it.
pub(super) fn takes(a: &Shape, b: &Shape) -> bool {
    let (m, k, n) = (a[0], a[1], b[1]);
    let is_few = m < FEWEST && isa() != Isa::V4;
    !is_few && n >= Avx2::COLUMNS && m * k * n >= SMALLEST
}

/// `c = a b`.
pub(super) fn product<V: Vector, const ROUND: bool>(a: Lanes<'_>, b: Lanes<'_>, c: Output) {
    match a.n <= NARROW {
        true => narrow::product::<V, ROUND>(a, b, c),
        false => super::product::<Fma<V, ROUND>>(a, b, c),
    }
}
