//! What can go wrong in a run, with the way out of it.

use std::path::PathBuf;

use thiserror::Error;

/// An error of configuring or running a training job. The text ends with a `help:` line.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A key that no section of the configuration has.
    #[error("{origin}: unknown key `{key}`\nhelp: {help}")]
    UnknownKey {
        /// File and table, or the command line.
        origin: String,
        /// The key as written.
        key: String,
        /// The nearest known key, or where the keys are listed.
        help: String,
    },
    /// A known key with a value it cannot have.
    #[error("{origin}: `{key}` {problem}\nhelp: {help}")]
    BadValue {
        /// File or command line.
        origin: String,
        /// The key.
        key: String,
        /// Expected and found.
        problem: String,
        /// What to change.
        help: String,
    },
    /// A configuration file that is not TOML.
    #[error("configuration `{}`: {problem}\nhelp: correct the file; `key = value` lines under [sections], strings in quotes", path.display())]
    BadToml {
        /// The file.
        path: PathBuf,
        /// Line, column and what the parser expected.
        problem: String,
    },
    /// Two settings that exclude each other.
    #[error("{problem}\nhelp: {help}")]
    Plan {
        /// The settings with their values.
        problem: String,
        /// What to change.
        help: String,
    },
    /// The run folder cannot be used as asked.
    #[error("run folder `{}`: {problem}\nhelp: {help}", path.display())]
    RunDir {
        /// The folder.
        path: PathBuf,
        /// What is the matter.
        problem: String,
        /// What to do.
        help: String,
    },
    /// Reading or writing a file failed.
    #[error("{action} `{}`: {source}\nhelp: {}", path.display(), io_help(source))]
    Io {
        /// What was being done, e.g. `writing`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A loss or a gradient became NaN or infinite.
    #[error(
        "step {step}: {what} is not finite ({value}); the batch is sequences {first_sequence} to {last_sequence}, \
         {documents}\nhelp: {help}"
    )]
    NotFinite {
        /// The update that was being computed, from 1.
        step: u64,
        /// `the loss`, or the parameter whose gradient it is.
        what: String,
        /// The value found.
        value: f64,
        /// Global index of the batch's first sequence.
        first_sequence: u64,
        /// Global index of the batch's last sequence.
        last_sequence: u64,
        /// How to print the batch.
        documents: String,
        /// How to go on.
        help: String,
    },
    /// Another rank of the run cannot go on.
    #[error("rank {rank}: {message}")]
    OtherRank {
        /// Which.
        rank: usize,
        /// Its error, with the way out of it.
        message: String,
    },
    /// A rank that was started in another way than the first.
    #[error("rank {rank} was started with {found}, rank 0 with {expected}\nhelp: {help}")]
    MixedRanks {
        /// The first that differs.
        rank: usize,
        /// What it was started with.
        found: String,
        /// What rank 0 was started with instead.
        expected: String,
        /// What to do.
        help: &'static str,
    },
    /// Degrees of parallelism that do not fit.
    #[error(transparent)]
    Parallel(Box<caravan_parallel::ParallelError>),
    /// From the tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] caravan_tokenizer::TokenizerError),
    /// From the dataset.
    #[error(transparent)]
    Dataset(#[from] caravan_dataset::DatasetError),
    /// From the model.
    #[error(transparent)]
    Model(#[from] caravan_model::ModelError),
    /// From the optimizer's configuration.
    #[error(transparent)]
    Optim(#[from] caravan_optim::OptimError),
    /// From a checkpoint.
    #[error(transparent)]
    Checkpoint(Box<caravan_checkpoint::CheckpointError>),
    /// From an evaluation.
    #[error(transparent)]
    Eval(#[from] caravan_eval::EvalError),
    /// From sampling.
    #[error(transparent)]
    Generate(#[from] caravan_generate::GenerateError),
}

// Boxed: these two are by far the largest.
impl From<caravan_parallel::ParallelError> for TrainError {
    fn from(error: caravan_parallel::ParallelError) -> Self {
        Self::Parallel(Box::new(error))
    }
}

impl From<caravan_checkpoint::CheckpointError> for TrainError {
    fn from(error: caravan_checkpoint::CheckpointError) -> Self {
        Self::Checkpoint(Box::new(error))
    }
}

/// `Result` with [`TrainError`].
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

impl TrainError {
    /// An [`TrainError::Io`] for `action` on `path`; made to be used in `map_err`.
    pub fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Says which stage of a curriculum it is about.
    pub(crate) fn in_stage(self, name: &str) -> Self {
        let text = match &self {
            Self::Plan { .. } | Self::Parallel(_) => self.to_string(),
            _ => return self,
        };
        let (problem, help) = text.split_once("\nhelp: ").unwrap_or((&text, "change the stage"));
        Self::plan(format!("stage `{name}`: {problem}"), help)
    }

    pub(crate) fn plan(problem: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Plan { problem: problem.into(), help: help.into() }
    }
}

fn io_help(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull => {
            "the disk is full: free some space or choose another folder with --out; nothing half-written was kept"
        }
        std::io::ErrorKind::PermissionDenied => "choose a folder you may write to, e.g. with --out",
        std::io::ErrorKind::NotFound => "check the path for typing errors",
        _ => "check the path and the disk, then try again",
    }
}
