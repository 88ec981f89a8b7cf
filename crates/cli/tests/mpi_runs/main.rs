//! The program under `mpirun`: the same run on any number of processes, also when one of them dies.
//!
//! ```console
//! $ cargo test --release -p caravan-cli --features mpi --test mpi_runs [FILTER]
//! ```
//!
//! This file is both sides of it: without arguments the tests, which start the program and `mpirun`, and with the word
//! `rank` a rank that is to panic (`rank.rs`).
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // what tests may do

mod errors; // ranks that were started wrong
mod failures; // SIGKILL, SIGABRT and panics, and the runs that go on after them
mod launch; // a folder with text, mpirun, and what it says
mod rank; // a rank that panics
mod runs; // the same bits, and runs that are stopped

use std::panic::catch_unwind;
use std::process::ExitCode;

/// Everything, by name.
const TESTS: &[(&str, fn())] = &[
    (
        "four_processes_have_the_loss_curve_of_one_rank",
        runs::four_processes_have_the_loss_curve_of_one_rank,
    ),
    ("a_signal_to_the_launcher_stops_and_saves", runs::a_signal_to_the_launcher_stops_and_saves),
    (
        "a_classifier_over_processes_has_the_bits_of_one_rank",
        runs::a_classifier_over_processes_has_the_bits_of_one_rank,
    ),
    ("a_rank_that_is_killed_ends_all_at_once", failures::a_rank_that_is_killed_ends_all_at_once),
    ("a_rank_that_panics_ends_all_at_once", failures::a_rank_that_panics_ends_all_at_once),
    ("ranks_that_were_started_wrong_are_named", errors::ranks_that_were_started_wrong_are_named),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|word| word == "rank") {
        return rank::run(&args[1..]);
    }
    let filter = args.iter().find(|word| !word.starts_with('-')).map_or("", String::as_str);
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(filter)) {
        if !launch::has_mpirun() {
            eprintln!("NOT RUN: {name}: mpirun");
            continue;
        }
        let begun = std::time::Instant::now();
        let is_fine = catch_unwind(test).is_ok();
        println!("test {name} ... {}", if is_fine { "ok" } else { "FAILED" });
        eprintln!("{name}: {:.1} s", begun.elapsed().as_secs_f64());
        if is_fine { passed += 1 } else { failed += 1 }
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
