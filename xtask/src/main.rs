//! `cargo xtask`: builds and starts the `caravan` program, and checks the workspace.
//!
//! ```text
//! cargo xtask train ...   launch.rs   build `caravan` with the features the device needs, hand over
//! cargo xtask bench ...   bench.rs    the same for `bench train` and `bench decode`; criterion for other names
//! cargo xtask setup       setup.rs    native needs: cmake, a C++ compiler; --mpi and --tch theirs
//! cargo xtask test        test.rs     every test, doc test and example, with one summary
//! cargo xtask tidy        tidy.rs     import table and house rules
//! cargo xtask fixtures    fixtures.rs the story corpus
//! cargo xtask ci          ci.rs       all of it, as CI runs it
//! ```
//!
//! It depends on clap, anyhow and xshell alone and on no crate of the workspace, and has a target
//! folder of its own (see `.cargo/config.toml`), so it builds in seconds and never rebuilds the
//! rest. Please keep it so.

// It is a program that talks to a terminal, and the one that may read the environment.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod ci;
pub mod fixtures;
mod json;
mod launch;
mod project;
mod setup;
mod test;
mod tidy;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

/// Builds and starts Caravan; checks the workspace.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = launch::help())]
enum Command {
    Setup(setup::Args),
    Test(test::Args),
    Bench(bench::Args),
    Tidy(tidy::Args),
    Fixtures(fixtures::Args),
    Ci(ci::Args),
    /// A command of the `caravan` program, with its arguments untouched.
    #[command(external_subcommand)]
    Caravan(Vec<OsString>),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Setup(args) => setup::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Tidy(args) => tidy::run(&args),
        Command::Fixtures(args) => fixtures::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Ci(args) => ci::run(&args),
        Command::Caravan(words) => launch::run(&words),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", message(&error));
        ExitCode::FAILURE
    })
}

/// The causes on one line, and below it the `help:` of whichever has one.
fn message(error: &anyhow::Error) -> String {
    let mut causes = Vec::new();
    let mut help = None;
    for cause in error.chain().map(ToString::to_string) {
        match cause.split_once("\nhelp: ") {
            Some((cause, advice)) => {
                causes.push(cause.to_owned());
                help = help.or(Some(advice.to_owned()));
            }
            None => causes.push(cause),
        }
    }
    let help = help.map(|help| format!("\nhelp: {help}")).unwrap_or_default();
    causes.join(": ") + &help
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    #[test]
    fn the_help_comes_last() {
        let error = anyhow!("exit code 1").context("installing cmake\nhelp: run `x`");
        assert_eq!(super::message(&error), "installing cmake: exit code 1\nhelp: run `x`");
        assert_eq!(super::message(&anyhow!("a").context("b")), "b: a");
    }
}
