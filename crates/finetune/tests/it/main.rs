//! Fine-tuning end to end, with tiny models.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

/// Classifiers: training, saving, what stays frozen.
mod classify;
/// Answers: what is learned, and from what.
mod instruct;
/// On ranks: the bits of one, or nearly so.
mod layouts;
/// PEFT's files, in and out.
mod peft;
/// Interrupted and resumed: the same bits.
mod runs;
/// What tests share: a model, examples, a session.
mod support;
