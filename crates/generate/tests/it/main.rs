//! Integration tests of generation, one binary.

// Helpers of tests fail by panicking and report by printing, as tests do.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

/// Continuous batching.
mod batch;
/// The decode loop against full forward passes, and where it stops.
mod decode;
/// Greedy ids of transformers.
mod reference;
/// Text: streaming, stop strings, callbacks, errors.
mod text;
