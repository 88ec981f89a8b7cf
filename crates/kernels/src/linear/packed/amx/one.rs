//! The block product of numbers rounded to bf16.

use std::arch::asm;

use super::PANEL;
use super::tile::own_row;

/// How often a step of the product calls `own_row!`.
const ROWS_PER_STEP: usize = 4;

/// Fetches eight lines of each panel, two steps ahead of their use.
macro_rules! ahead {
    ($panel:literal) => {
        concat!(
            "prefetcht0 [{",
            $panel,
            "} + 4096]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4160]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4224]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4288]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4352]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4416]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4480]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4544]"
        )
    };
}

/// `c = left right` or `c += left right` for a block of 32 by 32, in one tile product per step and
/// register. Four registers hold the block, two the left panel, two the right one.
///
/// # Safety
/// As [`Tiles::multiply`](super::tile::Tiles::multiply), on a thread with its registers set up.
pub(super) unsafe fn multiply(
    steps: usize,
    left: *const u8,
    right: *const u8,
    c: *mut f32,
    stride: usize,
    add: bool,
) {
    // SAFETY: the caller's promises.
    unsafe {
        asm!(
            "test {add}, {add}",
            "jnz 3f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 2f",
            "3:",
            "tileloadd tmm0, [{c0} + {stride}*1]",
            "tileloadd tmm1, [{c0} + {stride}*1 + 64]",
            "tileloadd tmm2, [{c1} + {stride}*1]",
            "tileloadd tmm3, [{c1} + {stride}*1 + 64]",
            "2:",
            "tileloadd tmm6, [{b} + {row}*1]",
            "tileloadd tmm4, [{a} + {row}*1]",
            own_row!(),
            "tileloadd tmm7, [{b} + {row}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            ahead!("b"),
            own_row!(),
            "tileloadd tmm5, [{a} + {row}*1 + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            ahead!("a"),
            own_row!(),
            "add {b}, 1024",
            "tdpbf16ps tmm2, tmm5, tmm6",
            ahead!("b"),
            own_row!(),
            "add {a}, 1024",
            "tdpbf16ps tmm3, tmm5, tmm7",
            ahead!("a"),
            "add {a}, 1024",
            "add {b}, 1024",
            // After 32 rows it stays where it is.
            "dec {rows}",
            "cmovz {row_step}, {rows}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c0} + {stride}*1], tmm0",
            "tilestored [{c0} + {stride}*1 + 64], tmm1",
            "tilestored [{c1} + {stride}*1], tmm2",
            "tilestored [{c1} + {stride}*1 + 64], tmm3",
            a = inout(reg) left => _,
            b = inout(reg) right => _,
            steps = inout(reg) steps => _,
            row_at = inout(reg) c => _,
            row_step = inout(reg) stride * size_of::<f32>() => _,
            rows = inout(reg) PANEL / ROWS_PER_STEP => _,
            c0 = in(reg) c,
            c1 = in(reg) c.add(16 * stride),
            stride = in(reg) stride * size_of::<f32>(),
            row = in(reg) 64usize,
            add = in(reg) usize::from(add),
            options(nostack),
        );
    }
}
