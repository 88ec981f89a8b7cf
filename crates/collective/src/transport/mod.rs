//! The engines below a communicator.

use std::fmt::Debug;

use crate::call::Call;
use crate::element::{DType, ReduceOp};

#[cfg(feature = "mpi")]
pub mod mpi;
#[cfg(feature = "nccl")]
pub mod nccl;
pub mod threads;

/// One rank's view of a group on some engine: operations on bytes.
///
/// Whoever calls has checked the arguments: ranks exist, buffers have the lengths that the group's
/// size asks for. Buffers of reductions hold whole, aligned elements of `dtype`. One thread at a
/// time calls these.
pub(crate) trait Transport: Debug + Send + Sync {
    /// This rank in the group.
    fn rank(&self) -> usize;
    /// Ranks of the group.
    fn size(&self) -> usize;
    /// This rank in the world.
    fn world_rank(&self) -> usize;
    /// Whether a group has one rank, for which the communicator copies and asks no engine.
    fn is_local(&self) -> bool {
        self.size() == 1
    }
    /// Ranks of one color become a group, ordered by (key, rank).
    fn split(&self, axis: &str, color: usize, key: usize) -> Result<Box<dyn Transport>, Fault>;
    /// The same ranks with a message space of their own.
    fn duplicate(&self, axis: &str) -> Result<Box<dyn Transport>, Fault>;
    /// A call is about to be made.
    fn begins(&self, _call: Call) {}
    /// The call has returned.
    fn ends(&self) {}
    fn barrier(&self) -> Result<(), Fault>;
    fn broadcast(&self, root: usize, data: &mut [u8]) -> Result<(), Fault>;
    fn all_reduce(&self, op: ReduceOp, dtype: DType, data: &mut [u8]) -> Result<(), Fault>;
    /// `send`: one block per rank, each as long as `recv`.
    fn reduce_scatter(
        &self,
        op: ReduceOp,
        dtype: DType,
        send: &[u8],
        recv: &mut [u8],
    ) -> Result<(), Fault>;
    /// `recv`: one block per rank, each as long as `send`.
    fn all_gather(&self, send: &[u8], recv: &mut [u8]) -> Result<(), Fault>;
    fn all_gather_v(&self, send: &[u8], recv: &mut dyn Receive) -> Result<(), Fault>;
    /// Both: one block per rank, all equally long.
    fn all_to_all(&self, send: &[u8], recv: &mut [u8]) -> Result<(), Fault>;
    /// `send`: one part per rank.
    fn all_to_all_v(&self, send: &[&[u8]], recv: &mut dyn Receive) -> Result<(), Fault>;
    /// Returns as soon as `data` may change; never waits for the receiver.
    fn send(&self, to: usize, tag: u32, data: &[u8]) -> Result<(), Fault>;
    fn recv(&self, from: usize, tag: u32, data: &mut [u8]) -> Result<(), Fault>;
    /// Ends all ranks of the world: `rank` (of the world) failed with `message`.
    fn fail(&self, rank: usize, message: &str) -> !;
    /// A handle was dropped while its thread unwinds.
    fn unwinds(&self);
}

/// Receive buffers that are made once the lengths are known.
pub(crate) trait Receive {
    /// One buffer per rank with these lengths in bytes, or the index of a length that is not a whole
    /// number of elements.
    fn allocate(&mut self, n_bytes: &[usize]) -> Result<Vec<&mut [u8]>, usize>;
    /// Bytes of one element.
    fn element_bytes(&self) -> usize;
}

/// What an engine reports; the communicator adds the call and the axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A rank of the world failed.
    Failed { rank: usize, message: String },
    /// A rank of the world has ended without failing, and it is waited for.
    Ended { rank: usize },
    /// Rank `from` of the group sent another number of bytes than expected.
    Length { from: usize, found: usize, expected: usize },
    /// The engine's own error.
    #[cfg(any(feature = "mpi", feature = "nccl"))]
    Engine { name: &'static str, text: String },
    /// An argument is beyond what the engine can count.
    #[cfg(feature = "mpi")]
    TooLarge { what: &'static str, found: usize, limit: usize },
}

/// Hands `parts`, one per rank, to the buffers of `recv`.
pub(crate) fn deliver(parts: &[&[u8]], recv: &mut dyn Receive) -> Result<(), Fault> {
    let n_bytes: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    for (buffer, part) in room(recv, &n_bytes)?.into_iter().zip(parts) {
        buffer.copy_from_slice(part);
    }
    Ok(())
}

/// The buffers of `recv` for `n_bytes` from each rank.
pub(crate) fn room<'a>(
    recv: &'a mut dyn Receive,
    n_bytes: &[usize],
) -> Result<Vec<&'a mut [u8]>, Fault> {
    let element_bytes = recv.element_bytes();
    recv.allocate(n_bytes).map_err(|from| {
        let found = n_bytes[from];
        Fault::Length { from, found, expected: found - found % element_bytes }
    })
}
