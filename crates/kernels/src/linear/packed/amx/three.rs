//! The block product of numbers split into three bf16.

use std::arch::asm;

use super::PANEL;
use super::tile::own_row;

/// How often a step of the product calls `own_row!`.
const ROWS_PER_STEP: usize = 4;

/// Fetches four lines of each panel's next step: a product takes 16 cycles, in which the loads of the
/// next one can come in from the second-level cache.
macro_rules! ahead {
    ($offset:literal) => {
        concat!(
            "prefetcht0 [{a} + ",
            $offset,
            " + 6144]\n",
            "prefetcht0 [{a} + ",
            $offset,
            " + 6208]\n",
            "prefetcht0 [{a} + ",
            $offset,
            " + 6272]\n",
            "prefetcht0 [{a} + ",
            $offset,
            " + 6336]\n",
            "prefetcht0 [{b} + ",
            $offset,
            " + 6144]\n",
            "prefetcht0 [{b} + ",
            $offset,
            " + 6208]\n",
            "prefetcht0 [{b} + ",
            $offset,
            " + 6272]\n",
            "prefetcht0 [{b} + ",
            $offset,
            " + 6336]"
        )
    };
}

/// `c = left right` or `c += left right` for a block of 32 by 32, in six tile products per step.
///
/// Four registers hold the block, two the left panel, two the right one. The order of the parts,
/// `(2,0) (1,0) (1,1) (0,1) (0,0) (0,2)`, changes one factor at a time, so only that is loaded.
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
            own_row!(),
            "tileloadd tmm6, [{b} + {row}*1]",
            "tileloadd tmm7, [{b} + {row}*1 + 1024]",
            "tileloadd tmm4, [{a} + {row}*1 + 4096]",
            "tileloadd tmm5, [{a} + {row}*1 + 5120]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            ahead!(0),
            "tdpbf16ps tmm1, tmm4, tmm7",
            ahead!(256),
            "tdpbf16ps tmm2, tmm5, tmm6",
            ahead!(512),
            "tdpbf16ps tmm3, tmm5, tmm7",
            ahead!(768),
            own_row!(),
            "tileloadd tmm4, [{a} + {row}*1 + 2048]",
            "tileloadd tmm5, [{a} + {row}*1 + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            ahead!(1024),
            "tdpbf16ps tmm1, tmm4, tmm7",
            ahead!(1280),
            "tdpbf16ps tmm2, tmm5, tmm6",
            ahead!(1536),
            "tdpbf16ps tmm3, tmm5, tmm7",
            ahead!(1792),
            own_row!(),
            "tileloadd tmm6, [{b} + {row}*1 + 2048]",
            "tileloadd tmm7, [{b} + {row}*1 + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            ahead!(2048),
            "tdpbf16ps tmm1, tmm4, tmm7",
            ahead!(2304),
            "tdpbf16ps tmm2, tmm5, tmm6",
            ahead!(2560),
            "tdpbf16ps tmm3, tmm5, tmm7",
            ahead!(2816),
            own_row!(),
            "tileloadd tmm4, [{a} + {row}*1]",
            "tileloadd tmm5, [{a} + {row}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            ahead!(3072),
            "tdpbf16ps tmm1, tmm4, tmm7",
            ahead!(3328),
            "tdpbf16ps tmm2, tmm5, tmm6",
            ahead!(3584),
            "tdpbf16ps tmm3, tmm5, tmm7",
            ahead!(3840),
            "tileloadd tmm6, [{b} + {row}*1]",
            "tileloadd tmm7, [{b} + {row}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            ahead!(4096),
            "tdpbf16ps tmm1, tmm4, tmm7",
            ahead!(4352),
            "tdpbf16ps tmm2, tmm5, tmm6",
            ahead!(4608),
            "tdpbf16ps tmm3, tmm5, tmm7",
            ahead!(4864),
            "tileloadd tmm6, [{b} + {row}*1 + 4096]",
            "tileloadd tmm7, [{b} + {row}*1 + 5120]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            ahead!(5120),
            "tdpbf16ps tmm1, tmm4, tmm7",
            ahead!(5376),
            "tdpbf16ps tmm2, tmm5, tmm6",
            ahead!(5632),
            "tdpbf16ps tmm3, tmm5, tmm7",
            ahead!(5888),
            "add {a}, 6144",
            "add {b}, 6144",
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
