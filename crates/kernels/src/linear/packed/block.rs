//! One block of the result.

use super::Engine;
use super::lanes::Output;

/// More than any engine's block has.
const LARGEST: usize = 32 * 32;

/// The block of the result at `(i, j)`, of at most an engine's rows and columns: `multiply(c, stride, rows, add)` writes a
/// whole one, or one with fewer rows where the engine can.
///
/// # Safety
/// Nobody else touches the block, and `multiply` keeps inside what it is given.
pub(super) unsafe fn block_at<E: Engine>(
    multiply: &impl Fn(*mut f32, usize, usize, bool),
    c: Output,
    i: usize,
    j: usize,
    add: bool,
) {
    let (rows, columns) = (E::ROWS.min(c.rows - i), E::COLUMNS.min(c.columns - j));
    let at = c.at(i, j);
    if columns == E::COLUMNS && (rows == E::ROWS || E::ANY_ROWS) {
        multiply(at, c.columns, rows, add);
        return;
    }
    // Past the right edge lies the next row, past the last row nothing: by way of a whole block.
    const { assert!(E::ROWS * E::COLUMNS <= LARGEST, "a block fits") };
    let mut edge = [0f32; LARGEST];
    for row in 0..rows {
        for column in 0..columns {
            if add {
                // SAFETY: inside the result, and written by the slices before.
                edge[row * E::COLUMNS + column] = unsafe { *at.add(row * c.columns + column) };
            }
        }
    }
    multiply(edge.as_mut_ptr(), E::COLUMNS, rows, add);
    for row in 0..rows {
        for column in 0..columns {
            // SAFETY: inside the result.
            unsafe { *at.add(row * c.columns + column) = edge[row * E::COLUMNS + column] };
        }
    }
}
