//! `cargo xtask ci`: what CI runs, cheapest first, each step timed.
//!
//! A step that fails does not stop the others, so that one run tells everything. All steps use the
//! release profile: Clippy, the documentation and the type checks share one check of the
//! dependencies, the tests and the training run share one build of them.

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use xshell::{Shell, cmd};

use crate::json::{self, Value};
use crate::{fixtures, launch, project, setup, test, tidy};

/// Runs what CI runs; do so before a review.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only these steps, in the order of the list
    #[arg(value_parser = STEPS.iter().map(|step| step.name).collect::<Vec<_>>())]
    steps: Vec<String>,
}

/// Runs the steps and prints what each took; the last line is that of the tests.
///
/// # Errors
/// When the shell cannot be made; a step that fails is a row of the table and the exit code.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let ci = Ci { sh: project::shell()?, tests: RefCell::default() };
    let is_wanted = |name: &str| args.steps.is_empty() || args.steps.iter().any(|s| s == name);
    let mut rows = Vec::new();
    for step in STEPS.iter().filter(|step| is_wanted(step.name)) {
        eprintln!("\n=== {}: {}", step.name, step.about);
        let start = Instant::now();
        let result = (step.run)(&ci);
        if let Err(error) = &result {
            eprintln!("error: {}: {}", step.name, crate::message(error));
        }
        rows.push((step.name, start.elapsed().as_secs_f64(), result.is_ok()));
    }
    println!();
    for (name, secs, is_fine) in &rows {
        println!("{name:<10} {secs:>7.1} s  {}", if *is_fine { "ok" } else { "FAILED" });
    }
    let total: f64 = rows.iter().map(|(_, secs, _)| secs).sum();
    println!("{:<10} {total:>7.1} s", "all");
    if let Some(report) = ci.tests.take() {
        println!("\n{}{}", report.not_run_text(), report.summary());
    }
    let is_fine = rows.iter().all(|(.., is_fine)| *is_fine);
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the steps share.
#[derive(Debug)]
struct Ci {
    sh: Shell,
    /// What the tests said, for the last line.
    tests: RefCell<Option<test::Report>>,
}

#[derive(Debug)]
struct Step {
    name: &'static str,
    about: &'static str,
    run: fn(&Ci) -> Result<()>,
}

const STEPS: &[Step] = &[
    Step { name: "fmt", about: "the code is formatted", run: formatting },
    Step { name: "tidy", about: "import table and house rules", run: house_rules },
    Step { name: "fixtures", about: "the corpus is what its generator makes", run: corpus },
    Step { name: "clippy", about: "no warning in any target", run: clippy },
    Step { name: "doc", about: "no warning in the documentation", run: documentation },
    Step { name: "test", about: "tests, deliberate faults, doc tests, examples", run: tests },
    Step { name: "mpi", about: "collectives and every layout of ranks over MPI", run: mpi },
    Step { name: "train", about: "a minute of training lowers the loss", run: training },
    Step { name: "cuda", about: "the backend `cuda` type-checks", run: cuda },
    Step { name: "tch", about: "the backend `tch` type-checks", run: tch },
];

fn formatting(ci: &Ci) -> Result<()> {
    Ok(cmd!(ci.sh, "cargo fmt --all --check").run()?)
}

fn house_rules(_: &Ci) -> Result<()> {
    let code = tidy::run(&tidy::Args::default())?;
    ensure!(code == ExitCode::SUCCESS, "the findings above");
    Ok(())
}

fn corpus(_: &Ci) -> Result<()> {
    fixtures::run(&fixtures::Args { check: true })
}

fn clippy(ci: &Ci) -> Result<()> {
    cmd!(ci.sh, "cargo clippy --release --workspace --all-targets -- -D warnings").run()?;
    // The suite of deliberate faults is no target without its feature.
    let faults = ["--features", "caravan-parallel/mutations", "--test", "mutations"];
    cmd!(ci.sh, "cargo clippy --release --workspace {faults...} -- -D warnings").run()?;
    // NCCL is loaded when it is used: its transport is checked on a machine without it.
    let nccl = ["--features", "caravan-collective/nccl"];
    Ok(cmd!(ci.sh, "cargo clippy --release --workspace --all-targets {nccl...} -- -D warnings")
        .run()?)
}

fn documentation(ci: &Ci) -> Result<()> {
    let doc = cmd!(ci.sh, "cargo doc --release --workspace --no-deps");
    Ok(doc.env("RUSTDOCFLAGS", "-D warnings").run()?)
}

