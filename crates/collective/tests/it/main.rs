//! Tests of the communicator and of the tensor operators on every engine.

// Tests report by printing.
#![allow(clippy::print_stderr, clippy::print_stdout)]

mod conformance; // what every engine must do, one function for all
mod failure; // ranks that panic, end early or call something else, on threads
mod gradients; // every tensor operator against one rank
mod mpi; // the same under mpirun: conformance, failures
mod nccl; // one rank on a device, where there is one
mod threads; // conformance on threads, and the order of sums
