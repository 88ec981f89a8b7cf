//! Ranks that talk to each other: one communicator over several engines, and collectives on
//! tensors with their own backward.
//!
//! ```text
//! src/communicator.rs   Communicator: who takes part, splitting, traffic, failure
//!    operations.rs      its collectives and messages on slices of elements
//!    call.rs, check.rs  what a call looks like, and the comparison of calls over the ranks
//!    element.rs         the element types and how they are reduced
//!    traffic.rs         counters, and what each operation counts as sent
//!    tensor/            the same on tensors, with a backward: enter, exit, gather, split, ...
//!    transport/         the engines: threads of this process, MPI, NCCL
//! ```
//!
//! A rank is one view of a group. All ranks of a group make the same collective calls in the same
//! order. What goes wrong on one rank ends them all with that rank's message: a call never returns
//! an error, it panics with the text of a [`CollectiveError`], and whoever started the ranks
//! ([`threads::run`], `mpirun`) reports the first that failed.
//!
//! ```
//! use caravan_collective::{ReduceOp, threads};
//!
//! let sums = threads::run(3, |group| {
//!     let mut values = [group.rank() as f32, 1.0];
//!     group.all_reduce(ReduceOp::Sum, &mut values);
//!     values
//! })?;
//! assert_eq!(sums, [[3.0, 3.0]; 3]);
//! # Ok::<(), caravan_collective::RankFailed>(())
//! ```

mod call;
mod check;
mod communicator;
mod element;
mod error;
mod operations;
pub mod tensor;
mod traffic;
mod transport;

pub use communicator::Communicator;
pub use element::{DType, Element, ReduceOp};
pub use error::{CollectiveError, RankFailed};
pub use traffic::Traffic;
#[cfg(feature = "mpi")]
pub use transport::mpi;
#[cfg(feature = "nccl")]
pub use transport::nccl;
pub use transport::threads;
