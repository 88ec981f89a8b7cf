//! Integration tests of the model, on Flex.

// Helpers of tests fail by panicking and report by printing, as tests do.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

/// Positions that lie in another order.
mod attend;
/// Texts that share beginnings, in one row.
mod branches;
/// The KV cache: decoding step by step equals the full forward; no copies; limits.
mod cache;
/// Classes: the mean over a document, the mix of layers.
mod classifier;
/// Initial weights against a second implementation.
mod init;
/// Paths, flat parameters, regions, kernels, documents.
mod model;
/// Checks against Hugging Face's transformers.
mod python;
/// Logits, losses, gradients and greedy ids of the reference models.
mod reference;
/// Where shared files, Python and fixtures are; reading reference models.
mod support;
/// Model directories: out and in again, shards, formats, damage.
mod weights;
