//! Integration tests of `caravan-checkpoint`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "all of this is tests"
)]

mod crash; // a saving process killed at random moments
mod damage; // bit flips, truncation, hostile manifests: an error each, never wrong data
mod disk_full; // a file system without room, a limit on file sizes
mod environment; // how child processes of these tests find their orders
mod golden; // a checkpoint that the first format's program wrote
mod layouts; // saved on one layout, read on every other
mod make; // the checkpoints the tests work on
mod rank_crash; // two saving processes, one of them or both killed at random moments
mod rank_damage; // what ranks report and leave behind is wrong: an error each, never wrong data
mod ranks; // tensors, layouts and saving ranks for the tests
mod roots; // LATEST, listing, pruning, leftovers of kills
mod round_trip; // what is saved comes back, bit for bit; other tools read it
