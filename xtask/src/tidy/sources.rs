//! Rules on Rust sources.

use super::{File, Finding};

/// A file longer than this deserves a look, one past [`MAX_LINES`] must be parted. Without tests.
const MANY_LINES: usize = 350;
const MAX_LINES: usize = 500;

/// What unfinished code looks like. Written in halves, so that this file does not name it.
const UNFINISHED: &[&str] = &[
    concat!("to", "do!("),
    concat!("unimpl", "emented!("),
    concat!("db", "g!("),
    concat!("FIX", "ME"),
];

/// A test that nobody runs.
const IGNORED: &str = concat!("#[ign", "ore");

/// Holds the rules over every Rust file.
pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let Some(text) = &file.text else {
            findings.push(Finding::failure(&file.path, "not UTF-8"));
            continue;
        };
        findings.extend(length(&file.path, text));
        findings.extend(unfinished(&file.path, text));
        findings.extend(crate_doc(&file.path, text));
    }
    findings
}

/// Short files, one topic each.
fn length(path: &str, text: &str) -> Option<Finding> {
    if is_test_file(path) {
        return None;
    }
    let n_lines = lines_before_tests(text);
    let message =
        format!("{n_lines} lines without tests; {MANY_LINES} is long, {MAX_LINES} the limit");
    match n_lines {
        0..=MANY_LINES => None,
        _ if n_lines <= MAX_LINES => Some(Finding::warning(path, message)),
        _ => Some(Finding::failure(path, message)),
    }
}

fn is_test_file(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// Lines up to the module of tests, which stands last.
fn lines_before_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    });
    tests.unwrap_or(lines.len())
}

/// Nothing unfinished, no test that nobody runs.
fn unfinished(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = format!("{path}:{}", index + 1);
        for word in UNFINISHED.iter().filter(|word| line.contains(*word)) {
            findings.push(Finding::failure(&place, format!("unfinished: `{word}`")));
        }
        if line.contains(IGNORED) {
            let message = "an ignored test: run it, or print `NOT RUN: <test>: <why>` and return";
            findings.push(Finding::failure(&place, message));
        }
    }
    findings
}

/// The root of a crate says what the crate is.
fn crate_doc(path: &str, text: &str) -> Option<Finding> {
    let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    let is_example = path.contains("/examples/") && path.matches('/').count() == 3;
    ((is_root || is_example) && !text.starts_with("//!"))
        .then(|| Finding::failure(path, "does not begin with a `//!` comment that says what it is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_warns_and_a_longer_one_fails() {
        let file = |n: usize| "x\n".repeat(n);
        assert_eq!(length("crates/a/src/b.rs", &file(350)), None);
        assert!(!length("crates/a/src/b.rs", &file(351)).unwrap().is_failure);
        assert!(length("crates/a/src/b.rs", &file(501)).unwrap().is_failure);
        assert_eq!(length("crates/a/tests/it/b.rs", &file(501)), None);
        assert_eq!(length("crates/a/src/b/tests.rs", &file(501)), None);
        let with_tests = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", file(300), file(400));
        assert_eq!(length("crates/a/src/b.rs", &with_tests), None);
    }

    #[test]
    fn unfinished_code_and_ignored_tests_fail() {
        for word in UNFINISHED {
            let text = format!("fn a() {{}}\nfn b() {{ {word}) }}\n");
            let findings = unfinished("a.rs", &text);
            assert_eq!(findings.len(), 1, "{word}");
            assert_eq!(findings[0].place, "a.rs:2");
        }
        assert_eq!(unfinished("a.rs", &format!("{IGNORED} = \"slow\"]")).len(), 1);
        assert_eq!(unfinished("a.rs", "let to_do = 1; // a method"), []);
    }

    #[test]
    fn a_crate_without_a_doc_fails() {
        assert!(crate_doc("crates/a/src/lib.rs", "mod b;\n").is_some());
        assert_eq!(crate_doc("crates/a/src/lib.rs", "//! A.\nmod b;\n"), None);
        assert!(crate_doc("crates/a/examples/b.rs", "fn main() {}\n").is_some());
        assert_eq!(crate_doc("crates/a/src/b.rs", "fn b() {}\n"), None);
    }

    #[test]
    fn files_are_told_apart() {
        let files = [
            File::of_text("crates/a/src/lib.rs", "mod b;\n"),
            File::of_text("notes.md", concat!("to", "do!(")),
        ];
        assert_eq!(check(&files).len(), 1);
    }
}
