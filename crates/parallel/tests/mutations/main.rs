//! Faults that the tests of equality must notice: each is switched on in turn, and each must make a comparison with one
//! rank fail.
//!
//! A binary of its own, since a fault is on for the whole process: `cargo test -p caravan-parallel --features mutations`.

// Helpers of tests fail by panicking and report by printing, as tests do.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]
// The other binary uses the rest of what both share.
#![allow(dead_code)]

#[path = "../it/common.rs"]
mod common;
#[path = "../it/ranks.rs"]
mod ranks;

#[path = "../it/sequence.rs"]
mod sequence;
#[path = "../it/table.rs"]
mod table;
/// Tensor and sequence parallelism, the split vocabulary.
mod tensor;
#[path = "../it/tuned.rs"]
mod tuned;

/// Context parallelism: the ring and its sums.
mod context;
/// Every fault against the table of layouts and against `verify`.
mod layouts;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by every test that switches a fault on or needs all of them off.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `body` with a fault on.
fn with<R>(fault: &'static str, body: impl FnOnce() -> R) -> R {
    /// Switches it off, also when `body` panics.
    struct Off;
    impl Drop for Off {
        fn drop(&mut self) {
            caravan_parallel::mutation::set(None);
        }
    }
    let _off = Off;
    caravan_parallel::mutation::set(Some(fault));
    body()
}
