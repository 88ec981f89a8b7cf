//! Child processes of these tests are this test binary again, told by a variable what to do.
#![allow(clippy::disallowed_methods, reason = "tests read the environment here and nowhere else")]

use std::path::PathBuf;
use std::process::Command;

const ORDERS: &str = "CARAVAN_CHECKPOINT_CHILD";

/// The directory a child was told to work in; `None` when this is no child.
pub(crate) fn child_dir() -> Option<PathBuf> {
    std::env::var_os(ORDERS).map(PathBuf::from)
}

/// The arguments that run only the test `name` of this binary.
pub(crate) fn child_args(name: &str) -> [String; 4] {
    [name, "--exact", "--nocapture", "--test-threads=1"].map(str::to_owned)
}

/// A command that runs the test `name` of this binary as a child in `dir`.
pub(crate) fn child(name: &str, dir: &std::path::Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(child_args(name));
    orders(&mut command, dir);
    command
}

/// Tells a command, or what it starts, which directory to work in.
pub(crate) fn orders(command: &mut Command, dir: &std::path::Path) {
    command.env(ORDERS, dir);
}

/// The interpreter in `CARAVAN_PYTHON`; without it says so, once for the test.
pub(crate) fn python(test: &str) -> Option<String> {
    let python = std::env::var("CARAVAN_PYTHON").ok().filter(|path| !path.is_empty());
    if python.is_none() {
        not_run(test, "CARAVAN_PYTHON names no interpreter");
    }
    python
}

/// Says that `test` was skipped; `cargo xtask test` counts these lines.
pub(crate) fn not_run(test: &str, why: &str) {
    eprintln!("NOT RUN: {test}: {why}");
}
