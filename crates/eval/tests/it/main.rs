//! Integration tests of evaluation, one binary.

/// A small model, and the slow, plain way to score.
mod common;
/// Log-probabilities of ids, and those of transformers.
mod ids;
/// Multiple choice and continuation on small files.
mod tasks;
/// Perplexity and bits per byte.
mod text;
