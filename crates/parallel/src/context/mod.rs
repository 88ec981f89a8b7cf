//! Context parallelism: the ranks of an axis share each sequence, and attention runs round their ring.
//!
//! ```text
//! sequence   | 0 | 1 | 2 | 3 |      two chunks per rank: rank r of C holds chunks r and 2C - 1 - r
//! rank 0       0           3        so each has as much of the causal triangle as any other,
//! rank 1           1   2            at every step of the ring
//! ```
//!
//! [`local_batch`] cuts a micro-batch to a rank's columns. [`Ring`] is given to the model
//! ([`Llama::with_attend`](caravan_model::Llama::with_attend)) and does the rest: positions, and attention to the whole
//! sequences. Everything else in the model works position by position. Losses and gradients come out as sums over the rank's
//! positions; [`finish_context`] adds them over the ranks, once per step.
//!
//! # Reference
//! Liu et al., "Ring Attention with Blockwise Transformers for Near-Infinite Context", 2023; the balanced order of chunks is
//! that of the Llama 3 report (2024, section 3.3.2) and of zigzag ring attention.

mod batch;
mod custom;
mod finish;
mod packet;
mod ring;
mod zigzag;

pub use batch::local_batch;
pub use finish::finish_context;
pub use ring::Ring;
pub use zigzag::{local_positions, owner};
