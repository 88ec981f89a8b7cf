//! `caravan train`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use caravan_collective::{Communicator, RankFailed, threads};
use caravan_train::{
    Console, KEYS, Observer, Outcome, ParallelSection, RankLog, RunConfig, RunDir, next_commands,
    resume_on, train_on,
};

use crate::{output, ranks};

/// The configuration that is used without any argument.
const DEFAULT_CONFIG: &str = "configs/fixtures.toml";
/// Runs that are not given a folder get one in here.
const RUNS: &str = "runs";
/// What a shell reports for a program ended by Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;
/// How long a rank that a launcher ends may take to save.
const LAUNCHER_PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
#[command(after_help = format!("Examples:
  caravan train
  caravan train --text notes.txt steps=2000 d_model=384 n_layers=8
  caravan train --config configs/stages.toml --out runs/stages
  caravan train --ranks 4 zero_stage=1
  caravan train --resume --out runs/stages

{}", keys_help()))]
pub(crate) struct Args {
    /// TOML file with settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Text to train on: file, folder or glob; may be given several times.
    #[arg(long, value_name = "PATH")]
    text: Vec<String>,
    /// Folder of the run; by default a new one under runs/.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where to compute: flex, tch, cuda, cuda:1, ...
    #[arg(long, default_value = "flex")]
    device: String,
    /// Ranks to split the work over.
    #[arg(long, default_value_t = 1)]
    ranks: usize,
    /// How ranks talk: threads or mpi.
    #[arg(long, default_value = "threads", value_parser = ["threads", "mpi"])]
    transport: String,
    /// Go on with the run in --out from its newest checkpoint; without --out the newest run.
    #[arg(long)]
    resume: bool,
    /// Settings on top of the configuration, key=value.
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.ranks == 0 {
        bail!("--ranks 0\nhelp: use --ranks 1 or more");
    }
    match args.transport.as_str() {
        "mpi" => ranks::over_mpi(args.ranks, |world| {
            // One that is alone has nobody to wait for in vain.
            let rank = if world.size() > 1 { Rank::Process } else { Rank::Thread };
            run_rank(args, world, rank)
        }),
        _ => run_threads(args),
    }
}

/// All ranks in this process; what the first one says counts.
fn run_threads(args: &Args) -> Result<ExitCode> {
    if args.ranks == 1 {
        return run_rank(args, &Communicator::alone(), Rank::Thread);
    }
    let failed = |failed: RankFailed| match failed.message.contains("\nhelp: ") {
        true => anyhow::anyhow!("{failed}"),
        false => anyhow::anyhow!("{failed}\nhelp: what was saved is intact: go on with --resume"),
    };
    let run = |world: Communicator| run_rank(args, &world, Rank::Thread);
    let codes = threads::run(args.ranks, run).map_err(failed)?;
    codes.into_iter().next().expect("a code from every rank")
}

/// What a rank is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// One of this process, which gets signals once for all of them.
    Thread,
    /// A process that a launcher started, and sends signals.
    Process,
}

/// Lets signals set `stop`: Ctrl-C, SIGTERM, and SIGUSR1, which launchers hand on and batch systems send ahead of a time
/// limit.
pub(crate) fn stop_on_signals(stop: &Arc<AtomicBool>, rank: Rank) -> Result<()> {
    let (asked, pressed) = (Arc::clone(stop), AtomicBool::new(false));
    ctrlc::set_handler(move || {
        asked.store(true, Ordering::Relaxed);
        if pressed.swap(true, Ordering::Relaxed) {
            // The second time somebody means it. Checkpoints are atomic, so nothing is lost but time.
            std::process::abort();
        }
        match rank {
            Rank::Thread => output::note(
                "\nstopping after this step and saving; press Ctrl-C again to stop at once",
            ),
            Rank::Process => end_soon(),
        }
    })?;
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(stop))?;
    Ok(())
}

/// Ends this process if it is still there after a while: launchers send SIGTERM also to the ranks that are left when one
/// has died, and these wait for it for ever.
fn end_soon() {
    std::thread::sleep(LAUNCHER_PATIENCE);
    #[cfg(unix)]
    let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGTERM);
    std::process::abort();
}

