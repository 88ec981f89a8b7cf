//! `cargo xtask bench`: `train` and `decode` are commands of `caravan`, every other name a criterion bench of
//! `benches/`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, bail};
use xshell::cmd;

use crate::launch::{self, Needs};
use crate::project::{self, Project};
use crate::setup;

/// What `caravan bench` measures itself.
const OWN: [&str; 2] = ["train", "decode"];

/// Measures: `bench train` and `bench decode` are caravan's own, other names are criterion benches.
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// `train` or `decode` with its arguments, or the name of a bench (none: all), `--device D` (repeatable)
    /// and arguments for criterion
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "NAME")]
    words: Vec<OsString>,
}

/// Runs the bench named first in `args`.
///
/// # Errors
/// When there is no such bench, or it fails.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.words.first().is_some_and(|word| OWN.iter().any(|own| word == own)) {
        let mut words = vec![OsString::from("bench")];
        words.extend(args.words.iter().cloned());
        return launch::run(&words);
    }
    let sh = project::shell()?;
    let names = bench_names(&Project::load(&sh)?);
    let (name, rest) = split(&args.words);
    if let Some(name) = &name
        && !names.contains(name)
    {
        bail!("no bench `{name}`\nhelp: there are: {}, {}", OWN.join(", "), names.join(", "));
    }
    let wanted = name.map_or(names, |name| vec![name]);
    let needs = Needs::of(rest);
    setup::ensure(&sh)?;
    let variables = needs.variables(&sh)?;
    let features = needs.flags();
    let benches = wanted.iter().flat_map(|name| ["--bench", name]);
    let criterion = criterion_arguments(rest);
    cmd!(sh, "cargo bench -p caravan-benches {features...} {benches...} -- {criterion...}")
        .envs(variables)
        .run()?;
    Ok(ExitCode::SUCCESS)
}

fn bench_names(project: &Project) -> Vec<String> {
    let targets = project.packages.iter().flat_map(|package| &package.targets);
    targets.filter(|target| target.kind == "bench").map(|target| target.name.clone()).collect()
}

/// The name, if the first word is one, and the other words.
fn split(words: &[OsString]) -> (Option<String>, &[OsString]) {
    match words.first().map(|word| word.to_string_lossy()) {
        Some(first) if !first.starts_with('-') => (Some(first.into_owned()), &words[1..]),
        _ => (None, words),
    }
}

/// `--device D` becomes criterion's filter on ids `op/shape/device`; the rest is criterion's.
fn criterion_arguments(words: &[OsString]) -> Vec<OsString> {
    let devices = launch::values(words, "--device");
    let mut rest = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--device" {
            words.next();
        } else if !word.to_string_lossy().starts_with("--device=") {
            rest.push(word.clone());
        }
    }
    if !devices.is_empty() {
        rest.push(format!("/({})$", devices.join("|")).into());
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn a_name_is_the_first_word_without_a_dash() {
        let line = words("kernels --device flex");
        assert_eq!(split(&line), (Some("kernels".to_owned()), &line[1..]));
        let line = words("--device flex");
        assert_eq!(split(&line), (None, &line[..]));
        assert_eq!(split(&[]), (None, &[][..]));
    }

    #[test]
    fn devices_become_a_filter() {
        assert_eq!(
            criterion_arguments(&words("--device flex --quick --device=tch")),
            words("--quick /(flex|tch)$")
        );
        assert_eq!(criterion_arguments(&words("rms")), words("rms"));
    }
}
