//! The segment executor: forward and backward block by block, with graphs kept or recomputed.
//!
//! ```text
//! MicroBatch --forward_backward--> (Gradients, LossSum) --ExactSum::push(index)--> ... --finish--> one step's gradient
//! ```
//!
//! [`forward_backward`] takes one micro-batch through the model's segments. [`ExactSum`] adds micro-batches up in a tree
//! over their global index, so that the sum has the same bits whoever computed which of them. [`Gradients`] carries the result
//! by module path, in visit order. `examples/micro_batches.rs` shows the three at work.

pub mod context;
mod error;
mod executor;
mod gradients;
mod loss;
pub mod mutation;
mod seed;
mod tree;

pub use error::ParallelError;
pub use executor::{Activations, MicroBatch, forward_backward};
pub use gradients::{Gradient, Gradients};
pub use loss::{ExactSum, LossSum};
pub use tree::{BlockId, BlockTree, Combine};
