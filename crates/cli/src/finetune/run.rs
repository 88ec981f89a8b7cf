//! What every kind of fine-tuning shares: settings, ranks, the folder with the state of a run, and its measurements.

use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result, bail};
use caravan_collective::{Communicator, threads};
use caravan_finetune::{Progress, Settings};
use caravan_model::{Kernels, Llama};

use crate::source::{Loaded, Source};
use crate::{output, ranks, train};

/// Where a run writes, and how it is split.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Folder of the result.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Go on with the run in --out, which was interrupted; give all other arguments again.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Ranks to split the work over.
    #[arg(long, default_value_t = 1)]
    pub(crate) ranks: usize,
    /// How ranks talk: threads or mpi.
    #[arg(long, default_value = "threads", value_parser = ["threads", "mpi"])]
    pub(crate) transport: String,
    /// Settings, key=value.
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
}

/// Keys of all kinds of fine-tuning, for their help.
pub(crate) const KEYS: &str =
    "seed epochs batch micro_batch seq_len truncate peak_lr warmup weight_decay grad_clip
  method lora_rank lora_alpha lora_targets freeze layer_decay evals_per_epoch patience metric dtype
  data_parallel zero_stage shard_parallel pipeline_parallel context_parallel tensor_parallel ...";

impl RunArgs {
    /// `default` with what the command line says on top.
    pub(crate) fn settings(&self, default: Settings) -> Result<Settings> {
        let mut settings = default;
        for assignment in &self.settings {
            settings.set(assignment)?;
        }
        train::spread_over(&self.settings, false, &mut settings.parallel, self.ranks);
        // One for each rank, so that `--ranks 2` alone works.
        let replicas = settings.parallel.data_parallel * settings.parallel.shard_parallel;
        let is_set = self.settings.iter().any(|s| s.starts_with("micro_batch="));
        if !is_set && replicas > 1 && settings.batch.is_multiple_of(replicas) {
            settings.micro_batch = settings.batch / replicas;
        }
        settings.validate()?;
        Ok(settings)
    }

    /// Refuses a folder with a result, and one with the state of a run that nobody asked to go on with.
    pub(crate) fn check(&self, result: &str) -> Result<()> {
        let (out, state) = (self.out.display(), self.state());
        if self.out.join(result).exists() {
            bail!("`{out}` already holds a `{result}`\nhelp: give a new folder with --out");
        }
        if state.exists() && !self.resume {
            bail!(
                "`{out}` holds a run that was interrupted\nhelp: add --resume to go on with it, or give a new folder with --out"
            );
        }
        Ok(())
    }

    /// Folder of the checkpoints while it runs.
    pub(crate) fn state(&self) -> PathBuf {
        self.out.join("state")
    }

    /// Runs `body` on every rank, with what stops it.
    pub(crate) fn on_ranks(
        &self,
        body: impl Fn(&Communicator, &Arc<AtomicBool>) -> Result<ExitCode> + Send + Sync,
    ) -> Result<ExitCode> {
        if self.ranks == 0 {
            bail!("--ranks 0\nhelp: use --ranks 1 or more");
        }
        if self.transport == "mpi" {
            return ranks::over_mpi(self.ranks, |world| {
                let stop = Arc::new(AtomicBool::new(false));
                let rank =
                    if world.size() > 1 { train::Rank::Process } else { train::Rank::Thread };
                ranks::agreed(world, train::stop_on_signals(&stop, rank))?;
                body(world, &stop)
            });
        }
        let stop = Arc::new(AtomicBool::new(false));
        train::stop_on_signals(&stop, train::Rank::Thread)?;
        if self.ranks == 1 {
            return body(&Communicator::alone(), &stop);
        }
        let codes = threads::run(self.ranks, |world| body(&world, &stop));
        let codes = codes.map_err(|failed| anyhow::anyhow!("{failed}"))?;
        codes.into_iter().next().expect("a code from every rank")
    }

    /// How every rank of a run that was stopped ends; the first one tells how to go on.
    pub(crate) fn stopped(&self, step: u64, steps: u64, is_first: bool) -> ExitCode {
        if is_first {
            output::note(&format!(
                "stopped after update {step} of {steps}, saved in `{}`\nhelp: go on with the same command and --resume",
                self.state().display()
            ));
        }
        ExitCode::from(train::INTERRUPTED)
    }

    /// Forgets the checkpoints of a run that is done.
    pub(crate) fn clear(&self) -> Result<()> {
        let state = self.state();
        match state.exists() {
            true => std::fs::remove_dir_all(&state)
                .with_context(|| format!("removing {}", state.display())),
            false => Ok(()),
        }
    }
}

