//! One rank's view of a group: who takes part, other groups made from it, traffic, failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::call::{Call, Operation};
use crate::check::{HEADER_BYTES, Header, compare};
use crate::error::CollectiveError;
use crate::traffic::{Counter, Traffic};
use crate::transport::{Fault, Transport, threads};

/// One rank's view of a group of ranks.
///
/// A cheap handle: clones are the same view and share its counters. It may be sent to another
/// thread, but is used by one thread at a time; a thread that communicates beside another one gets
/// a [`duplicate`](Self::duplicate).
///
/// # Panics
/// Every operation panics with the text of a [`CollectiveError`] when another rank failed or has
/// ended, when lengths do not agree, when an argument does not fit the group, and when two threads
/// use it at once.
#[derive(Clone, Debug)]
pub struct Communicator {
    group: Arc<Group>,
    is_checked: bool,
}

/// What the clones of a communicator share.
#[derive(Debug)]
struct Group {
    transport: Box<dyn Transport>,
    axis: String,
    counter: Counter,
    /// Checked calls so far.
    sequence: AtomicU64,
    is_busy: AtomicBool,
}

impl Communicator {
    /// A group of one rank, which is also its world; every operation is local.
    pub fn alone() -> Self {
        Self::over(threads::alone(), "world")
    }

    pub(crate) fn over(transport: Box<dyn Transport>, axis: &str) -> Self {
        let group = Group {
            transport,
            axis: axis.to_owned(),
            counter: Counter::default(),
            sequence: AtomicU64::new(0),
            is_busy: AtomicBool::new(false),
        };
        Self { group: Arc::new(group), is_checked: false }
    }

    /// This rank in the group, from 0.
    pub fn rank(&self) -> usize {
        self.group.transport.rank()
    }

    /// Ranks of the group.
    pub fn size(&self) -> usize {
        self.group.transport.size()
    }

    /// The name it was made with, `world` for the first.
    pub fn axis(&self) -> &str {
        &self.group.axis
    }

    /// This rank among all ranks that were started.
    pub fn world_rank(&self) -> usize {
        self.group.transport.world_rank()
    }

    /// Parts the group: ranks that give the same `color` form a group named `axis`, ordered by
    /// `key` and then by their rank here. Collective over this group.
    ///
    /// # Panics
    /// As every operation; over MPI also when `color` or `key` exceeds 2^31 - 1.
    pub fn split(&self, axis: &str, color: usize, key: usize) -> Self {
        let call = Call::new(Operation::Split);
        let transport = self.guarded(call, |transport| transport.split(axis, color, key));
        self.derived(transport, axis)
    }

    /// The same ranks with a message space and counters of their own, for a thread that
    /// communicates beside this one. Collective over this group.
    pub fn duplicate(&self, axis: &str) -> Self {
        let call = Call::new(Operation::Duplicate);
        let transport = self.guarded(call, |transport| transport.duplicate(axis));
        self.derived(transport, axis)
    }

    /// The same communicator, but before each collective all ranks compare operation, root, element
    /// type and length, and the first that differs from rank 0 is named.
    ///
    /// All ranks of the group must use a checked handle, or none. Groups made from it are checked
    /// too. Messages are not compared beforehand: their receiver compares the length.
    pub fn checked(&self) -> Self {
        Self { group: Arc::clone(&self.group), is_checked: true }
    }

    /// What this rank did on this communicator and its clones so far.
    pub fn traffic(&self) -> Traffic {
        self.group.counter.read()
    }

    /// Ends all ranks of the world with this message.
    ///
    /// # Panics
    /// Always, where ranks are threads; over MPI the process ends.
    pub fn abort(&self, message: &str) -> ! {
        self.group.transport.fail(self.world_rank(), message)
    }

