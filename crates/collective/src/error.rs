//! The one error type of this crate, and how the failure of a rank is reported.

use thiserror::Error;

/// What can go wrong between ranks.
///
/// Only starting an engine returns it. Within a group of ranks a call panics with its text, because
/// a rank that went on alone would leave the others waiting.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// Another rank failed first. `rank` counts in the world.
    #[error("rank {rank} failed: {message}")]
    PeerFailed {
        /// The rank in the world.
        rank: usize,
        /// Its message.
        message: String,
    },
    /// A rank has ended while others wait for it.
    #[error(
        "rank {rank} has ended while rank {waiting} waits for it in {call} on axis `{axis}`\n\
         help: every rank of an axis must make the same calls in the same order"
    )]
    RankEnded {
        /// The rank that ended, in the world.
        rank: usize,
        /// The rank that waits, in the world.
        waiting: usize,
        /// What it waits in.
        call: String,
        /// The axis of the group.
        axis: String,
    },
    /// The ranks of a checked communicator do not make the same call.
    #[error(
        "rank {rank} calls {call} on axis `{axis}` where rank 0 calls {expected}\n\
         help: every rank of an axis must make the same calls in the same order; this was checked \
         call {sequence}, and rank {rank} of the axis is rank {world_rank} of the world"
    )]
    Mismatch {
        /// The first rank of the axis whose call differs from rank 0's.
        rank: usize,
        /// The same rank, counted in the world.
        world_rank: usize,
        /// Its call.
        call: String,
        /// The axis of the group.
        axis: String,
        /// The call of rank 0.
        expected: String,
        /// Which checked call of the axis this was on `rank`, counted from 1.
        sequence: u64,
    },
    /// A message or a part of a collective has another length than its receiver expects.
    #[error(
        "rank {from} sends {found_bytes} bytes to rank {to} in {call} on axis `{axis}`, expected \
         {expected_bytes}\nhelp: sender and receiver must agree on length and element type"
    )]
    Length {
        /// The sender, in the axis.
        from: usize,
        /// The receiver, in the axis.
        to: usize,
        /// The call of the receiver.
        call: String,
        /// The axis of the group.
        axis: String,
        /// Bytes that came.
        found_bytes: usize,
        /// Bytes that the receiver has room for.
        expected_bytes: usize,
    },
    /// An argument does not fit the group.
    #[error(
        "{what} is {found} in {call} on axis `{axis}`, expected {expected}\n\
         help: the axis has {size} ranks"
    )]
    Argument {
        /// Which argument.
        what: &'static str,
        /// What was given.
        found: usize,
        /// What is accepted.
        expected: String,
        /// The call.
        call: String,
        /// The axis of the group.
        axis: String,
        /// Ranks of the axis.
        size: usize,
    },
    /// Two threads use one communicator at the same time.
    #[error(
        "two threads of rank {rank} use the communicator of axis `{axis}` at the same time\n\
         help: give each thread its own, made with `duplicate`"
    )]
    Shared {
        /// The rank, in the world.
        rank: usize,
        /// The axis of the group.
        axis: String,
    },
    /// The engine below reports an error.
    #[error(
        "{engine} reports an error in {call} on axis `{axis}`: {text}\n\
         help: look for the first message of {engine} above; another rank or its machine may be gone"
    )]
    Engine {
        /// Name of the engine.
        engine: &'static str,
        /// The call.
        call: String,
        /// The axis of the group.
        axis: String,
        /// The engine's own words.
        text: String,
    },
    /// The engine could not be started.
    #[error("{engine} could not be started: {text}\nhelp: {help}")]
    Start {
        /// Name of the engine.
        engine: &'static str,
        /// What happened.
        text: String,
        /// What to do.
        help: &'static str,
    },
}

/// The first rank of a group that failed, and its message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("rank {rank} failed: {message}")]
pub struct RankFailed {
    /// The rank, in the world.
    pub rank: usize,
    /// What it said.
    pub message: String,
}