/// The model to be trained, with the kernels that `settings` ask for. The first rank speaks about it.
pub(crate) fn load(
    source: &Source,
    settings: &Settings,
    world: &Communicator,
) -> Result<(Loaded, Llama)> {
    // The result names the model it belongs to, and that is not the model with the adapters.
    if let Some(adapter) = &source.adapter {
        bail!(
            "--adapter {}: a model is tuned without adapters beside it\nhelp: fold them in first, with `caravan export --adapter {} --out DIR`, and give --model DIR",
            adapter.display(),
            adapter.display()
        );
    }
    let loaded = Source { quiet: world.rank() > 0, ..source.clone() }.load_trainable()?;
    let kernels = if settings.dtype == "bf16" { Kernels::FusedBf16 } else { Kernels::Fused };
    let model = loaded.model.clone().with_kernels(kernels);
    Ok((loaded, model))
}

/// The measurements of a run, a JSON line each, those of an interrupted one in front: each once, also where the program was
/// killed before it wrote the last one, or in the middle of it.
#[derive(Debug)]
pub(crate) struct Rows {
    path: PathBuf,
    resume: bool,
    /// Opened for the first measurement: a run that is refused leaves nothing behind.
    file: Option<std::fs::File>,
}

impl Rows {
    /// Those in `OUT/metrics.jsonl`.
    pub(crate) fn new(out: &Path, resume: bool) -> Self {
        Self { path: out.join("metrics.jsonl"), resume, file: None }
    }

    /// Writes one.
    pub(crate) fn write(&mut self, row: &serde_json::Value) -> Result<()> {
        let Self { path, resume, file } = self;
        let file = match file {
            Some(file) => file,
            None => {
                let mut options = OpenOptions::new();
                options.create(true).read(true).write(true).truncate(!*resume);
                let opened = options.open(&*path).and_then(|file| behind_earlier(file, row));
                file.insert(opened.with_context(|| format!("opening {}", path.display()))?)
            }
        };
        writeln!(file, "{row}").with_context(|| format!("writing {}", path.display()))
    }
}

/// The file, cut behind the lines of steps before that of `row`.
fn behind_earlier(
    mut file: std::fs::File,
    row: &serde_json::Value,
) -> std::io::Result<std::fs::File> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let is_earlier = |line: &&str| {
        let earlier = serde_json::from_str::<serde_json::Value>(line).ok();
        let step = earlier.and_then(|earlier| earlier["step"].as_u64());
        line.ends_with('\n') && step.is_some_and(|step| Some(step) < row["step"].as_u64())
    };
    let kept: usize = text.split_inclusive('\n').take_while(is_earlier).map(str::len).sum();
    file.set_len(kept as u64)?;
    file.seek(SeekFrom::Start(kept as u64))?;
    Ok(file)
}

/// A measurement as a line for people; `scores` is what was measured.
pub(crate) fn show<S>(progress: &Progress<S>, scores: &str) -> String {
    format!(
        "{}/{}  loss {:.4}  {scores}{}  {}",
        progress.step,
        progress.steps,
        progress.train_loss,
        if progress.is_best { " *" } else { "" },
        caravan_train::clock(progress.secs)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measurement_is_there_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let row = |step: u64| serde_json::json!({ "step": step, "loss": 0.5 });
        let text = || std::fs::read_to_string(dir.path().join("metrics.jsonl")).expect("a file");
        let lines = |steps: &[u64]| -> String {
            steps.iter().map(|step| format!("{}\n", row(*step))).collect()
        };
        let mut rows = Rows::new(dir.path(), false);
        [3, 6].iter().for_each(|step| rows.write(&row(*step)).expect("a line"));
        assert_eq!(text(), lines(&[3, 6]));
        // Told again, and going on; then killed in the middle of a line.
        let mut rows = Rows::new(dir.path(), true);
        [6, 9].iter().for_each(|step| rows.write(&row(*step)).expect("a line"));
        assert_eq!(text(), lines(&[3, 6, 9]));
        let torn = lines(&[3, 6]) + "{\"step\":9,\"lo";
        std::fs::write(dir.path().join("metrics.jsonl"), torn).expect("written");
        Rows::new(dir.path(), true).write(&row(9)).expect("a line");
        assert_eq!(text(), lines(&[3, 6, 9]));
        // A run that begins again.
        Rows::new(dir.path(), false).write(&row(3)).expect("a line");
        assert_eq!(text(), lines(&[3]));
    }
}