    /// The engine below.
    #[cfg(feature = "nccl")]
    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.group.transport
    }

    /// Makes a call: checks it, runs `body`, counts it as `bytes_sent`.
    pub(crate) fn call<R>(
        &self,
        call: Call,
        bytes_sent: usize,
        body: impl FnOnce(&dyn Transport) -> Result<R, Fault>,
    ) -> R {
        let start = Instant::now();
        let result = self.guarded(call, body);
        self.group.counter.add(bytes_sent as u64, start.elapsed());
        result
    }

    /// Ends all ranks unless the argument `what` fits.
    pub(crate) fn require(
        &self,
        fits: bool,
        call: Call,
        what: &'static str,
        found: usize,
        expected: impl FnOnce() -> String,
    ) {
        if !fits {
            self.raise(&CollectiveError::Argument {
                what,
                found,
                expected: expected(),
                call: call.to_string(),
                axis: self.axis().to_owned(),
                size: self.size(),
            });
        }
    }

    fn derived(&self, transport: Box<dyn Transport>, axis: &str) -> Self {
        let mut derived = Self::over(transport, axis);
        derived.is_checked = self.is_checked;
        derived
    }

    fn guarded<R>(&self, call: Call, body: impl FnOnce(&dyn Transport) -> Result<R, Fault>) -> R {
        let transport = &*self.group.transport;
        let Some(_busy) = Busy::enter(&self.group.is_busy) else {
            let axis = self.axis().to_owned();
            self.raise(&CollectiveError::Shared { rank: self.world_rank(), axis });
        };
        transport.begins(call);
        let checked = if self.is_checked && call.operation.is_collective() && self.size() > 1 {
            self.check(call)
        } else {
            Ok(())
        };
        let result = checked.and_then(|()| body(transport));
        transport.ends();
        match result {
            Ok(result) => result,
            Err(fault) => self.raise(&self.error(fault, call)),
        }
    }

    /// Compares `call` over the ranks.
    fn check(&self, call: Call) -> Result<(), Fault> {
        let sequence = self.group.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let world_rank = u32::try_from(self.world_rank()).unwrap_or(u32::MAX);
        let header = Header { sequence, world_rank, call }.to_bytes();
        let mut headers = vec![0; HEADER_BYTES * self.size()];
        self.group.transport.all_gather(&header, &mut headers)?;
        if let Err(error) = compare(&headers, self.axis()) {
            self.raise(&error);
        }
        Ok(())
    }

    fn error(&self, fault: Fault, call: Call) -> CollectiveError {
        let (axis, call) = (self.axis().to_owned(), call.to_string());
        match fault {
            Fault::Failed { rank, message } => CollectiveError::PeerFailed { rank, message },
            Fault::Ended { rank } => {
                CollectiveError::RankEnded { rank, waiting: self.world_rank(), call, axis }
            }
            Fault::Length { from, found, expected } => CollectiveError::Length {
                from,
                to: self.rank(),
                call,
                axis,
                found_bytes: found,
                expected_bytes: expected,
            },
            #[cfg(any(feature = "mpi", feature = "nccl"))]
            Fault::Engine { name, text } => {
                CollectiveError::Engine { engine: name, call, axis, text }
            }
            #[cfg(feature = "mpi")]
            Fault::TooLarge { what, found, limit } => {
                let (expected, size) = (format!("{limit} at most"), self.size());
                CollectiveError::Argument { what, found, expected, call, axis, size }
            }
        }
    }

    /// Ends all ranks with `error`, as the failure of the rank that it names.
    fn raise(&self, error: &CollectiveError) -> ! {
        let rank = match error {
            CollectiveError::PeerFailed { rank, .. }
            | CollectiveError::RankEnded { rank, .. }
            | CollectiveError::Mismatch { world_rank: rank, .. } => *rank,
            _ => self.world_rank(),
        };
        self.group.transport.fail(rank, &error.to_string())
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.group.transport.unwinds();
        }
    }
}

/// While it lives, one call is under way.
#[derive(Debug)]
struct Busy<'a>(&'a AtomicBool);

impl<'a> Busy<'a> {
    /// `None` when another call is under way.
    fn enter(is_busy: &'a AtomicBool) -> Option<Self> {
        (!is_busy.swap(true, Ordering::Acquire)).then(|| Self(is_busy))
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
