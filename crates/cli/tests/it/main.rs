//! The program as its users meet it: real processes, real files.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // what tests may do

mod bad_input; // every mistake gives one clear error and no panic
mod bad_ranks; // the same for runs over ranks
mod commands; // the commands on a tiny run
mod download; // models by name from a hub on this machine
mod kill; // SIGKILL at random moments, resumed to the same bits
mod memory; // the predicted memory is what a run takes
mod ranks; // runs over ranks: their bits, stopped and resumed on other layouts
mod support;
mod tour; // a text, a configuration, a way to call the program
mod verify; // a layout against one rank
