//! Counters of what a communicator did, and what each operation counts as sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What one rank did on one communicator since it was made, all its clones together.
///
/// `bytes_sent` is what a sensible engine sends from this rank, not what travelled on a wire; the
/// sizes are those of this rank's buffers, `n` the ranks of the group:
///
/// | operation | bytes |
/// |---|---|
/// | `barrier` | 0 |
/// | `broadcast` | the root `(n - 1) * data`, the others 0 |
/// | `all_reduce` | `2 * (n - 1) * data / n`, rounded down: a ring |
/// | `reduce_scatter` | `(n - 1) * recv` |
/// | `all_gather`, `all_gather_v` | `(n - 1) * send` |
/// | `all_to_all`, `all_to_all_v` | what goes to other ranks |
/// | `send` | the message, 0 to oneself |
/// | `recv` | 0 |
///
/// Making other communicators and the headers of [`checked`](crate::Communicator::checked) count
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Operations, a message sent or received included.
    pub calls: u64,
    /// Bytes sent by the convention above.
    pub bytes_sent: u64,
    /// Seconds spent inside the operations, waiting for others included.
    pub secs: f64,
}

/// The counters behind [`Traffic`].
#[derive(Debug, Default)]
pub(crate) struct Counter {
    calls: AtomicU64,
    bytes_sent: AtomicU64,
    nanos: AtomicU64,
}

impl Counter {
    pub(crate) fn add(&self, bytes_sent: u64, time: Duration) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.bytes_sent.fetch_add(bytes_sent, Ordering::Relaxed);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Traffic {
        Traffic {
            calls: self.calls.load(Ordering::Relaxed),
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            secs: self.nanos.load(Ordering::Relaxed) as f64 * 1e-9,
        }
    }
}
