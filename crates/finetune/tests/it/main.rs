//! Fine-tuning end to end, with tiny models.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

/// Classifiers: training, saving, what stays frozen.
mod classify;
/// PEFT's files, in and out.
mod peft;
