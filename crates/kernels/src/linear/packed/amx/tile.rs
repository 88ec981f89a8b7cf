//! The tile instructions. Rust 1.95 has no stable intrinsics for them, the assembler does.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::pack::STEP;
use super::{one, three};

/// `arch_prctl` code that asks the kernel for a register state (Linux 5.16, `arch/x86/include/uapi/asm/prctl.h`).
const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
/// The state of the tile registers.
const XFEATURE_XTILEDATA: libc::c_ulong = 18;
/// Bits of `CPUID.(EAX=7,ECX=0):EDX`.
const AMX_BF16: u32 = 1 << 22;
const AMX_TILE: u32 = 1 << 24;

/// Whether CPU and kernel let this process use tiles; asked once.
pub(in super::super) fn is_available() -> bool {
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
pub(in super::super) struct Tiles {
    /// Tile state belongs to a thread, so this must not leave it.
    _here: std::marker::PhantomData<*const ()>,
}

/// Fetches one row of the result for writing, and goes to the next: where the result is new memory,
/// the stores at the end would wait for all of it.
macro_rules! own_row {
    () => {
        "prefetchw [{row_at}]\nprefetchw [{row_at} + 64]\nadd {row_at}, {row_step}"
    };
}
pub(super) use own_row;

impl Tiles {
    /// Sets the registers up; [`is_available`] must have said yes.
    pub(super) fn new() -> Self {
        assert!(is_available(), "tiles are used only where they exist");
        // SAFETY: the CPU has tiles and the kernel allows them; the configuration is valid.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) };
        Self { _here: std::marker::PhantomData }
    }

    /// `c = left right` or `c += left right` for a block of 32 by 32, of panels of `P` parts.
    ///
    /// # Safety
    /// `left` and `right` point to panels with `kc` packed; `c` to 32 rows of 32 floats, `stride`
    /// floats apart, that nobody else touches.
    pub(super) unsafe fn multiply<const P: usize>(
        &self,
        kc: usize,
        left: *const u8,
        right: *const u8,
        c: *mut f32,
        stride: usize,
        add: bool,
    ) {
        const { assert!(P == 1 || P == 3, "one bf16 or three") };
        let steps = kc.div_ceil(STEP);
        // SAFETY: the caller's promises; tile registers are used by nobody else on this thread.
        unsafe {
            if P == 1 {
                one::multiply(steps, left, right, c, stride, add);
            } else {
                three::multiply(steps, left, right, c, stride, add);
            }
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: gives the registers back, so that the kernel no longer saves 8 KiB at each switch.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}
