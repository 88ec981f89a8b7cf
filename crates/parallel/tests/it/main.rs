//! Integration tests of the segment executor, one binary.

/// Small models, batches, and bits of gradients.
mod common;
/// Keep, recompute, one graph, tied weights, sums over micro-batches.
mod executor;
/// Nothing is left behind after a step.
mod memory;
/// Gradients and optimizer steps of transformers.
mod reference;
