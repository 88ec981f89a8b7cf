//! The library as a whole: runs in a temporary folder on made-up text.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // what tests may do

mod python; // TensorBoard's own reader sees what we wrote
mod reference; // one update is the update of PyTorch
mod runs; // stopping, resuming, recomputing, packing, mixing
mod stages; // a curriculum of scales
mod support; // a text, a configuration, an observer that remembers