fn tests(ci: &Ci) -> Result<()> {
    let report = test::collect(&test::Args::default())?;
    let failed = report.failed();
    ci.tests.replace(Some(report));
    ensure!(failed == 0, "{failed} failed");
    Ok(())
}

/// Ranks of the table of layouts: its largest layout has as many.
const MPI_RANKS: usize = 8;

/// The conformance and failure tests of the collectives, which start `mpirun` themselves, then the table of layouts as
/// one program under `mpirun`. The features are named for the whole workspace, so that Burn is not built once more.
fn mpi(ci: &Ci) -> Result<()> {
    setup::ensure_mpi(&ci.sh)?;
    let collective = ["--features", "caravan-collective/mpi", "--test", "it"];
    cmd!(ci.sh, "cargo test --release --workspace {collective...} -- mpi_").run()?;
    let launcher: Vec<String> =
        launch::mpirun(&ci.sh, MPI_RANKS).iter().map(|word| format!("{word:?}")).collect();
    let runner = format!("target.'cfg(all())'.runner = [\"mpirun\", {}]", launcher.join(", "));
    let runs = ["--features", "caravan-cli/mpi", "--test", "mpi_runs"];
    cmd!(ci.sh, "cargo test --release --workspace {runs...}").run()?;
    // Both programs with the feature that lets one of them look in, so that the crate is built once.
    let features = "caravan-parallel/mpi,caravan-parallel/mutations";
    let layouts = ["--features", features, "--test", "mpi", "--test", "mpi_memory"];
    Ok(cmd!(ci.sh, "cargo test --release --workspace --config {runner} {layouts...}").run()?)
}

/// The run that must learn: the default model on the corpus, for about a minute on two cores.
const TRAINING: &[&str] =
    &["steps=120", "warmup_steps=20", "eval_every=120", "checkpoint_every=120"];

/// How far the loss must fall, in nats. It starts near the logarithm of the vocabulary size, about
/// 7.6, and differs by about 0.1 from one step to the next.
const LOSS_MUST_FALL: f64 = 0.5;

fn training(ci: &Ci) -> Result<()> {
    let folder = ci.sh.create_temp_dir()?;
    let out = folder.path().join("run");
    let args: Vec<OsString> = TRAINING.iter().map(OsString::from).collect();
    let caravan = launch::build(&ci.sh, &args)?.program;
    cmd!(ci.sh, "{caravan} train --out {out} {args...}").run()?;
    let (first, last) = losses(&out.join("metrics.jsonl"))?;
    println!("train_loss {first:.3} -> {last:.3}");
    ensure!(last < first - LOSS_MUST_FALL, "the loss fell from {first} to {last} only");
    Ok(())
}

/// The first and the last `train_loss` of a run.
fn losses(path: &Path) -> Result<(f64, f64)> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the metrics {}", path.display()))?;
    let mut losses = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let value =
            json::parse(line).with_context(|| format!("{} line {}", path.display(), index + 1))?;
        match value.get("train_loss") {
            Some(Value::Number(loss)) if loss.is_finite() => losses.push(*loss),
            Some(other) => bail!("{} line {}: train_loss is {other:?}", path.display(), index + 1),
            None => {}
        }
    }
    let (first, last) = (losses.first(), losses.last());
    ensure!(losses.len() > 1, "{} has {} losses, two are needed", path.display(), losses.len());
    Ok((*first.context("no loss")?, *last.context("no loss")?))
}

/// With `DOCS_RS` the build script of burn's CUDA backend skips its download of LLVM, which a
/// type check does not need.
fn cuda(ci: &Ci) -> Result<()> {
    let check =
        cmd!(ci.sh, "cargo check --release -p caravan-kernels -p caravan-cli --features cuda");
    Ok(check.env("DOCS_RS", "1").run()?)
}

/// With `burn-tch/doc` the build script of tch asks for no libtorch.
fn tch(ci: &Ci) -> Result<()> {
    let features = "tch,burn-tch/doc";
    Ok(cmd!(ci.sh, "cargo check --release -p caravan-kernels --features {features}").run()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_losses_of_a_run_are_its_first_and_last() {
        let sh = Shell::new().unwrap();
        let folder = sh.create_temp_dir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            losses(&path)
        };
        let three = "{\"step\": 1, \"train_loss\": 7.5}\n{\"step\": 1, \"val_loss\": 1}\n\
                     {\"step\": 2, \"train_loss\": 6.25}\n";
        assert_eq!(read(three).unwrap(), (7.5, 6.25));
        assert!(read("{\"train_loss\": 7.5}\n").is_err(), "one loss shows no fall");
        assert!(read("{\"train_loss\": null}\n").is_err());
        assert!(read("not json\n").is_err());
    }
}
