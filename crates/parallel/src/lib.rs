//! The segment executor: forward and backward block by block, with graphs kept or recomputed.
//!
//! ```text
//! MicroBatch --forward_backward--> (Gradients, LossSum) --ExactSum::push(index)--> ... --finish--> one step's gradient
//! ```
//!
//! [`forward_backward`] takes one micro-batch through the model's segments. [`ExactSum`] adds micro-batches up in a tree
//! over their global index, so that the sum has the same bits whoever computed which of them. [`Gradients`] carries the result
//! by module path, in visit order. `examples/micro_batches.rs` shows the three at work.

mod collect;
pub mod context;
mod engine;
mod error;
mod executor;
mod gradients;
mod loss;
mod mesh;
pub mod mutation;
mod norms;
mod pipeline;
#[cfg(feature = "mutations")]
pub mod probe;
#[cfg(not(feature = "mutations"))]
mod probe;
mod reader;
mod reduce;
mod schedule;
mod seed;
mod segments;
mod state;
mod store;
mod sums;
pub mod tensor;
mod theory;
mod tree;
mod update;
pub mod verify;

// The model on a mesh.
pub use collect::Values;
pub use engine::{Engine, NotFinite, StepOutcome, StepSettings};
pub use error::{ParallelError, Result};
pub use mesh::{Layout, Mesh, Place, Reduction, Schedule};
pub use reader::Reader;
pub use segments::{Portion, SegmentLayout, SegmentParam};
pub use state::StatePart;
pub use theory::{StepShape, expected_traffic};
// One micro-batch, and sums of many.
pub use executor::{Activations, MicroBatch, Segment, forward_backward};
pub use gradients::{Gradient, Gradients};
pub use loss::{ExactSum, LossSum};
pub use tree::{BlockId, BlockTree, Combine};
