//! Integration tests of the segment executor, one binary.

// Helpers of tests fail by panicking and report by printing, as tests do.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

/// Small models, batches, and bits of gradients.
mod common;
/// Context parallelism: every ring equals one rank.
mod context;
/// Keep, recompute, one graph, tied weights, sums over micro-batches.
mod executor;
/// Every layout of ranks equals one rank.
mod layouts;
/// Nothing is left behind after a step.
mod memory;
/// A model over ranks, held against the whole one.
mod ranks;
/// Reading over ranks.
mod reader;
/// Gradients and optimizer steps of transformers.
mod reference;
/// A sequence over ranks, held against one rank and against float64.
mod sequence;
/// The layouts, and what is compared.
mod table;
/// Tensor and sequence parallelism: every cut equals one rank.
mod tensor;
/// Bytes sent, held against the theory.
mod traffic;
/// Adapters and classes over tensor ranks.
mod tuned;
/// A configuration of a user, made small and held against one rank.
mod verify;
