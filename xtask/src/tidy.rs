//! `cargo xtask tidy`: the import table and the house rules, as a program instead of as a memory.
//!
//! | file | rules |
//! |---|---|
//! | `imports.rs` | which crate may import which, and which may reach Burn |
//! | `manifests.rs` | lints, pins, examples, the crate map in README |
//! | `sources.rs` | file length, unfinished code, ignored tests, crate docs |
//! | `tree.rs` | paths and names of one machine, mail addresses, sizes, copied data |
//!
//! Each rule is a function from text to findings, so each has a test that shows it failing.

mod imports;
mod manifests;
mod sources;
mod tree;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

use crate::project::{self, Project};

/// Checks the import table and the house rules.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct Args {}

/// Runs every rule over the tree; the exit code says whether all hold.
///
/// # Errors
/// When a file cannot be read or cargo or git fails.
pub(crate) fn run(_: &Args) -> Result<ExitCode> {
    let findings = check()?;
    for finding in &findings {
        println!("{finding}");
    }
    let failures = findings.iter().filter(|finding| finding.is_failure).count();
    println!("tidy: {failures} findings, {} warnings", findings.len() - failures);
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All findings, warnings included.
///
/// # Errors
/// As [`run`].
pub(crate) fn check() -> Result<Vec<Finding>> {
    let sh = project::shell()?;
    let project = Project::load(&sh)?;
    let files = files(&sh)?;
    let mut findings = imports::check(&sh, &project)?;
    findings.extend(manifests::check(&project, &files));
    findings.extend(sources::check(&files));
    findings.extend(tree::check(&files, &tree::Machine::look(&sh)?)?);
    findings.sort_by(|a, b| (!a.is_failure, &a.place).cmp(&(!b.is_failure, &b.place)));
    Ok(findings)
}

/// Something that a rule has to say about a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    is_failure: bool,
    /// `path` or `path:line`.
    place: String,
    message: String,
}

impl Finding {
    /// Breaks a rule.
    fn failure(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { is_failure: true, place: place.into(), message: message.into() }
    }

    /// Worth a look.
    fn warning(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { is_failure: false, place: place.into(), message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_failure { "error" } else { "warning" };
        write!(f, "{kind}: {}: {}", self.place, self.message)
    }
}

/// A file of the repository.
#[derive(Clone, Debug)]
struct File {
    /// From the workspace, with `/`.
    path: String,
    /// Where it lies.
    full: PathBuf,
    n_bytes: u64,
    /// `None` when it is not UTF-8.
    text: Option<String>,
}

#[cfg(test)]
impl File {
    /// A file that exists only in a test.
    fn of_text(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            full: PathBuf::from(path),
            n_bytes: text.len() as u64,
            text: Some(text.to_owned()),
        }
    }
}

/// What git tracks or would track, without files that were deleted.
fn files(sh: &Shell) -> Result<Vec<File>> {
    let list = cmd!(sh, "git ls-files -z --cached --others --exclude-standard")
        .quiet()
        .read()
        .context("asking git for the files\nhelp: tidy works in a git checkout")?;
    let mut files = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        let full = project::root().join(path);
        if !full.is_file() {
            continue;
        }
        let bytes = std::fs::read(&full).with_context(|| format!("reading {path}"))?;
        files.push(File {
            path: path.to_owned(),
            full,
            n_bytes: bytes.len() as u64,
            text: String::from_utf8(bytes).ok(),
        });
    }
    Ok(files)
}
