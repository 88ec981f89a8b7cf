//! Python, where the caller names an interpreter.
#![allow(clippy::disallowed_methods, reason = "tests read the environment here and nowhere else")]

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
