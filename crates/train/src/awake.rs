//! Keeps the threads of the pool awake while a step runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Looks for work that a thread does before it lets other programs have its core.
const SPINS: u32 = 64;

/// Runs `work` on the first thread of the pool, the others being awake until it returns.
///
/// A step is hundreds of parallel loops of a few hundred microseconds each. A thread that finds
/// nothing to do between two of them goes to sleep, and waking it takes a good part of the next.
///
/// Always the same thread: what a step frees lies in the allocator's heap of the thread that asked
/// for it, and another one would take new memory.
pub(crate) fn with_pool_awake<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let done = AtomicBool::new(false);
    let work = Mutex::new(Some(work));
    let results = rayon::broadcast(|context| {
        if context.index() > 0 {
            help_until(&done);
            return None;
        }
        let _end = SetOnDrop(&done);
        let work = work.lock().unwrap_or_else(PoisonError::into_inner).take();
        Some(work.expect("the first thread comes by once")())
    });
    results.into_iter().flatten().next().expect("a pool has a first thread")
}

/// Takes part in the pool's work until `done`.
fn help_until(done: &AtomicBool) {
    while !done.load(Ordering::Acquire) {
        let idle = |_| rayon::yield_now() != Some(rayon::Yield::Executed);
        if (0..SPINS).all(idle) {
            thread::yield_now();
        }
    }
}

/// A panic in the work ends the help too.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use rayon::prelude::*;

    use super::with_pool_awake;

    #[test]
    fn loops_inside_run_and_the_result_comes_back() {
        for _ in 0..100 {
            let sum: u64 = with_pool_awake(|| (0..1000u64).into_par_iter().sum());
            assert_eq!(sum, 499_500);
        }
    }

    #[test]
    fn a_panic_comes_out_and_leaves_the_pool_usable() {
        let caught = catch_unwind(AssertUnwindSafe(|| with_pool_awake(|| panic!("no"))));
        assert!(caught.is_err());
        assert_eq!(with_pool_awake(rayon::current_num_threads), rayon::current_num_threads());
    }
}
