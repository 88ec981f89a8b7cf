//! The commands of the `caravan` program: builds it with the features that the arguments need,
//! then becomes it. Logic lives in `caravan`; its arguments are handed over untouched.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use crate::project::{self, Project};
use crate::setup;

/// The commands of `caravan`, for the help text and to refuse others before a long build.
const COMMANDS: &[(&str, &str)] = &[
    ("train", "Train a model; without arguments the default one on fixtures/"),
    ("verify", "Check that a layout of ranks computes what one rank computes"),
    ("generate", "Write text with a trained model"),
    ("chat", "Talk with a model in the terminal"),
    ("serve", "A model behind HTTP: OpenAI's protocol and a chat page"),
    ("download", "Bring a model from the Hugging Face hub"),
    ("finetune", "Teach a model to classify or to answer: low-rank adapters or all weights"),
    ("eval", "Perplexity, bits per byte and task scores"),
    ("tokenizer", "Train a tokenizer, encode, decode, show"),
    ("data", "Build, inspect and verify shards; print the batch of a step"),
    ("export", "Write a run in Hugging Face form"),
    ("bench train", "Tokens per second of training"),
    ("bench decode", "Tokens per second of writing, beside the memory's bandwidth"),
];

/// The part of `cargo xtask --help` about the commands of `caravan`.
pub(crate) fn help() -> String {
    let mut help = String::from(
        "Commands of the caravan program (built first; their own help: `cargo xtask train --help`):\n",
    );
    for (name, about) in COMMANDS {
        help.push_str(&format!("  {name:<12} {about}\n"));
    }
    help
}

/// Builds `caravan` and becomes `caravan WORDS...`: the same process on Unix, so that signals and
/// the exit code are its own.
///
/// # Errors
/// When the command or the transport does not exist, or the build fails.
pub(crate) fn run(words: &[OsString]) -> Result<ExitCode> {
    let command = words.first().context("no command")?;
    let known = COMMANDS
        .iter()
        .any(|(name, _)| name.split(' ').next().is_some_and(|first| OsStr::new(first) == command));
    if !known {
        bail!("no command `{}`\nhelp: `cargo xtask --help` lists them", command.to_string_lossy());
    }
    let sh = project::shell()?;
    let caravan = build(&sh, &words[1..])?;
    // Paths in the arguments count from where the user stands, not from the workspace.
    let here = Shell::new()?;
    let child = match is_mpi(&words[1..]) {
        true => {
            let n_ranks = ranks(&words[1..])?;
            let launcher = mpirun(&sh, n_ranks);
            here.cmd("mpirun").args(launcher).arg(&caravan.program).args(words)
        }
        false => here.cmd(&caravan.program).args(words),
    };
    let child = child.envs(caravan.variables);
    eprintln!("$ {child}");
    become_it(child.into()).with_context(|| format!("starting {}", caravan.program.display()))
}

/// Whether the ranks are processes of MPI.
fn is_mpi(args: &[OsString]) -> bool {
    values(args, "--transport").iter().any(|transport| transport == "mpi")
}

/// How many ranks are asked for.
fn ranks(args: &[OsString]) -> Result<usize> {
    let Some(text) = values(args, "--ranks").pop() else { return Ok(1) };
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => bail!("--ranks {text} is no number of ranks\nhelp: use --ranks 1 or more"),
    }
}

/// The arguments of `mpirun` for `n_ranks` ranks on this machine: more ranks than cores are allowed, and each has its
/// share of the cores for its threads.
pub(crate) fn mpirun(sh: &Shell, n_ranks: usize) -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut args = vec!["-n".to_owned(), n_ranks.to_string()];
    args.extend(["--oversubscribe", "--bind-to", "none"].map(str::to_owned));
    if cmd!(sh, "id -u").quiet().read().is_ok_and(|id| id.trim() == "0") {
        args.push("--allow-run-as-root".to_owned());
    }
    if project::variable("RAYON_NUM_THREADS").is_none() {
        let threads = (cores / n_ranks).max(1);
        args.extend(["-x".to_owned(), format!("RAYON_NUM_THREADS={threads}")]);
    }
    args
}

/// A program that was built, and the variables it runs under.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) program: PathBuf,
    variables: Vec<(&'static str, OsString)>,
}

