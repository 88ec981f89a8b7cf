//! The folder of a run: what lies where, and how others read it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use caravan_checkpoint::RunLock;
use caravan_model::Kernels;
use caravan_model::{Llama, LlamaConfig};
use caravan_tokenizer::Tokenizer;

use crate::config::RunConfig;
use crate::data::write_whole;
use crate::engine_state::load_parameters;
use crate::error::{Result, TrainError};
use crate::state;

/// Holds the path of the shards.
const SHARDS_NOTE: &str = "shards.txt";
/// How the names of files begin that [`write_whole`] has not finished.
const HALF_WRITTEN: &str = ".tmp";
/// Network file systems show a new file late to other machines.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// Paths inside a run folder.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Names a folder; nothing is touched.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// Checkpoints, one folder each.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The model in Hugging Face form, written at the end.
    pub fn export(&self) -> PathBuf {
        self.path.join("export")
    }

    /// Refuses other shards than those that the run began with.
    ///
    /// # Errors
    /// The text has changed since the run began.
    pub(crate) fn check_shards(&self, shards: &Path) -> Result<()> {
        if self.path.join(SHARDS_NOTE).exists() {
            let was = self.shards()?;
            // Names are content hashes, so equal names are equal contents wherever they lie.
            if was.file_name() != shards.file_name() {
                return Err(TrainError::RunDir {
                    path: self.path.clone(),
                    problem: format!(
                        "the text or the tokenizer has changed since the run began (shards `{}`, now `{}`)",
                        was.display(),
                        shards.display()
                    ),
                    help: "put the text back as it was, or start a new run with --out".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Notes which shards the run reads.
    ///
    /// # Errors
    /// The note cannot be written.
    pub(crate) fn note_shards(&self, shards: &Path) -> Result<()> {
        let note = self.path.join(SHARDS_NOTE);
        write_whole(&note, format!("{}\n", shards.display()).as_bytes())?;
        Ok(())
    }

    /// Waits until this rank sees the run that the first rank has begun, with that configuration.
    ///
    /// # Errors
    /// It is not there in time: the ranks do not share the folder.
    pub(crate) fn wait_until_seen(&self, config: Option<&str>) -> Result<()> {
        let path = self.config();
        let begun = Instant::now();
        loop {
            let seen = std::fs::read_to_string(&path);
            if seen.is_ok_and(|seen| config.is_none_or(|config| seen == config)) {
                return Ok(());
            }
            if begun.elapsed() > SEEN_WITHIN {
                return Err(TrainError::RunDir {
                    path: self.path.clone(),
                    problem: "is not the folder that rank 0 sees under this name".to_owned(),
                    help: "name a folder on a file system that all machines share with --out, and start all ranks in the same folder".to_owned(),
                });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The folder of shards that the run reads.
    ///
    /// # Errors
    /// The run has not come so far, or its folder is damaged.
    pub fn shards(&self) -> Result<PathBuf> {
        let note = self.path.join(SHARDS_NOTE);
        let text = std::fs::read_to_string(&note).map_err(TrainError::io("reading", &note))?;
        Ok(PathBuf::from(text.trim_end()))
    }

    /// The picture of the loss.
    pub fn loss_svg(&self) -> PathBuf {
        self.path.join("loss.svg")
    }

    /// The report, written at the end.
    pub fn report(&self) -> PathBuf {
        self.path.join("report.md")
    }

    /// Takes the folder for a new run: it must be empty or absent.
    ///
    /// # Errors
    /// Another process works in it, it holds a run already, or other files.
    pub fn create(&self) -> Result<RunLock> {
        if self.config().exists() {
            // A live run is the more useful thing to say.
            drop(RunLock::acquire(&self.path)?);
            return Err(TrainError::RunDir {
                path: self.path.clone(),
                problem: "already holds a run".to_owned(),
                help: format!(
                    "go on with it: `--resume --out {}`, or choose another folder with --out",
                    self.path.display()
                ),
            });
        }
        if self.path.exists() {
            let had_lock = self.path.join(RunLock::FILE_NAME).exists();
            let entries = std::fs::read_dir(&self.path)
                .map_err(TrainError::io("reading folder", &self.path))?;
            for entry in entries {
                let name = entry.map_err(TrainError::io("reading folder", &self.path))?.file_name();
                // A run killed before it had a configuration leaves its lock, and perhaps half of that file.
                let half = had_lock && name.to_string_lossy().starts_with(HALF_WRITTEN);
                if name != RunLock::FILE_NAME && !half {
                    return Err(TrainError::RunDir {
                        path: self.path.clone(),
                        problem: format!("is not empty (it holds `{}`)", name.to_string_lossy()),
                        help: "choose a new folder with --out".to_owned(),
                    });
                }
            }
        }
        std::fs::create_dir_all(&self.path).map_err(TrainError::io("making folder", &self.path))?;
        Ok(RunLock::acquire(&self.path)?)
    }

    /// Takes an existing run to go on with it.
    ///
    /// # Errors
    /// There is no run, or another process works on it.
    pub fn lock_to_resume(&self) -> Result<RunLock> {
        if !self.config().exists() {
            return Err(TrainError::RunDir {
                path: self.path.clone(),
                problem: "holds no run to resume (no config.toml)".to_owned(),
                help: "name the folder of a run with --out, or start one without --resume"
                    .to_owned(),
            });
        }
        Ok(RunLock::acquire(&self.path)?)
    }

    /// The tokenizer that was saved with the run.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Ok(Tokenizer::load(&self.path)?.beginning_with_bos())
    }
}

/// A run, opened to be read: configuration, newest model, tokenizer.
#[derive(Debug)]
pub struct OpenRun {
    /// The resolved configuration.
    pub config: RunConfig,
    /// The model of the newest checkpoint, without autodiff.
    pub model: Llama,
    /// The run's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Updates done.
    pub step: u64,
}

/// Opens the run in `dir` on `device`.
///
/// # Errors
/// No run, no checkpoint yet, a damaged checkpoint, a tokenizer that is not the one of the
/// checkpoint.
pub fn open_run(dir: &Path, device: &Device) -> Result<OpenRun> {
    let run = RunDir::new(dir);
    if !run.config().exists() {
        return Err(TrainError::RunDir {
            path: dir.to_path_buf(),
            problem: "is not a run folder (no config.toml)".to_owned(),
            help: "name the folder that `caravan train` printed, or use --model for a Hugging Face folder".to_owned(),
        });
    }
    let config = RunConfig::from_file(&run.config())?;
    let Some(checkpoint) = caravan_checkpoint::open_latest(&run.checkpoints())? else {
        return Err(TrainError::RunDir {
            path: dir.to_path_buf(),
            problem: "has no checkpoint yet".to_owned(),
            help: format!(
                "let it train to its first checkpoint: `caravan train --resume --out {}`",
                dir.display()
            ),
        });
    };
    let tokenizer = run.tokenizer()?;
    state::check_tokenizer(&checkpoint, &tokenizer)?;
    let kernels =
        if config.run.kernels == "reference" { Kernels::Reference } else { Kernels::Fused };
    let model_config: LlamaConfig = state::model_config(&checkpoint)?;
    let model = Llama::init(&model_config, config.run.seed, kernels, device)?;
    let model = load_parameters(model, &checkpoint, &|_| true)?;
    Ok(OpenRun { config, model, tokenizer: Arc::new(tokenizer), step: checkpoint.step() })
}
