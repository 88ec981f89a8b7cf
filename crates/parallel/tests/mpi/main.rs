//! The table of layouts over MPI: every case that the launched ranks can fill, held against one rank.
//!
//! `cargo xtask ci mpi` builds it and runs it under `mpirun -n 8`, which all cases fit.

// A test tells by printing and fails by panicking.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]
// The threads' table uses the rest of what both share.
#![allow(dead_code)]

#[path = "../it/common.rs"]
mod common;
#[path = "../it/table.rs"]
mod table;

use std::process::ExitCode;
use std::time::Instant;

/// Updates after which the parameters are compared.
const STEPS: usize = 20;

fn main() -> ExitCode {
    let world = caravan_collective::mpi::world().unwrap();
    let first = world.rank() == 0;
    let all = [table::exact_cases(), table::close_cases(), table::fast_cases()].concat();
    let (mut n_passed, mut n_failed, mut n_too_large) = (0, 0, 0);
    for case in &all {
        let n_ranks = case.layout.world();
        if n_ranks > world.size() {
            n_too_large += 1;
            continue;
        }
        let begun = Instant::now();
        let takes_part = world.rank() < n_ranks;
        let group = world.split("world", usize::from(!takes_part), world.rank());
        let result = match takes_part {
            true => table::hold(case, group, STEPS),
            false => Ok(table::Apart::default()),
        };
        let failure = result.as_ref().err().cloned().unwrap_or_default();
        let failures = world.all_gather_v(failure.as_bytes());
        let failed = failures.iter().enumerate().find(|(_, text)| !text.is_empty());
        let (name, secs) = (case.layout.describe(), begun.elapsed().as_secs_f64());
        match failed {
            None => n_passed += 1,
            Some(_) => n_failed += 1,
        }
        if first {
            match (failed, result) {
                (Some((rank, text)), _) => {
                    println!("FAILED {name}: rank {rank}: {}", String::from_utf8_lossy(text));
                }
                (None, Ok(_)) if case.is_exact() => println!("ok {name}: same bits ({secs:.1} s)"),
                (None, Ok(apart)) => println!("ok {name}: {apart} ({secs:.1} s)"),
                (None, Err(_)) => {}
            }
        }
    }
    if first {
        let n = world.size();
        if n_too_large > 0 {
            println!("NOT RUN: {n_too_large} layouts of more than {n} ranks");
        }
        println!("layouts over MPI on {n} ranks: {n_passed} passed, {n_failed} failed");
    }
    if n_failed == 0 && n_passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
