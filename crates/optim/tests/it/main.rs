//! Integration tests of `caravan-optim`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "all of this is tests"
)]

mod golden; // AdamW, clipping and the cosine schedule against torch in float64
mod witness; // finds the Python interpreter for tests that need one
