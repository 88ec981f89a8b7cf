//! Integration tests of generation, one binary.

/// The decode loop against full forward passes, and where it stops.
mod decode;
/// Greedy ids of transformers.
mod reference;
/// Text: streaming, stop strings, callbacks, errors.
mod text;
