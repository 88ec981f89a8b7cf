//! `cargo xtask test`: every test, doc test and example of the workspace in release mode.
//!
//! Checks that need what this machine lacks (a Python with the reference libraries, the shared
//! test files) print one line `NOT RUN: <test>: <what is missing>` and return; they are counted
//! as skipped, never as passed. The last line is always `N passed, N failed, N skipped`.

mod report;

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

pub(crate) use self::report::Report;
use crate::project::{self, Project};
use crate::setup;

/// Runs all tests, doc tests and examples.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct Args {
    /// A Python with torch, transformers, sentencepiece and tokenizers: runs the checks against it
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Leave out doc tests, examples and the suite of deliberate faults
    #[arg(long)]
    quick: bool,
    /// Only tests and examples whose name contains this
    filter: Option<String>,
}

/// Runs the tests; the exit code says whether all passed.
///
/// # Errors
/// When cargo cannot be started or the Python does not exist.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let report = collect(args)?;
    println!("\n{}{}", report.not_run_text(), report.summary());
    Ok(if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the tests and returns what became of them.
///
/// # Errors
/// As [`run`].
pub(crate) fn collect(args: &Args) -> Result<Report> {
    let sh = project::shell()?;
    setup::ensure(&sh)?;
    let mut report = Report::default();
    let python = args.python.as_deref().map(absolute_program).transpose()?;
    let variables: Vec<(&str, OsString)> =
        python.into_iter().map(|path| ("CARAVAN_PYTHON", path.into())).collect();

    let cargo_args = cargo_arguments(args);
    let command = cmd!(sh, "cargo {cargo_args...}").envs(variables);
    eprintln!("$ {command}");
    run_cargo(command.into(), &mut report, &mut |line| println!("{line}"))?;
    if !args.quick {
        let cargo_args = fault_arguments(args);
        let command = cmd!(sh, "cargo {cargo_args...}");
        eprintln!("$ {command}");
        run_cargo(command.into(), &mut report, &mut |line| println!("{line}"))?;
        run_examples(&sh, args.filter.as_deref(), &mut report)?;
    }
    Ok(report)
}

/// Every target is run even after a failure, and the output of tests that pass is kept, because
/// that is where `NOT RUN:` lines are.
fn cargo_arguments(args: &Args) -> Vec<&str> {
    let mut words = vec!["test", "--release", "--workspace", "--no-fail-fast"];
    if args.quick {
        words.extend(["--lib", "--bins", "--tests"]);
    }
    words.extend(args.filter.as_deref());
    words.extend(["--", "--show-output"]);
    words
}

/// The tests that need faults compiled in. The whole workspace is named so that everything below `caravan-parallel` has
/// the features, and is the build, that the other tests have.
fn fault_arguments(args: &Args) -> Vec<&str> {
    let mut words = vec!["test", "--release", "--workspace", "--no-fail-fast"];
    words.extend(["--features", "caravan-parallel/mutations", "--test", "mutations"]);
    words.extend(args.filter.as_deref());
    words.extend(["--", "--show-output"]);
    words
}

/// Runs `cargo test`, adds its lines to `report` and shows those that say something.
fn run_cargo(mut command: Command, report: &mut Report, show: &mut dyn FnMut(&str)) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo test")?;
    let mut output = BufReader::new(child.stdout.take().context("no output of cargo test")?);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        if let Some(shown) = report.line(text.trim_end_matches(['\n', '\r'])) {
            show(shown);
        }
        line.clear();
    }
    let status = child.wait()?;
    report.cargo_ended(status.success());
    Ok(())
}

/// Builds the examples and runs each without arguments, in the folder of the workspace.
fn run_examples(sh: &Shell, filter: Option<&str>, report: &mut Report) -> Result<()> {
    let project = Project::load(sh)?;
    let mut names = example_names(&project);
    names.retain(|name| filter.is_none_or(|filter| name.contains(filter)));
    if names.is_empty() {
        return Ok(());
    }
    // `cargo test` has built them already, but not where it was given a filter.
    if cmd!(sh, "cargo build --release --workspace --examples").run().is_err() {
        report.example(false);
        return Ok(());
    }
    for name in names {
        let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
        let program = project.target.join("release/examples").join(file);
        let start = Instant::now();
        let output =
            Command::new(&program).current_dir(project::root()).stdin(Stdio::null()).output();
        let failure = match output {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(format!(
                "{}\n{}{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )),
            Err(error) => Some(format!("{}: {error}", program.display())),
        };
        report.example(failure.is_none());
        let secs = start.elapsed().as_secs_f64();
        match failure {
            None => println!("example {name} ... ok ({secs:.1} s)"),
            Some(failure) => println!("example {name} ... FAILED: {failure}"),
        }
    }
    Ok(())
}

fn example_names(project: &Project) -> Vec<String> {
    let targets = project.packages.iter().flat_map(|package| &package.targets);
    let examples = targets.filter(|target| target.kind == "example");
    examples.map(|target| target.name.clone()).collect()
}

/// Absolute, because tests run in the folders of their crates. Links are kept: the Python of a
/// virtual environment is a link, and would lose its packages.
fn absolute_program(path: &Path) -> Result<PathBuf> {
    if path.components().count() == 1
        && let Some(found) = path.to_str().and_then(project::find_program)
    {
        return Ok(found);
    }
    if !path.is_file() {
        bail!("no Python at {}\nhelp: give the path of an interpreter", path.display());
    }
    Ok(std::path::absolute(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_asked_for_everything_and_for_the_output() {
        assert_eq!(
            cargo_arguments(&Args::default()).join(" "),
            "test --release --workspace --no-fail-fast -- --show-output"
        );
        assert_eq!(
            fault_arguments(&Args::default()).join(" "),
            "test --release --workspace --no-fail-fast --features caravan-parallel/mutations \
             --test mutations -- --show-output"
        );
        let args = Args { quick: true, filter: Some("rope".to_owned()), python: None };
        assert_eq!(
            cargo_arguments(&args).join(" "),
            "test --release --workspace --no-fail-fast --lib --bins --tests rope -- --show-output"
        );
    }

    #[test]
    fn a_python_that_is_not_there_is_refused() {
        assert!(absolute_program(Path::new("no/such/python")).is_err());
        assert!(absolute_program(Path::new("sh")).unwrap().is_absolute());
    }

    /// What `run_cargo` makes of a harness that says `output` and ends with `code`.
    fn harness(output: &str, code: i32) -> Report {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("printf '%s\\n' '{output}'; exit {code}")]);
        let mut report = Report::default();
        // Shown, these lines would count as results of the tests that run this one.
        run_cargo(command, &mut report, &mut |_| {}).unwrap();
        report
    }

    #[test]
    fn a_build_that_fails_is_a_failure_without_tests() {
        assert_eq!(harness("", 101).summary(), "0 passed, 1 failed, 0 skipped");
        let fine = "running 1 test\ntest a ... ok\n\ntest result: ok. 1 passed; 0 failed; \
                    0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(harness(fine, 0).summary(), "1 passed, 0 failed, 0 skipped");
        // A later binary that did not compile.
        assert_eq!(harness(fine, 101).summary(), "1 passed, 1 failed, 0 skipped");
        // A second call that did not compile, after a first with a failure.
        let mut report = harness("", 101);
        report.cargo_ended(false);
        assert_eq!(report.summary(), "0 passed, 2 failed, 0 skipped");
    }
}
