//! The tile instructions. Rust 1.95 has no stable intrinsics for them, the assembler does.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::PANEL;
use super::pack::STEP;

/// `arch_prctl` code that asks the kernel for a register state (Linux 5.16, `arch/x86/include/uapi/asm/prctl.h`).
const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
/// The state of the tile registers.
const XFEATURE_XTILEDATA: libc::c_ulong = 18;
/// Bits of `CPUID.(EAX=7,ECX=0):EDX`.
const AMX_BF16: u32 = 1 << 22;
const AMX_TILE: u32 = 1 << 24;

/// Whether CPU and kernel let this process use tiles; asked once.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let avx512 = crate::simd::isa() == crate::simd::Isa::V4;
        if !avx512 || __cpuid_count(7, 0).edx & (AMX_BF16 | AMX_TILE) != AMX_BF16 | AMX_TILE {
            return false;
        }
        // SAFETY: the call changes nothing but this process's permission; an old kernel refuses it.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    })
}

/// How often a step of the product calls `own_row!`.
const ROWS_PER_STEP: usize = 4;

/// The operand of `ldtilecfg`: palette 1, eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Tile registers set up on this thread, given back when dropped.
#[derive(Debug)]
pub(super) struct Tiles {
    /// Tile state belongs to a thread, so this must not leave it.
    _here: std::marker::PhantomData<*const ()>,
}

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

/// Fetches one row of the result for writing, and goes to the next: where the result is new memory,
/// the stores at the end would wait for all of it.
macro_rules! own_row {
    () => {
        "prefetchw [{row_at}]\nprefetchw [{row_at} + 64]\nadd {row_at}, {row_step}"
    };
}

impl Tiles {
    /// Sets the registers up; [`is_available`] must have said yes.
    pub(super) fn new() -> Self {
        assert!(is_available(), "tiles are used only where they exist");
        // SAFETY: the CPU has tiles and the kernel allows them; the configuration is valid.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) };
        Self { _here: std::marker::PhantomData }
    }

    /// `c = left right` or `c += left right` for a block of 32 by 32, in six tile products per step.
    ///
    /// Four registers hold the block, two the left panel, two the right one. The order of the parts,
    /// `(2,0) (1,0) (1,1) (0,1) (0,0) (0,2)`, changes one factor at a time, so only that is loaded.
    ///
    /// # Safety
    /// `left` and `right` point to panels with `kc` packed; `c` to 32 rows of 32 floats, `stride`
    /// floats apart, that nobody else touches.
    pub(super) unsafe fn multiply(
        &self,
        kc: usize,
        left: *const u8,
        right: *const u8,
        c: *mut f32,
        stride: usize,
        add: bool,
    ) {
        // SAFETY: the caller's promises; tile registers are used by nobody else on this thread.
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
                steps = inout(reg) kc.div_ceil(STEP) => _,
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
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: gives the registers back, so that the kernel no longer saves 8 KiB at each switch.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}
