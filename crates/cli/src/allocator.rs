//! The program's allocator: mimalloc, told to keep the pages of freed memory.
//!
//! A training step frees and asks for the same large buffers again and again. By default mimalloc gives
//! their pages back after a few milliseconds, and the kernel zeroes them again at the next step: a sixth
//! of the time of a step. Peak memory is the same either way.
#![allow(unsafe_code)] // one option is set through mimalloc's C interface

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of `mimalloc.h`: milliseconds until pages go back, -1 for never.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// To be called before anything large is allocated.
pub(crate) fn keep_pages() {
    // SAFETY: setting an option is safe at any time; the number is the option's place in the header.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}
