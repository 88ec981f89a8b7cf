//! Reads what the test harness prints and keeps the counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What became of all tests so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    passed: u64,
    failed: u64,
    /// Failures of earlier calls of cargo.
    failed_before: u64,
    ignored: u64,
    /// Checks that found what they need to be missing.
    not_run: Vec<NotRun>,
    /// The harness that is printing.
    part: Part,
    /// The checks of this harness in `not_run`.
    of_this_harness: BTreeSet<String>,
    /// A harness has said what it will run and not yet how it ended.
    is_open: bool,
}

/// A check that could not be made on this machine.
#[derive(Debug)]
struct NotRun {
    test: String,
    reason: String,
}

/// The part of a harness' output that a line belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    /// `test ... ok` lines.
    #[default]
    Tests,
    /// The output of tests that passed.
    Successes,
    /// The output of tests that failed.
    Failures,
}

impl Report {
    /// Takes in one line of the harness and says what of it a person should see.
    pub(crate) fn line<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        if line.starts_with("running ") && (line.ends_with(" tests") || line.ends_with(" test")) {
            self.close();
            self.is_open = true;
            return None;
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += count(result, "passed");
            self.failed += count(result, "failed");
            self.ignored += count(result, "ignored");
            self.is_open = false;
            self.part = Part::Tests;
            return Some(line);
        }
        match line {
            "successes:" => self.part = Part::Successes,
            "failures:" => self.part = Part::Failures,
            _ => {}
        }
        match self.part {
            Part::Failures => Some(line),
            Part::Successes => {
                self.note_not_run(line);
                None
            }
            Part::Tests => {
                let is_news = line.contains("FAILED") || line.contains("has been running for");
                is_news.then_some(line)
            }
        }
    }

    /// Cargo itself has ended. A failure that none of its tests explains is counted as one.
    pub(crate) fn cargo_ended(&mut self, success: bool) {
        self.close();
        if !success && self.failed == self.failed_before {
            self.failed += 1;
        }
        self.failed_before = self.failed;
    }

    /// An example has run.
    pub(crate) fn example(&mut self, success: bool) {
        if success { self.passed += 1 } else { self.failed += 1 }
    }

    /// Tests that failed, and harnesses that ended without a result.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// `N passed, N failed, N skipped`: a check that was not run has not passed.
    pub(crate) fn summary(&self) -> String {
        let not_run = self.not_run.len() as u64;
        let passed = self.passed.saturating_sub(not_run);
        format!("{passed} passed, {} failed, {} skipped", self.failed, self.ignored + not_run)
    }

    /// The checks that were not run, by kind, with the reasons; empty when all were.
    pub(crate) fn not_run_text(&self) -> String {
        let mut kinds: BTreeMap<&str, Vec<&NotRun>> = BTreeMap::new();
        for check in &self.not_run {
            kinds.entry(check.kind()).or_default().push(check);
        }
        let mut text = String::new();
        for (kind, checks) in kinds {
            let _ = writeln!(text, "NOT RUN: {} checks against {kind}", checks.len());
            let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for check in checks {
                reasons.entry(&check.reason).or_default().push(&check.test);
            }
            for (reason, tests) in reasons {
                let _ = writeln!(text, "    {reason}: {}", tests.join(", "));
            }
        }
        if self.ignored > 0 {
            let _ = writeln!(text, "NOT RUN: {} tests or doc tests marked ignored", self.ignored);
        }
        text
    }

    fn note_not_run(&mut self, line: &str) {
        let Some(rest) = line.trim_start().strip_prefix("NOT RUN: ") else { return };
        let (test, reason) = rest.split_once(": ").unwrap_or((rest, "no reason given"));
        if self.of_this_harness.insert(test.to_owned()) {
            self.not_run.push(NotRun { test: test.to_owned(), reason: reason.to_owned() });
        }
    }

    /// Ends a harness: one without a result has crashed.
    fn close(&mut self) {
        if self.is_open {
            self.failed += 1;
        }
        self.is_open = false;
        self.part = Part::Tests;
        self.of_this_harness.clear();
    }
}

impl NotRun {
    fn kind(&self) -> &'static str {
        let name = self.test.rsplit("::").next().unwrap_or(&self.test);
        if name.starts_with("python_") || self.reason.contains("CARAVAN_PYTHON") {
            "Python"
        } else if name.starts_with("shared_") || self.reason.contains("CARAVAN_SHARED") {
            "shared files"
        } else {
            "what this machine lacks"
        }
    }
}

/// The number before `word` in `ok. 3 passed; 0 failed; ...`.
fn count(result: &str, word: &str) -> u64 {
    let words: Vec<&str> = result.split([' ', ';']).collect();
    let found = words.windows(2).find(|pair| pair[1] == word);
    found.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> (Report, Vec<&str>) {
        let mut report = Report::default();
        let shown = output.lines().filter_map(|line| report.line(line)).collect();
        (report, shown)
    }

    const MIXED: &str = "
running 5 tests
test a ... ok
test it::python_ids ... ok
test it::shared_text ... ok
test slow has been running for over 60 seconds
test b ... FAILED
test c ... ignored

successes:

---- it::python_ids stdout ----
NOT RUN: it::python_ids: set CARAVAN_PYTHON
NOT RUN: it::python_ids: set CARAVAN_PYTHON

---- it::shared_text stdout ----
NOT RUN: it::shared_text: no folder at ../shared

successes:
    a

failures:

---- b stdout ----
thread 'b' panicked

failures:
    b

test result: FAILED. 3 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.0s
";

    #[test]
    fn a_check_that_was_not_run_has_not_passed() {
        let (mut report, shown) = read(MIXED);
        report.cargo_ended(false);
        assert_eq!(report.summary(), "1 passed, 1 failed, 3 skipped");
        assert_eq!(
            report.not_run_text(),
            "NOT RUN: 1 checks against Python\n    set CARAVAN_PYTHON: it::python_ids\n\
             NOT RUN: 1 checks against shared files\n    \
             no folder at ../shared: it::shared_text\n\
             NOT RUN: 1 tests or doc tests marked ignored\n"
        );
        assert!(shown.contains(&"thread 'b' panicked"));
        assert!(shown.contains(&"test slow has been running for over 60 seconds"));
        assert!(!shown.iter().any(|line| line.contains("... ok")));
    }

    #[test]
    fn equal_names_in_two_harnesses_are_two_checks() {
        let one = "running 1 test\nsuccesses:\nNOT RUN: shared_x: no files\n\
                   test result: ok. 1 passed; 0 failed; 0 ignored\n";
        let (report, _) = read(&one.repeat(2));
        assert_eq!(report.summary(), "0 passed, 0 failed, 2 skipped");
    }

    #[test]
    fn a_harness_that_crashes_is_a_failure() {
        let (mut report, _) = read("running 2 tests\ntest a ... ok\n");
        report.cargo_ended(false);
        assert_eq!(report.summary(), "0 passed, 1 failed, 0 skipped");
        let (mut report, _) = read(
            "running 2 tests\ntest a ... ok\nrunning 1 test\n\
             test result: ok. 1 passed; 0 failed; 0 ignored\n",
        );
        report.cargo_ended(false);
        assert_eq!(report.summary(), "1 passed, 1 failed, 0 skipped");
    }
}