/// Builds `caravan` for the device and the transport named in `args`.
///
/// # Errors
/// As [`run`].
pub(crate) fn build(sh: &Shell, args: &[OsString]) -> Result<Built> {
    let needs = Needs::of(args);
    setup::ensure(sh)?;
    if needs.features.contains(&"mpi") {
        setup::ensure_mpi(sh)?;
    }
    let variables = needs.variables(sh)?;
    let features = needs.flags();
    cmd!(sh, "cargo build --release -p caravan-cli {features...}")
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .run()
        .context("building caravan")?;
    let name = format!("caravan{}", std::env::consts::EXE_SUFFIX);
    Ok(Built { program: Project::load(sh)?.target.join("release").join(name), variables })
}

/// What a set of arguments needs to be compiled in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    features: Vec<&'static str>,
}

impl Needs {
    /// Reads `--device` and `--transport` and leaves everything else to `caravan`, which also
    /// refuses a device that does not exist.
    pub(crate) fn of(args: &[OsString]) -> Self {
        let mut features = Vec::new();
        for device in values(args, "--device") {
            let feature = match device.split(':').next() {
                Some("tch") => "tch",
                Some("cuda") => "cuda",
                _ => continue, // flex is always there
            };
            if !features.contains(&feature) {
                features.push(feature);
            }
        }
        if is_mpi(args) {
            features.push("mpi");
        }
        Self { features }
    }

    /// `--features tch,cuda`, or nothing.
    pub(crate) fn flags(&self) -> Vec<String> {
        if self.features.is_empty() {
            return Vec::new();
        }
        vec!["--features".to_owned(), self.features.join(",")]
    }

    /// The variables for the build and the run.
    ///
    /// # Errors
    /// When `tch` is needed and there is no libtorch.
    pub(crate) fn variables(&self, sh: &Shell) -> Result<Vec<(&'static str, OsString)>> {
        if self.features.contains(&"tch") { setup::torch_variables(sh) } else { Ok(Vec::new()) }
    }
}

/// The values of `flag` in `--flag value` and `--flag=value`, up to a `--`.
pub(crate) fn values(args: &[OsString], flag: &str) -> Vec<String> {
    let mut values = Vec::new();
    let mut args = args.iter().map(|arg| arg.to_string_lossy()).take_while(|arg| arg != "--");
    while let Some(arg) = args.next() {
        if arg == flag {
            values.extend(args.next().map(|value| value.into_owned()));
        } else if let Some(value) = arg.strip_prefix(flag).and_then(|rest| rest.strip_prefix('=')) {
            values.push(value.to_owned());
        }
    }
    values
}

#[cfg(unix)]
fn become_it(mut child: Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt as _;
    Err(child.exec().into()) // returns only when it could not start
}

#[cfg(not(unix))]
fn become_it(mut child: Command) -> Result<ExitCode> {
    let code = child.status()?.code().unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn flags(line: &str) -> String {
        Needs::of(&words(line)).flags().join(" ")
    }

    #[test]
    fn devices_become_features() {
        assert_eq!(flags(""), "");
        assert_eq!(flags("--text a.txt steps=3"), "");
        assert_eq!(flags("--device flex"), "");
        assert_eq!(flags("--device tch"), "--features tch");
        assert_eq!(flags("--device=tch:cuda:0 x"), "--features tch");
        assert_eq!(
            flags("--device flex --device cuda:1 --device tch --device cuda"),
            "--features cuda,tch"
        );
        assert_eq!(flags("--prompt x -- --device cuda"), "");
        assert_eq!(flags("--devices cuda"), "");
    }

    #[test]
    fn mpi_is_a_feature_and_has_its_launcher() {
        assert_eq!(flags("--transport threads --ranks 2"), "");
        assert_eq!(flags("--transport=mpi --ranks 2 --device tch"), "--features tch,mpi");
        assert_eq!(ranks(&words("--transport mpi --ranks 3")).unwrap(), 3);
        assert_eq!(ranks(&words("--transport mpi")).unwrap(), 1);
        let error = ranks(&words("--ranks none")).unwrap_err();
        assert!(error.to_string().contains("help: use --ranks"), "{error}");
        let launcher = mpirun(&Shell::new().unwrap(), 64).join(" ");
        assert!(launcher.starts_with("-n 64 --oversubscribe"), "{launcher}");
    }

    #[test]
    fn an_unknown_command_is_refused_before_building() {
        let error = run(&words("trian --device cuda")).unwrap_err();
        assert!(error.to_string().contains("no command `trian`"), "{error}");
    }
}
