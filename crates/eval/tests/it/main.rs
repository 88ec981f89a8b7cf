//! Integration tests of evaluation, one binary.

// Helpers of tests fail by panicking and report by printing, as tests do.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

/// A small model, and the slow, plain way to score.
mod common;
/// Rows in every form, and what is wrong with them.
mod forms;
/// Log-probabilities of ids, and those of transformers.
mod ids;
/// Multiple choice and continuation on small files.
mod tasks;
/// Perplexity and bits per byte.
mod text;
/// The same numbers by transformers and the harness.
mod witness;