fn run_rank(args: &Args, world: &Communicator, rank: Rank) -> Result<ExitCode> {
    let first = world.rank() == 0;
    let stop = Arc::new(AtomicBool::new(false));
    let hears = first || rank == Rank::Process;
    ranks::agreed(world, if hears { stop_on_signals(&stop, rank) } else { Ok(()) })?;
    // Folder and configuration are the first rank's, so that all have the same.
    let dir = RunDir::new(ranks::told(world, || match (&args.out, args.resume) {
        (Some(out), _) => Ok(out.clone()),
        (None, true) => newest_run(),
        (None, false) => Ok(fresh_dir(&configured(args)?.1)),
    })?);
    if first {
        output::note(&format!("run folder: {}", dir.path().display()));
    }
    let mut console = Console::new();
    let mut log = RankLog::new(dir.path(), world.rank());
    let mut both = (&mut console, &mut log);
    let n_ranks = world.size();
    let observer: &mut dyn Observer = match (first, n_ranks) {
        (true, 1) => both.0,
        (true, _) => &mut both,
        (false, _) => both.1,
    };
    let config = (!args.resume).then(|| configured(args)).transpose();
    let config = ranks::agreed(world, config)?;
    let world = world.clone();
    let spread = |config| spread(&args.settings, args.resume, config, n_ranks);
    let outcome = match config {
        Some((config, _)) => train_on(world, spread(config), &args.device, &dir, &stop, observer),
        None => {
            let change = |saved| changed(args, saved).map(spread);
            resume_on(world, &dir, &args.device, change, &stop, observer)
        }
    };
    console.close();
    if let Err(error) = &outcome {
        log.failed(&error.to_string());
    }
    match outcome? {
        Outcome::Assisted => Ok(ExitCode::SUCCESS),
        Outcome::Finished(report) => {
            output::note(&format!("\n{}", report.markdown));
            output::note(&format!(
                "report: {}\nnext:\n{}",
                dir.report().display(),
                next_commands(&dir)
            ));
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Stopped { .. } if !first => Ok(ExitCode::from(INTERRUPTED)),
        Outcome::Stopped { step, steps, checkpoint } => {
            output::note(&format!(
                "stopped after step {step} of {steps}, saved `{}`\nhelp: go on with `cargo xtask train --resume --out {}`",
                checkpoint.display(),
                dir.path().display()
            ));
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

fn configured(args: &Args) -> Result<(RunConfig, String)> {
    configuration(args.config.as_deref(), &args.text, &args.settings)
}

/// The configuration of a new run and a name for its folder, from a file, texts and `key=value` words.
///
/// # Errors
/// A file or a word that is not understood; neither a text nor the default configuration.
pub(crate) fn configuration(
    file: Option<&Path>,
    text: &[String],
    settings: &[String],
) -> Result<(RunConfig, String)> {
    let file = match file {
        Some(path) => Some(path.to_path_buf()),
        None if text.is_empty() && !sets_text(settings) => {
            if !Path::new(DEFAULT_CONFIG).exists() {
                bail!(
                    "there is no text to train on, and no `{DEFAULT_CONFIG}` here\nhelp: name your text with --text FILE, or run from the folder of Caravan's sources"
                );
            }
            Some(PathBuf::from(DEFAULT_CONFIG))
        }
        None => None,
    };
    let mut config = match &file {
        Some(path) => RunConfig::from_file(path)?,
        None => RunConfig::default(),
    };
    if !text.is_empty() {
        config.data.text = text.to_vec();
    }
    let config = config.with_overrides(settings)?;
    let named = file.as_deref().or_else(|| config.data.text.first().map(Path::new));
    let name = named
        .and_then(Path::file_stem)
        .map_or("run".to_owned(), |s| s.to_string_lossy().replace(['*', '?'], "_"));
    Ok((config, name))
}

/// The settings of a run that is resumed: its own, with the words of this call on top.
fn changed(args: &Args, saved: RunConfig) -> Result<RunConfig, caravan_train::TrainError> {
    let mut config = match &args.config {
        Some(path) => {
            // The file again, which must say what it said before; what was derived from it stays.
            let file = RunConfig::from_file(path)?;
            RunConfig {
                optim: caravan_train::OptimSection {
                    min_lr: file.optim.min_lr.or(saved.optim.min_lr),
                    warmup_steps: file.optim.warmup_steps.or(saved.optim.warmup_steps),
                    ..file.optim
                },
                ..file
            }
        }
        None => saved,
    };
    if !args.text.is_empty() {
        config.data.text.clone_from(&args.text);
    }
    config.with_overrides(&args.settings)
}

/// Ranks that no key gives work to are data-parallel: `--ranks 4` alone is `data_parallel=4`, and a run that is resumed
/// takes the ranks it gets.
pub(crate) fn spread(
    settings: &[String],
    resume: bool,
    mut config: RunConfig,
    n_ranks: usize,
) -> RunConfig {
    spread_over(settings, resume, &mut config.parallel, n_ranks);
    config
}

/// The same for the degrees alone.
pub(crate) fn spread_over(
    settings: &[String],
    resume: bool,
    p: &mut ParallelSection,
    n_ranks: usize,
) {
    let is_set = settings.iter().any(|s| s.starts_with("data_parallel="));
    let rest = p.tensor_parallel * p.pipeline_parallel * p.context_parallel * p.shard_parallel;
    if !is_set && rest > 0 && n_ranks.is_multiple_of(rest) && (resume || p.data_parallel == 1) {
        p.data_parallel = n_ranks / rest;
    }
}

fn sets_text(settings: &[String]) -> bool {
    settings.iter().any(|s| s.starts_with("text="))
}

/// `runs/NAME-1`, or the first number that is free.
fn fresh_dir(name: &str) -> PathBuf {
    let mut n = 1;
    loop {
        let dir = Path::new(RUNS).join(format!("{name}-{n}"));
        if !dir.exists() {
            return dir;
        }
        n += 1;
    }
}

/// The run under runs/ that was started or saved last.
fn newest_run() -> Result<PathBuf> {
    let mut newest: Option<(std::time::SystemTime, PathBuf)> = None;
    for entry in std::fs::read_dir(RUNS).into_iter().flatten().flatten() {
        let path = entry.path();
        let touched = [path.join("checkpoints/LATEST"), path.join("config.toml")];
        let Some(time) = touched.iter().find_map(|p| p.metadata().and_then(|m| m.modified()).ok())
        else {
            continue;
        };
        if newest.as_ref().is_none_or(|(t, _)| time > *t) {
            newest = Some((time, path));
        }
    }
    match newest {
        Some((_, path)) => Ok(path),
        None => {
            bail!("there is no run under `{RUNS}/` to resume\nhelp: name its folder with --out DIR")
        }
    }
}

pub(crate) fn keys_help() -> String {
    let mut out = String::from(
        "Keys (sections of the TOML file; [[stages]] make a curriculum, see configs/stages.toml):\n",
    );
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            out.push_str(&format!("\n  [{section}] "));
        }
        out.push_str(key.name);
        out.push(' ');
    }
    out
}
